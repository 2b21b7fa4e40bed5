"""Probes on features whose answer is known, and where there is no answer."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nas.cache.codecs import Int8
from nas.cache.shards import ArrayWriter, ShardedArray
from nas.cache.targets import SplitTargets, Targets
from nas.distill.evaluation.explained_variance import explained_variance, total_variance
from nas.distill.evaluation.probes import (
    Ridge,
    SegmentationProbe,
    confusion,
    knn_classify,
    linear_classify,
    mean_iou,
    retrieval,
    with_bias,
)
from nas.distill.evaluation.tasks import (
    Classification,
    FeatureBatch,
    student_metrics,
    teacher_metrics,
    teacher_summary,
)
from nas.distill.heads import HeadDims, Student, TeacherHeads
from nas.distill.losses import TargetTransform
from tests.nas.distill.known import Known, recalling
from tests.nas.distill.targets_builder import targets, two_teachers


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Neighbours


def test_knn_votes_by_cosine_not_by_length() -> None:
    bank = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.1, 9.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert knn_classify(bank, labels, torch.tensor([[5.0, 0.2], [0.2, 0.3]])).tolist() == [0, 1]


@pytest.mark.parametrize(("cosine", "winner"), [(0.92, 1), (0.93, 0)])
def test_knn_weighs_by_exp_of_cosine_over_007(cosine: float, winner: int) -> None:
    """One neighbour at cosine 1 against three at c: 3 exp(c / 0.07) > exp(1 / 0.07) from c = 1 - 0.07 ln 3 = 0.923."""
    far = [cosine, math.sqrt(1 - cosine**2)]
    bank = torch.tensor([[1.0, 0.0], far, far, far])
    assert knn_classify(bank, torch.tensor([1, 0, 0, 0]), torch.tensor([[1.0, 0.0]])).tolist() == [winner]


def test_twenty_neighbours_vote_and_no_more() -> None:
    """20 of class 0 at cosine 0.9; any number of class 1 just behind them: with a few more votes class 1 would win."""
    near, behind = [[0.9, math.sqrt(1 - 0.81)]] * 20, [[0.89, math.sqrt(1 - 0.89**2)]] * 60
    labels = torch.tensor([0] * 20 + [1] * 60)
    assert knn_classify(torch.tensor(near + behind), labels, torch.tensor([[1.0, 0.0]])).tolist() == [0]
    assert knn_classify(torch.tensor(near[:19] + behind), labels[1:], torch.tensor([[1.0, 0.0]])).tolist() == [0]
    assert knn_classify(torch.tensor(near[:3]), labels[:3], torch.tensor([[1.0, 0.0]])).tolist() == [0], "fewer"


# The linear probe


def test_the_linear_probe_separates_what_is_separable_whatever_the_scale() -> None:
    features = drawn(400, 6)
    labels = (features[:, 0] + 2 * features[:, 1] > 0).long()
    stretched = features * torch.tensor([1e-4, 1, 1, 1, 1e3, 1])
    found = linear_classify(stretched[:300], labels[:300], stretched[300:])
    assert (found == labels[300:]).float().mean() > 0.93
    noise = linear_classify(drawn(300, 6, seed=1), labels[:300], features[300:])
    assert 0.35 < (noise == labels[300:]).float().mean() < 0.65


def test_the_linear_probe_leaves_out_a_channel_that_is_constant_but_for_rounding() -> None:
    """In held-out images another rounding of the same constant would decide the class."""
    features = torch.cat([drawn(400, 6), torch.full((400, 1), 0.1)], 1)
    labels = (features[:, 0] + 2 * features[:, 1] > 0).long()
    features[:300, 6] += 1e-8 * labels[:300]  # the next number of float32
    assert features[:300, 6].unique().numel() == 2
    features[300:, 6] += 3e-7 * (1 - 2 * labels[300:])
    found = linear_classify(features[:300], labels[:300], features[300:])
    assert (found == labels[300:]).float().mean() > 0.93


# Ridge and segments


def test_ridge_in_pieces_is_ridge_at_once_and_by_hand() -> None:
    x, y, weights = drawn(90, 5).double() * 3 + 7, drawn(90, 2, seed=1), torch.rand(90) + 0.1
    whole, pieces = Ridge(), Ridge()
    whole.add(x, y, weights)
    for rows in (slice(0, 10), slice(10, 90)):
        pieces.add(x[rows], y[rows], weights[rows])
    torch.testing.assert_close(whole.solve(), pieces.solve())
    shares = (weights / weights.sum()).double()[:, None]
    mean, target = (shares * x).sum(0), (shares * y.double()).sum(0)
    deviation = (shares * (x - mean) ** 2).sum(0).sqrt()
    z = (x - mean) / deviation
    slopes = torch.linalg.inv(z.T @ (shares * z) + 0.01 * torch.eye(5)) @ (z.T @ (shares * (y.double() - target)))
    torch.testing.assert_close(with_bias(x) @ whole.solve(), z @ slopes + target)


def half_masks(count: int, size: int = 8) -> Tensor:
    masks = torch.zeros(count, size, size, dtype=torch.uint8)
    for i in range(count):
        masks[i, :, : 1 + i % (size - 1)] = 1
    return masks


def shares_of(masks: Tensor, cells: int) -> Tensor:
    return torch.nn.functional.adaptive_avg_pool2d((masks == 1)[:, None].float(), cells)


def probe_on(features: Tensor, masks: Tensor, classes: int, judged: int) -> float:
    probe = SegmentationProbe(classes)
    probe.fit(features[:-judged], masks[:-judged])
    probe.score(features[-judged:], masks[-judged:])
    return probe.miou


def test_the_segmentation_probe_recovers_what_features_say() -> None:
    masks = half_masks(60)
    told = torch.cat([shares_of(masks, 4), drawn(60, 3, 4, 4)], 1)
    assert probe_on(told, masks, 2, 20) > 0.8
    assert probe_on(drawn(60, 4, 4, 4), masks, 2, 20) < 0.6


def test_void_neither_teaches_nor_counts() -> None:
    """A probe that sees void on the right half learns what one learns that sees the left half alone."""
    masks, features = half_masks(60), drawn(60, 3, 4, 4)
    voided = masks.clone()
    voided[:, :, 4:] = 255
    half, with_void = SegmentationProbe(2), SegmentationProbe(2)
    half.fit(features[..., :2], masks[..., :4])
    with_void.fit(features, voided)
    assert half.predict(features, 8).tolist() == with_void.predict(features, 8).tolist()
    torch.testing.assert_close(half._weights, with_void._weights)
    with_void.score(features, voided)
    assert with_void.confusion.sum() == (voided < 2).sum()


def test_mean_iou_by_hand_with_void() -> None:
    truth = torch.tensor([[[0, 0, 1], [1, 1, 2]]])  # 2 is void for two classes
    predicted = torch.tensor([[[0, 1, 1], [1, 1, 1]]])
    # class 0: 1 of 2; class 1: 3 of 4.
    assert mean_iou(confusion(predicted, truth, 2)) == pytest.approx((1 / 2 + 3 / 4) / 2)
    absent = confusion(predicted, truth, 4)  # 2 is a class now, never found; 3 occurs nowhere and does not count
    assert mean_iou(absent) == pytest.approx((1 / 2 + 3 / 5 + 0) / 3)


@pytest.mark.parametrize("fill", [1, 255], ids=["one class", "all void"])
def test_one_class_or_none_has_no_miou(fill: int) -> None:
    assert math.isnan(probe_on(drawn(9, 2, 4, 4), torch.full((9, 8, 8), fill, dtype=torch.uint8), 2, 3))


# Retrieval


def test_labels_may_be_ids_of_which_few_are_used() -> None:
    bank, labels = torch.eye(4), torch.tensor([999_999, 999_999, 70_000, 5])
    assert knn_classify(bank, labels, torch.eye(4)).tolist() == [999_999, 999_999, 70_000, 5]
    huge = torch.tensor([2**40, 2**40, 7, 7])
    assert knn_classify(bank, huge, torch.eye(4)[1:3]).tolist() == [2**40, 7], "votes of all ids would take terabytes"


def test_retrieval_sees_through_a_linear_map_and_is_chance_on_noise() -> None:
    teacher = drawn(400, 6)
    student = teacher @ drawn(6, 9, seed=1) * 5 + 3
    assert retrieval(student[:300], teacher[:300], student[300:], teacher[300:]) > 0.97
    noise = drawn(400, 9, seed=2)
    assert retrieval(noise[:300], teacher[:300], noise[300:], teacher[300:]) <= 0.05
    same = torch.ones(400, 9)
    assert retrieval(same[:300], teacher[:300], same[300:], teacher[300:]) == pytest.approx(1 / 100), "chance"


# A student's probes


def cells(images: Tensor) -> Tensor:
    return torch.nn.functional.adaptive_avg_pool2d(images, 4)


def student(summary: Any = lambda images: cells(images).flatten(1), spatial: Any = cells) -> Student:
    return Student(Known(summary, spatial), TeacherHeads(48, 3, {"colour": HeadDims(8, 8)}, 8, 4))


def test_probes_of_a_student_that_sees_colours(tmp_path: Path) -> None:
    """Labels and masks are brightness, the teacher's features colours: all of it is in a 4 x 4 thumbnail."""
    found = student_metrics(student(), targets(tmp_path, train=200, val=60), "cpu")
    assert set(found) == {"knn", "probe", "miou", "retrieval/colour"}
    assert found["knn"] > 0.8
    assert found["probe"] > 0.85
    assert found["miou"] > 0.7
    assert found["retrieval/colour"] > 0.3, "chance is 1/60"


