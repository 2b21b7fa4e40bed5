"""Limits that no architecture keeps are refused before a search builds anything."""

from __future__ import annotations

from importlib import import_module

import pytest

from nas.measure.counts.totals import Totals, totals
from nas.search.preconditions import check_limits
from nas.study.config import ConfigError, SearchConfig
from search_space import ArchSpec


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[ArchSpec]:
    """Return the architectures whose costs were counted, as they are counted."""
    specs: list[ArchSpec] = []

    def noted(spec: ArchSpec, img_size: int) -> Totals:
        specs.append(spec)
        return totals(spec, img_size)

    monkeypatch.setattr(import_module("nas.measure.counts.totals"), "totals", noted)
    return specs


def test_a_limit_far_below_the_space_is_refused_after_a_few_counts(counted: list[ArchSpec]) -> None:
    with pytest.raises(ConfigError, match="--max-params 1: far below what the architectures of the space micro need"):
        check_limits(SearchConfig(limits={"max_params": 1.0}))
    assert len(counted) == 5


def test_a_limit_just_below_the_space_is_refused_after_all_counts(counted: list[ArchSpec]) -> None:
    with pytest.raises(ConfigError, match="far below") as far:
        check_limits(SearchConfig(limits={"max_params": 1.0}))
    smallest = float(str(far.value).rpartition(" is ")[2].partition(" for ")[0].replace(",", ""))
    counted.clear()
    with pytest.raises(ConfigError, match="none of 200 random architectures of the space micro keeps this limit"):
        check_limits(SearchConfig(limits={"max_params": smallest / 2}))
    assert len(counted) == 200
    assert check_limits(SearchConfig(limits={"max_params": smallest})).startswith("1 of 200")
