import os

import pytest
import torch

from backbones import build, resolve
from backbones.backbone import count_parameters
from backbones.build import parameters_of
from backbones.timm_models import _check_size
from search_space import PRESETS, ArchSpec, SpecError, StageSpec, preset
from search_space.checks import MAX_TEXT_BYTES


def test_preset_and_spec_file_give_the_same_architecture(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(PRESETS["eradio_femto"].to_json())
    assert resolve("eradio_femto")[1].spec == resolve(str(path))[1].spec
    assert (resolve("eradio_femto")[0], resolve(str(path))[0]) == ("eradio_femto", "mine")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "JSON"),
        ('{"stages": []}', "stages"),
        (b"\xff\xfe\xfa", "not UTF-8"),
        (None, "No such file"),
        (" " * (MAX_TEXT_BYTES + 1), "larger"),
    ],
)
def test_bad_spec_files_are_named(tmp_path, text, words):
    path = tmp_path / "bad.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpecError, match=words) as error:
        resolve(str(path))
    assert "bad.json" in str(error.value)


def test_a_spec_file_is_a_regular_one_and_any_depth_of_brackets_is_named(tmp_path):
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "deep.json").write_text("[" * 10**5)
    for name, words in (("fifo.json", "Not a regular file"), ("deep.json", "not JSON")):
        with pytest.raises(SpecError, match=words):
            resolve(str(tmp_path / name))


@pytest.mark.parametrize("arch", ["spec", "timm:resnet18"])
def test_a_network_beyond_the_memory_is_refused_before_it_is_built(arch, tmp_path, monkeypatch):
    huge = StageSpec("vit", depth=64, width=8192, expansion=4.0, heads=8, grid=14)
    path = tmp_path / "huge.json"
    path.write_text(ArchSpec((huge,), stem="patch16").to_json())
    if arch != "spec":
        _check_size.cache_clear()
        monkeypatch.setattr("search_space.memory.memory_bytes", lambda: 40e6)
    with pytest.raises(SpecError, match=r"parameters, .* GB in fp32; allowed: "):
        resolve(str(path) if arch == "spec" else arch)


@pytest.mark.parametrize("name", ["eradio_nano", "eradio_t", "like_swin_tiny", "like_fastervit_0", "like_resnet50"])
def test_parameters_are_counted_exactly_and_draw_no_random_number(name):
    torch.manual_seed(0)
    expected = torch.rand(3)
    with torch.device("meta"):
        model = build(PRESETS[name])
    assert parameters_of(PRESETS[name]) == count_parameters(model)
    torch.manual_seed(0)
    parameters_of(PRESETS[name])
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("eradio_q", r"'eradio_q'.*timm:NAME.*eradio_t"),
        ("timm:resnet19", r"'resnet19'.*resnet18"),
        ("timm:resnet18.x", "tag"),
    ],
)
def test_unknown_names_list_the_choices(arch, words):
    with pytest.raises(SpecError, match=words):
        resolve(arch)


@pytest.mark.parametrize("spec", ["eradio_pico", preset("eradio_pico").to_dict()])
def test_what_is_no_spec_is_refused_in_one_line(spec):
    with pytest.raises(SpecError, match=r"^spec: .*: must be an ArchSpec; resolve\(NAME\) builds a preset"):
        build(spec)
