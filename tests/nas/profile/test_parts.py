"""Rows and ceilings by hand, and rows that exceed the ceilings."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from nas.measure.counts.operators import Operator
from nas.measure.environment import device_name
from nas.measure.roofline import Ceilings, load_ceilings
from nas.profile import network
from nas.profile.arguments import ProfileSettings
from nas.profile.network import PartWork, compare_with_ceilings, layer_work, rows, stage_work
from nas.profile.network_tables import parts_table
from nas.profile.profiles import PartRow

CEILINGS = Ceilings("a CPU", 1, "fp32", "2.0", gmacs_s=1.0, product_gmacs_s=1.0, gbytes_s=((1, 1.0),))
OPERATORS = [
    Operator(
        "a.conv", "conv2d", macs=4_000_000, params=9, read_bytes=600, written=100, written_bytes=400, touched_bytes=1000
    ),
    Operator(
        "a", "add", macs=0, params=0, read_bytes=2_000_000, written=250_000, written_bytes=1_000_000, touched_bytes=9
    ),
    Operator("b", "linear", macs=2_000_000, params=5, read_bytes=0, written=0, written_bytes=0, touched_bytes=0),
    Operator(
        "a.conv", "conv2d", macs=4_000_000, params=0, read_bytes=600, written=100, written_bytes=400, touched_bytes=1000
    ),
]


def test_stages_by_hand():
    work = stage_work([("first", "a", 9), ("second", "b", 5)], OPERATORS)
    first, second = rows(work, {"first": 0.022, "second": 0.001}, 0.04, 2, CEILINGS)
    assert (first.macs, first.activations, first.activation_bytes) == (4_000_000, 125_100, 500_400)
    assert first.moved_bytes == 2 * 1000 + 3_000_000
    # Twice 4 ms of products, and 3 ms for 3 MB at 1 GB/s.
    assert (first.attainable_ms, first.bound) == (pytest.approx(11), "compute")
    assert (first.utilization, first.share) == (pytest.approx(0.5), pytest.approx(0.55))
    (slower,) = rows(work[1:], {"second": 0.004}, 0.04, 2, replace(CEILINGS, product_gmacs_s=0.5))
    assert slower.attainable_ms == pytest.approx(4), "b is a matrix product"
    assert (second.attainable_ms, second.utilization) == (pytest.approx(2), pytest.approx(2))  # an error, not 1


def test_the_bytes_that_a_piece_of_the_batch_touches_decide_the_bandwidth():
    ceilings = replace(CEILINGS, gbytes_s=((1, 4.0), (1000, 1.0)))
    work = [PartWork("a", 0, (replace(OPERATORS[1], touched_bytes=1998),))]
    whole, cut = (rows(work, {"a": 1.0}, 1.0, 2, ceilings, pieces)[0].attainable_ms for pieces in (1, 2))
    assert (whole, cut) == (pytest.approx(3), pytest.approx(3 / 4))


def test_layers_exclude_submodules_and_are_in_order_of_execution():
    work = layer_work(OPERATORS)
    assert [(w.name, w.params, len(w.operators)) for w in work] == [("a.conv", 9, 2), ("a", 0, 1), ("b", 5, 1)]
    _, add, _ = rows(work, {"a.conv": 1.0, "a": 1.0, "b": 1.0}, 3.0, 1, CEILINGS)
    assert (add.bound, add.attainable_ms) == ("memory", pytest.approx(3))


def row(name: str, utilization: float) -> PartRow:
    return PartRow(name, 1, 1, 1, 4, 4, 1.0, 0.5, "compute", utilization, utilization)


@pytest.fixture
def measured(monkeypatch):
    """Return a list that replaces the device: each measurement of ceilings takes its next entry."""
    coming: list[float] = []

    def measure(device, precision):
        rate = coming.pop(0)
        return Ceilings(
            device_name(device), torch.get_num_threads(), precision, torch.__version__, rate, rate, ((1, 1.0),)
        )

    monkeypatch.setattr(network, "measure_ceilings", measure)
    return coming


def compared(tmp_path: Path, **changes):
    """Compare one stage that needs 4 GMAC/s."""
    settings = ProfileSettings(("eradio_femto",), device="cpu", cache=str(tmp_path), **changes)
    return compare_with_ceilings(lambda c: ((row("stage", 4 / c.gmacs_s),), (row("layer", 0.5),)), settings)


def test_ceilings_are_measured_once_and_kept(tmp_path, measured):
    measured += [8.0, 5.0]
    stages, _, roofline = compared(tmp_path)
    assert (stages[0].utilization, roofline.measured_again, roofline.over) == (0.5, False, ())
    assert compared(tmp_path)[0] == stages
    assert measured == [5.0]  # the second time, the kept ceilings
    compared(tmp_path, new_ceilings=True)
    assert measured == []
    assert load_ceilings(torch.device("cpu"), "fp32", tmp_path).gmacs_s == 5.0


def test_a_ceiling_measured_too_low_is_measured_again(tmp_path, measured):
    measured += [2.0, 8.0]
    stages, _, roofline = compared(tmp_path)
    assert (stages[0].utilization, roofline.measured_again, roofline.over) == (0.5, True, ())
    assert load_ceilings(torch.device("cpu"), "fp32", tmp_path).gmacs_s == 8.0


def test_over_100_percent_is_flagged_and_never_clipped(tmp_path, measured):
    measured += [2.0, 1.0, 9.0]
    stages, _, roofline = compared(tmp_path)
    assert measured == [9.0]  # once, not until it fits
    assert stages[0].utilization == 2.0  # against the higher of both
    assert (roofline.measured_again, roofline.over) == (True, ("stage",))
    console = Console(width=140, file=io.StringIO())
    console.print(parts_table("Stages", stages, "", 140))
    assert "200% !" in console.file.getvalue()
