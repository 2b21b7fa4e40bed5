"""The command from its entry point: findings and exit codes; with --gpu a file, which is continued and names nobody."""

from __future__ import annotations

import getpass
import json
import platform
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nas.doctor import examination, gpu_session, readings
from nas.doctor.__main__ import main
from nas.doctor.arguments import BenchmarkSettings
from nas.doctor.examination import Examination
from nas.doctor.findings import CACHE_BYTES, FAIL, GB, OK, WARN, Finding
from nas.doctor.gpu_readings import Gpu, GpuReading, read_gpu
from nas.doctor.gpu_report import public_line
from nas.doctor.gpu_tests import CaseResult
from nas.doctor.readings import HubReading, PrecisionReading, RayReading, TeachersReading
from nas.measure import MeasurementError
from nas.measure.runtime_check import RuntimeReading, read_runtime
from nas.plan.teacher_costs import images_bytes, material_counted
from nas.study.config import SearchConfig
from search_space import preset
from tests.nas.profile.services import InProcess

HEALTHY: dict[Callable[..., Any], Any] = {
    readings.read_cpu: readings.read_cpu(),
    read_gpu: GpuReading(),
    readings.read_precision: PrecisionReading({"fp32": 10.0, "bf16": 5.0}),
    read_runtime: RuntimeReading("compiled", 3.0, True),
    readings.read_ray: RayReading("2.60.0", "/tmp"),
    readings.read_teachers: TeachersReading((), "pip install"),
    readings.read_hub: HubReading(0.2),
}
ONE_GPU = GpuReading((Gpu("Example H100", 80 * GB, 79 * GB, (9, 0)),), 1, "12.8", None, "", "570.1", True)
NAMES = {
    *("packages", "CPU", "memory", "GPU", "training", "torch.compile", "ONNX Runtime", "TensorRT"),
    *("run folder", "cache", "shared memory", "Ray"),
    *("built-in teachers", "model hub"),
}


def examined(folder: Path, **answers: Any) -> tuple[dict[str, Finding], list[tuple[Any, ...]]]:
    """Return the findings by name, and the readings that were isolated: function and arguments."""
    asked: list[tuple[Any, ...]] = []

    def isolate(function: Callable[..., Any], *arguments: Any, limit_s: float) -> Any:
        asked.append((function.__name__, *arguments))
        answer = answers.get(function.__name__, HEALTHY[function])
        if isinstance(answer, Exception):
            raise answer
        return answer

    found = Examination(folder / "runs", folder / "cache", isolate, isolate).findings()
    return {finding.name: finding for finding in found}, asked


def test_a_machine_without_a_gpu(tmp_path: Path) -> None:
    found, asked = examined(tmp_path)
    assert set(found) == NAMES
    assert FAIL not in {finding.verdict for finding in found.values()}
    assert ("read_runtime", "onnxruntime", "cpu", "fp32") in asked
    assert not any("tensorrt" in call for call in asked)
    assert not any(tmp_path.iterdir())


def test_a_machine_with_a_gpu_is_asked_for_what_a_search_would_do_there(tmp_path: Path) -> None:
    found, asked = examined(tmp_path, read_gpu=ONE_GPU)
    assert set(found) == NAMES | {"driver"}
    assert found["GPU"].verdict == found["driver"].verdict == OK
    assert ("read_precision", "cuda") in asked
    assert [call[1:] for call in asked if call[0] == "read_runtime"] == [
        ("compiled", "cuda", "bf16"),
        ("onnxruntime", "cuda", "fp16"),
        ("tensorrt", "cuda", "fp16"),
    ]


def test_a_reading_that_hangs_or_crashes_is_a_finding(tmp_path: Path) -> None:
    hang = MeasurementError("hang", "no result after 60 s")
    found, _ = examined(tmp_path, **dict.fromkeys([function.__name__ for function in HEALTHY], hang))
    assert set(found) == NAMES
    assert {name for name, finding in found.items() if finding.verdict == FAIL} == {
        *("CPU", "training", "built-in teachers", "Ray"),
    }
    assert found["torch.compile"].verdict == found["model hub"].verdict == WARN


