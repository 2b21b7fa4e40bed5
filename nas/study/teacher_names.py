"""The names of teachers and of sets of teachers, and which names are surely wrong, without importing torch or timm."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

from nas.redaction import public_word
from search_space.timm_names import may_be_timm_name, tagged_names

OWN_TEACHERS = ("lite0", "hed", "xfeat")  # the keys of nas.teachers' TEACHERS, those with a module; others are timm's
SETS: dict[str, tuple[str, ...]] = {
    "builtin": ("lite0", "hed", "xfeat"),  # of every study by default: no teacher is added to these
    "am_radio": (
        "vit_huge_patch14_clip_224.laion2b",
        "vit_giant_patch14_reg4_dinov2.lvd142m@224",
        "samvit_huge_patch16.sa1b@1024/4",
    ),
    "c_radio_v4": (
        "vit_giantopt_patch16_siglip_384.v2_webli",
        "vit_7b_patch16_dinov3.lvd1689m",
        "samvit_huge_patch16.sa1b@1024/4",
    ),
}


class TeacherError(ValueError):
    """A teacher cannot be loaded: its name is unknown, or its weights are missing or altered. One line."""


def listed(names: str) -> list[str]:
    """Return the names of a comma list, with the members of each set in its place."""
    each = [name.strip() for name in names.split(",")]
    return [member for name in each for member in SETS.get(name, (name,))]


def check_teacher_names(names: str, files: Mapping[str, Path]) -> None:
    """Raise TeacherError for a name that is surely none of a teacher, or a file that belongs to no chosen teacher."""
    own = _own_teachers()
    for name in listed(public_word(names)):  # the message quotes a part
        if name not in own and not may_be_timm_name(network := name.partition("@")[0]):
            raise TeacherError(f"--teachers: unknown teacher {network!r}; {teacher_choices(network)}")
    check_files(names, files)


def _own_teachers() -> Iterable[str]:
    """Return the names of this project's teachers, and of those that this process has added to them."""
    return getattr(sys.modules.get("nas.teachers"), "TEACHERS", OWN_TEACHERS)


def check_files(names: str, files: Mapping[str, Path]) -> None:
    """Raise TeacherError for a file whose name is not that of a chosen teacher that takes one."""
    own = _own_teachers()
    takers = [name for name in listed(names) if name not in own]
    networks = [name.partition("@")[0] for name in takers]
    for name, file in files.items():
        if name in takers or name in networks:
            continue
        near = get_close_matches(name.partition("@")[0], networks, n=1, cutoff=0.0)
        meant = f"; nearest: {near[0]}" if near else ""
        raise TeacherError(
            f"--teacher-weights {name}={public_word(str(file))}: no chosen teacher of this name takes a file{meant};"
            f" chosen teachers that take a file: {', '.join(networks) or 'none'}"
        )


def teacher_choices(network: str, builtin_names: Iterable[str] = (*SETS, *OWN_TEACHERS)) -> str:
    """List the names most similar to an unknown one."""
    near = get_close_matches(network, [*builtin_names, *tagged_names()], n=5, cutoff=0.5)
    ending = "any pretrained timm network" + (f"; nearest: {', '.join(near)}" if near else "")
    return f"choices: {', '.join(builtin_names)}, a comma list of these, or {ending}"
