"""What a built cache came to, in lines for people: size against fp16, fidelity, and when it has paid for itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas.cache.codecs import CODECS
from nas.cache.entry import Part
from nas.cache.estimate import size
from nas.cache.targets import read_set
from nas.config import DistillConfig


def summary(path: Path) -> str:
    """Of a set."""
    found = read_set(path)
    images = found.images.manifest
    count = sum(record["rows"] for record in images["shards"].values())
    manifests = [part.manifest for part in found.teachers.values()]
    lines = [line for manifest in manifests for line in teacher_lines(manifest)]
    stored, raw = (sum(column) for column in zip(*map(bytes_each, manifests), strict=True))
    lines.append(
        f"targets {size(stored * count)} for {count} images, {raw / stored:.1f} times less than fp16 features on the"
        f" same grid; images {size(file_bytes(found.images))}; {path}"
    )
    return "\n".join([*lines, break_even(sum(m["seconds"] for m in manifests), images["seconds"], count)])


def teacher_lines(manifest: dict[str, Any]) -> list[str]:
    """One line a head."""
    return [
        f"{manifest['teacher']} {head}: {about['channels']} -> {about['dims']} channels, {about['kept']:.3f} of the"
        f" variance; cosine of decompressed to live features {about['cosine']:.4f} on held-out images;"
        f" {about['clipped']:.2g} clipped"
        for head, about in manifest["heads"].items()
    ]


def bytes_each(manifest: dict[str, Any]) -> tuple[float, float]:
    """Bytes an image of a teacher: as stored, and of its raw features in fp16."""
    stored = raw = 0
    for head, about in manifest["heads"].items():
        cells = 1 if head == "summary" else manifest["grid"] ** 2
        stored += cells * about["dims"] * CODECS[manifest["storage"]].bits / 8
        raw += cells * about["channels"] * 2
    return stored, raw


def file_bytes(part: Part) -> int:
    """Of all files of a part."""
    return sum(entry["bytes"] for entry in part.manifest["files"].values())


def break_even(teachers_s: float, images_s: float, count: int) -> str:
    """When live teachers, at the measured seconds an image, would have cost as much as the cache did."""
    recipe = DistillConfig()
    batch_s = teachers_s / count * recipe.batch_size
    steps = (teachers_s + images_s) / batch_s
    trial = recipe.rung_steps[-1]
    return (
        f"paid for itself after {steps:.0f} steps of {recipe.batch_size} images ({steps / trial:.2g} trials of {trial}"
        f" steps): with live teachers ({1000 * teachers_s / count:.1f} ms an image) such a trial would wait"
        f" {batch_s * trial:.0f} s for them"
    )
