"""Zero-shot: timm's image tower and open_clip's text tower, from one file, agree with open_clip's own two towers."""

import builtins
import json
import logging
from importlib.util import find_spec

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import list_pretrained
from torch.nn import functional as F

from nas.teachers import TeacherError, load_teachers, text
from nas.teachers.text import TEXT_TOWERS, text_embeddings, zero_shot
from tests.nas.teachers import small_networks

open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is an optional extra")

OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NATIVE = {"image_size": 224, "layers": 2, "width": 48, "patch_size": 16, "head_width": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
SIGLIP = {
    "embed_dim": 48,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 224, "timm_model_name": "small_siglip", "timm_pool": "map", "timm_proj": "none"},
    "text_cfg": {**TEXT, "context_length": 64, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
}
MODELS = {  # small network -> (open_clip's config of the same class, normalization)
    "small_clip.laion2b": ({"embed_dim": 512, "vision_cfg": NATIVE, "text_cfg": TEXT}, OPENAI),
    "small_clip_quickgelu.openai": (
        {"embed_dim": 512, "quick_gelu": True, "vision_cfg": NATIVE, "text_cfg": TEXT},
        OPENAI,
    ),
    "small_siglip.v2_webli": (SIGLIP, HALVES),
}
CLASSES = ("cat", "espresso", "rocket", "tree frog", "zebra")


def model_of(network):
    """Not "siglip": open_clip fetches a tokenizer from the hub for models so called."""
    return network.partition(".")[0].replace("siglip", "sigmoid")


@pytest.fixture(scope="module", autouse=True)
def pairs(tmp_path_factory):
    """Network -> (open_clip's seeded model, its tokenizer, a file with both towers)."""
    small_networks.register()
    folder, made = tmp_path_factory.mktemp("open_clip"), {}
    for network, (config, _) in MODELS.items():
        (folder / f"{model_of(network)}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    logging.getLogger().setLevel(logging.WARNING)
    for network in MODELS:
        model_name = model_of(network)
        torch.manual_seed(5)
        model = open_clip.create_model(model_name).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "ln_" not in name and "norm" not in name:  # normed inputs to wide MLPs: the activation matters
                    parameter.normal_(std=0.3 if "mlp" in name else 0.1)
        path = folder / f"{model_name}.safetensors"
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
        made[network] = (model, open_clip.get_tokenizer(model_name), path)
        TEXT_TOWERS[network] = (model_name, "")
    yield made
    for network in MODELS:
        del TEXT_TOWERS[network]


@pytest.mark.parametrize("network", list(MODELS))
def test_both_towers_from_one_file_agree_with_open_clip(pairs, network):
    model, tokenize, path = pairs[network]
    mean, std = (torch.tensor(values)[:, None, None] for values in MODELS[network][1])
    images = torch.rand(6, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = load_teachers(network, {network: path})[0](images).summary
        theirs = model.encode_image((images - mean) / std)
        texts = text_embeddings(network, CLASSES, {network: path})
        sketched = [
            F.normalize(model.encode_text(tokenize([template.format(name) for name in CLASSES])), dim=-1)
            for template in text.TEMPLATES
        ]
    expected = F.normalize(sum(sketched), dim=-1)
    assert F.cosine_similarity(ours, theirs).min() > 1 - 1e-6
    torch.testing.assert_close(texts, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        F.normalize(ours, dim=-1) @ texts.T, F.normalize(theirs, dim=-1) @ expected.T, atol=1e-4, rtol=0
    )
    assert zero_shot(ours, texts).tolist() == (F.normalize(theirs, dim=-1) @ expected.T).argmax(1).tolist()


def test_a_class_is_the_mean_of_the_prompts_that_openai_selected(pairs, monkeypatch):
    """By default; the number of classes that are embedded at a time changes nothing."""
    published = open_clip.SIMPLE_IMAGENET_TEMPLATES
    assert [template.format("cup") for template in text.TEMPLATES] == [prompt("cup") for prompt in published]
    network = next(iter(MODELS))
    model, tokenize, path = pairs[network]
    with torch.no_grad():
        unit = [
            F.normalize(model.encode_text(tokenize([prompt(name) for name in CLASSES])), dim=-1) for prompt in published
        ]
    monkeypatch.setattr(text, "TEXT_BATCH", 2 * len(published))
    done = []
    texts = text_embeddings(network, CLASSES, {network: path}, progress=lambda *step: done.append(step[1:]))
    torch.testing.assert_close(texts, F.normalize(sum(unit), dim=-1), rtol=0, atol=1e-4)
    assert done == [(2, 5), (4, 5), (5, 5)]


def test_zero_shot_is_the_nearest_by_angle():
    texts = torch.eye(3)
    assert zero_shot(torch.tensor([[0.1, 5.0, 0.2], [9.0, 8.0, 0.0]]), texts).tolist() == [1, 0]


def test_every_known_pair_exists_and_fits():
    """Names on both sides; width, image size and QuickGELU of both configs are the same."""
    for network, (model_name, tag) in TEXT_TOWERS.items():
        if network in MODELS:
            continue
        assert network in list_pretrained(), network
        assert open_clip.get_pretrained_cfg(model_name, tag).get("hf_hub"), model_name
        config, ours = open_clip.get_model_config(model_name), timm.models.get_pretrained_cfg(network)
        assert config["vision_cfg"]["image_size"] == ours.input_size[-1], network
        if "siglip" in network:
            assert config["vision_cfg"]["timm_model_name"] == network.partition(".")[0]
            assert ("SigLIP2" in model_name) == (ours.tag == "v2_webli")
        else:
            assert config["embed_dim"] == ours.num_classes, network
            assert config.get("quick_gelu", False) == ("quickgelu" in network), network
            assert config["vision_cfg"]["patch_size"] == int(network.split("patch")[1][:2]), network


def test_a_teacher_without_text_is_refused():
    with pytest.raises(TeacherError, match=r"no text tower of small_dinov2\.lvd142m is known"):
        text_embeddings("small_dinov2@224", CLASSES)


def test_a_file_without_the_text_tower_is_refused(pairs, tmp_path):
    tensors = load_file(pairs["small_clip.laion2b"][2])
    save_file({k: v for k, v in tensors.items() if k.startswith("visual")}, tmp_path / "image.safetensors")
    with pytest.raises(TeacherError, match=r"image\.safetensors has no text tower; open_clip_model") as caught:
        text_embeddings("small_clip", CLASSES, {"small_clip": tmp_path / "image.safetensors"})
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(find_spec("transformers") is not None, reason="transformers would ask the hub")
def test_a_missing_tokenizer_is_one_line(pairs):
    path = pairs["small_siglip.v2_webli"][2]
    with pytest.raises(TeacherError, match=r"no text tower ViT-B-16-SigLIP2 .*transformers") as caught:
        text_embeddings("vit_base_patch16_siglip_224.v2_webli", CLASSES, {"vit_base_patch16_siglip_224.v2_webli": path})
    assert "\n" not in str(caught.value)


def test_without_open_clip_one_line_names_the_package(monkeypatch):
    """The import fails as it does where the package is absent."""
    real = builtins.__import__

    def absent(name, *arguments):
        if name == "open_clip":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(TeacherError, match="pip install open_clip_torch"):
        text_embeddings("small_clip", CLASSES)


def test_open_clip_leaves_the_root_logger_as_it_was(pairs, monkeypatch):
    """A handler that it adds would show every line of a search a second time."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's
    path = pairs["small_clip.laion2b"][2]
    text_embeddings("small_clip", CLASSES, {"small_clip": path})
    assert logging.getLogger().handlers == []


def test_a_tokenizer_that_the_hub_does_not_give_is_one_line_at_once(pairs, tmp_path, monkeypatch, capfd):
    pytest.importorskip("transformers")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"  # the port that discards
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    name, path = "vit_base_patch16_siglip_224.v2_webli", pairs["small_siglip.v2_webli"][2]
    with pytest.raises(TeacherError, match=r"the tokenizer .* hf download timm/ViT-B-16-SigLIP2 ") as caught:
        text_embeddings(name, CLASSES, {name: path})
    assert "\n" not in str(caught.value)
    assert "thrown while" not in capfd.readouterr().err
