"""The command line of ``backbone-nas train``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nas.analysis import BEST
from nas.cli import PROGRAM, OneLineParser, comma_list, command_line
from nas.old_flags import Add, add_flag, run_folder
from nas.redaction import public_word
from nas.search.arguments import add_data_flags, add_measuring_flags, add_recipe_flags
from nas.study.config import SCHEDULES
from nas.train.training_settings import (
    CALIBRATION_IMAGES,
    EVALUATIONS,
    LOG_LIBRARIES,
    LONG_RECIPE,
    TrainCommand,
    command_of,
)

_EXAMPLES = f"""examples:
  backbone-nas train eradio_pico --train-steps 3000           a preset, on the built-in images and teachers
  backbone-nas train winner.json --epochs 30 --data imagefolder:PHOTOS --train-images 100000
  backbone-nas train timm:convnext_atto --img-size 64 --train-steps 3000    a network of timm, from random weights
  backbone-nas train runs/mine --train-steps 20000            the model that a search recommends, on its race's images
  backbone-nas train runs/mine --trial 17 --warm --train-steps 5000    from the search's weights
  backbone-nas train eradio_xt --img-size 224 --batch-size 256 --workers 8 --distill precision=bf16
  backbone-nas train winner.json --epochs 10 --live --data 'webdataset:/data/{{000..999}}.tar' --train-images 1000000
  backbone-nas train winner.json --epochs 90 --address auto --workers 16 --run /shared/long --cache /shared/cache
  torchrun --nproc-per-node 8 -m nas.train -- winner.json --train-steps 100000     the processes are torchrun's
  backbone-nas train --resume runs/2026-11-27-train-eradio_pico        after an interruption

The run folder is that of a study of one model, so that the other commands take it:
  backbone-nas export RUN --format timm, backbone-nas report RUN, backbone-nas remeasure RUN.
It also has history.csv, a line every ten steps, and event files for `tensorboard --logdir RUN/tensorboard`.

The recipe is that of a search but for schedule {LONG_RECIPE["schedule"]}, ema_decay {LONG_RECIPE["ema_decay"]} and \
max_grad_norm {LONG_RECIPE["max_grad_norm"]}; --distill changes it.
Ctrl-C and SIGTERM save the training's state before it ends; --resume continues to the same
numbers, on a GPU up to rounding.
"""


def parse(words: Sequence[str]) -> TrainCommand:
    """Return the settings of a command line, see `command_of`; SystemExit where the parser refuses a word."""
    return command_of(vars(parser().parse_args(words)), command_line("train", [public_word(word) for word in words]))


def parser() -> OneLineParser:
    """Return the parser of ``backbone-nas train``; an option that is not given is not in the namespace."""
    built = OneLineParser(
        prog=f"{PROGRAM} train",
        usage=f"{PROGRAM} train ARCH [OPTION ...]\n       {PROGRAM} train --resume RUN [OPTION ...]",
        description="Distill one architecture from several teachers, at full length, and measure it.",
        epilog=_EXAMPLES,
        argument_default=argparse.SUPPRESS,
    )
    _add_what(built.add_argument_group("what to train").add_argument)
    data = built.add_argument_group("data and teachers").add_argument
    add_data_flags(data, "with a run folder as in its study, else ")
    _add_live(data)
    training = built.add_argument_group("training").add_argument
    add_flag(
        training,
        "--img-size",
        "that of the search, of the architecture's space, or of the network of timm; else 224",
    )
    add_recipe_flags(training)
    schedule = (
        "learning rate after the warm-up: constant, cosine (falls to 0 at the end), or wsd (constant, but falls to 0 "
        f"in the last fifth of the steps) (default: {LONG_RECIPE['schedule']})"
    )
    training("--schedule", choices=SCHEDULES, help=schedule)
    training("--seed", type=int, help="seed of initial weights and image order (default: 0)")
    add_measuring_flags(built.add_argument_group("measuring", "Before the training.").add_argument)
    _add_session(built.add_argument_group("the session").add_argument)
    return built


def option_names() -> list[str]:
    """Return the names of all options, as `command_of` takes them."""
    return [action.dest for action in parser()._actions if action.dest not in (argparse.SUPPRESS, "help", "verbose")]


def _add_what(add: Add) -> None:
    arch = "a preset, timm:NAME, a spec's .json file, or the run folder of a search"
    add("arch", nargs="?", metavar="ARCH", help=arch)
    trial = (
        f"with a run folder: a trial number, a baseline's name, the beginning of an arch_id, or best (default: {BEST})"
    )
    add("--trial", metavar="TRIAL", help=trial)
    warm = "with a run folder: begin with the trial's weights, and the heads that fit (default: initial weights)"
    add("--warm", action="store_true", help=warm)
    add("--train-steps", type=int, metavar="N", help="training steps (this or --epochs is required)")
    epochs = (
        "times that a training image is seen on average, whichever of its --views; in place of --train-steps; not with "
        "groups in the recipe"
    )
    add("--epochs", type=int, metavar="N", help=epochs)
    every = f"steps between two evaluations on held-out images (default: {EVALUATIONS} evaluations)"
    add("--eval-every", type=int, metavar="N", help=every)


def _add_live(add: Add) -> None:
    live = (
        "run the teachers while the student trains, and augment the images differently in every epoch; the cache has "
        f"the held-out images and up to {CALIBRATION_IMAGES:,} others, or a batch if that is more, for the statistics "
        "(default: all images are cached)"
    )
    add("--live", action="store_true", help=live)
    add("--no-augment", action="store_true", help="with --live: images as they are (default: crops, flips and colors)")
    devices = (
        "with --live: comma list of the teachers' devices, as cuda:6,cuda:7; the processes divide these GPUs among "
        "themselves, and their students get the others (default: that of the student)"
    )
    add("--teacher-devices", type=comma_list, metavar="A,B", help=devices)


def _add_session(add: Add) -> None:
    add("--workers", type=int, metavar="N", help="processes that share each batch (default: one per GPU; 1 on a CPU)")
    address = (
        "auto or HOST:PORT of a running Ray cluster whose processes train, as --workers says; its nodes need the run "
        "folder and the cache under the same paths, and the same code (default: processes of this machine)"
    )
    add("--address", metavar="HOST:PORT", help=address)
    fsdp = (
        "divide parameters, gradients and optimizer state among the processes (FSDP), for a student that one GPU "
        "cannot hold (default: each process holds all)"
    )
    add("--fsdp", action="store_true", help=fsdp)
    log = (
        f"comma list of {', '.join(LOG_LIBRARIES)}, or none: where the course of the training is shown in addition to "
        "history.csv (default: tensorboard)"
    )
    add("--log", type=lambda text: () if text == "none" else comma_list(text), metavar="A,B", help=log)
    add("--keep-checkpoints", type=int, metavar="N", help="checkpoints that are kept (default: 2)")
    add("--run", metavar="DIR", help="folder of the training (default: runs/<date>-train-<name>)")
    resume = "continue the training in RUN (default: begin a new one)"
    add("--resume", type=run_folder, metavar="RUN", help=resume)
