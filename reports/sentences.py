"""The report's sentences: what a study found, with its numbers, and what the noise does not allow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from statistics import median

from nas.analysis.comparable import measuring_threads, without_threads
from nas.analysis.trial_choice import measurement
from nas.numbers import fixed, plural
from nas.study.config import compares_unit_vectors, is_of_timm
from nas.study.convergence import convergence, is_below_noise
from nas.study.ending import is_exhausted
from nas.study.objectives import on_plane
from nas.study.records import Measurement, StudyInfo, StudyRecord, TrialRecord, TrialState
from nas.study.seed_noise import study_noise
from nas.study.timing_doubts import (
    DOUBTS,
    LAUNCH_BOUND,
    PUBLISHED,
    RUN_DEVIATION,
    SCATTERED,
    TOO_FEW,
    has_interval,
    no_interval,
    timing_doubt,
)
from reports.formatting import brief, capitalized, flat
from reports.metric_agreement import MetricSummary, scores_spatial
from reports.scored_trials import axis, has_published_score, objective_words
from reports.search_course import MIN_RANKED, SearchState, search_state
from reports.summary import StudySummary
from reports.timing_noise import doubts, floor_words, intervals_are_known
from search_space import SPACES

SMALL_PX = 64
BELOW_ZERO = "Below 0, a model predicts worse than the mean of the targets does."
MAX_NAMED_TEACHERS = 5  # teachers; more are counted
OWN_STYLE = "E\u2011RADIO-style"  # a hyphen at which no line breaks
# Our small presets: the baselines of the spaces for images of that side.
OWN_BASELINES = {
    name for space in SPACES.values() if space.image_px == SMALL_PX for name in space.baselines if not is_of_timm(name)
}
MEANINGS = {
    "contended": "other work ran at the same time",
    "throttled": "the processor slowed down, from heat or for lack of power",
    "clock changed": "the clock differed between a model and the reference",
    LAUNCH_BOUND: "the CPU, which launches the GPU’s kernels, decided the speed",
    TOO_FEW: "the time ran out before there were enough samples for an interval",
    SCATTERED: "the samples differ too much for an interval",
}  # of the doubts of timings
TARGETS = {
    "ok": "the 95 % interval is within ±1 %",
    "wide": "the time ran out before the interval was within ±1 %",
}  # of the verdicts of timings that can be trusted


def subject(info: StudyInfo) -> str:
    """Say what the search compares, for a reader who knows nothing of it."""
    names = [brief(name, 40) for name in info.teachers]
    teachers = (
        f"the teacher{'s' * (len(names) > 1)} {_listed(names)}"
        if len(names) <= MAX_NAMED_TEACHERS
        else (f"{len(names)} teachers")
    )
    meanings = {"score": f" (agreement with the features of {teachers})"} if names else {}
    words = [f"{word}{meanings.get(name, '')}" for name, word in objective_words(info).items()]
    return f"A search for vision backbones, compared by {_listed(words)}."


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def score_definition(info: StudyInfo) -> str:
    """Define the score of a study, in one line."""
    if has_published_score(info):
        score = axis(info, "score")
        unit = f", in {brief(score.unit, 40)}" if score.unit else ""
        return f"The score is a value of a table{unit}: {brief(score.label, 160)}. Nothing was trained."
    features = "spatial features" if scores_spatial(info) else "features, averaged over heads,"
    definition = (
        f"The score (distillation score) is the mean explained variance (R²) of the teachers’ {features} on held-out "
        "images. 1 means that the distillation targets are reproduced exactly, 0 is as good as predicting their mean "
        "over all images and positions, and a negative score is worse than that."
    )
    if not scores_spatial(info):
        return f"{definition} {unit_summaries(info)}".rstrip()
    floor = score_floor(info)
    if floor is None:
        return definition
    best = "best prediction that ignores the image (at each position, the mean over all images)"
    return f"{definition} The {best} scores {fixed(floor, 3)}."


def score_floor(info: StudyInfo) -> float | None:
    """Return the score of the best prediction that ignores the image; None for a score or a version without it."""
    return info.chance.get("score") if scores_spatial(info) else None


def unit_summaries(info: StudyInfo) -> str:
    """Say that summaries are compared by their directions; "" where lengths count."""
    if not compares_unit_vectors(info.config):
        return ""
    return (
        "Summaries are trained by their direction alone: student and teacher summaries are scaled to length 1 before "
        "their explained variance is computed."
    )


def device(info: StudyInfo) -> str:
    """Name the device of a search, with the number of its CPUs where it is a CPU."""
    recorded = info.environment.get("device_name") or info.environment.get("device") or info.config.get("device")
    name, cpus = brief(recorded or "unknown device"), info.environment.get("cpus")
    bare = without_threads(name)
    return f"{bare}, {plural(cpus, 'CPU')}" if bare != name and isinstance(cpus, int) else bare


def devices(trials: Iterable[TrialRecord]) -> str:
    """Name the devices that trials were timed on, without the numbers of their threads; "" without any."""
    names = dict.fromkeys(brief(without_threads(t.measurement.device)) for t in trials if t.measurement)
    return " or ".join(names)


def environment_rows(info: StudyInfo) -> list[tuple[str, str]]:
    """Return the recorded environment, each number of threads with what it is of."""
    names = {"threads": "threads of PyTorch before a training or timing sets its own"}
    return [(names.get(name, name), without_threads(value)) for name, value in flat(info.environment)]


def threads(info: StudyInfo, measured: Measurement | None) -> str:
    """Say how many trainings ran at a time, and how many threads a timed network has; "" where both are unknown.

    Args:
        info: description of the study.
        measured: one of its measurements.
    """
    workers = info.sessions[-1].get("workers") if info.sessions else None
    words = [f"{plural(workers, 'training')} at a time"] if isinstance(workers, int) else []
    if measured and measuring_threads(measured):
        words.append(measuring_threads(measured))
    return "; ".join(words)


def picture_words(info: StudyInfo) -> str:
    """Say what the word under an image is."""
    if info.data.get("name") == "builtin":
        return "The word under an image is the class of the glyph that was pasted into it, not of the background."
    return "The word under an image is its class, where that is known."


def trained_once(info: StudyInfo) -> str:
    """Say for how many steps the search trained its models, and what one training each leaves open."""
    steps = f", for {'at most ' * (len(info.rung_steps) > 1)}{info.rung_steps[-1]:,} steps" if info.rung_steps else ""
    return (
        f"The search trained each model once{steps}: scores have no interval, differences in score may be luck, and "
        "longer training may reverse them."
    )


def baseline_words(info: StudyInfo) -> str:
    """Say what a study's baselines are: our small presets, presets of E-RADIO, networks of timm, or some of each."""
    others = set(info.baselines) - OWN_BASELINES
    if others == set(info.baselines) or not all(map(is_of_timm, others)):
        return baseline_kind(info)
    return f"{baseline_kind(info)} (small presets of this program{' and networks of timm' * bool(others)})"


