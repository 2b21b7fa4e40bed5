"""`.ci/run` fails if any of its steps does, and runs the others all the same."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / ".ci/run"
STEPS = ("lint", "test", "docs")


@pytest.mark.parametrize("failing", [*STEPS, "reference", ""])
def test_a_step_that_fails_is_a_failure_and_the_others_run(failing: str, tmp_path: Path) -> None:
    for name in ("chromium", "initdb", "strace"):  # present, so that nothing is installed
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    (tmp_path / ".ci").mkdir()
    shutil.copy(RUN, tmp_path / ".ci/run")
    page = tmp_path / "docs/reference/page"
    page.parent.mkdir(parents=True)
    page.write_text("old\n")
    commands = {step: f"@echo 'FAILED {step}'; false" if step == failing else "@true" for step in STEPS}
    if failing == "reference":
        commands["docs"] = "@echo new > docs/reference/page"
    rules = "".join(f"{step}:\n\t{command}\n" for step, command in commands.items())
    (tmp_path / "Makefile").write_text(f".PHONY: develop {' '.join(STEPS)}\ndevelop:\n{rules}")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e", "-c", f"safe.directory={tmp_path}"]
    for words in (["init", "-q"], ["add", "docs"], ["commit", "-q", "-m", "page"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", ".ci/run"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == (1 if failing else 0), done.stdout + done.stderr
    broken = "docs" if failing == "reference" else failing
    for step in STEPS:
        assert f"\n{step} {'failed' if step == broken else 'passed'} in " in f"\n{done.stdout}"
    assert done.stdout.endswith(f"FAILED {failing}\n") == (failing in STEPS)
