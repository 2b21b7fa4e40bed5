"""The windows of attention that tile the maps of an image size: E-RADIO's rule, for specs and for spaces."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from search_space.arch import SIZE_MULTIPLE_PX, ArchSpec
from search_space.stage import BLOCK_FIELDS, StageSpec
from search_space.timm_spec import NetworkSpec

MAX_WINDOW = 16

Fit = Callable[[int, int], int]  # (window, px of the map's side for one of its tokens) -> the window that fits


def eradio_window(height_px: int, width_px: int) -> int:
    """Return the window for images whose sides are multiples of 32: E-RADIO's rule.

    It is the largest common divisor of H / 32 and W / 32 up to 16, so that windows tile every map.
    """
    common = math.gcd(height_px, width_px) // SIZE_MULTIPLE_PX
    return max(d for d in range(1, MAX_WINDOW + 1) if common % d == 0)


def fitting_window(base: int, height_px: int, width_px: int) -> int | None:
    """Return the window of E-RADIO's rule for a size of image; None where it is small, so that others are better kept.

    Args:
        base: Window of the rule at another size, which says what is small: its half, as far as the images have room.
        height_px: Height of the images, a multiple of 32.
        width_px: Width of the images, a multiple of 32.
    """
    fitting = eradio_window(height_px, width_px)
    return None if 2 * fitting <= min(base, min(height_px, width_px) // SIZE_MULTIPLE_PX) else fitting


def fitted(window: int, step_px: int, base: int, height_px: int, width_px: int) -> int:
    """Return the window of a stage at another size of image.

    A window that tiles the stage's map stays, and so does one for whose map E-RADIO's rule has only small windows.

    Args:
        window: Side in tokens, a multiple of `base`.
        step_px: Side of a token in pixels, on the coarsest map that is cut into windows.
        base: Window of E-RADIO's rule at the size for which `window` was chosen.
        height_px: Height of the images, a multiple of 32.
        width_px: Width of the images, a multiple of 32.
    """
    fitting = fitting_window(base, height_px, width_px)
    tiles = not any(side_px % (window * step_px) for side_px in (height_px, width_px))
    return window if fitting is None or tiles else window // base * fitting


def fit_windows(spec: ArchSpec, px: int) -> ArchSpec:
    """Return a spec whose windows tile the maps of square images, see `fitted`; vit fits its own windows to any map.

    Args:
        spec: The architecture. Its smallest window is taken as that of E-RADIO's rule at the size that it is for.
        px: Side of the images, a multiple of 32.
    """
    windows = [w for stage in spec.stages if is_cut_into_windows(stage.block) for w in stage.windows]
    if not windows:
        return spec
    fit = partial(fitted, base=min(windows), height_px=px, width_px=px)
    pairs = zip(spec.strides, spec.stages, strict=True)
    return replace(spec, stages=tuple(_fit_stage(stage, stride, fit) for stride, stage in pairs))


def refit_windows(spec: ArchSpec, height_px: int, width_px: int) -> ArchSpec:
    """Return a spec with windows for images of another size than those that its network was trained on.

    They are those of E-RADIO's rule, or as many times that as they were of the spec's smallest window. All windows stay
    if they tile their maps and the rule's window is not larger than the smallest, as at the size of the training, and
    where the rule has only small ones.

    Args:
        spec: The architecture as it was trained.
        height_px: Height of the images, a multiple of 32.
        width_px: Width of the images, a multiple of 32.
    """
    stages = zip(spec.strides, spec.stages, strict=True)
    sides_px = [
        (window, window * stride * max(stage.attention_ratios))
        for stride, stage in stages
        if is_cut_into_windows(stage.block)
        for window in stage.windows
    ]
    base = min((window for window, _ in sides_px), default=1)
    rule = fitting_window(base, height_px, width_px)
    tile = not any(image_px % side_px for _, side_px in sides_px for image_px in (height_px, width_px))
    if not sides_px or rule is None or (tile and rule <= base):
        return spec

    def refit(window: int, _: int) -> int:
        return window // base * rule

    return replace(spec, stages=tuple(_fit_stage(stage, 1, refit) for stage in spec.stages))


def padded_maps(spec: ArchSpec, image_px: int) -> dict[str, float]:
    """Return the maps of square images that a spec's windows do not tile, and the quotient of tokens with and without.

    Args:
        spec: The architecture.
        image_px: Side of the images, a multiple of 32.

    Returns:
        By the stage, its map and the map that its attention runs on.
    """
    padded: dict[str, float] = {}
    for number, (stride, stage) in enumerate(zip(spec.strides, spec.stages, strict=True), start=1):
        if not is_cut_into_windows(stage.block):
            continue
        for ratio, window in zip(stage.attention_ratios, stage.windows, strict=True):
            side = -(-image_px // (stride * ratio))
            whole = -(-side // window) * window
            if whole > side:
                what = f"stage {number} at {image_px} px ({side} x {side} to {whole} x {whole} for windows of {window})"
                padded[what] = (whole / side) ** 2
    return padded


def padding_line(spec: NetworkSpec, sizes_px: Iterable[int]) -> str:
    """Return a line about stages whose maps their windows do not tile; "" where there are none.

    Args:
        spec: The architecture; the windows of networks of timm are not known.
        sizes_px: Sides of the images, multiples of 32.
    """
    if not isinstance(spec, ArchSpec):
        return ""
    padded = {what: times for px in sizes_px for what, times in padded_maps(spec, px).items()}
    if not padded:
        return ""
    return (
        f"windows do not tile these maps, which are padded: {', '.join(padded)}; attention there runs on up to "
        f"{max(padded.values()):.2g} times the tokens"
    )


def is_cut_into_windows(block: str) -> bool:
    """Tell whether a block cuts its map into windows of a fixed side; those of vit follow the map."""
    return "window" in BLOCK_FIELDS[block] and "global_every" not in BLOCK_FIELDS[block]


def _fit_stage(stage: StageSpec, stride: int, fit: Fit) -> StageSpec:
    if not is_cut_into_windows(stage.block):
        return stage
    new = tuple(fit(window, stride * max(stage.attention_ratios)) for window in stage.windows)
    return replace(stage, window=new if isinstance(stage.window, tuple) else new[0])