def baseline_kind(info: StudyInfo) -> str:
    """Say in few words what a study's baselines are, for a legend."""
    px = info.config.get("distill", {}).get("img_size")
    size = f" {px} px" if isinstance(px, int) else ""
    if info.baselines and set(info.baselines) <= OWN_BASELINES:
        return f"{OWN_STYLE}{size} baselines"
    if info.baselines and all(name.startswith("eradio") for name in info.baselines):
        return "E\u2011RADIO baselines" + (f" at{size}" if size else "")
    if info.baselines and all(map(is_of_timm, info.baselines)):
        return f"{size.strip()} baselines of timm".strip()
    return f"{size.strip()} baselines".strip()


def noise(info: StudyInfo, summary: StudySummary) -> str:
    """Say what the noise allows to conclude about a front of score and throughput, and what not; "" of any other."""
    two_axes = {o.name for o in info.objectives} == {"score", "throughput"}
    if not summary.front or not two_axes or summary.half_width is None:
        return ""
    if not intervals_are_known(summary.complete, summary.front):
        return "Which models tie in throughput is unknown, because timings cannot be trusted."
    ties = "No two neighbors on the front have overlapping intervals."
    if len(summary.front) == 1:
        ties = "The front has no neighbors to compare."
    if summary.tied_neighbors:
        pairs = plural(summary.tied_neighbors, "pair")
        ties = f"{pairs} of neighbors on the front cannot be distinguished by throughput."
    near = plural(len(summary.near), "dominated model", "dominated models")
    return f"{ties} By the noise of the throughput alone, {near} could be on the front."


