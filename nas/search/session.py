"""The report of a session of ``nas.search``, while it runs and at its end; the time spent and a last line.

``python -m nas.search``: searches a space of backbones and ends with a Pareto report.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from threadpoolctl import threadpool_limits

from nas.backend.worker_spec import WorkerSpec
from nas.cli import (
    StageProgress,
    cache_root,
    clock,
    cpu_count,
    one_line,
)
from nas.command_log import announce
from nas.samplers import make_sampler
from nas.search.arguments import default_workers
from nas.search.progress import SearchProgress
from nas.storage.location import password_of, without_password
from nas.storage.store import Store, StoreError
from nas.study import compatibility
from nas.study.config import ConfigError, SearchConfig
from nas.study.contact_sheet import FOLDER as PICTURES
from nas.study.loop import Listener, StudyLoop
from nas.study.objectives import objectives
from nas.study.records import FORMAT, Objective, StudyInfo, TeacherFacts, TrialRecord, TrialState, trial_seconds
from nas.study.redaction import public_word
from search_space import SPACES

_LOG = logging.getLogger(__name__)
REPORT_EVERY_S = 60.0  # at most, while the search runs
REST = 50  # times as long as the last report took: writing them costs 2 % of the time at most


class LiveReport:
    """Listener that writes the report while the search runs, when a trial has ended and it is time again.

    Args:
        then: the listener that hears of every record first.
        say: shows a line to people.
        now: tells seconds.
    """

    def __init__(
        self, run_dir: Path, then: Listener, say: Callable[[str], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._run_dir, self._then, self._say, self._now = run_dir, then, say, now
        self._due = now() + REPORT_EVERY_S

    def __call__(self, loop: StudyLoop, record: TrialRecord) -> None:
        """Passes the record on; then the report, where it is due. What fails there is said, and the search goes on."""
        self._then(loop, record)
        began = self._now()
        if record.state is TrialState.RUNNING or began < self._due:
            return
        from reports.page import build_report

        try:
            with threadpool_limits(limits=1):  # the other cores train and measure
                build_report(self._run_dir)
        except Exception as error:
            self._say(f"the report could not be written while the search runs: {one_line(error)}")
        ended = self._now()
        self._due = ended + max(REPORT_EVERY_S, REST * (ended - began))


def end(loop: StudyLoop, workers: int, teacher_seconds: float, run_dir: Path, ending: str, console: Console) -> None:
    """Write the time spent, build the report and say how the search ended.

    Args:
        workers: of this session, at a time.
        teacher_seconds: that the teachers' outputs took, if the study does not know it yet.
        ending: in a word or two.
    """
    _close(loop, workers, teacher_seconds)
    _report(loop, run_dir, ending, console)


def _close(loop: StudyLoop, workers: int, teacher_seconds: float) -> None:
    """Write where the workers' seconds went, over all sessions."""
    busy = trial_seconds(loop.trials.values(), loop.info.rung_steps)
    idle = {"waiting and start-up": max(0.0, loop.worker_seconds(workers) - sum(busy.values()))}
    loop.close({"teachers": loop.info.time_spent.get("teachers", teacher_seconds), **busy, **idle}, workers)


def _report(loop: StudyLoop, run_dir: Path, ending: str, console: Console) -> None:
    """Builds the HTML report and say how the search ended."""
    from reports.page import build_report

    size, volume = loop.front_summary()
    counts = ", ".join(
        f"{loop.counts[s]} {s.value}" for s in TrialState if loop.counts[s] and s is not TrialState.RUNNING
    )
    announce(
        f"{ending} after {clock(loop.elapsed_s)}: {loop.evaluated} unique architectures evaluated ({counts}); "
        f"front of {size}, hypervolume {volume:.3f}",
        _LOG,
        console,
    )
    if not loop.trials:
        return
    try:
        print(build_report(run_dir))
    except Exception as error:  # the study is whole; and an interruption on its way must not be lost behind this
        again = f"the report could not be written: {one_line(error)}; for another try: python -m reports {run_dir}"
        announce(again, _LOG, console, logging.WARNING)


