"""Folded heads give what the unfolded ones and the standardizers give, from a file too."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from backbones import Features, build
from backbones.weights import digest
from nas.cache.targets import TeacherTargets
from nas.distill.adaptor import Adaptor
from nas.distill.folded_heads import HeadsError, fold, load_heads, save_heads, unfold, without_heads
from nas.distill.heads import HeadDims, TeacherHeads
from nas.distill.losses import TRANSFORMS
from nas.distill.trainer import Distiller
from nas.study.config import DistillConfig
from search_space import preset
from tests.nas.distill.targets_builder import standardizer, two_teachers

SAM = "samvit_base.sa1b@1024/4"
CLIP = "vit_base_patch16_clip_224.openai"

IMAGES = torch.zeros(6, 3, 64, 64)


TEACHERS = {
    CLIP: TeacherTargets("a" * 16, standardizer(48, 12, 0), standardizer(40, 8, 1)),
    SAM: TeacherTargets("b" * 16, None, standardizer(24, 24, 2)),
}


def new_heads(kind: str) -> TeacherHeads:
    transforms = {
        f"{name}/{head}": TRANSFORMS[kind](getattr(about, head))
        for name, about in TEACHERS.items()
        for head in ("summary", "spatial")
        if getattr(about, head) is not None
    }
    dims = {name: HeadDims(about.summary_dim, about.spatial_dim) for name, about in TEACHERS.items()}
    torch.manual_seed(0)
    return TeacherHeads(20, 14, dims, 16, 4, transforms)


def trained_heads(kind: str) -> TeacherHeads:
    heads = new_heads(kind)
    torch.manual_seed(0)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return heads


def features() -> Features:
    torch.manual_seed(1)
    return Features(torch.randn(6, 20), torch.randn(6, 14, 4, 4))


def unfolded(heads: TeacherHeads, name: str) -> dict[str, np.ndarray]:
    """The heads' answers, brought to the teacher's own space by transform and standardizer in float64."""
    exact = copy.deepcopy(heads).double()
    answers = exact(Features(*(f.double() for f in features())))[name]
    made = {head: heads.transforms[f"{name}/{head}"].invert(values) for head, values in answers.items()}
    result = {"spatial": np.moveaxis(TEACHERS[name].spatial.invert(np.moveaxis(_array(made["spatial"]), 1, -1)), -1, 1)}
    summary = TEACHERS[name].summary
    return result if summary is None else {**result, "summary": summary.invert(_array(made["summary"]))}


@pytest.mark.parametrize("kind", ["global", "raw"])
def test_untrained_heads_answer_as_in_phi_s(kind: str) -> None:
    """A teacher's mean is up to 40 away from zero."""
    torch.manual_seed(0)
    plain = new_heads("phi_s")
    torch.manual_seed(0)
    answers, expected = new_heads(kind).predict_targets(features()), plain.predict_targets(features())
    torch.testing.assert_close(answers, expected, rtol=1e-3, atol=1e-3)


def _array(values: torch.Tensor) -> np.ndarray:
    return values.detach().numpy()


