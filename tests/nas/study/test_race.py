"""The rules of a race: who is trained, who wins, and that neither depends on the order in which trainings end."""

import itertools
import math
import random
from dataclasses import replace
from statistics import NormalDist, fmean

import pytest

from nas.study.horizon import HorizonModel, later_model
from nas.study.race import PASS, Entrant, Race, chance_best

MODEL = HorizonModel(gain=0.1, per_score=0.0, per_doubling=0.01, network_sd=0.01, study_sd=0.1, seed_sd=0.003)
FROM_MIDWAY = replace(MODEL, network_sd=0.004)
TARGET = Entrant(0, 1.0, 0.7)


def race(*predicted, **options):
    """Return a race of entrants 1, 2, ..., the fastest first, against TARGET."""
    entrants = tuple(Entrant(n, 10.0 - n, value) for n, value in enumerate(predicted, 1))
    return Race(entrants[::-1], MODEL, **({"baselines": (TARGET,)} | options))


def run(rules, truth, workers=1, rng=None, seeds=(0.0, 0.0)):
    """Train what a race wants, `workers` at a time, until it is decided; return the outcome and the trainings."""
    scores, running, trained = {}, [], []
    while (outcome := rules.outcome({n: values for n, values in scores.items() if values})).wanted or running:
        running += [job for job in outcome.wanted if job not in running][: workers - len(running)]
        job = running.pop(0 if rng is None else rng.randrange(len(running)))
        if job in trained or job not in outcome.wanted:
            continue
        trained.append(job)
        assert job[1] == len(scores.setdefault(job[0], []))
        scores[job[0]].append(truth[job[0]] + seeds[job[1]])
    return outcome, trained


def test_the_fastest_that_is_ahead_wins_after_the_trainings_that_promise_most():
    """The third one is likely to hold and is trained first; then faster ones, from the chance that makes up for it."""
    entrants = Entrant(1, 20.0, 0.68), Entrant(2, 12.0, 0.705), Entrant(3, 7.0, 0.75), Entrant(4, 6.0, 0.76)
    outcome, trained = run(Race(entrants, MODEL, (TARGET,)), {0: 0.7, 2: 0.71, 3: 0.76})
    assert (outcome.winner.entrant.number, trained) == (2, [(0, 0), (3, 0), (2, 0)])
    assert outcome.winner.chance >= PASS


def test_a_training_that_would_gain_little_is_not_made():
    entrants = Entrant(1, 5.1, 0.7), Entrant(2, 5.0, 0.75)
    outcome, trained = run(Race(entrants, MODEL, (TARGET,)), {0: 0.7, 1: 0.75, 2: 0.75})
    assert (outcome.winner.entrant.number, trained) == (2, [(0, 0), (2, 0)])


def test_what_is_trained_ahead_follows_what_is_likely_and_then_its_opposite():
    rules = race(0.67, 0.715, 0.75, 0.71)
    assert rules.outcome({0: [0.7]}).wanted == ((3, 0), (2, 0), (4, 0))


def test_midway_an_entrant_is_predicted_again_and_may_have_to_wait():
    """The third one promises most; midway it promises less than the second, and is taken up when that has failed."""
    rules = race(0.65, 0.715, 0.73)
    rules = replace(rules, model=replace(MODEL, midway=FROM_MIDWAY))
    target, falls, stays = {0: 0.7}, {3: 0.695}, {3: 0.75}

    def wanted(scores, midway):
        return rules.outcome({n: [score] for n, score in scores.items()}, {}, {0: 0.7} | midway).wanted[:1]

    assert wanted(target, {}) == ((3, 0),)
    assert wanted(target, stays) == ((3, 0),)
    assert wanted(target, falls) == ((2, 0),)
    assert wanted(target | {2: 0.69}, falls | {2: 0.69}) == ((3, 0),)
    assert wanted(target, {3: 0.67, 2: 0.67}) == (), "neither can reach the target any more"


def test_where_the_first_has_not_passed_a_slower_one_is_wanted_that_may():
    first, last = Entrant(1, 3.0, 0.7), Entrant(2, 2.9, 0.688)
    rules = Race((first, last), MODEL, (TARGET,))
    assert rules.outcome({0: [0.7], 1: [0.72]}).wanted == ()
    for close in ([0.702, 0.702], [-math.inf]):
        outcome = rules.outcome({0: [0.7, 0.7], 1: close})
        assert (outcome.wanted, outcome.winner, outcome.best.entrant) == (((2, 0),), None, first)


