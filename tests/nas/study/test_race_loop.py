"""The loop of a race: every kill leaves it with the same trainings and the same winner."""

import random
from dataclasses import replace

import pytest

from nas.study.failures import Failure
from nas.study.horizon import HorizonModel
from nas.study.race import Entrant, Race
from nas.study.race_loop import RaceLength, RaceLoop, predicted
from nas.study.records import RaceTraining, RungResult, TrialRecord, TrialState
from tests.nas.study.test_race import FROM_MIDWAY, MODEL, TARGET

RUNGS = (10, 30, 100)  # the second one is midway
# The first one falls behind midway, the second one needs more seeds, and the third one wins.
TRUTH = {0: 0.7, 1: 0.68, 2: 0.702, 3: 0.71, 4: 0.76}
ENTRANTS = tuple(Entrant(n, 10.0 - n, 0.71) for n in (1, 2, 3, 4))
RACE = Race(ENTRANTS, replace(MODEL, midway=FROM_MIDWAY), (TARGET,))
LENGTH = RaceLength(steps=100, images=1000, first_seed=1)
TRIALS = {n: TrialRecord(n, f"arch{n}", {}, TrialState.COMPLETE, baseline=None if n else "target") for n in TRUTH}


class Kept(dict):
    """The stored trainings."""

    def save_race_training(self, training):
        self[training.number, training.seed] = RaceTraining.from_dict(training.to_dict())


def race_loop(stored, **options):
    return RaceLoop(RACE, LENGTH, TRIALS, list(stored.values()), stored, **options)


def score(job, rung):
    return TRUTH[job[0]] + 0.001 * job[1] - 0.1 * (len(RUNGS) - 1 - rung)


def next_rung(loop, record, trained):
    """Train a rung as a worker does, and report it; return the record, and whether the training goes on."""
    job, rung = loop.job(record.number), len(record.rungs)
    trained.append((job, rung))
    result = RungResult(rung, RUNGS[rung], score(job, rung), {}, {}, {}, 1.0)
    state = TrialState.COMPLETE if rung == len(RUNGS) - 1 else TrialState.RUNNING
    record = TrialRecord.from_dict(record.to_dict() | {"rungs": [r.to_dict() for r in (*record.rungs, result)]})
    record = TrialRecord.from_dict(record.to_dict() | {"state": state})
    return record, loop.report(record)


def run(stored, workers=1, kill=lambda: False, rng=None, **options):
    """Run a race to its end, with a new loop after each kill; return the last loop and the rungs that were trained."""
    trained, loop, running = [], race_loop(stored, **options), []
    while not loop.finished:
        while len(running) < workers and (record := loop.next_trial()) is not None:
            done = stored[loop.job(record.number)[0], LENGTH.seed(loop.job(record.number)[1])].record.rungs
            running.append(TrialRecord.from_dict(record.to_dict() | {"rungs": [r.to_dict() for r in done]}))
        if kill():
            loop, running = race_loop(stored, **options), []
            continue
        record = running.pop(0 if rng is None else rng.randrange(len(running)))
        record, goes_on = next_rung(loop, record, trained)
        running += [record] if goes_on else []
    return loop, trained


def test_a_race_trains_what_it_needs_and_names_the_winner():
    stored = Kept()
    loop, trained = run(stored)
    assert loop.outcome.winner.entrant.number == 3
    assert {job for job, _ in trained} == {(0, 0), (1, 0), (2, 0), (2, 1), (0, 1), (3, 0)}
    assert len(trained) == len(set(trained)) == 6 * len(RUNGS) - 1
    assert max(rung for job, rung in trained if job == (1, 0)) == RUNGS.index(LENGTH.midway)
    assert {training.seed for training in stored.values()} == {1, 2}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("workers", [1, 3])
def test_kills_change_nothing(workers, seed):
    expected, alone = run(Kept())
    rng, stored = random.Random(seed), Kept()
    loop, trained = run(stored, workers, lambda: rng.random() < 0.2, rng)
    assert loop.outcome.winner == expected.outcome.winner
    assert set(alone) <= set(trained)
    assert len(trained) == len(set(trained)), "a rung is trained once: its checkpoint outlives a kill"


def test_what_nobody_wants_any_more_ends(monkeypatch):
    """Slower ones are trained beside the first one, and end when it has won: at a rung, or when they are killed."""
    monkeypatch.setitem(TRUTH, 1, 0.75)
    loop = race_loop(Kept())
    target, first, second, third = (loop.next_trial() for _ in range(4))
    for record in (target, first):
        for _ in RUNGS:
            assert loop.is_wanted(third.number)
            record, _ = next_rung(loop, record, [])
    assert loop.outcome.winner.entrant.number == 1
    assert (loop.is_wanted(second.number), loop.next_trial(), loop.running) == (False, None, 2)
    assert next_rung(loop, second, [])[1] is False
    loop.report_lost(third.number, Failure.LOST_WORKER, "killed")
    assert loop.finished
    assert {loop.record(record.number).state for record in (second, third)} == {TrialState.RUNNING}


