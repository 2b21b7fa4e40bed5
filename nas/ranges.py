"""The values that settings may have: declared with a field's type, and checked by one rule for everybody.

``workers: Workers | None = None`` declares a number from 1 to 10,000. `check_fields` in a class's ``__post_init__``
holds its fields to their declarations, whoever made the value: a command line, a config file, `nas.api` or a stored
study. A range ends where a value can only be a slip or would be refused by the machine; it advises nothing.
"""

from __future__ import annotations

import types
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from nas.settings import ConfigError
from search_space.checks import shown

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`.

    Attributes:
        low: Smallest number.
        high: Largest number.
        above: Whether `low` itself is excluded.
        below: Whether `high` itself is excluded.
        multiple: What the numbers are multiples of; 0 for any numbers.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False
    multiple: int = 0

    def __contains__(self, number: float) -> bool:
        """Return whether the range has the number; it never has NaN."""
        from_low = self.low < number if self.above else self.low <= number
        to_high = number < self.high if self.below else number <= self.high
        return from_low and to_high and not (self.multiple and number % self.multiple)

    def __str__(self) -> str:
        low, high = (f"{end:,.15g}" for end in (self.low, self.high))
        start, end = (
            f"over {low}" if self.above else f"from {low}",
            f"below {high}" if self.below else f"at most {high}",
        )
        return f"{start} to {high}" if not (self.above or self.below) else f"{start}, {end}"


@dataclass(frozen=True)
class OneOf:
    """The words that a text may be."""

    words: tuple[str, ...]

    def __contains__(self, text: str) -> bool:
        """Return whether the text is one of the words."""
        return text in self.words

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"


@dataclass(frozen=True)
class NotEmpty:
    """All texts but the empty one."""

    def __contains__(self, text: str) -> bool:
        """Return whether the text has a character."""
        return bool(text.strip())

    def __str__(self) -> str:
        return "text that is not empty"


Text = Annotated[str, NotEmpty()]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # those of NumPy
Budget = Annotated[int, Range(1, 1_000_000)]
Images = Annotated[int, Range(1, 1_000_000_000)]
HeldOutImages = Annotated[int, Range(2, 10_000_000)]  # a variance needs two
Views = Annotated[int, Range(1, 1_000)]
BatchSize = Annotated[int, Range(1, 65_536)]
Pixels = Annotated[int, Range(32, 4_096, multiple=32)]
Steps = Annotated[int, Range(1, 1_000_000_000)]
Workers = Annotated[int, Range(1, 10_000)]
Threads = Annotated[int, Range(1, 1_024)]
MeasureSeconds = Annotated[float, Range(0, 86_400, above=True)]
Hours = Annotated[float, Range(0, 100_000, above=True)]


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of a type, and in the range that is declared with it.

    True and False are no numbers; a list is as good as a tuple, and a table as good as a record, as in JSON and TOML.
    A type that settings of files do not have, as Path, fits everything.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return fits(value, parts[0]) and all(value in allowed for allowed in parts[1:])
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, Mapping) and all(fits(item, parts[1]) for item in value.values())
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    if hint in (str, bool, types.NoneType):
        return isinstance(value, hint)
    return isinstance(value, Mapping | hint) if is_dataclass(hint) else True


def described(hint: Any) -> str:
    """Return what a value of a type has to be, as "a whole number from 1 to 64"."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        allowed = parts[1]
        if not isinstance(allowed, Range):
            return str(allowed)
        return f"{f'a multiple of {allowed.multiple}' if allowed.multiple else _WORDS[parts[0]]} {allowed}"
    if origin in (Union, types.UnionType):
        return " or ".join(described(part) for part in parts if part is not types.NoneType)
    if origin is tuple:
        return f"a list, each item {described(parts[0])}"
    if origin is dict:
        return "a table" if parts[1] is Any else f"a table, each value {described(parts[1])}"
    return _WORDS.get(hint, "a table")


def misfit(value: Any, hint: Any) -> str | None:
    """Return "VALUE: must be ..." where a value does not fit its type; None where it does.

    Of a list that has an item of a wrong value, the value is the first such item.
    """
    if fits(value, hint):
        return None
    items = _items(hint)
    if items is not None and isinstance(value, list | tuple):
        return next(problem for item in value if (problem := misfit(item, items)))
    return f"{shown(value)}: must be {described(hint)}"


def _items(hint: Any) -> Any | None:
    """Return the type of the items where a type is that of lists, or of lists and None."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return next((items for part in parts if (items := _items(part)) is not None), None)
    return parts[0] if origin is tuple else None


def check_values(values: Mapping[str, Any], hints: Mapping[str, Any], /, prefix: str = "--", **names: str) -> None:
    """Hold values to their declarations.

    Args:
        values: Values by the names of their settings; a name that `hints` lacks is not checked.
        hints: Types of the settings.
        prefix: What messages put before a name; with "--", the settings are flags, which have - for _.
        names: What messages call the settings of another name.

    Raises:
        ConfigError: A value does not fit; the message is "NAME: VALUE: must be ...".
    """
    for name, value in values.items():
        if name in hints and (problem := misfit(value, hints[name])):
            shown_name = prefix + (name.replace("_", "-") if prefix == "--" else name)
            raise ConfigError(f"{names.get(name, shown_name)}: {problem}")


def no_such_setting(name: object, names: Iterable[str]) -> str:
    """Return what a message says about a setting that does not exist, with the name that it may be a slip of.

    Args:
        name: The name that no setting has.
        names: Names of the settings.
    """
    near = get_close_matches(str(name), known := list(names), n=1)
    return "no such setting; " + (f"did you mean {near[0]}?" if near else f"choose from: {', '.join(known)}")


def check_fields(settings: Any, /, prefix: str = "--", **names: str) -> None:
    """Hold the fields of a dataclass to their declarations, see `check_values`."""
    check_values(vars(settings), declared(settings.__class__), prefix, **names)


@cache
def declared(settings: Hashable) -> dict[str, Any]:
    """Return the types of a class's fields, with their ranges."""
    return get_type_hints(settings, include_extras=True)