def verdicts(summary: StudySummary) -> str:
    """Count the measurements by verdict, and give the width of their intervals; "" where nothing was timed."""
    if summary.half_width is None:
        return ""
    meanings = MEANINGS | TARGETS
    counts = "; ".join(
        f"{count} {brief(verdict, 40)}" + (f" ({meanings[verdict]})" if verdict in meanings else "")
        for verdict, count in summary.verdicts.items()
    )
    median = f"is {100 * summary.half_width:.2f} %" if math.isfinite(summary.half_width) else "is unknown"
    again = ""
    if summary.remeasured:
        were = plural(summary.remeasured, "model was", "models were")
        are = "is" if summary.remeasured == 1 else "are"
        again = (
            f" {were} timed again in the search’s setting, and {are} shown with the newest timing that can be trusted."
        )
    return f"Timings by verdict: {counts}. The median half-width of their 95 % intervals {median}.{again}"


def convergence_words(study: StudyRecord, run: str = "RUN") -> str:
    """Say whether more architectures would gain more than noise, and how `run` continues; "" without expectations."""
    reached, seeds = convergence(study.trials), study_noise(study.info)
    if reached is None:
        return ""
    digits = 2 if round(reached.ratio, 1) == 1 else 1  # beyond 1 or not must be seen
    latest = f"{_beyond_one(reached.ratio, digits)} times" if reached.ratio >= 0.1 else "less than a tenth of"
    gain = (
        f"the next architecture is expected to raise the hypervolume by {latest} what the noise of seeds and timings "
        "alone would"
    )
    noise = (
        f"Noise is the standard deviation of a score between seeds, {seeds.deviation:g} "
        f"(measured after {seeds.steps} steps in the space {seeds.space}), and that of this search’s timings."
    )
    if not is_below_noise(reached.ratio):
        ended = study.info.replayed or is_exhausted(study.info)
        more = "" if ended else f" backbone-nas search --resume {run} --extend N evaluates N more."
        return f"The search has not converged: {gain}.{more} {noise}"
    other_seeds = "; backbone-nas retrain trains the front with other seeds"
    if study.info.replayed or not on_plane(study.info.objectives):
        other_seeds = ""
    evaluated = plural(reached.evaluated or 0, "candidate")
    return (
        f"The search has converged: {gain}. The ratio first fell below 1 after {evaluated}. "
        f"Such a gain cannot be distinguished from a lucky seed{other_seeds}. {noise}"
    )


def _beyond_one(ratio: float, digits: int) -> str:
    """Format a ratio; one below 1 is rounded down, so that it is not printed as 1."""
    shown = f"{ratio:.{digits}f}"
    return f"{1 - 10.0**-digits:.{digits}f}" if ratio < 1 <= float(shown) else shown


def predictions(trials: Sequence[TrialRecord]) -> str:
    """Say how many throughputs are only predicted, and how exact predictions were; "" for a study without any."""
    late = [(t, t.expected.ratio) for t in trials if t.expected is not None and t.expected.ratio is not None]
    unmeasured = sum(t.state is TrialState.STOPPED and t.measurement is None for t, _ in late)
    errors = [abs(ratio / t.measurement.ratio - 1) for t, ratio in late if t.measurement and t.measurement.ratio > 0]
    parts = []
    if unmeasured:
        were = plural(unmeasured, "early-stopped candidate was", "early-stopped candidates were")
        parts.append(
            f"{were} not measured. Their throughput in charts and tables is predicted, and they are on no front."
        )
    if errors:
        were = plural(len(errors), "candidate that was", "candidates that were")
        parts.append(
            f"For {were} measured on the way, the prediction was off by {100 * median(errors):.1f} % in the "
            f"median and by {100 * max(errors):.1f} % at most."
        )
    return " ".join(parts)


