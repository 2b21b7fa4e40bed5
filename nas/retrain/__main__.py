"""``python -m nas.finals RUN``: the front of a study trained again, longer and with more seeds, and how sure it is."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from nas.command import (
    INTERRUPTED,
    OneLineParser,
    add_training_options,
    exit_code,
    one_line,
    picture_file,
    stdout_console,
)
from nas.finals.selection import Candidate, candidates, finalists
from nas.finals.standing import RERANK, Standings, standings
from nas.finals.table import show, to_json
from nas.objectives import check_plane
from nas.progress import StageProgress, stderr_console
from nas.records import Study
from nas.reranking.selection import complete, is_baseline
from nas.store import Store, StoreError

if TYPE_CHECKING:
    from nas.finals.plan import Plan

PICTURE = "finals.png"

_EXAMPLES = """examples:
  python -m nas.finals runs/mine                            3 seeds, 3 times as long as the study's last rung
  python -m nas.finals runs/mine --seeds 5 --steps 2700 --near 10
  python -m nas.finals runs/mine --baselines --plot final-front.pdf
  python -m nas.finals runs/mine --device cuda --json > finals.json

Finalists are the study's front and the near misses: nets whose chance to be on the front, given what a seed and a
measurement are off, is 5 % or more. What was trained and measured is kept in the study; the same command goes on where
it was left, in the middle of a training too, tries failed trainings again, and only shows the outcome where all is
done. More --seeds or --near add to it; other --steps are trainings of their own. Weights lie in
RUN/finals/seed-N/weights.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0, 2 after a line of error, 130 after Ctrl-C; what was done until then is kept and shown."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_code(lambda: _finals(_options(words), f"python -m nas.finals {shlex.join(words)}"))


def _finals(given: argparse.Namespace, command: str) -> int:
    run_dir = Path(given.run)
    store = Store.open(run_dir)
    study = store.read()
    check_plane(study.info.objectives, "nas.finals")
    chosen = finalists(candidates(study), given.near)
    trials = [c.trial for c in chosen] + [t for t in complete(study) if given.baselines and is_baseline(t)]
    from nas.finals.plan import planned  # torch takes seconds to import: not for --help or a wrong folder

    plan = planned(study, trials, given)
    _announce(chosen, plan)
    code = 0
    try:
        with _alone(run_dir):
            _work(store, study, plan, given, command)
    except KeyboardInterrupt:
        left, total = len(plan.left(store.finals())), len(plan.trials) * len(plan.seeds)
        print(f"interrupted; {left} of {total} trainings are left; the same command goes on", file=sys.stderr)
        code = INTERRUPTED
    _tell(store, study, plan.steps, given)
    return code


def _announce(chosen: Sequence[Candidate], plan: Plan) -> None:
    front = sum(c.on_front for c in chosen)
    counts = {"front": front, "near misses": len(chosen) - front, "baselines": len(plan.trials) - len(chosen)}
    nets = ", ".join(f"{what} {count}" for what, count in counts.items())
    print(f"finalists: {nets}; {plan.steps} steps, seeds {', '.join(map(str, plan.seeds))}", file=sys.stderr)


def _work(store: Store, study: Study, plan: Plan, given: argparse.Namespace, command: str) -> None:
    from nas.finals.plan import opened_targets

    progress = StageProgress(stderr_console())
    with progress.showing():
        if plan.left(store.finals()):
            targets = opened_targets(study, given, progress)  # before all else: what is missing is better known now
        _measure(store, study, plan, given, command, progress)
        if plan.left(store.finals()):
            _train(store, plan, Path(given.run), targets, progress)


def _measure(
    store: Store, study: Study, plan: Plan, given: argparse.Namespace, command: str, progress: StageProgress
) -> None:
    """All finalists beside the reference, as nas.rerank would. Where some are missing and the others were measured
    otherwise, on another device for one, all are measured anew.
    """
    before = next((r for r in store.reranks() if r.name == RERANK), None)
    if before and {t.number for t in plan.trials} <= before.measurements.keys() | before.unmeasured.keys():
        return
    from nas.reranking import plan as reranking
    from nas.reranking.measuring import Measuring

    asked = argparse.Namespace(
        which=",".join(str(t.number) for t in plan.trials), device=given.device or plan.config.device, batch=None,
        resolution=None, arm=None, seconds=given.seconds, threads=None, name=RERANK,
    )  # fmt: skip
    to_measure = reranking.planned(study, asked)
    try:
        begun = reranking.begun(store.reranks(), to_measure, command, again=False)
    except ValueError as error:
        print(f"measured anew: {one_line(error).partition(';')[0]}", file=sys.stderr)
        begun = reranking.begun(store.reranks(), to_measure, command, again=True)
    measuring = Measuring(to_measure, Path(given.run) / "samples" / f"rerank-{RERANK}")
    total = len(measuring.left(begun))
    for rerank in measuring.run(begun):
        store.save_rerank(rerank)
        progress("nets measured", total - len(measuring.left(rerank)), total)


