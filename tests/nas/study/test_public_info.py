"""What reports show of a study's description holds no secret of a URL."""

from __future__ import annotations

import shlex
from dataclasses import replace

from nas.study.public_info import public_info
from tests.nas.study.builders import search_config, study_info

URI = "webdataset:https://me:pw@host/a-{0..9}.tar?X-Sig=secret::https://host/val.tar?token=t#ignore=255"


def test_a_study_tells_no_secret() -> None:
    info = study_info(search_config(data=URI))
    command = shlex.join(["python", "-m", "nas.search", "--data", URI])
    clean = public_info(replace(info, command=command, data={"name": URI, "fingerprint": "f"}))
    assert "secret" not in str(clean)
    assert "pw" not in str(clean)
    assert clean.config["seed"] == info.config["seed"]
    info = study_info(search_config(data="imagefolder:/home/me/photos"))
    clean = public_info(replace(info, data={"name": "imagefolder:/home/me/photos", "fingerprint": "f"}))
    assert (clean.config["data"], clean.data["name"]) == ("imagefolder:.../photos",) * 2
