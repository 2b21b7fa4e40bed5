"""Open a teacher cache: read the entries that are there, build those that are missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from nas.cache.codecs import CODECS
from nas.cache.entry import FORMAT, CacheError, write_json
from nas.cache.estimate import estimate
from nas.cache.images import ImageCacheBuilder, ImageSource, Progress
from nas.cache.targets import Targets, load_targets
from nas.cache.teacher_features import Compression, TeacherCacheBuilder
from nas.data.dataset import digest
from nas.study.config import SearchConfig
from nas.study.records import StudyInfo
from nas.teachers import specs

STUDY_SEED = 0  # of the generated images: the same for every study, so that studies can be compared


class CachePlan:
    """The entries that a set of teachers on some images needs; each may be there already, wholly or half.

    Raises:
        CacheError: The grid or the share is impossible.
    """

    def __init__(
        self, source: ImageSource, teachers: str, weights: Mapping[str, Path], image_px: int, compression: Compression
    ) -> None:
        grid, share = compression.grid, compression.share
        if not 1 <= grid <= image_px:
            raise CacheError(f"grid: {grid} is not possible for {image_px} px images; allowed: 1 to {image_px}")
        if not 0 < share <= 1:
            raise CacheError(f"--share: {share} is not possible; allowed: over 0, up to 1")
        chosen = specs(teachers, weights)
        self.teachers_name = teachers
        self.images = ImageCacheBuilder(source, image_px)
        self.teachers = [TeacherCacheBuilder(spec, self.images, compression) for spec in chosen]
        self.path = source.root / f"set-{digest([FORMAT, *(teacher.fingerprint for teacher in self.teachers)])}.json"

    @property
    def missing(self) -> list[TeacherCacheBuilder]:
        """Teachers whose entries are not complete."""
        return [teacher for teacher in self.teachers if not teacher.entry.complete]

    def build(self, progress: Progress) -> None:
        """Build what is missing, one teacher in memory at a time."""
        if not self.images.entry.complete:
            self.images.build(progress)
        for teacher in self.missing:
            teacher.build(progress)
        if not self.path.exists():
            source = self.images.source
            origin = {"data": source.uri, "train_images": source.counts["train"], "val_images": source.counts["val"]}
            origin |= {"seed": source.seed, "views": source.views, "teachers": self.teachers_name}
            teachers = {teacher.spec.name: teacher.entry.folder.name for teacher in self.teachers}
            folder = self.images.entry.folder.name
            write_json(self.path, {"format": FORMAT, "images": folder, "teachers": teachers, "origin": origin})


def share_of(storage: str, share: float | None) -> float:
    """Return the share of a teacher's numbers to keep: as given, or an eighth of its fp16 bytes in int4 and int8.

    Raises:
        CacheError: There is no such storage.
    """
    if storage not in CODECS:
        raise CacheError(f"--storage: {storage!r} is not possible; choices: {', '.join(CODECS)}")
    return CODECS[storage].share if share is None else share


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
    storage: str = "int8",
    share: float | None = None,
    weights: Mapping[str, Path] | None = None,
    progress: Progress = lambda stage, done, total: None,
    announce: Callable[[str], None] = lambda line: None,
    verify: bool = False,
) -> Targets:
    """Open the targets of the named teachers on the images; build under `root` what is missing.

    Args:
        images_uri: The data, as `nas.data.open_images` takes it.
        teachers: A comma list of teachers or sets.
        root: Folder of the cache.
        train_images: Images of the train split.
        val_images: Images of the held-out split.
        image_px: Pixels a side of the student's images.
        grid: Side of the spatial targets.
        seed: Seed of the generated images.
        views: Stored augmentations of each train image.
        storage: How each number is stored, a name in `CODECS`.
        share: Share of each teacher's numbers that PCA keeps; None: as `share_of` says.
        weights: Files with teachers' weights, by teacher.
        progress: Called with (stage, done, total).
        announce: Called with size and time before anything is built.
        verify: Whether to compare every file's hash.

    Raises:
        DataError: The images cannot be opened.
        TeacherError: A teacher cannot be loaded.
        CacheError: The cache cannot be built or read.
    """
    source = ImageSource(images_uri, {"train": train_images, "val": val_images}, seed, views, root, progress)
    plan = CachePlan(source, teachers, weights or {}, image_px, Compression(grid, storage, share_of(storage, share)))
    if not plan.path.exists() or plan.missing or not plan.images.entry.complete:
        try:
            root.mkdir(parents=True, exist_ok=True)
            announce(estimate(plan.images, plan.missing).line)
            plan.build(progress)
        except OSError as error:
            raise CacheError(f"teacher cache: cannot build {plan.path}: {error.strerror or error}") from error
    return load_targets(plan.path, verify)


def open_study_targets(
    config: SearchConfig,
    root: Path,
    *,
    study: StudyInfo | None = None,
    weights: Mapping[str, Path] | None = None,
    progress: Progress = lambda stage, done, total: None,
    announce: Callable[[str], None] = lambda line: None,
) -> Targets:
    """Open the targets that a search with `config` trains on; build under `root` what is missing.

    Args:
        config: The search's settings.
        root: Folder of the cache.
        study: The study whose teachers and images they have to be; None: a new one.
        weights: Files with teachers' weights, by teacher.
        progress: Called with (stage, done, total).
        announce: Called with size and time before anything is built.

    Raises:
        DataError: The images cannot be opened.
        TeacherError: A teacher cannot be loaded.
        CacheError: The cache cannot be built or read, or teachers or images are not those of `study`.
    """
    targets = open_targets(
        config.data,
        config.teachers,
        root=root,
        train_images=config.train_images,
        val_images=config.val_images,
        image_px=config.distill.image_px,
        grid=config.grid,
        seed=STUDY_SEED,
        views=config.views,
        storage=config.storage,
        weights=weights,
        progress=progress,
        announce=announce,
    )
    if study is not None:
        now = {name: teacher.fingerprint for name, teacher in targets.teachers.items()}
        if now != study.teachers:
            raise CacheError(f"the study was trained with teachers {study.teachers}, now they are {now}")
        if targets.data_fingerprint != study.data["fingerprint"]:
            raise CacheError(f"the images of {study.data['name']!r} are not those of the study")
    return targets
