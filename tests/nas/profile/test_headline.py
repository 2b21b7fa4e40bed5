"""The table of one network: measured values have a row, and no unknown value could be read as zero."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from nas.profile.arguments import ProfileSettings
from nas.profile.network_tables import comparison_table, headline, show_networks
from nas.profile.profiles import Profile
from nas.study.timing_doubts import TOO_FEW
from tests.nas.profile.services import MEASUREMENT

COUNTS = type("Counts", (), {"macs": 7_000_000, "params": 2_000_000, "uncounted": {}})
ENVIRONMENT = {"device_name": "a card", "torch": "2", "timm": "1", "python": "3"}


SETTINGS = ProfileSettings(("eradio_femto",), device="cpu")


def text(measurement, table=headline, settings=SETTINGS):
    profile = Profile("resnet", None, 2, 64, COUNTS, (), ENVIRONMENT, measurement)
    console = Console(width=100, file=io.StringIO())
    console.print(table(profile if table is headline else [profile], settings))
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


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


@pytest.mark.parametrize(("table", "verdict"), [(headline, "contended"), (comparison_table, "wide")])
def test_an_interval_of_six_disturbed_blocks_is_not_usable(table, verdict):
    """Its half width was printed as 87119830 %; the records of earlier versions may still hold it."""
    wild = replace(MEASUREMENT, samples=12, verdict=verdict, ratio_low=1e-6, ratio_high=1.7e6)
    out = " ".join(text(wild, table))
    assert "%" not in out.replace("95 %", "").replace("95 %", "")
    assert "1.7e+06" not in out
    why = "contended" if verdict == "contended" else "scattered"
    assert table is comparison_table or f"(interval not usable: 12 samples, {why})" in out


@pytest.mark.parametrize("table", [headline, comparison_table])
def test_wrong_outputs_have_no_speed(table):
    out = " ".join(text(replace(MEASUREMENT, verdict="wrong output", output_error=0.5), table))
    assert "wrong output" in out
    assert not any(speed in out for speed in ("100", "1.000", "2.50", "img/s [", "[0.99"))


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
