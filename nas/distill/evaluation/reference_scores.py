"""What a study's scores are to be held against: the teachers' own, and chance. Computed once, from the cache."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nas.cache.targets import SplitTargets, Targets, read_set
from nas.data.imageset import Progress
from nas.distill.evaluation.probes import HELD_OUT, teacher_metrics
from nas.records import HeadFacts, TeacherFacts

KNOWN = ("channels", "dims", "kept", "cosine")  # of a head in the cache's manifest


def teacher_facts(
    targets: Targets, what: Mapping[str, str], progress: Progress = lambda stage, done, total: None
) -> dict[str, TeacherFacts]:
    """How much of every teacher is distilled, and how its own targets do in the students' probes.

    `what` says of each teacher which network it is and what is taken from it.
    """
    parts = read_set(targets.path).teachers
    facts = {}
    for done, teacher in enumerate(targets.teachers, start=1):
        heads = {
            head: HeadFacts(**{key: about[key] for key in KNOWN})
            for head, about in parts[teacher].manifest["heads"].items()
        }
        facts[teacher] = TeacherFacts(what[teacher], heads, teacher_metrics(targets, teacher))
        progress("probes of the teachers' own features", done, len(targets.teachers))
    return facts


def chance(targets: Targets) -> dict[str, float]:
    """What the best constant guess scores on the held-out images: the lower end of every metric's scale."""
    val = targets.val
    scores = {"retrieval": 1 / min(len(val), HELD_OUT)}
    if val.labels is not None:
        shares = np.bincount(np.asarray(val.labels[:])) / len(val)
        scores |= dict.fromkeys(("knn", "probe", "zero_shot"), float(shares.max()))
    if val.masks is not None and targets.mask_classes:
        scores["miou"] = _constant_iou(val, targets.mask_classes)
    return scores


def _constant_iou(val: SplitTargets, classes: int) -> float:
    """Mean IoU of the most frequent class everywhere: its share of the pixels over the number of classes that occur."""
    assert val.masks is not None
    pixels = np.bincount(np.asarray(val.masks[:]).ravel(), minlength=classes)[:classes]
    return float(pixels.max() / max(pixels.sum(), 1) / max((pixels > 0).sum(), 1))  # 0 where all pixels are void
