"""Scores of a student: explained variance, probes, zero-shot accuracy, pictures, and the reference scores beside them."""
