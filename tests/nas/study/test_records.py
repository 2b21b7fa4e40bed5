"""Records of trials."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from nas.study.records import TrialRecord, TrialState
from tests.nas.study.builders import record

SAMPLED = record(7, (0.1, 0.3), 2.0)
BASELINE = replace(SAMPLED, baseline="eradio_pico")


@pytest.mark.parametrize("trial", [SAMPLED, BASELINE])
def test_json_round_trip(trial: TrialRecord) -> None:
    assert TrialRecord.from_dict(json.loads(json.dumps(trial.to_dict()))) == trial


def test_only_a_complete_trial_has_a_final_score() -> None:
    assert SAMPLED.final_score == 0.3
    assert math.isnan(replace(SAMPLED, state=TrialState.STOPPED).final_score)
    assert math.isnan(replace(SAMPLED, rungs=()).final_score)
