"""Every number of the page against plain loops over the study's records."""

import math
import re
from functools import cache
from itertools import pairwise

import pytest

from nas.analysis.evidence import gather_evidence
from nas.analysis.recommendation import recommend
from nas.study.records import StudyRecord, TrialRecord, TrialState
from reports.page import render
from reports.summary import summarize
from tests.reports import brute_force, synthetic
from tests.reports.awkward import recorded, tied
from tests.reports.brute_force import Page, payload

LABELS = {"knn": "kNN", "probe": "linear probe", "miou": "mIoU"}


STUDIES = {
    "recorded": recorded,
    "ties": lambda: tied(3),
    "no baselines": lambda: synthetic.study(40, seed=2, baselines=False),
    "many trials": lambda: synthetic.study(400, seed=1),
    "other ties": lambda: tied(4),
}


@cache
def study(name: str) -> StudyRecord:
    return STUDIES[name]()


@cache
def page(name: str) -> str:
    return render(study(name), summarize(study(name)))


@cache
def read(name: str) -> Page:
    return Page(page(name))


@pytest.fixture(params=[*list(STUDIES)[:3], *(pytest.param(n, marks=pytest.mark.slow) for n in list(STUDIES)[3:])])
def name(request) -> str:
    return request.param


def baselines(s: StudyRecord) -> list[TrialRecord]:
    return brute_force.trained(s, True)


def called(t: TrialRecord) -> str:
    return t.baseline or f"trial {t.number}"


def test_tiles(name):
    s, tiles = study(name), read(name).tiles
    models = brute_force.trained(s, False)
    reference = tuple(o.reference for o in s.info.objectives)
    evaluated = sum(not t.baseline and t.state in (TrialState.COMPLETE, TrialState.STOPPED) for t in s.trials)
    assert tiles["models on the Pareto front"] == f"{len(brute_force.front(models))} of {evaluated} evaluated"
    volume = brute_force.hypervolume([brute_force.place(t) for t in models], reference)
    assert f"hypervolume is {volume:.4f}" in read(name).words
    darts, error = brute_force.hypervolume_by_chance(
        [brute_force.place(t) for t in brute_force.front(models)], reference
    )
    assert abs(darts - volume) < 4 * error


def printed(trial):
    return float(f"{trial.rungs[-1].score:.3f}")


def test_comparison_with_the_best_baseline(name):
    s, tiles, words = study(name), read(name).tiles, read(name).words
    if not baselines(s):
        assert not [tile for tile in tiles if tile.startswith(("throughput of", "score of"))]
        return
    best = max(baselines(s), key=lambda t: t.rungs[-1].score)
    models = brute_force.trained(s, False)
    good = [t for t in models if t.rungs[-1].score >= best.rungs[-1].score]
    fast = [t for t in models if t.measurement.ratio >= best.measurement.ratio]
    fastest = max(good, key=lambda t: (t.measurement.ratio, t.rungs[-1].score))
    strongest = max(fast, key=lambda t: (t.rungs[-1].score, t.measurement.ratio))
    (speed,) = [text for label, text in tiles.items() if label.startswith(f"throughput of {called(fastest)}")]
    (gain,) = [text for label, text in tiles.items() if label.startswith(f"score of {called(strongest)}")]
    interval = list(re.search(r"([\d.]+) to ([\d.]+)", speed).groups())
    aa = next(t.measurement for t in (*baselines(s), *s.scale) if s.info.reference in (t.baseline, t.scale))
    ratio = fastest.measurement.ratio / best.measurement.ratio
    within_floor = max(ratio, 1 / ratio) <= max(aa.ratio_high, 1 / aa.ratio_low)
    tie = within_floor or float(interval[0]) <= 1 <= float(interval[1])
    times = f"{fastest.measurement.ratio / best.measurement.ratio:.2f}×"
    assert speed.startswith("no difference shown" if tie else times)
    assert float(gain.split()[0]) == pytest.approx(printed(strongest) - printed(best), abs=1e-9)
    for model in (fastest, strongest):
        bounds = [f"{end:.2f}" for end in brute_force.speedup_interval(model.measurement, best.measurement)]
        assert re.search(rf"95 % interval (of the ratio, )?{' to '.join(bounds)}", words)
        assert called(model) in words.replace("Trial", "trial")
        assert model is not fastest or interval == bounds
    assert f"export RUN --trial {fastest.number} " in words


