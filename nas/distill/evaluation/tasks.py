"""The evaluation tasks: what the frozen features of students and teachers are good for, on images of the study's data.

A task is one class in `TASKS`, and each of its metrics one entry of `nas.study.metrics.METRICS`. Probes are fitted on
the first train images and scored on the first held-out ones; labels and masks are used here alone. A metric that is
undefined (no labels, one class only, features that are not finite) is left out.

Data with real labels and masks are classified and segmented. On the built-in data the teachers themselves do that
hardly better than chance, because a glyph's category ("office", "play") is hardly visible: they are evaluated by the
glyphs' figures, edges and identities instead. Images of very many classes are not classified: probes would see few
images of each class, and none of some.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.cache.grid import to_grid
from nas.cache.shards import read_rows
from nas.cache.targets import SplitTargets, Targets
from nas.distill.evaluation.explained_variance import predict, slices
from nas.distill.evaluation.probes import (
    GALLERY,
    PixelProbe,
    SegmentationProbe,
    accuracy,
    knn_classify,
    linear_classify,
    object_features,
    outlines,
    recall_of_pairs,
    retrieval,
)
from nas.distill.evaluation.zero_shot import zero_shot_accuracy
from nas.distill.heads import Student

TRAIN_IMAGES = 1500  # that probes are fitted on
MAX_TRAIN_IMAGES = 10_000  # for images of many classes
HELD_OUT_IMAGES = 2000  # retrieval compares each with each
MIN_IMAGES_PER_CLASS = 5  # of the train images, on average
_ROWS = 256  # targets read at a time


class FeatureBatch(NamedTuple):
    """Features of some images of a split: summaries (B, C) and maps (B, C, g, g)."""

    split: SplitTargets
    rows: slice
    summary: Tensor
    spatial: Tensor

    @property
    def masks(self) -> Tensor:
        """Return the images' masks (B, S, S)."""
        assert self.split.masks is not None
        return read_rows(self.split.masks, self.rows)


FeaturesOf = Callable[[SplitTargets, int], Iterator[FeatureBatch]]  # of the first images of a split


class Task:
    """One evaluation of frozen features, which sees the features of the train images, then of the held-out ones.

    Args:
        targets: the images with their labels and masks.
    """

    def __init__(self, targets: Targets) -> None:
        self.targets = targets

    @classmethod
    def suits(cls, targets: Targets) -> bool:
        """Tell whether the data has this task."""
        raise NotImplementedError

    @classmethod
    def chance(cls, targets: Targets) -> dict[str, float]:
        """Return the metrics of a constant guess."""
        raise NotImplementedError

    def fit(self, batch: FeatureBatch) -> None:
        """Learn from features of train images."""

    def score(self, batch: FeatureBatch) -> None:
        """Score features of held-out images, after all of `fit`."""

    def metrics(self, features: FeaturesOf) -> dict[str, float]:
        """Return the metrics, after all of `score`; NaN where one is undefined.

        Args:
            features: computes features of further images.
        """
        raise NotImplementedError


class Classification(Task):
    """Classes of images by nearest neighbors and, where they are not many, by a linear probe of the summaries.

    The probe of 1,000 classes takes minutes on the CPU; nearest neighbors take a second.
    """

    def __init__(self, targets: Targets) -> None:
        super().__init__(targets)
        self._bank: list[Tensor] = []
        self._queries: list[Tensor] = []

    @classmethod
    def suits(cls, targets: Targets) -> bool:
        """Tell whether the images have labels of not too many classes, and are not the built-in ones."""
        return _has_classes(targets) and _images_of_classes(targets) <= max(TRAIN_IMAGES, _most_images(targets))

    @classmethod
    def chance(cls, targets: Targets) -> dict[str, float]:
        """Return the share of the most frequent class."""
        names = ("knn",) if left_out_of_classification(targets) else ("knn", "probe")
        return dict.fromkeys(names, most_frequent_share(targets.val))

    def fit(self, batch: FeatureBatch) -> None:
        """Keep the summaries."""
        self._bank.append(batch.summary)

    def score(self, batch: FeatureBatch) -> None:
        """Keep the summaries."""
        self._queries.append(batch.summary)

    def metrics(self, features: FeaturesOf) -> dict[str, float]:
        """Return the accuracies; none where the images on either side are all of one class, which is never wrong."""
        bank, queries = torch.cat(self._bank), torch.cat(self._queries)
        train, val = self.targets.train.labels, self.targets.val.labels
        assert train is not None
        assert val is not None
        labels, truth = read_rows(train, slice(len(bank))), read_rows(val, slice(len(queries)))
        if (labels == labels[0]).all() or (truth == truth[0]).all():
            return {}
        found = {"knn": accuracy(knn_classify(bank, labels, queries), truth)}
        if not left_out_of_classification(self.targets):
            found["probe"] = accuracy(linear_classify(bank, labels, queries), truth)
        return found