def alone(split: SplitTargets, label: int) -> SplitTargets:
    assert split.labels is not None
    return replace(split, labels=np.full(len(split), label))


@pytest.mark.parametrize("which", ["train", "val"])
def test_one_class_on_either_side_has_no_accuracy(tmp_path: Path, which: str) -> None:
    whole = targets(tmp_path)
    whole = replace(whole, **{which: alone(getattr(whole, which), 1)})
    assert set(student_metrics(student(), whole, "cpu")) == {"miou", "retrieval/colour"}


def test_a_class_that_one_side_lacks_is_simply_missed() -> None:
    features = torch.eye(3).repeat_interleave(30, 0) + 0.01 * drawn(90, 3)
    labels = torch.arange(3).repeat_interleave(30)

    def score(train: Tensor, val: Tensor) -> dict[str, float]:
        made = targets(Path())
        split = [replace(made.train, labels=labels[kept].numpy()) for kept in (train, val)]
        task = Classification(replace(made, train=split[0], val=split[1], num_classes=3))
        for use, part, kept in ((task.fit, split[0], train), (task.score, split[1], val)):
            use(FeatureBatch(part, slice(0, len(part)), features[kept], features[kept][:, :, None, None]))
        return task.metrics(lambda split, count: iter(()))

    every, two = torch.ones(90, dtype=torch.bool), labels < 2
    assert score(every, every) == {"knn": 1.0, "probe": 1.0}
    assert score(every, two) == {"knn": 1.0, "probe": 1.0}
    assert score(two, every) == {"knn": pytest.approx(2 / 3), "probe": pytest.approx(2 / 3)}


