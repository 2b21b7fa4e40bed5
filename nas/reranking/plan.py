"""From what a person asked for and what a study holds to what is measured: setting, nets, and where it goes on."""

from __future__ import annotations

import re
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch

from nas.measure import Arm, Setting, environment, torch_device
from nas.measure.arms import FORMS, LAYOUTS, PRECISIONS, RUNTIMES
from nas.records import Measurement, Rerank, Study, TrialRecord
from nas.reranking.selection import chosen

# What of an environment changes the numbers: a run goes on only where all of it is the same.
KEPT = ("device_name", "cpu", "threads", "torch", "timm", "cuda", "cudnn", "driver")


@dataclass(frozen=True)
class Plan:
    """What is measured again, and how. `threads`: CPU threads of the measuring process, None on a card."""

    name: str
    setting: Setting
    threads: int | None
    reference: str
    trials: tuple[TrialRecord, ...]
    environment: dict[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        """What a `Rerank` keeps of the setting."""
        s = self.setting
        plain = {"batch": s.batch, "resolution": s.resolution, "arm": str(s.arm), "seconds": s.budget_s}
        return plain | {"threads": self.threads, "reference": self.reference}


def planned(study: Study, given: Namespace) -> Plan:
    """The plan; whatever was not given is as the study measured, on this device. ValueError where it cannot be."""
    trials = chosen(study, given.which)
    own = [t.measurement for t in trials if t.measurement]
    device = torch_device(given.device)
    threads = _threads(device, given.threads)
    setting = Setting(
        device=str(device),
        batch=given.batch or _mostly(m.requested_batch or m.batch for m in own),
        resolution=given.resolution or _mostly(m.resolution for m in own),
        arm=Arm.parse(given.arm, study_arm(own)) if given.arm else study_arm(own),
        budget_s=given.seconds,
    )
    where = environment(str(device))
    return Plan(given.name or _name(setting, where), setting, threads, study.info.reference, trials, where)


def study_arm(own: Sequence[Measurement]) -> Arm:
    """The arm of most measurements, from the words of their text; what it does not name is the default's."""
    words = re.split(r"[\s,+]+", _mostly(m.arm for m in own).replace("_", "-"))
    known = (*RUNTIMES, *PRECISIONS, *LAYOUTS, *FORMS)
    return Arm.parse("+".join(dict.fromkeys(word for word in words if word in known)))


def begun(reranks: Iterable[Rerank], plan: Plan, command: str, again: bool) -> Rerank:
    """What there is already under the plan's name, or a new one; with `again` without what the plan measures.

    ValueError where it was measured otherwise.
    """
    new = Rerank(plan.name, datetime.now(UTC).isoformat(timespec="seconds"), command, plan.environment, plan.identity)
    old = next((r for r in reranks if r.name == plan.name), None)
    if old is None:
        return new
    changed = _differences(old, plan)
    if changed and not again:
        way_out = "choose another --name, or measure all anew with --again"
        raise ValueError(f"rerank {plan.name!r} was measured otherwise ({'; '.join(changed)}); {way_out}")
    if not again:
        return old
    numbers = {t.number for t in plan.trials}
    kept = {} if changed else {n: m for n, m in old.measurements.items() if n not in numbers}
    reasons = {} if changed else {n: r for n, r in old.unmeasured.items() if n not in numbers}
    return replace(new, measurements=kept, unmeasured=reasons)


def _differences(old: Rerank, plan: Plan) -> list[str]:
    """As "batch: 16 -> 1"."""
    now = {k: plan.environment.get(k) for k in KEPT} | plan.identity
    then = {k: old.environment.get(k) for k in KEPT} | old.setting
    return [f"{k}: {then.get(k)} -> {now[k]}" for k in now if then.get(k) != now[k]]


def _threads(device: torch.device, given: int | None) -> int | None:
    """As searches do, all CPUs but one: OpenMP waits for its slowest thread, and the system needs a CPU."""
    if device.type != "cpu":
        return given
    threads = given or max(1, int(environment("cpu")["cpus"]) - 1)
    torch.set_num_threads(threads)  # for `environment`; the measuring process has its own
    return threads


def _name(setting: Setting, where: dict[str, Any]) -> str:
    """As cpu-b16-64px-eager+fp32+channels-last+fused."""
    device = "cpu" if setting.device == "cpu" else str(where["device_name"])
    kind = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return f"{kind}-b{setting.batch}-{setting.resolution}px-{setting.arm}"


def _mostly(values: Iterable[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]
