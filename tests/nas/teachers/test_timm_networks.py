"""timm's networks as teachers: outputs of each kind, checked against extraction by hand on small seeded networks."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage.data import astronaut
from timm.models import get_pretrained_cfg, list_pretrained

from nas.cache.images import BATCH
from nas.teachers import SETS, TeacherError, load_teachers, specs
from nas.teachers.timm_networks import (
    MAX_TILES,
    check_header,
    cut_maps,
    layout,
    load_network,
    parse,
    resize,
    tile_images,
)
from tests.nas.teachers import small_networks
from tests.nas.teachers.small_networks import saved, seeded

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module", autouse=True)
def _registered():
    small_networks.register()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


def normed(images, mean, std):
    return (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def map_of(tokens, side):
    return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)


def dinov2(network, images):
    tokens = network.forward_features(normed(images, *IMAGENET))
    return tokens[:, 0], map_of(tokens[:, 5:], 16)  # class token, 4 registers, patches


def clip(network, images):
    tokens = network.forward_features(normed(images, *OPENAI))
    return tokens[:, 0] @ network.head.weight.T + network.head.bias, map_of(tokens[:, 1:], 14)


def siglip(network, images):
    tokens = network.forward_features(normed(images, *HALVES))
    return network.attn_pool(tokens), map_of(tokens, 14)


def sam(network, images):
    x = network.patch_embed(normed(images, *IMAGENET)) + network.pos_embed
    return None, network.neck(network.blocks(x).permute(0, 3, 1, 2))


def resnet(network, images):
    x = network.maxpool(network.act1(network.bn1(network.conv1(normed(images, *HALVES)))))
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = stage(x)
    return x.mean((2, 3)), x


def swin(network, images):
    x = network.norm(network.layers(network.patch_embed(normed(images, *IMAGENET))))
    return x.mean((1, 2)), x.permute(0, 3, 1, 2)


KINDS = [
    ("small_dinov2.lvd142m@224", dinov2, {"img_size": 224}),
    ("small_clip.laion2b", clip, {}),
    ("small_siglip.v2_webli", siglip, {}),
    ("samvit_small.sa1b", sam, {}),
    ("test_resnet.r160_in1k@96", resnet, {}),
    ("small_swin.ms_in1k", swin, {}),
]


@pytest.mark.parametrize(("name", "by_hand", "size"), KINDS, ids=[name for name, _, _ in KINDS])
def test_summary_and_map_are_those_of_an_extraction_by_hand(folder, name, by_hand, size):
    full = name.partition("@")[0]
    network = seeded(full, **size)
    config = get_pretrained_cfg(full)
    path = folder / f"{full}-by-hand.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    spec = specs(name, {name: path})[0]
    teacher = spec.load()
    assert spec.name == teacher.name == name
    assert spec.source_px == teacher.source_px == int(name.partition("@")[2] or config.input_size[-1])
    assert teacher.fingerprint == spec.fingerprint
    images = torch.rand(2, 3, spec.source_px, spec.source_px, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        summary, spatial = teacher(images)
        expected_summary, expected_spatial = by_hand(network, images)
    assert spatial.shape[1] == teacher.spatial_dim
    torch.testing.assert_close(spatial, expected_spatial, rtol=0, atol=1e-4 * float(expected_spatial.std()))
    if expected_summary is None:
        assert summary is None
        assert teacher.summary_dim == 0
    else:
        assert summary.shape == (2, teacher.summary_dim)
        torch.testing.assert_close(summary, expected_summary, rtol=0, atol=1e-4 * float(expected_summary.std()))
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_positions_are_resampled_from_the_size_of_the_file(folder):
    """DINOv2's file holds 37 x 37 positions; at 224 px the network has 16 x 16."""
    path = saved("small_dinov2", folder)
    assert load_file(path)["pos_embed"].shape[1] == 37 * 37
    small, large = (specs(f"small_dinov2@{px}", {"small_dinov2": path})[0].load() for px in (112, 518))
    assert small.network.pos_embed.shape[1] == 8 * 8
    torch.testing.assert_close(large.network.pos_embed, load_file(path)["pos_embed"])
    coarse = torch.nn.functional.interpolate(
        large.network.pos_embed.transpose(1, 2).reshape(1, -1, 37, 37), (8, 8), mode="bicubic", antialias=True
    )
    torch.testing.assert_close(small.network.pos_embed, coarse.flatten(2).transpose(1, 2), rtol=1e-3, atol=1e-3)


