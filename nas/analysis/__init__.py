"""Analyze a study without side effects: fronts under noise, retrainings, remeasurements, answers to limits.

Commands and reports use it; it imports no torch, no ray and no optuna.
"""
