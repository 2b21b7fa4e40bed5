"""``backbone-nas completion``: the script as bash runs it."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from nas.__main__ import COMMANDS, main

COMPLETE = """
source {script}
COMP_WORDS=({words}) COMP_CWORD={last}
{function}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "script.bash"
    with path.open("w") as file, redirect_stdout(file):
        assert main(["completion", "bash"]) == 0
    return path


def completed(script: Path, words: str) -> set[str]:
    """What bash offers for the last word."""
    code = COMPLETE.format(script=script, words=words, last=len(words.split()) - 1, function="_shtab_backbone_nas")
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, cwd=script.parent)
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_reads_the_script_and_completes(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert {c.name for c in COMMANDS if c.name.startswith("re")} == completed(script, "backbone-nas re")
    assert completed(script, "backbone-nas search --rung") == {"--rung-steps"}
    assert completed(script, "backbone-nas search --sampler e") == {"evolution"}
    assert completed(script, "backbone-nas export --format t") == {"timm", "torchscript"}
    assert completed(script, "backbone-nas cache b") == {"build"}
    assert completed(script, "backbone-nas cache build --target-dtype int") == {"int4", "int8"}
    (script.parent / "mine").mkdir()
    assert completed(script, "backbone-nas select mi") == {"mine"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_a_run_by_the_studies(script: Path) -> None:
    for name, file in (("a", "study.db"), ("b", "study.json"), ("cache", "images")):
        (script.parent / "runs" / name).mkdir(parents=True)
        (script.parent / "runs" / name / file).touch()
    (script.parent / "runs/latest").symlink_to("b")
    for words in ("export", "search --resume", "select"):
        assert completed(script, f"backbone-nas {words} ''") == {"runs/a", "runs/b", "runs/latest"}
    assert completed(script, "backbone-nas select runs/l") == {"runs/latest"}


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_get_a_script_with_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert [c.name for c in COMMANDS if c.name not in script] == []
