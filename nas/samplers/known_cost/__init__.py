"""Samplers for Optuna that know a candidate's cost before it runs. The package is independent of neural networks."""

from nas.samplers.known_cost.history import TrialValues
from nas.samplers.known_cost.sampler import KnownCostSampler, Outlook

__all__ = ["KnownCostSampler", "Outlook", "TrialValues"]