def test_one_is_trained_to_tell_how_close_it_comes():
    """A small gain in speed is worth no training; the one from which most is expected is trained all the same."""
    entrants = Entrant(1, 1.08, 0.7), Entrant(2, 1.05, 0.69)
    outcome, trained = run(Race(entrants, MODEL, (TARGET,)), {0: 0.7, 1: 0.68})
    assert (outcome.winner, outcome.best.entrant.number, trained) == (None, 1, [(0, 0), (1, 0)])
    assert run(Race((Entrant(1, 9.0, 0.6),), MODEL, (TARGET,)), {0: 0.7})[1] == [(0, 0)], "that one has no chance"


def test_predictions_follow_what_the_study_has_shown():
    """The target scores 0.2 more than was predicted, as all do here: the others are expected to, too."""
    outcome, trained = run(race(0.705), {0: 0.9, 1: 0.91})
    assert (outcome.winner.entrant.number, trained) == (1, [(0, 0), (1, 0)])


def test_what_is_not_known_of_longer_trainings_is_not_for_a_second_seed_to_decide():
    rules = race(0.7)
    rules = replace(rules, model=replace(MODEL, later=replace(MODEL, network_sd=0.01)))
    outcome, trained = run(rules, {0: 0.7, 1: 0.707})
    assert (outcome.winner, outcome.best.entrant.number, trained) == (None, 1, [(0, 0), (1, 0)])
    assert 0.6 < outcome.best.chance < 0.75
    assert run(rules, {0: 0.7, 1: 0.75})[0].winner.entrant.number == 1


def test_a_second_seed_is_trained_only_within_the_noise():
    rules = race(0.7)
    close = {0: 0.7, 1: 0.702}
    outcome, trained = run(rules, close)
    assert (outcome.winner, trained) == (None, [(0, 0), (1, 0), (1, 1), (0, 1)])
    assert outcome.best.chance == rules.chance_ahead([0.702] * 2, [0.7] * 2) < PASS


@pytest.mark.parametrize(
    ("predicted", "of_fast", "target", "winner", "trained"),
    [
        (0.7, 0.69, 20, 3, [(21, 0), (20, 0), (1, 0), (3, 0)]),
        (0.7, 0.71, 21, None, [(21, 0), (20, 0), (1, 0)]),  # entrants slower than the target do not take part
        (0.6, 0.71, 21, None, [(21, 0), (1, 0)]),  # nor is a baseline trained that is unlikely to be the best
    ],
)
def test_the_target_is_the_best_baseline_after_the_long_training(predicted, of_fast, target, winner, trained):
    fast, slow = Entrant(21, 7.5, 0.702), Entrant(20, 1.0, predicted)
    rules = race(0.73, 0.6, 0.73, baselines=(slow, fast))
    outcome, order = run(rules, {20: 0.7, 21: of_fast, 1: 0.65, 2: 0.6, 3: 0.73})
    assert (outcome.target.number, outcome.winner and outcome.winner.entrant.number) == (target, winner)
    assert order == trained


def test_a_failed_training_has_lost():
    outcome, _ = run(race(0.72, 0.72), {0: 0.7, 1: -math.inf, 2: 0.72})
    assert outcome.winner.entrant.number == 2


@pytest.mark.parametrize(
    ("one", "winner"),
    [([0.51], 1), ([0.47, 0.52], 1), ([0.44, 0.45], 2)],  # the target's seeds: 0.50, 0.51
)
def test_by_another_metric_a_winner_is_not_worse_beyond_the_noise_of_seeds(one, winner):
    rules = race(0.72, 0.72, by_metric=True)
    scores = {0: [0.7, 0.7], 1: [0.72] * len(one), 2: [0.72]}
    outcome = rules.outcome(scores, {0: [0.5, 0.51], 1: one, 2: [0.5]})
    assert outcome.winner.entrant.number == winner
    first = rules.outcome({0: [0.7], 1: [0.72]}, {0: [0.5], 1: one[:1]})
    assert first.wanted[:2] == (() if one[0] >= 0.5 else ((1, 1), (0, 1))), "a second seed tells the noise"


def test_an_equal_model_passes_by_another_metric_nine_times_of_ten():
    rng, rules = random.Random(0), race(0.72, by_metric=True)
    drawn = [[[rng.gauss(0.5, 0.01) for _ in range(2)] for _ in range(2)] for _ in range(1000)]
    assert fmean(rules.is_worse(*both) for both in drawn) == pytest.approx(0.1, abs=0.02)


