"""Networks of timm as architectures: their plain data, their identity, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from timm.models._registry import _model_entrypoints

from search_space import SpecError, TimmSpec, network_spec, preset, timm_names
from search_space.outline import outline
from search_space.timm_spec import network_spec_from_json


def test_plain_data_and_text_give_the_network_and_its_neck_back() -> None:
    spec, plain = TimmSpec("convnext_atto", 192), TimmSpec("convnext_atto")
    assert spec.to_dict() == {"timm": "convnext_atto", "neck_dim": 192}
    assert plain.to_dict() == {"timm": "convnext_atto"}
    for each in (spec, plain, preset("eradio_femto")):
        assert network_spec(each.to_dict()) == network_spec_from_json(each.to_json()) == each
    assert spec.arch_id != TimmSpec("convnext_atto").arch_id
    assert outline(spec) == "timm's convnext_atto | neck 192"


def test_different_networks_have_different_ids() -> None:
    ids = {TimmSpec("resnet18").arch_id, TimmSpec("resnet34").arch_id, preset("eradio_femto").arch_id}
    assert len(ids) == 3
    assert all(len(arch_id) == 12 for arch_id in ids)


@pytest.mark.parametrize(
    ("plain", "error"),
    [
        ({"timm": "resnet19"}, "timm has no model 'resnet19'; similar: "),
        ({"timm": "resnet18.a1_in1k"}, "it begins with random weights; write timm:resnet18"),
        ({"timm": 5}, "timm: 5: must be the name of a network of timm"),
        ({"timm": "x" * 101}, "must be the name of a network of timm"),
        ({"timm": "resnet18", "stem": "conv"}, "timm"),
        ({"timm": "resnet18", "neck_dim": 0}, "neck_dim: 0 is not a whole number"),
        ({}, "stages"),
    ],
)
def test_what_is_no_network_is_refused(plain: dict[str, Any], error: str) -> None:
    with pytest.raises(SpecError, match=error):
        network_spec(plain)


def test_a_network_that_this_process_alone_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_model_entrypoints, "of_a_user", lambda: None)
    monkeypatch.setattr(timm_names, "is_recorded_version", lambda: True)
    with pytest.raises(SpecError, match="timm:of_a_user: this process has registered it"):
        TimmSpec("of_a_user")


@pytest.mark.parametrize("text", ["", "null", "[" * 5000])
def test_text_that_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        network_spec_from_json(text)
