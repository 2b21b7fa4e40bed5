"""Train what a race did not, to see whether its winner is the fastest model that holds.

    backbone-nas search --budget 200 --seed 21 --run runs/s21
    python -m experiments.race_oracle --add runs/s21
    python -m experiments.race_oracle --report

`--add` takes the race of a finished search over. Then the baselines to beat and every candidate that is as fast as the
winner and had at least the target's score less `WITHIN` after the search's last rung are trained as the race trains,
with two seeds that it did not use; a candidate that is behind by `FAR` after the first one gets no second. If the
winner is behind, the slower candidates follow. The oracle's choice is the fastest candidate whose mean score is the
target's or above. Rows are saved as they come; without the run folder, the trainings continue from them. Rows with
"variant" are of a search whose comparisons added a bonus for size to the scores (experiments/LOG.md, 2026-12-02).

Hardware:  two cores; about an hour for a search
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
import math
import random
from collections import Counter
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.distillation.parallel import load_rows, save_rows, train_missing
from experiments.horizon_table import trained
from nas.analysis.evidence import gather_evidence
from nas.cache import open_study_targets
from nas.machine import cache_root
from nas.race.arguments import TIMES_LONGER, RaceSettings
from nas.race.plan import plan_race
from nas.storage.store import Store
from nas.study.config import SearchConfig
from nas.study.horizon import LAPTOP_LATER, MIDWAY, later_model
from nas.study.pareto import hypervolume
from nas.study.race import SEEDS, Entrant, Race
from search_space.timm_spec import network_spec

ROWS = Path(__file__).parent / "results" / "race_oracle.json.gz"
WITHIN, FAR = 0.02, 0.015
REPLAYS, SEED_SD = 200, 0.0018
LEADS = (-0.005, 0.0, 0.005, 0.01)
Row = dict[str, Any]
Scores = dict[int, list[float]]


def study_row(run: Path) -> Row:
    """Return what is to be known of a search and its race."""
    with Store.open(run, read_only=True) as store:
        evidence, trainings = gather_evidence(*store.read_all()), store.race_trainings()
    plan = plan_race(evidence, RaceSettings(run))
    result = evidence.record.info.race
    assert plan is not None
    assert result is not None
    assert result.decided
    assert result.target is not None
    at_last_rung = {model.number: model.score for model in evidence.searched}
    models = {
        entrant.number: {
            "name": plan.name(entrant.number), "speed": entrant.speed, "score": at_last_rung[entrant.number],
            "params": plan.trials[entrant.number].params, "baseline": entrant in plan.race.baselines,
            "spec": plan.trials[entrant.number].spec,
        }
        for entrant in (*plan.race.baselines, *plan.race.faster_first)
    }  # fmt: skip
    return {
        "study": run.name,
        "config": plan.config.to_dict(),
        "first_seed": plan.length.first_seed,
        "target": result.target,
        "pick": result.best,
        "chance": result.chance,
        "steps_of_search": sum(t.rungs[-1].steps for t in evidence.record.trials if t.rungs),
        "race": [[t.number, t.seed, [r.steps for r in t.record.rungs], t.record.final_score] for t in trainings],
        "models": {str(number): model for number, model in models.items()},
    }


def scores_of(study: Row, rows: list[Row], rung: int = -1) -> Scores:
    """Return the scores of each model's trainings at a rung, in the order of their seeds."""
    scores: Scores = {}
    for row in sorted(rows, key=lambda row: int(row.get("seed", 0))):
        if row.get("study_name") == study["study"] and row["scores"]:
            scores.setdefault(row["number"], []).append(row["scores"][rung])
    return scores


def missing(study: Row, rows: list[Row]) -> list[tuple[Row, int, int]]:
    """Return the trainings that a study needs next, as the arguments of `train`."""
    models, scores, first = study["models"], scores_of(study, rows), study["first_seed"] + SEEDS
    target, pick = study["target"], study["pick"]
    holds = pick is not None and (pick not in scores or fmean(scores[pick]) >= fmean(scores[target]))
    slowest = models[str(pick)]["speed"] if holds else 0.0
    needed = [n for n in plausible(study) if models[str(n)]["baseline"] or models[str(n)]["speed"] >= slowest]
    if untrained := [(study, number, first) for number in needed if number not in scores]:
        return untrained
    near = [n for n in needed if n == target or scores[n][0] >= scores[target][0] - FAR]
    return [(study, number, first + 1) for number in near if len(scores[number]) < SEEDS]


