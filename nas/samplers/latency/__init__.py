"""Predict latency, to choose the candidates that are worth timing before any is timed."""

from nas.samplers.latency.predictor import (
    MAX_MODELS,
    MIN_MODELS,
    LatencyModel,
    LatencyPredictor,
    Observation,
    Prediction,
)

__all__ = [
    "MAX_MODELS",
    "MIN_MODELS",
    "LatencyModel",
    "LatencyPredictor",
    "Observation",
    "Prediction",
]
