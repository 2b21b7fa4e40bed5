"""The comparison as one HTML file without a script; its policy allows its own style sheet and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from nas.files import atomic_write
from nas.records import StudyInfo
from reports.compare import sentences
from reports.compare.charts import pictures
from reports.compare.sides import Side, SideBySide
from reports.document import asset, flat, policy, templates

MOST_SHARED = 25  # nets in a table


@dataclass(frozen=True)
class Difference:
    """A setting that is not the same in all studies; its values in their order."""

    name: str
    values: tuple[str, ...]


def write_comparison(comparison: SideBySide, out: Path) -> None:
    """Write the page to `out`, replacing it only once the whole page is there. Raises OSError."""
    atomic_write(out, render(comparison, pictures(comparison)))


def render(comparison: SideBySide, drawn: Mapping[str, Markup]) -> str:
    """The whole page, with the pictures of `pictures`."""
    style = asset("report.css") + asset("compare.css")
    return (
        templates()
        .get_template("compare.html.j2")
        .render(
            comparison=comparison,
            sides=comparison.sides,
            headline=sentences.headline(comparison),
            refusals=sentences.not_compared(comparison),
            cautions=sentences.cautions(comparison),
            pictures=drawn,
            differences=differences(comparison.sides),
            most_shared=MOST_SHARED,
            style=Markup(style),
            policy=policy(style),
        )
    )


def differences(sides: Sequence[Side]) -> list[Difference]:
    """Settings and environment, where they differ."""
    told = [dict(flat(_settings(side.study.info))) for side in sides]
    names = dict.fromkeys(name for settings in told for name in settings)
    rows = [Difference(name, tuple(settings.get(name, "–") for settings in told)) for name in names]
    return [row for row in rows if len(set(row.values)) > 1]


def _settings(info: StudyInfo) -> dict[str, Any]:
    objectives = {f"{o.name} {key}": value for o in info.objectives for key, value in o.to_dict().items()}
    return {
        "command": info.command, "objective": objectives, "reference": info.reference, "baselines": info.baselines,
        "rung_steps": info.rung_steps, "limits": info.limits, "teachers": info.teachers, "data": info.data,
        "config": info.config, "environment": info.environment, "space": info.space,
    }  # fmt: skip
