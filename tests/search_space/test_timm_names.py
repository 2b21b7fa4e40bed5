"""The recorded names are those of the installed timm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
from timm.models import is_model, list_pretrained
from timm.models._registry import _model_entrypoints

from nas.study import teacher_names
from nas.study.teacher_names import OWN_TEACHERS, SETS, check_teacher_names, listed
from nas.teachers import TEACHERS
from search_space import SpecError, timm_names
from search_space.timm_names import RECORDED, is_recorded_version, may_be_timm_name, tagged_names
from search_space.timm_spec import check_arch

needs_recorded_version = pytest.mark.skipif(
    not is_recorded_version(), reason=f"timm {timm.__version__} is installed; the names of another version are recorded"
)


def names_to_record() -> str:
    """Return the content of `RECORDED`: each network of the installed timm, with its tags.

    Earlier names, which timm still takes, are among the networks; "untrained" is no tag.
    For another version of timm, write it there.
    """
    networks: dict[str, list[str]] = {}
    for name in sorted(name for name, build in _model_entrypoints.items() if build.__module__.startswith("timm.")):
        networks[name] = []
    for name in timm.list_models(include_tags=True):
        network, _, tag = name.partition(".")
        if network in networks and tag:
            networks[network].append(tag)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(tags)}" for name, tags in networks.items())
    return f'{{"version": {json.dumps(timm.__version__)}, "networks": {{\n{lines}\n}}}}\n'


@needs_recorded_version
def test_the_record_is_what_would_be_recorded() -> None:
    assert RECORDED.read_text() == names_to_record()


@needs_recorded_version
def test_no_name_that_timm_takes_is_refused() -> None:
    names = [*timm.list_models(include_tags=True), *list_pretrained(), *_model_entrypoints]
    assert len(names) > 2000
    assert [name for name in names if not may_be_timm_name(name)] == []


@needs_recorded_version
def test_what_timm_does_not_have_is_refused() -> None:
    for name in ("nonsense", "resnet", "layers", "resnet18.zzz", "", "resnet18 ", "ResNet18"):
        assert not may_be_timm_name(name), name
        assert name == "resnet18.zzz" or not is_model(name)
    with pytest.raises(SpecError, match=r"resnet18 has no weights of the name 'zzz'; it has resnet18\."):
        check_arch("timm:resnet18.zzz")
    with pytest.raises(SpecError, match="similar: resnet18,"):
        check_arch("timm:resnet181")


def test_a_network_that_this_process_registered_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not may_be_timm_name("of_a_user")
    monkeypatch.setitem(_model_entrypoints, "of_a_user", lambda: None)
    assert may_be_timm_name("of_a_user")


def test_no_name_is_refused_where_another_version_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_names, "is_recorded_version", lambda: False)
    check_arch("timm:of_a_later_version")
    check_teacher_names("of_a_later_version.tag@224", {})


def test_the_names_of_teachers_are_those_of_the_teachers() -> None:
    assert list(TEACHERS) == list(OWN_TEACHERS)
    names = {name.partition("@")[0] for name in listed(",".join(SETS))} - set(TEACHERS)
    assert names <= set(tagged_names())


def test_a_new_teacher_changes_no_set() -> None:
    """The default teachers of a study are a set, so that with another member no study could be resumed."""
    source = Path(teacher_names.__file__).read_text()
    extended = source.replace('OWN_TEACHERS = ("lite0",', 'OWN_TEACHERS = ("edges", "lite0",')
    namespace: dict[str, Any] = {}
    exec(compile(extended, "extended", "exec"), namespace)
    assert namespace["OWN_TEACHERS"][0] == "edges"
    assert namespace["SETS"] == SETS


def test_a_spec_file_of_a_network_is_an_arch(tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    path.write_text('{"timm": "resnet18"}')
    check_arch(str(path))
    path.write_text('{"timm": "resnet181"}')
    with pytest.raises(SpecError, match=r"best\.json: timm has no model 'resnet181'"):
        check_arch(str(path))
