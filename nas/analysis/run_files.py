"""Which weights a study has of a net, and what they were worth when they were written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.records import Finalist, RungResult, Study, TrialRecord, TrialState


@dataclass(frozen=True)
class Kept:
    """One training's averaged weights (EMA) on disk. `origin` says which training, in words."""

    weights: Path
    result: RungResult  # of the same training, at its end
    seed: int
    origin: str

    @property
    def heads(self) -> Path:
        """The teachers' adaptor heads of the same training."""
        return self.weights.with_suffix(".heads.safetensors")


def kept_weights(run_dir: Path, study: Study, trial: TrialRecord, finals: Sequence[Finalist]) -> Kept | None:
    """The longest trained that are there; of equal length the best. None where there are none.

    A later training with the same seed and other steps has taken the earlier one's file: the last one counts.
    """
    found = []
    own = run_dir / "weights" / f"{trial.arch_id}.safetensors"
    if trial.state is TrialState.COMPLETE and trial.rungs and own.is_file():
        seed = int(study.info.config.get("seed", 0))
        found.append(Kept(own, trial.rungs[-1], seed, "the search's last rung"))
    last = {f.seed: f for f in sorted(finals, key=lambda f: f.created) if f.number == trial.number}
    for seed, final in last.items():
        file = run_dir / "finals" / f"seed-{seed}" / "weights" / f"{trial.arch_id}.safetensors"
        if final.quality is not None and file.is_file():
            found.append(Kept(file, final.rungs[-1], seed, f"nas.finals, seed {seed}"))
    return max(found, key=lambda k: (k.result.steps, k.result.quality), default=None)
