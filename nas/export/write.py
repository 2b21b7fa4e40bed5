"""From kept weights to the whole folder: what all formats share, and the one that was asked for."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nas.exporting import hf_format, onnx_format, timm_format, torchscript_format
from nas.exporting.card import Told, card
from nas.exporting.folder import ABOUT, FORMAT, check_room, files, whole
from nas.exporting.public import public_command
from nas.exporting.subject import Subject, Written, preprocessing, subject

WRITERS: dict[str, Callable[[Subject, Path, bool], Written]] = {
    "timm": timm_format.write,
    "hf": hf_format.write,
    "onnx": onnx_format.write,
    "torchscript": torchscript_format.write,
}


def write(told: Told, given: Namespace, out: Path) -> list[str]:
    """Writes `out`; returns what a person should read.

    ExportError where weights or heads are not what they should be, or the folder would not compute the net.
    """
    trial, kept = told.trial, told.kept
    image_px = int(told.study.info.config["distill"]["image_px"])
    net = subject(trial, kept, given.heads, image_px)
    with whole(out, partial(check_room, out, Path(given.run), given.force)) as folder:
        _json(folder / "spec.json", trial.spec)
        _json(folder / "preprocessor_config.json", preprocessing(image_px, normalised=given.format != "hf"))
        written = WRITERS[given.format](net, folder, given.fuse)
        (folder / "README.md").write_text(card(told, given.format, written, list(net.adaptors), image_px, out))
        _json(folder / ABOUT, _about(told, written, given.format, [*files(folder), ABOUT]))
    first = f"{out}: trial {trial.number}, {trial.arch_id}, {kept.origin}, quality {kept.result.quality:.4f}"
    return [first, *written.lines]


def _about(told: Told, written: Written, kind: str, names: Sequence[str]) -> dict[str, Any]:
    """What the card says, for programs."""
    kept, measured = told.kept, told.trial.measurement
    return {
        "format": FORMAT,
        "kind": kind,
        "files": list(names),
        "arch_id": told.trial.arch_id,
        "trial": told.trial.number,
        "study": told.study.info.name,
        "teachers": told.study.info.teachers,
        "weights": {"origin": kept.origin, "seed": kept.seed, "result": kept.result.to_dict()},
        "before": None if told.search is None else told.search.result.to_dict(),
        "measurement": None if measured is None else measured.to_dict(),
        "params": told.trial.params,
        "macs": told.trial.macs,
        "found": dict(written.about),
        "command": public_command(told.command),
        "versions": told.versions,
    }


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
