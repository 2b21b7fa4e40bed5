"""Break single lines of the product, one at a time, and record which tests catch it.

    python -m tests.mutations.run                    all mutations without a result
    python -m tests.mutations.run --only NAME        this one, again; "none": the unbroken product, by all listed tests
    python -m tests.mutations.run --tests listed     by the tests that caught it last time, and nothing is recorded

`mutations.toml` has the mutations: `line` is a whole line of `file` without its indentation, which stands there once,
and `broken` is what replaces it. `caught_by` has up to `LISTED` of the tests that failed, without their parameters, and
`failed` the number of all that did, of those that `ran`, until pytest ended: after `MAX_FAILED`, or after `LIMIT_S`.
`timed_out` says that this limit, or that of a test, was over: that is no catch. `slow` names a slow test that was seen
to catch it. `covering.json` has tests near each line, not all that run it. Each is tried in a copy of the tree, and
recorded at its end: an interrupted run continues. The last line of the output counts what became of all.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import tomli_w

ROOT = Path(__file__).parents[2]
MUTATIONS, COVERING = (Path(__file__).with_name(name) for name in ("mutations.toml", "covering.json"))
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "runs", "_build", "__pycache__", "*.egg-info", ".*_cache")
LISTED, MAX_FAILED = 5, 8
LIMIT_S, TEST_LIMIT_S = 240, 120  # of all tests of a mutation; of one
PYTEST = ("-v", "-m", "not slow", f"--maxfail={MAX_FAILED}", "-o", f"timeout={TEST_LIMIT_S}", "-p", "no:cacheprovider")
UNBROKEN, LATE = "none", "late.txt"
Mutation = dict[str, Any]


def pytest_runtest_logreport(report: Any) -> None:
    """Note a test that took too long: pytest has this module as a plugin, in the copy of the tree."""
    if report.failed and "Failed: Timeout (>" in report.longreprtext:
        with (ROOT / LATE).open("a") as file:
            file.write(f"{report.nodeid}\n")


def apply(tree: Path, mutation: Mutation) -> None:
    """Replace the mutation's line in a copy of the tree."""
    file = tree / mutation["file"]
    lines = file.read_text().splitlines()
    places = [i for i, line in enumerate(lines) if line.strip() == mutation["line"]]
    if len(places) != 1:
        raise ValueError(f"{mutation['name']}: its line stands {len(places)} times in {mutation['file']}")
    lines[places[0]] = lines[places[0]].replace(mutation["line"], mutation["broken"])
    file.write_text("\n".join(lines) + "\n")


def tests_of(mutation: Mutation, listed: bool) -> list[str]:
    """Return the tests to run, as arguments of pytest."""
    if listed:
        return list(mutation.get("caught_by", ()))
    covering: list[str] = json.loads(COVERING.read_text()).get(mutation["name"], [])
    folder = ROOT / "tests" / Path(mutation["file"]).parent
    return covering or [str(next(f for f in (folder, *folder.parents) if f.is_dir()).relative_to(ROOT))]


def run(tests: list[str], tree: Path) -> Mutation:
    """Run tests in a copy of the tree, and return what is recorded of them."""
    began, log, environment = time.monotonic(), tree / "pytest.log", os.environ | {"PYTHONPATH": str(tree)}
    words = [sys.executable, "-m", "pytest", *PYTEST, "-p", "tests.mutations.run", *tests]
    with log.open("w") as out:
        process = subprocess.Popen(words, cwd=tree, env=environment, stdout=out, stderr=out, start_new_session=True)
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
    text = log.read_text(errors="replace")
    ended = re.findall(r"^(tests/\S+?::.+?) (PASSED|FAILED|ERROR)", text, re.MULTILINE)
    late = (tree / LATE).read_text().splitlines() if (tree / LATE).exists() else []
    failed = [name for name, how in ended if how != "PASSED" and name not in late]
    failed = failed if ended else re.findall(r"^ERROR (tests/\S+)", text, re.MULTILINE)  # nothing could be collected
    listed = list(dict.fromkeys(name.partition("[")[0] for name in failed))[:LISTED]
    found: Mutation = {"caught_by": listed, "failed": len(failed), "ran": len(ended)}
    return found | {"seconds": round(time.monotonic() - began)} | ({"timed_out": True} if code < 0 or late else {})


def outcome(found: Mutation) -> str:
    """Return what became of a mutation that was tried."""
    if found["failed"] or found.get("slow"):
        return "caught by an assertion"
    return "timed out" if "timed_out" in found else "escaped"


def record(name: str, found: Mutation) -> None:
    """Write the result of a mutation; another process may write others."""
    with MUTATIONS.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        mutations = tomllib.load(file)["mutation"]
        index = [each["name"] for each in mutations].index(name)
        mutations[index] = {k: v for k, v in mutations[index].items() if k != "timed_out"} | found
        file.seek(0)
        file.write(tomli_w.dumps({"mutation": mutations}).encode())
        file.truncate()


def main() -> None:
    """Try mutations, and print a line about each."""
    parser = argparse.ArgumentParser(description="Break single lines of the product and see which tests catch it.")
    parser.add_argument("--only", metavar="NAME")
    parser.add_argument("--tests", choices=("covering", "listed"), default="covering")
    settings = parser.parse_args()
    listed = settings.tests == "listed" or settings.only == UNBROKEN
    mutations: list[Mutation] = tomllib.loads(MUTATIONS.read_text())["mutation"]
    wanted = [each for each in mutations if (each.get("caught_by") if listed else "ran" not in each)]
    if settings.only:
        wanted = [each for each in mutations if each["name"] == settings.only]
    if settings.only == UNBROKEN:
        caught_by = sorted({test for each in mutations for test in each.get("caught_by", ())})
        wanted = [{"name": UNBROKEN, "caught_by": caught_by}]
    results = {} if listed else {each["name"]: outcome(each) for each in mutations if "ran" in each}
    for mutation in wanted:
        with tempfile.TemporaryDirectory(prefix="mutation-", ignore_cleanup_errors=True) as folder:
            tree = Path(folder) / "tree"
            shutil.copytree(ROOT, tree, symlinks=True, ignore=LEFT_OUT)
            if mutation["name"] != UNBROKEN:
                apply(tree, mutation)
            found = run(tests_of(mutation, listed), tree)
        if not found["ran"] and not found["failed"]:
            print(f"{mutation['name']}: no test ran; does covering.json name one that is gone?", flush=True)
            continue
        if not listed:
            record(mutation["name"], found)
        results[mutation["name"]] = outcome(found | {"slow": mutation.get("slow")})
        print(f"{mutation['name']}: {found}", flush=True)
    counts = Counter(results.values())
    print(", ".join(f"{counts[each]} {each}" for each in ("caught by an assertion", "timed out", "escaped")))


if __name__ == "__main__":
    main()
