"""Real photographs from scikit-image as teacher input. Weights are real too; tests skip without them."""

import pytest
import skimage.data
import torch
from torch.nn import functional as F

from nas.teachers import load_teachers
from nas.teachers.base import TeacherUnavailable


@pytest.fixture(scope="session")
def teachers():
    try:
        return {teacher.name: teacher for teacher in load_teachers("builtin")}
    except TeacherUnavailable as error:
        pytest.skip(f"no teacher weights: {error}")


@pytest.fixture(scope="session")
def photograph():
    """Function (name, size_px) -> central square of a scikit-image photograph, float (1, 3, S, S) in [0, 1]."""

    def load(name, size_px):
        pixels = torch.from_numpy(getattr(skimage.data, name)().copy()).permute(2, 0, 1)[None].float() / 255
        side = min(pixels.shape[-2:])
        top, left = ((length - side) // 2 for length in pixels.shape[-2:])
        square = pixels[..., top : top + side, left : left + side]
        return F.interpolate(square, (size_px, size_px), mode="bilinear", antialias=True)

    return load
