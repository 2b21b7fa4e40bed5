"""Reference scores of a study: the teachers' own and those of a constant guess, computed once, from the cache."""

from __future__ import annotations

from collections.abc import Mapping

from nas.cache.targets import Targets, read_cache_set
from nas.data.dataset import Progress
from nas.distill.evaluation.explained_variance import constant_map_scores
from nas.distill.evaluation.tasks import HELD_OUT_IMAGES, TASKS, most_frequent_share, teacher_metrics
from nas.distill.evaluation.zero_shot import PROMPTS
from nas.study.records import HeadFacts, TeacherFacts

_HEAD_FACTS = ("channels", "dims", "kept", "cosine")  # keys of a head in the cache's manifest


def teacher_facts(
    targets: Targets, descriptions: Mapping[str, str], progress: Progress = lambda stage, done, total: None
) -> dict[str, TeacherFacts]:
    """Return how much of every teacher is distilled, and how its own targets do in the students' tasks.

    Args:
        targets: the cached teachers.
        descriptions: teacher -> its network and the features that are taken from it, in words; the prompts of a
            zero-shot accuracy are added.
        progress: gets the number of teachers done.
    """
    parts = read_cache_set(targets.path).teachers
    facts = {}
    progress("evaluation of the teachers", 0, len(targets.teachers))
    for done, teacher in enumerate(targets.teachers, start=1):
        heads = {
            head: HeadFacts(**{key: about[key] for key in _HEAD_FACTS})
            for head, about in parts[teacher].manifest["heads"].items()
        }
        metrics = teacher_metrics(targets, teacher)
        prompts = f"; zero-shot by {PROMPTS}" if "zero_shot" in metrics else ""
        facts[teacher] = TeacherFacts(descriptions[teacher] + prompts, heads, metrics)
        progress("evaluation of the teachers", done, len(targets.teachers))
    return facts


def chance(targets: Targets) -> dict[str, float]:
    """Return the metrics of a constant guess on the held-out images: the lower end of every metric's scale.

    "score" is the distillation score of the best prediction of spatial features that is the same for every image.
    """
    levels = {"retrieval": 1 / min(len(targets.val), HELD_OUT_IMAGES)}
    if scores := constant_map_scores(targets.val):
        levels["score"] = sum(scores.values()) / len(scores)
    if targets.val.labels is not None:
        levels["zero_shot"] = most_frequent_share(targets.val)
    for task in TASKS:
        if task.suits(targets):
            levels |= task.chance(targets)
    return levels
