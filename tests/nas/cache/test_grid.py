"""Maps keep their places and their means on the grid of the targets."""

import pytest
import torch
from torch.nn import functional as F

from nas.cache.grid import to_grid
from nas.cache.images import ImageCacheBuilder, ImageSource
from nas.cache.teacher_features import Compression, TeacherCacheBuilder
from nas.data.dataset import digest
from nas.teachers import enlarged_maps, specs


def coordinates(rows, columns):
    """Return centers of tokens as shares of the image's side: (1, 2, rows, columns), y first."""
    y, x = ((torch.arange(side) + 0.5) / side for side in (rows, columns))
    return torch.stack(torch.meshgrid(y, x, indexing="ij"))[None]


@pytest.mark.parametrize(("rows", "columns", "grid"), [(16, 16, 14), (27, 27, 14), (3, 3, 2), (28, 16, 14)])
def test_cells_lie_where_their_tokens_lie(rows, columns, grid):
    """SAM, DINOv2 and CLIP-H have 16 tokens for the 14 cells of 224 px, SigLIP2 has 24."""
    cells = to_grid(coordinates(rows, columns), grid)
    assert cells.shape == (1, 2, grid, grid)
    assert ((cells - coordinates(grid, grid)) * grid).abs().max() < 1e-5  # of a cell


@pytest.mark.parametrize("tokens", [15, 27])
def test_cells_keep_the_mean_and_every_token_counts_alike(tokens):
    spatial = torch.randn(2, 3, tokens, tokens)
    torch.testing.assert_close(to_grid(spatial, 14).mean((2, 3)), spatial.mean((2, 3)), atol=1e-6, rtol=0)
    assert to_grid(spatial.half(), 14).dtype == torch.float16


@pytest.mark.parametrize("ratio", [1, 3])
def test_whole_ratios_are_plain_averages(ratio):
    spatial = torch.randn(2, 3, 7 * ratio, 7 * ratio)
    assert to_grid(spatial, 7).equal(F.adaptive_avg_pool2d(spatial, 7))
    small = torch.randn(2, 3, 5, 5)
    assert to_grid(small, 7).equal(F.interpolate(small, (7, 7), mode="bilinear"))


def test_exporters_follow_it():
    class Grid(torch.nn.Module):
        def forward(self, spatial):
            return to_grid(spatial, 14)

    spatial = torch.randn(1, 2, 16, 16)
    wanted = to_grid(spatial, 14)
    assert torch.export.export(Grid(), (spatial,)).module()(spatial).equal(wanted)
    assert torch.jit.trace(Grid(), spatial)(spatial).equal(wanted)


def image_builder(root, image_px):
    return ImageCacheBuilder(ImageSource("builtin", {"train": 8, "val": 4}, 0, 1, root), image_px)


@pytest.mark.parametrize(
    ("name", "image_px", "changed"), [("lite0", 64, False), ("lite0", 96, True), ("hed", 96, False)]
)
def test_only_entries_of_other_ratios_get_another_key(tmp_path, name, image_px, changed):
    """Entries that were built by whole tokens stay valid where the ratio is whole: Lite0 has 8 x 8 tokens at 128 px."""
    images, spec = image_builder(tmp_path, image_px), specs(name)[0]
    builder = TeacherCacheBuilder(spec, images, Compression(image_px // 16, "int8", 0.125))
    identity = (2, images.fingerprint, spec.name, spec.fingerprint, spec.source_px, 2048)
    earlier = digest([*identity, ("grid", image_px // 16), ("storage", "int8"), ("share", 0.125)])
    assert (builder.fingerprint != earlier) == changed
    rounded = TeacherCacheBuilder(spec, images, Compression(image_px // 16, "int8", 0.125), "bf16")
    assert rounded.fingerprint not in (builder.fingerprint, earlier), "keys from before the choice are those of fp32"


@pytest.mark.parametrize(("grid", "share", "changed"), [(4, 0.25, False), (8, 0.25, True), (8, 1.0, False)])
def test_only_entries_of_whole_summaries_get_another_key(tmp_path, grid, share, changed):
    """XFeat's summary is 64 of 4,160 numbers on 8 x 8 cells. The rule changes none on 4 x 4, or with share 1."""
    images, (xfeat,) = image_builder(tmp_path, 16 * grid), specs("xfeat")
    builder = TeacherCacheBuilder(xfeat, images, Compression(grid, "int8", share))
    identity = (2, images.fingerprint, xfeat.name, xfeat.fingerprint, xfeat.source_px, 2048)
    earlier = digest([*identity, ("grid", grid), ("storage", "int8"), ("share", share)])
    assert (builder.fingerprint != earlier) == changed


@pytest.mark.parametrize(
    ("teacher", "image_px", "fitting"),
    [
        ("samvit_base_patch16.sa1b@1024/4", 256, None),
        ("samvit_base_patch16.sa1b@1024/4", 448, "samvit_base_patch16.sa1b@1024/2"),
        ("samvit_base_patch16.sa1b@512/4", 1024, "samvit_base_patch16.sa1b@1024"),
        ("vit_base_patch16_clip_224.laion2b", 224, None),
        ("vit_base_patch14_dinov2.lvd142m@224", 448, "vit_base_patch14_dinov2.lvd142m@392"),
    ],
)
def test_maps_smaller_than_the_grid_are_named_with_an_input_that_fits(teacher, image_px, fitting):
    warning = enlarged_maps(specs(teacher), image_px // 16, image_px)
    assert (warning != "") == (fitting is not None)
    if fitting is not None:
        assert f"(give {fitting} in its place)" in warning
        assert enlarged_maps(specs(fitting), image_px // 16, image_px) == ""


def test_maps_without_an_input_that_fits_are_named_too():
    assert enlarged_maps(specs("builtin"), 4, 64) == ""
    warning = enlarged_maps(specs("builtin"), 16, 64)
    assert "lite0 has a map of 8 x 8; hed has" in warning
    network = "vit_base_patch16_clip_224.laion2b"
    assert enlarged_maps(specs(network), 300, 4800).endswith(f"{network} has a map of 14 x 14")  # 4,096 px at most


def test_specs_know_the_side_of_their_maps():
    networks = "builtin,vit_base_patch14_dinov2.lvd142m@224,samvit_base_patch16.sa1b@1024/4"
    assert [spec.map_side(224) for spec in specs(networks)] == [14, 28, 28, 16, 16]
