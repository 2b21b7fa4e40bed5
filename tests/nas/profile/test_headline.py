"""The table of one network: measured values have a row, and no unknown value could be read as zero."""

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from backbones import resolve
from nas.measure import Arm
from nas.profile.arguments import ProfileSettings
from nas.profile.network import count_network
from nas.profile.network_tables import comparison_table, headline, show_networks
from nas.profile.profiles import OutputShape, Profile
from nas.study.timing_doubts import TOO_FEW
from tests.nas.profile.services import MEASUREMENT

COUNTS = type("Counts", (), {"macs": 7_000_000, "params": 2_000_000, "uncounted": {}})
ENVIRONMENT = {"device_name": "a card", "torch": "2", "timm": "1", "python": "3"}
WHOLE = replace(
    MEASUREMENT,
    requested_batch=4,
    latency_p95_ms=3.125,
    latency_p99_ms=4.5,
    reserved_memory_mib=20.0,
    driver_memory_mib=400.0,
    compile_s=31.25,
    launch_share=0.93,
    energy_j=0.0125,
    notes=("at the card's power cap 40% of the time", "others kept 1.5 cores busy"),
)


SETTINGS = ProfileSettings(("eradio_femto",), device="cpu")


def text(measurement, table=headline, settings=SETTINGS):
    profile = Profile("resnet", None, 2, 64, COUNTS, (), ENVIRONMENT, measurement)
    console = Console(width=100, file=io.StringIO())
    console.print(table(profile if table is headline else [profile], settings))
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_every_measured_value_has_a_row():
    assert {
        "throughput 100 img/s [98, 103], batch 2 (4 requested)",
        "latency 2.50, p95 3.12, p99 4.50 ms, batch 1",
        "memory, batch 2 11.5 MiB allocated, 20.0 MiB reserved, 400.0 MiB driver",
        "energy 12.5 mJ per image, whole GPU",
        "launch overhead the CPU needs 93% of the device time to launch the kernels",
        "output error 1.0e-06 relative to eager fp32",
        "verdict ok (30 samples; 1.0 s with preparation)",
        "build time 31.2 s (compiling or exporting)",
        "note at the card's power cap 40% of the time",
        "note others kept 1.5 cores busy",
    } <= set(text(WHOLE))


def test_tokens_and_summary_of_a_network_have_a_row():
    profile = count_network(*resolve("eradio_pico"), replace(SETTINGS, img_size=96))
    assert profile.output == OutputShape(stride=16, width=192, summary_width=192)
    console = Console(width=100, file=io.StringIO())
    console.print(headline(replace(profile, output=OutputShape(16, 256, 512)), SETTINGS))
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert "output 6x6 tokens of 256 channels, stride 16; summary of 512 channels" in lines


def test_unknown_values_have_no_row():
    lines = text(replace(MEASUREMENT, peak_memory_mib=None, output_error=None, compile_s=0.0))
    assert "latency 2.50 ms, batch 1" in lines
    assert "memory, batch 2 unknown" in lines
    assert not any(line.startswith(("energy", "build time", "output error", "launch", "note")) for line in lines)
    (row,) = (
        line for line in text(replace(MEASUREMENT, peak_memory_mib=None), comparison_table) if line.startswith("resnet")
    )
    assert row.split()[-2:] == ["-", "ok"]


@pytest.mark.parametrize("table", [headline, comparison_table])
def test_few_samples_have_no_interval_but_a_verdict_and_a_remedy(table):
    few = replace(MEASUREMENT, samples=2, verdict=TOO_FEW, ratio_low=0.0003913, ratio_high=2.3e4)
    out = " ".join(text(few, table))
    assert TOO_FEW in out
    assert "--measure-seconds 60" in out, "the user had 30"
    assert not any(absurd in out for absurd in ("0.0003913", "2.3e+04", "["))


@pytest.mark.parametrize("table", [headline, comparison_table])
@pytest.mark.parametrize("verdict", ["contended", "wide"])
def test_an_interval_of_six_disturbed_blocks_is_not_usable(table, verdict):
    """Its half width was printed as 87119830 %; the records of earlier versions may still hold it."""
    wild = replace(MEASUREMENT, samples=12, verdict=verdict, ratio_low=1e-6, ratio_high=1.7e6)
    out = " ".join(text(wild, table))
    assert "%" not in out.replace("95 %", "").replace("95 %", "")
    assert "1.7e+06" not in out
    why = "contended" if verdict == "contended" else "scattered"
    assert table is comparison_table or f"(interval not usable: 12 samples, {why})" in out


@pytest.mark.parametrize("table", [headline, comparison_table])
def test_cuda_graphs_are_no_advice_to_a_runtime_that_has_them(table):
    for runtime in ("compiled", "reduce-overhead"):
        settings = SimpleNamespace(arm=Arm(runtime), seconds=30.0)
        out = " ".join(text(replace(MEASUREMENT, verdict="launch-bound"), table, settings))
        assert "a larger batch" in out
        assert ("--runtime reduce-overhead" in out) == (runtime == "compiled")


@pytest.mark.parametrize("table", [headline, comparison_table])
def test_wrong_outputs_have_no_speed(table):
    out = " ".join(text(replace(MEASUREMENT, verdict="wrong output", output_error=0.5), table))
    assert "wrong output" in out
    assert not any(speed in out for speed in ("100", "1.000", "2.50", "img/s [", "[0.99"))


def test_networks_are_compared_with_the_deviation_between_processes():
    """Each is timed in a process of its own: the half width is that of 1.96 * 1.7 % and of its samples, together."""
    exact = replace(MEASUREMENT, ratio=1.5, ratio_low=1.5, ratio_high=1.5)
    (row,) = (line for line in text(exact, comparison_table) if line.startswith("resnet"))
    assert "1.500 3.3%" in row
    assert "ratio to itself 1.500 [1.5, 1.5], timed interleaved" in text(exact)


def test_the_reference_is_called_so_in_a_comparison():
    (row,) = (line for line in text(replace(MEASUREMENT, reference="resnet"), comparison_table) if "resnet (" in line)
    assert row.startswith("resnet (reference)")


@pytest.mark.parametrize(("covered", "warned"), [(0.84, True), (0.86, False), (1.04, False), (1.06, True)])
def test_stages_that_explain_too_little_or_too_much_are_a_warning(covered, warned):
    stage = type("Row", (), {"name": "stage", "macs": 1, "params": 1, "activations": 1, "activation_bytes": 4})
    for key in ("moved_bytes", "time_ms", "share", "attainable_ms", "utilization"):
        setattr(stage, key, 0.5)
    stage.bound = "none"
    profile = Profile(
        "resnet", None, 2, 64, COUNTS, (), ENVIRONMENT, MEASUREMENT, stages=(stage,), stages_covered=covered
    )
    console = Console(width=140, file=io.StringIO())
    for profiles in ([profile], [profile, profile]):
        show_networks(profiles, SETTINGS, console)
    out = console.file.getvalue()
    assert out.count(f"note: resnet: the stages take {covered:.0%}") == 3 * warned
