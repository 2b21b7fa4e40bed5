"""Write an export: a folder that appears complete or not at all, and replaces only earlier exports.

This module writes the files that all formats share; `to_timm`, `to_hf`, `to_onnx` and `to_torchscript` write the rest.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.export import ExportError
from nas.export.arguments import ExportSettings
from nas.export.card import CardData, model_card
from nas.files import parse_json
from nas.numbers import fixed
from nas.redaction import card_command
from search_space.windows import padding_line

if TYPE_CHECKING:
    from nas.export.source import FormatReport, OutputShapes

ABOUT = "export.json"  # in every export, with its format and files
FORMAT = "backbone-nas-export/1"


def write_bundle(data: CardData, settings: ExportSettings, out: Path) -> list[str]:
    """Write the folder `out`.

    Returns:
        Lines for the user.

    Raises:
        ExportError: weights or heads are damaged or missing, or the folder would not compute the model.
    """
    from nas.export.source import open_source, output_shapes, preprocessing  # torch takes seconds to import

    trial, weights, kind = data.trial, data.weights, settings.format
    trained_px = int(data.study.info.config["distill"]["img_size"])
    image_px = settings.img_size or trained_px
    source = open_source(trial, weights, settings.heads, image_px)
    write_format = import_module(f"nas.export.to_{kind}").write
    with complete_folder(out, partial(check_room, out, settings.run, settings.overwrite)) as folder:
        _write_json(folder / "spec.json", trial.spec)
        _write_json(folder / "preprocessor_config.json", preprocessing(image_px, normalized=kind != "hf"))
        report: FormatReport = write_format(source, folder, settings.arm)
        if padded := padding_line(source.model.spec, [image_px]):
            report = replace(report, lines=(*report.lines, padded))
        shapes = output_shapes(source)
        card = model_card(data, kind, report, shapes, list(source.adaptors), trained_px, out.name)
        (folder / "README.md").write_text(card)
        _write_json(folder / ABOUT, _about(data, report, kind, shapes, trained_px, [*files(folder), ABOUT]))
    scored = f"{weights.origin}, score {fixed(weights.result.score, 4)}"
    return [f"{out}: trial {trial.number}, {trial.arch_id}; weights: {scored}", *report.lines]


def _about(
    data: CardData, report: FormatReport, kind: str, shapes: OutputShapes, trained_px: int, names: Sequence[str]
) -> dict[str, Any]:
    """Return the card's content for programs."""
    weights, measured = data.weights, data.trial.measurement
    return {
        "format": FORMAT,
        "kind": kind,
        "files": list(names),
        "arch_id": data.trial.arch_id,
        "trial": data.trial.number,
        "study": data.study.info.name,
        "teachers": data.study.info.teachers,
        "weights": {"origin": weights.origin, "seed": weights.seed, "result": weights.result.to_dict()},
        "measurement": None if measured is None else measured.to_dict(),
        "trained_px": trained_px,
        "outputs": asdict(shapes),
        "params": data.trial.params,
        "macs": data.trial.macs,
        "checks": dict(report.about),
        "command": card_command(data.command),
        "versions": data.versions,
    }


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def check_room(out: Path, run_dir: Path, force: bool) -> None:
    """Raise ExportError unless `out` is free, empty or an earlier export; with `force`, it may have other content.

    Never replaced are the study's own folders and the current folder.
    """
    run, place = run_dir.resolve(), out.resolve()
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ExportError(f"--out: {str(out)!r} is not a folder; choose another name")
    if (here := Path.cwd()) == place or place in here.parents:
        raise ExportError(f"--out: {str(out)!r} is the current folder, or contains it; choose another name")
    foreign = out.is_dir() and any(out.iterdir()) and not _is_export(out)
    if run == place or place in run.parents or (foreign and run in place.parents):
        raise ExportError(f"--out: {str(out)!r} contains the study, or a part of it; choose another folder")
    if foreign and not force:
        raise ExportError(
            f"--out: {str(out)!r} is neither empty nor an export; choose another folder, or delete it with --overwrite"
        )
    if not foreign and not force and (added := _added(out)):
        raise ExportError(
            f"--out: {str(out)!r} has a file that no export wrote, {added[0]!r}; move it, or delete it with --overwrite"
        )


def check_not_shorter(out: Path, steps: int, force: bool) -> None:
    """Raise ExportError where weights of `steps` steps would replace an export that was trained longer."""
    earlier = _steps_of(out)
    if not force and earlier > steps:
        raise ExportError(
            f"--out: {str(out)!r} has weights of {earlier} steps, and these are of {steps}; choose another folder, or "
            "replace it with --overwrite"
        )


def check_writable(out: Path) -> None:
    """Raise ExportError where no folder can be created at `out`; a temporary one next to it is the test."""
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=parent):
            pass
    except OSError as error:
        raise ExportError(f"--out: cannot write into {str(parent)!r} ({error.strerror})") from None


@contextmanager
def complete_folder(out: Path, check: Callable[[], None]) -> Iterator[Path]:
    """Yield a new folder next to `out` that replaces `out` after the body, and is removed if the body raises.

    Args:
        out: the final folder.
        check: raises where `out` must not be replaced; called at the end, because `out` may have changed meanwhile.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        new = scratch / "new"
        new.mkdir()
        yield new
        check()
        if out.exists():
            _exchange(out, new, scratch / "old")
        else:
            new.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _exchange(out: Path, new: Path, old: Path) -> None:
    try:
        out.rename(old)
        new.rename(out)
    except BaseException:  # Ctrl-C too: `old` would be removed with the scratch folder
        if old.exists() and not out.exists():
            old.rename(out)
        raise


def files(folder: Path) -> list[str]:
    """Return the files in a folder and below it, without Python's compiled code."""
    paths = (path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    return sorted(str(path.relative_to(folder)) for path in paths if path.parent.name != "__pycache__")


def _added(export: Path) -> list[str]:
    """Return the files in an export that the export did not write."""
    if not _is_export(export):
        return []
    listed = parse_json((export / ABOUT).read_bytes()).get("files")
    written = {ABOUT, *(listed if isinstance(listed, list) else ())}
    return [name for name in files(export) if name not in written]


def _steps_of(export: Path) -> int:
    """Return the training steps of an export's weights; 0 where there is no such export."""
    try:
        return int(json.loads((export / ABOUT).read_text())["weights"]["result"]["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _is_export(folder: Path) -> bool:
    try:
        return bool(parse_json((folder / ABOUT).read_bytes())["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False
