"""Each teacher does on real photographs what it was trained to do, so its weights are understood, not just loaded."""

import numpy as np
import pytest
import torch
from skimage.filters import sobel

from backbones.folding import batch_norms_left
from nas.teachers import SETS, TEACHERS, TeacherError, load_teachers

# Mean and standard deviation of summary and spatial on chelsea at 128 px, as verified: a change means other features.
FINGERPRINTS = {
    "lite0": (0.301315, 0.80744, 0.767523, 7.99177),
    "hed": (1.0726, 1.06512, 1.0726, 2.88343),
    "xfeat": (0.00366153, 0.100724, 0.00366153, 0.12495),
}


@pytest.mark.parametrize(
    ("name", "size_px", "classes"),
    [
        ("chelsea", 224, {281, 282, 285}),  # tabby, tiger cat, Egyptian cat
        ("coffee", 128, {967}),  # espresso
        ("rocket", 224, {657, 744}),  # missile, projectile
    ],
)
def test_lite0_recognises_photographs(teachers, photograph, name, size_px, classes):
    lite0 = teachers["lite0"]
    logits = lite0.network.classifier(lite0(photograph(name, size_px)).summary)
    assert logits.argmax().item() in classes


def test_hed_fires_on_edges(teachers, photograph):
    image = photograph("coffee", 256)
    edges = teachers["hed"].edges(image)[0, 0].numpy()
    strength = sobel(image[0].mean(0).numpy())
    assert np.corrcoef(edges.ravel(), strength.ravel())[0, 1] > 0.5
    on_edges, on_flat = edges[strength > np.quantile(strength, 0.95)], edges[strength < np.quantile(strength, 0.5)]
    assert on_edges.mean() > 4 * on_flat.mean()


def test_xfeat_descriptors_match_a_shifted_copy(teachers, photograph):
    image = photograph("astronaut", 256)
    here, there = (teachers["xfeat"](view).spatial[0] for view in (image[..., :192, :192], image[..., 8:200, 16:208]))
    best = (here.flatten(1).T @ there.flatten(1)).argmax(1).reshape(24, 24)
    row, column = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    inside = (row >= 1) & (column >= 2)
    right = best == (row - 1) * 24 + (column - 2)
    assert right[inside].float().mean() > 0.7  # chance: 1 in 576


@pytest.mark.parametrize("size_px", [64, 96])
def test_declared_widths_hold_at_any_size(teachers, size_px):
    images = torch.rand(2, 3, size_px, size_px)
    for teacher in teachers.values():
        summary, spatial = teacher(images)
        assert summary.shape == (2, teacher.summary_dim)
        assert spatial.shape[:2] == (2, teacher.spatial_dim)
        assert (
            spatial.shape[2]
            == spatial.shape[3]
            == max(size_px, teacher.source_px) // (16 if teacher.name == "lite0" else 8)
        )
        assert torch.isfinite(summary).all()
        assert torch.isfinite(spatial).all()


def test_an_image_is_described_alike_alone_and_in_a_batch(teachers, photograph):
    batch = torch.cat([photograph(name, 64) for name in ("chelsea", "coffee", "rocket")])
    for teacher in teachers.values():
        torch.testing.assert_close(teacher(batch).summary[1:2], teacher(batch[1:2]).summary, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SETS["builtin"])
def test_features_are_those_first_verified(teachers, photograph, name):
    summary, spatial = teachers[name](photograph("chelsea", 128))
    found = [summary.mean(), summary.std(), spatial.mean(), spatial.std()]
    assert [float(value) for value in found] == pytest.approx(FINGERPRINTS[name], rel=1e-3)


def test_no_norm_of_a_teacher_is_left_unfolded(teachers):
    assert {name: batch_norms_left(teacher) for name, teacher in teachers.items()} == dict.fromkeys(teachers, 0)


def test_teachers_are_frozen(teachers):
    for teacher in teachers.values():
        assert not teacher.training
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
        assert teacher.fingerprint == TEACHERS[teacher.name].fingerprint


def test_fingerprints_tell_teachers_apart():
    assert len({spec.fingerprint for spec in TEACHERS.values()}) == len(TEACHERS)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("dino", "unknown teacher 'dino'; choices: builtin, am_radio, c_radio_v4, lite0, hed, xfeat"),
        ("", "unknown teacher ''"),
        ("hed,hed", "twice"),
    ],
)
def test_unknown_and_repeated_names_are_refused(names, message):
    with pytest.raises(TeacherError, match=message):
        load_teachers(names)
