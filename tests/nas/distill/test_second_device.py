"""Trainings, evaluations and blocks on a device other than the CPU: no tensor stays behind, no number changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.study.config import BALANCES, SPATIAL_LOSSES, STANDARDIZATIONS, SUMMARY_LOSSES, DistillConfig, Group
from tests.backbones.builders import KINDS, STAGES, spec_of
from tests.nas.distill.second_device import (
    DEVICE,
    accepted,
    evaluated,
    features,
    install,
    live_batch,
    restored,
    trained,
)

There = Callable[..., Any]  # calls a function in the process that has the device

PLAIN = DistillConfig(img_size=64, batch_size=8, warmup_steps=2, precision="fp32", rung_steps=(2,))
GROUPS = (Group(("colour",), 8, (32,)), Group(("colour", "mean"), 16, (32, 64)))
LOSSES = {  # each balance, loss and standardization once at least
    balance: replace(PLAIN, balance=balance, summary_loss=summary, spatial_loss=spatial, standardization=kind)
    for balance, summary, spatial, kind in zip(
        BALANCES, cycle(SUMMARY_LOSSES), cycle(SPATIAL_LOSSES), cycle(STANDARDIZATIONS), strict=False
    )
}
MIXED = replace(PLAIN, balance="adaloss", groups=GROUPS, max_shift=1, accumulate=2, max_grad_norm=0.1)
RECIPES = LOSSES | {"mixed": replace(MIXED, grad_checkpointing=True)}


@pytest.fixture(scope="module")
def there() -> Iterator[There]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=install) as process:
        yield lambda function, *arguments: process.submit(function, *arguments).result()


@pytest.mark.parametrize("name", RECIPES)
def test_a_training_on_another_device_has_the_numbers_of_the_cpu_s(name: str, there: There) -> None:
    mine, theirs = there(trained, RECIPES[name], DEVICE), trained(RECIPES[name], "cpu")
    for key in ("losses", "norms"):
        assert mine[key] == [pytest.approx(values, rel=1e-4) for values in theirs[key]]
    here, moved = mine["explained"]
    assert {teacher: pytest.approx(heads, abs=1e-4) for teacher, heads in moved.items()} == here


def test_a_training_is_restored_from_a_checkpoint_on_the_cpu(there: There) -> None:
    whole, again = there(restored, MIXED, DEVICE)
    assert again == whole


def test_mixed_precision_rounds_and_leaves_nothing_behind(there: There) -> None:
    recipe = replace(PLAIN, precision="bf16", grad_checkpointing=True)
    mine, theirs = there(trained, recipe, DEVICE), trained(PLAIN, "cpu")
    assert mine["losses"] != [pytest.approx(values, rel=1e-4) for values in theirs["losses"]]
    assert mine["losses"] == [pytest.approx(values, rel=0.05) for values in theirs["losses"]]


def test_a_rung_on_another_device_is_evaluated_as_on_the_cpu(there: There) -> None:
    mine, theirs = there(evaluated, DEVICE), evaluated("cpu")
    assert mine["metrics"] == pytest.approx(theirs["metrics"], abs=1e-4)
    assert abs(mine["sheet"] - theirs["sheet"]).max() <= 1
    torch.testing.assert_close(mine["heads"], theirs["heads"])


@pytest.mark.parametrize(
    "teachers_at", [(), pytest.param(("cpu",), marks=pytest.mark.slow)], ids=["with the student", "on the CPU"]
)
def test_live_teachers_give_their_targets_to_the_student_s_device(
    teachers_at: tuple[str, ...], tmp_path: Path, there: There
) -> None:
    mine, theirs = there(live_batch, tmp_path, DEVICE, teachers_at), live_batch(tmp_path, "cpu")
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_a_block_on_another_device_has_the_numbers_of_the_cpu_s(name: str, there: There) -> None:
    spec = spec_of(STAGES[name])
    for mine, theirs in zip(there(features, spec, DEVICE), features(spec, "cpu"), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_the_device_takes_tensors_of_the_cpu_only_to_copy_them(there: There) -> None:
    assert there(accepted) == ["copy"]
