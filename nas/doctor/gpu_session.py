"""Test and measure a device for ``doctor --gpu``: its tests, then a set of networks, into one file."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.command_log import announce
from nas.doctor.arguments import BenchmarkSettings
from nas.doctor.benchmark import REFERENCE, measured_rows, missing_rows, rows_of, with_row
from nas.doctor.findings import Finding
from nas.doctor.gpu_report import Report, default_path, load_report, new_report, public_line, save_report
from nas.doctor.gpu_tests import GpuTestsError, run_gpu_tests, why_no_tests
from nas.measure.environment import torch_device
from nas.measure.service import MeasurementService
from nas.profile.command import ProfileProgress
from nas.stage_progress import StageProgress
from nas.study.records import Measurement
from nas.study.timing_doubts import ratio_interval_words
from nas.terminal import stderr_console

_LOG = logging.getLogger(__name__)
_USUAL = "+channels-last+fused"  # layout and form that the table leaves out


@dataclass(frozen=True)
class GpuSession:
    """A device to test and measure, and the file of the results."""

    settings: BenchmarkSettings
    device: str
    path: Path

    @classmethod
    def of(cls, settings: BenchmarkSettings) -> Self:
        """Find the device; DeviceError where there is none of this number."""
        device = torch_device(settings.device)
        return cls(settings, str(device), settings.out or default_path(str(device)))

    def run(self, found: Iterable[Finding], console: Console | None) -> bool:
        """Complete the file, saved after each step; return whether all tests passed and all networks were measured.

        Args:
            found: Findings for the file.
            console: Where the table is shown; None: nowhere.

        Raises:
            GpuReportError: The file is of another machine, or none of this command.
        """
        report = load_report(self.path, new_report(self.device, found))
        save_report(report, self.path)  # now, not after an hour: the folder may be read-only
        tests = report["tests"] or {}
        if "cases" not in tests or tests.get("failed"):
            report["tests"] = tested(self.device)
            save_report(report, self.path)
        self._measure(report)
        rows = rows_of(self.settings, report["rows"])
        if console is not None:
            console.print(benchmark_table(rows))
        announce(f"results: {self.path}; it has no host name and no user name, and can be attached to an issue", _LOG)
        return not report["tests"].get("failed") and all("measurement" in row for row in rows)

    def _measure(self, report: Report) -> None:
        with _measuring() as (service, step):
            missing = missing_rows(self.settings, report["rows"])
            for row in measured_rows(self.settings, missing, self.device, service, step):
                if "reason" in row:
                    row["reason"] = public_line(row["reason"])
                report["rows"] = with_row(report["rows"], row)
                save_report(report, self.path)


@contextmanager
def _measuring() -> Iterator[tuple[MeasurementService, ProfileProgress]]:
    progress = ProfileProgress(stderr_console(), lines=True)
    with progress.showing(), MeasurementService() as service:
        yield service, progress


def tested(device: str) -> dict[str, Any]:
    """Run the tests that need a GPU; return their results as JSON data, or the reason why there are none."""
    why = "no tests: they need a GPU" if device == "cpu" else why_no_tests()
    if why is None:
        try:
            with StageProgress(stderr_console()).showing() as progress:
                cases = run_gpu_tests(progress)
        except GpuTestsError as error:
            why = str(error)
    if why is not None:
        announce(why, _LOG)
        return {"reason": public_line(why)}
    counts = Counter(case.outcome for case in cases)
    announce("GPU tests: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.items()), _LOG)
    for case in cases:
        if case.outcome == "failed":
            announce(f"failed: {case.name}: {case.reason}", _LOG)
    return {**counts, "cases": [asdict(case) | {"reason": public_line(case.reason)} for case in cases]}


def benchmark_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Tabulate the rows of a benchmark; a network without a measurement has its reason."""
    table, ratio = Table(box=box.SIMPLE_HEAD), f"times {REFERENCE}"
    for heading in ("network", "runtime", "images/s", ratio, "ms at batch 1", "verdict"):
        whole = heading not in (ratio, "verdict")  # these two may have long reasons
        table.add_column(heading, justify="right" if heading[0] in "itm" else "left", no_wrap=whole)
    for row in rows:
        runtime = row["runtime"].removesuffix(_USUAL)
        if "measurement" not in row:
            table.add_row(row["arch"], runtime, "", "", "", Text(str(row.get("reason", "not measured"))))
            continue
        m = Measurement.from_dict(row["measurement"])
        interval = f"{m.ratio:.3f} ({ratio_interval_words(m, 3)})"
        cells = (f"{m.throughput_img_s:,.1f}", interval, f"{m.latency_ms:.2f}", "; ".join((m.verdict, *m.notes)))
        table.add_row(row["arch"], runtime, *(Text(cell) for cell in cells))
    return table
