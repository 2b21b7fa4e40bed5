"""Settings, each declared once: its type, range, choices, default and help, for flags, files and Python alike.

``seeds: Annotated[int, Field(ge=1), Flag("trainings of each candidate", "N")] = 3`` in a dataclass under `checked` is
a number that pydantic checks, whoever gives it, and the option ``--seeds N`` of the command line (`nas.flags`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated
from pydantic_core import core_schema

from search_space.checks import shown

CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
T = TypeVar("T")


class ConfigError(ValueError):
    """An invalid setting; the message has its name, its value and the allowed values."""


def _not_empty(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


Text = Annotated[str, AfterValidator(_not_empty)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]  # those of NumPy
Budget = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
Images = Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)]
HeldOutImages = Annotated[int, Field(strict=True, ge=2, le=10_000_000)]  # a variance needs two
Views = Annotated[int, Field(strict=True, ge=1, le=1_000)]
BatchSize = Annotated[int, Field(strict=True, ge=1, le=65_536)]
Pixels = Annotated[int, Field(strict=True, ge=32, le=4_096, multiple_of=32)]
Steps = Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)]
Workers = Annotated[int, Field(strict=True, ge=1, le=10_000)]
Threads = Annotated[int, Field(strict=True, ge=1, le=1_024)]
MeasureSeconds = Annotated[float, Field(strict=True, gt=0, le=86_400)]
Hours = Annotated[float, Field(strict=True, gt=0, le=100_000)]


@dataclass(frozen=True)
class OneOf:
    """The words that a text may be."""

    words: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Let pydantic take these words alone."""
        return core_schema.literal_schema(list(self.words))


Device = Annotated[str, OneOf(("auto", "cpu", "cuda"))]
Files = dict[str, Annotated[Path, AfterValidator(Path.expanduser)]]


@dataclass(frozen=True, eq=False)
class Flag:
    """How a setting is given on a command line.

    Attributes:
        help: What the setting is.
        metavar: What stands for its value in the help.
        default: The default as the help shows it; None for that of the field.
        names: Its spellings; none for the field's name with - for _. One without dashes is an argument, no option.
        group: Heading in the help.
        more: Further arguments of `argparse.ArgumentParser.add_argument`.
    """

    help: str
    metavar: str | None = None
    default: str | None = None
    names: tuple[str, ...] = ()
    group: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


def checked(cls: type[T]) -> type[T]:
    """Let pydantic check and convert the fields of a frozen dataclass; ConfigError names the first that is wrong."""
    made: Any = validated(cls, frozen=True, config=CONFIG)
    validate = made.__init__

    @wraps(validate)
    def init(self: Any, *values: Any, **named: Any) -> None:
        try:
            validate(self, *values, **named)
        except ValidationError as error:
            raise explained(error, made) from None

    made.__init__ = init
    return made  # type: ignore[no-any-return]


@cache
def declared(settings: Any) -> dict[str, Any]:
    """Return the types of a class's fields, with their ranges and flags."""
    return get_type_hints(settings, include_extras=True)


def flag_of(hint: Any) -> Flag | None:
    """Return the flag in the declaration of a setting."""
    return next((part for part in get_args(hint) if isinstance(part, Flag)), None)


def spelled(settings: Any, name: str) -> str:
    """Return what messages call a field: its flag, or its name where it has none."""
    flag = flag_of(declared(settings).get(name))
    return name if flag is None else (flag.names or (f"--{name.replace('_', '-')}",))[0]


def explained(error: ValidationError, settings: Any) -> ConfigError:
    """Return the first error of pydantic as "NAME: VALUE: must be ..."."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return cause
    if cause and not first["loc"]:
        return ConfigError(str(cause))  # of several settings
    location = list(first["loc"])
    if location and isinstance(location[0], int):  # an argument without a name
        location[0] = fields(settings)[location[0]].name
    name, *inner = [part for part in location if isinstance(part, str)] or [""]
    if first["type"] == "unexpected_keyword_argument" and not inner:
        return ConfigError(f"{name}: {no_such_setting(name, declared(settings))}")
    return ConfigError(f"{' '.join([spelled(settings, name), *inner])}: {problem(error)}".removeprefix(": "))


def problem(error: ValidationError) -> str:
    """Return the first error of pydantic as "VALUE: must be ..."."""
    first = error.errors(include_url=False)[0]
    said = (
        first["msg"]
        .removeprefix("Value error, ")
        .replace("Input should be", "must be")
        .replace("String should", "must")
    )
    return said if first["type"] in ("missing", "missing_argument") else f"{shown(first['input'])}: {said}"


@cache
def adapter(hint: Any) -> TypeAdapter[Any]:
    """Return what checks and converts values of a declaration."""
    return TypeAdapter(hint)


def misfit(value: Any, hint: Any) -> str | None:
    """Return "VALUE: must be ..." where a value does not fit its declaration; None where it does."""
    try:
        adapter(hint).validate_python(value)
    except ValidationError as error:
        inner = [part for part in error.errors(include_url=False)[0]["loc"] if isinstance(part, str)]
        return ": ".join([*inner, problem(error)])
    return None


def check_values(values: Mapping[str, Any], hints: Mapping[str, Any], prefix: str = "--") -> None:
    """Raise ConfigError, "NAME: VALUE: must be ...", for a value that does not fit its declaration.

    Args:
        values: Values by the names of their settings; a name that `hints` lacks is not checked.
        hints: Declarations of the settings.
        prefix: What messages put before a name; with "--", the settings are flags, which have - for _.
    """
    for name, value in values.items():
        if name in hints and (wrong := misfit(value, hints[name])):
            raise ConfigError(f"{prefix}{name.replace('_', '-') if prefix == '--' else name}: {wrong}")


def no_such_setting(name: object, names: Iterable[str]) -> str:
    """Return what a message says about a setting that does not exist, with the name that it may be a slip of.

    Args:
        name: The name that no setting has.
        names: Names of the settings.
    """
    near = get_close_matches(str(name), known := list(names), n=1)
    return "no such setting; " + (f"did you mean {near[0]}?" if near else f"choose from: {', '.join(known)}")