def test_the_resize_is_the_one_of_image_libraries():
    photo = torch.from_numpy(astronaut()).permute(2, 0, 1)[None].float() / 255
    pillow = Image.fromarray(astronaut()).resize((224, 224), Image.Resampling.BICUBIC)
    wanted = torch.from_numpy(np.array(pillow)).permute(2, 0, 1)[None].float() / 255
    ours = resize(photo, 224, "bicubic")
    assert (ours - wanted).abs().mean() < 0.5 / 255  # Pillow rounds to bytes between its two passes
    assert (resize(photo, 224, "bilinear") - wanted).abs().mean() > 1 / 255
    assert ours.min() >= 0
    assert ours.max() <= 1


# --- mosaic


@pytest.mark.parametrize("count", [1, 4, 5, 8])
def test_a_mosaic_cut_up_again_is_the_images(count):
    images = torch.rand(count, 3, 6, 6)
    tiled = tile_images(images, 2)
    assert tiled.shape == (-(-count // 4), 3, 12, 12)
    torch.testing.assert_close(tiled[0, :, :6, 6:], images[1 % count])  # second of the first row
    torch.testing.assert_close(tiled[-1, :, 6:, 6:], images[(4 * len(tiled) - 1) % count])  # filled up from the start
    torch.testing.assert_close(cut_maps(tiled, 2, count), images)


def test_each_image_of_a_mosaic_gets_its_own_map(folder):
    """Windows of one tile: only the neck's 3 x 3 convolution sees over an edge, so a tile's inner cells are exact."""
    path = saved("samvit_small", folder)
    name = "samvit_small.sa1b@256/4"
    teacher = load_teachers(name, {name: path})[0]
    assert teacher.source_px == 64
    images = torch.rand(18, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        spatial = teacher(images).spatial
        swapped = teacher(images[torch.arange(17, -1, -1)]).spatial
    assert spatial.shape == (18, 32, 4, 4)
    # Positions of a tile depend on its place: place 17 - i for image i in the other order, so compare within a place.
    again = torch.cat([images[:1], torch.rand(17, 3, 64, 64)])
    with torch.no_grad():
        alone = teacher(again).spatial
    torch.testing.assert_close(alone[0, :, 1:3, 1:3], spatial[0, :, 1:3, 1:3], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(alone[1, :, 1:3, 1:3], spatial[1, :, 1:3, 1:3], atol=1e-2)
    assert not torch.allclose(swapped[0], spatial[0], atol=1e-2)


# --- names and sets


def test_a_native_input_of_no_whole_patches_is_what_they_cover():
    """27 patches of 14 px cover 378 of the 384 px that timm records for SigLIP's so400m; another size is refused."""
    name = parse("vit_so400m_patch14_siglip_384.webli")
    assert (name.px, layout(name).grid, layout(name).summary_dim) == (378, 27, 1152)
    assert parse("vit_so400m_patch14_siglip_378.v2_webli").px == 378
    with pytest.raises(TeacherError, match="a multiple of 14, as 378"):
        layout(parse("vit_so400m_patch14_siglip_384.webli@384"))


def test_a_batch_of_a_cache_fills_every_mosaic_that_is_allowed():
    assert MAX_TILES**2 <= BATCH < (MAX_TILES + 1) ** 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("vit_base_patch14_dinov2_lvd142m", r"unknown teacher .*nearest: vit_base_patch14_dinov2.lvd142m"),
        ("small_dinov2@", "must be NAME, NAME@PX or NAME@PX/N"),
        ("small_dinov2@16", "PX must be 32 to 4096"),
        ("small_dinov2@225", r"16 x 16, which must divide PX.*a multiple of 14, as 224"),
        ("samvit_small@272/4", "cut into 4 x 4"),
        ("samvit_small@512/8", "N is 8; allowed: 1 to 5"),
        ("small_dinov2@224/2", "a mosaic has one summary for all"),
        ("vit_base_patch16_clip_224.openai", r"network is vit_base_patch16_clip_quickgelu_224\.openai"),
        ("vit_base_patch16_radio_v3.c_radio", "class tokens of several teachers"),
        ("small_dinov2,small_dinov2.lvd142m@518", "names a teacher twice"),
        ("lite0,", "unknown teacher ''"),
    ],
)
def test_impossible_names_are_refused_in_one_line(names, message):
    with pytest.raises(TeacherError, match=message) as caught:
        specs(names)
    assert "\n" not in str(caught.value)


def test_sets_and_names_mix():
    found = specs("builtin, small_dinov2@224,samvit_small@256/4")
    assert [spec.name for spec in found] == ["lite0", "hed", "xfeat", "small_dinov2@224", "samvit_small@256/4"]
    assert [spec.slug for spec in found[3:]] == ["small_dinov2-224", "samvit_small-256-4"]  # folders of caches


def test_the_fingerprint_follows_file_size_and_mosaic(folder):
    path, other = saved("samvit_small", folder), folder / "other.safetensors"
    save_file({**load_file(path), "pos_embed": load_file(path)["pos_embed"] + 1}, other)
    names = ("samvit_small@256", "samvit_small@256/2", "samvit_small@512")
    found = [specs(name, {"samvit_small": file})[0].fingerprint for name in names for file in (path, other)]
    assert len(set(found)) == 6
    written = [specs(name, {name: path})[0].fingerprint for name in ("samvit_small@256", "samvit_small.sa1b@256")]
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("name", "summary", "summary_dim", "spatial_dim", "grid"),
    [
        ("vit_huge_patch14_clip_224.laion2b", "projected", 1024, 1280, 16),
        ("samvit_huge_patch16.sa1b@1024/4", "none", 0, 256, 64),
        pytest.param(*("vit_giantopt_patch16_siglip_384.v2_webli", "pooled", 1536, 1536, 24), marks=pytest.mark.slow),
        pytest.param(*("vit_7b_patch16_dinov3.lvd1689m", "class token", 4096, 4096, 16), marks=pytest.mark.slow),
    ],
)
def test_the_networks_of_the_sets_build_without_weights(name, summary, summary_dim, spatial_dim, grid):
    assert name in SETS["am_radio"] + SETS["c_radio_v4"]
    made = layout(parse(name))
    assert (made.summary, made.summary_dim, made.spatial_dim, made.grid) == (summary, summary_dim, spatial_dim, grid)


def test_only_contrastive_heads_are_projections():
    """A fine-tuned CLIP's head is a classifier; label sets of timm's networks have these sizes."""
    labels = {1000, 11821, 21841, 21843}
    for network in list_pretrained():
        if (
            "clip" in network
            and "quickgelu" not in network
            and "QuickGELU" not in str(get_pretrained_cfg(network).notes)
        ):
            classes = get_pretrained_cfg(network).num_classes
            assert parse(network).projected == (classes not in labels), network


# --- weights


def test_a_file_of_another_network_is_refused(folder):
    path = saved("small_clip", folder)
    with pytest.raises(TeacherError, match=r"small_clip.safetensors does not fit small_dinov2\.lvd142m: ") as caught:
        load_teachers("small_dinov2", {"small_dinov2": path})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("small", ["small_dinov3", "small_clip", "small_siglip_gap", "samvit_small", "small_swin"])
def test_headers_tell_a_network_from_another(small, folder):
    """As the weights themselves do, for every kind of network and at another size than the file's."""
    name = parse(f"{small}@{448 if small.startswith('samvit') else 224}")
    check_header(name, saved(small, folder))
    other = "small_swin" if small != "small_swin" else "small_dinov2"
    with pytest.raises(TeacherError, match=f"does not fit {name.network}"):
        check_header(name, saved(other, folder))


def test_a_file_that_lacks_a_tensor_is_refused(folder):
    tensors = load_file(saved("small_dinov2", folder))
    del tensors["reg_token"]
    save_file(tensors, folder / "lacks.safetensors")
    with pytest.raises(TeacherError, match="reg_token"):
        check_header(parse("small_dinov2"), folder / "lacks.safetensors")
    with pytest.raises(TeacherError, match="reg_token"):
        load_teachers("small_dinov2", {"small_dinov2": folder / "lacks.safetensors"})


@pytest.mark.parametrize(("small", "classes"), [("small_swin", 10), ("small_swin", 0), ("small_siglip", 10)])
def test_own_weights_may_have_another_classifier(small, classes, tmp_path, folder):
    """Swin's network has a classifier of 1,000 classes, the others have none; features come from before it."""
    own = saved(small, folder)
    tensors = {key: value for key, value in load_file(own).items() if not key.startswith("head.")}
    if classes:
        name = "head.fc" if small == "small_swin" else "head"
        tensors |= {f"{name}.weight": torch.rand(classes, 96), f"{name}.bias": torch.rand(classes)}
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    save_file(tensors, tuned / "model.safetensors")
    check_header(parse(small), tuned / "model.safetensors")
    images = torch.rand(2, 3, 64, 64)
    (teacher,), (expected,) = (load_teachers(small, {small: path}) for path in (tuned, own))
    for mine, theirs in zip(teacher(images), expected(images), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_clip_needs_its_projection(folder, tmp_path):
    tensors = load_file(saved("small_clip", folder))
    tensors["head.weight"] = torch.rand(10, 48)
    save_file(tensors, tmp_path / "tuned.safetensors")
    for load in (check_header, load_network):
        with pytest.raises(TeacherError, match=r"does not fit small_clip\.laion2b: size mismatch for head"):
            load(parse("small_clip"), tmp_path / "tuned.safetensors")


def test_a_network_that_timm_fills_loosely_is_checked_too(folder):
    """SigLIP without its pooling is filled with strict=False: half a file would pass."""
    path = saved("small_siglip", folder)
    load_teachers("small_siglip_gap", {"small_siglip_gap": path})
    half = {k: v for k, v in load_file(path).items() if not k.startswith("blocks.1")}
    save_file(half, folder / "half.safetensors")
    with pytest.raises(TeacherError, match=r"tensors missing, as blocks\.1"):
        load_teachers("small_siglip_gap", {"small_siglip_gap": folder / "half.safetensors"})


def test_pickles_are_refused_with_a_way_out(folder):
    path = folder / "w.pth"
    torch.save({}, path)
    with pytest.raises(TeacherError, match=r"must be a \.safetensors file.*convert it: python -c") as caught:
        specs("small_dinov2", {"small_dinov2": path})
    assert "\n" not in str(caught.value)


def test_a_renamed_pickle_is_not_read(folder):
    path = folder / "renamed.safetensors"
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(TeacherError, match=r"renamed.safetensors: not a readable"):
        specs("small_dinov2", {"small_dinov2": path})


@pytest.mark.parametrize(
    ("names", "key", "message"),
    [
        ("small_dinov2", "small_clip", "chosen teachers that take a file: small_dinov2"),
        ("lite0", "lite0", "chosen teachers that take a file: none"),
        ("lite0,small_dinov2,small_clip@64", "small_klip@224", "nearest: small_clip;"),
        ("small_dinov2", "small_dinov2", "no such file"),
    ],
)
def test_a_file_without_use_or_place_is_refused(tmp_path, names, key, message):
    with pytest.raises(TeacherError, match=message):
        specs(names, {key: tmp_path / "absent.safetensors"})


def test_a_network_without_a_repository_names_the_flag():
    with pytest.raises(TeacherError, match=r"no hub repository.*--teacher-weights small_dinov2=FILE"):
        specs("small_dinov2")[0].load()