def failed(record, failure):
    return TrialRecord.from_dict(record.to_dict() | {"state": "failed", "failure": failure, "reason": str(failure)})


def test_a_lost_training_runs_again_and_a_broken_one_has_lost():
    stored = Kept()
    loop = race_loop(stored)
    target = loop.next_trial()
    loop.report_lost(target.number, Failure.LOST_WORKER, "gone")
    assert loop.next_trial().number == target.number
    for _ in RUNGS:
        target, _ = next_rung(loop, target, [])
    first = loop.next_trial()
    assert loop.report(failed(first, Failure.NOT_FINITE)) is False
    assert loop.job(loop.next_trial().number) == (2, 0)
    assert loop.outcome.standings[0].chance == 0


def test_a_race_without_its_target_gives_up_and_goes_on_when_it_is_resumed():
    stored = Kept()
    loop = race_loop(stored)
    loop.report(failed(loop.next_trial(), Failure.NOT_FINITE))
    assert (loop.gave_up, loop.finished, loop.next_trial()) == ("not finite", True, None)
    assert run(stored)[0].outcome.winner.entrant.number == 3


def test_at_the_deadline_nothing_is_begun_and_nothing_lost():
    now, stored = [0.0], Kept()
    loop = race_loop(stored, clock=lambda: now[0], deadline_s=5.0)
    record = loop.next_trial()
    record, goes_on = next_rung(loop, record, [])
    assert goes_on
    now[0] = 6.0
    record, goes_on = next_rung(loop, record, [])
    assert (goes_on, loop.next_trial(), loop.finished, loop.out_of_time) == (False, None, True, True)
    loop, trained = run(stored)
    assert (loop.outcome.winner.entrant.number, trained[0]) == (3, ((0, 0), 2))


def test_another_study_may_have_trained_the_target():
    def finished(record, seed):
        rungs = [RungResult(i, steps, score((0, 0), i), {}, {}, {}, 1.0).to_dict() for i, steps in enumerate(RUNGS)]
        return record.baseline and TrialRecord.from_dict(record.to_dict() | {"state": "complete", "rungs": rungs})

    loop, trained = run(Kept(), finished=finished)
    assert loop.outcome.winner.entrant.number == 3
    assert not [job for job, _ in trained if job[0] == 0]


def test_a_race_against_another_target_mixes_up_no_trainings():
    """It keeps an unfinished training of the race before, and leaves out that race's target."""
    stored = Kept()
    before = race_loop(stored)
    target, first = before.next_trial(), before.next_trial()
    next_rung(before, target, [])
    trials = {n: trial for n, trial in TRIALS.items() if n} | {5: TrialRecord(5, "arch5", {}, TrialState.COMPLETE)}
    race = replace(RACE, baselines=(Entrant(5, 1.0, 0.7),))
    loop = RaceLoop(race, LENGTH, trials, list(stored.values()), stored)
    numbers = {loop.job(record.number): record.number for record in iter(loop.next_trial, None)}
    assert len(set(numbers.values())) == len(numbers) == 5
    assert numbers[1, 0] == first.number
    assert target.number not in numbers.values()


def test_of_equal_scores_the_one_that_rises_is_ahead_later():
    """The rise is that from the last rung of at most half of the steps: the rungs of older studies lie close."""
    later = HorizonModel(0.0, 0.0, 0.0, network_sd=0.001, per_slope=0.5)
    trials = {n: TrialRecord(n, f"arch{n}", {}, TrialState.COMPLETE, params=1) for n in (1, 2)}
    race = Race((Entrant(1, 9.0, 0.76), Entrant(2, 8.0, 0.76)), replace(MODEL, later=later), target_score=0.75)
    stored = [
        RaceTraining(n, 1, 100, 1000, replace(trials[n], number=n, rungs=tuple(map(rung, scores))))
        for n, *scores in ((1, (10, 0.5), (30, 0.66), (100, 0.7)), (2, (10, 0.5), (30, 0.6), (90, 0.72), (100, 0.7)))
    ]
    loop = RaceLoop(race, LENGTH, trials, stored, Kept())
    assert [round(predicted(later, record, 100), 3) for record in loop.trainings.values()] == [0.738, 0.796]
    assert loop.outcome.winner.entrant.number == 2


def rung(of):
    steps, score = of
    return RungResult(0, steps, score, {}, {}, {}, 1.0)
