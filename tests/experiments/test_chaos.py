"""The chaos campaign's checks see what they are for, and share no code with the product."""

from __future__ import annotations

import ast
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from experiments.chaos import invariants, real_search, sandbox
from experiments.chaos.__main__ import PLAN, plan
from experiments.chaos.invariants import Witness, read_trials, strangers
from experiments.chaos.loop_study import undisturbed

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a study of the real loop."""
    folder = tmp_path_factory.mktemp("study")
    undisturbed(folder, budget=6)
    return folder / "undisturbed" / "run" / "study.db"


@pytest.fixture
def witness(database: Path, tmp_path: Path) -> Witness:
    """Return a witness that has seen a copy of the study, whose scores and architectures are right."""
    copy = tmp_path / "study.db"
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")
    records = {number: trial.record for number, trial in read_trials(copy).items()}
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / f"{records[0]['arch_id']}.safetensors").write_bytes(b"weights")
    seen = Witness(
        copy, tmp_path / "weights", {number: r["arch_id"] for number, r in records.items()},
        {r["arch_id"]: [rung["score"] for rung in r["rungs"]] for r in records.values()},
    )  # fmt: skip
    seen.look()
    seen.end()
    assert seen.notes == []
    return seen


def altered(database: Path, number: int, change: Callable[[dict[str, object]], object]) -> None:
    """Change a trial's record in the database."""
    with closing(sqlite3.connect(database)) as connection, connection:
        where = "key = 'record' AND trial_id = (SELECT trial_id FROM trials WHERE number = ?)"
        (text,) = connection.execute(
            f"SELECT value_json FROM trial_user_attributes WHERE {where}", (number,)
        ).fetchone()
        change(record := json.loads(text))
        connection.execute(
            f"UPDATE trial_user_attributes SET value_json = ? WHERE {where}", (json.dumps(record), number)
        )


def test_the_checks_share_no_code_with_the_product() -> None:
    for module in (invariants, real_search, sandbox):
        tree = ast.parse(Path(str(module.__file__)).read_text())
        names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        ours = [n for n in names if n.split(".")[0] in ("nas", "backbones", "search_space", "reports", "tests")]
        assert ours == [], module.__name__


@pytest.mark.slow
def test_a_trial_that_is_gone_is_lost(witness: Witness) -> None:
    with closing(sqlite3.connect(str(witness.database))) as connection, connection:
        connection.execute("DELETE FROM trials WHERE number = 2")
    witness.look()
    assert witness.violations["lost"] == 1


@pytest.mark.slow
def test_an_ended_trial_that_runs_again_is_lost(witness: Witness) -> None:
    with closing(sqlite3.connect(str(witness.database))) as connection, connection:
        connection.execute("UPDATE trials SET state = 'RUNNING' WHERE number = 2")
    witness.end()
    assert witness.violations["lost"] == witness.violations["unfinished"] == 1


@pytest.mark.slow
def test_a_record_that_changes_after_its_end_is_seen(witness: Witness) -> None:
    altered(Path(witness.database), 2, lambda record: record.update(params=7))
    witness.look()
    assert witness.violations["changed"] == 1


@pytest.mark.slow
def test_an_architecture_that_is_evaluated_twice_is_seen(witness: Witness) -> None:
    twice = read_trials(witness.database)[3].record["arch_id"]
    altered(Path(witness.database), 4, lambda record: record.update(arch_id=twice))
    witness.end()
    assert witness.violations["repeated"] == 1
    assert witness.violations["other architecture"] == 1


@pytest.mark.slow
def test_another_score_than_without_faults_is_seen(witness: Witness) -> None:
    altered(Path(witness.database), 3, lambda record: record["rungs"][0].update(score=0.123))  # type: ignore[index]
    witness.look()
    assert witness.violations["other score"] == 1