def noise_floor_sentence(summary: StudySummary) -> str:
    """Say how far apart two equal models are measured; "" where the reference was not measured against itself."""
    aa = summary.self_comparison
    if aa is None:
        return ""
    m = measurement(aa.trial)
    doubt = timing_doubt(m)
    if not has_interval(m):
        return (
            f"Timed against a copy of itself (A/A), the reference, {brief(aa.name)}, came to {aa.ratio:.2f} times its "
            f"own throughput ({no_interval(m)}): it is unknown which differences are ties."
        )
    doubtful = f" That timing is doubtful ({doubt}): its interval cannot be trusted." if doubt else ""
    return (
        f"Timed against a copy of itself (A/A), the reference, {brief(aa.name)}, came to {aa.ratio:.3f} times its own "
        f"throughput ({aa.ratio_low:.3f} to {aa.ratio_high:.3f}): two models that differ by less than "
        f"{floor_words(aa)} are ties.{doubtful}"
    )


def timed_sizes(trials: Sequence[TrialRecord]) -> str:
    """Say which batch and resolution images/s and latency are of; "" where nothing was timed."""
    timed = [t.measurement for t in trials if t.measurement and t.measurement.arm != PUBLISHED]
    if not timed:
        return ""
    batches, sizes_px = ({getattr(m, name) for m in timed} for name in ("batch", "resolution"))
    batch, px = (" or ".join(map(str, sorted(values))) for values in (batches, sizes_px))
    return f"Images/s are of batch {batch} at {px} px, latencies of batch 1 at {px} px."


def doubt_meanings(trials: Sequence[TrialRecord]) -> str:
    """Explain the doubts about the timings of some trials: "contended: other work ran at the same time"."""
    return "; ".join(
        f"{word}: {MEANINGS[word]}" for word in DOUBTS if any(timing_doubt(t.measurement) == word for t in trials)
    )


def table_notes(info: StudyInfo, trials: Sequence[TrialRecord]) -> tuple[str, ...]:
    """Explain the numbers and the marks in the tables of models.

    Args:
        info: description of the study.
        trials: those in the tables; of a study of published values there is nothing to explain.
    """
    timed = [t for t in trials if t.measurement and t.measurement.arm != PUBLISHED]
    reference = brief(info.reference, 40)
    if not timed:
        return ()
    notes = [
        f"× {reference}: throughput relative to the reference, {reference}. Compare models by this column alone: each "
        "was timed in turns with the reference, under the same load. Images/s and latencies of two models come from "
        "different moments.",
        "A 95 % interval of a throughput has the noise of that one timing. A second timing, in another process, "
        f"differed by a further {100 * RUN_DEVIATION:.1f} % (standard deviation, on a CPU; no GPU was measured). Ties "
        "and speed-ups allow for it.",
    ]
    if any(info.reference in (t.baseline, t.scale) for t in timed):
        notes.append(f"A/A: {reference} is the reference, timed against a copy of itself. Any value but 1 is noise.")
    if doubtful := doubts(timed):
        notes.append(f"† The timing cannot be trusted ({doubtful}; {doubt_meanings(timed)}): its speeds are unknown.")
    return tuple(notes)


