"""What of several studies is one scale: qualities, speeds, and whether a net of one can be said to beat another's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.analysis.remeasuring import MEASURED_WITH
from nas.records import Study, StudyInfo

LETTERS = "ABCDEF"
_FINGERPRINT = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{20,}\b")
_SHORT = r"\1…"

Asked = tuple[str, Callable[[StudyInfo], str]]  # what is said where they differ, and of what; "" is unknown


def _version(name: str) -> Asked:
    return f"Speeds were measured with different {name}", lambda i: str(i.environment.get(name) or "")


MEASURED_BY: tuple[Asked, ...] = (
    ("Speeds were measured on different machines", lambda i: _machine(i.environment)),
    *(_version(name) for name in MEASURED_WITH),
)


@dataclass(frozen=True)
class Agreement:
    """Why numbers don't compare, in sentences; nothing where they do."""

    quality: tuple[str, ...]
    speed: tuple[str, ...]
    measured: tuple[str, ...]  # relative to the same reference, but not on the same device in the same way
    cautions: tuple[str, ...]  # numbers compare, but differ in more than what was searched

    @property
    def one_plane(self) -> bool:
        """Whether all nets can stand in one picture, and hypervolumes beside each other."""
        return not self.quality and not self.speed

    @property
    def dominance(self) -> bool:
        """Whether a net of one study can be called better than one of another."""
        return self.one_plane and not self.measured


def agreement(studies: Sequence[Study]) -> Agreement:
    """Of two or more studies."""
    infos = [study.info for study in studies]
    quality = (
        ("Quality is not the same quantity", lambda i: f"{i.objectives[0].label}{' (log)' * i.objectives[0].log}"),
        ("The teachers differ", lambda i: _prints(i.teachers)),
        ("The images differ", lambda i: f"{i.data.get('name')} {i.data.get('fingerprint')}"),
        ("Nets are trained to different lengths", lambda i: f"{i.rung_steps[-1]} steps" if i.rung_steps else "none"),
    )
    speed = (
        ("Speed is relative to different reference nets", lambda i: i.reference),
        ("Speed is not the same quantity", lambda i: f"{i.objectives[1].name}{' (log)' * i.objectives[1].log}"),
    )
    cautions: tuple[Asked, ...] = (
        ("The spaces searched differ", lambda i: str(i.config.get("space", "unknown"))),
        ("The lower rungs differ", lambda i: f"{', '.join(map(str, i.rung_steps[:-1])) or 'none'} steps"),
        ("Of the nets at a rung different parts go on", lambda i: f"1/{i.config['eta']}" if "eta" in i.config else ""),
        ("The teachers' targets are stored differently", lambda i: str(i.config.get("storage", ""))),
        ("The hard limits differ", lambda i: ", ".join(f"{k} {v:g}" for k, v in sorted(i.limits.items())) or "none"),
    )
    return Agreement(
        quality=_differing(quality, infos),
        speed=_differing(speed, infos),
        measured=(
            *_said("Speeds were measured differently", [_setting(study) for study in studies]),
            *_differing(MEASURED_BY, infos),
        ),
        cautions=(*_said("The recipes of the distillation differ", _recipes(infos)), *_differing(cautions, infos)),
    )


def _differing(asked: Sequence[Asked], infos: Sequence[StudyInfo]) -> tuple[str, ...]:
    return tuple(said for words, value in asked for said in _said(words, [value(info) for info in infos]))


def _said(words: str, values: Sequence[str]) -> tuple[str, ...]:
    known = {letter: value for letter, value in zip(LETTERS, values, strict=False) if value}
    if len(set(known.values())) < 2:
        return ()
    told = "; ".join(f"{letter}: {value}" for letter, value in known.items())
    return (f"{words}: {_FINGERPRINT.sub(_SHORT, told)}.",)


def _machine(environment: Mapping[str, Any]) -> str:
    """As `nas.measure.environment.kind_of`, which needs torch: the card, or the CPU with its cores."""
    if str(environment.get("device", "")).startswith("cuda"):
        return str(environment.get("device_name", ""))
    return f"{environment.get('cpu')}, {environment['cpus']} CPUs" if "cpus" in environment else ""


def _prints(prints: dict[str, str]) -> str:
    return ", ".join(f"{name} {fingerprint}" for name, fingerprint in sorted(prints.items())) or "none"


def _recipes(infos: Sequence[StudyInfo]) -> list[str]:
    """Of each study, what is not the same in all of them; their lengths are compared apart."""
    recipes = [dict(i.config.get("distill") or {}) for i in infos]
    names = sorted({name for recipe in recipes for name in recipe} - {"rung_steps"})
    differing = [name for name in names if len({str(recipe.get(name)) for recipe in recipes}) > 1]
    return [", ".join(f"{name} {recipe.get(name, 'unknown')}" for name in differing) for recipe in recipes]


def _setting(study: Study) -> str:
    """Device, runtime, batch and resolution of the study's measurements, the most frequent ones; "" without any."""
    found = [t.measurement for t in study.trials if t.measurement is not None]
    settings = [f"{m.device}, {m.arm}, {m.batch} images of {m.resolution} px" for m in found]
    return max(sorted(set(settings)), key=settings.count, default="")
