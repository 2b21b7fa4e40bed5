"""``python -m nas.rerank``: nets of a finished study measured again, elsewhere or otherwise, and what that changes.

python -m nas.rerank runs/mine --device cuda:0
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas.command import INTERRUPTED, OneLineParser, exit_code, picture_file, stdout_console
from nas.objectives import check_plane
from nas.progress import StageProgress, stderr_console
from nas.records import Rerank, Study
from nas.reranking.comparison import compare
from nas.reranking.table import show, to_json
from nas.store import Store

if TYPE_CHECKING:
    from nas.reranking.measuring import Measuring

SIZE_MULTIPLE_PX = 32
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")

_EXAMPLES = """examples:
  python -m nas.rerank runs/mine --device cuda:0                  the front, as the study measured but on this card
  python -m nas.rerank runs/mine --device cuda:0 --batch 1 --arm reduce-overhead+fp16
  python -m nas.rerank runs/mine --which near --seconds 10        also those close behind the front, more exactly
  python -m nas.rerank runs/mine --which all --arm onnxruntime --plot fronts.png
  python -m nas.rerank runs/mine --which 12,40 --name laptop --json > laptop.json

what was measured is kept in the study under its name; the same command goes on where it was left, another --which adds
to it, and --again measures anew. Before and now are two measurements: they are never mixed in one front.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0, 2 after a line of error, 130 after Ctrl-C; what was measured until then is shown and kept."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = f"python -m nas.rerank {shlex.join(words)}"
    kept = "what was measured is kept; the same command, without --again, goes on"
    return exit_code(lambda: _rerank(_options(words), command), kept)


def _rerank(given: argparse.Namespace, command: str) -> int:
    run_dir = Path(given.run)
    store = Store.open(run_dir)
    study = store.read()
    check_plane(study.info.objectives, "nas.rerank")
    from nas.reranking.measuring import Measuring  # torch takes seconds to import: not for --help or a wrong folder
    from nas.reranking.plan import begun, planned

    plan = planned(study, given)
    found = [begun(store.reranks(), plan, command, given.again)]
    measuring = Measuring(plan, run_dir / "samples" / f"rerank-{plan.name}")
    try:
        _measure(measuring, found, store)
        code = 0
    except KeyboardInterrupt:
        left = len(measuring.left(found[0]))
        if left == len(plan.trials):
            raise
        how = "the same command, without --again," if given.again else "the same command"
        print(f"interrupted; {left} of {len(plan.trials)} nets are left; {how} goes on", file=sys.stderr)
        code = INTERRUPTED
    _tell(study, found[0], given)
    return code


def _measure(measuring: Measuring, found: list[Rerank], store: Store) -> None:
    """Keeps the newest state in found[0] and in the study."""
    progress = StageProgress(stderr_console())
    total = len(measuring.left(found[0]))
    with progress.showing():
        for rerank in measuring.run(found[0]):
            store.save_rerank(rerank)
            found[0] = rerank
            progress("measured", total - len(measuring.left(rerank)), total)


def _tell(study: Study, rerank: Rerank, given: argparse.Namespace) -> None:
    comparison = compare(study, rerank)
    if given.json:
        print(json.dumps(to_json(study, rerank, comparison), indent=2))
    else:
        show(study, rerank, comparison, stdout_console())
    if given.plot:
        from nas.reranking.plot import plot  # matplotlib takes a second to import

        plot(study, rerank, comparison, Path(given.plot))


def _options(words: Sequence[str]) -> argparse.Namespace:
    """What a person asked for. ValueError or SystemExit(2), one line, where it cannot be."""
    given = _parser().parse_args(words)
    for name in ("batch", "resolution", "seconds", "threads"):
        value = getattr(given, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name}: {value} must be positive")
    if given.resolution and given.resolution % SIZE_MULTIPLE_PX:
        raise ValueError(f"--resolution: {given.resolution} is not a multiple of {SIZE_MULTIPLE_PX}")
    if given.name is not None and not NAME.fullmatch(given.name):
        raise ValueError(f"--name: {given.name!r}: must be up to 100 letters, digits and . _ + -, as laptop-b1")
    return given


def _parser() -> OneLineParser:
    made = OneLineParser(
        prog="python -m nas.rerank",
        description="Measures nets of a finished study again, on another device or in another way, and shows how their "
        "order by speed and the Pareto front change.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("run", metavar="RUN", help="folder of the study")
    add("--which", default="front", metavar="NETS", help="front (default), near (front and near misses), all, or "
        "trial numbers with commas; the study's baselines always come along")  # fmt: skip
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add("--batch", type=int, metavar="N", help="images a call (default: as the study)")
    add("--resolution", type=int, metavar="PX", help="a multiple of 32 (default: as the study)")
    add("--arm", metavar="WORDS", help="runtime, precision, layout, form joined by +, as compiled+bf16; what is not "
        "named is as in the study")  # fmt: skip
    add("--seconds", type=float, default=3.0, metavar="S", help="timing budget of each net (default 3)")
    add("--threads", type=int, metavar="N", help="CPU threads of the measuring process (default: one less than CPUs)")
    add("--name", help="of this rerank in the study (default: device, batch, resolution and arm)")
    add("--again", action="store_true", help="measure anew what an earlier run of this name has measured")
    add("--json", action="store_true", help="one JSON object on stdout instead of the table")
    add("--plot", type=picture_file, metavar="FILE", help="a picture of both fronts too: .png, .svg or .pdf")
    return made


if __name__ == "__main__":
    raise SystemExit(main())
