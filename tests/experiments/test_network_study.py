"""Studies that train many networks alike: their networks, and how rows are printed."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.distillation.network_study import RESULTS, gains, report
from experiments.distillation.parallel import load_rows
from experiments.distillation.studied_networks import NECK_STRIDE, STUDIES, BackboneWithNeck, build_studied
from search_space import ArchSpec

DOCS = Path(__file__).parents[2] / "docs"


def words(page: str) -> str:
    return " ".join((DOCS / page).read_text().split())


def row(name: str, seed: int, score: float) -> dict[str, Any]:
    scores = [score - 0.2, score - 0.1, score]
    return {"arch": name, "seed": seed, "scores": scores, "metrics": {}, "macs": 106e6, "params": 3e6}


@pytest.mark.parametrize("name", STUDIES)
def test_networks_of_a_study_differ(name: str) -> None:
    specs = [spec for spec in STUDIES[name].networks.values() if isinstance(spec, ArchSpec)]
    assert len({spec.arch_id for spec in specs}) == len(specs)
    assert STUDIES[name].reference in STUDIES[name].networks


def test_families_have_maps_of_the_targets_stride() -> None:
    """Otherwise a score says how large a network's map is, not how good the network."""
    study = STUDIES["backbones"]
    strides = {name: build_studied(network).spatial_stride for name, network in study.networks.items()}
    assert {strides[name] for name in study.families} == {NECK_STRIDE}
    assert {strides[name] for name in study.variants} == {2 * NECK_STRIDE}


def test_a_neck_of_timms_networks_reads_the_last_two_maps_at_stride_16() -> None:
    torch.manual_seed(0)
    network, images = BackboneWithNeck("edgenext_xx_small").eval(), torch.randn(2, 3, 96, 96)
    features = network.encode(images)
    own = network.backbone.encode(images)
    assert features.spatial.shape == (2, network.spatial_dim, 6, 6)
    assert own.spatial.shape[2:] == (3, 3)
    torch.testing.assert_close(features.summary, own.summary)
    features.spatial.square().mean().backward()
    shallow, deep = (network.backbone.model.stages[i] for i in (2, 3))
    assert all(any(p.grad is not None and p.grad.any() for p in stage.parameters()) for stage in (shallow, deep))
    assert network.no_weight_decay() <= {name for name, _ in network.named_parameters()}


def test_one_seed_has_no_spread_and_two_have(capsys: pytest.CaptureFixture[str]) -> None:
    timing = {"arch": "no neck", "ratio": [1.2, 1.1, 1.3]}
    report("ablation", [row("E-RADIO", 0, 0.7), row("E-RADIO", 1, 0.72), row("no neck", 0, 0.6), timing])
    printed = capsys.readouterr().out.splitlines()
    assert "| E-RADIO | 106 | 3.00 | - | 2 | 0.510 ± 0.010 | 0.610 ± 0.010 | 0.710 ± 0.010 | - |" in printed
    assert "| no neck | 106 | 3.00 | 1.20x (1.10 to 1.30) | 1 | 0.400 | 0.500 | 0.600 | - |" in printed
    assert len({line.count("|") for line in printed if line.startswith("|")}) == 1


def test_a_gain_is_over_the_width_that_is_as_fast() -> None:
    """Half an octave faster than the reference, half way to a narrower one that is an octave faster."""
    scores = {"E-RADIO": 0.70, "24 channels wide": 0.60, "40 channels wide": 0.75, "no neck": 0.68, "windows of 2": 0.5}
    speeds = {"E-RADIO": 1.0, "24 channels wide": 2.0, "40 channels wide": 0.5, "no neck": 2**0.5, "windows of 2": 4.0}
    rows = [row(name, seed, score + 0.01 * seed) for name, score in scores.items() for seed in (0, 1)]
    timings = [{"arch": name, "ratio": [ratio, ratio, ratio]} for name, ratio in speeds.items()]
    found = gains(STUDIES["ablation"], rows + timings)
    assert found.keys() == {"no neck", "windows of 2"}
    np.testing.assert_allclose(found["no neck"], [0.03, 0.03])
    np.testing.assert_allclose(found["windows of 2"], [0.0, 0.0], atol=1e-12)  # the outer line goes on
    assert gains(STUDIES["ablation"], rows) == {}


