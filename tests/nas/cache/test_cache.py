"""The teacher cache has the right content, shares entries between sets, and is refused when altered."""

import json
import os
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from nas.cache import CacheError, load_targets
from nas.cache.build import CachePlan
from nas.cache.entry import shards_of
from nas.cache.estimate import TIMING
from nas.cache.grid import to_grid
from nas.cache.images import ImageCacheBuilder, ImageSource
from nas.cache.shards import mapped
from nas.cache.standardize import HEADS, as_vectors
from nas.cache.targets import read_cache_set
from nas.cache.teacher_features import Compression, TeacherCacheBuilder
from nas.data import CorruptImage, open_images, open_poses
from nas.data.dataset import DataError, decode
from nas.teachers import TeacherOutput, specs
from tests.nas.cache.builder import SIZES
from tests.nas.data.builders import png


@pytest.fixture(scope="module")
def targets(built):
    return built[0]


def live(teacher, images, grid=4):
    with torch.inference_mode():
        summary, spatial = teacher(images.float() / 255)
        return {"summary": summary.numpy(), "spatial": to_grid(spatial, grid).numpy()}


def pixels(split, count, size_px):
    images = open_images("builtin", split, count, 0, size_px, None)
    return torch.from_numpy(np.stack([images.read(i).image for i in range(count)])).permute(0, 3, 1, 2)


def test_shapes_and_kinds(targets):
    for split, count in ((targets.train, 48), (targets.val, 20)):
        assert len(split) == count
        assert (split.images.shape, split.images[:2].dtype) == ((count, 3, 64, 64), np.uint8)
        assert (split.masks.shape, split.masks[:2].dtype) == ((count, 64, 64), np.uint8)
        assert (split.labels.shape, split.labels[:2].dtype) == ((count,), np.int64)
        for name, about in targets.teachers.items():
            assert split.summary[name].shape == (count, about.summary_dim)
            assert split.spatial[name].shape == (count, about.spatial_dim, 4, 4)
            assert split.spatial[name][:2].dtype == np.float32
    assert (targets.num_classes, targets.mask_classes, len(targets.class_names)) == (15, 16, 15)
    assert targets.build_seconds > 0


def test_images_are_the_sources_and_teachers_see_them_at_their_own_size(targets, teachers):
    """Lite0 takes 128 px, XFeat the student's 64."""
    small, large = pixels("train", 20, 64), pixels("train", 20, 128)
    np.testing.assert_array_equal(targets.train.images[:20], small)
    assert np.abs(F.avg_pool2d(large.float(), 2) - small.float()).mean() < 12  # the same scenes
    for name, seen in (("lite0", large), ("xfeat", small)):
        standardizers = targets.teachers[name]
        for head in HEADS:
            wanted = as_vectors(getattr(standardizers, head).apply(as_vectors(live(teachers[name], seen)[head])))
            stored = as_vectors(getattr(targets.train, head)[name][:20])
            assert np.abs(stored - wanted).max() < np.abs(wanted).max() / 200  # half a step of int8


@pytest.mark.parametrize("name", ["lite0", "xfeat"])
def test_decompressed_features_have_the_cosine_in_the_manifest(targets, teachers, name):
    features = live(teachers[name], pixels("val", 20, 128 if name == "lite0" else 64))
    heads = read_cache_set(targets.path).teachers[name].manifest["heads"]
    for head in HEADS:
        standardizer = getattr(targets.teachers[name], head)
        restored = standardizer.invert(as_vectors(getattr(targets.val, head)[name][:]))
        raw = as_vectors(features[head])
        cosine = (restored * raw).sum(1) / np.linalg.norm(restored, axis=1) / np.linalg.norm(raw, axis=1)
        assert heads[head]["cosine"] == pytest.approx(cosine.mean(), abs=1e-4)
        assert heads[head]["dims"] == standardizer.dims
        assert 0 <= heads[head]["clipped"] < 0.02


def test_other_storages_keep_more(opened, tmp_path, teachers):
    targets = opened(tmp_path, storage="bf16", share=1.0)
    features = live(teachers["xfeat"], pixels("train", 48, 64))["spatial"]
    about = targets.teachers["xfeat"].spatial
    restored = about.invert(as_vectors(targets.train.spatial["xfeat"][:]))
    assert about.dims == 64
    assert np.abs(restored - as_vectors(features)).max() < 0.01
    entry = read_cache_set(targets.path).teachers["xfeat"]
    assert (entry.folder / "train-00000-spatial.npy").stat().st_size == 128 + 16 * (2 * 16 * 64 + 4)


