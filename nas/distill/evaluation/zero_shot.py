"""Zero-shot accuracy through a teacher's text tower, for a student that predicts the summaries of a CLIP or SigLIP.

The driver embeds the class names once, into the teacher's entry of the cache, where a worker reads them. It sends them
to nodes whose copy of the cache lacks them (`nas.backend.cluster`). A prediction is brought from PHI-S to the teacher's
own space and compared with them, as the teacher's own summaries are.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.cache.entry import CacheError
from nas.cache.shards import ArrayWriter, ShardedArray
from nas.cache.targets import Targets, read_cache_set
from nas.data.dataset import Progress, digest
from nas.study.teacher_names import TeacherError
from nas.teachers.base import TeacherSpec
from nas.teachers.text import TEMPLATES, text_embeddings, zero_shot

PROMPTS = f"the mean of {len(TEMPLATES)} prompts ({', '.join(template.rstrip('.') for template in TEMPLATES)})"
_LOG = logging.getLogger(__name__)
CONTRASTIVE = ("clip", "siglip", "pe_core")  # in timm's names


def embed_class_names(
    targets: Targets,
    teachers: Iterable[TeacherSpec],
    weights: Mapping[str, Path] | None = None,
    *,
    say: Callable[[str], None],
    progress: Progress = lambda stage, done, total: None,
) -> None:
    """Embed the images' class names for every CLIP and SigLIP among the teachers, unless the cache holds them.

    Args:
        targets: the cached teachers.
        teachers: specs of the teachers.
        weights: local files as for `nas.teachers.specs`.
        say: gets one line for each teacher whose text tower, labels or class names are missing.
        progress: gets the progress of a download.
    """
    for spec in teachers:
        if not contrastive(spec) or spec.name not in targets.teachers:
            continue
        lacking = "class names" if targets.class_names is None else "labels" if targets.val.labels is None else None
        if lacking is None and not any(map(_is_word, targets.class_names or ())):
            lacking = f"class names in words, as {(targets.class_names or ('',))[0]!r} is none"
        if lacking:
            say(f"no zero-shot accuracy through {spec.name}: the images have no {lacking}")
            continue
        path = texts_path(targets, spec.name)
        if path is None or path.exists():
            continue
        try:
            texts = text_embeddings(spec.name, words(targets), weights, progress=progress)
            _save(path, texts)
        except (TeacherError, OSError) as error:
            reason = str(error).removeprefix(f"teacher {spec.name}: ")
            say(f"no zero-shot accuracy through {spec.name}: {reason}")


def contrastive(teacher: TeacherSpec) -> bool:
    """Return whether a teacher was trained with a text tower, supported or not, and not fine-tuned on labels since."""
    return any(word in teacher.network for word in CONTRASTIVE) and "_ft_" not in teacher.network


def zero_shot_accuracy(targets: Targets, teacher: str, predicted: Tensor) -> float | None:
    """Return the share of the first held-out images whose class name is the nearest of all to their predicted summary.

    Args:
        targets: the cached teachers.
        teacher: name of the teacher whose text tower is used.
        predicted: PHI-S targets (N, k) of its summary.

    Returns:
        The accuracy; None where the teacher has no embeddings of them (`embed_class_names`).
    """
    path = texts_path(targets, teacher)
    standardizer = targets.teachers[teacher].summary
    if path is None or not path.exists() or standardizer is None or targets.val.labels is None:
        return None
    texts = torch.from_numpy(_read(path, targets))
    summaries = torch.from_numpy(standardizer.invert(predicted.double().numpy())).float()
    truth = torch.from_numpy(np.asarray(targets.val.labels[: len(summaries)]))
    return float((zero_shot(summaries, texts) == truth).float().mean())


def texts_path(targets: Targets, teacher: str) -> Path | None:
    """Return the path of the names' text embeddings, written or not; None without names or cache."""
    if targets.class_names is None:
        return None
    try:
        folder = read_cache_set(targets.path).teachers[teacher].folder
    except (CacheError, KeyError):
        return None
    return folder / f"texts-{digest([words(targets), TEMPLATES])}.npy"


def embedded_texts(targets: Targets) -> dict[str, NDArray[np.float32]]:
    """Return teacher -> text embeddings (classes, k) of the class names, of the teachers whose entry has them."""
    paths = {teacher: texts_path(targets, teacher) for teacher in targets.teachers}
    return {teacher: _read(path, targets) for teacher, path in paths.items() if path and path.exists()}


def add_texts(targets: Targets, texts: Mapping[str, NDArray[np.float32]]) -> None:
    """Write text embeddings of another copy of the cache, as `embedded_texts` returns them, where they are missing.

    A copy that cannot be written stays as it is: the log says so, and its trials have no zero-shot accuracy.
    """
    for teacher, embeddings in texts.items():
        path = texts_path(targets, teacher)
        if path is None or path.exists():
            continue
        try:
            _save(path, torch.from_numpy(embeddings))
        except OSError as error:
            where = f"{path.parent}, which lacks {path.name}"
            _LOG.warning("no zero-shot accuracy through %s here: cannot write %s: %s", teacher, where, error.strerror)


def words(targets: Targets) -> list[str]:
    """Return the class names as words: underscores become spaces."""
    return [name.replace("_", " ") for name in targets.class_names or ()]


def _is_word(name: str) -> bool:
    """Return whether a class name says something to a text tower: a number does not, nor does an id of WordNet."""
    return any(character.isalpha() for character in name) and not re.fullmatch(r"n\d{8}", name)


def _read(path: Path, targets: Targets) -> NDArray[np.float32]:
    return np.asarray(ShardedArray([path], [len(targets.class_names or ())]))


def _save(path: Path, texts: Tensor) -> None:
    """Write the file as a whole or not at all."""
    with ArrayWriter(path, np.float32, tuple(texts.shape[1:])) as writer:
        writer.append(texts.numpy())
