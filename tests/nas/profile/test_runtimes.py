"""Compared runtimes: their reference, ties, and rows without a number."""

import json
import math

import pytest
from PIL import Image

from nas.measure import Arm, ArmError, MeasurementError
from nas.measure.runtime_spec import FORMS, LAYOUTS, named_arms
from nas.measure.runtime_traits import PRECISIONS, RUNTIMES
from nas.profile.__main__ import main
from nas.study.timing_doubts import TOO_FEW, WRONG_OUTPUT
from tests.nas.profile.services import scripted

PICO = ["--arch", "eradio_pico", "--device", "cpu", "--batch-size", "2"]
RATIOS = {"eager": (1.0, 0.99, 1.02), "compiled": (1.5, 1.4, 1.6), "bf16": (0.97, 0.95, 0.985), "nchw": (0.5, 0.4, 0.6)}


def answer(candidate, setting):
    """Return the ratio of an arm by its first word of RATIOS that differs from the default."""
    arm = setting.arm
    if arm.runtime == "tensorrt":
        raise ArmError("runtime: tensorrt runs on CUDA devices, not on cpu")
    if arm.precision == "fp16":
        raise MeasurementError("crash", "the process was ended by SIGSEGV")
    word = arm.runtime if arm.runtime != "eager" else arm.precision if arm.precision != "fp32" else arm.layout
    value, low, high = RATIOS["eager" if word == "channels-last" else word]
    ratio = {"ratio": value, "ratio_low": low, "ratio_high": high}
    return ratio | ({"energy_j": 0.0125, "compile_s": 7.25} if word == "compiled" else {})


