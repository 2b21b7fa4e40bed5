import pytest

from backbones import resolve
from search_space import PRESETS, SpecError


def test_preset_and_spec_file_give_the_same_architecture(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(PRESETS["eradio_femto"].to_json())
    assert resolve("eradio_femto")[1].spec == resolve(str(path))[1].spec
    assert (resolve("eradio_femto")[0], resolve(str(path))[0]) == ("eradio_femto", "mine")


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "JSON"), ('{"stages": []}', "stages"), (b"\xff\xfe\xfa", "not text"), (None, "No such file")],
)
def test_bad_spec_files_are_named(tmp_path, text, words):
    path = tmp_path / "bad.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpecError, match=words) as error:
        resolve(str(path))
    assert "bad.json" in str(error.value)


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("eradio_q", r"'eradio_q'.*eradio_b.*timm:NAME"),
        ("timm:resnet19", r"'resnet19'.*resnet18"),
        ("timm:resnet18.x", "tag"),
    ],
)
def test_unknown_names_list_the_choices(arch, words):
    with pytest.raises(SpecError, match=words):
        resolve(arch)
