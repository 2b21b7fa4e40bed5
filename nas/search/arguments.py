"""The command line of ``backbone-nas search``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nas.cli import PROGRAM, OneLineParser, command_line
from nas.flags import add_flags, parser_of
from nas.redaction import public_word
from nas.search.options import RECIPE_FLAGS, FileFlags, RunSettings, SessionFlags
from nas.search.settings import SearchCommand, command_of
from nas.study.config import DistillConfig, SearchConfig
from nas.study.limits import add_limit_flags

_EXAMPLES = """examples:
  backbone-nas search --budget 200                      the whole search on this machine, built-in images and teachers
  python -m nas.search --budget 200                     the same, where no console script is installed
  backbone-nas search --budget 8 --rung-steps 10,30 --train-images 256 --val-images 64
                                                        a quick look, at few images
  backbone-nas search --max-params 1e6 --max-latency-ms 5
  backbone-nas search --objectives score,throughput,params
  backbone-nas search --data imagefolder:PHOTOS --seed 1 --run runs/photos
  backbone-nas search --distill balance=adaloss --distill 'weights={"lite0": 2}' --distill batch_size=64
  backbone-nas search --reference timm:resnet50 --baselines eradio_pico,winner.json --scale timm:convnext_atto
  backbone-nas search --recipe cifar10-1gpu             settings for a GPU; flags override them
  backbone-nas search --config runs/latest/config.toml --seed 1
                                                        the same search with another seed
  backbone-nas search --resume runs/photos              resume an interrupted search
  backbone-nas search --resume runs/photos --extend 50  evaluate 50 more architectures
  backbone-nas search --resume runs/photos --data imagefolder:/home/ben/photos
                                                        the images lie elsewhere here
  backbone-nas search --budget 1000 --until-converged   end when more architectures gain less than the noise
  backbone-nas search --storage postgresql://nas@db.example.org/nas --run /shared/runs/big
  backbone-nas search --resume /shared/runs/big         on another machine: both work on the study
  backbone-nas search --address auto --run /shared/mine --cache /shared/cache
                                                        on a running Ray cluster
  backbone-nas search --budget 500 --plan               show what the search would cost; run nothing
"""


def parse(words: Sequence[str]) -> SearchCommand:
    """Return the settings of a command line, see `command_of`; SystemExit where the parser refuses a word."""
    return command_of(vars(parser().parse_args(words)), command_line("search", [public_word(word) for word in words]))


def parser() -> OneLineParser:
    """Return the parser of ``backbone-nas search``; an option that is not given is not in the namespace."""
    about = "Search for hybrid CNN-transformer backbones with the best distillation score and throughput."
    built = parser_of(FileFlags, "search", about, _EXAMPLES, usage=f"{PROGRAM} search [OPTION ...]")
    add_settings(built)
    add_flags(built, RunSettings)
    add_flags(built, SessionFlags)
    return built


def add_settings(built: argparse.ArgumentParser) -> None:
    """Add the flags that a search's numbers depend on."""
    add_flags(built, SearchConfig)
    add_flags(built, DistillConfig, *RECIPE_FLAGS)
    add_limit_flags(built, "An architecture that breaks a limit is never trained.")
