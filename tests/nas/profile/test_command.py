"""The command from its entry point: tables, one JSON object, one line for every mistake."""

import fcntl
import io
import json
import multiprocessing
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch
from PIL import Image
from torch import nn

from nas.machine import lock_dir
from nas.measure import Arm, MeasurementError
from nas.measure.conditions import Conditions, HostWatch
from nas.measure.device_lock import NOTICE_AFTER_S, _print_notice, exclusive_device, training
from nas.measure.environment import device_key, device_name
from nas.measure.roofline import Ceilings
from nas.measure.stages import called_modules, stage_times
from nas.profile import network, runtime_comparison, space_sample
from nas.profile.__main__ import main
from search_space import PRESETS, TimmSpec, find_spec, preset
from tests.nas.doctor import gpus
from tests.nas.profile.services import InProcess, scripted
from tests.waiting import PATIENCE_S

KEYS = set(
    "arch arch_id params macs counters throughput_img_s latency_ms peak_memory_mib stages environment".split()  # noqa: SIM905
)
QUICK = ["--device", "cpu", "--measure-seconds", "0.2", "--batch-size", "2"]
SMALL = {"params", "macs", "activations", "activation_bytes", "moved_bytes", "time_ms", "share", "attainable_ms"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def high_ceilings(device, precision):
    return Ceilings(device_name(device), torch.get_num_threads(), precision, torch.__version__, 1e5, 1e5, ((1, 1e5),))


@pytest.fixture(autouse=True)
def places(cache, tmp_path, monkeypatch):
    """Share ceilings among the tests of this module, but no locks. Nothing exceeds them, and none takes seconds."""
    monkeypatch.setattr(network, "measure_ceilings", high_ceilings)
    monkeypatch.setenv("BACKBONE_NAS_CACHE", str(cache))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("nas.profile.command.MeasurementService", InProcess)


def device_lock():
    return lock_dir() / device_key("cpu")


@pytest.fixture(scope="module")
def femto(cache):
    """Return stdout and stderr of one --json run, which the tests share because it takes seconds."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("BACKBONE_NAS_CACHE", str(cache))
        patch.setattr(network, "measure_ceilings", high_ceilings)
        assert main(["--arch", "eradio_femto", "--json", *QUICK]) == 0
    return out.getvalue(), err.getvalue()


def test_json_is_one_object_on_stdout_and_stderr_is_silent(femto):
    data = json.loads(femto[0])
    assert set(data) >= KEYS | {"layers", "roofline", "sweeps"}
    assert data["output"] == {"stride": 16, "width": 128, "summary_width": 128}
    assert femto[1] == ""
    assert data["arch"] == "eradio_femto"
    assert data["arch_id"] == PRESETS["eradio_femto"].arch_id
    assert (data["resolution"], data["batch"]) == (64, 2)
    assert data["counters"]["ours"]["macs"] == data["macs"] > 1e6
    assert data["counters"]["fvcore"]["macs"] > 1e6
    assert data["counters"]["thop"]["macs"] > 1e6
    assert data["throughput_img_s"] > 0
    assert data["environment"]["device"] == "cpu"


def test_stages_add_up(femto):
    data = json.loads(femto[0])
    stages = data["stages"]
    assert [s["name"] for s in stages][:3] == ["stem", "stage1", "down1"]
    assert sum(s["macs"] for s in stages) == data["counters"]["ours, fused"]["macs"] < data["macs"]
    assert sum(s["params"] for s in stages) <= data["params"]
    assert sum(s["share"] for s in stages) == pytest.approx(data["stages_covered"])
    assert 0.5 < data["stages_covered"] <= 1.001


def test_layers_and_roofline_add_up(femto):
    data = json.loads(femto[0])
    layers, stages = data["layers"], data["stages"]
    assert layers[0]["name"].startswith("stem")
    for key in ("macs", "activations", "moved_bytes"):
        within = sum(row[key] for row in layers)
        assert within >= sum(row[key] for row in stages) >= 0.95 * within  # the rest is between the stages
    for row in (*layers, *stages):
        assert all(row[key] >= 0 for key in SMALL)
        assert row["utilization"] == pytest.approx(row["attainable_ms"] / row["time_ms"])
        assert row["bound"] in ("compute", "memory", "none")
    assert sum(row["share"] for row in layers) <= 1.001
    roofline = data["roofline"]
    assert roofline["ceilings"]["gmacs_s"] > 0
    assert roofline["ceilings"]["threads"] == torch.get_num_threads()
    assert roofline["over"] == [row["name"] for row in (*stages, *layers) if row["utilization"] > 1]
    assert data["sweeps"] == {}
    assert data["missing"] == []
    assert data["failure"] is None


def test_sweeps(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    plot = tmp_path / "sweeps.png"
    sweeps = ["--batch-sizes", "3,1,2", "--img-sizes", "64,96", "--plot", str(plot)]
    assert main(["--arch", "eradio_femto", "--json", *sweeps, *QUICK]) == 0
    swept = json.loads(capsys.readouterr().out)["sweeps"]
    assert [(p["batch"], p["resolution"]) for p in swept["batch"]["points"]] == [(1, 64), (2, 64), (3, 64)]
    assert [(p["batch"], p["resolution"]) for p in swept["resolution"]["points"]] == [(2, 64), (2, 96)]
    assert swept["batch"]["refused"] == swept["resolution"]["refused"] == {}
    smaller, larger = swept["resolution"]["points"]
    assert larger["macs"] > smaller["macs"]
    assert Image.open(plot).size[0] > 1000


def test_a_failed_network_is_a_line_and_the_others_are_measured(capsys, monkeypatch):
    def answer(arch, _):
        if arch == "eradio_femto":
            raise MeasurementError("hang", "no result after 120 s")
        return {}

    monkeypatch.setattr("nas.profile.command.MeasurementService", scripted(answer))
    both = ["--arch", "eradio_femto", "--arch", "timm:resnet10t", "--img-size", "64", *QUICK]
    assert main([*both, "--json"]) == 1
    failed, whole = json.loads(capsys.readouterr().out)["profiles"]
    advice = "if the network is only slow, give a smaller --batch-size or --img-size"
    assert failed["failure"] == f"timing: hang: no result after 120 s; {advice}"
    assert failed["stages"] == []
    assert failed["missing"] == ["timing", "stages and layers"]
    assert (whole["failure"], whole["missing"]) == (None, [])


@pytest.mark.usefixtures("femto")  # it keeps the ceilings
def test_the_network_is_timed_on_its_runtime_and_its_parts_eagerly(capsys, monkeypatch):
    service = scripted(lambda *_: {"batch": 1, "requested_batch": 2})  # memory was too small for two
    monkeypatch.setattr("nas.profile.command.MeasurementService", service)
    monkeypatch.setattr(network, "measure_ceilings", lambda *_: pytest.fail("those of fp32 are kept"))
    monkeypatch.setenv("COLUMNS", "140")
    assert main(["--arch", "eradio_femto", "--runtime", "compiled+nchw+unfused", "--batch-sizes", "1,2", *QUICK]) == 0
    ((_, _, setting),) = service.requests
    assert setting.arm == Arm("compiled", "fp32", "nchw", "unfused")
    assert (setting.batch, setting.reference_arm, setting.budget_s) == (2, None, 0.2)
    out = " ".join(capsys.readouterr().out.split())
    assert "batch 1 (2 requested)" in out
    assert "(batch 1, in eager mode instead of compiled)" in out
    assert "interleaved, in eager mode" in out
    assert "best throughput: " in out
    assert "ours, fused" not in out


def test_parts_that_do_not_fit_in_eager_mode_are_a_note_and_the_sweeps_go_on(capsys, monkeypatch):
    def too_large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("nas.profile.command.MeasurementService", scripted(lambda *_: {}))
    monkeypatch.setattr(network, "stage_times", too_large)
    assert main(["--arch", "eradio_femto", "--batch-sizes", "1", "--json", *QUICK]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["failure"], data["missing"], data["stages"]) == (None, [], [])
    assert data["parts_note"].startswith("no stages and layers: memory is too small for a batch of 2 in eager mode")
    assert [p["batch"] for p in data["sweeps"]["batch"]["points"]] == [1]


def test_tables_of_parts_have_the_verdict_of_their_own_timing(capsys, monkeypatch):
    busy = HostWatch()
    busy.end = lambda: Conditions((), wait_share=0.4)
    monkeypatch.setattr("nas.profile.command.MeasurementService", scripted(lambda *_: {}))
    monkeypatch.setattr(network, "watch_for", lambda device: busy)
    assert main(["--arch", "eradio_femto", "--json", *QUICK]) == 0
    assert json.loads(capsys.readouterr().out)["parts_verdict"] == "contended"


def test_ctrl_c_prints_the_steps_so_far(capsys, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(network.SWEEPS, "batch", stopped)
    assert main(["--arch", "eradio_femto", "--batch-sizes", "1,2", "--json", *QUICK]) == 130
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert data["throughput_img_s"] > 0
    assert data["missing"] == ["batch sweep"]
    assert "not measured: eradio_femto: batch sweep" in err
    monkeypatch.setattr("nas.profile.command.MeasurementService", scripted(stopped))
    assert main(["--arch", "eradio_femto", "--arch", "eradio_pico", *QUICK]) == 130
    out, err = capsys.readouterr()
    assert "compute" in out
    assert "eradio_femto: timing, eradio_femto: stages and layers, eradio_pico" in err


def test_a_full_disk_prints_the_networks_so_far(capsys, monkeypatch):
    def broken(arch, *rest):
        if arch == "eradio_pico":
            raise OSError(28, "No space left on device")
        return profile_network(arch, *rest)

    profile_network = network.profile_network
    monkeypatch.setattr("nas.profile.command.profile_network", broken)
    assert main(["--arch", "eradio_femto", "--arch", "eradio_pico", "--json", *QUICK]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["profiles"][0]["throughput_img_s"] > 0
    assert "not measured: eradio_pico" in err


def hold(folder, held, ending):
    with training(folder):
        held.set()
        ending.wait(PATIENCE_S)


def test_a_command_that_waits_for_the_device_prints_so(capfd, monkeypatch):
    fork = multiprocessing.get_context("fork")
    held, ending = fork.Event(), fork.Event()
    process = fork.Process(target=hold, args=(device_lock(), held, ending))
    process.start()
    assert held.wait(PATIENCE_S)

    def notice_and_go_on(*facts):
        _print_notice(*facts)
        ending.set()

    monkeypatch.setattr("nas.measure.device_lock._print_notice", notice_and_go_on)
    with exclusive_device("cpu"):
        pass
    with exclusive_device("cpu"):  # free now: silence
        pass
    ending.set()
    process.join()
    waiting, waited = capfd.readouterr().err.splitlines()
    assert waiting.startswith(f"waiting for cpu: process {process.pid} (")
    assert waiting.endswith(") trains or measures on it; Ctrl-C ends the wait and loses nothing")
    seconds = int(waited.removeprefix("waited 0:").removesuffix(" for cpu"))
    assert seconds >= NOTICE_AFTER_S


@pytest.mark.parametrize(
    ("module", "counter", "words"),
    [
        (network, "compare_counters", ["--arch", "eradio_femto"]),
        (runtime_comparison, "checked_count", ["--arch", "eradio_femto", "--runtimes", "eager"]),
        (space_sample, "operators", ["--space", "micro", "--samples", "1"]),
    ],
)
def test_nobody_measures_while_networks_are_counted(module, counter, words, monkeypatch, capsys):
    def counting(*_):
        with (device_lock() / "device.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # others count and train meanwhile
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    monkeypatch.setattr(module, counter, counting)
    assert main([*words, "--device", "cpu"]) != 0
    assert "temporarily unavailable" in capsys.readouterr().err


def test_several_archs_are_one_comparison_and_one_plot(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("nas.profile.command.MeasurementService", scripted(lambda *_: {}))
    plot = tmp_path / "plot.svg"
    several = ["--arch", "eradio_femto", "--arch", "timm:resnet10t", "--img-size", "64", *QUICK]
    assert main([*several, "--json", "--plot", str(plot)]) == 0
    profiles = json.loads(capsys.readouterr().out)["profiles"]
    assert [p["arch"] for p in profiles] == ["eradio_femto", "timm:resnet10t"]
    assert [p["arch_id"] for p in profiles] == [preset("eradio_femto").arch_id, TimmSpec("resnet10t").arch_id]
    text = plot.read_text()
    for word in ("eradio_femto", "timm:resnet10t"):
        assert word in text


def test_a_spec_of_an_export_has_the_name_of_its_folder(tmp_path, monkeypatch):
    file = tmp_path / "tower" / "spec.json"
    file.parent.mkdir()
    file.write_text(PRESETS["eradio_femto"].to_json())
    monkeypatch.chdir(file.parent)
    assert [find_spec(name)[0] for name in (str(file), "spec.json")] == ["tower", "tower"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--arch", "eradioo"], "eradio_t"),  # similar ones
        (["--arch", "timm:resnet18x"], "resnet18"),
        (["--arch", "no/such/file.json"], "no/such/file.json"),
        (["--arch", "eradio_femto", "--img-size", "100"], "--img-size: 100: must be a multiple of 32"),
        (["--arch", "eradio_femto", "--batch-size", "0"], "--batch-size: 0: must be"),
        (["--arch", "eradio_femto", "--measure-seconds", "nan"], "--measure-seconds: nan: must be"),
        (["--arch", "eradio_femto", "--device", "cuda:99"], "choices: auto, cpu"),
        (["--arch", "eradio_femto", "--runtime", "int3"], "runtime: 'int3' in 'int3': choose words from eager"),
        (["--arch", "eradio_femto", "--runtime", "fp32+bf16"], "fp32 and bf16 are both a precision"),
        (["--arch", "eradio_femto", "--runtimes", "eager,fp32"], "'eager' and 'fp32' are the same runtime"),
        (
            ["--arch", "eradio_femto", "--runtimes", "eager", "--runtime", "bf16"],
            "--runtime: does not go with --runtimes",
        ),
        (
            ["--arch", "eradio_femto", "--runtimes", "eager", "--batch-sizes", "1"],
            "--batch-sizes: does not go with --runtimes",
        ),
        ([], "--arch"),
        (["--arch", "eradio_femto", "--space", "micro"], "--arch or --space"),
        (["--arch", "eradio_femto", "--max-params", "3"], "--max-params: does not go with --arch"),
        (["--arch", "eradio_femto", "--batch-sizes", "1,x"], "--batch-sizes"),
        (["--arch", "eradio_femto", "--img-sizes", "64,70"], "--img-sizes: 70: must be"),
        (["--arch", "eradio_femto", "--plot", "plot.jpg"], "--plot: 'plot.jpg': must end in .png or .svg or .pdf"),
        (["--arch", "eradio_femto", "--plot", "no/where.png"], "--plot: 'no/where.png': no such folder 'no'"),
        (["--arch", "eradio_femto", "--cache", "/proc/none"], "--cache: cannot write '/proc/none'"),
        (["--arch", "eradio_femto", "--arch", "eradioo"], "eradio_t"),  # before the first is timed
        (["--arch", "eradio_femto", "--reference", "eradioo"], "eradio_t"),
        (["--space", "tiny"], "micro"),
        (["--space", "micro", "--layers"], "--layers: does not go with --space"),
        (["--space", "micro", "--choices", "stages.blocks=mbcon"], "mbconv"),
        (["--space", "micro", "--choices", "mbconv"], "must be PART.FIELD=A,B"),
        (
            ["--space", "micro", "--max-latency-ms", "5"],
            "--max-latency-ms: needs timing; set its budget with --measure-seconds",
        ),
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


@pytest.mark.parametrize(
    ("what", "refused"),
    [
        (["--arch", "eradio_femto"], True),
        (["--space", "micro", "--samples", "1", "--measure-seconds", "1"], True),
        (["--space", "micro", "--samples", "1"], False),  # counts only
    ],
)
def test_a_gpu_for_one_process_is_refused_before_anything_is_timed(what, refused, capsys, monkeypatch):
    gpus.install_exclusive(monkeypatch)
    assert main([*what, "--device", "cuda"]) == (2 if refused else 0)
    out, err = capsys.readouterr()
    assert ("compute mode EXCLUSIVE_PROCESS" in err, out == "") == (refused, refused)


def test_a_failure_is_one_line_and_exit_code_1(capsys, monkeypatch):
    def fail(*_):
        raise RuntimeError("no\nmemory")

    monkeypatch.setattr(network, "resolve", fail)
    assert main(["--arch", "eradio_femto", *QUICK]) == 1
    assert capsys.readouterr() == ("", "error: no memory\n")


@pytest.mark.parametrize("content", ["", "[]", '{"stages": 3}'])
def test_an_unreadable_spec_is_one_line(content, tmp_path, capsys):
    file = tmp_path / "broken.json"
    file.write_text(content)
    assert main(["--arch", str(file)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


class Odd(nn.Module):
    """A network that calls `twice` two times, iterates over `blocks` without calling it and never calls `unused`."""

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


def test_stage_times_cover_odd_networks():
    odd, images = Odd(), torch.randn(2, 3, 64, 64)
    parts = called_modules(odd, list(odd.named_children()), images)
    assert [name for name, _ in parts] == ["twice", "blocks.0", "blocks.2"]
    times = stage_times(odd, parts, images, budget_s=0.1)
    assert set(times.stages_s) == {"twice", "blocks.0", "blocks.2"}
    assert 0.7 < times.covered <= 1  # without the second call of `twice` it would be about half
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in odd.modules())
