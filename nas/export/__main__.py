"""``python -m nas.export RUN --format timm``: a trained net of a study as a folder that others can use."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from nas.command import OneLineParser, add_training_options, exit_code
from nas.exporting.choice import ALL_HEADS, BEST, ExportError, chosen, standing
from nas.exporting.folder import check_room, check_writable
from nas.exporting.kept import Kept, kept_weights
from nas.finals.standing import standings
from nas.query import latencies_s
from nas.querying.answer import LAST_RUNG
from nas.records import Finalist, Study, TrialRecord
from nas.store import Store
from search_space import ArchSpec

FORMATS = ("timm", "hf", "onnx", "torchscript")
GRAPHS = ("onnx", "torchscript")  # keep the fused net; the others keep what can be trained on
FOLDER = "exports"  # in the run's folder

_EXAMPLES = """examples:
  python -m nas.export runs/mine --format timm                    timm.create_model("local-dir:FOLDER", pretrained=True)
  python -m nas.export runs/mine --format hf --heads all          transformers.AutoModel, called as the RADIO models are
  python -m nas.export runs/mine --trial 17 --format onnx --out winner
  python -m nas.export runs/mine --trial 3fa9 --format torchscript --heads lite0
  python -m nas.export runs/mine --format timm --train-longer 5000

The folder has weights or a graph, spec.json, preprocessor_config.json, export.json and README.md, a model card with
what was measured. It appears when all is written and checked; a folder that is no export, or that has files which no
export wrote, is not replaced.
Of a net that nas.finals trained again, the longest trained weights are taken; all are averaged ones (EMA).

