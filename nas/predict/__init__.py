"""Predicted latency, to shortlist candidates before any is timed."""

from nas.predict.held_out import HeldOut, held_out
from nas.predict.observation import Observation, Prediction
from nas.predict.predictor import LatencyPredictor

__all__ = ["HeldOut", "LatencyPredictor", "Observation", "Prediction", "held_out"]
