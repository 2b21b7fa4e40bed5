"""E-RADIO against tensors of the original with random weights: the port is right where every tensor agrees."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from backbones import eradio_from_public, fuse
from tests.backbones.builders import outputs

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "reference"
MEMBERS = ("conv_base", "pool_depthwise", "window_resize")


@pytest.fixture(scope="module", params=MEMBERS)
def member(request):
    path = FOLDER / f"eradio_micro_{request.param}.safetensors"
    if not path.exists():
        pytest.skip(f"no reference tensors at {path}")
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    state = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    wanted = {key.removeprefix("tensor."): value for key, value in tensors.items() if key.startswith("tensor.")}
    return eradio_from_public(config, state), wanted


def test_every_tensor_agrees(member):
    model, wanted = member
    got = outputs(model, wanted["input"])
    for key, value in got.items():
        assert value.shape == wanted[key].shape
        assert (value - wanted[key]).abs().max() < 2e-6, key


def test_the_deploy_form_agrees(member):
    model, wanted = member
    got = outputs(fuse(model), wanted["input"])
    for key, value in got.items():
        torch.testing.assert_close(value, wanted[key], atol=1e-5, rtol=1e-5, msg=key)