def test_the_default_runtime_of_a_gpu_has_to_work(tmp_path: Path) -> None:
    crash = MeasurementError("crash", "the process was ended by SIGSEGV")
    on_gpu, _ = examined(tmp_path, read_gpu=ONE_GPU, read_runtime=crash)
    on_cpu, _ = examined(tmp_path, read_runtime=crash)
    assert (on_gpu["torch.compile"].verdict, on_gpu["TensorRT"].verdict) == (FAIL, WARN)
    assert on_cpu["torch.compile"].verdict == WARN


def test_the_cache_of_a_default_search_is_that_of_a_plan() -> None:
    config = SearchConfig()
    material = material_counted(config, {}, device=None)
    counted = images_bytes(config) + sum(teacher.kept_bytes for teacher in material.teachers)
    assert CACHE_BYTES / 3 < counted < CACHE_BYTES


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.machine
def test_this_machine_can_run_a_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "--run", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["can_search"] is True
    assert {finding["name"] for finding in printed["findings"]} >= NAMES
    verdicts = {finding["name"]: finding["verdict"] for finding in printed["findings"]}
    assert verdicts["torch.compile"] == verdicts["training"] == verdicts["Ray"] == OK


# The whole command; what it looks at is known


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """Findings in place of this machine's; a test may change the list."""
    found = [Finding("CPU", OK, "a CPU"), Finding("model hub", WARN, "silent", "no teachers", "files")]
    monkeypatch.setattr(examination.Examination, "findings", lambda self: iter(found))
    monkeypatch.setattr("nas.doctor.command.ForkServer", lambda *_: nullcontext(SimpleNamespace(run=None)))
    return found


