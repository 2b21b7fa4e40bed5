"""The parts of ``python -m nas.export``: a trained net of a study as a folder that others can use without the study."""
