"""A sample of the micro space: counts, ranges, and the share within limits."""

import json
import random
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from backbones import build
from nas.measure import MeasurementError
from nas.measure.counts import count
from nas.profile.__main__ import main
from nas.profile.arguments import ProfileSettings
from nas.profile.space_sample import SampledSpec, SpaceProfile, share_interval
from nas.study.records import Measurement
from search_space import SPACES, ArchSpec, preset
from search_space.genes import Layout
from search_space.own_choices import with_choices
from search_space.windows import fit_windows
from tests.nas.profile.services import scripted


def share(fit: int, count: int) -> dict[str, object]:
    return {"fit": fit, "of": count, "interval": list(share_interval(fit, count))}


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKBONE_NAS_CACHE", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def sample(capsys, *arguments):
    assert main(["--space", "micro", "--json", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_specs_are_counted_and_ranged(capsys):
    data = sample(capsys, "--samples", "12", "--seed", "3", "--max-params", "8e5", "--max-gmacs", "0.02")
    rng = random.Random(3)
    spec = SPACES["micro"].sample(rng)
    with torch.device("meta"):
        counts = count(build(spec), 64)
    first = data["specs"][0]
    assert (first["arch_id"], first["params"], first["macs"]) == (spec.arch_id, counts.params, counts.macs)
    assert len({s["arch_id"] for s in data["specs"]}) == 12
    for name in ("params", "macs", "activations"):
        values = [s[name] for s in data["specs"]]
        row = data["ranges"][name]
        assert [row[k] for k in ("min", "q25", "median", "q75", "max")] == list(
            np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
        )
    within = {
        "max_params": [s["params"] <= 8e5 for s in data["specs"]],
        "max_gmacs": [s["macs"] <= 2e7 for s in data["specs"]],
    }
    within["all"] = [a and b for a, b in zip(*within.values(), strict=True)]
    assert data["fits"] == {name: share(sum(v), 12) for name, v in within.items()}
    assert "ratio" not in data["ranges"]
    assert sample(capsys, "--samples", "12", "--seed", "4")["specs"] != data["specs"]


def test_windows_tile_the_maps_of_another_size(capsys):
    data = sample(capsys, "--samples", "6", "--img-size", "96")
    rng = random.Random(0)
    assert [s["arch_id"] for s in data["specs"]] == [SPACES["micro"].at(96).sample(rng).arch_id for _ in range(6)]


def test_the_reference_has_windows_for_another_size(capsys, monkeypatch):
    service = scripted(lambda *_: {})
    monkeypatch.setattr("nas.profile.command.MeasurementService", service)
    sample(capsys, "--samples", "2", "--img-size", "96", "--measure-seconds", "60")
    assert [reference for _, reference, _ in service.requests] == [fit_windows(preset("eradio_pico"), 96).to_dict()] * 2


def test_with_a_budget_some_are_timed(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("nas.profile.command.MeasurementService", scripted(lambda *_: time.sleep(0.2) or {}))
    plot = tmp_path / "space.svg"
    limits = ["--min-throughput", "1", "--max-latency-ms", "1e-6"]
    data = sample(
        capsys, "--samples", "3", "--measure-seconds", "0.1", "--batch-size", "2", "--plot", str(plot), *limits
    )
    assert data["ranges"]["ratio"]["n"] == data["ranges"]["latency_ms"]["n"] == 1
    assert data["fits"] == {
        "max_latency_ms": share(0, 1), "min_throughput_img_s": share(1, 1), "all": share(0, 1),
    }  # fmt: skip
    assert data["missing"] == []
    assert "throughput ratio" in plot.read_text()


def test_a_spec_that_cannot_be_measured_counts_as_over_the_limit(capsys, monkeypatch):
    def answer(spec, setting):
        if len(service.requests) in (1, 3):
            raise MeasurementError("crash", "the process was ended by SIGSEGV")
        return {"latency_ms": 2.0}

    service = scripted(answer)
    monkeypatch.setattr("nas.profile.command.MeasurementService", service)
    timed = ["--samples", "4", "--measure-seconds", "60", "--runtime", "bf16", "--max-latency-ms", "3"]
    data = sample(capsys, *timed)
    assert [s["failure"] for s in data["specs"]] == ["crash: the process was ended by SIGSEGV", None] * 2
    assert data["fits"] == {"max_latency_ms": share(2, 4)}
    assert data["arm"] == "eager+bf16+channels-last+fused"
    assert [ArchSpec.from_dict(spec).arch_id for spec, _, _ in service.requests] == [
        s["arch_id"] for s in data["specs"]
    ]
    assert all(reference == preset("eradio_pico").to_dict() for _, reference, _ in service.requests)
    assert {(s.arm.precision, s.resolution) for *_, s in service.requests} == {("bf16", 64)}
    service.requests.clear()
    assert main(["--space", "micro", *timed]) == 0
    out = capsys.readouterr().out
    assert "2 of 4 specs could not be measured" in out
    assert f"{data['specs'][0]['arch_id']} and 1 more: crash: the process was ended by SIGSEGV" in out


def test_wrong_outputs_and_a_batch_that_does_not_fit_keep_no_limit(capsys, monkeypatch):
    """Both were counted with the time of another computation: of other outputs, or of a smaller batch."""
    service = scripted(
        lambda *_: {"verdict": "wrong output", "output_error": 0.5} if len(service.requests) == 1 else {}
    )
    monkeypatch.setattr("nas.profile.command.MeasurementService", service)
    data = sample(capsys, "--samples", "2", "--measure-seconds", "60", "--max-memory-mib", "20")
    assert [s["failure"] for s in data["specs"]] == ["wrong output: differs by 0.5 from fp32 eager", None]
    assert data["fits"] == {"max_memory_mib": share(1, 2)}
    assert not any(setting.smaller_batch for *_, setting in service.requests)


@pytest.mark.parametrize(
    ("fit", "count", "ends"),
    [(0, 100, (0.0, 0.0362)), (1, 100, (0.0003, 0.0545)), (50, 100, (0.3983, 0.6017)), (5, 5, (0.4782, 1.0))],
)
def test_a_share_has_the_interval_of_clopper_and_pearson(fit: int, count: int, ends: tuple[float, float]) -> None:
    assert share_interval(fit, count) == pytest.approx(ends, abs=5e-5)


def test_own_choices_are_sampled_and_named(capsys):
    own = ["--choices", "stages.blocks=mbconv,convnext", "--choices", "stage1.widths=32"]
    data = sample(capsys, "--samples", "6", "--img-size", "96", *own)
    changes = {"stages": {"blocks": ["mbconv", "convnext"]}, "stage1": {"widths": [32]}}
    space, rng = with_choices(SPACES["micro"].at(96), changes, 96), random.Random(0)
    assert [spec["arch_id"] for spec in data["specs"]] == [space.sample(rng).arch_id for _ in range(6)]
    assert data["choices"] == changes
    assert main(["--space", "micro", "--samples", "2", *own]) == 0
    title = "Space micro, stages.blocks=mbconv,convnext, stage1.widths=32: 2 specs"
    assert title in " ".join(capsys.readouterr().out.split())


def test_a_small_space_is_sampled_to_its_end(capsys, monkeypatch):
    micro = SPACES["micro"]
    only = [replace(s, blocks=("pool",), depths=(1,), widths=s.widths[:1], mlp_expansions=(1.0,)) for s in micro.stages]
    lone = Layout(("patch",), ("pool",), necks=("none", "stage3"), neck_dims=(64,))
    monkeypatch.setitem(SPACES, "micro", replace(micro, stages=tuple(only), layouts=(lone,)))
    assert len(sample(capsys, "--samples", "5")["specs"]) == 2


def test_untimed_specs_are_left_out_of_the_share():
    m = Measurement("", "", 1, 64, 10.0, 9.0, 11.0, 1.0, 0.9, 1.1, "", 10.0, 2.0, 5.0, 3, 1.0, "ok")
    unseen = replace(m, latency_ms=9.0, peak_memory_mib=None)  # as on a runtime whose memory is unknown
    failed = SampledSpec("d", 5, 5, 5, failure="hang")
    specs = (
        SampledSpec("a", 5, 5, 5, m),
        SampledSpec("b", 5, 5, 5),
        SampledSpec("c", 50, 5, 5),
        SampledSpec("e", 5, 5, 5, unseen),
        failed,
    )
    limits = {"max_params": 10, "max_latency_ms": 3.0, "max_memory_mib": 6.0}
    request = ProfileSettings(space="micro", limits=limits, device="cpu", measure_seconds=1.0)
    fits = SpaceProfile(request, specs, {}).fits()
    assert fits == {"max_params": (4, 5), "max_latency_ms": (1, 3), "max_memory_mib": (1, 2), "all": (1, 2)}