@pytest.fixture(autouse=True)
def service(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKBONE_NAS_CACHE", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    service = scripted(answer)
    monkeypatch.setattr("nas.profile.command.MeasurementService", service)
    return service


def shown(capsys, monkeypatch, *arguments, columns=140, code=0):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main([*PICO, *arguments]) == code
    return capsys.readouterr()


def test_the_base_completes_names():
    base = Arm("compiled", "bf16")
    assert named_arms("eager, fp32+nchw", base) == {
        "eager": Arm("eager", "bf16"),
        "fp32+nchw": Arm("compiled", layout="nchw"),
    }
    assert list(named_arms("fp16,eager", base)) == ["fp16", "eager"]  # the first stays the first
    with pytest.raises(ArmError, match="'compiled' and 'bf16' are the same runtime: compiled"):
        named_arms("compiled,bf16", base)
    with pytest.raises(ArmError, match="'' in ''"):
        named_arms("eager,,bf16", base)


def test_all_is_every_change_of_one_word():
    base = Arm("compiled", "bf16", "nchw", "unfused")
    arms = named_arms("all", base)
    assert next(iter(arms.values())) == base
    texts = [str(arm).split("+") for arm in arms.values()]
    assert {sum(a != b for a, b in zip(words, texts[0], strict=True)) for words in texts[1:]} == {1}
    assert {word for words in texts for word in words} == {*RUNTIMES, *PRECISIONS, *LAYOUTS, *FORMS}
    assert len(set(arms.values())) == len(arms)


def test_the_reference_is_the_same_network_on_the_first_runtime_that_runs(service, capsys):
    assert main([*PICO, "--runtimes", "tensorrt,nchw,eager,compiled+bf16", "--measure-seconds", "7", "--json"]) == 0
    arms = [(candidate, reference, s.arm, s.reference_arm) for candidate, reference, s in service.requests]
    tried, first = Arm("tensorrt"), Arm(layout="nchw")
    assert arms == [("eradio_pico", "eradio_pico", arm, reference) for arm, reference in (
        (tried, tried), (first, first), (Arm(), first), (Arm("compiled", "bf16"), first),
    )]  # fmt: skip
    assert {(s.batch, s.resolution, s.budget_s, s.device) for _, _, s in service.requests} == {(2, 64, 7.0, "cpu")}
    assert json.loads(capsys.readouterr().out)["profiles"][0]["reference"] == "nchw"


def test_json_holds_every_record(capsys):
    assert main([*PICO, "--runtimes", "eager,compiled,bf16,tensorrt", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["arms"]["bf16"] == "eager+bf16+channels-last+fused"
    (profile,) = data["profiles"]
    assert (profile["arch"], profile["batch"], profile["resolution"], profile["missing"]) == ("eradio_pico", 2, 64, [])
    eager, compiled, bf16, tensorrt = profile["arms"]
    assert (compiled["name"], compiled["arm"]) == ("compiled", "compiled+fp32+channels-last+fused")
    assert compiled["measurement"]["ratio"] == 1.5
    assert compiled["measurement"]["reference"] == "eradio_pico, eager+fp32+channels-last+fused"
    assert profile["noise"] == pytest.approx(math.exp(math.hypot(math.log(1.02), 1.96 * 0.017)) - 1, rel=1e-3)
    assert [row["tie"] for row in profile["arms"]] == [True, False, True, None]
    assert tensorrt["impossible"]
    assert tensorrt["measurement"] is None
    assert eager["why_not"] is bf16["why_not"] is None


def test_the_noise_is_the_largest_deviation_on_either_side(capsys, monkeypatch):
    monkeypatch.setitem(RATIOS, "eager", (0.9, 0.8, 1.01))
    assert main([*PICO, "--runtimes", "eager,nchw", "--json"]) == 0
    (profile,) = json.loads(capsys.readouterr().out)["profiles"]
    assert profile["noise"] > 0.25
    assert [row["tie"] for row in profile["arms"]] == [True, False]


@pytest.mark.parametrize(("ratio", "tie"), [(0.97, True), (0.963, False)])
def test_differences_between_processes_are_ties(ratio, tie, capsys, monkeypatch):
    """Both are exact within their processes; with a deviation of 1.7 % between two, 3.4 % is the limit."""
    monkeypatch.setitem(RATIOS, "eager", (1.0, 1.0, 1.0))
    monkeypatch.setitem(RATIOS, "bf16", (ratio, ratio, ratio))
    assert main([*PICO, "--runtimes", "eager,bf16", "--json"]) == 0
    (profile,) = json.loads(capsys.readouterr().out)["profiles"]
    assert profile["noise"] == pytest.approx(0.0339, abs=1e-4)
    assert profile["arms"][1]["tie"] is tie


def test_a_runtime_with_wrong_outputs_has_no_speed_and_no_other_is_compared_with_it(capsys, monkeypatch):
    fault = {"verdict": WRONG_OUTPUT, "output_error": 0.5}
    wrong = scripted(lambda network, setting: answer(network, setting) | (fault if setting.arm != Arm() else {}))
    monkeypatch.setattr("nas.profile.command.MeasurementService", wrong)
    assert main([*PICO, "--runtimes", "nchw,eager", "--json"]) == 1
    (profile,) = json.loads(capsys.readouterr().out)["profiles"]
    assert profile["reference"] == "eager"
    assert profile["arms"][0]["measurement"] is None
    assert profile["arms"][0]["why_not"] == "wrong output: differs by 0.5 from fp32 eager"


def test_few_samples_make_no_noise_floor(capsys, monkeypatch):
    few = {"samples": 2, "verdict": TOO_FEW, "ratio_low": 0.001, "ratio_high": 1000.0}
    monkeypatch.setattr("nas.profile.command.MeasurementService", scripted(lambda *_: few))
    out = shown(capsys, monkeypatch, "--runtimes", "eager,nchw").out
    assert (
        "A/A (the first runtime against itself): x 1.000, interval not usable: only 2 samples; ties are unknown"
        in " ".join(out.split())
    )
    assert "tie " not in out
    assert "1000" not in out.split("Do not mix")[0].replace("1.000", "")


def test_a_crash_is_a_row_and_exit_code_1(tmp_path, capsys, monkeypatch):
    out = shown(capsys, monkeypatch, "--runtimes", "eager,fp16,bf16", code=1).out
    assert "fp16: crash: the process was ended by SIGSEGV" in out
    assert "tie" in out.split("bf16")[1]  # the others were measured
    plot = tmp_path / "none.svg"
    out, err = shown(capsys, monkeypatch, "--runtimes", "tensorrt", "--plot", str(plot), code=1)
    assert "no runtime could be measured" in out
    assert err.endswith(f"--plot: {plot} was not written: nothing was measured that a picture shows\n")
    assert not plot.exists()


def test_ctrl_c_prints_the_rows_so_far(capsys, monkeypatch):
    def stopped(candidate, setting):
        if setting.arm.precision == "bf16":
            raise KeyboardInterrupt
        return answer(candidate, setting)

    monkeypatch.setattr("nas.profile.command.MeasurementService", scripted(stopped))
    out, err = shown(capsys, monkeypatch, "--arch", "timm:resnet10t", "--runtimes", "eager,bf16,nchw", code=130)
    assert "A/A (the first runtime against itself): x 1.000" in out
    last = err.splitlines()[-1]
    assert last.split(": ", 1)[1] == "eradio_pico: bf16, eradio_pico: nchw, timm:resnet10t"


def test_a_picture_has_every_runtime_of_every_network(tmp_path, capsys, monkeypatch):
    plot = tmp_path / "runtimes.svg"
    networks = ["--arch", "timm:resnet10t", "--img-size", "64"]
    shown(capsys, monkeypatch, *networks, "--runtimes", "eager,compiled,tensorrt", "--plot", str(plot))
    text = plot.read_text()
    for word in (
        "eradio_pico, batch 2",
        "timm:resnet10t, batch 2",
        "compiled",
        "can't run here",
        "100 img/s",
        "open: tie",
    ):
        assert word in text
    shown(capsys, monkeypatch, "--runtimes", "eager", "--plot", str(plot.with_suffix(".png")))
    assert Image.open(plot.with_suffix(".png")).size[0] > 1000