def progress(info: StudyInfo, summary: StudySummary, made: datetime) -> str | None:
    """Say how far an unfinished study is; None for a study that has spent its budget and runs no trial.

    Args:
        info: description of the study.
        summary: numbers of the study.
        made: UTC time of the report.
    """
    budget = info.config.get("budget")
    running = summary.counts.get(TrialState.RUNNING, 0)
    search = search_state(info, summary.evaluated, running)
    if search is SearchState.FINISHED:
        return None
    done = plural(summary.evaluated, "evaluation was", "evaluations were")
    if isinstance(budget, int) and summary.evaluated < budget:
        done = f"{summary.evaluated} of {plural(budget, 'evaluation was', 'evaluations were')}"
    trials = f", {plural(running, 'trial was', 'trials were')} running" if running else ""
    state = f"{done} complete{trials} at {made:%Y-%m-%d %H:%M:%S} UTC"
    again = "" if info.replayed else "backbone-nas search --resume continues it"
    if search is SearchState.RUNNING:
        killed = f" If it was killed, {again}." if again else ""
        return f"Unfinished: {state}. While the search runs, it rewrites this file: reload it to see more.{killed}"
    if search is SearchState.ENDED_EARLY:
        reason = brief(info.sessions[-1].get("ending"), 300)
        return f"Ended early: {state}. The search stopped before its budget was spent: {reason}."
    return f"Unfinished: {state}. No search was running{f'; {again}' if again else ''}."


def precision(info: StudyInfo) -> str:
    """Name the precision of the training steps, with the times that chose it where it was chosen by timing."""
    used = brief(info.config.get("distill", {}).get("precision", "not recorded"))
    times = ", ".join(f"{brief(name)} {ms:.1f} ms" for name, ms in info.precision_ms.items())
    return f"{used} (timed steps: {times})" if times else used


def agreement(metrics: Sequence[MetricSummary]) -> tuple[str, ...]:
    """Say which metrics the distillation score agrees with, and which metrics are too close to chance to tell."""
    known = [m for m in metrics if m.tau is not None]
    if metrics and max(m.models for m in metrics) < MIN_RANKED:
        return (too_few_models(metrics),)
    if not known:
        return ()
    agreeing = [m for m in known if m.agrees]
    weak = [m for m in known if m.agrees_weakly]
    opposed = [m for m in known if m.contradicts]
    unclear = [m for m in known if m not in (*agreeing, *weak, *opposed)]
    sentences = []
    if agreeing:
        many = f"{len(agreeing)} of {plural(len(metrics), 'metric')} in the table below"
        sentences.append(f"By Kendall’s τ, the score agrees with {many}: {_taus(agreeing)}.")
    if weak:
        sentences.append(f"It agrees weakly, but by more than chance, with these: {_taus(weak)}.")
    if opposed:
        sentences.append(f"Warning: it ranks the models in the opposite order of these: {_taus(opposed)}.")
    if unclear:
        most = max(m.models for m in unclear)
        models = plural(most, "model")
        sentences.append(f"With {models}, agreement or disagreement with these cannot be shown: {_taus(unclear)}.")
    return (*sentences, *(sentence for m in metrics if (sentence := _chance_sentence(m))))


def too_few_models(metrics: Sequence[MetricSummary]) -> str:
    """Say that the orders of the models prove nothing, because there are too few of them."""
    trained = plural(max(m.models for m in metrics), "model was", "models were")
    return (
        f"{capitalized(trained)} trained to the last rung. {MIN_RANKED} or more are needed to compare their order by "
        "score with that by a metric: the orders of fewer agree by luck."
    )


def _taus(metrics: Sequence[MetricSummary]) -> str:
    return ", ".join(f"{brief(m.label)} (τ {fixed(m.tau, 2)})" for m in metrics)


def _chance_sentence(metric: MetricSummary) -> str:
    label, teacher = brief(metric.label), brief(metric.teacher)
    if metric.teacher_near_chance:
        values = f"{fixed(metric.teacher_value, 3)} against {fixed(metric.chance, 3)}"
        return f"For {label}, even the best teacher, {teacher}, is near chance on these images ({values})."
    if metric.models_near_chance:
        values = f"at most {fixed(metric.best, 3)} against {fixed(metric.chance, 3)}"
        best = (
            "" if metric.teacher is None else f" The best teacher, {teacher}, reaches {fixed(metric.teacher_value, 3)}."
        )
        return f"For {label}, all models are near chance ({values}).{best}"
    return ""
