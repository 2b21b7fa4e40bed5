"""Samplers for Optuna that know a candidate's cost before it runs. Nothing here knows of networks."""

from nas.sampling.known_cost import KnownCostSampler
from nas.sampling.past import Observed

__all__ = ["KnownCostSampler", "Observed"]
