"""Named architectures: the E-RADIO family and the families of `search_space.families`.

Source of E-RADIO: "AM-RADIO: Agglomerative Vision Foundation Model", arXiv 2312.06709, section 5.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from search_space.arch import ArchSpec
from search_space.checks import SpecError, read_text
from search_space.families import FAMILIES
from search_space.stage import StageSpec

Spec = TypeVar("Spec")


def eradio(
    dim: int,
    *,
    depths: Sequence[int],
    window: int,
    in_dim: int = 64,
    heads: tuple[int, int] = (8, 16),
    subsampling: str = "conv",
    pre_conv: str = "none",
    cpb_hidden: int = 512,
    neck: str = "none",
    neck_dim: int | None = None,
) -> ArchSpec:
    """Return a member of the E-RADIO family: two C2f stages, one multi-resolution and one plain windowed stage.

    Args:
        dim: width of stage 1; each later stage has twice the width of the previous one.
        depths: of the four stages.
        window: of stages 3 and 4.
        in_dim: width inside the stem.
        heads: of stages 3 and 4.
        subsampling: of stage 3.
        pre_conv: of stages 3 and 4.
        cpb_hidden: of stages 3 and 4.
        neck: see `ArchSpec.neck`.
        neck_dim: see `ArchSpec.neck_dim`.
    """
    attention = {"expansion": 4.0, "pre_conv": pre_conv, "window": window, "cpb_hidden": cpb_hidden}
    return ArchSpec(
        stages=(
            StageSpec("c2f", depths[0], dim, expansion=0.5),
            StageSpec("c2f", depths[1], 2 * dim, expansion=0.5),
            StageSpec("mr_window", depths[2], 4 * dim, heads=heads[0], subsampling=subsampling, **attention),  # type: ignore[arg-type]
            StageSpec("window", depths[3], 8 * dim, heads=heads[1], **attention),  # type: ignore[arg-type]
        ),
        stem_width=in_dim,
        neck=neck,
        neck_dim=neck_dim,
    )


def _laptop(dim: int) -> ArchSpec:
    """Return E-RADIO's macro layout for 64 px inputs; E-RADIO's rule, gcd of H/32 and W/32, gives windows of 2."""
    return eradio(
        dim,
        depths=(1, 2, 2, 2),
        window=2,
        in_dim=16,
        heads=(4, 8),
        subsampling="pool",
        pre_conv="depthwise",
        cpb_hidden=64,
        neck="stage3",
        neck_dim=8 * dim,
    )


_BIG = (3, 3, 5, 5)
_SLIM = (1, 3, 4, 5)
_TINY_8X = {"in_dim": 32, "subsampling": "pool", "pre_conv": "depthwise", "cpb_hidden": 64, "neck_dim": 256}

PRESETS: dict[str, ArchSpec] = {
    "eradio_l_fullres": eradio(192, depths=_BIG, window=16, pre_conv="dense", neck="stage3", neck_dim=1536),
    "eradio_b": eradio(128, depths=_BIG, window=7),
    "eradio_l": eradio(192, depths=_BIG, window=7),
    "eradio_s": eradio(96, depths=_BIG, window=7, neck="stage3", neck_dim=256),
    "eradio_t": eradio(80, depths=_SLIM, window=7, neck="stage3", neck_dim=256),
    "eradio_xt": eradio(64, depths=_SLIM, window=7, neck="stage3", neck_dim=256),
    "eradio_xxxtiny": eradio(32, depths=_SLIM, window=16, in_dim=32, pre_conv="dense", neck="stage3", neck_dim=256),
    "eradio_xxxtiny_8x_ws12": eradio(32, depths=_SLIM, window=12, neck="stage3", **_TINY_8X),  # type: ignore[arg-type]
    "eradio_xxxtiny_8x_ws16": eradio(32, depths=_SLIM, window=16, neck="stage2", **_TINY_8X),  # type: ignore[arg-type]
    "eradio_nano": _laptop(32),
    "eradio_pico": _laptop(24),
    "eradio_femto": _laptop(16),
    **FAMILIES,
}
PRESETS["eradio"] = PRESETS["eradio_l"]


def preset(name: str) -> ArchSpec:
    """Return the architecture of a name. Raises SpecError with the choices."""
    if name not in PRESETS:
        raise SpecError(f"arch: no preset {name!r}; choose from {', '.join(sorted(PRESETS))}")
    return PRESETS[name]


def unknown_preset(name: str, kinds: str = "timm:NAME, a spec's .json file") -> SpecError:
    """Return the error of a name that is no preset's, with similar ones, or all where none is.

    Args:
        name: The name.
        kinds: What may be named in place of a preset.
    """
    near = ", ".join(difflib.get_close_matches(name, PRESETS, n=3) or PRESETS)
    return SpecError(f"arch: no preset {name!r}; choose {kinds}, or a preset: {near}")


def find_spec(arch: str) -> tuple[str, ArchSpec]:
    """Return name and spec of a preset or of a spec's .json file.

    A file's name is its stem, but an export's ``spec.json`` has the name of its folder.

    Raises:
        SpecError: There is no such preset, or the file has no valid spec; the message names the choices or the error.
    """
    return (arch, PRESETS[arch]) if arch in PRESETS else read_spec(arch, ArchSpec.from_json)


def read_spec(arch: str, parse: Callable[[str], Spec]) -> tuple[str, Spec]:
    """Return the name and the parsed content of a spec's .json file.

    Raises:
        SpecError: As `find_spec`.
    """
    path = Path(arch)
    if path.suffix != ".json":
        raise unknown_preset(arch)
    try:
        name = path.absolute().parent.name if path.name == "spec.json" else path.stem
        return name or path.stem, parse(read_text(path))
    except SpecError as error:
        raise SpecError(f"arch: {arch}: {str(error).removeprefix('arch: ')}") from None
    except (OSError, ValueError) as error:
        raise SpecError(f"arch: cannot read {arch!r} ({getattr(error, 'strerror', None) or error})") from None