@pytest.mark.slow
def test_weights_that_change_after_the_end_are_a_repetition(witness: Witness) -> None:
    (path,) = witness.weights.iterdir()  # type: ignore[union-attr]
    path.write_bytes(b"others")
    witness.look()
    assert witness.violations["repeated"] == 1


@pytest.mark.slow
def test_a_damaged_database_is_seen(witness: Witness) -> None:
    path = Path(witness.database)
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[16:18], "big")
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'trial_params'").fetchone()
    content[(root - 1) * size : (root - 1) * size + 8] = bytes(8)
    path.write_bytes(content)
    assert invariants.check_database(path)["damaged database"]


def test_files_outside_are_found_and_allowed_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / "backbone-nas-0").mkdir()
    (tmp_path / "backbone-nas-0" / "lock").touch()
    (old := tmp_path / "old").touch()
    os.utime(old, (0, 0))
    (tmp_path / "new").touch()
    found = strangers([tmp_path, tmp_path / "none"], real_search.ALLOWED, time.time() - 100)
    assert found == [str(tmp_path / "new")]


def test_a_campaign_has_a_thousand_faults_and_makes_up_for_missed_ones() -> None:
    assert sum(episode.faults for episode in plan(1000, [])) == 1000
    level, kind, share, size = PLAN[0]
    rows = [{"level": level, "kind": kind, "faults": size - 3}]
    left = [e for e in plan(1000, rows) if (e.level, e.kind) == (level, kind)]
    assert sum(e.faults for e in left) == share - (size - 3)
    assert min(e.number for e in left) == 1
    nothing = [{"level": level, "kind": kind, "faults": 0}] * 4
    assert not [e for e in plan(1000, nothing) if (e.level, e.kind) == (level, kind)]


@pytest.mark.slow
@pytest.mark.parametrize("way", range(5))
def test_damage_changes_the_file(tmp_path: Path, way: int) -> None:
    (path := tmp_path / "file").write_bytes(content := bytes(range(1, 256)) * 40)
    real_search.damage(path, random.Random(way))
    assert path.read_bytes() != content


TRAINING = """
import torch
weight = torch.nn.Parameter(torch.ones(3))
optimizer = torch.optim.AdamW([weight], fused=True)
for _ in range(2):
    weight.sum().backward()
    optimizer.step()
print(weight.isnan().all().item())
"""


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["nan", ""])
def test_a_flag_spoils_the_gradients_of_one_training(tmp_path: Path, fault: str) -> None:
    (tmp_path / (fault or "other")).touch()
    environment = {**os.environ, "CHAOS_FAULTS": str(tmp_path), "PYTHONPATH": str(ROOT / "experiments/chaos/hooks")}
    done = subprocess.run([sys.executable, "-c", TRAINING], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(fault == "nan"), done.stderr
    assert (tmp_path / "nan").exists() is False


@pytest.fixture
def work() -> Iterator[Path]:
    """Yield a folder outside /tmp, over which a sandbox mounts its own."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.exhaustive  # needs root, and a machine that allows new namespaces and mounts
def test_a_campaign_runs_continues_and_prints_its_table(work: Path) -> None:
    try:
        sandbox.check()
    except sandbox.NoSandbox as error:
        pytest.skip(str(error))
    words = [sys.executable, "-m", "experiments.chaos", "--faults", "20", "--kinds", "SQLite"]
    words += ["--results", str(work / "rows"), "--work", str(work / "work")]
    done = [subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=900) for _ in range(2)]
    assert done[0].returncode == done[1].returncode == 0, done[0].stdout + done[0].stderr
    faults = sum(e.faults for e in plan(20, []) if (e.level, e.kind) == ("SQLite", "kill driver"))
    assert f"| SQLite | kill driver | {faults} | 0 | 0 |" in done[0].stdout
    assert "faults, nothing violated" in done[0].stdout
    assert "violated" not in done[1].stdout, "all was done"
    assert done[0].stdout.splitlines()[-1] == done[1].stdout.splitlines()[-1]
