"""What a table of hybrid backbones shows: agreement of rungs, cost of early stopping, and what predicts scores.

    python -m experiments.hybrid_findings

Reads the published table, nas/replay/hybrid_table.json.gz, and prints:

- Kendall's tau of the scores at each rung with those at the last one, by stem, by kinds of blocks and of the random
  architectures alone, as the others are near-copies of three fronts;
- the hypervolume that is left when only a share of the models at a rung is trained on, chosen by score alone or by
  Pareto rank;
- how well ridge regression predicts the score of models that it has not seen (10 folds) from sizes, from the measured
  throughput and from the choices of the search space, that is, whether the effects of choices add up;
- how well the score agrees with metrics that the students were not trained on, and with those of the best tenth;
- what the front consists of, and how far ahead of the baselines it is, also by means over the seeds, and then among
  architectures with two seeds or more: one training that passes the baseline's score may be a lucky one;
- what two seeds of one architecture differ by, also in the best tenth, in score and in the metrics.

Hardware:  none; under a minute
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from statistics import fmean as mean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.hybrid_table import BASELINES
from nas.replay.hybrid import SPACE, table_objectives
from nas.replay.hybrid_rows import read_rows
from nas.study.config import SearchConfig
from nas.study.pareto import best_first, front, hypervolume, reference_point
from nas.study.records import TrialState
from search_space import SPACES, ArchSpec, find_spec

Row = Mapping[str, Any]
SHARES = (1 / 2, 1 / 3, 1 / 5, 1 / 10)
PENALTIES = np.logspace(-3, 4, 15)
STRIDE_16 = ("conv16", "patch16")  # stems
FOLDS = KFold(10, shuffle=True, random_state=0)
DRAWS = 200  # of the bootstrap


def first_evaluations(rows: Sequence[Row]) -> list[Row]:
    """Return the evaluation with seed 0 of each architecture that was trained to the end."""
    return [row for row in rows if row["state"] == TrialState.COMPLETE and row["seed"] == 0]


def groups(rows: Sequence[Row]) -> dict[str, list[int]]:
    """Return the positions of rows by group: all, the best tenth, each stem, and with or without attention."""
    order = np.argsort([-row["scores"][-1] for row in rows])
    found: dict[str, list[int]] = {"all": list(range(len(rows)))}
    found["best tenth by the last score"] = order[: len(rows) // 10].tolist()
    found["random architectures"] = [i for i, row in enumerate(rows) if row.get("source") == "random"]
    for i, row in enumerate(rows):
        found.setdefault(f"stem {row['spec'].get('stem', 'conv')}", []).append(i)
        found.setdefault("with attention" if has_attention(row) else "convolutions alone", []).append(i)
    return found


def has_attention(row: Row) -> bool:
    """Return whether a block of a row's architecture is an attention block."""
    return any("heads" in stage or stage["block"] == "single_head" for stage in row["spec"]["stages"])


def agreement(scores: NDArray[np.float64]) -> list[tuple[float, float, float]]:
    """Return Kendall's tau of each rung but the last with the last, with a 95 % bootstrap interval over the models."""
    rng, found = np.random.default_rng(0), []
    for rung in range(scores.shape[1] - 1):
        found.append(tau_interval(scores[:, rung], scores[:, -1], rng))
    return found


