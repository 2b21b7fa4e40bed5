"""Bad input is refused before torch is imported, which takes seconds of processor time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.nas.analysis.builders import new_store, small_study

COMMAND_LINES = (
    *("search --teachers nonsense", "search --data nonsense", "search --data imagefolder:no/such"),
    *("search --device nonsense", "search --device cuda:7", "search --sampler tpe --runtime nonsense"),
    *("search --reference timm:nonsense", "search --baselines timm:nonsense", "search --scale timm:resnet18.zzz"),
    *("search --reference nonsense", "search --baselines no/such.json", "search --teacher-weights a=b"),
    *("search --device cpu --runtime tensorrt", "search --config bad.toml", "search --device cpu --max-peak-memory 1"),
    *("search --max-params 1", "search --max-gmacs 1e-9 --space full"),
    *("plan --teachers nonsense", "plan --data nonsense", "plan --device nonsense", "plan --teacher-weights a=b"),
    *("plan --pilot --teachers nonsense", "plan --pilot --gpus 8", "plan --pilot --max-params 1"),
    *("plan --budget 100000", "plan --assume-tflops 300 --teachers nonsense", "plan --mfu 0.3"),
    *("profile --arch nonsense", "profile --arch timm:nonsense", "profile --arch no/such.json"),
    *("profile --arch eradio_femto --device nonsense", "profile --arch eradio_femto --runtime nonsense"),
    *("profile --arch eradio_femto --runtimes a,b", "profile --arch eradio_femto --runtimes eager,eager+fp32"),
    *("profile --arch eradio_femto --device cpu --runtime tensorrt", "profile --arch eradio_femto --reference x"),
    *("profile --space micro --max-latency-ms 3", "profile --space micro --reference timm:nonsense"),
    *("cache build --teachers nonsense", "cache build --data nonsense", "cache build --teacher-weights a=b"),
    *("doctor --gpu --device nonsense", "doctor --gpu --device cpu --archs timm:nonsense,eradio_pico"),
    *("retrain RUN", "retrain RUN --device nonsense", "remeasure RUN", "remeasure RUN --device nonsense"),
    *("remeasure RUN --runtime nonsense", "export RUN --format onnx", "export RUN --format timm --trials 3"),
    *(
        "race RUN",
        "race RUN --workers 0",
        "search --target x",
        "search --race-by depth",
        "search --race-by knn --target 0.7",
        "search --race-by knn --max-params 1e6",
        "search --race-steps 9",
        "search --no-race --target 1.0",
    ),
    *("select RUN", "report RUN", "replay nasbench201 --latency nonsense"),
)
ANSWER = "select STUDY"  # is no refusal, and as quick
# Runs the command lines in one process, and prints each one's exit code and the slow imports so far.
PROGRAM = """
import json, sys
from nas.__main__ import main
for line in json.loads(sys.argv[1]):
    try:
        code = main(line.split())
    except SystemExit as ended:
        code = ended.code
    print(json.dumps([line, code, [name for name in ("torch", "timm", "torchvision") if name in sys.modules]]))
"""


def test_refusals_import_no_torch(tmp_path: Path) -> None:
    (tmp_path / "RUN").mkdir()
    new_store(tmp_path / "STUDY", small_study())
    (tmp_path / "bad.toml").write_text("[distill]\ngroups = [{ teachers = 1979-05-27 }]")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([*COMMAND_LINES, ANSWER])],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    ends = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
    assert [line for line, _, _ in ends] == [*COMMAND_LINES, ANSWER], done.stderr
    assert [end[0] for end in ends if end[1] != 2] == [ANSWER], done.stderr
    assert done.stderr.count("\n") == len(COMMAND_LINES), "one line each"
    slow = next((line for line, _, imported in ends if imported), None)
    assert slow is None
