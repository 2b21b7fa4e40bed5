"""Name the folders in a run folder, and the files of an architecture in them.

The files at the top of a run folder have their names where they are written: `nas.storage.location`,
`nas.search.config_file` and `nas.study.training_files`.
"""

from __future__ import annotations

from pathlib import Path

CHECKPOINTS = "checkpoints"  # states of trainings that are not finished
LOGS = "logs"
PICTURES = "pictures"  # contact sheets
RACE = "race"
RETRAINING = "retraining"
SAMPLES = "samples"  # raw timings
WEIGHTS = "weights"


def weights_file(folder: Path, arch_id: str) -> Path:
    """Return the file of averaged weights (EMA) in the folder of a run or of a retraining's seed."""
    return weights_in(folder / WEIGHTS, arch_id)


def weights_in(folder: Path, arch_id: str) -> Path:
    """Return the file of averaged weights (EMA) in a folder of weights."""
    return folder / f"{arch_id}.safetensors"


def heads_file(weights: Path) -> Path:
    """Return the file of the teachers' adaptor heads next to the weights of the same training."""
    return weights.with_suffix(".heads.safetensors")


def checkpoint_path(folder: Path, arch_id: str) -> Path:
    """Return the file of an architecture's checkpoint in a folder of checkpoints."""
    return folder / f"{arch_id}.pt"


def sheet_path(folder: Path, arch_id: str) -> Path:
    """Return the file of an architecture's contact sheet in a folder of pictures."""
    return folder / f"{arch_id}.png"


def race_folder(run_dir: Path, steps: int, seed: int | str) -> Path:
    """Return the folder of the trainings of races of one length with one seed; "*" in place of it makes a pattern."""
    return run_dir / RACE / f"{steps}-steps" / f"seed-{seed}"


def retraining_folder(run_dir: Path, steps: int, seed: int | str) -> Path:
    """Return the folder of the retrainings of one length with one seed; "*" in place of the seed makes a pattern."""
    return run_dir / RETRAINING / f"{steps}-steps" / f"seed-{seed}"


def samples_folder(run_dir: Path, remeasurement: str | None = None) -> Path:
    """Return the folder of the search's raw samples, or of a remeasurement's by its name."""
    samples = run_dir / SAMPLES
    return samples if remeasurement is None else samples / f"remeasurement-{remeasurement}"


def restarted_samples_folder(run_dir: Path, remeasurement: str) -> Path:
    """Return the folder of a remeasurement that measures all again, until it is complete."""
    return run_dir / SAMPLES / f"restarted-{remeasurement}"