def test_table_of_the_front_and_the_baselines(name):
    s = study(name)
    best = brute_force.front(brute_force.trained(s, False))
    models = [*best, *baselines(s)]
    rows = read(name).table("Pareto front and baselines").body()
    assert [row[""] for row in rows] == [called(t) for t in models]
    for row, t in zip(rows, models, strict=True):
        m = t.measurement
        assert row["score"] == f"{t.rungs[-1].score:.3f}"
        mark = "A/A " if t.baseline == s.info.reference else ""
        interval = f"{m.ratio_low:.3f} to {m.ratio_high:.3f}"
        assert row[f"× {s.info.reference}, 95 % interval"] == f"{mark}{m.ratio:.3f} {interval}"
        assert row["images/s"] == f"{m.throughput_img_s:,.{1 if m.throughput_img_s < 100 else 0}f}", "no false digits"
        assert row["latency ms"] == f"{m.latency_ms:.2f}"
        assert row["params M"] == ("–" if t.params is None else f"{t.params / 1e6:.3f}")
        assert row["MACs M"] == ("–" if t.macs is None else f"{t.macs / 1e6:.1f}")
        for metric, label in LABELS.items():
            if label in row:
                assert row[label] == f"{t.rungs[-1].metrics[metric]:.3f}"
        beaten = sum(brute_force.beats(brute_force.place(f), brute_force.place(t)) for f in models)
        models_ = "model" if beaten == 1 else "models"
        wanted = f"baseline, dominated by {beaten} {models_}" if beaten else "baseline, not dominated"
        recommended = ", recommended" if t == recommend(gather_evidence(s)).trial else ""
        assert row["status"] == (f"Pareto front{recommended}" if t in best else wanted)


def test_what_the_noise_allows(name):
    s, words = study(name), read(name).words
    models = brute_force.trained(s, False)
    best = brute_force.front(models)
    measured = [t.measurement for t in s.trials if t.measurement]
    half = brute_force.median([(m.ratio_high - m.ratio_low) / 2 / m.ratio for m in measured])
    assert words.count(f" {100 * half:.2f} %") == 1
    itself = [t.measurement for t in baselines(s) if called(t) == s.info.reference]
    floor = max([0.0, *(m.ratio_high - 1 for m in itself), *(1 / m.ratio_low - 1 for m in itself)])
    pairs = sum(
        brute_force.over_processes(a.measurement)[0] <= brute_force.over_processes(b.measurement)[1]
        or a.measurement.ratio / b.measurement.ratio - 1 <= floor
        for a, b in pairwise(best)
    )
    summary = summarize(s)
    assert summary.tied_neighbors == pairs
    near = set()
    for t in models:
        own, own_speed = (t.rungs[-1].score, brute_force.over_processes(t.measurement)[1]), t.measurement.ratio
        if t not in best and not any(
            brute_force.beats((f.rungs[-1].score, brute_force.over_processes(f.measurement)[0]), own)
            and brute_force.beats((f.rungs[-1].score, f.measurement.ratio / own_speed - 1), (own[0], floor))
            for f in best
        ):
            near.add(t.number)
    assert {t.trial.number for t in summary.near} == near
    for verdict in {m.verdict for m in measured}:
        assert f"{sum(m.verdict == verdict for m in measured)} {verdict}" in words


def test_hypervolume_after_every_training(name):
    s = study(name)
    counted = [t for t in s.trials if not t.baseline and t.state in (TrialState.COMPLETE, TrialState.STOPPED)]
    counted.sort(key=lambda t: (t.finished_s, t.number))
    reference = tuple(o.reference for o in s.info.objectives)
    models, done = brute_force.trained(s, False), []
    curve = payload(page(name))["datasets"]["curve"]
    assert len(curve) == len(counted)
    for i, (point, t) in enumerate(zip(curve, counted, strict=True), start=1):
        done += [brute_force.place(t)] if t in models else []
        assert point["evaluations"] == i
        assert point["seconds"] == pytest.approx(t.finished_s, rel=1e-5)
        assert point["hypervolume"] == pytest.approx(brute_force.hypervolume(done, reference), rel=1e-5)


def test_rank_correlations_between_rungs(name):
    s = study(name)
    steps = s.info.rung_steps
    rows = read(name).table("Rank correlations").body()
    assert [(row[""], row["to"]) for row in rows] == [
        (f"{steps[a]} steps", f"{steps[b]} steps") for a, b in ((0, 1), (1, 2), (0, 2))
    ]
    for row, (low, high) in zip(rows, ((0, 1), (1, 2), (0, 2)), strict=True):
        pairs = [(t.rungs[low].score, t.rungs[high].score) for t in s.trials if not t.baseline and len(t.rungs) > high]
        assert int(row["candidates"]) == len(pairs)
        assert row["τ"] == f"{brute_force.tau(pairs):.2f}"
        assert as_by_chance(row["p"], pairs)


def as_by_chance(shown: str, pairs: list[tuple[float, float]]) -> bool:
    """Tell whether a p value, shown with two digits, is that of shuffling."""
    p, off = brute_force.chance_of_tau(pairs)
    if shown == "<0.001":
        return p < 0.001 * (1 + off + 0.05)
    return abs(math.log(float(shown) / p)) < math.log1p(off + 0.05)


