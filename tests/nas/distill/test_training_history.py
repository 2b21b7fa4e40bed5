"""The history of a training: its table and TensorBoard's event files, also of a resumed training."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from backbones import build
from nas.distill.trainer import Distiller
from nas.distill.training_history import History
from nas.study.config import DistillConfig
from nas.study.training_files import EVENTS, LOSS, NORM, RATE, SPEED, STEP, TABLE, WAITING, read_history
from search_space import preset
from tests.nas.distill.targets_builder import targets
from tests.nas.study.builders import rung

CONFIG = DistillConfig(
    img_size=32, batch_size=16, warmup_steps=2, precision="fp32", rung_steps=(60,), schedule="cosine", max_grad_norm=0.5
)


def distiller(folder: Path, config: DistillConfig = CONFIG) -> Distiller:
    torch.manual_seed(0)
    return Distiller(build(preset("eradio_femto")), targets(folder), config, seed=0)


def train(run: Distiller, history: History, steps: int) -> None:
    run.train_until(steps, lambda: history.add_steps(run))


def events(folder: Path) -> list[Event]:
    """Return what TensorBoard reads, of all files in the order of their names."""
    found = []
    for path in sorted(folder.glob("events.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            assert int.from_bytes(data[at + 8 : at + 12], "little") == masked_crc32c(data[at : at + 8])
            found.append(Event.FromString(data[at + 12 : at + 12 + size]))
            at += 12 + size + 4
    return found


def scalars(folder: Path, name: str) -> dict[int, float]:
    return {e.step: v.simple_value for e in events(folder) for v in e.summary.value if v.tag == name}


def test_a_line_has_the_means_of_its_steps(tmp_path: Path) -> None:
    run = distiller(tmp_path)
    history = History(tmp_path / "run", run)
    train(run, history, 22)
    history.add_result(replace(rung(0, 0.25), steps=20, metrics={"knn": 0.5}), run)
    history.close()
    run.close()
    table = read_history(tmp_path / "run")
    assert list(table) == [STEP, RATE, "loss/colour/summary", "loss/colour/spatial", NORM, SPEED, WAITING]
    assert table[STEP] == [10, 20]
    for line, steps in enumerate((slice(0, 10), slice(10, 20))):
        mean = np.mean([losses["colour/spatial"] for losses in run.losses[steps]])
        assert table["loss/colour/spatial"][line] == pytest.approx(mean, rel=1e-5)
        assert table[NORM][line] == pytest.approx(np.mean(run.grad_norms[steps]), rel=1e-5)
        assert table[RATE][line] == pytest.approx(CONFIG.learning_rate_at(steps.stop - 1), rel=1e-5)
        assert table[SPEED][line] > 0
        assert 0 <= table[WAITING][line] < 1
    kept = scalars(tmp_path / "run" / EVENTS, "loss/colour/spatial")
    assert kept == pytest.approx(dict(zip((10, 20), table["loss/colour/spatial"], strict=True)), rel=1e-4)
    assert scalars(tmp_path / "run" / EVENTS, "score") == {20: 0.25}
    assert scalars(tmp_path / "run" / EVENTS, "probes/knn") == {20: 0.5}


def test_many_steps_at_once_have_the_lines_of_few(tmp_path: Path) -> None:
    run = distiller(tmp_path)
    few, many = (History(tmp_path / name, run) for name in ("few", "many"))
    train(run, few, 24)
    many.add_steps(run)
    for history in (few, many):
        history.close()
    one, two = (read_history(tmp_path / name) for name in ("few", "many"))
    assert one.pop(STEP) == two.pop(STEP) == [10, 20]
    assert len(set(two.pop(SPEED))) == len(set(two.pop(WAITING))) == 1
    assert two == {name: one[name] for name in two}
    assert {f"{LOSS}colour/spatial", RATE, NORM} <= two.keys()


def test_a_resumed_training_has_the_history_of_one_without_a_break(tmp_path: Path) -> None:
    whole = distiller(tmp_path)
    history = History(tmp_path / "whole", whole)
    train(whole, history, 20)
    history.close()

    broken = distiller(tmp_path)
    history = History(tmp_path / "broken", broken)
    train(broken, history, 12)
    state = copy.deepcopy(broken.state_dict())
    train(broken, history, 20)  # what was trained after the checkpoint is trained again
    history.close()
    again = distiller(tmp_path)
    again.load_state_dict(state)
    history = History(tmp_path / "broken", again)
    assert read_history(tmp_path / "broken")[STEP] == [10]
    train(again, history, 20)
    history.close()
    for run in (whole, broken, again):
        run.close()
    one, two = (read_history(tmp_path / name) for name in ("whole", "broken"))
    timed = (SPEED, WAITING)
    assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in two.items() if k not in timed}
    starts = [e.step for e in events(tmp_path / "broken" / EVENTS) if e.HasField("session_log")]
    assert starts == [1, 13], "TensorBoard is told to drop what was trained twice"


def test_the_share_of_waiting_is_that_of_the_time_since_the_last_line(tmp_path: Path) -> None:
    run = distiller(tmp_path)
    history = History(tmp_path / "run", run)
    run.train_until(10)
    history._began -= 60.0  # as if these steps had taken a minute longer, half of it waiting
    run._loader.waiting_s += 30.0
    history.add_steps(run)
    history.close()
    run.close()
    assert read_history(tmp_path / "run")[WAITING] == [pytest.approx(0.5, abs=0.1)]


@pytest.mark.parametrize("torn", ["30,0.1", "\x00\x00\x00"])
def test_a_line_that_a_power_cut_has_torn_is_left_out(torn: str, tmp_path: Path) -> None:
    run = distiller(tmp_path)
    run.step = 40
    whole = (
        ",".join([STEP, RATE, "loss/colour/summary", "loss/colour/spatial", NORM, SPEED, WAITING])
        + "\n10,1,2,3,4,5,6\n"
    )
    (tmp_path / TABLE).write_text(whole + torn)
    History(tmp_path, run).close()
    run.close()
    assert (tmp_path / TABLE).read_text() == whole


def test_a_table_of_other_teachers_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / TABLE).write_text("step,learning_rate,loss/other/spatial\n10,0.1,0.2\n")
    run = distiller(tmp_path)
    History(tmp_path, run).close()
    run.close()
    assert read_history(tmp_path) == {}
    assert read_history(tmp_path / "nowhere") == {}
