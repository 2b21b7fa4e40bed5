"""The program does what it did when the goldens were recorded.

`python -m tests.goldens.record NAME ...` records again: only for a change that is meant to change these numbers, as its
commit says.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nas.measure.environment import cpu_model
from tests.goldens.plain import differences
from tests.goldens.record import CASES, OF_ONE_CPU, found, recorded

ELSEWHERE = 1e-5  # tolerance on another CPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="the settings recorded are those of a machine without GPU")
@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = recorded(name)
    same_cpu = golden["cpu"] == cpu_model() and golden["torch"] == torch.__version__
    if not same_cpu and name in OF_ONE_CPU:
        pytest.skip(f"recorded with {golden['cpu']}, torch {golden['torch']}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKBONE_NAS_CACHE", "cache")
    changed = list(differences(golden["found"], found(name, tmp_path), 0.0 if same_cpu else ELSEWHERE))
    assert not changed, "\n".join(changed[:20])


def test_a_difference_is_found_at_any_depth() -> None:
    golden = {"a": [1, {"b": 0.5, "c": "x"}], "d": None}
    assert not list(differences(golden, {"a": [1, {"b": 0.5 + 1e-7, "c": "x"}], "d": None}, ELSEWHERE))
    now = {"a": [1, {"b": 0.6, "c": "y"}], "e": True}
    assert len(list(differences(golden, now, ELSEWHERE))) == 4
    assert list(differences([1], [1, 2], 0.0)) == [": recorded [1], now [1, 2]"]