def check_hashes(path):
    for entry in read_cache_set(path).entries:
        entry.check(hashes=True)


def test_a_second_open_builds_nothing(opened, targets):
    calls = []
    again = opened(targets.path.parent, names="lite0,xfeat", progress=lambda *call: calls.append(call))
    assert calls == []
    assert (again.fingerprint, again.path) == (targets.fingerprint, targets.path)
    check_hashes(again.path)
    np.testing.assert_array_equal(load_targets(again.path).val.images[:], targets.val.images[:])


def test_a_subset_of_the_teachers_shares_their_entries(opened, targets):
    """There is another set file and no more shards."""
    root, calls = targets.path.parent, []
    before = sorted(root.iterdir())
    alone = opened(root, names="xfeat", progress=lambda *call: calls.append(call))
    assert calls == []
    assert set(root.iterdir()) - set(before) == {alone.path}
    assert alone.fingerprint != targets.fingerprint
    assert alone.data_fingerprint == targets.data_fingerprint
    np.testing.assert_array_equal(alone.val.spatial["xfeat"][:], targets.val.spatial["xfeat"][:])


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ({"seed": 1}, False),
        ({"train_images": 47}, False),
        ({"image_px": 32}, False),
        ({"views": 2}, False),
        ({"grid": 2}, True),
        ({"storage": "bf16"}, True),
        ({"share": 0.5}, True),
        ({"names": "lite0"}, True),
        ({"precision": "bf16"}, True),
    ],
    ids=str,
)
def test_settings_that_change_the_content_change_the_folder(tmp_path, change, shared):
    """Plans have the names without a build. Equal images are shared."""

    def plan(train_images=48, seed=0, views=1, image_px=64, names="xfeat", precision="fp32", **changed):
        source = ImageSource("builtin", {"train": train_images, "val": 20}, seed, views, tmp_path)
        compression = Compression(**{"grid": 4, "storage": "int8", "share": 0.25, **changed})
        return CachePlan(source, names, {}, image_px, compression, precision)

    before, after = plan(), plan(**change)
    assert before.path != after.path
    assert before.teachers[0].entry != after.teachers[0].entry
    assert (before.images.entry == after.images.entry) == shared
    assert plan().path == before.path


def test_teachers_see_the_stored_augmentations(opened, tmp_path, teachers):
    """The train images come twice, the second time augmented."""
    targets = opened(tmp_path, train_images=20, views=2)
    assert (len(targets.train), len(targets.val)) == (40, 20)
    np.testing.assert_array_equal(targets.train.images[:20], pixels("train", 20, 64))
    assert np.abs(targets.train.images[20:].astype(int) - targets.train.images[:20]).mean() > 5
    seen = torch.from_numpy(targets.train.images[:])
    wanted = targets.teachers["xfeat"].spatial.apply(as_vectors(live(teachers["xfeat"], seen)["spatial"]))
    assert np.abs(as_vectors(targets.train.spatial["xfeat"][:]) - wanted).max() < np.abs(wanted).max() / 200


