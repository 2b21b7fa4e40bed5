"""Bad input of any kind ends a command with code 2 and one line that names the option, without a traceback, at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.cache.arguments import BuildSettings, DeleteSettings, VerifySettings
from nas.doctor.arguments import BenchmarkSettings
from nas.export.arguments import ExportSettings
from nas.remeasure.arguments import RemeasureSettings
from nas.replay.arguments import ReplaySettings
from nas.retrain.arguments import RetrainSettings
from nas.search.config_file import TABLES, read_options
from nas.search.settings import new_config
from nas.study.config import DistillConfig, Group, SearchConfig
from nas.validation import ConfigError, declared
from search_space import PRESETS, ArchSpec, SpecError, find_spec
from tests.nas.nonsense import bare_numbers, command_lines, config_files, faults, prepared, sample

RECORDS = (
    *(SearchConfig, DistillConfig, Group, BuildSettings, VerifySettings, DeleteSettings),
    *(ExportSettings, RemeasureSettings, RetrainSettings, ReplaySettings, BenchmarkSettings),
)


@pytest.fixture(autouse=True)
def no_log() -> Iterator[None]:
    """Logged nonsense, such as half a character, in a report of pytest could not be sent between its processes."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    prepared(tmp_path, monkeypatch)
    return tmp_path


def test_every_number_has_a_range() -> None:
    hints = {f"{record.__name__}.{f.name}": declared(record)[f.name] for record in RECORDS for f in fields(record)}
    bare = {name for name, hint in (hints | TABLES["run"] | TABLES["plan"]).items() if bare_numbers(hint)}
    assert bare == {"SearchConfig.limits"}  # whose error names the limit: nas.study.limits.check_bounds


def test_a_sample_of_nonsense_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert faults(sample(list(command_lines()), 150), capsys) == []
    assert faults(list(config_files(here))[::25], capsys) == []


@pytest.mark.slow
def test_all_nonsense_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = [*command_lines(), *config_files(here)]
    assert len(trials) > 3000
    assert faults(trials, capsys) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
ONE_FOLDER = [HealthCheck.function_scoped_fixture]  # each example writes the same file again
FEW = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=ONE_FOLDER)
MANY = settings(FEW, max_examples=3000)


@st.composite
def changed_specs(draw: st.DrawFn) -> Any:
    """Draw a preset's plain data with some values replaced, added or removed."""
    spec = PRESETS[draw(st.sampled_from(sorted(PRESETS)))].to_dict()
    for _ in range(draw(st.integers(1, 3))):
        part = draw(st.sampled_from([spec, *spec["stages"]])) if isinstance(spec.get("stages"), list) else spec
        if not isinstance(part, dict) or not part:
            continue
        key = draw(st.sampled_from(sorted(part)) | st.text(max_size=8))
        if draw(st.booleans()):
            part[key] = draw(JSON)
        else:
            part.pop(key, None)
    return spec


def check_spec(plain: Any) -> None:
    """Assert that a spec is valid, and the same after a round trip, or refused in one line."""
    message = ""
    try:
        spec = ArchSpec.from_dict(plain)
        assert ArchSpec.from_json(spec.to_json()) == spec
    except SpecError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 1000


@FEW
@given(changed_specs() | JSON)
def test_any_data_is_a_spec_or_refused(plain: Any) -> None:
    check_spec(plain)


@pytest.mark.slow
@pytest.mark.exhaustive
@MANY
@given(changed_specs() | JSON)
def test_any_data_of_many_is_a_spec_or_refused(plain: Any) -> None:
    check_spec(plain)


@FEW
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_any_file_is_a_spec_or_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=r"spec\.json"):
        find_spec(str(path))


TOML = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([*declared(SearchConfig), *TABLES["run"], "plan", "zzz"])
KEYS_OF_TABLES = st.sampled_from([*declared(DistillConfig), *TABLES["plan"], *TABLES["run"], "max_params"])
SOME_TABLES = st.dictionaries(KEYS_OF_TABLES, TOML, max_size=3)


def check_config(plain: dict[str, Any], path: Path) -> None:
    """Assert that a config file is valid or refused in one line."""
    path.write_text(tomli_w.dumps(plain))
    message = ""
    try:
        new_config({**read_options(path), "device": "cpu"})
    except ValueError as error:
        message = str(error)
    assert "\n" not in message


@FEW
@given(plain=st.dictionaries(KEYS, TOML | SOME_TABLES, max_size=3))
def test_any_config_file_is_taken_or_refused(plain: dict[str, Any], tmp_path: Path) -> None:
    check_config(plain, tmp_path / "any.toml")


@pytest.mark.slow
@pytest.mark.exhaustive
@MANY
@given(plain=st.dictionaries(KEYS, TOML | SOME_TABLES, max_size=3))
def test_any_config_file_of_many_is_taken_or_refused(plain: dict[str, Any], tmp_path: Path) -> None:
    check_config(plain, tmp_path / "any.toml")


def test_a_config_file_is_a_regular_one(here: Path) -> None:
    for name in ("FIFO", "FOLDER", "/dev/zero"):
        with pytest.raises(ConfigError, match="Not a regular file"):
            read_options(Path(name))
