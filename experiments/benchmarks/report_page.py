"""Check the report's page in a browser: size, seconds to build, milliseconds per click, accessibility, valid HTML.

    npm install --prefix /tmp/page playwright-core axe-core html-validate
    python -m experiments.benchmarks.report_page --node-modules /tmp/page/node_modules [--run RUN ...] > page.json

Needs node and Chromium, which the product does not. The studies are synthetic ones of many shapes, and folders of real
ones. Prints one JSON object; exit code 1 where a limit is broken: a violation that axe-core calls serious or critical,
a message on the console, a request, a page wider than its window, invalid HTML, size, seconds, milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.analysis.evidence import StudyEvidence, gather_evidence
from nas.study.records import Objective, StudyRecord, TrialState
from reports.evidence_data import read_evidence
from reports.page import write_page
from tests.reports import synthetic

PICK_MS = 100.0
LIMITS = {1000: (3e6, 5.0), 10_000: (12e6, 20.0)}  # trials: bytes, seconds to build
PROBE = Path(__file__).with_suffix(".mjs")


def main() -> int:
    """Build the pages, check each in a browser, and print JSON."""
    options = _options()
    studies: dict[str, Callable[[], tuple[StudyEvidence, Path | None]]] = {
        name: (lambda make=make: (gather_evidence(make()), None)) for name, make in SYNTHETIC.items()
    }
    studies |= {str(run): (lambda run=run: (read_evidence(run), run)) for run in options.run}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="report-page-") as folder:
        for i, (name, make) in enumerate(studies.items()):
            if options.only and name not in options.only:
                continue
            evidence, run = make()
            found[name] = _built(evidence, Path(folder) / f"{i}.html", run or Path(folder))
            found[name] |= _probed(Path(folder) / f"{i}.html", options)
            found[name]["wrong"] = _wrong(len(evidence.study.trials), found[name])
    print(json.dumps(found, indent=1))
    return int(any(result["wrong"] for result in found.values()))


def _shaped(study: StudyRecord, *objectives: Objective) -> StudyRecord:
    return StudyRecord(replace(study.info, objectives=objectives), study.trials)


_SCORE, _SPEED = synthetic.info().objectives
SYNTHETIC: dict[str, Callable[[], StudyRecord]] = {
    "1": lambda: synthetic.study(1, only=TrialState.COMPLETE),
    "200": lambda: synthetic.study(200),
    "1000": lambda: synthetic.study(1000),
    "10000": lambda: synthetic.study(10_000),
    "infeasible": lambda: synthetic.study(12, only=TrialState.INFEASIBLE, baselines=False),
    "failed": lambda: synthetic.study(12, only=TrialState.FAILED, baselines=False),
    "empty": lambda: synthetic.study(0, baselines=False, budget=8),
    "one objective": lambda: _shaped(synthetic.study(80), _SCORE),
    "three objectives": lambda: _shaped(synthetic.study(80), _SCORE, _SPEED, Objective("knn", "kNN", "", 0.0)),
}


def _built(evidence: StudyEvidence, page: Path, run: Path) -> dict[str, Any]:
    began, cpu_began = time.perf_counter(), time.process_time()
    write_page(evidence, page, run)
    seconds = {"build_s": time.perf_counter() - began, "build_cpu_s": time.process_time() - cpu_began}
    return {"trials": len(evidence.study.trials), "bytes": page.stat().st_size, **seconds, "load": os.getloadavg()[0]}


def _probed(page: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the browser's findings."""
    environment = {**os.environ, "NODE_PATH": str(options.node_modules), "CHROMIUM": options.chromium}
    command = ["node", str(PROBE), str(options.node_modules.resolve()), str(page)]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500, check=False)
    if process.returncode:
        raise RuntimeError(process.stderr[-2000:])
    return dict(json.loads(process.stdout))


def _wrong(trials: int, found: dict[str, Any]) -> list[str]:
    broken = [f"{mode}: {v['id']}" for mode, all_ in found["axe"].items() for v in all_ if v["impact"] in BAD]
    broken += [f"{what}: {found[what]}" for what in ("console", "requests", "html", "too_wide") if found[what]]
    pick_ms = min(
        found.get("pick_cpu_ms", 0.0), found["pick_ms"].get("pick", 0.0)
    )  # whichever is smaller: the machine may be busy
    broken += [f"a pick: {pick_ms:.0f} ms"] * (pick_ms > PICK_MS)
    size, seconds = next((limit for most, limit in LIMITS.items() if trials <= most * 1.01), (float("inf"),) * 2)
    broken += [f"{found['bytes']} bytes"] * (found["bytes"] > size)
    return broken + [f"built in {found['build_cpu_s']:.1f} s of CPU"] * (found["build_cpu_s"] > seconds)


BAD = ("serious", "critical")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node-modules", type=Path, required=True, help="folder of the three packages")
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium")
    parser.add_argument("--run", type=Path, nargs="*", default=[], help="folders of real studies")
    parser.add_argument("--only", nargs="*", help=f"names of studies: {', '.join(SYNTHETIC)}, and the folders")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
