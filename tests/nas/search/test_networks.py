"""The networks that a search names: reference, baselines and comparison networks."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.measure.counts import network_totals
from nas.search.__main__ import main
from nas.search.arguments import parser
from nas.search.settings import new_config
from nas.study.config import SearchConfig
from nas.validation import ConfigError
from search_space import SPACES, TimmSpec, preset


def config_of(*words: str) -> SearchConfig:
    return new_config(vars(parser().parse_args(words)))


def spec_file(folder: Path, name: str = "winner.json", arch: str = "eradio_femto") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(preset(arch).to_json())
    return folder / name


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("--reference timm:resnet5", ("--reference", "'resnet5'", "resnet50")),
        ("--reference eradio_nanoo", ("--reference", "'eradio_nanoo'", "eradio_nano", "timm:NAME", ".json")),
        ("--baselines timm:resnet18.a1_in1k", ("--baselines", "random weights", "write timm:resnet18")),
        ("--baselines eradio_pico,timm:levit_128", ("--baselines", "timm:levit_128", "64 px")),
        ("--baselines eradio_pico,nowhere.json", ("--baselines", "'nowhere.json'")),
        ("--scale timm:resnet18,timm:convnext_at", ("--scale", "'convnext_at'", "convnext_atto")),
    ],
)
def test_an_unknown_network_is_refused_in_one_line_before_the_search(
    words: str, parts: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*words.split(), "--run", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(part in line for part in parts), line
    assert not (tmp_path / "run").exists()


def test_the_architecture_of_a_file_is_part_of_the_settings(tmp_path: Path) -> None:
    spec, file = preset("eradio_femto"), str(spec_file(tmp_path))
    config = config_of("--reference", file, "--baselines", f"{file},eradio_pico", "--scale", "timm:resnet18")
    name = f"winner-{spec.arch_id[:8]}"
    assert (config.reference, config.baselines, config.scale) == (name, (name, "eradio_pico"), ("timm:resnet18",))
    assert config.specs == {name: spec.to_dict()}
    Path(file).unlink()
    assert config.spec(name) == spec


def test_a_file_of_a_baseline_is_no_other_baseline(tmp_path: Path) -> None:
    """Their trials would have one id, and with it one checkpoint and one place in the sampler's cost model."""
    with pytest.raises(ConfigError, match=r"--baselines: eradio_femto and winner-\w+ are one architecture"):
        config_of("--baselines", f"eradio_femto,{spec_file(tmp_path)}")


def test_a_baseline_of_timm_has_the_neck_of_the_space_s_own_reference() -> None:
    config = config_of("--baselines", "timm:resnet18", "--reference", "timm:resnet18", "--scale", "timm:resnet34")
    spec = TimmSpec("resnet18", preset("eradio_pico").neck_dim)
    assert config.spec("timm:resnet18") == spec
    assert config.arch("timm:resnet18") == spec.to_dict()
    assert config.comparison_networks == ("timm:resnet34",)
    assert config.arch("timm:resnet34") == "timm:resnet34"


def test_a_spec_file_of_a_network_of_timm_stands_for_its_name(tmp_path: Path) -> None:
    file = tmp_path / "best.json"
    file.write_text('{"timm": "resnet18"}')
    config = config_of("--reference", str(file), "--scale", str(file))
    assert (config.reference, config.scale, config.specs) == ("timm:resnet18", ("timm:resnet18",), {})


def test_a_resumed_study_s_file_is_compared_by_its_content(tmp_path: Path) -> None:
    file = spec_file(tmp_path)
    first = config_of("--reference", str(file))
    assert not first.differences(config_of("--reference", str(file)))
    (changed,) = first.differences(config_of("--reference", str(spec_file(tmp_path, arch="eradio_nano"))))
    assert changed == f"reference: {first.reference} -> winner-{preset('eradio_nano').arch_id[:8]}"


def test_a_file_without_a_valid_spec_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"stages": 7}')
    with pytest.raises(ConfigError, match=r"--baselines: .*stages"):
        config_of("--baselines", str(tmp_path / "bad.json"))


@pytest.mark.parametrize("space", SPACES)
def test_the_default_baselines_take_images_of_any_size(space: str) -> None:
    config = SearchConfig(space=space, baselines=SPACES[space].baselines)
    for spec in map(config.spec, config.baselines):
        counted = [network_totals(spec.to_dict(), px).macs for px in (32, 288)]
        assert counted == sorted(counted)


@pytest.mark.parametrize("space", SPACES)
def test_a_space_brings_its_images_and_networks(space: str) -> None:
    config = config_of("--space", space)
    assert config.distill.img_size == SPACES[space].image_px
    assert (config.reference, config.baselines) == (SPACES[space].reference, SPACES[space].baselines)