def test_lines_and_exit_codes(findings: list[Finding], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ok", "CPU:", "a", "CPU"]
    assert [line.strip() for line in lines[2:4]] == ["what it means: no teachers", "what to do: files"]
    findings.append(Finding("Ray", FAIL, "no space", "no search", "a larger disk"))
    assert main([]) == 1
    assert "Ray" in capsys.readouterr().out.splitlines()[-1]
    assert main(["--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert (printed["can_search"], len(printed["findings"])) == (False, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--archs", "eradio_pico"], "--archs: goes with --gpu only"),
        (["--gpu", "--device", "cpu", "--archs", "eradio_picco"], "eradio_pico"),
        (["--gpu", "--device", "cpu", "--runtimes", "fast"], "--runtimes"),
        (["--gpu", "--device", "cpu", "--measure-seconds", "nan"], "--measure-seconds"),
        (["--gpu", "--device", "cuda:99"], "cuda:99"),
        pytest.param(
            ["--gpu"],
            "--device cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_wrong_use_is_one_line(
    words: list[str], message: str, findings: list[Finding], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


# --gpu


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> type[InProcess]:
    """A service that measures in this process, and lists what it measured."""

    class Listing(InProcess):
        measured: list[str] = []  # noqa: RUF012

        def measure(self, candidate: Any, *rest: Any, **options: Any) -> Any:
            self.measured.append(candidate)
            return super().measure(candidate, *rest, **options)

    monkeypatch.setattr("nas.doctor.gpu_session.MeasurementService", Listing)
    return Listing


def words(out: Path, archs: str) -> list[str]:
    small = ["--batch-size", "2", "--img-size", "64", "--runtimes", "eager", "--measure-seconds", "0.1"]
    return ["--gpu", "--device", "cpu", *small, "--archs", archs, "--out", str(out)]


def test_measurements_are_kept_and_continued(
    findings: list[Finding], service: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    findings[0] = Finding("cache", OK, f"{tmp_path}/deep/cache: 5 GB free, by {getpass.getuser()} on {platform.node()}")
    assert main(words(out, "eradio_femto")) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["arch"], row["batch_size"], row["img_size"]) == ("eradio_femto", 2, 64)
    assert row["measurement"]["throughput_img_s"] > 0
    assert row["measurement"]["reference"] == "timm:resnet50"
    assert len(row["samples"]["latencies_s"]) >= 3
    shown = capsys.readouterr()
    assert "eradio_femto" in shown.out
    assert "ETA" in shown.err

    # A file that is none of this command's is left alone.
    report = json.loads(out.read_text())
    report["machine"]["packages"]["torch"] = "1.0"
    for text in (json.dumps(report), "[]", "nonsense", '{"format": 1, "machine": 3, "tests": 1, "rows": []}'):
        (other := tmp_path / "other.json").write_text(text)
        assert main(words(other, "eradio_femto")) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert other.read_text() == text

    # The same command measures nothing; another network and one that fails are added, and a failure is tried again.
    assert main(words(out, "eradio_femto")) == 0
    assert service.measured == ["eradio_femto"]
    for _ in range(2):
        assert main(words(out, "eradio_femto,timm:levit_128s")) == 1  # for 224 px only
    assert service.measured == ["eradio_femto", "timm:levit_128s", "timm:levit_128s"]
    report = json.loads(out.read_text())
    assert [("measurement" in row, "reason" in row) for row in report["rows"]] == [(True, False), (False, True)]
    assert "GPU" in report["tests"]["reason"]
    assert report["machine"]["environment"]["device"] == "cpu"
    assert "code" not in report["machine"]["environment"]  # a failure may be mended in the code before it is repeated
    assert report["machine"]["packages"]["torch"] == version("torch")
    text = out.read_text()
    for private in (str(tmp_path), str(Path.home()) + "/", tmp_path.name):
        assert private not in text
    assert report["findings"][0]["value"] == ".../cache: 5 GB free, by USER on HOST"


def test_a_spec_s_file_is_named_without_its_folders(
    findings: list[Finding], service: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two files of one name are two networks, and the same command continues."""
    out, archs = tmp_path / "results.json", []
    for name in ("eradio_femto", "eradio_pico"):
        (tmp_path / name).mkdir()
        archs.append(str(tmp_path / name / "mine.json"))
        Path(archs[-1]).write_text(preset(name).to_json())
    for _ in range(2):
        assert main(words(out, ",".join(archs))) == 0
    assert service.measured == archs
    rows = json.loads(out.read_text())["rows"]
    assert [(row["arch"], row["arch_id"]) for row in rows] == [
        ("mine.json", preset(name).arch_id) for name in ("eradio_femto", "eradio_pico")
    ]
    assert tmp_path.name not in out.read_text()
    assert "mine.json" in capsys.readouterr().out


def test_failed_tests_are_in_the_file_and_in_the_exit_code(
    findings: list[Finding], service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [CaseResult("a::b", "failed", 1.0, f"wrong in {tmp_path}/x.py"), CaseResult("a::c", "passed", 2.0)]
    monkeypatch.setattr(gpu_session, "run_gpu_tests", lambda progress: results)
    tests = gpu_session.tested("cuda:0")
    assert (tests["failed"], tests["passed"]) == (1, 1)
    assert tests["cases"][0]["reason"] == "wrong in .../x.py"

    session = gpu_session.GpuSession(BenchmarkSettings("cpu", (), ()), "cpu", tmp_path / "out.json")
    monkeypatch.setattr(gpu_session, "tested", lambda device: tests)
    assert not session.run([], None)
    assert json.loads(session.path.read_text())["tests"] == tests
    tests = tests | {"failed": 0}
    assert session.run([], None), "failed tests are tried again"
    assert json.loads(session.path.read_text())["tests"] == tests
    monkeypatch.setattr(gpu_session, "tested", None)
    assert session.run([], None), "tests that passed are not"


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("/home/ann/.cache/nas: 5 GB", ".../nas: 5 GB"),
        ("cannot open '/tmp/x y.py'", "cannot open '.../x y.py'"),
        ('File "/a/b/c.py", line 3\n  in d', 'File ".../c.py", line 3 in d'),
        ("https://huggingface.co/a/b answers in 3 images/s", "https://huggingface.co/a/b answers in 3 images/s"),
        ("~/runs/a and runs/b", ".../a and runs/b"),
    ],
)
def test_lines_for_others_name_no_folder(text: str, public: str) -> None:
    assert public_line(text) == public


def test_lines_for_others_name_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.doctor.gpu_report._NAMES", (("HOST", lambda: "node-1"), ("USER", lambda: "ann")))
    assert public_line("ann at node-1, node-12 and annex") == "USER at HOST, node-12 and annex"
