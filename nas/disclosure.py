"""What a study may tell others of how it was made: its command and images without the secrets of their URLs."""

from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import urlsplit

from nas.records import StudyInfo

_URL = re.compile(r"https?://(?:(?!::)[^\s'\"])+")


def public_url(url: str) -> str:
    """Without user, password and query, which may hold a signature."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def public_text(text: str) -> str:
    """The text with every http(s) URL in it as `public_url`."""
    return _URL.sub(lambda found: public_url(found[0]), text)


def disclosed(info: StudyInfo) -> StudyInfo:
    """For reports and cards. The study itself keeps what it needs to go on."""
    config, data = dict(info.config), dict(info.data)
    if isinstance(config.get("data"), str):
        config["data"] = public_text(config["data"])
    data = {key: public_text(value) if isinstance(value, str) else value for key, value in data.items()}
    return replace(info, command=public_text(info.command), config=config, data=data)
