"""The choice of a training precision: by times, and by nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nas.distill import precision
from nas.distill.device_lease import DeviceLease
from nas.distill.precision import choose_precision
from nas.distill.trainer import Distiller
from nas.study.config import MIN_BF16_GAIN, DistillConfig, Group, SearchConfig, faster_precision
from search_space import preset
from tests.nas.distill.targets_builder import targets


@pytest.mark.parametrize(
    ("fp32_ms", "bf16_ms", "chosen"), [(10.0, 9.0, "bf16"), (10.0, 9.7, "fp32"), (10.0, 10.0, "fp32"), (10, 25, "fp32")]
)
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
