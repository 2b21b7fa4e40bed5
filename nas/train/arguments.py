"""The command line of ``backbone-nas train``."""

from __future__ import annotations

from collections.abc import Sequence

from nas.cli import PROGRAM, OneLineParser, command_line
from nas.flags import add_flags, parser_of, shared
from nas.redaction import public_word
from nas.search.options import RunSettings
from nas.study.config import DistillConfig, SearchConfig
from nas.train.options import LONG_RECIPE, OF_SEARCH, TrainFlags
from nas.train.training_settings import TrainCommand, command_of

_EXAMPLES = f"""examples:
  backbone-nas train eradio_pico --train-steps 3000           a preset, on the built-in images and teachers
  backbone-nas train winner.json --epochs 30 --data imagefolder:PHOTOS --train-images 100000
  backbone-nas train timm:convnext_atto --img-size 64 --train-steps 3000    a network of timm, from random weights
  backbone-nas train runs/mine --train-steps 20000            the model that a search recommends, on its race's images
  backbone-nas train runs/mine --trial 17 --warm --train-steps 5000    from the search's weights
  backbone-nas train eradio_xt --img-size 224 --batch-size 256 --workers 8 --distill precision=bf16
  backbone-nas train winner.json --epochs 10 --live --data 'webdataset:/data/{{000..999}}.tar' --train-images 1000000
  backbone-nas train winner.json --epochs 90 --address auto --workers 16 --run /shared/long --cache /shared/cache
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
    about = "Distill one architecture from several teachers, at full length, and measure it."
    usage = f"{PROGRAM} train ARCH [OPTION ...]\n       {PROGRAM} train --resume RUN [OPTION ...]"
    built = parser_of(TrainFlags, "train", about, _EXAMPLES, usage=usage)
    add_flags(built, SearchConfig, *OF_SEARCH)
    px = shared(
        "img_size",
        "that of the search, of the architecture's space, or of the network of timm; else 224",
        group="training",
    )
    add_flags(built, DistillConfig, "img_size", "batch_size", img_size=px)
    add_flags(built, RunSettings, "cache", "teacher_weights")
    return built