def test_points_of_the_pictures(name):
    s, data = study(name), payload(page(name))["datasets"]
    points = {p["number"]: p for p in data["points"]}
    front = brute_force.front(brute_force.trained(s, False))
    for t in s.trials:
        shown = t.measurement is not None and (t.rungs or t.state is TrialState.INFEASIBLE)
        assert (t.number in points) is bool(shown)
        if not shown:
            continue
        point, m = points[t.number], t.measurement
        assert (point["kind"] == "Pareto front") is (t in front)
        assert (point["kind"] == "baseline") is (t.baseline is not None)
        for key, value in (("ratio", m.ratio), ("ratio_low", m.ratio_low), ("ratio_high", m.ratio_high)):
            assert point[key] == pytest.approx(value, rel=1e-5)
        assert point["score"] == (pytest.approx(t.rungs[-1].score, rel=1e-5) if t.rungs else None)
    models = {called(t): t for t in (*front, *baselines(s))}
    rows = data["teachers"]
    for row in rows:
        value = models[row["name"]].rungs[-1].teachers[row["teacher"]][row["head"]]
        assert row["score"] == pytest.approx(value, rel=1e-5)
    assert len({(r["name"], r["teacher"], r["head"]) for r in rows}) == len(rows)
    if len(front) <= 16:  # of more models every n-th is drawn
        assert {row["name"] for row in rows} == set(models)


def test_metrics_and_heads(name):
    s = study(name)
    models = brute_force.trained(s, False) + baselines(s)
    best = max(baselines(s), key=lambda t: t.rungs[-1].score, default=None)
    rows = (
        {row[""]: row for row in read(name).table("Score and downstream metrics").body()}
        if models[0].rungs[-1].metrics
        else {}
    )
    for metric, label in LABELS.items():
        values = [(t.rungs[-1].score, t.rungs[-1].metrics[metric], t) for t in models if metric in t.rungs[-1].metrics]
        assert (label in rows) is bool(values)
        if not values:
            continue
        top = max(values, key=lambda v: v[1])
        assert int(rows[label]["models"]) == len(values)
        assert rows[label]["τ"] == f"{brute_force.tau([v[:2] for v in values]):.2f}"
        assert as_by_chance(rows[label]["p"], [v[:2] for v in values])
        own = {name: facts.metrics[metric] for name, facts in s.info.teacher_facts.items() if metric in facts.metrics}
        strongest = max(own, key=lambda name: own[name], default=None)
        shown = f"{own[strongest]:.3f} {strongest}" if strongest else "–"
        assert rows[label]["best teacher"] == shown
        assert rows[label]["best model"] == f"{top[1]:.3f} {called(top[2])}"
        assert rows[label]["best baseline"] == (f"{best.rungs[-1].metrics[metric]:.3f}" if best else "–")
        assert rows[label]["chance"] == f"{s.info.chance[metric]:.3f}"
    for row in read(name).table("Teachers").body():
        reached = [(t.rungs[-1].teachers[row[""]][row["head"]], called(t)) for t in models]
        assert (row["best explained variance"], row["by"]) == (f"{max(reached)[0]:.3f}", max(reached)[1])


def test_time_spent_and_failures(name):
    s = study(name)
    total = sum(s.info.time_spent.values())
    rows = read(name).table("Time spent").body()
    purposes = ["teachers" if row[""] == "teacher cache" else row[""] for row in rows]
    assert purposes == sorted(s.info.time_spent, key=lambda purpose: -s.info.time_spent[purpose])
    shares = [f"{100 * s.info.time_spent[purpose] / total:.1f} %" for purpose in purposes]
    assert [row["share"] for row in rows] == shares
    lost = [t for t in s.trials if t.state in (TrialState.FAILED, TrialState.INFEASIBLE)]
    if not lost:
        assert "Reasons of failures" not in [t.label for t in read(name).tables]
        return
    limit = s.info.limits["max_params"]  # trials that broke it have a table of their own
    missed = {t.number for t in lost if t.state is TrialState.INFEASIBLE and t.params is not None and t.params > limit}
    same_reason = [{t.number for t in lost if (t.state, t.reason) == (u.state, u.reason)} for u in lost]
    lost = [t for t, group in zip(lost, same_reason, strict=True) if not group <= missed]
    shown = read(name).table("Reasons of failures").body() if lost else []
    for row in shown:
        same = [t.number for t in lost if (t.state.value, t.reason) == (row[""], row["reason"])]
        assert int(row["count"]) == len(same)
        assert row["trials"].removesuffix(" …") == ", ".join(map(str, same[:12]))
    assert sum(int(row["count"]) for row in shown) == len(lost)
