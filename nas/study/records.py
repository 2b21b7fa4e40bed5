"""What a study knows: plain frozen data that the store writes, the searcher reads and the report draws.

Every record is JSON: ``to_dict`` and ``from_dict`` are exact inverses. Units are in the names.

Where the workers' seconds went, by the trials. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Self

from nas.study.failures import Failure

FORMAT = 2  # of the studies that this version reads and writes


class TrialState(StrEnum):
    """How a trial stands. Only COMPLETE and STOPPED trials count against the budget."""

    RUNNING = "running"
    COMPLETE = "complete"  # trained to the last rung
    STOPPED = "stopped"  # successive halving ended it at a lower rung
    INFEASIBLE = "infeasible"  # broke a hard limit before training
    FAILED = "failed"  # an error, NaN or a lost worker; `reason` says which
    DUPLICATE = "duplicate"  # the sampler asked again for an architecture the study has; never evaluated


def _plain(value: Any) -> Any:
    """What `dataclasses.asdict` makes of a value, in a third of its time: a report reads thousands of records."""
    if isinstance(value, Record):
        return {name: _plain(each) for name, each in vars(value).items()}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(each) for each in value)
    return value


@dataclass(frozen=True)
class Record:
    """Base of the records: conversion to and from plain JSON data."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for ``json.dumps``."""
        return {name: _plain(each) for name, each in vars(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; unknown keys are an error, so that a newer study is not read wrongly."""
        unknown = set(data) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"{cls.__name__}: unknown field(s) {sorted(unknown)}: written by a newer version?")
        return cls(**data)


@dataclass(frozen=True)
class Measurement(Record):
    """Throughput of one backbone, timed interleaved with a reference backbone in one process.

    `arm` names everything that is part of the number beside device, batch and resolution: runtime, precision, layout,
    fused or not, threads. Intervals are 95 % confidence intervals of the median. None is what nobody could know: too
    few samples, a device that doesn't tell, or a record from before it was measured.
    """

    device: str
    arm: str
    batch: int  # that was used
    resolution: int
    throughput_img_s: float
    throughput_low_img_s: float
    throughput_high_img_s: float
    ratio: float  # throughput / reference throughput, paired: the stable number
    ratio_low: float
    ratio_high: float
    reference: str  # arch name of the reference backbone
    reference_img_s: float
    latency_ms: float  # batch 1, median
    peak_memory_mib: float | None  # of tensors
    samples: int
    seconds: float  # what the measurement itself took
    verdict: str  # nas.measure.verdicts: "ok", "wide" (half-width of the ratio's interval over 1 %), "contended", ...
    requested_batch: int | None = None  # memory may have been too small for it
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    reserved_memory_mib: float | None = None  # taken from the system
    driver_memory_mib: float | None = None  # all that the process held on the card
    output_error: float | None = None  # relative, of the worst output, against fp32 eager
    compile_s: float | None = None  # compiling or exporting
    stages_s: dict[str, float] = field(default_factory=dict)  # of a batch, run eagerly: nas.measure.stages
    launch_share: float | None = None  # host time over device time of one call; near 1, launching is what was timed
    energy_j: float | None = None  # of one image, by the whole card
    tries: int = 1  # more than one: the device was slowed down before
    notes: tuple[str, ...] = ()  # what a reader should know beside the verdict
    conditions: dict[str, Any] = field(default_factory=dict)  # nas.measure.conditions: clocks (MHz), power (W), ...

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        return super().from_dict({**data, "notes": tuple(data.get("notes", ()))})


@dataclass(frozen=True)
class RungResult(Record):
    """What a trial was worth after `steps` distillation steps."""

    rung: int
    steps: int
    score: float  # explained variance of the teachers' held-out maps (or all features), averaged over teachers
    teachers: dict[str, dict[str, float]]  # teacher -> head ("summary", "spatial") -> explained variance
    losses: dict[str, float]  # "teacher/head" -> mean training loss over the last third of the rung's steps
    metrics: dict[str, float]  # further metrics, e.g. "knn" (accuracy), "miou"; empty where not evaluated
    seconds: float  # training time spent on this rung's own steps, evaluation included


@dataclass(frozen=True)
class TrialRecord(Record):
    """One architecture in a study."""

    number: int  # Optuna's trial number
    arch_id: str
    spec: dict[str, Any]  # ArchSpec.to_dict()
    state: TrialState
    baseline: str | None = None  # arch name of a reference backbone; a baseline never counts against the budget
    reason: str | None = None  # why infeasible, failed, stopped
    params: int | None = None
    macs: int | None = None  # multiply-accumulates of one image at the study's resolution
    measurement: Measurement | None = None
    rungs: tuple[RungResult, ...] = ()
    finished_s: float | None = None  # seconds since the study's start, over all sessions
    tries: int = 1  # times that it was begun; a driver that was killed and went on does not count
    failure: Failure | None = None  # the last one, also of a trial that is run again

    @property
    def name(self) -> str:
        """The name to show within a study: the baseline's arch name, or `trial N`."""
        return self.baseline or f"trial {self.number}"

    @property
    def score(self) -> float | None:
        """Score at the highest rung reached. Compare only between trials of the same rung."""
        return self.rungs[-1].score if self.rungs else None

    @property
    def final_score(self) -> float:
        """The score at the study's last rung; NaN unless the trial is complete."""
        return self.rungs[-1].score if self.state is TrialState.COMPLETE and self.rungs else math.nan

    @property
    def counts(self) -> bool:
        """Whether it is one of the budget's evaluated architectures."""
        return not self.baseline and self.state in (TrialState.COMPLETE, TrialState.STOPPED)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        plain = dict(data)
        plain["state"] = TrialState(plain["state"])
        if plain.get("measurement") is not None:
            plain["measurement"] = Measurement.from_dict(plain["measurement"])
        plain["rungs"] = tuple(RungResult.from_dict(r) for r in plain.get("rungs", ()))
        plain["failure"] = None if plain.get("failure") is None else Failure(plain["failure"])
        return super().from_dict(plain)


@dataclass(frozen=True)
class Objective(Record):
    """One axis of the search. `reference` is the hypervolume's reference coordinate."""

    name: str  # of nas.study.objectives: "score", "throughput", ...
    label: str  # for axes and tables
    unit: str
    reference: float
    log: bool = False  # hypervolume and plots use log2 of this axis
    minimize: bool = False  # else more is better


@dataclass(frozen=True)
class HeadFacts(Record):
    """What of a teacher's summary or spatial features is distilled."""

    channels: int  # of the teacher's own features
    dims: int  # of the targets made of them
    kept: float  # share of their variance that the targets hold
    cosine: float  # of the stored targets, inverted, against live features; mean over held-out images


@dataclass(frozen=True)
class TeacherFacts(Record):
    """A teacher as the study uses it."""

    what: str  # its network, how it is fed, which features are taken
    heads: dict[str, HeadFacts]  # "summary", "spatial"
    metrics: dict[str, float]  # probes of its own targets: "knn", "probe", "miou", each where there is a truth for it

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        heads = {head: HeadFacts.from_dict(facts) for head, facts in data["heads"].items()}
        return super().from_dict({**data, "heads": heads})


@dataclass(frozen=True)
class StudyInfo(Record):
    """Everything about a study that is not a trial. `config` and the fingerprints decide whether it can go on."""

    name: str
    created: str  # ISO 8601, UTC
    command: str
    config: dict[str, Any]
    environment: dict[str, Any]  # device, CPU, threads, library versions
    objectives: tuple[Objective, ...]  # (score, throughput)
    rung_steps: tuple[int, ...]
    limits: dict[str, float]  # hard limits, e.g. {"max_params": 2e6}
    teachers: dict[str, str]  # name -> fingerprint of its weights and pre-processing
    data: dict[str, str]  # "name", "fingerprint"
    reference: str  # arch name of the reference backbone
    baselines: tuple[str, ...]
    time_spent: dict[str, float] = field(
        default_factory=dict
    )  # where the seconds went: "teachers", "measure", "train rung 0", ...
    sessions: tuple[dict[str, Any], ...] = ()  # one per start or resume: {"started": ISO, "wall_s": float, ...}
    teacher_facts: dict[str, TeacherFacts] = field(default_factory=dict)  # empty in studies of before
    chance: dict[str, float] = field(default_factory=dict)  # metric -> what the best constant guess scores
    space: dict[str, list[Any]] = field(default_factory=dict)  # parameter -> choices; empty in studies of before
    format: int = FORMAT  # changes when another version would read or continue a study wrongly

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        plain = dict(data)
        if (written := plain.get("format")) != FORMAT:
            raise ValueError(f"format {written}: written by another version; this one reads format {FORMAT}")
        plain["objectives"] = tuple(Objective.from_dict(o) for o in plain["objectives"])
        for key in ("rung_steps", "baselines", "sessions"):
            plain[key] = tuple(plain.get(key, ()))
        facts = plain.get("teacher_facts", {})
        plain["teacher_facts"] = {name: TeacherFacts.from_dict(of_teacher) for name, of_teacher in facts.items()}
        return super().from_dict(plain)


@dataclass(frozen=True)
class Study:
    """A study as read back from its storage: all a report needs."""

    info: StudyInfo
    trials: tuple[TrialRecord, ...]


@dataclass(frozen=True)
class Remeasurement(Record):
    """Candidates of a study measured again: on another device, or in another runtime, batch or resolution.

    `setting` must be the same for a later run to continue this one: batch, resolution, arm, seconds, threads,
    reference.
    """

    name: str
    created: str  # ISO 8601, UTC
    command: str
    environment: dict[str, Any]  # device, CPU, threads, library versions
    setting: dict[str, Any]
    floor: Measurement | None = None  # the reference beside itself: what its ratio differs from 1 is noise
    measurements: dict[int, Measurement] = field(default_factory=dict)  # by trial number
    unmeasured: dict[int, str] = field(default_factory=dict)  # trial number -> why it has no number here

    def to_dict(self) -> dict[str, Any]:
        """Plain data; trial numbers are text, as JSON's keys are."""
        plain = super().to_dict()
        return plain | {key: {str(n): v for n, v in plain[key].items()} for key in ("measurements", "unmeasured")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        plain = dict(data)
        if plain.get("floor") is not None:
            plain["floor"] = Measurement.from_dict(plain["floor"])
        plain["measurements"] = {int(n): Measurement.from_dict(m) for n, m in plain["measurements"].items()}
        plain["unmeasured"] = {int(n): reason for n, reason in plain["unmeasured"].items()}
        return super().from_dict(plain)


@dataclass(frozen=True)
class Retraining(Record):
    """A candidate of a study trained again with another seed: other initial weights, another order of the images.

    Its rungs are the study's rungs that are shorter than `steps`, and one at `steps`, of the same training.
    """

    number: int  # of its trial
    seed: int
    steps: int  # to be trained
    created: str  # when it ended: ISO 8601, UTC
    device: str  # name of the device that trained it
    rungs: tuple[RungResult, ...] = ()
    reason: str | None = None  # why it did not reach its last step

    @property
    def score(self) -> float | None:
        """Score after `steps`; None where the training failed."""
        return self.rungs[-1].score if self.rungs and self.reason is None else None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        return super().from_dict({**data, "rungs": tuple(RungResult.from_dict(r) for r in data["rungs"])})


def trial_seconds(trials: Collection[TrialRecord], rung_steps: Sequence[int]) -> dict[str, float]:
    """Seconds of measuring, and of training to each rung."""
    time_spent = {"measure": sum(t.measurement.seconds for t in trials if t.measurement)}
    for rung, steps in enumerate(rung_steps):
        time_spent[f"train to {steps} steps"] = sum(t.rungs[rung].seconds for t in trials if len(t.rungs) > rung)
    return time_spent
