"""``python -m nas.query RUN --max-latency-ms 13``: the best net of a study within limits, and how sure that is."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from nas.command import OneLineParser, exit_code, stdout_console
from nas.config import LIMITS
from nas.finals.standing import RERANK, Standings, standings
from nas.querying.answer import FINALS, Net, answer
from nas.querying.table import show, to_json
from nas.store import Store

NOTHING_FITS = 1

_EXAMPLES = """examples:
  python -m nas.query runs/mine --max-latency-ms 13
  python -m nas.query runs/mine --min-throughput 2000 --max-params 1e6
  python -m nas.query runs/mine --max-memory-mib 24 --json | jq .best.spec > best.json

Quality is that of the study's last rung, or the mean of the finalists where nas.finals has trained the net again. Nets
that were stopped at lower rungs are not compared. Exit code: 0 found, 1 nothing fits (what comes nearest is shown),
2 bad input.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0, 1 where nothing fits, 2 after a line of error."""
    return exit_code(lambda: _query(_options(argv)))


def _query(given: argparse.Namespace) -> int:
    limits = {name: getattr(given, name) for name in LIMITS if getattr(given, name) is not None}
    run_dir = Path(given.run)
    store = Store.open(run_dir)
    study = store.read()
    found = standings(study, store.finals(), store.reranks())

    def weights(net: Net) -> list[Path]:
        return weight_files(run_dir, net, found)

    told = answer(study, found, limits, lambda basis, arch_id: latencies_s(run_dir, basis, arch_id))
    if given.json:
        print(json.dumps(to_json(study, told, limits, weights), indent=2))
    else:
        show(told, limits, weights, stdout_console())
    return 0 if told.best else NOTHING_FITS


def weight_files(run_dir: Path, net: Net, found: Standings | None) -> list[Path]:
    """Where the net's weights lie, as far as they are there: the study's, then the finals' by seed."""
    rows = [row for row in (found.rows if found else ()) if row.trial.number == net.trial.number]
    folders = [run_dir, *(run_dir / "finals" / f"seed-{seed}" for row in rows for seed in row.qualities)]
    files = [folder / "weights" / f"{net.trial.arch_id}.safetensors" for folder in folders]
    return [file for file in files if file.is_file()]


def latencies_s(run_dir: Path, basis: str, arch_id: str) -> list[float]:
    """Seconds of the calls with one image that a latency is the median of; none where the file is gone."""
    folder = run_dir / "samples" / (f"rerank-{RERANK}" if basis == FINALS else "")
    try:
        kept = json.loads((folder / f"{arch_id}.json").read_text())["latencies_s"]
        return [float(sample) for sample in kept if sample > 0]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    """What a person asked for. ValueError or SystemExit(2), one line, where it cannot be."""
    given = _parser().parse_args(argv)
    for name in LIMITS:
        bound = getattr(given, name)
        if bound is not None and not 0 < bound < float("inf"):
            flag = name.removesuffix("_img_s").replace("_", "-")
            raise ValueError(f"--{flag}: {bound}: must be a number over 0")
    return given


def _parser() -> OneLineParser:
    made = OneLineParser(
        prog="python -m nas.query",
        description="The best net of a study within limits, how sure that is, and what cannot be told apart from it; "
        "or what comes nearest.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("run", metavar="RUN", help="folder of the study")
    add("--max-latency-ms", type=float, metavar="X", help="of one image")
    add("--min-throughput", dest="min_throughput_img_s", type=float, metavar="X", help="images/s at the study's batch")
    add("--max-params", type=float, metavar="X", help="parameters")
    add("--max-gmacs", type=float, metavar="X", help="1e9 multiply-accumulates an image")
    add("--max-memory-mib", type=float, metavar="X", help="peak memory at the study's batch")
    add("--json", action="store_true", help="one JSON object on stdout instead of the table")
    return made


if __name__ == "__main__":
    raise SystemExit(main())
