"""Each net of a plan measured beside the reference, and kept at once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from nas.bench import Arch, Bench, save_samples
from nas.command import one_line
from nas.measure import ArmError, Measured, Unmeasured
from nas.profiling.exclusive import alone
from nas.records import Rerank, TrialRecord
from nas.reranking.plan import Plan
from nas.reranking.selection import BASELINE

ORDER_SEED = 0
REASON_CHARACTERS = 300


class Measuring:
    """Works through a plan. samples_dir takes the raw samples; bench: opens one, again after each crash."""

    def __init__(self, plan: Plan, samples_dir: Path, bench: Callable[[int | None], Bench] | None = None) -> None:
        self._plan, self._samples_dir, self._open = plan, samples_dir, bench or Bench
        self._reference = next((t for t in plan.trials if t.origin == BASELINE + plan.reference), None)

    def left(self, rerank: Rerank) -> list[TrialRecord]:
        """What is still to be measured, in random order, so that drift favours no part of the front."""
        done = rerank.measurements.keys() | rerank.unmeasured.keys()
        left = [t for t in self._plan.trials if t.number not in done]
        random.Random(ORDER_SEED).shuffle(left)
        return left

    def run(self, rerank: Rerank) -> Iterator[Rerank]:
        """Yields the rerank with each net that was tried, the reference first.

        ValueError where the reference cannot be measured: then no other can.
        """
        if not self.left(rerank):
            return
        self._bench = self._open(self._plan.threads)
        try:
            if rerank.floor is None:
                rerank = self._floor(rerank)
                yield rerank
            for trial in self.left(rerank):
                rerank = self._net(rerank, trial)
                yield rerank
        finally:
            self._bench.close()

    def _floor(self, rerank: Rerank) -> Rerank:
        own, name = self._reference, self._plan.reference
        try:
            measured = self._measure(self._reference_arch)
        except ArmError:
            raise
        except Exception as error:
            raise ValueError(f"the reference {name} cannot be measured here: {_reason(error)}") from error
        self._keep_samples(measured, own.arch_id if own else name.replace("/", "-"))
        numbers = {own.number: measured.record} if own else {}
        return replace(rerank, floor=measured.record, measurements={**rerank.measurements, **numbers})

    def _net(self, rerank: Rerank, trial: TrialRecord) -> Rerank:
        try:
            measured = self._measure(trial.spec)
        except Exception as error:  # whatever it is, it is this net's: the reference has run
            if isinstance(error, Unmeasured) and error.verdict == "crash":
                self._bench.close()  # perhaps it was not the net's process that has ended
                self._bench = self._open(self._plan.threads)
            return replace(rerank, unmeasured={**rerank.unmeasured, trial.number: _reason(error)})
        self._keep_samples(measured, trial.arch_id)
        return replace(rerank, measurements={**rerank.measurements, trial.number: measured.record})

    @property
    def _reference_arch(self) -> Arch:
        """As the study trained it, where it did: a preset may have changed since."""
        return self._reference.spec if self._reference else self._plan.reference

    def _measure(self, arch: Arch) -> Measured:
        setting, reference = self._plan.setting, self._plan.reference
        with alone(setting.device):
            return self._bench.measure(arch, self._reference_arch, setting, name_of_reference=reference)

    def _keep_samples(self, measured: Measured, name: str) -> None:
        save_samples(measured, self._samples_dir / f"{name}.json")


def _reason(error: Exception) -> str:
    text, verdict = one_line(error), error.verdict if isinstance(error, Unmeasured) else ""
    return (text if text.startswith(verdict) else f"{verdict}: {text}")[:REASON_CHARACTERS]
