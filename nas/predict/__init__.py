"""Predicted latency, to shortlist candidates before any is timed."""

from nas.predict.held_out import HeldOut, held_out
from nas.predict.model import Model
from nas.predict.observation import Observation, Prediction
from nas.predict.predictor import MOST, LatencyPredictor

__all__ = ["MOST", "HeldOut", "LatencyPredictor", "Model", "Observation", "Prediction", "held_out"]
