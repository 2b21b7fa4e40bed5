import pytest
import torch

from backbones import fuse, resolve
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


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_timm_networks_give_what_they_declare(name):
    with torch.device("meta"):
        model = resolve(f"timm:{name}")[1].eval()
    features = model.encode(torch.empty(2, 3, 224, 224, device="meta"))
    side = 224 // model.spatial_stride
    assert features.summary.shape == (2, model.summary_dim)
    assert features.spatial.shape == (2, model.spatial_dim, side, side)
    assert (model.widths[-1], model.strides[-1]) == (model.spatial_dim, model.spatial_stride)


def test_a_timm_vit_takes_other_sizes():
    model = resolve("timm:vit_tiny_patch16_224")[1].eval()
    with torch.no_grad():
        assert model.encode(torch.zeros(1, 3, 64, 96)).spatial.shape == (1, 192, 4, 6)


@pytest.mark.parametrize(
    "name", ["resnet10t", "efficientnet_lite0", "regnety_002", "mobilenetv3_small_050", "repvit_m0_9"]
)
def test_fused_timm_networks_are_the_same_function_without_batch_norm(name):
    model = resolve(f"timm:{name}")[1].eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training: fresh statistics would fold to nothing
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    fused = fuse(model)
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        expected, found = model.encode(images), fused.encode(images)
    assert not [m for m in fused.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    torch.testing.assert_close(found.spatial, expected.spatial, rtol=0, atol=1e-4 * float(expected.spatial.abs().max()))
    assert [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)], "the original was changed"
