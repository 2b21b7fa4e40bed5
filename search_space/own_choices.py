"""Change the choices of a space: fewer, or others, as plain data that a settings file or a command line gives.

    {"stages": {"blocks": ["mbconv", "convnext"]}, "stage1": {"widths": [16, 32]}, "layouts": {"necks": ["none"]}}

A part is "stageN" or "layoutN" of the space, or "stages" or "layouts" for all of them; what names one part overrides
what names all. Fields are those of `StageChoices` and `Layout`. "none" stands for None where a field has None.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from search_space.checks import SpecError, shown, within_choices
from search_space.genes import Layout, StageChoices
from search_space.space import Space
from search_space.stage import BLOCK_FIELDS
from search_space.windows import eradio_window, fitting_window, is_cut_into_windows

_WORDS = {int: "whole numbers", float: "numbers", str: "words", NoneType: "none"}
MR = "mr_window"  # which has windows of its own
Part = TypeVar("Part", StageChoices, Layout)
Changes = Mapping[str, Mapping[str, Any]]


def with_choices(space: Space, changes: Changes, image_px: int) -> Space:
    """Return a space with other choices, under the name of `space`.

    Windows are taken as they are. A stage that had no blocks with windows and gets them without windows gets that of
    E-RADIO's rule: where it is small, as of 1 token at 544 px, that for the size of the space.

    Args:
        space: The space, for images of this size.
        changes: The choices that differ.
        image_px: Side of the square images, a multiple of 32.

    Raises:
        SpecError: There is no such part or field, or not every combination of the choices is an architecture.
    """
    return _with_choices(space, json.dumps(changes, sort_keys=True), image_px) if changes else space


def plain_choices(changes: Changes) -> dict[str, dict[str, Any]]:
    """Return changes as a settings file can hold them: lists, and "none" for None."""

    def plain(value: Any) -> Any:
        return (
            [plain(each) for each in value] if isinstance(value, list | tuple) else "none" if value is None else value
        )

    return {part: {field: plain(values) for field, values in fields.items()} for part, fields in changes.items()}


def choice_words(changes: Changes) -> list[str]:
    """Return changes as the command line takes them, as ["stages.blocks=mbconv,convnext"]."""
    plain = plain_choices(changes)
    listed = ((f"{part}.{field}", values) for part, fields in plain.items() for field, values in fields.items())
    return [f"{name}={','.join(map(str, v)) if isinstance(v, list) else v}" for name, v in listed]


@lru_cache(maxsize=16)
def _with_choices(space: Space, text: str, image_px: int) -> Space:
    changes: Changes = json.loads(text)
    for name in changes:
        within_choices("choices", name, [*_names("stage", len(space.stages)), *_names("layout", len(space.layouts))])
    base = eradio_window(space.image_px, space.image_px)
    window = fitting_window(base, image_px, image_px) or base
    stages = tuple(
        _with_windows(part, _changed(part, "stage", n, changes), window) for n, part in enumerate(space.stages, start=1)
    )
    layouts = tuple(_changed(part, "layout", n, changes) for n, part in enumerate(space.layouts, start=1))
    try:
        changed = replace(space, stages=stages, layouts=layouts)
        changed.check_choices()
    except (SpecError, LookupError, ArithmeticError) as error:
        raise SpecError(f"choices: {error}") from None
    return changed


def _names(kind: str, count: int) -> list[str]:
    return [f"{kind}s", *(f"{kind}{number}" for number in range(1, count + 1))]


def _changed(part: Part, kind: str, number: int, changes: Changes) -> Part:
    """Return a stage or layout with its changes."""
    fields: dict[str, Any] = {}
    hints = get_type_hints(type(part))
    for name in (f"{kind}s", f"{kind}{number}"):
        for field, values in changes.get(name, {}).items():
            within_choices(f"choices: {name}", field, hints)
            fields[field] = _values(f"choices: {name}.{field}", values, hints[field])
    for block in fields.get("blocks", ()):
        within_choices(f"choices: {kind}{number}.blocks", block, BLOCK_FIELDS)
    return replace(part, **fields)


def _with_windows(before: StageChoices, stage: StageChoices, window: int) -> StageChoices:
    """Return a changed stage with a window for blocks that its windows, which no block has read, were not made for."""
    old, new = ({block for block in each.blocks if is_cut_into_windows(block)} for each in (before, stage))
    fields: dict[str, Any] = {}
    for name, kinds in (("windows", (old - {MR}, new - {MR})), ("mr_windows", (old & {MR}, new & {MR}))):
        if kinds[1] and not kinds[0] and getattr(stage, name) == getattr(before, name):
            fields[name] = (window,)
    return replace(stage, **fields)


def _values(label: str, values: Any, hint: Any) -> Any:
    """Return the values of a field in its type; a field of a single value takes that, or a list of one."""
    several = get_origin(hint) is tuple
    item = get_args(hint)[0] if several else hint
    types = get_args(item) if get_origin(item) in (Union, UnionType) else (item,)
    listed = values if isinstance(values, list | tuple) else [values]
    found = [None if value == "none" and NoneType in types else value for value in listed]
    found = [float(value) if float in types and type(value) is int else value for value in found]
    if not found or not all(type(value) in types for value in found) or not (several or len(found) == 1):
        wanted = " or ".join(_WORDS[each] for each in types)
        raise SpecError(f"{label}: {shown(values)}; need {f'a list of {wanted}' if several else 'one whole number'}")
    return tuple(found) if several else found[0]