class SearchFailed(RuntimeError):
    """A search that cannot go on; one line that says why."""


def hide_password(arguments: dict[str, Any], console: Console) -> None:
    """A password in --database goes where libpq looks for it, for this command alone, and nowhere else."""
    if "database" not in arguments or (password := password_of(arguments["database"])) is None:
        return
    os.environ["PGPASSWORD"] = password
    arguments["database"] = without_password(arguments["database"])
    advice = "put it into ~/.pgpass or PGPASSWORD, for --resume and reports"
    announce(f"the password in --database is not stored: {advice}", _LOG, console)


def search(config: SearchConfig, run_dir: Path, resume: bool, arguments: dict[str, Any], console: Console) -> int:
    from nas.cache import open_study_targets
    from nas.teachers import specs

    config.distill.check_teachers([spec.name for spec in specs(config.teachers, arguments.get("teacher"))])
    progress = StageProgress(console)
    with progress.showing():
        targets = open_study_targets(
            config,
            cache_root(arguments.get("cache")),
            weights=arguments.get("teacher"),
            progress=progress,
            announce=partial(announce, log=_LOG, console=console),
        )
        _check_enough(targets, config)
        _embed_class_names(config, arguments, targets, progress, console)
        facts = {} if resume else _teacher_facts(config, arguments, targets, progress)
    sought = objectives(config.objectives, config.distill.score)
    sampler = make_sampler(config, SPACES[config.space], sought)
    database = arguments.get("database")
    with ExitStack() as stores:
        began = stores.enter_context(Store.open(run_dir, sampler, database)) if resume else None
        if began is not None:
            _refuse_changes(began.info, targets, sought)

        def begin() -> Store:
            if began is None:
                info = _info(config, run_dir, targets, facts)
                return stores.enter_context(Store.create(run_dir, info, sampler, database))
            began.retry_while_unavailable(began.register_driver)  # refuses drivers of two machines on one file
            _extend(began, arguments.get("extend", 0))
            return began

        return _run(begin, None if began is None else began.info, config, run_dir, targets, arguments, console)


def _embed_class_names(
    config: SearchConfig, arguments: dict[str, Any], targets: Any, progress: StageProgress, console: Console
) -> None:
    """For zero-shot accuracies, where a teacher has a text tower; one line says what is missing for them."""
    from nas.distill.evaluation.zero_shot import embed_class_names
    from nas.teachers import specs

    say = partial(announce, log=_LOG, console=console)
    weights = arguments.get("teacher")
    embed_class_names(targets, specs(config.teachers, weights), weights, say=say, progress=progress)


def _check_enough(targets: Any, config: SearchConfig) -> None:
    """A folder may hold fewer images than were asked for."""
    if len(targets.train) < config.distill.largest_batch or len(targets.val) < 2:
        raise ConfigError(
            f"--data: {config.data}: {len(targets.train)} images to train on and {len(targets.val)} held out;"
            f" needed are a batch of {config.distill.largest_batch} and 2"
        )


