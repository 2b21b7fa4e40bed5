"""``python -m nas.search``: searches a space of backbones and ends with a Pareto report."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from nas import changes
from nas.arguments import check_flags, default_workers, parser, wishes
from nas.command import exit_code
from nas.config import ConfigError, SearchConfig
from nas.contact_sheet import FOLDER as PICTURES
from nas.ending import LiveReport, end
from nas.objectives import objectives
from nas.places import cache_root, checkpoint_interval_s, cpu_count
from nas.progress import SearchProgress, StageProgress, stderr_console
from nas.records import FORMAT, Objective, StudyInfo, TeacherFacts
from nas.redaction import public_word
from nas.running.places import Places
from nas.samplers import make_sampler
from nas.storage.place import holds_study, password_of, without_password
from nas.store import Store, StoreError
from nas.study import StudyLoop
from search_space import SPACES


class SearchFailed(RuntimeError):
    """A search that cannot go on; one line that says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, see `nas.command`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "--plan" in words:
        from nas.plan.__main__ import main as plan

        return plan([word for word in words if word != "--plan"])
    run_dirs: list[Path] = []
    return exit_code(lambda: _command(vars(parser().parse_args(words)), run_dirs), lambda: _left(run_dirs))


def _command(arguments: dict[str, Any], run_dirs: list[Path]) -> int:
    """Do what the arguments ask for; the run folder goes into `run_dirs` as soon as it is known."""
    console = stderr_console()
    check_flags(arguments)
    _hide_password(arguments, console)
    config, run_dir, resume = wishes(arguments)
    run_dirs.append(run_dir)
    return _search(config, run_dir, resume, arguments, console)


def _left(run_dirs: Sequence[Path]) -> str:
    """Say what an interruption lost and how the search goes on."""
    lost = f"lost were at most the last {checkpoint_interval_s():g} s of each training under way"
    resumes = [f"\ngo on with: python -m nas.search --resume {shlex.quote(str(d))}" for d in run_dirs if holds_study(d)]
    return lost + "".join(resumes)


def _hide_password(arguments: dict[str, Any], console: Console) -> None:
    """A password in --database goes where libpq looks for it, for this command alone, and nowhere else."""
    if "database" not in arguments or (password := password_of(arguments["database"])) is None:
        return
    os.environ["PGPASSWORD"] = password
    arguments["database"] = without_password(arguments["database"])
    advice = "put it into ~/.pgpass or PGPASSWORD, for --resume and reports"
    console.print(f"the password in --database is not stored: {advice}", highlight=False, markup=False)


def _search(config: SearchConfig, run_dir: Path, resume: bool, arguments: dict[str, Any], console: Console) -> int:
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
            announce=lambda line: console.print(line, highlight=False),
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
            began.patiently(began.join)  # refuses drivers of two machines on one file
            _extend(began, arguments.get("extend", 0))
            return began

        return _run(begin, None if began is None else began.info, config, run_dir, targets, arguments, console)


def _embed_class_names(
    config: SearchConfig, arguments: dict[str, Any], targets: Any, progress: StageProgress, console: Console
) -> None:
    """For zero-shot accuracies, where a teacher has a text tower; one line says what is missing for them."""
    from nas.distill.evaluation.zero_shot import embed_class_names
    from nas.teachers import specs

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False)

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
    from nas.measure.environment import kind_of
    from nas.running.session import open_site, run_study  # ray takes seconds to import: not before the input is known to be good

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    address = arguments.get("address")
    workers = arguments.get("workers") or (None if address else default_workers(config))
    at_a_time = workers or default_workers(config)  # of a cluster whose nodes come and go, this machine's part
    places = _places(config, run_dir, targets, default_workers(config) if address else at_a_time)
    kind = None if began is None else kind_of(began.environment)
    shown = SearchProgress(console)
    loop: StudyLoop | None = None
    try:
        with open_site(places, workers, address=address, kind=kind, say=say) as site:
            store = begin()
            store.say = say
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


def _places(config: SearchConfig, run_dir: Path, targets: Any, beside: int) -> Places:
    """Of workers, of which so many are on one machine."""
    return Places(
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
        ledger={"teachers": targets.build_seconds},
        teacher_facts=facts,
        chance=chance(targets),
        space={name: list(values) for name, values in SPACES[config.space].choices().items()},
        format=FORMAT,
    )


def _refuse_changes(info: StudyInfo, targets: Any, sought: Sequence[Objective]) -> None:
    """A study goes on with the teachers, images and objectives that it began with, or not at all."""
    teachers = {name: teacher.fingerprint for name, teacher in targets.teachers.items()}
    changed = changes.of_objectives(info, sought)
    changed += changes.of_targets(info, teachers, targets.data_fingerprint)
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


if __name__ == "__main__":
    raise SystemExit(main())
