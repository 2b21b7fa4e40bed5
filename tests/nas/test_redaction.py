"""What reports and cards tell of a study holds no secret of a URL."""

from __future__ import annotations

from dataclasses import replace

from nas.disclosure import disclosed, public_text
from tests.nas.study_builders import search_config, study_info

URI = "webdataset:https://me:pw@host/a-{0..9}.tar?X-Sig=secret::https://host/val.tar?token=t#ignore=255"


def test_urls_in_any_text_lose_user_password_and_query() -> None:
    assert public_text(URI) == "webdataset:https://host/a-{0..9}.tar::https://host/val.tar#ignore=255"
    assert (
        public_text("x --data 'webdataset:https://h/a.tar?s=1' --seed 1")
        == "x --data 'webdataset:https://h/a.tar' --seed 1"
    )
    assert public_text("imagefolder:/a/b?c@d") == "imagefolder:/a/b?c@d"


def test_a_study_tells_nothing_of_them() -> None:
    info = study_info(search_config(data=URI))
    told = disclosed(
        replace(info, command=f"python -m nas.search --data {URI}", data={"name": URI, "fingerprint": "f"})
    )
    assert "secret" not in str(told)
    assert "pw" not in str(told)
    assert told.config["seed"] == info.config["seed"]
