"""Which numbers of several studies share a scale: scores, throughputs, and dominance between models of two studies."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.analysis.comparable import MEASURED_WITH
from nas.study.compatibility import recorded_device_kind
from nas.study.config import compares_unit_vectors
from nas.study.records import StudyInfo, StudyRecord
from reports.compare import LETTERS
from reports.metric_agreement import scores_spatial

_FINGERPRINT = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{20,}\b")
_SHORTENED = r"\1…"

Aspect = tuple[str, Callable[[StudyInfo], str]]  # a sentence about a difference, and the value; "" is unknown


def _version(name: str) -> Aspect:
    return f"Throughput was measured with different {name}", lambda i: str(i.environment.get(name) or "")


SCORE_ASPECTS: tuple[Aspect, ...] = (
    ("The scores are different quantities", lambda i: _score(i)),
    ("The teachers differ", lambda i: _fingerprints(i.teachers)),
    ("The images differ", lambda i: f"{i.data.get('name')} {i.data.get('fingerprint')}"),
    ("Models are trained to different lengths", lambda i: f"{i.rung_steps[-1]} steps" if i.rung_steps else "none"),
)
THROUGHPUT_ASPECTS: tuple[Aspect, ...] = (
    ("Throughput is relative to different reference models", lambda i: i.reference),
    ("Throughput is not the same quantity", lambda i: f"{i.objectives[1].name}{' (log)' * i.objectives[1].log}"),
)
MEASUREMENT_ASPECTS: tuple[Aspect, ...] = (
    ("Throughput was measured on different machines", lambda i: recorded_device_kind(i.environment) or ""),
    *(_version(name) for name in MEASURED_WITH),
)
SEARCH_ASPECTS: tuple[Aspect, ...] = (
    ("The search spaces differ", lambda i: _space(i.config)),
    ("The lower rungs differ", lambda i: f"{', '.join(map(str, i.rung_steps[:-1])) or 'none'} steps"),
    (
        "Different shares continue at a rung",
        lambda i: _continuing(i.config),
    ),
    ("The teachers compute in different precisions", lambda i: str(i.config.get("teacher_precision", "fp32"))),
    ("The distillation targets are stored differently", lambda i: str(i.config.get("target_dtype", ""))),
    ("The hard limits differ", lambda i: ", ".join(f"{k} {v:g}" for k, v in sorted(i.limits.items())) or "none"),
)


def _space(config: Mapping[str, Any]) -> str:
    """Return the name of a study's space, with the choices that differ from those of this name."""
    name, choices = str(config.get("space", "unknown")), config.get("choices")
    return f"{name} with the choices {json.dumps(choices, sort_keys=True)}" if choices else name


@dataclass(frozen=True)
class Comparability:
    """Reasons why numbers of studies cannot be compared, in sentences; empty where they can."""

    score: tuple[str, ...]
    throughput: tuple[str, ...]
    measurement: tuple[str, ...]  # the reference is the same, the device or the way of measuring is not
    cautions: tuple[str, ...]  # the numbers compare, but more than the search differs

    @property
    def same_axes(self) -> bool:
        """Tell whether one chart can show all fronts, and hypervolumes compare."""
        return not self.score and not self.throughput

    @property
    def dominance(self) -> bool:
        """Tell whether a model of one study can dominate a model of another."""
        return self.same_axes and not self.measurement


def comparability(studies: Sequence[StudyRecord]) -> Comparability:
    """Find the reasons why numbers of two or more studies cannot be compared."""
    infos = [study.info for study in studies]
    return Comparability(
        score=_differences(SCORE_ASPECTS, infos),
        throughput=_differences(THROUGHPUT_ASPECTS, infos),
        measurement=(
            *_difference("Throughput was measured differently", [_setting(study) for study in studies]),
            *_differences(MEASUREMENT_ASPECTS, infos),
        ),
        cautions=(
            *_difference("The distillation recipes differ", _recipes(infos)),
            *_differences(SEARCH_ASPECTS, infos),
        ),
    )


def _differences(aspects: Sequence[Aspect], infos: Sequence[StudyInfo]) -> tuple[str, ...]:
    return tuple(
        sentence for words, value in aspects for sentence in _difference(words, [value(info) for info in infos])
    )


def _difference(words: str, values: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence with the value of each study if the known values differ."""
    known = {letter: value for letter, value in zip(LETTERS, values, strict=False) if value}
    if len(set(known.values())) < 2:
        return ()
    listed = "; ".join(f"{letter}: {value}" for letter, value in known.items())
    return (f"{words}: {_FINGERPRINT.sub(_SHORTENED, listed)}.",)


def _score(info: StudyInfo) -> str:
    """Name the first objective; a score that counts summaries is another one where these are scaled to length 1."""
    first = info.objectives[0]
    scaled = first.name == "score" and not scores_spatial(info) and compares_unit_vectors(info.config)
    return f"{first.label}{' (log)' * first.log}{', of summaries scaled to length 1' * scaled}"


def _continuing(config: Mapping[str, Any]) -> str:
    """Describe who continues at a rung; "" where the settings lack it."""
    if "reduction_factor" not in config:
        return ""
    gain = config.get("front_gain")
    also = f", and those that would add {gain:.0%} to the front" if gain else ""
    return f"1/{config['reduction_factor']}{also}"


def _fingerprints(fingerprints: dict[str, str]) -> str:
    return ", ".join(f"{name} {fingerprint}" for name, fingerprint in sorted(fingerprints.items())) or "none"


def _recipes(infos: Sequence[StudyInfo]) -> list[str]:
    """List for each study the distillation settings that differ, without the rungs, which have their own aspects."""
    recipes = [dict(i.config.get("distill") or {}) for i in infos]
    names = sorted({name for recipe in recipes for name in recipe} - {"rung_steps"})
    differing = [name for name in names if len({str(recipe.get(name)) for recipe in recipes}) > 1]
    return [", ".join(f"{name} {recipe.get(name, 'unknown')}" for name in differing) for recipe in recipes]


def _setting(study: StudyRecord) -> str:
    """Return the most frequent device, runtime, batch size and resolution of the measurements; "" without any."""
    measurements = [t.measurement for t in study.trials if t.measurement is not None]
    settings = [f"{m.device}, {m.arm}, {m.batch} images of {m.resolution} px" for m in measurements]
    return max(sorted(set(settings)), key=settings.count, default="")
