"""Teachers by name: frozen pretrained networks that a student is distilled from."""

from __future__ import annotations

from nas.teachers.hed import HED_TEACHER
from nas.teachers.lite0 import LITE0_TEACHER
from nas.teachers.teacher import Teacher, TeacherError, TeacherOutput, TeacherSpec
from nas.teachers.xfeat import XFEAT_TEACHER

__all__ = ["SETS", "TEACHERS", "Teacher", "TeacherError", "TeacherOutput", "TeacherSpec", "load_teachers", "specs"]

TEACHERS: dict[str, TeacherSpec] = {"lite0": LITE0_TEACHER, "hed": HED_TEACHER, "xfeat": XFEAT_TEACHER}
SETS: dict[str, tuple[str, ...]] = {"embedded": ("lite0", "hed", "xfeat")}


def specs(names: str) -> list[TeacherSpec]:
    """Specs of a set ("embedded") or of a comma list ("lite0,xfeat"), in the given order; weights are not touched.

    Raises TeacherError for an unknown, repeated or empty name.
    """
    wanted = list(SETS.get(names, [name.strip() for name in names.split(",")]))
    for name in wanted:
        if name not in TEACHERS:
            choices = ", ".join([*SETS, *TEACHERS])
            raise TeacherError(f"--teachers: unknown teacher {name!r}; choices: {choices} (or a comma list)")
    if len(set(wanted)) != len(wanted):
        raise TeacherError(f"--teachers: {names!r} names a teacher twice")
    return [TEACHERS[name] for name in wanted]


def load_teachers(names: str) -> list[Teacher]:
    """The named teachers with their pretrained weights, on the CPU; see `specs`. Fetches missing weights once."""
    return [spec.load() for spec in specs(names)]
