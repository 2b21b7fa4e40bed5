"""Compare the leads of raced models with those after the trainings that a user runs: 20,000 steps in place of 2,700.

    backbone-nas train runs/s22 --trial 196 --train-steps 20000 --seed 1 --run runs/long-196
    backbone-nas train runs/s22 --trial eradio_nano --train-steps 20000 --seed 1 --run runs/long-nano
    python -m experiments.long_trainings --add runs/long-196 runs/long-nano
    python -m experiments.long_trainings

`--add` takes finished trainings over. Then, for each study of `experiments.race_oracle`, its models are compared with
its target: the lead after the race's steps by all trainings of the oracle, what `nas.study.horizon` expects of it after
20,000, and what it is there, by each pair of seeds. Of a model that the oracle did not train, the score of the search
tells what is expected.

Hardware:  two cores; 20 to 45 minutes for a training, two at a time
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from experiments.distillation.parallel import load_rows, save_rows
from experiments.race_oracle import ROWS as RACED
from experiments.race_oracle import expected, scores_of
from nas.storage.store import Store
from nas.study.horizon import LAPTOP_LATER
from search_space.timm_spec import network_spec

ROWS = Path(__file__).parent / "results" / "long_trainings.json"
Row = dict[str, Any]


def row_of(run: Path) -> Row:
    """Return a training's scores by its steps."""
    with Store.open(run, read_only=True) as store:
        study = store.read_all()[0]
    trial, data = study.trials[0], str(study.info.config["data"])
    return {
        "arch_id": trial.arch_id, "data": data.split(":")[0], "seed": study.info.config["seed"], "params": trial.params,
        "images": study.info.config["train_images"], "steps": [rung.steps for rung in trial.rungs],
        "scores": [round(rung.score, 5) for rung in trial.rungs], "metrics": dict(trial.rungs[-1].metrics),
    }  # fmt: skip


def lines() -> list[str]:
    """Return the lines to print."""
    rows, raced, errors = load_rows(ROWS), load_rows(RACED), []
    found = [
        "| study | model | speed | M params | lead, 2,700 | expected later | 20,000 | pairs |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for study in (row for row in raced if "study" in row):
        models, target = study["models"], study["target"]
        numbers = {network_spec(model["spec"]).arch_id: int(number) for number, model in models.items()}
        scores, later = scores_of(study, raced), expected(study, raced)[1]
        first = {int(number): LAPTOP_LATER.predict(model["score"], model["params"]) for number, model in models.items()}
        long: dict[int, list[Row]] = {}
        for row in rows:
            if row["data"] == study["config"]["data"].split(":")[0] and row["arch_id"] in numbers:
                long.setdefault(numbers[row["arch_id"]], []).append(row)
        for number in sorted(long.keys() - {target}):
            by = later if number in later else first
            gained, lead = by[number] - by[target], "-"
            if number in scores:
                lead = f"{fmean(scores[number]) - fmean(scores[target]):+.4f}"
            leads = [a["scores"][-1] - b["scores"][-1] for a, b in product(long[number], long[target])]
            errors.append(fmean(leads) - gained)
            speed, params = models[str(number)]["speed"] / models[str(target)]["speed"], models[str(number)]["params"]
            cells = f"{speed:.2f} | {params / 1e6:.2f} | {lead} | {gained:+.4f}"
            pairs = f"{sum(lead >= 0 for lead in leads)} of {len(leads)}"
            found.append(
                f"| {study['study']} | {models[str(number)]['name']} | {cells} | {fmean(leads):+.4f} | {pairs} |"
            )
    return [*found, f"error of what was expected: {fmean(errors):+.4f} ± {pstdev(errors):.4f} ({len(errors)} models)"]


def main() -> None:
    """Take trainings over, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", type=Path, nargs="+", metavar="RUN", help="folders of trainings to take over")
    if runs := parser.parse_args().add:
        save_rows(ROWS, [*load_rows(ROWS), *map(row_of, runs)])
    print("\n".join(lines()))


if __name__ == "__main__":
    main()
