"""Describe an architecture in one line for people."""

from __future__ import annotations

from search_space.arch import ArchSpec, StageSpec


def outline(spec: ArchSpec) -> str:
    """Return stem, stages and neck in one line; a stage has its block, depth, width, heads, windows and kernel.

    Example: "conv stem 16 | c2f x1 16 | mbconv x2 48 | mr_window x2 128 (4 heads, window 2) | vit x1 256 (8 heads)".
    """
    parts = [f"{spec.stem} stem" + (f" {spec.stem_width}" if spec.stem_width else ""), *map(_stage, spec.stages)]
    if spec.neck != "none":
        parts.append(f"neck {spec.neck} {spec.neck_dim}")
    return " | ".join(parts)


def _stage(stage: StageSpec) -> str:
    details = [f"{stage.heads} heads"] if stage.heads else []
    if stage.window:
        windows = stage.window if isinstance(stage.window, tuple) else (stage.window,)
        details.append(f"window {'/'.join(map(str, windows))}")
    if stage.kernel:
        details.append(f"kernel {stage.kernel}")
    suffix = f" ({', '.join(details)})" if details else ""
    return f"{stage.block} x{stage.depth} {stage.width}{suffix}"