def plausible(study: Row) -> list[int]:
    """Return the numbers of the baselines to beat and of the candidates to train, the fastest one first."""
    models, target = study["models"], study["models"][str(study["target"])]
    level = target["score"] - WITHIN
    candidates = [int(n) for n, m in models.items() if not m["baseline"] and m["speed"] > target["speed"]]
    return [
        *(int(n) for n, m in models.items() if m["baseline"]),
        *(n for n in candidates if models[str(n)]["score"] >= level),
    ]


def long_scores(rows: list[Row]) -> list[Row]:
    """Return the candidates with the study's score after the last rung, and their means then, midway and after long."""
    found = []
    for study in (row for row in rows if "study" in row):
        trained_as = {row["number"]: row for row in rows if row.get("study_name") == study["study"]}
        begun, midway = scores_of(study, rows, 0), scores_of(study, rows, 1)
        last = study["config"]["distill"]["rung_steps"][-1:]
        for number, scores in scores_of(study, rows).items():
            model = study["models"][str(number)]
            raced = [score for n, _, steps, score in study["race"] if n == number and steps[-1:] == last]
            if not model["baseline"]:
                by_length = {"short": model["score"], "begun": fmean(begun[number]), "midway": fmean(midway[number]),
                             "long": fmean([*scores, *raced])}  # fmt: skip
                found.append(trained_as[number] | by_length)
    return found


def expected(study: Row, rows: list[Row]) -> tuple[dict[int, float], dict[int, float]]:
    """Return what the trained models are expected to score later, from midway and from the end of the trainings."""
    model = LAPTOP_LATER
    assert model.midway is not None
    assert model.later is not None
    begun, midway, last = ({n: fmean(s) for n, s in scores_of(study, rows, rung).items()} for rung in (0, 1, -1))
    params = {number: study["models"][str(number)]["params"] for number in last}
    slope = {n: (midway[n] - begun[n]) / math.log10(MIDWAY * TIMES_LONGER) for n in last}
    final_slope = {n: (last[n] - midway[n]) / math.log10(1 / MIDWAY) for n in last}
    return (
        {n: model.midway.predict(midway[n], params[n], slope[n]) for n in last},
        {n: model.later.predict(last[n], params[n], final_slope[n]) for n in last},
    )


def replayed(study: Row, rows: list[Row]) -> str:
    """Say how races by today's rules end, whose trainings score as the oracle's do, with the noise of a seed.

    A model without long scores has what is predicted of it. What the later model expects is taken for the truth, so
    this tests the order of the trainings, and not the chance.
    """
    midway, later = expected(study, rows)
    models = {int(number): model for number, model in study["models"].items()}
    entrants = {n: Entrant(n, m["speed"], LAPTOP_LATER.predict(m["score"], m["params"])) for n, m in models.items()}
    to_beat = tuple(entrants[n] for n, m in models.items() if m["baseline"])
    rules = later_model(study["config"]["data"])
    race = Race(tuple(e for e in entrants.values() if e not in to_beat), rules, to_beat)
    truth = {n: later.get(n, entrants[n].predicted) for n in models}
    winners, trainings = Counter[str](), []
    for seed in range(REPLAYS):
        rng, found, at_midway = random.Random(seed), dict[int, list[float]](), dict[int, float]()
        while (outcome := race.outcome(found, midway=at_midway)).wanted:
            number = outcome.wanted[0][0]
            if number in midway and number not in at_midway:
                at_midway[number] = midway[number] + rng.gauss(0, SEED_SD)
            else:
                found.setdefault(number, []).append(truth[number] + rng.gauss(0, SEED_SD))
        winners[models[outcome.winner.entrant.number]["name"] if outcome.winner else "none"] += 1
        waiting = at_midway.keys() - found.keys()
        trainings.append(sum(map(len, found.values())) + MIDWAY * len(waiting))
    named = ", ".join(f"{name} in {count}" for name, count in winners.most_common())
    return f"{REPLAYS} races by today's rules: {fmean(trainings):.1f} trainings; winners: {named}"


