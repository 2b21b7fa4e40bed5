"""Resolve the value of ``--arch`` to a model."""

from __future__ import annotations

from pathlib import Path

from backbones.backbone import Backbone
from backbones.build import build
from backbones.timm_models import TimmBackbone
from search_space import PRESETS, ArchSpec, SpecError


def resolve(arch: str) -> tuple[str, Backbone | TimmBackbone]:
    """Return name and model, newly initialized, of a preset, of ``timm:NAME`` or of a spec's .json file.

    Raises:
        SpecError: names the choices, or the error in the file.
    """
    if arch.startswith("timm:"):
        return arch, TimmBackbone(arch.removeprefix("timm:"))
    if arch in PRESETS:
        return arch, build(PRESETS[arch])
    path = Path(arch)
    if path.suffix != ".json":
        raise SpecError(
            f"arch: no preset {arch!r}; choose from {', '.join(PRESETS)}, timm:NAME, or a spec's .json file"
        )
    try:
        return path.stem, build(ArchSpec.from_json(path.read_text()))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"arch: cannot read {arch!r} ({getattr(error, 'strerror', None) or 'not text'})") from None
    except (RecursionError, OverflowError) as error:
        raise SpecError(f"arch: cannot read {arch!r} ({error})") from None
    except SpecError as error:
        raise SpecError(f"arch: {arch}: {error}") from None