def test_a_teacher_without_summary(tmp_path, teachers):
    """SAM has none."""

    class Mute(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = teachers["xfeat"]
            self.source_px, self.fingerprint, self.tiles = self.inner.source_px, "mute", 1

        def forward(self, images):
            return TeacherOutput(None, self.inner(images).spatial)

    source = ImageSource("builtin", {"train": 20, "val": 20}, 0, 1, tmp_path)
    images = ImageCacheBuilder(source, 64)
    images.build(lambda *call: None)
    builder = TeacherCacheBuilder(specs("xfeat")[0], images, Compression(4, "int8", 0.25))
    builder.__dict__["spec"] = type("Spec", (), {**vars(builder.spec), "load": lambda self: Mute()})()
    builder.spec.fingerprint, builder.spec.slug, builder.spec.widths = "mute", "mute", (0, builder.spec.widths[1])
    builder.build(lambda *call: None)
    assert list(builder.entry.manifest["heads"]) == ["spatial"]


@pytest.fixture
def copied(targets, tmp_path):
    """A copy of the cache to damage: (set path, folder of the images, folder of XFeat's targets)."""
    shutil.copytree(targets.path.parent, tmp_path / "copy")
    copy = read_cache_set(tmp_path / "copy" / targets.path.name)
    return copy.path, copy.images.folder, copy.teachers["xfeat"].folder


def test_a_file_that_vanishes_while_a_cache_is_checked_is_not_missed(copied, monkeypatch):
    """Another process writes into a complete entry: its temporary file is renamed between the listing and the size."""
    for folder in copied[1:]:
        (folder / "texts.npy.tmp").write_bytes(b"under way")

    class Vanishing:
        def __init__(self, file):
            self.name, self.file = file.name, file

        def is_file(self):
            return True

        def stat(self):
            if self.name.endswith(".tmp"):
                raise FileNotFoundError(self.name)
            return self.file.stat()

    @contextmanager
    def scan(folder):
        with os_scandir(folder) as found:
            yield map(Vanishing, found)

    os_scandir = os.scandir
    monkeypatch.setattr("nas.cache.entry.os.scandir", scan)
    assert len(load_targets(copied[0]).train)


def test_a_worker_looks_at_an_array_when_it_reads_it(copied):
    (copied[1] / "train-00000-images.npy").unlink()
    truncated = copied[2] / "train-00001-spatial.npy"
    truncated.write_bytes(truncated.read_bytes()[:-10])
    train = load_targets(copied[0], checked=True).train
    with pytest.raises(CacheError, match=r"train-00000-images.npy is missing"):
        train.images[:1]
    with pytest.raises(CacheError, match=r"train-00001-spatial.npy "):
        train.spatial["xfeat"][:]
    (copied[2] / "statistics.npz").write_bytes(b"")
    with pytest.raises(CacheError, match=r"statistics.npz is truncated"):
        load_targets(copied[0], checked=True)


@pytest.mark.parametrize("name", ["val-00001-summary.npy", "statistics.npz"])
def test_hashes_detect_one_altered_byte(copied, name):
    content = bytearray((copied[2] / name).read_bytes())
    content[-1] ^= 1
    (copied[2] / name).write_bytes(content)
    with pytest.raises(CacheError, match=rf"{name} is altered"):
        check_hashes(copied[0])
    if name == "statistics.npz":  # which is read as a whole
        with pytest.raises(CacheError, match=rf"{name} is altered"):
            load_targets(copied[0])


def test_a_damaged_entry_that_is_deleted_is_built_again_in_the_same_process(tmp_path, opened):
    damaged_once = opened(tmp_path)
    whole = damaged_once.train.spatial["xfeat"][:]
    folder = read_cache_set(damaged_once.path).teachers["xfeat"].folder
    file = folder / "val-00000-spatial.npy"
    content = bytearray(file.read_bytes())
    content[140] ^= 4
    file.write_bytes(content)
    with pytest.raises(CacheError, match=r"val-00000-spatial.npy is altered .*; delete"):
        damaged_once.val.spatial["xfeat"][:]
    shutil.rmtree(folder)
    again = opened(tmp_path)
    assert len(again.val.spatial["xfeat"][:]) == 20
    np.testing.assert_array_equal(again.train.spatial["xfeat"][:], whole)


@pytest.mark.parametrize("name", ["xfeat/train-00002-summary.npy", "images/train-00001-images.npy"])
def test_a_damaged_shard_that_is_deleted_is_written_again_without_the_others(name, copied, opened):
    kind, file = name.split("/")
    path, images, xfeat = copied
    before = {entry.folder: entry.manifest["files"] for entry in read_cache_set(path).entries}
    written = {each: each.stat().st_mtime_ns for each in path.parent.rglob("*-0000*.npy")}
    (images if kind == "images" else xfeat).joinpath(file).unlink()
    with pytest.raises(
        CacheError, match=rf"{file} is .*missing.*: the next search or cache build then writes its shard"
    ):
        load_targets(path)
    again = opened(path.parent, names="lite0,xfeat")
    assert again.path == path
    assert {entry.folder: entry.manifest["files"] for entry in read_cache_set(path).entries} == before
    check_hashes(path)
    load_targets(path)
    shard = file.rpartition("-")[0]
    rewritten = {each.name for each, time_ns in written.items() if each.stat().st_mtime_ns != time_ns}
    assert file in rewritten
    assert all(each.startswith(f"{shard}-") for each in rewritten)
    assert not list(path.parent.glob("*/working/*"))


@given(st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_are_refused_in_one_line_or_harmless(copied, targets, data):
    check_damage(copied, targets, data)


@pytest.mark.slow
@pytest.mark.exhaustive
@given(st.data())
@settings(max_examples=700, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_more_damaged_files_are_refused_in_one_line_or_harmless(copied, targets, data):
    check_damage(copied, targets, data)


def check_damage(copied, targets, data):
    """Damage one of the cache's files; what can be read still has the original rows."""
    folders = [copied[0].parent, copied[1], copied[2]]
    kinds = ("*.npy", "*.npz", "manifest.json", "set-*.json")
    paths = sorted(path for folder in folders for kind in kinds for path in folder.glob(kind))
    path = data.draw(st.sampled_from(paths))
    whole = path.read_bytes()
    path.write_bytes(data.draw(damaged(whole)))
    mapped.cache_clear()
    message = str(path)
    try:
        again = load_targets(copied[0])
        for split in ("train", "val", "poses"):
            before, after = getattr(targets, split), getattr(again, split)
            np.testing.assert_array_equal(after.images[:], before.images[:])
            np.testing.assert_array_equal(after.labels[:], before.labels[:])
            np.testing.assert_array_equal(after.masks[:], before.masks[:])
            for head in HEADS:
                assert list(getattr(after, head)) == list(getattr(before, head))
                for name, array in getattr(before, head).items():
                    np.testing.assert_array_equal(getattr(after, head)[name][:], array[:])
    except CacheError as error:
        message = str(error)
    finally:
        path.write_bytes(whole)
    assert str(path) in message
    assert "\n" not in message


@st.composite
def damaged(draw, whole):
    """The file truncated, with flipped bits or bytes of zeros, or other JSON in its place."""
    kind = draw(st.sampled_from(["cut", "bits", "zeros", "json", "brackets"]))
    if kind == "cut":
        return whole[: draw(st.integers(0, len(whole) - 1))]
    if kind == "json":
        return json.dumps(draw(st.recursive(st.none() | st.integers() | st.text(), st.lists))).encode()
    if kind == "brackets":
        return draw(st.sampled_from([b"[", b'{"a":'])) * 100_000
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(whole) - 1) | st.integers(0, min(len(whole) - 1, 300)))
        if kind == "bits":
            content[place] ^= 1 << draw(st.integers(0, 7))
        else:
            content[place : place + 64] = bytes(len(content[place : place + 64]))
    return bytes(content)


def test_the_manifest_lists_every_file(targets):
    for entry in read_cache_set(targets.path).entries:
        listed = set(json.loads((entry.folder / "manifest.json").read_text())["files"])
        others = {"manifest.json", "used", *(path.name for path in entry.folder.glob("poses-*.npy"))}
        assert listed == {path.name for path in entry.folder.iterdir() if path.is_file()} - others


def test_poses_are_the_sources_and_have_the_teachers_targets(targets, teachers):
    for name, size_px in (("lite0", 128), ("xfeat", 64)):
        images = open_poses("builtin", SIZES["val_images"], size_px)
        seen = torch.from_numpy(np.stack([images.read(i).image for i in range(20)])).permute(0, 3, 1, 2)
        wanted = targets.teachers[name].spatial.apply(as_vectors(live(teachers[name], seen)["spatial"]))
        stored = as_vectors(targets.poses.spatial[name][:])
        assert np.abs(stored - wanted).max() < np.abs(wanted).max() / 3, "int8 clips what calibration has not seen"
        assert np.median(np.abs(stored - wanted)) < np.abs(wanted).max() / 200
    np.testing.assert_array_equal(targets.poses.images[:], seen)
    assert targets.poses.labels[:].tolist() == [i // 2 for i in range(20)]
    assert set(np.unique(targets.poses.masks[:])) == {0, 1}


def test_a_damaged_file_of_the_poses_that_is_deleted_is_written_again(copied, opened, targets):
    path, images, _ = copied
    (file,) = images.glob("poses-*-labels.npy")
    content = file.read_bytes()
    file.unlink()
    again = opened(path.parent, names="lite0,xfeat")
    assert file.read_bytes() == content
    np.testing.assert_array_equal(again.poses.labels[:], targets.poses.labels[:])


def test_the_end_of_a_build_leaves_files_of_poses_that_are_under_way(copied, opened):
    path, _, xfeat = copied
    under_way, killed = xfeat / "poses-0-spatial.npy.1-0.tmp", xfeat / "val-00000-spatial.npy.1-0.tmp"
    for file in (under_way, killed):
        file.write_bytes(b"")
    (xfeat / "val-00000-spatial.npy").unlink()
    opened(path.parent, names="lite0,xfeat")
    assert (under_way.exists(), killed.exists()) == (True, False)


def test_an_entry_that_another_command_builds_now_is_named_as_such(copied):
    path, _, xfeat = copied
    (xfeat / "manifest.json").unlink()
    with pytest.raises(CacheError, match=r"manifest.json is missing: another command builds the entry now"):
        load_targets(path)


def test_poses_that_a_cache_lacks_are_added_and_change_nothing_else(copied, opened, targets):
    for folder in copied[1:]:
        for file in folder.glob("poses-*.npy"):
            file.unlink()
    bare = load_targets(copied[0])
    assert bare.poses is None
    stages = set()
    again = opened(copied[0].parent, names="lite0,xfeat", progress=lambda stage, *call: stages.add(stage))
    assert stages == {TIMING, "step 1 of 1: xfeat on pairs of poses"}, "Lite0 has its part"
    np.testing.assert_array_equal(again.poses.images[:], targets.poses.images[:])
    np.testing.assert_array_equal(again.poses.spatial["xfeat"][:], targets.poses.spatial["xfeat"][:])
    assert (again.fingerprint, again.data_fingerprint) == (targets.fingerprint, targets.data_fingerprint)


def test_undecodable_images_are_skipped_and_named(opened, tmp_path):
    """The others' rows stay with their images."""
    images = open_images("builtin", "train", 60, 0, 64, None)
    source = tmp_path / "images"
    source.mkdir()
    for i in range(60):
        Image.fromarray(images.read(i).image).save(source / f"{i}.png")
    chosen = open_images(f"imagefolder:{source}", "train", 40, 0, 64, None)
    whole = [chosen.read(i).image for i in range(40)]
    for broken in (3, 20):
        (source / chosen.names[broken]).write_bytes(b"no image")
    (source / "notes.txt").write_text("")
    for _ in range(2):  # built, and read
        lines = []
        uri = f"imagefolder:{source}"
        targets = opened(tmp_path, uri=uri, train_images=40, val_images=20, announce=lines.append)
        asked = [line.split()[-2:] for line in lines if line.startswith("  ")]
        found = [str(open_images(uri, split, None, 0, 64, None).available) for split in ("train", "val")]
        assert f"images of {uri}" in lines
        assert asked[1:5] == [["40", "20"], found, ["38", found[1]], ["2", "0"]]
        assert "  fewer were found than asked for" in lines
        assert "  left out: 1 file with the suffix .txt, as 'notes.txt'" in lines
        assert any(f"cannot decode image {chosen.names[3]}: " in line for line in lines)
    good = [i for i in range(40) if i not in (3, 20)]
    np.testing.assert_array_equal(targets.train.images[:].transpose(0, 2, 3, 1), np.stack([whole[i] for i in good]))
    assert len(targets.train.summary["xfeat"]) == 38
    assert len(targets.skipped) == 2
    assert all(chosen.names[broken] in message for broken, message in zip((3, 20), targets.skipped, strict=True))
    assert targets.train.labels is None
    assert targets.num_classes is None


def test_images_that_are_built_again_and_decoded_otherwise_shift_no_targets(opened, tmp_path, monkeypatch):
    """Another Pillow may decode an image that the first one skipped; the teacher has no row for it."""
    source = tmp_path / "images"
    source.mkdir()
    for i in range(60):
        (source / f"{i}.png").write_bytes(png(4 * i))
    sizes = {"uri": f"imagefolder:{source}", "train_images": 40, "val_images": 20}
    third = open_images(sizes["uri"], "train", 40, 0, 64, None).names[3]

    def decode_but_one(file, name):
        if name == third:
            raise CorruptImage(f"--data: cannot decode image {name}: this Pillow is old")
        return decode(file, name)

    with monkeypatch.context() as patch:
        patch.setattr("nas.data.folder.decode", decode_but_one)
        assert len(opened(tmp_path, **sizes).train.summary["xfeat"]) == 39
    (images,) = tmp_path.glob("images-*")
    shutil.rmtree(images)
    mapped.cache_clear()  # as another process
    with pytest.raises(
        CacheError, match=r"manifest.json is of 15 images in train-00000, of which 16 .*; delete .*xfeat"
    ):
        opened(tmp_path, **sizes)


def test_impossible_settings_are_one_line_errors(opened, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="cannot build"):
        opened(tmp_path / "file")
    with pytest.raises(CacheError, match="grid: 0 is not possible"):
        opened(tmp_path, grid=0)
    with pytest.raises(CacheError, match="--target-dtype: 'int3' is not possible; choices: int8, bf16, fp32"):
        opened(tmp_path, storage="int3")
    with pytest.raises(DataError, match="no such folder"):
        opened(tmp_path, uri="imagefolder:/no/such")


def test_shards_are_of_constant_size():
    assert [(shard.name, shard.start, shard.stop) for shard in shards_of("val", 35)] == [
        ("val-00000", 0, 16),
        ("val-00001", 16, 32),
        ("val-00002", 32, 35),
    ]
