"""Open a teacher cache: read the entries that exist, and build those that are missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from nas.cache.codecs import CODECS
from nas.cache.entry import FORMAT, LAYOUT, CacheError, CacheFailure, mark_in_use, write_json
from nas.cache.estimate import BuildProgress, estimate
from nas.cache.images import ImageCacheBuilder, ImageSource
from nas.cache.poses import build_poses, has_poses
from nas.cache.shards import mapped
from nas.cache.targets import Targets, load_targets, set_path
from nas.cache.teacher_features import Compression, TeacherCacheBuilder
from nas.cli import is_of_path
from nas.data import absolute_uri
from nas.data.dataset import Progress, digest
from nas.study.config import TARGET_SHARE, SearchConfig
from nas.study.records import StudyInfo
from nas.teachers import check_weights, specs

STUDY_SEED = 0  # seed of the images in every study, so that studies can be compared


class CachePlan:
    """The entries that some teachers need on some images, whether they are built or not.

    `path` is the file of the set that names them. `announce` is called with a line for each download of weights.

    Raises:
        CacheError: The grid or the share is impossible.
        TeacherError: A teacher's weights are missing or another network's.
    """

    def __init__(
        self,
        source: ImageSource,
        teachers: str,
        weights: Mapping[str, Path],
        image_px: int,
        compression: Compression,
        precision: str = "fp32",
        announce: Callable[[str], None] = lambda line: None,
    ) -> None:
        grid, share = compression.grid, compression.share
        if not 1 <= grid <= image_px:
            raise CacheError(f"grid: {grid} is not possible for {image_px} px images; allowed: 1 to {image_px}")
        if compression.storage not in CODECS:
            raise CacheError(f"--target-dtype: {compression.storage!r} is not possible; choices: {', '.join(CODECS)}")
        if not 0 < share <= 1:
            raise CacheError(f"--share: {share} is not possible; allowed: over 0, up to 1")
        chosen = specs(teachers, weights)
        check_weights(chosen, announce)
        self.teachers_name = teachers
        self.images = ImageCacheBuilder(source, image_px)
        self.teachers = [TeacherCacheBuilder(spec, self.images, compression, precision) for spec in chosen]
        fingerprints = [teacher.fingerprint for teacher in self.teachers]
        self.path = set_path(source.root, digest([FORMAT, LAYOUT, *fingerprints]))

    @property
    def missing(self) -> list[TeacherCacheBuilder]:
        """Return the teachers whose entries are incomplete."""
        return [teacher for teacher in self.teachers if not teacher.entry.complete]

    @property
    def complete(self) -> bool:
        """Tell whether every entry, with its poses, and the set's file exist."""
        entries = self.images.entry.complete and not self.missing
        return self.path.exists() and entries and has_poses(self.images, self.teachers)

    def reopen(self) -> None:
        """Make complete entries incomplete where arrays were deleted: a build then writes their shards alone."""
        for entry in (self.images.entry, *(teacher.entry for teacher in self.teachers)):
            entry.reopen()

    def build(self, progress: Progress) -> None:
        """Build the missing entries, with one teacher in memory at a time, and write the set's file."""
        mapped.cache_clear()  # this process may have read an entry that was deleted to be built again
        for entry in (self.images.entry, *(teacher.entry for teacher in self.teachers)):
            if entry.complete:
                mark_in_use(entry.folder)  # `cache gc` would remove it while the others are built
        if not self.images.entry.complete:
            self.images.build(progress)
        for teacher in self.missing:
            teacher.build(progress)
        build_poses(self.images, self.teachers, progress)
        if not self.path.exists():
            source = self.images.source
            counts = {f"{split}_images": count for split, count in source.counts.items()}
            origin = {"data": absolute_uri(source.uri), **counts, "seed": source.seed, "views": source.views}
            origin["teachers"] = self.teachers_name
            teachers = {teacher.spec.name: teacher.entry.folder.name for teacher in self.teachers}
            folder = self.images.entry.folder.name
            write_json(self.path, {"images": folder, "teachers": teachers, "origin": origin})


