"""The proposer of trials in a space that is nearly exhausted."""

from __future__ import annotations

import random

from nas.backend.simulated_study import MemoryStore, NumberedArchitecture, NumberedSpace
from nas.study.proposer import TrialProposer
from nas.study.records import TrialState
from tests.nas.study.builders import search_config, study_info


class Pair(NumberedSpace):
    """A space in which mutations of 0 and 1 lead from one to the other, and to no third."""

    def mutate(self, spec: NumberedArchitecture, rng: random.Random) -> NumberedArchitecture:
        return NumberedArchitecture(1 - spec.number)


def test_an_architecture_that_no_mutation_leads_to_is_found() -> None:
    store = MemoryStore(study_info(search_config()), lambda number: {"number": number % 2})
    proposed, reason = TrialProposer(store, Pair(3), {}).new({"0", "1"}, 0.0)
    assert reason is None
    assert [trial.state for trial in proposed] == [TrialState.DUPLICATE] * (len(proposed) - 1) + [TrialState.RUNNING]
    assert proposed[-1].arch_id == "2"
