"""Every flag of ``nas.search`` has an effect, or is refused in one line."""

from __future__ import annotations

import pytest

from nas.search.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--resume . --run OTHER", "error: --run: "),
        ("--extend 5", "error: --extend: "),
        ("--seed -1", "error: --seed: -1: "),
        ("--workers 1000000000", "error: --workers: 1000000000: "),
        ("--run=", "error: --run: ''"),
        ("--distill learning_rate=Infinity", "error: --distill: learning_rate: inf: "),
        (
            "--distill learning_rat=1",
            "error: --distill: 'learning_rat': no such setting; did you mean learning_rate",
        ),
        (
            "--distill batch_size=16 --batch-size 32",
            "error: --batch-size: 32: conflicts with --distill batch_size=16; give one of them",
        ),
        ("--choices widths=16", "error: --choices: 'widths=16': must be PART.FIELD=A,B, as stage1.widths=16,32"),
        ("--objectives=", "error: --objectives: '': must not be empty"),
        ("--baselines eradio_pico,eradio_pico", "error: --baselines: eradio_pico is named twice"),
        (
            "--device cpu --runtime onnxruntime --objectives score,memory",
            "error: --objectives: memory: peak memory is unknown on cpu with the runtime onnxruntime: choose",
        ),
        ("--address x", "error: --address: 'x': must be auto or HOST:PORT"),
        ("--device cpu --runtime tensorrt", "error: runtime: tensorrt runs on CUDA only"),
        ("--pla", "error: unrecognized arguments: --pla; did you mean --plan?"),
        ("--plan --extend 5 --storage postgresql://u:s3cret@h/n", "error: --plan --extend: --plan is for a new search"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(
    arguments: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(arguments.split())
    except SystemExit as ended:  # what the parser itself refuses
        code = ended.code
    assert code == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert shown.startswith(line)