@pytest.mark.parametrize("bad", ["summary", "spatial"])
def test_features_that_are_not_finite_have_no_metrics(tmp_path: Path, bad: str) -> None:
    """The trial itself says that its training broke down; a probe must not be the one to fail."""
    shape = {"summary": (48,), "spatial": (3, 4, 4)}[bad]
    broken = {bad: lambda images: torch.full((len(images), *shape), math.nan)}
    assert student_metrics(student(**broken), targets(tmp_path), "cpu") == {}


def test_a_teacher_is_probed_as_a_student_is(tmp_path: Path) -> None:
    """Its own targets as features; one without summary (SAM) by the means of its maps."""
    two = two_teachers(tmp_path)
    found = teacher_metrics(two, "colour")
    assert found["probe"] > 0.7
    asked = student_metrics(recalling(two, "colour"), two, "cpu")
    assert found == {name: asked[name] for name in ("knn", "probe", "miou")}
    assert asked["retrieval/colour"] > 0.9
    assert set(teacher_metrics(two, "mean")) == {"knn", "probe", "miou"}
    means = torch.from_numpy(two.val.spatial["mean"][:5]).float().mean((2, 3))
    torch.testing.assert_close(teacher_summary(two.val, "mean", slice(5)), means)


# Explained variance


def renamed(whole: Targets, teacher: str) -> Targets:
    train, val = (
        replace(split, summary={teacher: split.summary["colour"]}, spatial={teacher: split.spatial["colour"]})
        for split in (whole.train, whole.val)
    )
    return replace(whole, train=train, val=val, teachers={teacher: whole.teachers["colour"]})


class Guess:
    def __init__(self, teacher: str) -> None:
        self.teacher = teacher

    def predict_targets(self, images: Tensor) -> dict[str, dict[str, Tensor]]:
        made = cells(images).mean((2, 3))
        return {self.teacher: {"summary": made.repeat(1, 3)[:, :8], "spatial": made.repeat(1, 3)[:, :8, None, None]}}


