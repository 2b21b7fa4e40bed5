"""Two real processes that train together take the steps of one with the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing import get_context

from nas.distill import distributed
from tests.nas.distill.ranks import RECIPES, made, most, rank, recipes, trained

WORLD = 2


def run_ranks(folder: Path, work: Callable[[Path], Any]) -> list[dict[str, Any]]:
    """Return what each of two ranks found."""
    context = get_context("spawn")
    processes = [context.Process(target=rank, args=(number, WORLD, folder, work)) for number in range(WORLD)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(900)
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(folder / f"rank{number}.pt", weights_only=True) for number in range(WORLD)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_ranks(tmp_path_factory.mktemp("ranks"), most)


def vector(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.double().flatten() for value in state.values() if value.is_floating_point()])


def test_losses_and_averaged_weights_are_those_of_one_process(found: list[dict[str, Any]], tmp_path: Path) -> None:
    check_against_one_process("plain", found[0], tmp_path)


def check_against_one_process(name: str, found: dict[str, Any], tmp_path: Path) -> None:
    """Sums in another order differ by 1e-7; AdamW divides by the gradient's size, which lifts that where it is small.

    So weights are compared by how far apart they are, as a share of the way that training took them.
    """
    alone, together = trained(tmp_path, RECIPES[name]), found[name]
    for mine, theirs in zip(together["losses"], alone["losses"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)
    start = vector(made(tmp_path, RECIPES[name]).averaged.state_dict())
    end = vector(alone["averaged"])
    assert (vector(together["averaged"]) - end).norm() < 0.02 * (end - start).norm()


def test_ranks_hold_the_same_student(found: list[dict[str, Any]]) -> None:
    check_equal_ranks("plain", found)


def check_equal_ranks(name: str, found: list[dict[str, Any]]) -> None:
    for part in ("student", "averaged", "balance"):
        first, second = (vector(f[name][part]) if f[name][part] else torch.zeros(0) for f in found)
        assert torch.equal(first, second), f"{name}: {part}"
    assert found[0][name]["losses"] == found[1][name]["losses"]


def test_going_on_from_the_checkpoint_of_rank_0_is_exact(found: list[dict[str, Any]]) -> None:
    check_going_on("plain", found)


def check_going_on(name: str, found: list[dict[str, Any]]) -> None:
    for mine in found:
        assert mine["in two"]["losses"] == mine[name]["losses"]
        assert torch.equal(vector(mine["in two"]["averaged"]), vector(mine[name]["averaged"]))


@pytest.mark.slow
def test_ranks_take_the_steps_of_one_process_with_every_balance_and_saving_of_memory(tmp_path: Path) -> None:
    names = [name for name in RECIPES if name != "plain"]
    found = run_ranks(tmp_path, partial(recipes, names=names))
    for name in names:
        check_against_one_process(name, found[0], tmp_path)
        check_equal_ranks(name, found)
    check_going_on(names[-1], found)


def test_running_statistics_are_shared(found: list[dict[str, Any]]) -> None:
    statistics = [{k: v for k, v in f["norms"].items() if "running_" in k} for f in found]
    assert statistics[0]
    assert torch.equal(*map(vector, statistics))
    assert not torch.equal(vector(statistics[0]).round(), vector(statistics[0])), "they have moved from 0 and 1"


def test_a_loss_that_is_not_finite_in_one_rank_stops_all(found: list[dict[str, Any]]) -> None:
    assert [f["broken"] for f in found] == ["the loss of colour/spatial is not finite at step 1"] * WORLD


def test_all_ranks_stop_after_the_lease_in_which_one_is_asked_to(found: list[dict[str, Any]]) -> None:
    leases = found[0]["stopped"]
    assert leases == found[1]["stopped"]
    assert [lease for lease in leases if not lease[1]] == [(1, False)]
    assert leases[-1] == (5, True)


def test_a_norm_that_nothing_reads_keeps_no_rank_waiting(found: list[dict[str, Any]]) -> None:
    first, second = (f["token"] for f in found)
    assert first["losses"] == second["losses"]
    assert first["losses"][-1]["colour/spatial"] < first["losses"][0]["colour/spatial"]


def test_gpus_wait_for_half_an_hour_and_cpus_for_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL needs GPUs: a second backend of gloo takes its place."""
    begin = dist.init_process_group

    def with_two_backends(backend: str, timeout: timedelta, **settings: Any) -> None:
        begin("gloo", timeout=timeout, **settings)
        if backend == "cpu:gloo,cuda:nccl":
            second = dist.ProcessGroupGloo(dist.HashStore(), 0, 1, timeout)
            dist.group.WORLD._register_backend(torch.device("cuda"), dist.ProcessGroup.BackendType.NCCL, second)

    def timeout_on(device: str) -> timedelta:
        return dist.group.WORLD._get_backend(torch.device(device)).options._timeout

    monkeypatch.setattr(dist, "init_process_group", with_two_backends)
    with distributed.process_group(0, 1, tmp_path / "gpu", "cuda"):
        assert timeout_on("cuda") == timedelta(minutes=30)
        assert timeout_on("cpu") == timedelta(days=1)
    with distributed.process_group(0, 1, tmp_path / "cpu"):
        assert timeout_on("cpu") == timeout_on("cuda") == timedelta(days=1)
