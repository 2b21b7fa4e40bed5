"""Activation fingerprints: the same features are recognized, features of a wrongly fed network are not."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from nas.teachers import SETS, TEACHERS, TeacherError, base, load_teachers
from nas.teachers import __main__ as recording
from nas.teachers.base import (
    Teacher,
    activation_fingerprint,
    distance,
    recorded_activations,
    run_teacher,
    same_activations,
)
from tests.nas.teachers import small_networks
from tests.nas.teachers.small_networks import saved

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SMALL = ("small_dinov2@224", "small_clip", "samvit_small@256/4")


@pytest.fixture(scope="module")
def everyone(teachers, tmp_path_factory):
    """Built-in teachers and small ones of timm's."""
    small_networks.register()
    folder = tmp_path_factory.mktemp("weights")
    files = {name: saved(name.partition("@")[0], folder) for name in SMALL}
    return teachers | {teacher.name: teacher for teacher in load_teachers(",".join(SMALL), files)}


class Misfed(Teacher):
    """A teacher behind a change of its images."""

    def __init__(self, teacher, change):
        super().__init__()
        self.teacher, self.change, self.source_px = teacher, change, teacher.source_px

    def forward(self, images):
        return self.teacher(self.change(images, self.source_px))


def swapped(images, source_px):
    return images.flip(1)


def normalised_before(images, source_px):
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    return (images - mean) / std


def nearest(images, source_px):
    return F.interpolate(images, (source_px, source_px), mode="nearest-exact")


def scaled_255(images, source_px):
    return 255 * images


@pytest.mark.parametrize("name", ["lite0", "hed", "small_clip"])
def test_a_wrongly_fed_teacher_is_not_the_same(everyone, name):
    teacher = everyone[name]
    right = activation_fingerprint(teacher)
    for change in (swapped, normalised_before, nearest, scaled_255):
        assert not same_activations(right, activation_fingerprint(Misfed(teacher, change))), change.__name__


@pytest.mark.parametrize("name", ["lite0", "xfeat", "small_dinov2@224"])
def test_threads_and_memory_format_do_not_matter(everyone, name):
    teacher = everyone[name]
    whole = activation_fingerprint(teacher)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert distance(whole, activation_fingerprint(teacher)) < 1e-4
    finally:
        torch.set_num_threads(threads)
    rows = copy.deepcopy(teacher).to(memory_format=torch.contiguous_format)
    assert distance(whole, activation_fingerprint(rows)) < 1e-4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same_activations(whole, activation_fingerprint(teacher))


def test_weights_rounded_to_bf16_are_another_teacher(everyone):
    """Their rounding is as large as subtle mistakes, so it isn't tolerated."""
    rounded = copy.deepcopy(everyone["lite0"])
    for parameter in rounded.parameters():
        parameter.data = parameter.data.bfloat16().float()
    assert not same_activations(activation_fingerprint(everyone["lite0"]), activation_fingerprint(rounded))


def test_teachers_are_distinguished(everyone):
    found = {name: activation_fingerprint(teacher) for name, teacher in everyone.items()}
    assert all(len(numbers) == 16 for numbers in found.values())
    assert not any(same_activations(found[a], found[b]) for a in found for b in found if a != b)


def test_builtin_teachers_are_recorded_and_still_the_same(teachers):
    for teacher in teachers.values():
        assert distance(recorded_activations()[teacher.fingerprint], activation_fingerprint(teacher)) < 1e-4


def test_every_teacher_that_is_compared_with_its_record_has_one():
    """`check_activations` wraps its `load`; it compares nothing where no record is."""
    compared = {name: spec.fingerprint for name, spec in TEACHERS.items() if hasattr(spec.load, "__wrapped__")}
    assert set(compared) >= set(SETS["builtin"])
    assert set(compared.values()) <= set(recorded_activations())


def test_loading_refuses_features_that_are_not_the_recorded_ones(teachers, monkeypatch, tmp_path):
    entries = json.loads(base.ACTIVATIONS_FILE.read_text())
    entries["xfeat"]["numbers"][3] += 0.01
    (tmp_path / "a.json").write_text(json.dumps(entries))
    monkeypatch.setattr(base, "ACTIVATIONS_FILE", tmp_path / "a.json")
    recorded_activations.cache_clear()
    try:
        load_teachers("hed")
        with pytest.raises(TeacherError, match="teacher xfeat: its features differ from the recorded ones") as caught:
            load_teachers("xfeat")
    finally:
        recorded_activations.cache_clear()
    assert "\n" not in str(caught.value)


def test_a_fingerprint_is_taken_with_cudnn_in_fp32():
    found = []

    class Asks(Teacher):
        source_px = 16

        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)

        def forward(self, images):
            found.append((torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32))
            return base.TeacherOutput(None, self.conv(images))

    activation_fingerprint(Asks())
    assert found == [(True, False)]


@pytest.mark.parametrize(
    ("name", "least"), [("lite0", 0.996), ("hed", 0.9999), ("xfeat", 0.9999), ("small_dinov2@224", 0.99)]
)
def test_a_teacher_in_bf16_is_the_same_teacher_and_its_features_nearly_the_same(everyone, photograph, name, least):
    teacher = everyone[name]
    images = torch.cat([photograph(kind, 128) for kind in ("astronaut", "coffee", "chelsea")])
    images = (255 * images).round().to(torch.uint8)
    before = activation_fingerprint(teacher)
    exact, rounded = (run_teacher(teacher, images, precision) for precision in ("fp32", "bf16"))
    with torch.autocast("cpu", torch.bfloat16):
        again = run_teacher(teacher, images, "fp32")
    for head in ("summary", "spatial"):
        a, b = getattr(exact, head), getattr(rounded, head)
        assert a.dtype == b.dtype == torch.float32
        assert torch.equal(getattr(again, head), a), "fp32 is fp32 inside of a student's autocast"
        assert least < F.cosine_similarity(a, b, dim=1).mean() < 0.999999
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float32}
    assert activation_fingerprint(teacher) == before


def test_only_missing_and_named_records_are_written(monkeypatch, tmp_path, capsys):
    records = tmp_path / "activations.json"
    whole = json.loads(base.ACTIVATIONS_FILE.read_text())
    moved = {**whole["hed"], "numbers": [0.5] * 16}
    records.write_text(json.dumps({"lite0": whole["lite0"], "hed": moved}))
    monkeypatch.setattr(recording, "ACTIVATIONS_FILE", records)
    weightless = replace(TEACHERS["hed"], name="edges", load=lambda: pytest.fail("it compares no activations"))
    monkeypatch.setitem(TEACHERS, "edges", replace(weightless, preprocessing="none"))

    assert recording.main([]) == 0
    entries = json.loads(records.read_text())
    assert list(entries) == ["lite0", "hed", "xfeat"]
    assert (entries["lite0"], entries["hed"]) == (whole["lite0"], moved)
    assert distance(entries["xfeat"]["numbers"], whole["xfeat"]["numbers"]) < 1e-4

    assert recording.main(["hed"]) == 0
    assert distance(json.loads(records.read_text())["hed"]["numbers"], whole["hed"]["numbers"]) < 1e-4
    with pytest.raises(SystemExit) as end:
        recording.main(["dino"])
    assert end.value.code == 2
    assert "NAME: 'dino' is no own teacher; choose from: lite0, hed, xfeat" in capsys.readouterr().err
