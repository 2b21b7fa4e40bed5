"""The numbers of the program: costs, statistics, a training, replayed searches, decisions about studies, a report."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backbones import build
from experiments.distillation.parallel import load_rows
from experiments.race_oracle import ROWS as RACED
from experiments.race_oracle import scores_of
from experiments.sample_front import page_data
from nas.analysis.evidence import gather_evidence
from nas.analysis.recommendation import evidence_words, recommend
from nas.analysis.selecting import answer, answer_json
from nas.cache.standardize import Moments, fit, spectrum
from nas.distill.trainer import Distiller
from nas.measure.counts.totals import network_totals
from nas.replay.hybrid import hybrid_config, load_hybrid, replay_search
from nas.samplers import SAMPLERS, make_sampler
from nas.samplers.latency.stage_costs import stage_costs
from nas.storage.store import Store
from nas.study.config import KNOWN_COST, DistillConfig
from nas.study.horizon import later_model
from nas.study.race import Entrant, Race
from nas.study.records import Retraining, StudyRecord, TrialRecord, TrialState
from reports.page import write_page
from search_space import PRESETS, SPACES, ArchSpec, Space, preset
from tests.goldens.plain import plain
from tests.nas.analysis import builders as small
from tests.nas.distill.targets_builder import targets
from tests.nas.study.builders import search_config
from tests.reports import synthetic

BUDGET, ASKED, SPECS, STEPS = 30, 3, 200, 30
RECIPE = DistillConfig(img_size=32, batch_size=16, warmup_steps=2, precision="fp32", rung_steps=(STEPS,))
LIMITS = {"max_params": 1.5e6, "max_latency_ms": 4.0}


def costs(folder: Path) -> Any:
    """Return parameters, MACs and the cost of each stage of random architectures of all spaces, and of the presets."""
    drawn = [(name, SPACES[name].sample(random.Random(f"{name}/{i}"))) for i in range(SPECS) for name in SPACES]
    found = {}
    for name, spec in [*PRESETS.items(), *drawn][:SPECS]:
        stages = [[s.name, s.kind, len(s.operators), s.macs, s.moved, s.weights] for s in stage_costs(spec, 2, 64)]
        found[f"{name} {spec.arch_id}"] = {"totals": plain(network_totals(spec.to_dict(), 64)), "stages": stages}
    return found


def statistics(folder: Path) -> Any:
    """Return PHI-S of features with a large mean and unequal, correlated channels, whole and with fewer dimensions."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 12)) @ rng.normal(size=(12, 12)) * 5 + rng.normal(size=12) * 40
    moments = Moments(12)
    for batch in np.array_split(rows, 7):
        moments.update(batch)
    fitted = {str(dims): fit(spectrum(moments), dims) for dims in (12, 5)}
    return {dims: {"fit": plain(found), "rows": plain(found.apply(rows[:3]))} for dims, found in fitted.items()}


def training(folder: Path) -> Any:
    """Return the losses of each step of a short training, and sums over the weights and their averages."""
    torch.manual_seed(0)
    run = Distiller(build(preset("eradio_femto")), targets(folder), RECIPE, seed=0)
    run.train_until(STEPS)
    sums = {
        name: [float(tensor.double().sum()), float(tensor.double().abs().sum())]
        for name, tensor in run.averaged.state_dict().items()
        if tensor.is_floating_point()
    }
    return {"losses": plain(run.losses), "averaged": sums}


def searches(folder: Path) -> Any:
    """Return what became of each trial in a replayed search by each sampler, with the seconds of a simulated clock."""
    table, found = load_hybrid(), {}
    for sampler in SAMPLERS:
        trials = replay_search(table, hybrid_config(table, sampler, 0, BUDGET), folder / sampler, workers=2)
        found[sampler] = [[t.arch_id, t.state.value, t.reason, len(t.rungs), t.finished_s] for t in trials]
    return found