def _run(
    begin: Callable[[], Store],
    began: StudyInfo | None,
    config: SearchConfig,
    run_dir: Path,
    targets: Any,
    arguments: dict[str, Any],
    console: Console,
) -> int:
    """The search itself. `begin` creates or extends the study, once nothing can refuse the command any more."""
    from nas.backend.ray_tune import (  # ray takes seconds to import: not before the input is known to be good
        open_cluster,
        run_study,
    )
    from nas.measure.environment import recorded_device_kind

    say = partial(announce, log=_LOG, console=console)
    address = arguments.get("address")
    workers = arguments.get("workers") or (None if address else default_workers(config))
    at_a_time = workers or default_workers(config)  # of a cluster whose nodes come and go, this machine's part
    places = _places(config, run_dir, targets, default_workers(config) if address else at_a_time)
    kind = None if began is None else recorded_device_kind(began.environment)
    shown = SearchProgress(console)
    loop: StudyLoop | None = None
    try:
        with open_cluster(places, workers, address=address, kind=kind, say=say) as site:
            store = begin()
            store.notify = say
            loop = StudyLoop(store, LiveReport(run_dir, shown, say))
            with shown.showing():
                run_study(loop, site, time_limit_s=arguments.get("time_limit"))
    except StoreError:
        raise  # where the study cannot be written, there is nothing to close
    except BaseException:
        if loop is not None:
            end(loop, at_a_time, targets.build_seconds, run_dir, "interrupted", console)
        raise
    ending = "gave up" if loop.gave_up else loop.exhausted or "done"
    end(loop, at_a_time, targets.build_seconds, run_dir, ending, console)
    if loop.gave_up:
        raise SearchFailed(loop.gave_up)
    return 0


def _places(config: SearchConfig, run_dir: Path, targets: Any, beside: int) -> WorkerSpec:
    """Of workers, of which so many are on one machine."""
    return WorkerSpec(
        config=json.dumps(config.to_dict()),
        targets_dir=str(targets.path.resolve()),
        samples_dir=str(_made(run_dir / "samples")),
        weights_dir=str(_made(run_dir / "weights")),
        pictures_dir=str(_made(run_dir / PICTURES)),
        checkpoint_dir=str(_made(run_dir / "checkpoints")),
        train_threads=max(1, cpu_count() // beside),
        # One CPU is left to the driver and the system: OpenMP waits for its slowest thread (LOG.md, 2026-11-24).
        measure_threads=max(1, cpu_count() - 1),
        gpus=1.0 if config.device.startswith("cuda") else 0.0,
    )


def _teacher_facts(
    config: SearchConfig, arguments: dict[str, Any], targets: Any, progress: StageProgress
) -> dict[str, TeacherFacts]:
    from nas.distill.evaluation.reference_scores import teacher_facts
    from nas.teachers import specs

    chosen = specs(config.teachers, arguments.get("teacher"))
    return teacher_facts(targets, {spec.name: f"{spec.network}: {spec.preprocessing}" for spec in chosen}, progress)


def _info(config: SearchConfig, run_dir: Path, targets: Any, facts: dict[str, TeacherFacts]) -> StudyInfo:
    from nas.distill.evaluation.reference_scores import chance
    from nas.measure import environment

    return StudyInfo(
        name=run_dir.name,
        created=_now(),
        command="python -m nas.search " + shlex.join(map(public_word, sys.argv[1:])),
        config=config.to_dict(),
        environment=environment(config.device),
        objectives=objectives(config.objectives, config.distill.score),
        rung_steps=config.distill.rung_steps,
        limits=config.limits,
        teachers={name: teacher.fingerprint for name, teacher in targets.teachers.items()},
        data={"name": public_word(config.data), "fingerprint": targets.data_fingerprint},
        reference=config.reference,
        baselines=config.baselines,
        time_spent={"teachers": targets.build_seconds},
        teacher_facts=facts,
        chance=chance(targets),
        space={name: list(values) for name, values in SPACES[config.space].choices().items()},
        format=FORMAT,
    )


def _refuse_changes(info: StudyInfo, targets: Any, sought: Sequence[Objective]) -> None:
    """A study goes on with the teachers, images and objectives that it began with, or not at all."""
    teachers = {name: teacher.fingerprint for name, teacher in targets.teachers.items()}
    changed = compatibility.of_objectives(info, sought)
    changed += compatibility.of_targets(info, teachers, targets.data_fingerprint)
    if changed:
        raise StoreError(f"the study began with other things than it would go on with: {'; '.join(changed)}")


def _extend(store: Store, more: int) -> None:
    def extended(info: StudyInfo) -> StudyInfo:
        return replace(info, config={**info.config, "budget": info.config["budget"] + more})

    if more:
        store.update_info(extended)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