--train-longer goes on from the kept weights and heads, not from nothing: the recipe's learning rate is constant, so
there is no decayed rate to be raised again, and nothing that the study has learned is thrown away. The optimizer's
moments were not kept and start anew behind the recipe's warm-up; the images come in another order. A net without
weights is trained from nothing. As many GPUs take part as divide the batch. After Ctrl-C the same command
goes on where it was.
"""

_TRIAL_HELP = (
    "a trial's number, the beginning of an arch_id (8 characters at least where all are digits), or best (default): "
    "the fastest net at least as good as the best baseline, as the report headlines; where none is, or throughput was "
    "no objective, the net of the highest quality"
)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0, 2 after a line of error, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_code(lambda: _export(_options(words), f"python -m nas.export {shlex.join(words)}"))


def _export(given: argparse.Namespace, command: str) -> int:
    run_dir = Path(given.run)
    store = Store.open(run_dir)
    study, finals = store.read(), store.finals()
    trial = chosen(study, given.trial)
    if ArchSpec.from_dict(trial.spec).arch_id != trial.arch_id:  # it becomes part of paths
        raise ExportError(f"trial {trial.number}: its arch_id is not its architecture's; the study was altered")
    out = Path(given.out or run_dir / FOLDER / f"{trial.arch_id}-{given.format}")
    if out.name in ("", ".."):  # a path, but no name to write beside
        out = out.resolve()
    check_room(out, run_dir, given.force)
    check_writable(out)
    if given.format == "onnx":
        from nas.exporting.onnx_format import check_installed

        check_installed()
    _check_heads(given.heads, study.info.teachers)
    kept = kept_weights(run_dir, study, trial, finals)
    if kept is None and given.train_longer is None:
        raise ExportError(
            f"{standing(trial, study.info.rung_steps)} and has no weights: --train-longer STEPS trains it, "
            f"or choose another --trial: {_with_weights(run_dir, study, finals)}"
        )
    weights = kept if given.train_longer is None else _longer(run_dir, study, trial, kept, given)
    assert weights is not None
    from nas.exporting.card import REPORT, Told  # torch takes seconds to import: not for --help or a wrong folder
    from nas.exporting.write import write
    from nas.measure.environment import versions

    told = Told(
        study=study,
        trial=trial,
        finals=standings(study, finals, store.reranks()),
        kept=weights,
        search=None if given.train_longer is None else kept,
        latencies_s=latencies_s(run_dir, LAST_RUNG, trial.arch_id),
        command=command,
        versions=versions(),
        report=run_dir / REPORT,
    )
    for line in write(told, given, out):
        print(line)
    return 0


def _check_heads(names: Sequence[str], teachers: Collection[str]) -> None:
    """Before a training of hours rather than after it."""
    if unknown := [name for name in names if name not in (*teachers, ALL_HEADS)]:
        known = ", ".join(teachers)
        raise ExportError(f"--heads: the study has no teacher {unknown[0]!r}; choose from {known}, {ALL_HEADS}")


def _with_weights(run_dir: Path, study: Study, finals: Sequence[Finalist]) -> str:
    able = [str(t.number) for t in study.trials if kept_weights(run_dir, study, t, finals)]
    return ", ".join([*able[:8], *["..."] * (len(able) > 8)]) or "none has weights"


def _longer(run_dir: Path, study: Study, trial: TrialRecord, kept: Kept | None, given: argparse.Namespace) -> Kept:
    from nas.exporting.longer import distil, planned
    from nas.finals.plan import opened_targets
    from nas.progress import StageProgress, stderr_console

    longer = planned(run_dir, study, trial, kept, given)
    if known := longer.done():
        return known
    ranks = longer.config.distill.ranks
    source = "nothing" if kept is None else f"{kept.origin} ({kept.result.steps} steps)"
    print(f"trial {trial.number}: {longer.steps} steps from {source}, {ranks} process(es)", file=sys.stderr)
    progress = StageProgress(stderr_console())
    with progress.showing():
        return distil(longer, opened_targets(study, given, progress), progress)


def _options(words: Sequence[str]) -> argparse.Namespace:
    """What a person asked for. ValueError or SystemExit(2), one line, where it cannot be."""
    given = _parser().parse_args(words)
    if given.train_longer is not None and given.train_longer < 1:
        raise ValueError(f"--train-longer: {given.train_longer}: must be 1 or more")
    alone = [name for name in ("device", "cache", "teacher") if getattr(given, name)]
    if given.train_longer is None and alone:
        raise ValueError(f"--{alone[0]}: is for training; give --train-longer STEPS too, or leave it out")
    if given.fuse and given.format not in GRAPHS:
        raise ValueError(
            f"--fuse: {given.format} keeps weights that can be trained on; fuse what was loaded: "
            "timm.utils.reparameterize_model(model), or model.switch_to_deploy() of hf"
        )
    given.fuse = given.format in GRAPHS if given.fuse is None else given.fuse
    given.heads = [name for name in given.heads.split(",") if name]
    return given


def _parser() -> OneLineParser:
    made = OneLineParser(
        prog="python -m nas.export",
        description="Writes a trained net of a study as a folder that others can use, with a model card.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("run", metavar="RUN", help="folder of the study")
    add("--trial", default=BEST, metavar="WHICH", help=_TRIAL_HELP)
    add("--format", required=True, choices=FORMATS, help="timm, hf (transformers), onnx or torchscript")
    add("--out", metavar="DIR", help=f"folder to write (default RUN/{FOLDER}/ARCH_ID-FORMAT)")
    fuse = "fold BatchNorm (default: in onnx and torchscript, which alone can)"
    add("--fuse", action=argparse.BooleanOptionalAction, help=fuse)
    add("--heads", default="", metavar="NAMES", help="teachers whose adaptor heads go along, with commas, or all")
    add("--train-longer", type=int, metavar="STEPS", help="distil so many steps more before the export")
    add_training_options(add, "that trains: ")
    add(
        "--force",
        action="store_true",
        help="replace a folder that is no export or has other files, and lose what it holds",
    )
    return made


if __name__ == "__main__":
    raise SystemExit(main())