def expected_front(study: Row) -> str:
    """Say what the search's own scores expect of its candidates after 20,000 steps, relative to eradio_nano."""
    models = study["models"].values()
    base = next(model for model in models if model["name"] == "eradio_nano")
    level = LAPTOP_LATER.predict(base["score"], base["params"])
    points = [
        (LAPTOP_LATER.predict(m["score"], m["params"]) - level, math.log2(m["speed"] / base["speed"]))
        for m in models
        if not m["baseline"]
    ]
    fastest = [2 ** max((speed for lead, speed in points if lead >= least), default=0.0) for least in LEADS]
    named = ", ".join(f"{speed:.2f} by {least:+g}" for speed, least in zip(fastest, LEADS, strict=True))
    return (
        f"of {len(points)} candidates, the fastest that are expected ahead after 20,000 steps: {named}; hypervolume"
        f" above a lead of -0.05 and half the speed: {hypervolume(points, (-0.05, -1.0)):.3f}"
    )


def train(study: Row, number: int, seed: int) -> Row:
    """Train a model of a study as its race does, with a seed; return its row."""
    config = SearchConfig.from_dict(study["config"] | {"seed": seed})
    model = study["models"][str(number)]
    row = {"source": f"{study['study']} {model['name']}", "study_name": study["study"], "number": number}
    return trained(row, network_spec(model["spec"]), config)


def report(study: Row, rows: list[Row]) -> None:
    """Print the models of a study by speed with all scores, and how far the race and the first guess went."""
    models, target = study["models"], study["target"]
    scores = scores_of(study, rows)
    known = [number for number in plausible(study) if number in scores]
    print(f"{study['study']}: {len(known)} of {len(plausible(study))} trained; {len(missing(study, rows))} lack")
    if target not in known:
        return
    models = {n: m | {"speed": m["speed"] / models[str(target)]["speed"]} for n, m in models.items()}
    print("model, multiple of the target's speed, score at the last rung, the race's, the oracle's, lead of their mean")
    raced = {n: [score for number, _, _, score in study["race"] if number == n] for n in known}
    for number in known:
        model, lead = models[str(number)], fmean(scores[number]) - fmean(scores[target])
        cells = [" ".join(f"{s:.4f}" for s in of) or "-" for of in (raced[number], scores[number])]
        print(f"{model['name']} | {model['speed']:.2f} | {model['score']:.4f} | {' | '.join(cells)} | {lead:+.4f}")
    candidates = [number for number in known if not models[str(number)]["baseline"]]
    ahead = [number for number in candidates if fmean(scores[number]) >= fmean(scores[target])]
    oracle = max(ahead, key=lambda number: models[str(number)]["speed"], default=target)
    level = models[str(target)]["score"]
    guess = next((number for number in candidates if models[str(number)]["score"] >= level), target)
    for name, pick in (("race", study["pick"]), ("first guess", guess), ("oracle", oracle)):
        if pick not in scores:
            print(f"{name}: {pick}")
            continue
        pairs = [ours >= theirs for ours, theirs in product(scores[pick], scores[target])]
        share = models[str(pick)]["speed"] / models[str(oracle)]["speed"]
        print(
            f"{name}: {models[str(pick)]['name']}, ahead in {sum(pairs)} of {len(pairs)} pairs, {share:.2f} of the"
            " oracle's speed"
        )
    pairs = [values for values in scores.values() if len(values) == SEEDS]
    deviation = fmean((one - two) ** 2 / 2 for one, two in pairs) ** 0.5
    print(f"deviation between seeds: {deviation:.4f} ({len(pairs)} degrees of freedom)")
    steps = sum(steps[-1] for _, _, steps, _ in study["race"] if steps)
    print(f"steps of the race: {steps:,}, of the search: {study['steps_of_search']:,}")
    print(replayed(study, rows))


def main() -> None:
    """Add studies, train what lacks, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", type=Path, metavar="RUN", help="folder of a raced search to take over")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time (default: 2)")
    parser.add_argument("--report", action="store_true", help="train nothing (default: no)")
    arguments = parser.parse_args()
    rows = load_rows(ROWS)
    if arguments.add:
        rows.append(study_row(arguments.add))
        save_rows(ROWS, rows)
    studies = [row for row in rows if "study" in row]
    if not arguments.report:
        for study in studies:
            open_study_targets(SearchConfig.from_dict(study["config"]), cache_root(None))  # once, by all cores
        while jobs := [job for study in studies for job in missing(study, rows)]:
            train_missing(train, jobs, rows, ROWS, arguments.workers)
    for study in studies:
        report(study, rows)
    for search in (row for row in rows if "models" in row):
        print(f"{search.get('study', search.get('variant'))}: {expected_front(search)}")


if __name__ == "__main__":
    main()
