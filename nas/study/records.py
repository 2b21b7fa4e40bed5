"""The records of a study: frozen data that the store writes, the search loop reads and the report shows. Pure.

Every record is JSON: ``to_dict`` and ``from_dict`` are exact inverses. Names end in their unit.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from functools import cache, partial
from types import NoneType, UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from nas.study.failures import Failure
from nas.study.race import PASS
from search_space import NetworkSpec, network_spec

FORMAT = 4  # the format of the studies that this version reads and writes


class TrialState(StrEnum):
    """The state of a trial. Only COMPLETE and STOPPED trials count against the budget."""

    RUNNING = "running"
    COMPLETE = "complete"  # trained to the last rung
    STOPPED = "stopped"  # early-stopped by successive halving at a lower rung
    INFEASIBLE = "infeasible"  # broke a hard limit, or cannot be measured as the others
    FAILED = "failed"  # an error, NaN or a lost worker; `reason` says which
    MEASURED = "measured"  # a comparison network, which is never trained
    DUPLICATE = "duplicate"  # the sampler proposed an architecture that the study has; never evaluated

    @property
    def word(self) -> str:
        """Return the state as people read it."""
        return "early-stopped" if self is TrialState.STOPPED else self.value


def _plain(value: Any) -> Any:
    """Return a value as `dataclasses.asdict` does, in a third of the time: a report reads thousands of records."""
    if isinstance(value, Record):
        return {name: _plain(each) for name, each in vars(value).items()}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(each) for each in value)
    return value


_Convert = Callable[[Any], Any]  # raises ValueError, which says what a value must be
_PLAIN = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class Record:
    """Base of the records, which converts them to and from plain JSON data."""

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data for ``json.dumps``."""
        return {name: _plain(each) for name, each in vars(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build the record from the result of `to_dict`, in which fields with a default may be missing.

        Raises:
            ValueError: A value has another type than its field, one is missing, or a key is unknown, of a newer version
                perhaps. The message names the field.
        """
        if not isinstance(data, Mapping):
            raise _misfit(data, "an object")
        converters, required = _fields_of(cls)  # type: ignore[arg-type]  # a class is hashable
        if unknown := sorted(set(data) - set(converters)):
            raise ValueError(f"{cls.__name__}: unknown field(s) {unknown}: written by a newer version?")
        if missing := [name for name in required if name not in data]:
            raise ValueError(f"{cls.__name__}: field {missing[0]!r} is missing")
        values = {}
        for name, value in data.items():
            try:
                values[name] = converters[name](value)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return cls(**values)


@cache
def _fields_of(kind: type[Record]) -> tuple[dict[str, _Convert], tuple[str, ...]]:
    """Return how the values of each field are converted, and the fields that have no default."""
    hints = get_type_hints(kind)
    required = tuple(f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING)
    return {f.name: _converter(hints[f.name]) for f in fields(kind)}, required


def _converter(hint: Any) -> _Convert:
    """Return a function that checks JSON data and converts it to a type of the records."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is UnionType:
        (only,) = (part for part in parts if part is not NoneType)
        convert = _converter(only)
        return lambda value: None if value is None else convert(value)
    if origin in (tuple, list):
        return partial(_to_sequence, origin, _converter(parts[0]))
    if origin is dict:
        return partial(_to_dict, int if parts[0] is int else str, _converter(parts[1]))
    if hint is float:
        return _to_float
    if hint in _PLAIN:
        return partial(_to_plain, hint)
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_dict
    return hint if isinstance(hint, type) and issubclass(hint, StrEnum) else lambda value: value


def _to_sequence(kind: type, convert: _Convert, value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise _misfit(value, "a list")
    return kind(convert(item) for item in value)


def _to_dict(kind: type, convert: _Convert, value: Any) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _misfit(value, "an object")
    return {kind(key): convert(item) for key, item in value.items()}


def _to_plain(kind: type, value: Any) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _misfit(value, _PLAIN[kind])
    return value


def _to_float(value: Any) -> Any:
    if isinstance(value, float):
        return value
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > sys.float_info.max:
        raise _misfit(value, "a number")
    return value


def _misfit(value: Any, allowed: str) -> ValueError:
    text = repr(value)
    return ValueError(f"{text if len(text) < 40 else f'{text[:40]}...'}: must be {allowed}")


REST = "rest"  # in Measurement.stages_s: the time between the stages


@dataclass(frozen=True)
class Measurement(Record):
    """Throughput of one backbone, timed interleaved with a reference backbone in one process.

    Intervals are 95 % confidence intervals of the median. A value is None if it is unknown: there were too few samples,
    or the device does not report it.

    Attributes:
        device: Name of the device.
        arm: Runtime, precision, layout, form and number of threads.
        batch: Images per call; fewer than `requested_batch` where those did not fit.
        resolution: Side of the images in px.
        throughput_img_s: Images per second.
        throughput_low_img_s: Lower end of its interval.
        throughput_high_img_s: Upper end of its interval.
        ratio: Throughput relative to that of the reference, timed in pairs: the stable number.
        ratio_low: Lower end of its interval.
        ratio_high: Upper end of its interval.
        reference: Name of the reference backbone.
        reference_img_s: Images per second of the reference.
        latency_ms: Median milliseconds of one image, timed between the samples of the throughput; at batch 1 on a CPU
            the inverse of the throughput.
        peak_memory_mib: Memory of tensors at the peak of a forward pass, in MiB.
        samples: Number of timed samples.
        seconds: Duration of the measurement in seconds.
        verdict: Word on whether the timing can be trusted, as "ok", "contended", or "wide" (half-width of the ratio's
            interval over 1 %).
        requested_batch: Images per call that were asked for.
        latency_p95_ms: 95th percentile of the milliseconds of one image.
        latency_p99_ms: 99th percentile of the milliseconds of one image.
        reserved_memory_mib: Memory that PyTorch's allocator reserved on a GPU, in MiB.
        driver_memory_mib: Memory of the whole process on the GPU, in MiB.
        output_error: Relative error of the worst output against fp32 in eager mode.
        compile_s: Seconds of compiling or exporting.
        stages_s: Seconds of each stage, and of the rest, for a batch in eager mode.
        launch_share: Host time over device time of a call; near 1 the time is that of the launches.
        energy_j: Energy of the whole GPU for one image, in joules.
        tries: Number of attempts; the device slowed down during all but the last.
        notes: Remarks on the verdict.
        conditions: Clocks in MHz, power in W, temperatures and other conditions of the measurement.
    """

    device: str
    arm: str
    batch: int
    resolution: int
    throughput_img_s: float
    throughput_low_img_s: float
    throughput_high_img_s: float
    ratio: float
    ratio_low: float
    ratio_high: float
    reference: str
    reference_img_s: float
    latency_ms: float
    peak_memory_mib: float | None
    samples: int
    seconds: float
    verdict: str
    requested_batch: int | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    reserved_memory_mib: float | None = None
    driver_memory_mib: float | None = None
    output_error: float | None = None
    compile_s: float | None = None
    stages_s: dict[str, float] = field(default_factory=dict)
    launch_share: float | None = None
    energy_j: float | None = None
    tries: int = 1
    notes: tuple[str, ...] = ()
    conditions: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RungResult(Record):
    """The evaluation of a trial after `steps` distillation steps."""

    rung: int
    steps: int
    score: float  # distillation score: mean explained variance over the teachers, on held-out images
    teachers: dict[str, dict[str, float]]  # teacher -> head ("summary", "spatial") -> explained variance
    losses: dict[str, float]  # "teacher/head" -> mean training loss over the last third of the rung's steps
    metrics: dict[str, float]  # other metrics, e.g. "knn" (accuracy), "miou"; empty if not evaluated
    seconds: float  # duration of the steps since the rung before, with the evaluation
    train_score: float | None = None  # score on some train images; above `score` by what the model has memorized


@dataclass(frozen=True)
class Expectation(Record):
    """What a sampler expected of an architecture when it proposed it.

    Attributes:
        score: Distillation score at the last rung.
        gain: Hypervolume that the architecture adds to the front.
        repeat_gain: Hypervolume that a second training and timing of a member of the front, a neighbor of the proposal,
            would seem to gain by chance. A `gain` below it may be noise.
        ratio: Throughput relative to that of the reference, where the prediction suffices until the last rung.
        measured_before: Index of the rung before which a trial with such a predicted throughput is measured.
    """

    score: float
    gain: float
    repeat_gain: float
    ratio: float | None = None
    measured_before: int = 1  # of studies that do not say


@dataclass(frozen=True)
class TrialRecord(Record):
    """One architecture in a study, or a comparison network, which the study measures and does not train."""

    number: int  # Optuna's trial number; below 0 for a comparison network
    arch_id: str  # of a network of timm its arch name
    spec: dict[str, Any]  # ArchSpec.to_dict(); empty for a network of timm
    state: TrialState
    baseline: str | None = None  # arch name of a reference backbone, which does not count against the budget
    reason: str | None = None  # for infeasible, failed and early-stopped trials
    params: int | None = None
    macs: int | None = None  # multiply-accumulates for one image at the study's resolution
    measurement: Measurement | None = None
    rungs: tuple[RungResult, ...] = ()
    started_s: float | None = None  # start of the last run, known once it has ended; the clock of `finished_s`
    finished_s: float | None = None  # seconds since the study's start, over all sessions
    worker: str | None = None  # worker process of the last run: "NODE:PROCESS", both numbers without a name
    tries: int = 1  # number of runs; a retry after a failure counts, resuming after the driver was killed does not
    failure: Failure | None = None  # the last one, also of a trial that runs again or is infeasible
    scale: str | None = None  # arch name of a comparison network
    expected: Expectation | None = None  # None without a model of the trials: at the start, for many samplers

    @property
    def network(self) -> NetworkSpec:
        """Return the architecture; SpecError for a network of timm that has no spec."""
        return network_spec(self.spec)

    @property
    def measured_late(self) -> bool:
        """Return whether the trial is measured between two rungs, and only if it passes those before."""
        return self.expected is not None and self.expected.ratio is not None

    @property
    def measured_before_rung(self) -> int:
        """Return the index of the rung before which the trial is measured: 0, or a later one's."""
        return self.expected.measured_before if self.expected is not None and self.measured_late else 0

    @property
    def predicted_ratio(self) -> float | None:
        """Return the predicted ratio of a running or early-stopped trial that has no measurement, else None."""
        if self.expected is None or self.measurement is not None:
            return None
        return self.expected.ratio if self.state in (TrialState.RUNNING, TrialState.STOPPED) else None

    @property
    def name(self) -> str:
        """Return the name to show within the study: the arch name of a baseline or comparison network, or `trial N`."""
        return self.baseline or self.scale or f"trial {self.number}"

    @property
    def score(self) -> float | None:
        """Return the score at the highest rung reached; compare it only between trials of the same rung."""
        return self.rungs[-1].score if self.rungs else None

    @property
    def final_score(self) -> float:
        """Return the score at the study's last rung; NaN unless the trial is complete."""
        return self.rungs[-1].score if self.state is TrialState.COMPLETE and self.rungs else math.nan

    @property
    def counts(self) -> bool:
        """Return whether the trial counts against the budget."""
        return not self.baseline and self.state in (TrialState.COMPLETE, TrialState.STOPPED)


@dataclass(frozen=True)
class Objective(Record):
    """One axis of the search. `reference` is the hypervolume's reference coordinate."""

    name: str  # of nas.study.objectives: "score", "throughput", ...
    label: str  # for axes and tables
    unit: str
    reference: float
    log: bool = False  # hypervolume and plots use log2 of this axis
    minimize: bool = False


@dataclass(frozen=True)
class HeadFacts(Record):
    """Properties of the targets made from a teacher's summary or spatial features."""

    channels: int  # of the features
    dims: int  # of the targets
    kept: float  # share of the features' variance in the targets
    cosine: float  # similarity of features and their reconstruction from the targets; mean over held-out images


@dataclass(frozen=True)
class TeacherFacts(Record):
    """Properties of a teacher in the study."""

    description: str  # of its network, pre-processing and features
    heads: dict[str, HeadFacts]  # "summary", "spatial"
    metrics: dict[str, float]  # probes of its targets: "knn", "probe", "miou", as far as the images have labels


@dataclass(frozen=True)
class RaceResult(Record):
    """How the newest race of a study stands, see `nas.study.race`."""

    steps: int  # of each training
    images: int  # to train on
    seed: int  # the first one
    target: int | None  # number of the trial to beat
    target_score: float | None  # to reach, in place of a trial's
    winner: int | None = None  # number of the trial that won
    best: int | None = None  # the winner, or the trained candidate with the highest chance
    chance: float | None = None  # that `best` is at least as good as the target, or is the best
    later_steps: int | None = None  # after which the chance is expected; None: after `steps`
    decided: bool = False  # whether the race is over
    metric: str | None = None  # in which the winner has to be as good as the target, too
    out_of_reach: tuple[str, ...] = ()  # expected above the target, and to be reached by no candidate

    @property
    def passed(self) -> bool:
        """Return whether `best` is likely enough to hold; races of older versions asked less of some winners."""
        return self.winner is not None and (self.chance or 0.0) >= PASS

    @property
    def decides_at(self) -> int:
        """Return the steps after which the winner is to be as good."""
        return self.later_steps or self.steps


@dataclass(frozen=True)
class StudyInfo(Record):
    """The description of a study: everything but its trials.

    A study can be resumed only with the same `config`, `space` and fingerprints.
    """

    name: str
    created: str  # ISO 8601, UTC
    command: str
    config: dict[str, Any]
    environment: dict[str, Any]  # device, CPU, threads, library versions
    objectives: tuple[Objective, ...]  # (score, throughput)
    rung_steps: tuple[int, ...]
    limits: dict[str, float]  # hard limits, e.g. {"max_params": 2e6}
    teachers: dict[str, str]  # teacher -> fingerprint of its weights and pre-processing
    data: dict[str, str]  # "name", "fingerprint"
    reference: str  # arch name of the reference backbone
    baselines: tuple[str, ...]
    time_spent: dict[str, float] = field(default_factory=dict)  # purpose -> seconds: "measure", "train to 30 steps"
    sessions: tuple[dict[str, Any], ...] = ()  # one for each start or resume: {"started": ISO, "wall_s": float, ...}
    teacher_facts: dict[str, TeacherFacts] = field(default_factory=dict)  # by teacher
    chance: dict[str, float] = field(default_factory=dict)  # metric -> value of the best constant guess (chance level)
    space: dict[str, list[Any]] = field(default_factory=dict)  # parameter -> choices
    precision_ms: dict[str, float] = field(default_factory=dict)  # precision -> ms of a training step; {} if not timed
    race: RaceResult | None = None  # the newest one
    format: int = FORMAT  # a version that would read or continue older studies wrongly has a new one

    @property
    def replayed(self) -> bool:
        """Tell whether the study is that of a replay, which read its results from a table."""
        return "replayed" in self.environment

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build the description from the result of `to_dict`.

        Raises:
            ValueError: The data has another format or an unknown key.
        """
        written = data.get("format") if isinstance(data, Mapping) else None
        if written != FORMAT:
            raise ValueError(f"format {written}: written by another version; this one reads format {FORMAT}")
        if data.get("rung_steps") == []:
            raise ValueError("rung_steps: a study has at least one")
        return super().from_dict(data)


@dataclass(frozen=True)
class RaceTraining(Record):
    """A model of a study, trained for a race: longer, with another seed and with more images than in the search."""

    number: int  # of the trial
    seed: int
    steps: int
    images: int  # to train on
    record: TrialRecord  # of this training; its number is that of the race's job


@dataclass(frozen=True)
class StudyRecord:
    """A study as read from its storage.

    Attributes:
        info: Its description.
        trials: Baselines and sampled architectures.
        scale: Comparison networks, which are measured and not trained: none of `trials` is among them.
        races: Trainings of the study's races, unfinished and failed ones included.
    """

    info: StudyInfo
    trials: tuple[TrialRecord, ...]
    scale: tuple[TrialRecord, ...] = ()
    races: tuple[RaceTraining, ...] = ()

    def race_results(self, steps: int, images: int) -> dict[int, list[RungResult]]:
        """Return each trial's results by the races of one length and number of images, ordered by their seeds."""
        results: dict[int, list[RungResult]] = {}
        for race in sorted(self.races, key=lambda race: race.seed):
            if (race.steps, race.images) == (steps, images) and not math.isnan(race.record.final_score):
                results.setdefault(race.number, []).append(race.record.rungs[-1])
        return results


@dataclass(frozen=True)
class Remeasurement(Record):
    """Candidates of a study, measured again: on another device or in another runtime, batch size or resolution.

    A later command continues a remeasurement only with the same `setting`: batch, resolution, arm, seconds, threads,
    reference.
    """

    name: str
    created: str  # ISO 8601, UTC
    command: str
    environment: dict[str, Any]  # device, CPU, threads, library versions
    setting: dict[str, Any]
    floor: Measurement | None = None  # the reference against itself: a ratio other than 1 is noise
    measurements: dict[int, Measurement] = field(default_factory=dict)  # by trial number
    unmeasured: dict[int, str] = field(default_factory=dict)  # trial number -> why it has no measurement
    dates: dict[int, str] = field(default_factory=dict)  # trial number -> end of its measurement: ISO 8601, UTC

    def measured_at(self, number: int) -> str:
        """Return the time of a trial's measurement; of one without a date, that of the remeasurement."""
        return self.dates.get(number, self.created)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data, with trial numbers as text, as the keys of JSON."""
        plain = super().to_dict()
        return plain | {
            key: {str(n): v for n, v in plain[key].items()} for key in ("measurements", "unmeasured", "dates")
        }


@dataclass(frozen=True)
class Retraining(Record):
    """A candidate of a study, trained again with another seed: other initial weights, another order of the images.

    Its rungs are those of the study that are shorter than `steps`, and one at `steps`, all of one training.
    """

    number: int  # of the trial
    seed: int
    steps: int
    created: str  # end of the training: ISO 8601, UTC
    device: str  # name of the device that trained it
    rungs: tuple[RungResult, ...] = ()
    reason: str | None = None  # why the training failed
    versions: dict[str, str] = field(default_factory=dict)  # of the libraries and of the code, which trained it

    @property
    def score(self) -> float | None:
        """Return the score after `steps`; None if the training failed."""
        return self.rungs[-1].score if self.rungs and self.reason is None else None


def trial_seconds(trials: Collection[TrialRecord], rung_steps: Sequence[int]) -> dict[str, float]:
    """Return the seconds of measuring, and of training to each rung, by purpose."""
    seconds = {"measure": sum(t.measurement.seconds for t in trials if t.measurement)}
    for rung, steps in enumerate(rung_steps):
        seconds[f"train to {steps} steps"] = sum(t.rungs[rung].seconds for t in trials if len(t.rungs) > rung)
    return seconds
