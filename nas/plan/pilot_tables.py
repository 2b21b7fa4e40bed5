"""Print what a pilot proposes and why, or return it as JSON data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from nas.analysis.agreement import RankCorrelation
from nas.analysis.image_choice import MIN_IMAGE_TAU
from nas.analysis.rung_choice import MIN_TAU, MIN_TAU_LOW, RungEvidence
from nas.numbers import fixed, fixed_interval
from nas.plan.pilot import LadderForecast, Pilot
from nas.plan.tables import public_settings, seconds
from nas.study.config import SearchConfig


def show_pilot(pilot: Pilot, console: Console) -> None:
    """Print the rungs, the searches and the images, the notes, and the proposal last."""
    console.print(_rungs(pilot))
    console.print(_searches(pilot))
    if pilot.images:
        console.print(_images(pilot))
    for note in (*_reasons(pilot), *_notes(pilot)):
        console.print(f"- {note}", markup=False)
    console.print(f"proposal: {flags(pilot)}", style="bold", markup=False, highlight=False, soft_wrap=True)


def flags(pilot: Pilot) -> str:
    """Return the proposal as flags of a search."""
    count = pilot.config.val_images if pilot.keeps_images else pilot.val_images
    images = "" if pilot.keeps_images and count == SearchConfig().val_images else f" --val-images {count}"
    return f"--rung-steps {_comma_list(pilot.proposal.rungs)}{images}"


def _comma_list(steps: Sequence[int]) -> str:
    return ",".join(map(str, steps))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _rungs(pilot: Pilot) -> Table:
    last, factors = pilot.rungs[-1], list(pilot.evidence[0].survival) if pilot.evidence else []
    best = [f"best survives,\nbest 1/{factor} stay" for factor in factors]
    models = f"{len(pilot.trainings)} models of {pilot.config.space}"
    table = _table(
        f"Rungs: {models}, trained to {last} steps, seed {pilot.config.seed}",
        "steps", "seconds\na model", f"Kendall's tau\nto {last} steps", "Spearman's rho", *best,
    )  # fmt: skip
    table.add_row("MACs only", "0", _estimate(pilot.size.tau, pilot.size.low, pilot.size.high), "", *[""] * len(best))
    for rung in pilot.evidence:
        k, s = rung.kendall, rung.spearman
        chances = [f"{chance:.0%}" for chance in rung.survival.values()]
        correlations = _estimate(k.tau, k.low, k.high), _estimate(s.rho, s.low, s.high)
        style = "bold" if pilot.first is rung else ""
        table.add_row(str(rung.steps), seconds(rung.seconds), *correlations, *chances, style=style)
    whole = sorted(sum(training.seconds) for training in pilot.trainings)[len(pilot.trainings) // 2]
    table.add_row(str(last), seconds(whole), "", "", *[""] * len(best))
    return table


def _estimate(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "-"
    return fixed(value, 2) + ("" if low is None or high is None else f" ({fixed_interval(low, high, 2)})")


def _searches(pilot: Pilot) -> Table:
    config = pilot.config
    whole = pilot.ladders[-1]
    table = _table(
        f"A search of {config.budget} candidates with {pilot.workers} at a time here, simulated,"
        f" best 1/{config.reduction_factor} stay",
        "rungs", "candidates at\neach rung", "training\nsteps", "search", f"of that to\n{pilot.rungs[-1]} for all",
        "best survives\nall rungs",
    )  # fmt: skip
    for ladder in pilot.ladders:
        table.add_row(
            _comma_list(ladder.rungs),
            " ".join(map(str, ladder.reached)),
            f"{ladder.steps:,}",
            seconds(ladder.wall_s),
            f"{ladder.wall_s / whole.wall_s:.0%}",
            f"{ladder.survival:.0%}",
            style="bold" if ladder is pilot.proposal else "",
        )
    return table


def _images(pilot: Pilot) -> Table:
    columns = [f"tau of two draws,\n{steps} steps" for steps in pilot.images]
    columns += [f"tau to all,\n{pilot.rungs[-1]} steps", f"noise / spread,\n{pilot.rungs[-1]} steps"]
    table = _table("Held-out images", "images", *columns)
    for numbers in zip(*pilot.images.values(), strict=True):
        last = numbers[-1]
        cells = [fixed(each.tau_of_draws, 2, "-") for each in numbers]
        cells += [fixed(last.tau_to_all, 2, "-"), "-" if last.noise is None else f"{last.noise:.0%}"]
        style = "bold" if last.images == pilot.enough else ""
        table.add_row(f"{last.images:,}", *cells, style=style)
    return table


def _reasons(pilot: Pilot) -> list[str]:
    """Return why the proposal is what it is."""
    asked = f"a Kendall's tau of {MIN_TAU:g} or more, and {MIN_TAU_LOW:g} or more at the lower end of its interval"
    last, first, reasons = pilot.rungs[-1], pilot.first, []
    if first is not None:
        reasons.append(
            f"Rungs: from {first.steps} steps on, every measured rung ranks the models as {last} steps do, with"
            f" {asked}. For comparison: on the built-in data the default first rung has a tau of 0.66 (0.43 to 0.84,"
            " 30 models)."
        )
        if pilot.size.tau is not None and first.kendall.tau is not None and first.kendall.tau <= pilot.size.tau:
            reasons.append(
                "The models' MACs alone rank them as well as the first rung does, so that rung tells little."
            )
    else:
        reasons.append(_no_first_rung(pilot, asked))
    if pilot.enough is not None:
        reasons.append(
            f"Images: {pilot.enough:,} held-out images are enough: at the first and the last rung, two separate draws"
            f" of that many rank the models with a tau of {MIN_IMAGE_TAU:g} or more. Downstream metrics and pictures"
            f" use the held-out images, too, and may need more. {_images_cost(pilot)}"
        )
    elif pilot.images:
        reasons.append(
            f"Images: keep all held-out images, because two separate halves of the {pilot.held_out:,} held-out images"
            f" rank the models with a tau below {MIN_IMAGE_TAU:g}. Whether more images would help is unknown."
        )
    return reasons


def _images_cost(pilot: Pilot) -> str:
    """Return what another number of held-out images costs: the cache's key is of train and held-out images together."""
    again = "with another --val-images every teacher runs on all train and held-out images again"
    if pilot.keeps_images:
        asked = f"the cache has the teachers' outputs for --val-images {pilot.config.val_images}"
        return f"The proposal keeps the present number, because {asked}; {again}."
    return f"If a cache of these images and teachers exists, keep its number: {again}."