def studies() -> dict[str, tuple[StudyRecord, list[Retraining]]]:
    """Return studies with their retrainings: made-up ones, and that of the published report."""
    trials = [TrialRecord.from_dict(trial | {"state": TrialState(trial["state"])}) for trial in page_data()["trials"]]
    info = replace(synthetic.info("sample"), config=search_config(space="laptop").to_dict(), rung_steps=(30, 90, 270))
    overturned = [r for n, scores in small.OVERTURNED.items() for r in small.retrained(n, dict(enumerate(scores, 1)))]
    return {
        "small": (small.small_study(), []),
        "overturned": (small.small_study(small.SEARCHED), overturned),
        "random": (synthetic.study(60), []),
        "random, late timings": (synthetic.predicted(synthetic.study(40, seed=1)), []),
        "sample": (StudyRecord(info, tuple(trials)), []),
    }


def proposals(folder: Path) -> Any:
    """Return the next proposals of each sampler in a small study, and of two in larger ones."""
    found: dict[str, Any] = {}
    larger = ("random", "micro", "gp", 1), ("sample", "laptop", KNOWN_COST, ASKED)
    for study, space, sampler, number in (*(("small", "micro", s, ASKED) for s in SAMPLERS), *larger):
        record = studies()[study][0]
        config = replace(search_config(space=space, sampler=sampler), device="cpu")
        made = make_sampler(config, SPACES[space], record.info.objectives)
        with Store.create(folder / study / sampler, replace(record.info, config=config.to_dict()), made) as store:
            fill(store, record, SPACES[space])
            asked = [store.ask(SPACES[space].choices()) for _ in range(number)]
        found[f"{study}, {sampler}"] = [SPACES[space].decode(each.params).arch_id for each in asked]
    return found


def fill(store: Store, study: StudyRecord, space: Space) -> None:
    """Store the trials of a study that can be compared; baselines lie outside of the space."""
    trials = [t for t in study.trials if t.state is TrialState.COMPLETE and t.measurement]
    for number, trial in enumerate(trials):
        spec = ArchSpec.from_dict(trial.spec)
        fixed = space.encode(spec) if space.contains(spec) else None
        store.ask(space.choices() if fixed else {}, fixed=fixed or {})
        values = (trial.final_score, trial.measurement.ratio) if trial.measurement else None
        store.save(replace(trial, number=number), values)


def decisions(folder: Path) -> Any:
    """Return the recommendation of each study, and the answers of `select` without limits and with them."""
    found = {}
    for name, (study, retrainings) in studies().items():
        evidence = gather_evidence(study, retrainings, ())
        best = recommend(evidence)
        answers = {
            str(limits): answer_json(study, answer(evidence, limits), limits, lambda candidate: [])
            for limits in ({}, LIMITS)
        }
        trial = None if best is None else [best.trial.number, best.retrained, evidence_words(best)]
        found[name] = {"recommended": trial, "select": plain(answers)}
    return found


def races(folder: Path) -> Any:
    """Return what the race decides and wants next in three searches, by all long trainings and by the race's own."""
    rows, found = load_rows(RACED), {}
    for study in (row for row in rows if "study" in row and "variant" not in row):
        models, model = study["models"], later_model(study["config"]["data"])
        entrants = {n: Entrant(n, m["speed"], model.predict(m["score"], m["params"])) for n, m in _numbered(models)}
        to_beat = tuple(entrants[n] for n, m in _numbered(models) if m["baseline"])
        race = Race(tuple(e for e in entrants.values() if e not in to_beat), model, to_beat)
        own: dict[int, list[float]] = {}
        for number, _, steps, score in study["race"]:
            if steps[-1:] == study["config"]["distill"]["rung_steps"][-1:]:
                own.setdefault(number, []).append(score)
        all_scores = scores_of(study, rows)
        found[study["study"]] = {
            name: plain(race.outcome(scores)) for name, scores in (("none", {}), ("own", own), ("all", all_scores))
        }
    return found


def _numbered(models: dict[str, Any]) -> list[tuple[int, Any]]:
    return [(int(number), model) for number, model in models.items()]


def reports(folder: Path) -> Any:
    """Return the data of the report's page of two studies, without what is drawn."""
    found = {}
    for name in ("overturned", "random"):
        study, retrainings = studies()[name]
        run = folder / name
        write_page(gather_evidence(study, retrainings, ()), folder / f"{name}.html", run)
        page = page_data(folder / f"{name}.html")
        found[name] = {key: value for key, value in page.items() if key not in ("charts", "trials", "info")}
    return found