def _train(store: Store, plan: Plan, run_dir: Path, targets: Path, progress: StageProgress) -> None:
    """Keeps each training when it is over. Progress is in steps: trainings may be few and long."""
    from nas.finals.crew import Crew
    from nas.finals.plan import places
    from nas.measure.environment import device_name, torch_device

    tasks = plan.left(store.finals())
    device = device_name(torch_device(plan.config.device))
    reached = {(task.trial.number, task.seed): 0 for task in tasks}
    total = plan.steps * len(tasks)
    crew = Crew(places(plan, run_dir, targets), plan.steps, device, plan.workers, plan.cards).run(tasks)
    try:
        for final, over in crew:
            if over:
                store.save_finalist(final)
            if final.reason:
                print(f"trial {final.number}, seed {final.seed}: {final.reason}", file=sys.stderr)
            before = sum(reached.values())
            reached[final.number, final.seed] = plan.steps if over else final.rungs[-1].steps
            if (done := sum(reached.values())) > before:
                progress("steps trained", done, total)
    finally:
        crew.close()  # type: ignore[attr-defined]


def _tell(store: Store, study: Study, steps: int, given: argparse.Namespace) -> None:
    found = standings(study, store.finals(), store.reranks(), steps)
    if found is None:
        return
    if given.json:
        print(json.dumps(to_json(study, found), indent=2))
    else:
        show(study, found, stdout_console())
    _draw(study, found, Path(given.plot or Path(given.run) / PICTURE))


def _draw(study: Study, found: Standings, path: Path) -> None:
    if not found.both:
        return
    from nas.finals.plot import plot  # matplotlib takes a second to import

    plot(study, found, path)
    print(f"picture: {path}", file=sys.stderr)


@contextmanager
def _alone(run_dir: Path) -> Iterator[None]:
    """Two commands on one study would train the same nets."""
    lock = FileLock(run_dir / "finals.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise StoreError(f"another nas.finals works on {str(run_dir)!r}") from None
    try:
        yield
    finally:
        lock.release()


def _options(words: Sequence[str]) -> argparse.Namespace:
    """What a person asked for. ValueError or SystemExit(2), one line, where it cannot be."""
    given = _parser().parse_args(words)
    for name, least in (("seeds", 1), ("steps", 1), ("near", 0), ("workers", 1)):
        value = getattr(given, name)
        if value is not None and value < least:
            raise ValueError(f"--{name}: {value}: must be {least} or more")
    if not given.seconds > 0:
        raise ValueError(f"--seconds: {given.seconds}: must be over 0")
    return given


def _parser() -> OneLineParser:
    made = OneLineParser(
        prog="python -m nas.finals",
        description="Trains the front of a study and its near misses again, longer and with new seeds, measures them "
        "again, and says how likely each is on the front.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("run", metavar="RUN", help="folder of the study")
    add("--seeds", type=int, default=3, metavar="N", help="trainings of each net (default 3)")
    add("--steps", type=int, metavar="N", help="of each training (default: 3 times the study's last rung)")
    add("--near", type=int, default=6, metavar="N", help="near misses beside the front, at most (default 6)")
    add("--baselines", action="store_true", help="the study's baselines too, to compare with; never part of the front")
    add("--workers", type=int, metavar="N", help="trainings at a time (default: one a CPU or GPU)")
    add_training_options(add, "")
    add("--seconds", type=float, default=5.0, metavar="S", help="timing budget of each net (default 5)")
    add("--plot", type=picture_file, metavar="FILE", help=f"of the picture: .png, .svg or .pdf (default RUN/{PICTURE})")
    add("--json", action="store_true", help="one JSON object on stdout instead of the table")
    return made


if __name__ == "__main__":
    raise SystemExit(main())
