"""The one way into the cache: open what is there, build what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from nas.cache.estimate import estimate
from nas.cache.features import Compression, Features
from nas.cache.images import Images, Progress, Source
from nas.cache.parts import FORMAT, CacheError, write_json
from nas.cache.storage import CODECS
from nas.cache.targets import Targets, load_targets
from nas.config import SearchConfig
from nas.data.imageset import digest
from nas.records import StudyInfo
from nas.teachers import specs


class Plan:
    """What a set of teachers on some images needs: parts that may be there already, wholly or half."""

    def __init__(
        self, source: Source, teachers: str, weights: Mapping[str, Path], image_px: int, compression: Compression
    ) -> None:
        grid, share = compression.grid, compression.share
        if not 1 <= grid <= image_px:
            raise CacheError(f"grid: {grid} is not possible for {image_px} px images; allowed: 1 to {image_px}")
        if not 0 < share <= 1:
            raise CacheError(f"--share: {share} is not possible; allowed: over 0, up to 1")
        chosen = specs(teachers, weights)
        self.teachers_name = teachers
        self.images = Images(source, image_px)
        self.teachers = [Features(spec, self.images, compression) for spec in chosen]
        self.path = source.root / f"set-{digest([FORMAT, *(part.fingerprint for part in self.teachers)])}.json"

    @property
    def missing(self) -> list[Features]:
        """Teachers that are not all there."""
        return [teacher for teacher in self.teachers if not teacher.part.complete]

    def build(self, progress: Progress) -> None:
        """Build what is missing, one teacher in memory at a time."""
        if not self.images.part.complete:
            self.images.build(progress)
        for teacher in self.missing:
            teacher.build(progress)
        if not self.path.exists():
            source = self.images.source
            origin = {"data": source.uri, "train_images": source.counts["train"], "val_images": source.counts["val"]}
            origin |= {"seed": source.seed, "views": source.views, "teachers": self.teachers_name}
            teachers = {teacher.spec.name: teacher.part.folder.name for teacher in self.teachers}
            folder = self.images.part.folder.name
            write_json(self.path, {"format": FORMAT, "images": folder, "teachers": teachers, "origin": origin})


def share_of(storage: str, share: float | None) -> float:
    """The share of a teacher's numbers to keep: as given, or what makes int4 and int8 an eighth of its fp16 bytes."""
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
    """Targets of the named teachers on the images, built under `root` as far as they aren't there yet.

    Images are `image_px` squares, spatial targets `grid` x `grid`. `share` of a teacher's numbers is kept, stored as
    `storage`. `announce` is told size and time before anything is built. `verify` compares every file's hash.
    DataError, TeacherError or CacheError say in one line what a person can mend.
    """
    source = Source(images_uri, {"train": train_images, "val": val_images}, seed, views, root, progress)
    plan = Plan(source, teachers, weights or {}, image_px, Compression(grid, storage, share_of(storage, share)))
    if not plan.path.exists() or plan.missing or not plan.images.part.complete:
        try:
            root.mkdir(parents=True, exist_ok=True)
            announce(estimate(plan).line)
            plan.build(progress)
        except OSError as error:
            raise CacheError(f"teacher cache: cannot build {plan.path}: {error.strerror or error}") from error
    return load_targets(plan.path, verify)


def open_config_targets(
    config: SearchConfig,
    root: Path,
    teacher_files: Mapping[str, Path] | None,
    progress: Progress,
    announce: Callable[[str], None],
) -> Targets:
    """Open the targets that a search with this configuration distils from; errors as `open_targets`."""
    return open_targets(
        config.data,
        config.teachers,
        root=root,
        train_images=config.train_images,
        val_images=config.val_images,
        image_px=config.distill.image_px,
        grid=config.grid,
        seed=0,  # of the generated images: the same for every study, so that studies can be compared
        views=config.views,
        storage=config.storage,
        weights=teacher_files,
        progress=progress,
        announce=announce,
    )


def open_study_targets(
    info: StudyInfo,
    root: Path,
    teacher_files: Mapping[str, Path] | None,
    progress: Progress,
    announce: Callable[[str], None],
) -> Targets:
    """Open the targets that a study was distilled from, to train its candidates further.

    Raises:
        CacheError: the teachers or the images are not those of the study; further errors as `open_targets`.
    """
    targets = open_config_targets(SearchConfig.from_dict(info.config), root, teacher_files, progress, announce)
    now = {name: teacher.fingerprint for name, teacher in targets.teachers.items()}
    if now != info.teachers:
        raise CacheError(f"the study was trained with teachers {info.teachers}, now they are {now}")
    if targets.data_fingerprint != info.data["fingerprint"]:
        raise CacheError(f"the images of {info.data['name']!r} are not those of the study")
    return targets
