"""Scores and pictures of a student, and the reference scores to compare them with."""