@pytest.mark.parametrize("teacher", ["colour", "samvit_base_patch16.sa1b@1024/4"])
def test_explained_variance_by_hand(tmp_path: Path, teacher: str) -> None:
    """1 - (mean squared error) / variance; a name with a slash is a name (timm's mosaics)."""
    val = renamed(targets(tmp_path, val=300), teacher).val
    images = torch.from_numpy(np.asarray(val.images[:]))
    guess = Guess(teacher).predict_targets((images.float() - 127.5) / 63.75)[teacher]
    found = explained_variance(Guess(teacher), val, "cpu")[teacher]
    for head, array in (("summary", val.summary[teacher]), ("spatial", val.spatial[teacher])):
        truth = array[:].astype(np.float64)
        errors = ((truth - guess[head].double().numpy()) ** 2).mean(tuple(range(1, truth.ndim)))
        axes = (0,) if truth.ndim == 2 else (0, 2, 3)
        variance = ((truth - truth.mean(axes, keepdims=True)) ** 2).mean()
        assert found[head] == pytest.approx(1 - errors.mean() / variance, abs=1e-6)


def test_heads_trained_by_directions_are_compared_at_length_1(tmp_path: Path) -> None:
    """By hand, in the teacher's own space, whose mean lies in part outside of the kept directions."""
    val = targets(tmp_path, val=130).val
    images = torch.from_numpy(np.asarray(val.images[:]))
    guess = Guess("colour").predict_targets((images.float() - 127.5) / 63.75)["colour"]
    transform = TargetTransform(2.0, torch.linspace(-1, 1, 8), rest=0.7)
    angular = {"colour/summary": transform, "colour/spatial": transform}
    found = explained_variance(Guess("colour"), val, "cpu", angular)["colour"]

    def units(values: np.ndarray) -> np.ndarray:
        values = np.moveaxis(values.astype(np.float64), 1, -1) * 2 + np.linspace(-1, 1, 8)
        values = np.concatenate([values, np.full_like(values[..., :1], 0.7)], axis=-1)
        return values / np.linalg.norm(values, axis=-1, keepdims=True)

    for head, array in (("summary", val.summary["colour"]), ("spatial", val.spatial["colour"])):
        truth = units(np.asarray(array[:]))
        errors = ((truth - units(guess[head].numpy())) ** 2).sum(-1).mean()
        variance = ((truth - truth.reshape(-1, 9).mean(0)) ** 2).sum(-1).mean()
        assert found[head] == pytest.approx(1 - errors / variance, abs=1e-5)
        assert found[head] != pytest.approx(explained_variance(Guess("colour"), val, "cpu")["colour"][head], abs=1e-2)


def int8_array(folder: Path, values: np.ndarray, shards: int) -> ShardedArray:
    """As a cache stores targets: int8 with a step per channel, in several files."""
    codec = Int8(np.abs(values).max((0, 2, 3)).astype(np.float32))
    parts = np.array_split(codec.encode(values), shards)
    for i, part in enumerate(parts):
        with ArrayWriter(folder / f"{i}.npy", part.dtype, part.shape[1:]) as writer:
            writer.append(part)
    return ShardedArray([folder / f"{i}.npy" for i in range(shards)], [len(part) for part in parts], codec)


def test_total_variance_of_a_cache_is_streamed_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = (np.random.default_rng(0).normal(size=(600, 4, 2, 2)) * [[[[1]], [[2]], [[3]], [[0.1]]]] + 100).astype(
        "f4"
    )
    array = int8_array(tmp_path, values, 3)
    decoded = array[:].astype(np.float64)
    read: list[int] = []
    original = ShardedArray.__getitem__
    monkeypatch.setattr(
        ShardedArray, "__getitem__", lambda self, rows: (read.append(rows.stop - rows.start), original(self, rows))[1]
    )
    expected = ((decoded - decoded.mean((0, 2, 3), keepdims=True)) ** 2).sum()
    assert total_variance(array) == pytest.approx(expected, rel=1e-9)
    assert max(read) <= 256
    assert sum(read) == 600
    assert total_variance(array) == pytest.approx(expected, rel=1e-9)
    assert sum(read) == 600, "once"


def test_targets_that_never_change_are_an_error_in_words(tmp_path: Path) -> None:
    val = targets(tmp_path).val
    still = replace(val, summary={"colour": np.ones((len(val), 8), dtype=np.float32)})
    transform = TargetTransform(2.0, torch.linspace(-1, 1, 8), rest=0.7)
    for angular in ({}, {"colour/summary": transform}, {"colour/summary": replace(transform, rest=0.0)}):
        with pytest.raises(ValueError, match="colour/summary is the same on all held-out images"):
            explained_variance(Guess("colour"), still, "cpu", angular)
