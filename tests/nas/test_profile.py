"""The command through its own entry point: tables, one JSON object, one line for every mistake."""

import json

import pytest
import torch
from torch import nn

from nas.measure.stages import called_parts, stage_times
from nas.profile import default_resolution, main
from search_space import PRESETS

KEYS = set(
    "arch arch_id params macs counters throughput_img_s latency_ms peak_memory_mib stages environment".split()  # noqa: SIM905
)
QUICK = ["--device", "cpu", "--seconds", "0.2", "--batch", "2"]


def test_json_is_one_object_on_stdout_and_stderr_is_silent(capsys):
    assert main(["--arch", "eradio_femto", "--json", *QUICK]) == 0
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert set(data) >= KEYS
    assert err == ""
    assert data["arch"] == "eradio_femto"
    assert data["arch_id"] == PRESETS["eradio_femto"].arch_id
    assert (data["resolution"], data["batch"]) == (64, 2)
    assert data["counters"]["ours"]["macs"] == data["macs"] > 1e6
    assert data["counters"]["fvcore"]["macs"] > 1e6
    assert data["counters"]["thop"]["macs"] > 1e6
    assert data["throughput_img_s"] > 0
    assert data["environment"]["device"] == "cpu"


def test_stages_add_up(capsys):
    assert main(["--arch", "eradio_femto", "--json", *QUICK]) == 0
    data = json.loads(capsys.readouterr().out)
    stages = data["stages"]
    assert [s["name"] for s in stages][:3] == ["stem", "stage1", "down1"]
    assert sum(s["macs"] for s in stages) == data["macs"]
    assert sum(s["params"] for s in stages) <= data["params"]
    assert sum(s["share"] for s in stages) == pytest.approx(data["stages_covered"])
    assert 0.5 < data["stages_covered"] <= 1.001


def test_several_archs_are_one_comparison(capsys):
    several = ["--arch", "eradio_femto", "--arch", "timm:resnet10t", "--resolution", "64", *QUICK]
    assert main([*several, "--json"]) == 0
    profiles = json.loads(capsys.readouterr().out)["profiles"]
    assert [p["arch"] for p in profiles] == ["eradio_femto", "timm:resnet10t"]
    assert profiles[1]["arch_id"] is None
    assert main(several) == 0
    table = capsys.readouterr().out
    assert "eradio_femto" in table
    assert "resnet10t" in table


def test_tables_show_the_numbers_and_the_reasons(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    assert main(["--arch", "eradio_femto", *QUICK]) == 0
    out = capsys.readouterr().out
    for expected in (
        "GMACs (x2 =",
        "img/s [",
        "fvcore",
        "thop",
        "leaves out",
        "stage3",
        "verdict",
        "The stages explain",
    ):
        assert expected in out


def test_a_spec_file_is_an_arch(tmp_path, capsys):
    file = tmp_path / "mine.json"
    file.write_text(PRESETS["eradio_femto"].to_json())
    assert main(["--arch", str(file), "--json", *QUICK]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["arch"], data["arch_id"]) == ("mine", PRESETS["eradio_femto"].arch_id)


def test_default_resolution_follows_the_scale():
    assert default_resolution(PRESETS["eradio_nano"]) == 64
    assert default_resolution(PRESETS["eradio"]) == 224
    assert default_resolution(None) == 224


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--arch", "eradioo"], "eradio_nano"),  # the choices
        (["--arch", "timm:resnet18x"], "resnet18"),
        (["--arch", "no/such/file.json"], "no/such/file.json"),
        (["--arch", "eradio_femto", "--resolution", "100"], "--resolution: 100 is not a multiple of 32"),
        (["--arch", "eradio_femto", "--resolution", "-32"], "--resolution: -32 must be positive"),
        (["--arch", "eradio_femto", "--batch", "0"], "--batch: 0 must be positive"),
        (["--arch", "eradio_femto", "--batch", "many"], "--batch"),
        (["--arch", "eradio_femto", "--seconds", "nan"], "--seconds: nan must be positive"),
        (["--arch", "eradio_femto", "--device", "cuda:99"], "choices: auto, cpu"),
        (["--arch", "eradio_femto", "--precision", "int3"], "fp32"),
        ([], "--arch"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, expected, capsys):
    try:
        code = main(arguments)
    except SystemExit as stop:  # as argparse ends the program
        code = stop.code
    assert code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err


@pytest.mark.parametrize("content", ["", "not json", "[]", '{"stages": 3}', "\x00"])
def test_an_unreadable_spec_is_one_line(content, tmp_path, capsys):
    file = tmp_path / "broken.json"
    file.write_text(content)
    assert main(["--arch", str(file)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "examples:" in out
    assert "--arch timm:resnet50" in out


class Odd(nn.Module):
    """Calls `twice` two times, iterates over `blocks` without calling it, never calls `unused`."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 5, padding=2)
        self.blocks = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1), nn.Identity(), nn.Conv2d(3, 3, 3, padding=1)])
        self.unused = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        x = self.twice(self.twice(x))
        for block in self.blocks:
            x = block(x)
        return x


def test_stage_times_cover_odd_nets():
    net, images = Odd(), torch.randn(2, 3, 64, 64)
    parts = called_parts(net, list(net.named_children()), images)
    assert [name for name, _ in parts] == ["twice", "blocks.0", "blocks.2"]
    times = stage_times(net, parts, images, budget_s=0.1)
    assert set(times.stages_s) == {"twice", "blocks.0", "blocks.2"}
    assert 0.7 < times.covered <= 1  # without the second call of `twice` it would be about half
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
