"""Every flag of ``nas.search`` has an effect, or is refused in one line."""

from __future__ import annotations

import pytest

from nas.search.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--resume . --run OTHER", "error: --run: "),
        ("--extend 5", "error: --extend: "),
        ("--workers 0", "error: --workers: 0: "),
        ("--trial-timeout 0", "error: --trial-timeout: 0.0: "),
        ("--max-hours 0", "error: --max-hours: 0.0: "),
        ("--pla", "error: unrecognized arguments: --pla; did you mean --plan?"),
        ("--json", "error: unrecognized arguments: --json"),  # of --plan
        ("--gpus 4", "error: unrecognized arguments: --gpus 4"),
        ("--plan --extend 5 --storage postgresql://u:s3cret@h/n", "error: unrecognized arguments: --extend 5"),
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
