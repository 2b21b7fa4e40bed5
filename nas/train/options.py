"""The settings of a training beside those of its study, each declared once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from nas.analysis import BEST
from nas.flags import run_folder
from nas.search.options import DATA_FLAGS, MEASURING_FLAGS
from nas.study.config import SCHEDULES
from nas.validation import Flag, OneOf, Seed, Steps, Text, Workers, declared

# Beyond the recipe of a search: the length of a training is known from its start.
LONG_RECIPE: dict[str, Any] = {"schedule": "wsd", "ema_decay": 0.999, "max_grad_norm": 0.3}
EVALUATIONS = 10  # of a training, unless --eval-every says otherwise
KEPT_CHECKPOINTS = 2
LOG_LIBRARIES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
CALIBRATION_IMAGES = 2048  # that are cached at most for the statistics of live teachers, or a batch where that is more
_what, _training = (partial(Flag, group=title) for title in ("what to train", "training"))
_data, _session = (partial(Flag, group=title) for title in ("data and teachers", "the session"))


@dataclass(frozen=True, kw_only=True)
class TrainFlags:
    """Options of ``backbone-nas train`` that a search does not have, or has in another sense."""

    arch: Annotated[
        Any,
        _what(
            "a preset, timm:NAME, a spec's .json file, or the run folder of a search",
            default="that of --resume",
            names=("ARCH",),
        ),
    ] = None
    trial: Annotated[
        Text | None,
        _what(
            "with a run folder: a trial number, a baseline's name, the beginning of an arch_id, or best", "TRIAL", BEST
        ),
    ] = None
    warm: Annotated[
        bool,
        _what("with a run folder: begin with the trial's weights, and the heads that fit", default="initial weights"),
    ] = False
    train_steps: Annotated[Steps | None, _what("training steps", "N", "this or --epochs is required")] = None
    epochs: Annotated[
        Steps | None,
        _what(
            "times that a training image is seen on average, whichever of its --views; in place of --train-steps; not "
            "with groups in the recipe",
            "N",
        ),
    ] = None
    eval_every: Annotated[
        Steps | None,
        _what("steps between two evaluations on held-out images", "N", f"{EVALUATIONS} evaluations"),
    ] = None
    live: Annotated[
        bool,
        _data(
            "run the teachers while the student trains, and augment the images differently in every epoch; the cache "
            f"has the held-out images and up to {CALIBRATION_IMAGES:,} others, or a batch if that is more, for the "
            "statistics",
            default="all images are cached",
        ),
    ] = False
    no_augment: Annotated[bool, _data("with --live: images as they are", default="crops, flips and colors")] = False
    teacher_devices: Annotated[
        tuple[Annotated[str, Field(pattern=r"^(cpu|cuda(:\d{1,3})?)$")], ...],
        _data(
            "with --live: comma list of the teachers' devices, as cuda:6,cuda:7; the processes divide these GPUs among "
            "themselves, and their students get the others",
            "A,B",
            "that of the student",
        ),
    ] = ()
    schedule: Annotated[
        str | None,
        OneOf(SCHEDULES),
        _training(
            "learning rate after the warm-up: constant, cosine (falls to 0 at the end), or wsd (constant, but falls to "
            "0 in the last fifth of the steps)",
            default=LONG_RECIPE["schedule"],
        ),
    ] = None
    seed: Annotated[Seed, _training("seed of initial weights and image order", "N")] = 0
    workers: Annotated[Workers | None, _session("processes that share each batch", "N", "one per GPU; 1 on a CPU")] = (
        None
    )
    address: Annotated[
        Text | None,
        _session(
            "auto or HOST:PORT of a running Ray cluster whose processes train, as --workers says; its nodes need the "
            "run folder and the cache under the same paths, and the same code",
            "HOST:PORT",
            "processes of this machine",
        ),
    ] = None
    log: Annotated[
        tuple[Annotated[str, OneOf(tuple(LOG_LIBRARIES))], ...],
        _session(
            f"comma list of {', '.join(LOG_LIBRARIES)}, or none: where the course of the training is shown in addition "
            "to history.csv",
            "A,B",
        ),
    ] = ("tensorboard",)
    keep_checkpoints: Annotated[Workers, _session("checkpoints that are kept", "N")] = KEPT_CHECKPOINTS
    run: Annotated[Text | None, _session("folder of the training", "DIR", "runs/<date>-train-<name>")] = None
    resume: Annotated[
        Path | None,
        _session("continue the training in RUN", "RUN", "begin a new one", more={"type": run_folder}),
    ] = None


OF_SEARCH = (*DATA_FLAGS, *MEASURING_FLAGS, "distill")
# Of a call.
OPTIONS = {*declared(TrainFlags), *OF_SEARCH, "img_size", "batch_size", "cache", "teacher_weights", "reference"}
