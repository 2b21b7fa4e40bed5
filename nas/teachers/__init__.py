"""Teachers by name: frozen pretrained networks that a student is distilled from.

Three teachers are built in. Most pretrained networks of timm are teachers too, those with safetensors weights and a
square map, except RADIO's. Their names are ``NAME[@PX[/N]]``: PX is the side of the input, N x N images of PX / N px
make one input (a mosaic, for networks of large inputs without a summary). A set stands for several names; names and
sets mix in a comma list.

- ``am_radio``: the three teachers of AM-RADIO's backbone study (arXiv 2312.06709): CLIP ViT-H, DINOv2 ViT-g with
  registers at 224 px, and SAM ViT-H, 16 images to a mosaic.
- ``c_radio_v4``: SigLIP2-g at 384 px and DINOv3 7B as in C-RADIOv4 (arXiv 2601.17237). SAM3 isn't in timm; SAM ViT-H
  replaces it, not timm's newer SAM2, which is the trunk alone with its last map at stride 32.
  DINOv3 7B takes 27 GB of memory in fp32; ``vit_huge_plus_patch16_dinov3.lvd1689m`` in its place takes 3.4 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nas.numbers import plural
from nas.study.teacher_names import SETS, TeacherError, check_teacher_names, listed
from nas.teachers.base import Teacher, TeacherOutput, TeacherSpec
from nas.teachers.hed import HED_TEACHER
from nas.teachers.lite0 import LITE0_TEACHER
from nas.teachers.timm_networks import timm_spec
from nas.teachers.weights import file_for
from nas.teachers.xfeat import XFEAT_TEACHER

__all__ = ["SETS", "TEACHERS", "Teacher", "TeacherError", "TeacherOutput", "TeacherSpec", "load_teachers", "specs"]

TEACHERS: dict[str, TeacherSpec] = {spec.name: spec for spec in (LITE0_TEACHER, HED_TEACHER, XFEAT_TEACHER)}


def specs(names: str, weights: Mapping[str, Path] | None = None) -> list[TeacherSpec]:
    """Return the specs of a comma list of teachers and sets, in its order; weights are not read.

    `weights` maps names of timm's networks, without ``@PX/N``, to safetensors files. Raises TeacherError for an
    unknown, repeated or empty name, an impossible size, or a missing file.
    """
    files = dict(weights or {})
    check_teacher_names(names, files)
    chosen = [spec_of(name, files) for name in listed(names)]
    if len({(spec.network, spec.preprocessing) for spec in chosen}) != len(chosen):
        raise TeacherError(f"--teachers: {names!r} names a teacher twice")
    return chosen


def check_weights(chosen: Sequence[TeacherSpec], announce: Callable[[str], None] = lambda line: None) -> None:
    """Raise TeacherError where a teacher's weights are missing or another network's; announce downloads.

    No tensor is read and nothing is downloaded, so that a command ends here before its long work.
    """
    problems = []
    for spec in chosen:
        try:
            where = spec.check()
        except TeacherError as error:
            problems.append(error)
        else:
            if "downloaded" in where:
                announce(f"teacher {spec.name}: {where}")
    if len(problems) > 1:
        raise TeacherError(f"{len(problems)} of {plural(len(chosen), 'teacher')} have no usable weights; {problems[0]}")
    if problems:
        raise problems[0]


def enlarged_maps(chosen: Sequence[TeacherSpec], grid: int, image_px: int) -> str:
    """Return a warning about teachers whose maps are smaller than the grid of the targets; "" where there are none.

    Args:
        chosen: The teachers.
        grid: Side of the spatial targets.
        image_px: Side of the student's images.
    """
    smaller = []
    for spec in chosen:
        side = spec.cached_side(image_px)
        if side is not None and side < grid:
            fitting = spec.name_for_side(grid)
            advice = f" (give {fitting} in its place)" if fitting else ""
            smaller.append(f"{spec.name} has a map of {side} x {side}{advice}")
    if not smaller:
        return ""
    return (
        f"the targets have {grid} x {grid} cells, and smaller maps are enlarged, which adds no detail: "
        f"{'; '.join(smaller)}"
    )


def spec_of(name: str, files: Mapping[str, Path]) -> TeacherSpec:
    """Return the spec of one teacher."""
    if name in TEACHERS:
        return TEACHERS[name]
    return timm_spec(name, file_for(name, files), (*SETS, *TEACHERS))


def load_teachers(names: str, weights: Mapping[str, Path] | None = None) -> list[Teacher]:
    """Load the named teachers, pretrained, on the CPU; see `specs`. Missing weights are downloaded once."""
    return [spec.load() for spec in specs(names, weights)]