def test_a_score_is_reached_without_a_model_to_beat():
    """The most promising one is trained first: it tells what trainings of this length lead to."""
    rules = race(0.70, 0.72, baselines=(), target_score=0.8)
    outcome, trained = run(rules, {1: 0.82, 2: 0.85})
    assert (outcome.winner.entrant.number, trained) == (1, [(2, 0), (1, 0)])
    one_seed, two = (rules.outcome({2: [0.802] * seeds}).best.chance for seeds in (1, 2))
    assert (one_seed, two) == pytest.approx([NormalDist(0, 0.003).cdf(0.002 * n**0.5) for n in (1, 2)], abs=0.01)


def test_within_limits_the_best_of_the_most_promising_wins():
    rules = race(0.70, 0.72, 0.757, 0.76, baselines=())
    outcome, trained = run(rules, {1: 0.9, 2: 0.72, 3: 0.77, 4: 0.756})
    assert (outcome.winner.entrant.number, trained) == (3, [(4, 0), (3, 0)])


def test_the_best_of_five_is_so_in_as_many_cases_as_its_chance_says():
    """Scores are drawn about true ones, of which nothing else is known; rivals that are close count too."""
    rng, sd, chances, true = random.Random(0), 0.006, [], []
    for _ in itertools.repeat(None, 1000):
        level = {n: rng.gauss(0, 0.006) for n in range(5)}
        means = {n: (value + rng.gauss(0, sd)) / 2 for n, value in level.items()}  # expected, given what is drawn
        first = max(means, key=means.get)
        chances.append(chance_best(first, means, sd / 2**0.5))
        true.append(level[first] == max(level.values()))
    assert fmean(chances) == pytest.approx(fmean(true), abs=0.04)
    assert chance_best(0, {0: 0.7, 1: 0.7, 2: 0.7, 3: 0.7}, sd) == pytest.approx(0.25, abs=0.01)
    assert chance_best(0, {0: 0.7, 1: -math.inf}, sd) == pytest.approx(1)
    assert chance_best(1, {0: 0.7, 1: -math.inf}, sd) == 0


def test_without_a_model_that_is_likely_to_be_the_best_there_is_no_winner():
    outcome, _ = run(race(0.757, 0.76, baselines=()), {1: 0.771, 2: 0.77})
    assert (outcome.winner, outcome.best.entrant.number) == (None, 1)
    assert 0.5 < outcome.best.chance < PASS


@pytest.mark.parametrize(("data", "sd"), [("builtin", 0.0044), ("cifar10", 0.0068), ("imagefolder:photos", 0.0068)])
def test_what_is_expected_later_is_as_uncertain_as_it_was_on_such_images_and_for_the_steps(data, sd):
    steps = math.log(7.4) / math.log(1 / 0.3)  # 2,700 to 20,000 in those from 810 to 2,700
    assert later_model(data).later.network_sd == pytest.approx(sd * steps**0.5)


@pytest.mark.parametrize("seed", range(8))
def test_the_end_does_not_depend_on_the_order_of_trainings(seed):
    rng = random.Random(seed)
    baselines = TARGET, Entrant(20, 3.0, rng.gauss(0.7, 0.01))
    rules = race(*(rng.gauss(0.7, 0.015) for _ in range(8)), baselines=baselines)
    models = (*rules.entrants, *baselines)
    truth = {entrant.number: rng.gauss(entrant.predicted, 0.012) for entrant in models}
    noise = [rng.gauss(0, 0.003), rng.gauss(0, 0.003)]
    expected, alone = run(rules, truth, seeds=noise)
    for workers in (2, 3, 8):
        outcome, trained = run(rules, truth, workers, random.Random(seed), noise)
        assert (outcome.winner, outcome.target) == (expected.winner, expected.target)
        assert set(alone) <= set(trained)


def test_nine_of_ten_winners_are_ahead():
    """By the model's own noise; the races of searches are in docs/results."""
    rng, won = random.Random(0), []
    for _ in itertools.repeat(None, 400):
        rules = race(*(rng.gauss(0.7, 0.01) for _ in range(6)))
        truth = {0: 0.7} | {entrant.number: rng.gauss(entrant.predicted, 0.01) for entrant in rules.entrants}
        scores = {n: [value + rng.gauss(0, 0.003) for _ in range(2)] for n, value in truth.items()}
        winner = rules.outcome(scores).winner
        won += [] if winner is None else [truth[winner.entrant.number] >= truth[0]]
    assert len(won) > 100
    assert fmean(won) >= 0.9
