"""``python -m nas.export``: a trained model of a study as a folder that others can use without the study."""

from __future__ import annotations


class ExportError(ValueError):
    """What cannot be exported; one line that says what to do."""
