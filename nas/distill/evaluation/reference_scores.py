"""Reference scores of a study: the teachers' own and those of a constant guess, computed once, from the cache."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nas.cache.targets import SplitTargets, Targets, read_cache_set
from nas.data.dataset import Progress
from nas.distill.evaluation.probes import HELD_OUT_IMAGES, teacher_metrics
from nas.study.records import HeadFacts, TeacherFacts

_HEAD_FACTS = ("channels", "dims", "kept", "cosine")  # keys of a head in the cache's manifest


def teacher_facts(
    targets: Targets, descriptions: Mapping[str, str], progress: Progress = lambda stage, done, total: None
) -> dict[str, TeacherFacts]:
    """Return how much of every teacher is distilled, and how its own targets score in the students' probes.

    Args:
        targets: the cached teachers.
        descriptions: teacher -> its network and the features that are taken from it, in words.
        progress: gets the number of teachers done.
    """
    parts = read_cache_set(targets.path).teachers
    facts = {}
    for done, teacher in enumerate(targets.teachers, start=1):
        heads = {
            head: HeadFacts(**{key: about[key] for key in _HEAD_FACTS})
            for head, about in parts[teacher].manifest["heads"].items()
        }
        facts[teacher] = TeacherFacts(descriptions[teacher], heads, teacher_metrics(targets, teacher))
        progress("probes of the teachers' own features", done, len(targets.teachers))
    return facts


def chance(targets: Targets) -> dict[str, float]:
    """Return the scores of the best constant guess on the held-out images: the lower end of every metric's scale."""
    val = targets.val
    scores = {"retrieval": 1 / min(len(val), HELD_OUT_IMAGES)}
    if val.labels is not None:
        shares = np.bincount(np.asarray(val.labels[:])) / len(val)
        scores |= dict.fromkeys(("knn", "probe", "zero_shot"), float(shares.max()))
    if val.masks is not None and targets.mask_classes:
        scores["miou"] = _constant_iou(val, targets.mask_classes)
    return scores


def _constant_iou(val: SplitTargets, classes: int) -> float:
    """Return the mean IoU of predicting the most frequent class: its share of pixels over the number of classes."""
    assert val.masks is not None
    pixels = np.bincount(np.asarray(val.masks[:]).ravel(), minlength=classes)[:classes]
    return float(pixels.max() / max(pixels.sum(), 1) / max((pixels > 0).sum(), 1))  # 0 where all pixels are void