def test_orders_are_those_of_the_families(capsys: pytest.CaptureFixture[str]) -> None:
    """Scores rise with ImageNet accuracy; networks without a published accuracy, widths and variants change no tau."""
    study = STUDIES["backbones"]
    rows = [row(name, 0, top1 / 100) for name, top1 in study.top1.items()]
    rows += [row(name, 0, 0.1) for name in ("RepViT", "E-RADIO", *study.widths, *study.variants)]
    report("backbones", rows)
    lines = capsys.readouterr().out.splitlines()
    assert f"| ImageNet accuracy | {len(study.top1)} | 1.00 | 1.00 | 1.00 |" in lines
    attention = [
        name for name in study.families if name in study.attention and (name in study.top1 or name == "E-RADIO")
    ]
    assert any(line.startswith(f"| with attention | {len(attention)} | ") for line in lines)
    best = max(study.top1, key=lambda name: study.top1[name])
    (line,) = [line for line in lines if line.startswith(f"| {best} |")]
    assert line.endswith(f"| - | {study.top1[best]:.1f} (1) | 1 |")


def test_the_published_ablation_is_that_of_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    rows = load_rows(RESULTS / "ablation_study.json")
    report("ablation", rows)
    printed, page = capsys.readouterr().out.strip(), (DOCS / "results/index.md").read_text()
    assert len(printed.splitlines()) == 2 + len(STUDIES["ablation"].networks)
    assert printed in page
    findings = words("findings.md")
    gained = gains(STUDIES["ablation"], rows)
    others = [abs(v.mean()) for v in gained.values() if -0.1 < v.mean() < 0.01]
    changes = f"The other {len(others)} of {len(gained)} changes move the score at equal throughput"
    assert f"{changes} by at most {max(others):.3f}." in findings
    last, times = ({r["arch"]: r for r in rows if key in r} for key in ("scores", "ratio"))
    of = {n: np.mean([r["scores"][-1] for r in rows if r["arch"] == n and "scores" in r]) for n in last}
    fast, end = "all stages: c2f", "24 channels wide"
    assert times[fast]["ratio"][0] > times[end]["ratio"][0], "beyond the end of the line"
    line = f"which ends at {times[end]['ratio'][0]:.2f} times, has {gained[fast].mean():.3f} less at that speed"
    assert f"{line}; the network at its end scores {of[fast] - of[end]:.3f} less." in findings
    assert f"{of[fast] - of[end]:.3f} more than a narrower E-RADIO that is" in words("results/index.md")


def test_the_published_backbones_are_those_of_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    study, rows = STUDIES["backbones"], load_rows(RESULTS / "backbones_study.json")
    report("backbones", rows)
    printed, page = capsys.readouterr().out.strip(), words("results/index.md")
    assert len([line for line in printed.splitlines() if line.startswith("| ")]) == len(study.networks) + 1 + 7 + 3
    assert printed in (DOCS / "results/index.md").read_text()
    (tau,) = [line.split(" | ")[4] for line in printed.splitlines() if line.startswith("| ImageNet accuracy |")]
    value, low, _, high = tau.replace("(", "").replace(")", "").split()
    assert f"with the score after 810 steps is {value}, with an interval from {low} to {high}." in page
    assert f"with that accuracy is {tau};" in words("findings.md")
    scores: dict[str, list[list[float]]] = defaultdict(list)
    for row in rows:
        if "scores" in row:
            scores[row["arch"]].append(row["scores"])
    last = {name: float(np.mean(seeds, 0)[-1]) for name, seeds in scores.items()}
    ranked = {name: sorted(last[other] for other in study.top1)[::-1].index(last[name]) + 1 for name in study.top1}
    accurate = sorted(study.top1, key=lambda name: -study.top1[name])
    assert [ranked[name] for name in accurate[:5]] == [1, 7, 11, 9, 8]
    assert [ranked[name] for name in (accurate[10], accurate[11], accurate[8])] == [2, 4, 3]
    ahead = {"RepViT": "RepViT scores", "timm:ghostnet_100": "GhostNet", "timm:pvt_v2_b0": "PVTv2"}
    ahead |= {"timm:nf_regnet_b1": "NF-RegNet", "timm:efficientvit_b0": "EfficientViT", "timm:resnet18": "ResNet-18"}
    gained = gains(study, rows)
    for name, short in ahead.items():
        assert f"{short} {gained[name].mean():.3f}" in page
        assert (gained[name] > 0).all()
    behind = sorted(
        gained[name].mean() for name in ("timm:vit_tiny_patch16_224", "ViT", "timm:poolformerv2_s12", "LeViT")
    )
    assert f"by {-behind[-1]:.3f} to {-behind[0]:.3f}." in page
    assert f"E-RADIO scores {last['E-RADIO, no neck']:.3f} in place of {last['E-RADIO']:.3f}" in page
    plain, with_neck = last["timm:convnext_atto, no neck"], last["timm:convnext_atto"]
    assert f"ConvNeXt {plain:.3f} in place of {with_neck:.3f}" in page
    assert {len(seeds) for seeds in scores.values()} == {2}
    apart = sorted(abs(first[-1] - second[-1]) for first, second in scores.values())
    assert f"differ by {np.median(apart):.3f} in the median and by {apart[-1]:.3f} at most" in page
