"""Write a trained model of a study as a folder for other users."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib import metadata
from pathlib import Path

from nas.analysis.evidence import gather_evidence
from nas.analysis.recommendation import find_trial, place_words
from nas.analysis.run_files import latencies_s, trained_weights
from nas.cli import command_line
from nas.export import ExportError
from nas.export.arguments import ALL_HEADS, FOLDER, LIBRARIES, ExportSettings, check_installed
from nas.export.bundle import check_not_shorter, check_room, check_writable, write_bundle
from nas.export.card import CardData
from nas.run_folder import samples_folder
from nas.storage.store import Store
from nas.study.records import Retraining, StudyRecord, TrialRecord, TrialState
from nas.terminal import write_line
from search_space import network_spec

MAX_NAMED_TRIALS = 8


def export(settings: ExportSettings, command: str) -> int:
    """Write and check the folder, and print what was done; the model card shows `command`."""
    for line in export_model(settings, command):
        write_line(line)
    return 0


def export_model(settings: ExportSettings, command: str) -> list[str]:
    """Write the folder and check it.

    Args:
        settings: Settings of the export.
        command: Command or call that the model card shows.

    Returns:
        Lines for the user: what was written and checked.

    Raises:
        StoreError: The study cannot be read.
        SelectionError: There is no such trial.
        ExportError: The model cannot be exported, or a library that the format needs is not installed.
    """
    check_installed(settings.format)
    with Store.open(settings.run, read_only=True) as store:
        study, retrainings, remeasurements = store.read_all()
    evidence = gather_evidence(study, retrainings, remeasurements)
    trial = find_trial(evidence, settings.trial)
    if network_spec(trial.spec).arch_id != trial.arch_id:  # it becomes part of paths, so it must be genuine
        raise ExportError(f"trial {trial.number}: its arch_id is not its architecture's; the study was altered")
    out = _free_folder(settings, trial)
    _check_heads(settings.heads, study.info.teachers)
    weights = trained_weights(settings.run, study, trial, retrainings)
    if weights is None:
        raise ExportError(
            f"{_why_no_weights(trial, study.info.rung_steps)} and has no weights: train it with "
            f"{command_line('train', [str(settings.run), '--trial', str(trial.number)])} --train-steps N, or choose "
            f"another --trial: {_with_weights(settings.run, study, retrainings)}"
        )
    check_not_shorter(out, weights.result.steps, settings.overwrite)
    from nas.measure.environment import versions  # imports torch, which takes seconds: not for a refusal

    data = CardData(
        evidence=evidence,
        trial=trial,
        weights=weights,
        latencies_s=latencies_s(samples_folder(settings.run, evidence.remeasured.get(trial.number)), trial.arch_id),
        command=command,
        versions=versions() | _library_versions(settings.format),
    )
    place = place_words(evidence, trial.number)
    return [*write_bundle(data, settings, out), *([place] if place else [])]


def _library_versions(kind: str) -> dict[str, str]:
    """Return the versions of the libraries that a format is written and checked with, by distribution."""
    providers = metadata.packages_distributions()  # of onnxruntime, onnxruntime-gpu may be
    names = [name for library in LIBRARIES.get(kind, ()) for name in dict.fromkeys(providers.get(library, ()))]
    return {name: metadata.version(name) for name in names}


def _free_folder(settings: ExportSettings, trial: TrialRecord) -> Path:
    """Return the folder to write; ExportError where it cannot be written or must not be replaced."""
    out = settings.out or settings.run / FOLDER / f"{trial.arch_id}-{settings.format}"
    if out.name in ("", ".."):  # a path without the name that the scratch folder's name derives from
        out = out.resolve()
    check_room(out, settings.run, settings.overwrite)
    check_writable(out)
    return out


def _check_heads(names: Sequence[str], teachers: Collection[str]) -> None:
    """Raise ExportError for unknown teachers, before a training of hours rather than after it."""
    if unknown := [name for name in names if name not in (*teachers, ALL_HEADS)]:
        choices = ", ".join((*teachers, ALL_HEADS))
        raise ExportError(f"--heads: the study has no teacher {unknown[0]!r}; choose from {choices}")


def _why_no_weights(trial: TrialRecord, steps: Sequence[int]) -> str:
    name = f"trial {trial.number} ({trial.baseline or trial.arch_id})"
    if trial.state is TrialState.STOPPED and trial.rungs:
        return f"{name} was early-stopped after {trial.rungs[-1].steps} of {steps[-1]} steps"
    if trial.state is TrialState.COMPLETE:
        return f"{name} is complete, but its weight file is missing"
    return f"{name} is {trial.state.word}" + (f" ({trial.reason})" if trial.reason else "")


def _with_weights(run_dir: Path, study: StudyRecord, retrainings: Sequence[Retraining]) -> str:
    trained = [str(t.number) for t in study.trials if trained_weights(run_dir, study, t, retrainings)]
    return ", ".join([*trained[:MAX_NAMED_TRIALS], *["..."] * (len(trained) > MAX_NAMED_TRIALS)]) or "none has weights"
