"""The table of hard limits: values, compliance, flags, and limits on quantities that no measurement has."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from nas.measure.runtime_spec import Arm, check_reported
from nas.plan.arguments import parse as plan_settings
from nas.profile.__main__ import main as profile_main
from nas.search.__main__ import main as search_main
from nas.search.arguments import parser as search_parser
from nas.search.settings import new_config
from nas.study.limits import (
    LIMITS,
    Compliance,
    Limit,
    LimitError,
    Totals,
    broken_limit,
    check_bounds,
    excesses,
)
from nas.study.objectives import OBJECTIVES, ObjectiveSpec
from nas.study.records import Objective
from tests.nas.study.builders import measurement, record

MEASURED = replace(measurement(2.0), latency_ms=3.0, peak_memory_mib=5.0, driver_memory_mib=500.0)
TRIAL = replace(record(1, (0.1, 0.2), 2.0), params=2_000_000, macs=30_000_000, measurement=MEASURED)


def test_values_are_in_the_unit_of_the_bound() -> None:
    assert {name: limit.value(TRIAL) for name, limit in LIMITS.items()} == {
        "max_params": 2e6,
        "max_gmacs": 0.03,
        "max_latency_ms": 3.0,
        "max_memory_mib": 5.0,
        "min_throughput_img_s": 2000.0,
    }


@pytest.mark.parametrize(
    ("name", "value", "answer"),
    [
        ("max_latency_ms", 10.0, Compliance.KEPT),
        ("max_latency_ms", 10.1, Compliance.BROKEN),
        ("min_throughput_img_s", 9.9, Compliance.BROKEN),
        ("min_throughput_img_s", 10.0, Compliance.KEPT),
        ("max_params", None, Compliance.UNKNOWN),
        ("min_throughput_img_s", math.nan, Compliance.UNKNOWN),
    ],
)
def test_a_limit_is_kept_broken_or_unknown(name: str, value: float | None, answer: Compliance) -> None:
    assert LIMITS[name].compliance(value, 10.0) is answer


def test_an_excess_is_a_share_of_the_bound() -> None:
    limits = {"max_params": 1e6, "max_latency_ms": 2.0, "min_throughput_img_s": 100.0, "max_memory_mib": 5.0}
    assert excesses(Totals(1, 1_500_000), limits) == {"max_params": 0.5}
    measured = measurement(1.0)
    measured = replace(measured, latency_ms=1.0, throughput_img_s=50.0, peak_memory_mib=None)
    found = excesses(replace(TRIAL, params=1_000_000, measurement=measured), limits)
    assert found == {"max_params": 0.0, "max_latency_ms": -0.5, "min_throughput_img_s": 1.0, "max_memory_mib": 1.0}


def test_measured_limits_wait_for_the_measurement_and_counted_ones_do_not() -> None:
    limits = {"max_latency_ms": 1.0, "max_params": 1e6}
    assert (broken_limit(Totals(1, 2_000_000), limits) or "").startswith("max-params")
    assert broken_limit(Totals(1, 1_000_000), limits) is None
    assert (broken_limit(replace(TRIAL, params=1), limits) or "").startswith("max-latency-ms")
    assert broken_limit(TRIAL, {"max_latency_ms": 3.0, "max_params": 2e6, "min_throughput_img_s": 2000.0}) is None


def test_memory_is_that_of_tensors_and_an_unknown_value_keeps_no_limit() -> None:
    assert broken_limit(TRIAL, {"max_memory_mib": 5.0}) is None  # the driver's 500 MiB are none of it
    blind = replace(TRIAL, measurement=replace(MEASURED, peak_memory_mib=None))
    assert (broken_limit(blind, {"max_memory_mib": 1000.0}) or "").startswith("max-memory-mib: unknown")


@pytest.mark.parametrize("bound", [0.0, math.inf, math.nan])
def test_a_bound_is_a_positive_number(bound: float) -> None:
    with pytest.raises(LimitError, match="--min-throughput: "):
        check_bounds({"min_throughput_img_s": bound})


def test_a_limit_on_a_quantity_that_no_measurement_has_is_refused() -> None:
    arm = Arm("onnxruntime")
    check_reported(arm, "cpu", ["max_latency_ms", "max_params"], ["score", "throughput", "macs"])
    with pytest.raises(LimitError, match=r"--max-memory-mib: .* unknown on cpu with the runtime onnxruntime"):
        check_reported(arm, "cpu", ["max_params", "max_memory_mib"])
    check_reported(Arm(), "cpu", ["max_params", "max_memory_mib"], ["score", "memory"])


@pytest.fixture
def energy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a limit and an objective on what a CPU does not report."""
    limit = Limit("max_energy_j", "--max-energy-j", "energy_j", "energy of one image", "J", help="at most X joules")
    monkeypatch.setitem(LIMITS, limit.name, limit)
    objective = Objective("energy", "energy of one image", "J", reference=100.0, log=True, minimize=True)
    monkeypatch.setitem(OBJECTIVES, "energy", ObjectiveSpec.measured(objective, "energy_j"))


@pytest.mark.usefixtures("energy")
@pytest.mark.parametrize("words", [["--objectives", "score,energy"], ["--max-energy-j", "1"]])
def test_what_a_cpu_does_not_report_is_refused_before_the_search(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nas.search.session.search", lambda *_: 0)  # a command that is not refused ends here
    assert search_main([*words, "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {words[0]}: ")
    assert "energy of one image is unknown on cpu" in line
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="energy of one image is unknown on cpu"):
        plan_settings([*words, "--device", "cpu"])


@pytest.mark.parametrize("arm", ["compiled", "onnxruntime"])
def test_a_search_refuses_a_limit_on_a_quantity_that_its_runtime_does_not_report(
    arm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr("nas.search.session.search", lambda *_: 0)  # a command that is not refused ends here
    refused = ["--max-memory-mib", "100", "--device", "cpu", "--runtime", arm]
    assert search_main([*refused, "--run", str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --max-memory-mib")
    assert not run.exists()
    with pytest.raises(LimitError, match="--max-memory-mib"):  # a plan's config is made by the same function
        new_config(vars(search_parser().parse_args([*refused, "--plan"])))


def test_a_profile_refuses_a_limit_on_a_quantity_that_its_runtime_does_not_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKBONE_NAS_CACHE", str(tmp_path))
    monkeypatch.setattr("nas.profile.command._space", lambda settings: 0)
    space = ["--space", "micro", "--device", "cpu", "--max-memory-mib", "100"]
    for more in (["--measure-seconds", "9", "--runtime", "compiled"], []):
        assert profile_main([*space, *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: --max-memory-mib")
