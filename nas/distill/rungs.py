"""Train one architecture rung by rung: checkpoints on the way, weights and pictures at the end."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from zipfile import ZipFile

import torch

from backbones import Network, build_network
from backbones.weights import save as save_weights
from nas.cache.targets import Targets
from nas.distill import distributed
from nas.distill.adaptor import Adaptor
from nas.distill.device_lease import DeviceLease
from nas.distill.evaluation.explained_variance import explained_variance, images_at_once
from nas.distill.evaluation.pictures import contact_sheet
from nas.distill.evaluation.tasks import student_metrics
from nas.distill.folded_heads import fold, save_heads
from nas.distill.trainer import Distiller, TrainingError, indexed_device
from nas.distill.training_history import History
from nas.files import atomic_path
from nas.measure.memory import out_of_memory
from nas.run_folder import checkpoint_path, heads_file, sheet_path, weights_in
from nas.study.config import SearchConfig
from nas.study.records import RungResult, TrialRecord

if TYPE_CHECKING:
    from nas.distill.live import LiveSource, LiveTeachers

_LOG = logging.getLogger(__name__)
TRAIN_IMAGES = 128  # at most, that the fit to the train images is computed on; fewer if large
MIN_INTERVAL = 20.0  # times the seconds of a save, between two checkpoints


@dataclass(frozen=True)
class TrainingContext:
    """All that the trainings of one process share.

    Attributes:
        config: settings of the search.
        targets: the cached teachers.
        lock_dir: holds the device's locks.
        weights_dir: takes the averaged weights and heads of trainings that reach the last rung.
        pictures_dir: takes their contact sheets.
        checkpoint_dir: takes the state of trainings under way.
        checkpoint_s: shortest time between two checkpoints of a training; saving takes a twentieth of it at most.
        history_dir: takes the history of each training, see `nas.distill.training_history`; None: it is not kept.
        event_logs: where the history is shown, too; names of `nas.distill.event_logs`.
        probes: whether every rung is evaluated on the present tasks; else the last one alone.
        kept_checkpoints: number of checkpoints of a training that are kept.
        live: teachers that run while the student trains, on images of their own; None: the cached targets.
        should_stop: tells, after every step or every lease of several ranks, whether the training is to save its state
            and end.
    """

    config: SearchConfig
    targets: Targets
    lock_dir: Path
    weights_dir: Path
    pictures_dir: Path
    checkpoint_dir: Path
    checkpoint_s: float = 30.0
    history_dir: Path | None = None
    event_logs: tuple[str, ...] = ("tensorboard",)
    probes: bool = False
    kept_checkpoints: int = 1
    live: LiveTeachers | None = None
    should_stop: Callable[[], bool] = lambda: False


class TrainingStopped(Exception):
    """A training has saved its state and ended, because it was asked to."""


class Checkpoint:
    """The last checkpoints of a training, from which it resumes to the same numbers; on a GPU up to rounding.

    They are read with ``weights_only``: tensors and plain containers, nothing that runs.

    Args:
        path: file of the newest; those before it are PATH.1, PATH.2, ...
        identity: all that the training's numbers depend on; a damaged file or one of another identity counts as none.
        every_s: `due` after this time, or after MIN_INTERVAL times that of the last save where that is longer.
        kept: number of files, 1 or more.

    Attributes:
        save_s: seconds that the last save took, with the gathering before it; set by the caller.
    """

    def __init__(self, path: Path, identity: str, every_s: float = 30.0, kept: int = 1) -> None:
        self._identity, self._every_s = identity, every_s
        self._paths = [path, *(path.with_name(f"{path.name}.{age}") for age in range(1, kept))]
        self._written = time.monotonic()
        self.save_s = 0.0

    @property
    def due(self) -> bool:
        """Return whether the last checkpoint is old enough to write another."""
        return time.monotonic() - self._written >= max(self._every_s, MIN_INTERVAL * self.save_s)

    def save(self, content: dict[str, Any]) -> None:
        """Write tensors and plain values as the newest checkpoint, as a whole or not at all; the oldest is removed.

        Raises:
            OSError: It cannot be written, for example to a full disk. PyTorch's error has this one as its context: its
                own writer would raise RuntimeErrors that do not say why, so it gets an open file.
        """
        newest = self._paths[0]
        newest.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(newest, sync=True) as unfinished, unfinished.open("wb") as file:
            torch.save({"identity": self._identity, "content": content}, file)
            for earlier, later in reversed(list(pairwise(self._paths))):
                if earlier.exists():
                    earlier.replace(later)
        self._written = time.monotonic()

    def remove_unfinished(self) -> None:
        """Remove what killed processes were writing."""
        for path in self._paths[0].parent.glob(f"{self._paths[0].name}.*.tmp"):
            path.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """Return the last state that can be read, or None."""
        return next((state for path in self._paths if (state := self._read(path)) is not None), None)

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            with ZipFile(path) as archive:
                if archive.testzip() is not None:  # torch leaves the archive's checksums unread
                    raise ValueError("its checksums are wrong")
            saved = torch.load(path, map_location="cpu", weights_only=True)
            if saved["identity"] != self._identity:
                raise ValueError("it is of other settings or images")
            return dict(saved["content"])
        except Exception as error:  # a damaged archive, or what it unpickles to, raises errors of many types
            if out_of_memory(error):
                raise
            if not isinstance(error, FileNotFoundError):
                line = "%s is not a checkpoint of this training (%s); an earlier one is used, if there is one"
                _LOG.warning(line, path, error)
            return None


class Training:
    """The rungs of one architecture; a process that resumes it trains no step twice.

    Args:
        arch_id: names the files that the training leaves.
        backbone: trained in place.
        context: settings, targets and folders.
        adaptors: heads of an earlier training to start from, where they fit; None: fresh heads.
        on_steps: gets the number of steps done, every few steps.
        on_saved: gets the seconds that a checkpoint took, after each one.
    """

    def __init__(
        self,
        arch_id: str,
        backbone: Network,
        context: TrainingContext,
        adaptors: Mapping[str, Adaptor] | None = None,
        on_steps: Callable[[int], None] = lambda steps: None,
        on_saved: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._arch_id, self._context, self._on_steps, self._on_saved = arch_id, context, on_steps, on_saved
        self._lease = DeviceLease(context.lock_dir)
        self._source = _live_source(context)
        self._rungs: list[RungResult | None] = []  # None in ranks above 0
        self._checkpoint = _checkpoint(arch_id, context, "" if self._source is None else self._source.fingerprint)
        if distributed.rank() == 0:
            self._checkpoint.remove_unfinished()
        saved = self._checkpoint.load()
        _check_same_step(saved)
        untrained = None if saved is None else copy.deepcopy(backbone)
        self._distiller = self._begin(backbone, adaptors)
        if saved is not None and untrained is not None and not self._resume(saved):
            self._distiller.close()
            self._distiller = self._begin(untrained, adaptors)
        self._history: History | None = None
        if context.history_dir is not None and distributed.rank() == 0:
            self._history = History(context.history_dir, self._distiller, context.event_logs)

    def _begin(self, backbone: Network, adaptors: Mapping[str, Adaptor] | None) -> Distiller:
        """Return a distiller that has trained no step."""
        config = self._context.config
        return Distiller(
            backbone,
            self._context.targets,
            config.distill,
            seed=config.seed,
            device=config.device,
            source=self._source,
            adaptors=adaptors,
            lease=self._lease,
        )

    def _resume(self, saved: Mapping[str, Any]) -> bool:
        """Continue from a checkpoint; return False, with a distiller of no use, where it lacks something."""
        try:
            rungs, busy_s = [RungResult.from_dict(rung) for rung in saved["rungs"]], float(saved["busy_s"])
            self._distiller.load_state_dict(saved["distiller"])
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            if out_of_memory(error):
                raise
            _LOG.warning("the checkpoint of %s lacks something (%s); its training starts again", self._arch_id, error)
            return False
        self._rungs, self._lease.busy_s = list(rungs), busy_s
        return True

    def rung(self, rung: int) -> RungResult | None:
        """Return the result of the next rung, which is trained now, or of an earlier one; None in ranks above 0."""
        if rung == len(self._rungs):
            steps = self._context.config.distill.rung_steps
            self._distiller.train_until(steps[rung], self._between, self._context.should_stop)
            first = distributed.rank() == 0
            self._rungs.append(self._evaluate(rung, since=steps[rung - 1] if rung else 0) if first else None)
            if distributed.world_size() > 1:
                self._save()  # the next rung may begin in other processes
        return self._rungs[rung]

    def close(self) -> None:
        """End the reading ahead and close the history."""
        self._distiller.close()
        if self._history is not None:
            self._history.close()

    def _evaluate(self, rung: int, since: int) -> RungResult:
        config, averaged, targets = self._context.config, self._distiller.averaged, self._context.targets
        last = rung == len(config.distill.rung_steps) - 1
        with self._lease.alone():
            teachers = explained_variance(averaged, targets.val, config.device, self._distiller.angular_transforms)
            fit = None
            if self._source is None:
                count = max(8, min(TRAIN_IMAGES, images_at_once(config.distill.img_size)))
                seen = targets.train.spread(count)
                fit = explained_variance(averaged, seen, config.device, self._distiller.angular_transforms)
            probed = last or self._context.probes
            metrics = student_metrics(averaged, targets, config.device) if probed else {}
            sheet = contact_sheet(averaged, targets, config.device) if last else None
            stride = averaged.stride_at(config.distill.img_size) if last else None
        score = distillation_score(teachers, config.distill.score)
        if not math.isfinite(score):
            raise TrainingError(f"the distillation score is not finite after {self._distiller.step} steps")
        if sheet is not None:
            sheet.write(sheet_path(self._context.pictures_dir, self._arch_id))
            self._save_model(stride)
        result = RungResult(
            rung=rung,
            steps=self._distiller.step,
            score=score,
            teachers=teachers,
            losses=self._distiller.mean_losses(since),
            metrics=metrics,
            seconds=self._lease.busy_s - sum(done.seconds for done in self._rungs if done is not None),
            train_score=None if fit is None else distillation_score(fit, config.distill.score),
        )
        if self._history is not None:
            self._history.add_result(result, self._distiller)
        return result

    def _save_model(self, stride: int | None) -> None:
        """Write the averaged weights and the folded heads, with the stride of their map."""
        averaged, folder = self._distiller.averaged, self._context.weights_dir
        backbone = cast(Network, averaged.backbone)
        path = weights_in(folder, self._arch_id)
        checksum = save_weights(backbone, path)
        heads = fold(averaged.heads, self._context.targets.teachers, stride)
        save_heads(heads, heads_file(path), checksum)

    def _between(self) -> None:
        self._on_steps(self._distiller.step)
        if self._history is not None:
            self._history.add_steps(self._distiller)
        stop = self._is_asked_to_stop()
        if self._checkpoint.due or stop:
            self._save()
        if stop:
            raise TrainingStopped("its process was asked to end; its state is saved")

    def _is_asked_to_stop(self) -> bool:
        """Return whether this process is asked to stop; of several ranks whether any was, in the last lease."""
        return self._context.should_stop() if distributed.world_size() == 1 else self._distiller.stopping

    def _save(self) -> None:
        """Write a checkpoint in rank 0."""
        if distributed.rank():
            return
        began_s, state = time.monotonic(), self._distiller.state_dict()
        rungs = [rung.to_dict() for rung in self._rungs if rung is not None]
        self._checkpoint.save({"distiller": state, "rungs": rungs, "busy_s": self._lease.busy_s})
        self._checkpoint.save_s = time.monotonic() - began_s
        self._on_saved(self._checkpoint.save_s)


def _check_same_step(saved: Mapping[str, Any] | None) -> None:
    """Raise TrainingError in all ranks where they have read different checkpoints."""
    try:
        step = -1 if saved is None else int(saved["distiller"]["step"])
    except (KeyError, TypeError, ValueError):  # it lacks something, and the training will begin again
        step = -1
    if len(steps := distributed.distinct(step)) > 1:
        read = " and ".join("none" if each < 0 else f"that of step {each}" for each in steps)
        raise TrainingError(f"the processes have read different checkpoints, {read}: is the folder's disk shared?")


def saved_rungs(arch_id: str, context: TrainingContext) -> list[RungResult]:
    """Return the rungs that the checkpoint of a training under way holds."""
    saved = _checkpoint(arch_id, context).load()
    try:
        return [] if saved is None else [RungResult.from_dict(rung) for rung in saved["rungs"]]
    except (AttributeError, KeyError, TypeError, ValueError):  # `Training` will not resume from it either
        return []


def _checkpoint(arch_id: str, context: TrainingContext, live_images: str = "") -> Checkpoint:
    path = checkpoint_path(context.checkpoint_dir, arch_id)
    identity = _identity(arch_id, context, live_images)
    return Checkpoint(path, identity, context.checkpoint_s, context.kept_checkpoints)


def _identity(arch_id: str, context: TrainingContext, live_images: str) -> str:
    """Return all that a training's numbers depend on: any number of ranks takes the same steps, up to rounding."""
    config = context.config
    recipe = {**asdict(config.distill), "ranks": 1}
    return json.dumps([arch_id, context.targets.fingerprint, config.seed, recipe, live_images], sort_keys=True)


def _live_source(context: TrainingContext) -> LiveSource | None:
    """Return the source of batches of live teachers; None without them."""
    if context.live is None:
        return None
    from nas.distill.live import LiveSource  # imports the teachers' libraries

    threads = max(2, torch.get_num_threads())  # of a training, this rank's share of the machine's CPUs
    return LiveSource(context.live, context.targets, indexed_device(context.config.device), threads=threads)


def distillation_score(teachers: Mapping[str, Mapping[str, float]], score: str) -> float:
    """Return the mean explained variance over teachers, of their maps or ("both") of the mean over each one's heads.

    Args:
        teachers: Teacher -> head -> explained variance.
        score: As of `DistillConfig`.
    """
    means = [_mean(list(heads.values())) if score == "both" else heads["spatial"] for heads in teachers.values()]
    return _mean(means)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def train_rank(record: TrialRecord, rung: int, context: TrainingContext) -> RungResult | None:
    """Train this rank's part of one rung of a record; the result in rank 0, None in the others."""
    torch.manual_seed(context.config.seed)
    run = Training(record.arch_id, build_network(record.network), context)
    try:
        return run.rung(rung)
    finally:
        run.close()
