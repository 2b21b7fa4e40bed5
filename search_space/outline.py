"""An architecture in one line that a person can read."""

from __future__ import annotations

from search_space.arch import ArchSpec, StageSpec


def outline(spec: ArchSpec) -> str:
    """Stem, each stage's block, depth and width with what matters most of its inside, and neck.

    As "conv stem 16 | c2f x1 16 | mbconv x2 48 | mr_window x2 128 (4 heads, window 2) | attention x1 256 (8 heads)".
    """
    parts = [f"{spec.stem} stem" + (f" {spec.stem_width}" if spec.stem_width else ""), *map(_stage, spec.stages)]
    if spec.neck != "none":
        parts.append(f"neck {spec.neck} {spec.neck_dim}")
    return " | ".join(parts)


def _stage(stage: StageSpec) -> str:
    inside = [f"{stage.heads} heads"] if stage.heads else []
    if stage.window:
        windows = stage.window if isinstance(stage.window, tuple) else (stage.window,)
        inside.append(f"window {'/'.join(map(str, windows))}")
    told = f" ({', '.join(inside)})" if inside else ""
    return f"{stage.block} x{stage.depth} {stage.width}{told}"
