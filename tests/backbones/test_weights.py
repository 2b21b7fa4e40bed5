import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from backbones import WeightsError, build, fuse, load, save
from search_space import PRESETS

FEMTO = PRESETS["eradio_femto"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build(FEMTO)
    model.reset_classifier(3)
    model(torch.randn(4, 3, 32, 32))
    return model.eval()


@pytest.fixture
def path(model, tmp_path):
    save(model, tmp_path / "femto.safetensors")
    return tmp_path / "femto.safetensors"


def rewrite(path, change_state=None, change_metadata=None):
    with safe_open(path, framework="pt") as file:
        metadata, state = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    (change_state or dict)(state)
    (change_metadata or dict)(metadata)
    save_file(state, path, metadata or None)


def test_round_trip(model, path):
    loaded, x = load(path).eval(), torch.randn(2, 3, 64, 32)
    assert loaded.spec == FEMTO
    assert torch.equal(loaded(x), model(x))
    assert all(torch.equal(a, b) for a, b in zip(loaded.encode(x), model.encode(x), strict=True))


def test_another_architecture_is_refused(path):
    assert load(path, FEMTO).spec == FEMTO
    with pytest.raises(WeightsError, match=PRESETS["eradio_pico"].arch_id):
        load(path, PRESETS["eradio_pico"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("norm.weight"), r"'norm\.weight' is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "'extra' is not part"),
        (lambda s: s.update({"norm.bias": torch.zeros(5)}), r"'norm\.bias' has shape \(5,\), not \(128,\)"),
        (lambda s: s["norm.bias"].add_(1), "checksum"),
    ],
)
def test_altered_tensors_are_refused_by_name(path, change, words):
    rewrite(path, change_state=change)
    with pytest.raises(WeightsError, match=words):
        load(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.clear(), "no spec"),
        (lambda m: m.update(format="x"), "format 'x'"),
        (lambda m: m.update(spec="{}"), "stages"),
        (lambda m: m.update(spec=PRESETS["eradio_pico"].to_json()), "has shape"),
        (lambda m: m.update(num_classes="many"), "not valid"),
    ],
)
def test_altered_metadata_is_refused(path, change, words):
    rewrite(path, change_metadata=change)
    with pytest.raises(WeightsError, match=words):
        load(path)


def test_truncated_missing_and_pickled_files_are_refused_by_name(path, tmp_path):
    path.write_bytes(path.read_bytes()[:-100])
    torch.save({"a": 1}, tmp_path / "pickle.safetensors")
    for bad in (path, tmp_path / "pickle.safetensors", tmp_path / "none.safetensors"):
        with pytest.raises(WeightsError, match=bad.name):
            load(bad)


def test_a_fused_model_is_not_saved(model, tmp_path):
    with pytest.raises(WeightsError, match="fused"):
        save(fuse(model), tmp_path / "fused.safetensors")
