"""Describe an architecture in one line for people."""

from __future__ import annotations

from search_space.stage import StageSpec
from search_space.timm_spec import NetworkSpec, TimmSpec


def outline(spec: NetworkSpec) -> str:
    """Return stem, stages, neck and summary in one line; of a network of timm, its name and neck.

    A stage has its block, depth, width, heads, windows, kernel and registers.

    Example: "conv stem 16 | c2f x1 16 | mbconv x2 48 | mr_window x2 128 (4 heads, window 2) | vit x1 256 (8 heads)".
    """
    if isinstance(spec, TimmSpec):
        return f"timm's {spec.name}" + (f" | neck {spec.neck_dim}" if spec.neck_dim else "")
    parts = [f"{spec.stem} stem" + (f" {spec.stem_width}" if spec.stem_width else ""), *map(_stage, spec.stages)]
    if spec.neck != "none":
        parts.append(f"neck {spec.neck} {spec.neck_dim}")
    if spec.summary:
        parts.append(f"summary {spec.summary}")
    return " | ".join(parts)


def _stage(stage: StageSpec) -> str:
    details = [f"{stage.heads} heads"] if stage.heads else []
    if stage.window:
        windows = stage.window if isinstance(stage.window, tuple) else (stage.window,)
        details.append(f"window {'/'.join(map(str, windows))}")
    if stage.kernel:
        details.append(f"kernel {stage.kernel}")
    if stage.global_every:
        details.append(f"every {ordinal(stage.global_every)} layer global")
    if stage.registers:
        details.append(f"{stage.registers} register" + "s" * (stage.registers > 1))
    suffix = f" ({', '.join(details)})" if details else ""
    return f"{stage.block} x{stage.depth} {stage.width}{suffix}"


def ordinal(number: int) -> str:
    """Return a number as an ordinal: 2nd, 3rd, 4th, 11th."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
