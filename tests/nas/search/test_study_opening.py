"""What is decided before a study is created: its precision, and warnings before its images are opened."""

from __future__ import annotations

import os
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from nas.data import DataError
from nas.search.settings import SearchCommand, command_of
from nas.search.study_opening import open_targets, with_precision
from search_space import ArchSpec, TimmSpec, preset
from tests.nas.study.builders import search_config


def test_a_training_times_its_own_network_on_all_cpus_and_a_search_one_of_its_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = []

    def choose(spec: Any, targets: Any, config: Any, threads: int, locks: Path) -> SimpleNamespace:
        timed.append((spec.arch_id if isinstance(spec, ArchSpec) else spec.name, threads))
        return SimpleNamespace(precision="bf16", step_ms={"fp32": 2.0, "bf16": 1.0})

    monkeypatch.setattr("nas.distill.precision.choose_precision", choose)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8))
    config = search_config(device="cpu")
    config = replace(config, distill=replace(config.distill, precision="auto"))
    command = SearchCommand(config, tmp_path, workers=4)
    targets: Any = None
    for network in (None, TimmSpec("resnet18")):
        chosen, _ = with_precision(command, targets, lambda line: None, network)
        assert chosen.config.distill.precision == "bf16"
    assert timed == [(preset("eradio_pico").arch_id, 2), ("resnet18", 8)]


def test_narrow_heads_are_named_before_images_are_opened(tmp_path: Path) -> None:
    options = {"run": str(tmp_path / "run"), "device": "cpu", "data": f"imagefolder:{tmp_path / 'none'}"}
    command = command_of({**options, "distill": {"head_width": 8}}, "")
    for resumed in (False, True):
        text = StringIO()
        console = Console(file=text, width=300)
        with pytest.raises(DataError, match="none"):
            open_targets(replace(command, resume=resumed), console, lambda line: None, None)
        assert ("warning: heads of 8 hidden units" in text.getvalue()) is not resumed
