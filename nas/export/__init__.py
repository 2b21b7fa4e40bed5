"""``backbone-nas export``: write a trained model of a study as a folder that works without the study."""

from __future__ import annotations

from nas.cli import OperationFailed


class ExportError(ValueError):
    """The model cannot be exported; the message is one line that says what to do."""


class ExportFailed(ExportError, OperationFailed):
    """A training failed, or a written folder does not compute the model: another input would not have avoided it."""
