"""The file that ``doctor --gpu`` writes: what a GPU is, its tests and its measurements, without anybody's names.

The file is written after each measurement, and the same command continues it.
"""

from __future__ import annotations

import getpass
import json
import platform
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from nas.doctor.findings import Finding
from nas.doctor.gpu_readings import read_card
from nas.files import atomic_write
from nas.measure.conditions import nvml
from nas.measure.environment import device_name, environment
from nas.measure.runtime_traits import RUNTIMES

Report = dict[str, Any]  # JSON data

FORMAT = 1
PACKAGES = (
    "backbone-nas",
    "torch",
    "timm",
    "triton",
    "numpy",
    *(name for traits in RUNTIMES.values() for name in traits.packages),
)
_PATH = re.compile(r"(?<![\w/:])~?/(?:[^\s/'\"<>:,;()\[\]]+/)+(?=[^\s/'\"<>:,;()\[\]]*)")  # the folders of a path
_NAMES = (("HOST", platform.node), ("USER", getpass.getuser))


class GpuReportError(ValueError):
    """A file of results that cannot be continued; the message is one line."""


def new_report(device: str, findings: Iterable[Finding]) -> Report:
    """Return the report of a device as JSON data, without tests and measurements."""
    return {
        "format": FORMAT,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(device),
        "findings": [asdict(public_finding(finding)) for finding in findings],
        "tests": None,
        "rows": [],
    }


def machine(device: str) -> dict[str, Any]:
    """Return all that the results depend on: a file is continued on the same machine with the same versions only.

    The code may change meanwhile, as to mend what failed.
    """
    where, library = torch.device(device), nvml() if device.startswith("cuda") else None
    recorded = {name: value for name, value in environment(device).items() if name not in ("uuid", "code")}
    return {"environment": recorded, "packages": _packages(), "card": read_card(where, library) if library else None}


def _packages() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def default_path(device: str) -> Path:
    """Return the file of a device in the current folder."""
    words = re.sub(r"[^a-z0-9]+", "-", device_name(torch.device(device)).lower()).strip("-")
    return Path(f"doctor-{words}.json")


def load_report(path: Path, new: Mapping[str, Any]) -> Report:
    """Return the report to continue: the file's, with the present findings, or the new one where there is no file.

    Args:
        path: The file.
        new: Report of the present machine.

    Raises:
        GpuReportError: The file is none of this command, or of another machine or other versions.
        OSError: It cannot be read.
    """
    if not path.parent.is_dir():
        raise GpuReportError(f"--out: no such folder {str(path.parent)!r}")
    if not path.exists():
        return dict(new)
    try:
        report = json.loads(path.read_text())
        kept = {name: report[name] for name in ("format", "machine", "tests", "rows")}
    except (ValueError, TypeError, KeyError, RecursionError):
        raise GpuReportError(f"--out: {str(path)!r} was not written by this command; name another file") from None
    if kept["format"] != FORMAT or _fixed(kept["machine"]) != _fixed(new["machine"]):
        what = "has the results of another machine or of other versions"
        raise GpuReportError(f"--out: {str(path)!r} {what}; name another file")
    return {**new, "tests": kept["tests"], "rows": kept["rows"]}


def _fixed(recorded: Any) -> Any:
    """Return what stays the same from one run to the next: clocks and free memory do not."""
    return [recorded.get(name) for name in ("environment", "packages")] if isinstance(recorded, dict) else None


def save_report(report: Mapping[str, Any], path: Path) -> None:
    """Write the report."""
    atomic_write(path, json.dumps(report, indent=1))


def public_finding(finding: Finding) -> Finding:
    """Return a finding without folders and names."""
    return replace(finding, **{name: public_line(text) for name, text in asdict(finding).items()})


def public_line(text: str) -> str:
    """Return a line without the folders of paths, and without the names of the host and of the user."""
    text = _PATH.sub(".../", " ".join(text.split()))
    for word, name_of in _NAMES:
        with suppress(OSError, KeyError):  # a user without a name, as in some containers
            if name := name_of():
                text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", word, text)
    return text