def apart(found: torch.Tensor, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest value."""
    return float(np.abs(_array(found) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("kind", ["phi_s", "global", "raw"])
def test_folded_heads_give_the_teachers_own_features(kind: str, tmp_path: Path) -> None:
    """1e-5 in float32 against the unfolded path in float64, straight and through a file."""
    heads = trained_heads(kind)
    made = fold(heads, TEACHERS, 16)
    save_heads(made, tmp_path / "x.heads.safetensors", "a model")
    for adaptors in (made, load_heads(tmp_path / "x.heads.safetensors")):
        assert list(adaptors) == [CLIP, SAM]
        for name, adaptor in adaptors.items():
            expected = unfolded(heads, name)
            summary, spatial = adaptor(*features(), IMAGES)
            assert apart(spatial, expected["spatial"]) < 1e-5
            assert (summary is None) == (name == SAM)
            if summary is not None:
                assert apart(summary, expected["summary"]) < 1e-5
    assert made[CLIP](*features(), IMAGES)[0].shape == (6, 48)
    oblong = torch.zeros(2, 3, 80, 112)
    assert made[SAM](features().summary, torch.randn(2, 14, 5, 7), oblong)[1].shape == (2, 24, 5, 7), "any map"


def test_the_file_says_what_it_holds_and_gives_one_teacher(tmp_path: Path) -> None:
    path = tmp_path / "h.safetensors"
    save_heads(fold(trained_heads("phi_s"), TEACHERS, 8), path, "a model")
    with safe_open(path, framework="pt") as file:
        teachers = file.metadata()["teachers"]
    assert (
        '"fingerprint": "aaaaaaaaaaaaaaaa", "summary": [20, 16, 48], "spatial": [14, 16, 40], "stride": 8}' in teachers
    )
    one = load_heads(path, [SAM])
    assert list(one) == [SAM]
    assert (one[SAM].fingerprint, one[SAM].stride) == ("b" * 16, 8)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(HeadsError, match="no heads for teacher 'hed'; it holds: vit_base"):
        load_heads(path, ["hed"])


def test_a_file_that_is_not_one_of_heads_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "h.safetensors"
    save_heads(fold(trained_heads("phi_s"), TEACHERS, 16), path, "a model")
    with safe_open(path, framework="pt") as file:
        metadata, state = file.metadata(), {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118

    def refused(write: Any) -> None:
        write()
        with pytest.raises(HeadsError) as caught:
            load_heads(path, model="a model")
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def sealed(state: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        """Write a file with a valid checksum, as a program for damage would."""
        save_file(state, path, {**metadata, "sha256": digest(metadata, state)})

    whole = path.read_bytes()
    tensors = len(whole) - sum(value.nbytes for value in state.values())
    refused(lambda: path.write_bytes(whole[: len(whole) // 2]))
    refused(lambda: path.write_bytes(whole[:tensors] + bytes(len(whole) - tensors)))
    refused(lambda: path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1])))
    refused(lambda: path.unlink())
    refused(lambda: sealed(state, {**metadata, "format": "backbone-nas-heads/2"}))
    refused(lambda: sealed(dict(list(state.items())[1:]), metadata))
    refused(lambda: sealed({k: v[..., :3].contiguous() for k, v in state.items()}, metadata))
    refused(lambda: sealed(state, {**metadata, "teachers": "7"}))
    refused(lambda: sealed(state, {**metadata, "teachers": "[" * 100_000}))
    refused(lambda: sealed(state, {**metadata, "teachers": '{"x": {"spatial": [1, 2]}}'}))
    refused(lambda: sealed(state, {**metadata, "teachers": metadata["teachers"].replace("16}", "0}")}))
    refused(lambda: sealed(state, {k: v for k, v in metadata.items() if k != "model"}))


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_unfolded_heads_train_on_as_they_were(kind: str) -> None:
    heads = trained_heads(kind)
    fresh = copy.deepcopy(heads)
    for parameter in fresh.parameters():
        torch.nn.init.zeros_(parameter)
    unfold(fold(heads, TEACHERS, 16), fresh, TEACHERS)
    for name, value in heads.state_dict().items():
        torch.testing.assert_close(fresh.state_dict()[name], value, atol=1e-4, rtol=1e-4)


def test_heads_that_do_not_fit_are_named() -> None:
    adaptors = fold(trained_heads("phi_s"), TEACHERS, 16)
    assert without_heads(adaptors, TEACHERS, 16) == []
    assert without_heads(adaptors, TEACHERS, 32) == [CLIP, SAM], "of another hidden width"
    assert without_heads({SAM: adaptors[SAM]}, TEACHERS, 16) == [CLIP]
    other = {**TEACHERS, SAM: TeacherTargets("c" * 16, None, TEACHERS[SAM].spatial)}
    assert without_heads(adaptors, other, 16) == [SAM], "of another version"
    wider = {**TEACHERS, SAM: TeacherTargets("b" * 16, None, standardizer(32, 24, 2))}
    assert without_heads(adaptors, wider, 16) == [SAM]
    without_summary = {**TEACHERS, CLIP: TeacherTargets("a" * 16, None, TEACHERS[CLIP].spatial)}
    assert without_heads(adaptors, without_summary, 16) == [CLIP]


def test_a_distiller_takes_the_heads_that_fit(tmp_path: Path) -> None:
    config = DistillConfig(img_size=64, batch_size=16, warmup_steps=2, precision="fp32")
    given = two_teachers(tmp_path)
    first, second = given.teachers
    given = replace(given, teachers={**given.teachers, second: replace(given.teachers[second], summary=None)})

    def distiller(adaptors: Mapping[str, Adaptor] | None) -> Distiller:
        return Distiller(build(preset("eradio_femto")), given, config, seed=len(adaptors or ()), adaptors=adaptors)

    source = distiller(None)
    warm = distiller({first: fold(source.student.heads, given.teachers, 16)[first]})
    same = {first: True, second: False}
    for name, theirs in source.student.heads.spatial.items():
        mine = warm.student.heads.spatial[name][0].weight
        assert torch.allclose(mine, theirs[0].weight) == same[name]
