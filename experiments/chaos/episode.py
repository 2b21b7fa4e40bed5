"""One episode: a study, some faults of one kind, the checks after each, the study's end; prints one JSON line."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from experiments.chaos import cluster, damaged_files, invariants, loop_study
from experiments.chaos.real_search import ALLOWED, FAULTS, RealSearch, Stuck, summary
from experiments.chaos.sandbox import Sandbox

_TRIES = 40  # to hit something


def real_search(sandbox: Sandbox, kind: str, faults: int, seed: int, truth: dict[str, Any]) -> dict[str, Any]:
    """Run a real search under faults of one kind, or of all with "mixed"; return the episode's row."""
    chance = random.Random(seed)
    search = RealSearch(sandbox, 2 * faults + 6, chance, 2, kind == "clock set", 60 if kind == "hanging step" else 300)
    if kind == "changed teacher":
        search.settings = own_teacher(sandbox, search.settings)
        truth = {}
    scores = truth.get("scores", {})
    if truth:
        shutil.copytree(truth["cache"], sandbox.cache, dirs_exist_ok=True)
    witness = invariants.Witness(
        search.database, sandbox.run / "weights",
        {int(n): arch for n, arch in truth.get("architectures", {}).items()}, scores,
    )  # fmt: skip
    began_s, back_s, notes = time.time(), [], []
    stuck = ""
    try:
        search.start()
        for _ in range(faults):
            search.wait_for_report()
            time.sleep(chance.uniform(0, 2))
            if search.complete:
                break
            if (note := _strike(search, kind, chance)) is None:
                continue
            notes.append(note)
            back_s.append(search.wait_for_report())
            witness.look()
        search.end()
        witness.end()
    except Stuck as error:
        stuck = str(error)
    outside = invariants.strangers(sandbox.foreign, ALLOWED, began_s - 1)
    violations = search.violations + [stuck] * bool(stuck) + [f"written outside: {path}" for path in outside[:3]]
    row = {
        **_row(witness, violations),
        **summary(search), "faults": len(notes), "notes": notes, "back_s": [round(s, 1) for s in back_s],
        "orphans_s": round(max(search.orphans_s, default=0.0), 2), "outside": len(outside),
    }  # fmt: skip
    search.close()
    return row


def _strike(search: RealSearch, kind: str, chance: random.Random) -> str | None:
    for _ in range(_TRIES):
        every_search = [name for name in FAULTS if name not in ("changed teacher", "clock set", "hanging step")]
        name = chance.choice(every_search) if kind == "mixed" else kind
        if note := FAULTS[name](search):
            return f"{name}: {note}" if kind == "mixed" else note
        search.reap()
        if search.complete:
            return None
        time.sleep(0.25)
    return None


def _row(witness: invariants.Witness, violations: list[str]) -> dict[str, Any]:
    counts = witness.violations
    return {
        "lost": counts["lost"] + counts["changed"],
        "repeated": counts["repeated"],
        "other": {k: n for k, n in counts.items() if k not in ("lost", "changed", "repeated")},
        "violations": [*witness.notes, *violations],
    }


def finished_study(sandbox: Sandbox, kind: str, faults: int, seed: int, truth: dict[str, Any]) -> dict[str, Any]:
    """Run a small search to its end, damage its files, and run commands on them; return the episode's row."""
    chance = random.Random(seed)
    search = RealSearch(sandbox, 8, chance)
    shutil.copytree(truth["cache"], sandbox.cache, dirs_exist_ok=True)
    witness = invariants.Witness(search.database, sandbox.run / "weights")
    search.start()
    search.end()
    witness.look()
    notes, violations = damaged_files.strike(search, kind, faults, chance)
    witness.end()
    search.close()
    return {**_row(witness, search.violations + violations), **summary(search), "faults": len(notes), "notes": notes}


def synthetic_study(sandbox: Sandbox, kind: str, faults: int, seed: int, postgres: bool) -> dict[str, Any]:
    """Run the study loop with synthetic training under faults; return the episode's row."""
    chance = random.Random(seed)
    drifting = kind == "clock set"
    more = {"environment": sandbox.environment(drifting), "clock": sandbox.clock if drifting else None}
    budget = 5 * faults + 10
    back_s, notes, stuck = [], [], []
    right = loop_study.undisturbed(sandbox.folder, budget + 20)
    with loop_study.loop_study(sandbox.folder, budget, 0.1, chance, postgres, **more) as study:
        study.witness.architectures = right
        try:
            study.start_driver()
            for _ in range(faults):
                study.wait_for_report()
                time.sleep(chance.uniform(0, 1.0))
                if study.over:
                    break
                name = chance.choice(_every_loop_fault(postgres, drifting)) if kind == "mixed" else kind
                if note := loop_study.FAULTS[name](study):
                    notes.append(f"{name}: {note}" if kind == "mixed" else note)
                    back_s.append(study.wait_for_report())
                    study.look()
            study.end(900)
        except loop_study.Broken as error:
            stuck.append(str(error))
        row = _row(study.witness, study.violations + stuck)
    return {
        **row, "trials": len(study.witness.ended), "retried": study.cut_off(), "failed": 0, "faults": len(notes),
        "notes": notes, "back_s": [round(s, 1) for s in back_s],
    }  # fmt: skip


def _every_loop_fault(postgres: bool, drifting: bool) -> list[str]:
    unfit = {"full disk" if postgres else "kill database", *([] if drifting else ["clock set"])}
    return [name for name in loop_study.FAULTS if name not in unfit]


def own_teacher(sandbox: Sandbox, settings: list[str]) -> list[str]:
    """Write random weights of a small network, and return the settings with it as the teacher."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    name, path = "test_resnet.r160_in1k", sandbox.folder / "teacher.safetensors"
    save_file(timm.create_model(name.partition(".")[0]).state_dict(), path)
    settings = [*settings]
    settings[settings.index("--teachers") + 1] = f"{name}@64"
    return [*settings, "--teacher-weights", f"{name}={path}"]


def truth_of(sandbox: Sandbox, budget: int) -> dict[str, Any]:
    """Run a search without faults; return its architectures and the scores of their rungs."""
    search = RealSearch(sandbox, budget, random.Random(0))
    search.start()
    search.end(3000)
    records = {number: trial.record for number, trial in search.trials().items()}
    return {
        "architectures": {number: record["arch_id"] for number, record in records.items()},
        "scores": {r["arch_id"]: [rung["score"] for rung in r["rungs"]] for r in records.values() if r["rungs"]},
        "cache": str(sandbox.cache),
    }


def main() -> int:
    """Run one episode in the sandbox that `sandbox.command` has made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("episode", type=json.loads)
    args = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the campaign may run under nohup, which children would inherit
    sandbox = Sandbox(args.folder)
    sandbox.enter()
    what = args.episode
    began_s = time.monotonic()
    if what["level"] == "truth":
        row = truth_of(sandbox, what["budget"])
    elif what["level"] in ("SQLite", "PostgreSQL"):
        row = synthetic_study(sandbox, what["kind"], what["faults"], what["seed"], what["level"] == "PostgreSQL")
    elif what["level"] == "cluster":
        row = cluster.run(sandbox.folder / "cluster", what["faults"], what["seed"])
        row |= _row(row.pop("witness"), row["violations"])
    else:
        truth = json.loads(Path(what["truth"]).read_text())
        run = finished_study if what["level"] == "files" else real_search
        row = run(sandbox, what["kind"], what["faults"], what["seed"], truth)
    print(json.dumps({**row, "seconds": round(time.monotonic() - began_s, 1)}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
