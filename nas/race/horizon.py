"""What a long training adds to a score: the model that chooses the candidates of a race."""

from __future__ import annotations

from nas.study.race import HorizonModel, Traits
from nas.study.records import TrialRecord
from search_space import BLOCK_FIELDS
from search_space.spaces import CONV_BLOCKS, ZOO_CONV_BLOCKS

ATTENTION = tuple(block for block in BLOCK_FIELDS if block not in (*CONV_BLOCKS, *ZOO_CONV_BLOCKS))
TIMM_BLOCKS = 8  # a network of timm does not say how many it has: as many as a preset

# From 30,000 images and 270 to 2,700 steps of the space laptop (python -m experiments.horizon_table --report).
LAPTOP = HorizonModel(
    gain=0.0, per_score=0.0, per_block=0.008, per_attention=0.004, per_doubling=0.0,
    network_sd=0.012, study_sd=0.15, seed_sd=0.003,
)  # fmt: skip


def traits(trial: TrialRecord) -> Traits:
    """Return what predicts a trial's gain beside its score."""
    stages = trial.spec.get("stages", ())
    attending = sum(stage["depth"] for stage in stages if stage["block"] in ATTENTION)
    blocks = sum(stage["depth"] for stage in stages) or TIMM_BLOCKS
    return Traits(blocks, attending, max(1, trial.params or 1))
