"""The choice of a training precision: by times, and by nothing else."""

from __future__ import annotations

import gc
from pathlib import Path
from weakref import WeakSet

import pytest
import torch

from nas.distill import precision
from nas.distill.device_lease import DeviceLease
from nas.distill.precision import choose_precision
from nas.distill.trainer import Distiller
from nas.study.config import MIN_BF16_GAIN, DistillConfig, Group, SearchConfig, faster_precision
from search_space import preset
from tests.nas.distill.targets_builder import targets


@pytest.mark.parametrize(("fp32_ms", "bf16_ms", "chosen"), [(10.0, 9.0, "bf16"), (10.0, 9.7, "fp32")])
def test_bf16_is_taken_only_where_it_is_clearly_faster(fp32_ms: float, bf16_ms: float, chosen: str) -> None:
    assert faster_precision({"fp32": fp32_ms, "bf16": bf16_ms}) == chosen


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])])
def test_steps_of_both_precisions_are_timed_as_a_rank_trains_them(tmp_path: Path, device: str) -> None:
    recipe = DistillConfig(img_size=32, batch_size=16, ranks=2, groups=(Group(("colour",), 16, (32,)),))
    config = SearchConfig(train_images=64, val_images=32, device=device, distill=recipe)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    choice = choose_precision(preset("eradio_femto"), targets(tmp_path), config, 2, tmp_path / "locks")
    assert set(choice.step_ms) == {"fp32", "bf16"}
    assert all(ms > 0 for ms in choice.step_ms.values())
    limit_ms = (1 - MIN_BF16_GAIN) * choice.step_ms["fp32"]
    assert choice.precision == ("bf16" if choice.step_ms["bf16"] <= limit_ms else "fp32")
    assert f"{choice.precision} ({choice.step_ms[choice.precision]:,.1f} ms a step" in str(choice)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_turns_alternate_so_that_a_drift_of_the_device_hits_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = []

    def step_ms(distiller: Distiller, lease: DeviceLease, steps: int) -> float:
        timed.append(distiller.config.precision)
        return 10.0  # ms: neither is faster, so that all turns are taken

    monkeypatch.setattr(precision, "_step_ms", step_ms)
    config = SearchConfig(
        train_images=64, val_images=32, device="cpu", distill=DistillConfig(img_size=32, batch_size=16)
    )
    choose_precision(preset("eradio_femto"), targets(tmp_path), config, 1, tmp_path / "locks")
    first, second = set(timed[-4:-2]), set(timed[-2:])
    assert first == second == {"fp32", "bf16"}
    assert timed[-4:-2] == timed[-2:][::-1]


@pytest.mark.parametrize(
    ("fits", "times_ms", "chosen"),
    [
        (({"bf16"},), {"bf16": 10.0}, "bf16; memory is too small for fp32"),
        (({"fp32"}, {"bf16"}), {"fp32": 10.0, "bf16": 10.0}, "fp32"),  # alone, not beside each other
        ((), {}, None),
    ],
)
def test_a_precision_that_does_not_fit_into_memory_is_not_chosen(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fits: tuple[set[str], ...],
    times_ms: dict[str, float],
    chosen: str | None,
) -> None:
    """Students that are alive at a time take memory, which is enough for some of them."""
    alive: WeakSet[Distiller] = WeakSet()

    def step_ms(distiller: Distiller, lease: DeviceLease, steps: int) -> float:
        alive.add(distiller)
        if {each.config.precision for each in alive} not in fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return 10.0

    monkeypatch.setattr(precision, "_step_ms", step_ms)
    monkeypatch.setattr(precision, "release_cached", lambda device: gc.collect())
    recipe = DistillConfig(img_size=32, batch_size=16)
    config = SearchConfig(train_images=64, val_images=32, device="cpu", distill=recipe)

    def choose() -> precision.PrecisionChoice:
        return choose_precision(preset("eradio_femto"), targets(tmp_path), config, 1, tmp_path / "locks")

    if chosen is None:
        with pytest.raises(torch.OutOfMemoryError, match=r"2\.00 GiB"):
            choose()
        return
    choice = choose()
    assert choice.step_ms == times_ms
    words = str(choice).replace(" (10.0 ms a step", "").replace(")", "")
    assert words.startswith(f"training precision: {chosen}")
