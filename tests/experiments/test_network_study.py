"""Studies that train many networks alike: their networks, and how rows are printed."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.distillation.network_study import STUDIES, report


def row(name: str, seed: int, score: float) -> dict[str, Any]:
    scores = [score - 0.2, score - 0.1, score]
    return {"arch": name, "seed": seed, "scores": scores, "metrics": {}, "macs": 106e6, "params": 3e6}


@pytest.mark.parametrize("name", STUDIES)
def test_networks_of_a_study_differ(name: str) -> None:
    specs = [spec for spec in STUDIES[name].networks.values() if spec is not None]
    assert len({spec.arch_id for spec in specs}) == len(specs)
    assert STUDIES[name].reference in STUDIES[name].networks


def test_one_seed_has_no_spread_and_two_have(capsys: pytest.CaptureFixture[str]) -> None:
    timing = {"arch": "no neck", "ratio": [1.2, 1.1, 1.3]}
    report("ablation", [row("E-RADIO", 0, 0.7), row("E-RADIO", 1, 0.72), row("no neck", 0, 0.6), timing])
    printed = capsys.readouterr().out.splitlines()
    assert "| E-RADIO | 106 | 3.00 | - | 2 | 0.510 ± 0.010 | 0.610 ± 0.010 | 0.710 ± 0.010 |" in printed
    assert "| no neck | 106 | 3.00 | 1.20x (1.10 to 1.30) | 1 | 0.400 | 0.500 | 0.600 |" in printed
    assert len({line.count("|") for line in printed if line.startswith("|")}) == 1
