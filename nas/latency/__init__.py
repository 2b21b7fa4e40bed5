"""Predicted latency, to shortlist candidates before any is timed."""

from nas.latency.held_out import HeldOut, held_out
from nas.latency.model import Model
from nas.latency.observation import Observation, Prediction
from nas.latency.predictor import MOST, LatencyPredictor

__all__ = ["MOST", "HeldOut", "LatencyPredictor", "Model", "Observation", "Prediction", "held_out"]
