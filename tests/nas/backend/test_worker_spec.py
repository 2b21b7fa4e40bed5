"""What a trial takes of a node, and how many trials a node has room for."""

from __future__ import annotations

import json

import pytest

from nas.backend.worker_spec import WorkerSpec
from nas.study.config import DistillConfig
from tests.nas.study.builders import search_config


def spec_of(gpus: float, ranks: int = 1) -> WorkerSpec:
    config = search_config(device="cuda" if gpus else "cpu", distill=DistillConfig(ranks=ranks))
    return WorkerSpec(json.dumps(config.to_dict()), *("",) * 5, train_threads=1, measure_threads=1, gpus=gpus)


def test_a_trial_of_one_rank_trains_where_it_measures() -> None:
    assert spec_of(0.0).trial_resources == {"CPU": 1, "GPU": 0.0}
    assert spec_of(1.0).trial_resources == {"CPU": 1, "GPU": 1.0}


def test_a_trial_of_several_ranks_has_the_processors_of_all_its_processes() -> None:
    assert spec_of(1.0, ranks=2).trial_resources == {"CPU": 3, "GPU": 2.0}
    assert spec_of(0.0, ranks=2).trial_resources == {"CPU": 3, "GPU": 0.0}


@pytest.mark.parametrize(
    ("gpus", "ranks", "node", "trials"),
    [
        (1.0, 1, {"CPU": 8, "GPU": 4}, 4),
        (1.0, 1, {"CPU": 2, "GPU": 4}, 2),
        (1.0, 2, {"CPU": 64, "GPU": 3}, 1),
        (1.0, 2, {"CPU": 5, "GPU": 4}, 1),
        (1.0, 1, {"CPU": 64}, 0),
        (0.0, 1, {"CPU": 5, "GPU": 1}, 5),
        (0.0, 2, {"CPU": 8}, 2),  # a CPU for each rank and one for the process that measures
        (0.0, 1, {}, 0),
    ],
)
def test_a_node_runs_as_many_trials_as_have_their_processors(
    gpus: float, ranks: int, node: dict[str, float], trials: int
) -> None:
    assert spec_of(gpus, ranks).capacity_of(node) == trials
