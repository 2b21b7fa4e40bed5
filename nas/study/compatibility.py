"""What a study began with against what it would go on with: the differences in words. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nas.study.records import Objective, StudyInfo

_SHOWN = 12  # characters of a fingerprint


def of_space(info: StudyInfo, choices: Mapping[str, Sequence[Any]]) -> list[str]:
    """Parameters that have other choices now; nothing for a study of before spaces were noted."""
    now = json.loads(json.dumps(choices))
    return _differences(f"space {info.config['space']}: ", info.space, now) if info.space else []


def of_versions(info: StudyInfo, versions: Mapping[str, str]) -> list[str]:
    """Packages, as far as their versions were noted."""
    before = {name: info.environment[name] for name in versions if name in info.environment}
    return _differences("version of ", before, {name: versions[name] for name in before})


def of_objectives(info: StudyInfo, objectives: Sequence[Objective]) -> list[str]:
    """What the search optimises; labels and units are only for readers."""
    before, now = ({o.name: [o.reference, o.log, o.minimize] for o in some} for some in (info.objectives, objectives))
    return _differences("objective ", before, now)


def of_targets(info: StudyInfo, teachers: Mapping[str, str], data_fingerprint: str) -> list[str]:
    """Teachers, by name, and images, by their fingerprints."""
    before, now = ({n: f[:_SHOWN] for n, f in some.items()} for some in (info.teachers, teachers))
    images = [{f"images {info.data['name']}": f[:_SHOWN]} for f in (info.data["fingerprint"], data_fingerprint)]
    return _differences("teacher ", before, now) + _differences("", *images)


def _differences(what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = [*before, *(name for name in now if name not in before)]
    return [
        f"{what}{name}: {_said(before, name)} -> {_said(now, name)}"
        for name in names
        if name not in before or name not in now or before[name] != now[name]
    ]


def _said(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "none"
    return values[name] if isinstance(values[name], str) else json.dumps(values[name])