def tau_interval(
    first: NDArray[np.float64], second: NDArray[np.float64], rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return Kendall's tau of two orders, with a 95 % bootstrap interval over the models."""
    draws = []
    for _ in range(DRAWS):
        chosen = rng.integers(len(first), size=len(first))
        draws.append(kendalltau(first[chosen], second[chosen]).statistic)
    low, high = np.nanpercentile(draws, (2.5, 97.5))
    return float(kendalltau(first, second).statistic), float(low), float(high)


def stopping(rows: Sequence[Row]) -> list[tuple[int, float, str, float, float]]:
    """Return rung, kept share, rule, training steps and hypervolume, as shares of those of training all to the end."""
    steps = SearchConfig().distill.rung_steps
    speeds = [float(np.log2(row["ratio"][0])) for row in rows]
    reference = reference_point(table_objectives())
    finals = [(row["scores"][-1], speed) for row, speed in zip(rows, speeds, strict=True)]
    whole, found = hypervolume(finals, reference), []
    for rung in range(len(steps) - 1):
        seen = [row["scores"][rung] for row in rows]
        orders = {
            "score": np.argsort(np.negative(seen)).tolist(),
            "Pareto rank": best_first(list(zip(seen, speeds, strict=True))),
        }
        for share in SHARES:
            count = max(1, round(share * len(rows)))
            cost = steps[rung] / steps[-1] * (1 - share) + share
            for rule, order in orders.items():
                left = hypervolume([finals[i] for i in order[:count]], reference)
                found.append((steps[rung], share, rule, cost, left / whole))
    return found


def features(rows: Sequence[Row]) -> dict[str, NDArray[np.float64]]:
    """Return the inputs of the regressions by name, a row for each model."""
    logs = np.log2([[row["macs"], row["params"]] for row in rows])
    sizes = np.column_stack([logs, logs**2, logs.prod(axis=1)])
    speed = np.log2([[row["ratio"][0]] for row in rows])
    choices = _choices([ArchSpec.from_dict(row["spec"]) for row in rows])
    return {
        "sizes: log MACs and log parameters, squares and product": sizes,
        "sizes, and log throughput with its square": np.column_stack([sizes, speed, speed**2]),
        "choices of the search space": choices,
        "choices and sizes": np.column_stack([choices, sizes]),
    }


def _choices(specs: Sequence[ArchSpec]) -> NDArray[np.float64]:
    """Return a column for each choice of each gene, 1 where a model has it and the gene has an effect."""
    space = SPACES[SPACE]
    pairs = [(gene.name, choice) for gene in space.genes for choice in gene.choices]
    columns = {pair: i for i, pair in enumerate(pairs)}
    found = np.zeros((len(specs), len(columns)))
    for row, spec in zip(found, specs, strict=True):
        params = space.encode(spec)
        for gene in space.active(params):
            row[columns[gene.name, params[gene.name]]] = 1.0
    return found[:, found.any(axis=0)]


def predicted(inputs: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the score of each model as predicted by a ridge regression of the other folds."""
    model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
    return np.asarray(cross_val_predict(model, inputs, scores, cv=FOLDS))


def pairs_of_seeds(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return the first two evaluations of each architecture that has two."""
    done = {(row["arch_id"], row["seed"]): row for row in rows if row["state"] == TrialState.COMPLETE}
    return [(done[arch, 0], row) for (arch, seed), row in done.items() if seed == 1 and (arch, 0) in done]


def deviation(values: Sequence[tuple[float, float]]) -> float:
    """Return the standard deviation of one of two values, of pairs that should be equal."""
    return float(np.sqrt(0.5 * np.mean(np.diff(values, axis=1) ** 2)))


def report(rows: Sequence[Row]) -> None:
    """Print the tables."""
    first, steps = first_evaluations(rows), SearchConfig().distill.rung_steps
    scores = np.array([row["scores"] for row in first])
    print(f"{len(first)} architectures; tau with the score after {steps[-1]} steps (95 % interval)\n")
    print(f"| models | number | {' | '.join(f'{n} steps' for n in steps[:-1])} |\n|---|--:|{'--:|' * (len(steps) - 1)}")
    for name, chosen in groups(first).items():
        if len(chosen) >= 10:
            cells = [f"{tau:.2f} ({low:.2f} to {high:.2f})" for tau, low, high in agreement(scores[chosen])]
            print(f"| {name} | {len(chosen)} | {' | '.join(cells)} |")
    print("\n| stopped after | kept | by | steps | hypervolume |\n|--:|--:|---|--:|--:|")
    for rung, share, rule, cost, left in stopping(first):
        print(f"| {rung} | 1 / {round(1 / share)} | {rule} | {cost:.2f} | {left:.4f} |")
    print("\n| predicted from | R² | tau | tau in the best tenth |\n|---|--:|--:|--:|")
    last = scores[:, -1]
    best = np.argsort(-last)[: len(last) // 10]
    for name, inputs in features(first).items():
        guess = predicted(inputs, last)
        r2 = 1 - np.sum((guess - last) ** 2) / np.sum((last - last.mean()) ** 2)
        taus = [kendalltau(guess[of], last[of]).statistic for of in (slice(None), best)]
        print(f"| {name} | {r2:.3f} | {taus[0]:.2f} | {taus[1]:.2f} |")
    _print_metrics(first)
    _print_front(first, rows)
    if pairs := pairs_of_seeds(rows):
        _print_seeds(pairs, steps, last[best].min())


def _print_metrics(rows: Sequence[Row]) -> None:
    """Print how well the score agrees with metrics on the held-out images, of all models and of the best tenth."""
    measured = [row for row in rows if row.get("metrics")]
    if not measured:
        return
    best = sorted(measured, key=lambda row: -float(row["scores"][-1]))[: len(measured) // 10]
    print("\n| metric | tau with the score | in the best tenth |\n|---|--:|--:|")
    for name in measured[0]["metrics"]:
        cells = []
        for models in (measured, best):
            cells.append(_tau_cell([(m["metrics"][name], m["scores"][-1]) for m in models]))
        print(f"| {name} | {' | '.join(cells)} |")


def _tau_cell(pairs: Sequence[tuple[float, float]]) -> str:
    first, second = np.array(pairs).T
    return "{:z.2f} ({:z.2f} to {:z.2f})".format(*tau_interval(first, second, np.random.default_rng(0)))


def means_over_seeds(rows: Sequence[Row]) -> list[Row]:
    """Return a row for each architecture with its mean last score and mean throughput over its seeds, and how many."""
    by_arch: dict[str, list[Row]] = {}
    for row in rows:
        if row["state"] == TrialState.COMPLETE:
            by_arch.setdefault(row["arch_id"], []).append(row)
    return [
        found[0]
        | {"scores": [mean(r["scores"][-1] for r in found)], "ratio": [mean(r["ratio"][0] for r in found)]}
        | {"seeds": len(found)}
        for found in by_arch.values()
    ]


def _print_front(rows: Sequence[Row], every: Sequence[Row]) -> None:
    best = [rows[i] for i in front([(row["scores"][-1], row["ratio"][0]) for row in rows])]
    coarse = sum(row["spec"].get("stem") in STRIDE_16 for row in best)
    attending = sum(has_attention(row) for row in best)
    print(f"\nfront: {len(best)} models, {attending} with attention, {coarse} with a stem of stride 16\n")
    print(
        "| baseline | throughput of the fastest that scores as high, over that of the baseline "
        "| with attention | by means | of two seeds or more |"
    )
    print("|---|--:|--:|--:|--:|")
    attend, means = leads(rows, [row for row in rows if has_attention(row)]), means_over_seeds(every)
    by_means, repeated = leads(means, means), leads(means, [row for row in means if row["seeds"] > 1])
    for name, lead in leads(rows, rows).items():
        print(f"| {name} | {lead:.1f} | {attend[name]:.1f} | {by_means[name]:.1f} | {repeated[name]:.1f} |")


def leads(rows: Sequence[Row], among: Sequence[Row]) -> dict[str, float]:
    """Return by baseline the throughput of the fastest of some models that scores as high, over the baseline's."""
    found = {}
    for name in BASELINES:
        arch_id = find_spec(name)[1].arch_id
        for row in rows:
            if row["arch_id"] == arch_id:
                as_good = max(other["ratio"][0] for other in among if other["scores"][-1] >= row["scores"][-1])
                found[name] = as_good / row["ratio"][0]
    return found


def _print_seeds(pairs: Sequence[tuple[Row, Row]], steps: Sequence[int], best: float) -> None:
    print(f"\n| two seeds of {len(pairs)} architectures after | tau | deviation of one score |\n|--:|--:|--:|")
    for rung, count in enumerate(steps):
        scores = [(a["scores"][rung], b["scores"][rung]) for a, b in pairs]
        print(f"| {count} | {kendalltau(*zip(*scores, strict=True)).statistic:.2f} | {deviation(scores):.4f} |")
    top = [(a, b) for a, b in pairs if a["scores"][-1] >= best]
    if len(top) > 2:
        scores = [(a["scores"][-1], b["scores"][-1]) for a, b in top]
        print(f"\ntwo seeds of {len(top)} architectures of the best tenth: tau {_tau_cell(scores)}")
        print(f"\n| metric | two seeds of these {len(top)} |\n|---|--:|")
        for name in top[0][0].get("metrics", ()):
            print(f"| {name} | {_tau_cell([(a['metrics'][name], b['metrics'][name]) for a, b in top])} |")
    speeds = [(np.log2(a["ratio"][0]), np.log2(b["ratio"][0])) for a, b in pairs]
    print(f"\ndeviation of one log2 of the relative throughput: {deviation(speeds):.4f}")


def main() -> None:
    """Print what the rows show."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    report(read_rows())


if __name__ == "__main__":
    main()