def _no_first_rung(pilot: Pilot, asked: str) -> str:
    """Return why no rung before the last one is proposed: none keeps the order, or the highest of them loses it."""
    last, kept = pilot.rungs[-1], [rung for rung in pilot.evidence if rung.keeps_order]
    if kept:
        closest = pilot.evidence[-1]
        line = (
            f"{kept[-1].steps} steps rank the models as {last} steps do, with {asked}, but {closest.steps} steps do not"
        )
    else:
        closest = max(pilot.evidence, key=lambda rung: -1.0 if rung.kendall.tau is None else rung.kendall.tau)
        line = f"no rung before the last one ranks the models as {last} steps do, with {asked}; the closest has"
        line += f" {closest.steps} steps"
    return f"Rungs: {line} ({_in_words(closest.kendall)}). So train every candidate to the end{_advice(closest)}."


def _in_words(kendall: RankCorrelation) -> str:
    return _estimate(kendall.tau, kendall.low, kendall.high)


def _advice(closest: RungEvidence) -> str:
    """Return what may narrow an interval that alone is too wide."""
    if closest.kendall.tau is None or closest.kendall.tau < MIN_TAU:
        return ""
    return f", or add models to narrow the interval: --pilot-models {2 * closest.kendall.candidates}"


def _notes(pilot: Pilot) -> list[str]:
    """Return what the pilot assumes and cannot know."""
    config, models = pilot.config, len(pilot.trainings)
    notes = [
        f"Intervals are 95 % intervals by a bootstrap over the {models} models; more models narrow them.",
        "The models are random architectures, spread over the costs of the space. Candidates that a sampler proposes"
        " are closer to each other, so a rung ranks them less well than these.",
        "All models have one seed, as in a search; how much another seed changes the order is not measured here.",
        f"'best survives' is the share of groups of {models} models, drawn from these with replacement, in which the"
        " model with the highest final score is among those that continue. A search compares score and costs together.",
        "'tau of two draws' compares the orders by score on two separate draws of that many held-out images. 'noise /"
        " spread' is the standard deviation of a score over draws, relative to that of the scores between models.",
        "The searches are simulated as in a plan, with the training times of these models and without teachers; a"
        f" measurement counts {config.measure_seconds:g} s. Simulated candidates have the same order at every rung.",
        _training_images(pilot),
    ]
    if pilot.failed:
        named = "; ".join(f"{arch_id}: {reason}" for arch_id, reason in pilot.failed.items())
        notes.append(f"{len(pilot.failed)} of {pilot.models} models failed, and are left out: {named}")
    kept = (
        f"{pilot.folder} keeps the trainings: the same command with a larger --pilot-models trains only the added"
        " models, and with another --budget it trains nothing."
    )
    return [*notes, kept]


def _training_images(pilot: Pilot) -> str:
    """Return how often a training image is seen: fewer of them were not tried."""
    config = pilot.config
    unknown = "How many images to train on is not measured: that would take trainings on fewer images."
    if config.distill.groups:
        return unknown
    seen, stored = pilot.rungs[-1] * config.distill.batch_size, config.train_images * config.views
    line = f"{unknown} A training to the last rung sees {seen:,} images, {seen / stored:.2g} times the {stored:,}"
    return f"{line} stored; of a larger number it would see {seen:,} at most."


def pilot_json(pilot: Pilot) -> dict[str, Any]:
    """Return plain JSON data, with times in seconds."""
    return {
        "settings": public_settings(pilot.config),
        "folder": str(pilot.folder),
        "models": [asdict(training) for training in pilot.trainings],
        "failed": pilot.failed,
        "measured_rungs": list(pilot.rungs),
        "rungs": [
            asdict(rung) | {"survival": {str(factor): chance for factor, chance in rung.survival.items()}}
            for rung in pilot.evidence
        ],
        "macs_only": asdict(pilot.size),
        "searches": [_search_json(ladder) for ladder in pilot.ladders],
        "images": {str(steps): [asdict(each) for each in numbers] for steps, numbers in pilot.images.items()},
        "asked_for": {"tau": MIN_TAU, "tau_low": MIN_TAU_LOW, "image_tau": MIN_IMAGE_TAU},
        "proposal": {
            "rung_steps": list(pilot.proposal.rungs),
            "val_images": pilot.val_images,
            "flags": flags(pilot),
            "reasons": _reasons(pilot),
        },
        "notes": _notes(pilot),
    }


def _search_json(ladder: LadderForecast) -> dict[str, Any]:
    return {
        "rung_steps": list(ladder.rungs),
        "reached": list(ladder.reached),
        "training_steps": ladder.steps,
        "search_s": ladder.wall_s,
        "best_survives": ladder.survival,
    }