class Segmentation(Task):
    """Classes of pixels by a linear probe of the maps."""

    def __init__(self, targets: Targets) -> None:
        super().__init__(targets)
        self._probe = SegmentationProbe(targets.mask_classes or 0)

    @classmethod
    def suits(cls, targets: Targets) -> bool:
        """Tell whether the images have masks, and are not the built-in ones."""
        masked = targets.train.masks is not None and targets.val.masks is not None
        return targets.poses is None and masked and bool(targets.mask_classes)

    @classmethod
    def chance(cls, targets: Targets) -> dict[str, float]:
        """Return the IoU of the most frequent class, its share of the pixels, over the number of classes.

        The pixels are those of the images that the IoU is of.
        """
        classes = targets.mask_classes or 0
        pixels, masks = np.zeros(classes, dtype=np.int64), targets.val.masks
        assert masks is not None
        for rows in slices(min(len(targets.val), HELD_OUT_IMAGES), 64):  # bincount takes eight bytes for each pixel
            pixels += np.bincount(np.asarray(masks[rows]).ravel(), minlength=classes)[:classes]
        return {"miou": float(pixels.max() / max(pixels.sum(), 1) / max((pixels > 0).sum(), 1))}  # 0 if all are void

    def fit(self, batch: FeatureBatch) -> None:
        """Learn from maps and masks."""
        self._probe.fit(batch.spatial, batch.masks)

    def score(self, batch: FeatureBatch) -> None:
        """Score the maps by the masks."""
        self._probe.score(batch.spatial, batch.masks)

    def metrics(self, features: FeaturesOf) -> dict[str, float]:
        """Return the mean IoU."""
        return {"miou": self._probe.miou}


class GlyphPixels(Task):
    """Pixels of the built-in data's glyphs, and pixels near their outlines, by a linear probe of the maps."""

    def __init__(self, targets: Targets) -> None:
        super().__init__(targets)
        self._probe = PixelProbe(kinds=2)

    @classmethod
    def suits(cls, targets: Targets) -> bool:
        """Tell whether the images are the built-in ones."""
        return targets.poses is not None

    @classmethod
    def chance(cls, targets: Targets) -> dict[str, float]:
        """Return the share of pixels of each kind: the IoU of calling all pixels so, and a constant's precision."""
        masks = _masks(targets.val)[:HELD_OUT_IMAGES]
        pixels = torch.zeros(2, dtype=torch.int64)
        for rows in slices(len(masks), 64):  # outlines take several copies of the masks in float32
            pixels += cls.kinds(torch.from_numpy(masks[rows])).sum((0, 2, 3))
        figure, edges = (pixels.double() / masks.size).tolist()
        return {"figure_iou": figure, "edge_ap": edges}

    @staticmethod
    def kinds(masks: Tensor) -> Tensor:
        """Return which pixels of masks (N, S, S) are of the two kinds (N, 2, S, S)."""
        return torch.stack([masks > 0, outlines(masks)], dim=1)

    def fit(self, batch: FeatureBatch) -> None:
        """Learn from maps and masks."""
        self._probe.fit(batch.spatial, self.kinds(batch.masks))

    def score(self, batch: FeatureBatch) -> None:
        """Score the maps by the masks."""
        self._probe.score(batch.spatial, self.kinds(batch.masks))

    def metrics(self, features: FeaturesOf) -> dict[str, float]:
        """Return the IoU of the glyphs' pixels at the best threshold, and the average precision of the outlines'."""
        return {"figure_iou": self._probe.best_iou(0), "edge_ap": self._probe.average_precision(1)}