def open_targets(
    images_uri: str,
    teachers: str,
    *,
    root: Path,
    train_images: int,
    val_images: int,
    image_px: int,
    grid: int,
    seed: int,
    views: int = 1,
    precision: str = "fp32",
    storage: str = "int8",
    share: float = TARGET_SHARE,
    weights: Mapping[str, Path] | None = None,
    progress: Progress = lambda stage, done, total: None,
    announce: Callable[[str], None] = lambda line: None,
    check_counts: Callable[[int, int], None] = lambda train, val: None,
    check_plan: Callable[[CachePlan], None] = lambda plan: None,
) -> Targets:
    """Open the targets of the named teachers on the images, after building missing entries.

    Args:
        images_uri: The data, as `nas.data.open_images` takes it.
        teachers: A comma list of teachers or sets.
        root: Folder of the cache.
        train_images: Number of images in the train split, before augmentation.
        val_images: Number of images in the held-out split.
        image_px: Side of the student's images.
        grid: Side of the spatial targets.
        seed: Seed of the images' choice, order and augmentations.
        views: Stored augmentations of each train image.
        precision: Precision that the teachers compute in, see `nas.teachers.base.run_teacher`.
        storage: How each number is stored, a name in `CODECS`.
        share: Share of each teacher's numbers that PCA keeps.
        weights: Files with teachers' weights, by teacher.
        progress: Called with (stage, done, total).
        announce: Called with lines for the user: size and time of a build, a table of the images.
        check_counts: Called with the numbers of train (without views) and held-out images; may refuse them.
        check_plan: Called with the entries before a build; may refuse their teachers or images.

    Raises:
        DataError: The images cannot be opened.
        TeacherError: A teacher cannot be loaded.
        CacheError: The cache cannot be built or read.
    """
    source = ImageSource(images_uri, {"train": train_images, "val": val_images}, seed, views, root, progress)
    compression = Compression(grid, storage, share)
    plan = CachePlan(source, teachers, weights or {}, image_px, compression, precision, announce)
    check_counts(len(plan.images.sets["train"]) // views, len(plan.images.sets["val"]))
    check_plan(plan)
    _build_missing(plan, progress, announce)
    targets = load_targets(plan.path)
    for line in plan.images.account():
        announce(line)
    return targets


def _build_missing(plan: CachePlan, progress: Progress, announce: Callable[[str], None]) -> None:
    """Estimate the cost of the missing entries and shards, announce it, and build them."""
    try:
        plan.reopen()
        if plan.complete:
            return
        plan.path.parent.mkdir(parents=True, exist_ok=True)
        cost = estimate(plan.images, plan.teachers, progress)
        if cost.stages:
            announce(cost.line)
        plan.build(BuildProgress(progress, cost.stages))
    except OSError as error:
        kind = CacheError if is_of_path(error) else CacheFailure
        raise kind(f"teacher cache: cannot build {plan.path}: {error.strerror or error}") from error


def open_study_targets(
    config: SearchConfig,
    root: Path,
    *,
    study: StudyInfo | None = None,
    other_images: bool = False,
    weights: Mapping[str, Path] | None = None,
    progress: Progress = lambda stage, done, total: None,
    announce: Callable[[str], None] = lambda line: None,
    check_counts: Callable[[int, int], None] = lambda train, val: None,
) -> Targets:
    """Open the targets that a search with `config` trains on, after building missing entries.

    Args:
        config: The search's settings.
        root: Folder of the cache.
        study: The study whose teachers and images the targets must have; None for a new study.
        other_images: Whether the images may be others than the study's.
        weights: Files with teachers' weights, by teacher.
        progress: Called with (stage, done, total).
        announce: Called with the estimated size and time before a build.
        check_counts: Called with the numbers of train images, without their views, and of held-out ones before a build;
            it may refuse them.

    Raises:
        DataError: The images cannot be opened.
        TeacherError: A teacher cannot be loaded.
        CacheError: The cache cannot be built or read, or teachers or images are not those of `study`; before a
            build, if the cache lacks entries.
    """

    def check_plan(plan: CachePlan) -> None:
        if study is not None:
            fingerprints = {teacher.spec.name: teacher.spec.fingerprint for teacher in plan.teachers}
            images = None if other_images else plan.images.fingerprint
            _check_recorded(study, fingerprints, images, config.data)

    targets = open_targets(
        config.data,
        config.teachers,
        root=root,
        train_images=config.train_images,
        val_images=config.val_images,
        image_px=config.distill.img_size,
        grid=config.grid,
        seed=STUDY_SEED,
        views=config.views,
        precision=config.teacher_precision,
        storage=config.target_dtype,
        weights=weights,
        progress=progress,
        announce=announce,
        check_counts=check_counts,
        check_plan=check_plan,
    )
    if study is not None:  # the files themselves say of what they are
        fingerprints = {name: teacher.fingerprint for name, teacher in targets.teachers.items()}
        images = None if other_images else targets.data_fingerprint
        _check_recorded(study, fingerprints, images, config.data)
    return targets


def _check_recorded(study: StudyInfo, teachers: Mapping[str, str], images: str | None, data: str) -> None:
    """Raise CacheError where teachers, by the fingerprint of each, or images are not those of a study.

    The study's images may lie elsewhere by now, at `data`: their fingerprint decides, and not their path; None stands
    for any images.
    """
    if teachers != study.teachers:
        before = study.teachers
        changed = [
            f"{name}: {before.get(name, 'none')} -> {teachers.get(name, 'none')}"
            for name in {**before, **teachers}
            if before.get(name) != teachers.get(name)
        ]
        raise CacheError(f"the teachers are not those that the study was trained with: {'; '.join(changed)}")
    if images not in (None, study.data.get("fingerprint")):
        raise CacheError(
            f"the images of {data!r} are not those that the study was trained with: put those back, or name their "
            "place with --data"
        )
