"""The differences between a stored study and the command that resumes it, one line each. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nas.study.records import Objective, StudyInfo


def of_space(info: StudyInfo, choices: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the parameters of the search space whose choices differ."""
    return _differences(f"space {info.config['space']}: ", info.space, json.loads(json.dumps(choices)))


def of_versions(info: StudyInfo, versions: Mapping[str, str], library: Collection[str] = ()) -> list[str]:
    """Return the packages whose versions differ, as far as the study's environment has them.

    Args:
        info: The stored study.
        versions: Versions of the packages that are installed here.
        library: The packages of which any provides the study's runtime: where the environment has one of them, it had
            no other.
    """
    names = recorded_names(info.environment, versions, library)
    before, now = ({name: some[name] for name in names if name in some} for some in (info.environment, versions))
    return _differences("version of ", before, now)


def of_code(info: StudyInfo, digest: str) -> str:
    """Return a warning where the program's code is not that with which a study began; "" where it is, or unrecorded.

    Args:
        info: The stored study.
        digest: Of the code that is here, see `nas.measure.environment.code_digest`.
    """
    before = info.environment.get("code", digest)
    if before == digest:
        return ""
    return (
        f"the program's code has changed since the study began ({before} -> {digest}); where the change touches "
        "blocks, teachers, training or measuring, new candidates cannot be compared with earlier ones"
    )


def recorded_device_kind(environment: Mapping[str, Any]) -> str | None:
    """Return the `device_kind` of the machine that a study's environment describes; None where it is not recorded."""
    if str(environment.get("device", "")).startswith("cuda"):
        return environment.get("device_name")
    return f"{environment.get('cpu')}, {environment['cpus']} CPUs" if "cpus" in environment else None


def recorded_names(environment: Mapping[str, Any], now: Mapping[str, Any], library: Collection[str]) -> list[str]:
    """Return the packages of `now` and of a runtime's library whose versions a recorded environment tells."""
    if not any(name in environment for name in library):  # it is of another runtime, or of a version before this one
        return [name for name in now if name in environment]
    return [*(name for name in now if name in environment and name not in library), *library]


def of_objectives(info: StudyInfo, objectives: Sequence[Objective]) -> list[str]:
    """Return the objectives that differ, apart from their labels and units."""
    before, now = ({o.name: [o.reference, o.log, o.minimize] for o in some} for some in (info.objectives, objectives))
    return _differences("objective ", before, now)


def _differences(prefix: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = [*before, *(name for name in now if name not in before)]
    return [
        f"{prefix}{name}: {_shown(before, name)} -> {_shown(now, name)}"
        for name in names
        if name not in before or name not in now or before[name] != now[name]
    ]


def _shown(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "none"
    return values[name] if isinstance(values[name], str) else json.dumps(values[name])
