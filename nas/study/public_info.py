"""A study's description as reports show it."""

from __future__ import annotations

from dataclasses import replace

from nas.redaction import card_name, public_text
from nas.study.records import StudyInfo


def public_info(info: StudyInfo) -> StudyInfo:
    """Remove secrets and the folders of images from a study's description, for reports; the study keeps them."""
    config, data = dict(info.config), dict(info.data)
    if isinstance(config.get("data"), str):
        config["data"] = card_name(config["data"])
    data = {key: card_name(value) if isinstance(value, str) else value for key, value in data.items()}
    return replace(info, command=public_text(info.command), config=config, data=data)