class GlyphRetrieval(Task):
    """The other pose of a glyph that no training has seen, among ten such glyphs."""

    @classmethod
    def suits(cls, targets: Targets) -> bool:
        """Tell whether the images are the built-in ones."""
        return targets.poses is not None

    @classmethod
    def chance(cls, targets: Targets) -> dict[str, float]:
        """Return 1 / glyphs in a gallery."""
        assert targets.poses is not None
        return {"glyph_retrieval": 1 / min(GALLERY, len(targets.poses) // 2)}

    def metrics(self, features: FeaturesOf) -> dict[str, float]:
        """Return the recall at 1. No probe is fitted."""
        poses = self.targets.poses
        assert poses is not None
        found = [object_features(batch.spatial, batch.masks) for batch in features(poses, len(poses))]
        return {"glyph_retrieval": recall_of_pairs(torch.cat(found))}


TASKS: tuple[type[Task], ...] = (GlyphRetrieval, GlyphPixels, Classification, Segmentation)


class Evaluation(NamedTuple):
    """Summaries (N, C) of the train and of the held-out images, and the metrics of all tasks."""

    bank: Tensor
    queries: Tensor
    metrics: dict[str, float]


def student_metrics(student: Student, targets: Targets, device: str, images: int | None = None) -> dict[str, float]:
    """Evaluate a student's backbone, with probes fitted on up to `images` train images (None: `probe_images`).

    Returns:
        The metrics of the tasks that suit the data, "retrieval/TEACHER" and "zero_shot/TEACHER"; empty where the
        features are not finite.
    """
    try:
        bank, queries, metrics = evaluate(
            partial(student_features, student, device), targets, images or probe_images(targets)
        )
    except FloatingPointError:
        return {}
    for teacher in targets.teachers:
        bank_targets, query_targets = (
            torch.cat([teacher_summary(split, teacher, rows) for rows in slices(len(summaries), _ROWS)])
            for split, summaries in ((targets.train, bank), (targets.val, queries))
        )
        metrics[f"retrieval/{teacher}"] = retrieval(bank, bank_targets, queries, query_targets)
        if teacher in student.heads.names and teacher in targets.val.summary:
            with torch.inference_mode():
                predicted = student.heads.predict_summary(queries.to(device), teacher).cpu()
            metrics |= _metric(f"zero_shot/{teacher}", zero_shot_accuracy(targets, teacher, predicted))
    return metrics


def teacher_metrics(targets: Targets, teacher: str, images: int | None = None) -> dict[str, float]:
    """Evaluate a teacher's own targets by the tasks and by "zero_shot", to compare students with."""
    _, queries, metrics = evaluate(partial(teacher_features, teacher), targets, images or probe_images(targets))
    return metrics | _metric("zero_shot", zero_shot_accuracy(targets, teacher, queries))


def evaluate(features: FeaturesOf, targets: Targets, images: int) -> Evaluation:
    """Run the tasks that suit the data on features of the first `images` train images and the first held-out ones."""
    tasks = [task(targets) for task in TASKS if task.suits(targets)]
    bank, queries = [], []
    for batch in features(targets.train, images):
        bank.append(batch.summary)
        for task in tasks:
            task.fit(batch)
    for batch in features(targets.val, HELD_OUT_IMAGES):
        queries.append(batch.summary)
        for task in tasks:
            task.score(batch)
    values = {name: value for task in tasks for name, value in task.metrics(features).items()}
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    return Evaluation(torch.cat(bank), torch.cat(queries), finite)


def student_features(student: Student, device: str, split: SplitTargets, count: int) -> Iterator[FeatureBatch]:
    """Yield the backbone's features of the first `count` images; FloatingPointError where they are not finite."""
    for rows, features in predict(student.encode, split, device, images=count):
        summary, spatial = features.summary.float().cpu(), to_grid(features.spatial.float(), student.heads.grid).cpu()
        if not (summary.isfinite().all() and spatial.isfinite().all()):
            raise FloatingPointError(f"features of images {rows.start} to {rows.stop} are not finite")
        yield FeatureBatch(split, rows, summary, spatial)


def teacher_features(teacher: str, split: SplitTargets, count: int) -> Iterator[FeatureBatch]:
    """Yield the targets of the first `count` images."""
    for rows in slices(min(count, len(split)), _ROWS):
        yield FeatureBatch(split, rows, teacher_summary(split, teacher, rows), read_rows(split.spatial[teacher], rows))


def teacher_summary(split: SplitTargets, teacher: str, rows: slice) -> Tensor:
    """Return targets (B, k) of the summary, or the means of the maps' targets where a teacher has no summary."""
    if teacher in split.summary:
        return read_rows(split.summary[teacher], rows)
    return read_rows(split.spatial[teacher], rows).mean((2, 3))


def probe_images(targets: Targets) -> int:
    """Return the number of train images that probes are fitted on: 1,500, or five for each of more than 300 classes."""
    return max(TRAIN_IMAGES, _images_of_classes(targets)) if Classification.suits(targets) else TRAIN_IMAGES


def left_out_of_classification(targets: Targets) -> str | None:
    """Return a line about the metrics that images of many classes do not get; None where labels are few or none."""
    classes, needed = targets.num_classes or 0, _images_of_classes(targets)
    if needed <= TRAIN_IMAGES or not _has_classes(targets):
        return None
    if Classification.suits(targets):
        return f"no linear probe: with {classes:,} classes it takes too long; kNN uses {needed:,} train images"
    if needed > MAX_TRAIN_IMAGES:
        why = f"kNN takes up to {MAX_TRAIN_IMAGES // MIN_IMAGES_PER_CLASS:,} classes"
    else:
        why = f"kNN needs {needed:,} train images, and there are {len(targets.train):,}"
    return f"no kNN and no linear probe: there are {classes:,} classes; {why}"


def _images_of_classes(targets: Targets) -> int:
    return MIN_IMAGES_PER_CLASS * (targets.num_classes or 0)


def _most_images(targets: Targets) -> int:
    return min(MAX_TRAIN_IMAGES, len(targets.train))


def _has_classes(targets: Targets) -> bool:
    labeled = targets.train.labels is not None and targets.val.labels is not None
    return targets.poses is None and labeled and bool(targets.num_classes)


def most_frequent_share(split: SplitTargets) -> float:
    """Return the share of a labeled split's most frequent class."""
    assert split.labels is not None
    return float((np.bincount(np.asarray(split.labels[:])) / len(split)).max())


def _masks(split: SplitTargets) -> NDArray[Any]:
    assert split.masks is not None
    return np.asarray(split.masks[:])


def _metric(name: str, value: float | None) -> dict[str, float]:
    """Return one metric, or none."""
    return {} if value is None else {name: value}
