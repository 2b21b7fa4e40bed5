"""The teacher cache: right content, built once, whole or not at all, and refused when altered."""

import json
import multiprocessing
import time

import numpy as np
import pytest
import torch

from nas.data import open_images
from nas.data.imageset import DataError
from nas.cache.build import shrink, to_grid
from nas.cache.opening import CacheError, open_targets

SIZES = {"train_images": 48, "val_images": 20, "image_px": 64, "grid": 4, "seed": 0}


def opened(root, uri="embedded", teachers="xfeat", **changes):
    return open_targets(uri, teachers, root=root, **{**SIZES, **changes})


@pytest.fixture(scope="module")
def root(tmp_path_factory, teachers):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def targets(root):
    return opened(root, teachers="lite0,xfeat")


def test_shapes_and_kinds(targets):
    for split, count in ((targets.train, 48), (targets.val, 20)):
        assert len(split) == count
        assert (split.images.shape, split.images.dtype) == ((count, 3, 64, 64), np.uint8)
        assert (split.masks.shape, split.masks.dtype) == ((count, 64, 64), np.uint8)
        assert (split.labels.shape, split.labels.dtype) == ((count,), np.int64)
        for name, about in targets.teachers.items():
            assert split.summary[name].shape == (count, about.summary_dim)
            assert split.spatial[name].shape == (count, about.spatial_dim, 4, 4)
            assert split.spatial[name].dtype == np.float16
    assert (targets.num_classes, targets.mask_classes) == (15, 16)
    assert isinstance(targets.train.images, np.memmap)
    assert targets.build_seconds > 0


def test_train_targets_have_mean_0_and_variance_1(targets):
    for name in targets.teachers:
        for values in (targets.train.summary[name], targets.train.spatial[name]):
            channels = np.moveaxis(values.astype(np.float64), 1, -1).reshape(-1, values.shape[1])
            np.testing.assert_allclose(channels.mean(0), 0, atol=1e-3)
            np.testing.assert_allclose(channels.var(0), 1, rtol=5e-3)


def test_inverted_targets_are_the_live_teachers_features(targets, teachers):
    """Lite0 sees the 128 px original, XFeat the student's view; what PCA dropped is all that is lost."""
    images = open_images("embedded", "train", 48, 0, 128, None)
    source = torch.stack([torch.from_numpy(images.read(i).image.copy()).permute(2, 0, 1) for i in range(48)])
    np.testing.assert_array_equal(shrink(source, 64).numpy(), targets.train.images)
    for name, view in (("lite0", source), ("xfeat", torch.from_numpy(targets.train.images.copy()))):
        about = targets.teachers[name]
        live = np.moveaxis(to_grid(teachers[name](view.float() / 255).spatial, 4).numpy(), 1, -1).reshape(
            -1, len(about.spatial.mean)
        )
        stored = np.moveaxis(targets.train.spatial[name].astype(np.float64), 1, -1).reshape(-1, about.spatial_dim)
        lost = ((about.spatial.invert(stored) - live) ** 2).sum() / ((live - live.mean(0)) ** 2).sum()
        assert lost == pytest.approx(1 - about.spatial_kept, abs=1e-3)
        assert about.spatial_kept > 0.8


def test_second_open_builds_nothing_and_is_quick(root, targets):
    calls = []
    started = time.perf_counter()
    again = opened(root, teachers="lite0,xfeat", progress=lambda *call: calls.append(call), verify=True)
    assert time.perf_counter() - started < 1.5
    assert calls == []
    assert again.fingerprint == targets.fingerprint


@pytest.mark.parametrize(
    "change", [{"grid": 2}, {"seed": 1}, {"train_images": 47}, {"teachers": "hed"}, {"image_px": 32}]
)
def test_whatever_changes_the_content_changes_the_folder(root, change, monkeypatch):
    """Only the name is wanted, so building is cut short."""
    names = set()
    monkeypatch.setattr("nas.cache.opening.build_once", lambda folder, plan, progress: names.add(folder.name))
    monkeypatch.setattr("nas.cache.opening.load_targets", lambda folder, verify: names.add(folder.name))
    opened(root / "unused")
    opened(root / "unused", **change)
    assert len(names) == 2


def test_progress_counts_every_image(tmp_path, teachers):
    calls = []
    opened(tmp_path, progress=lambda *call: calls.append(call))
    assert ("teachers on train images", 48, 48) in calls
    assert ("teachers on val images", 20, 20) in calls
    assert calls[-1] == ("standardise", 1, 1)


def test_a_truncated_file_is_refused_by_name(tmp_path, teachers):
    path = opened(tmp_path).folder / "train-xfeat-spatial.npy"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(
        CacheError, match=r"train-xfeat-spatial.npy is truncated or altered \(\d+ bytes, not \d+\); delete"
    ):
        opened(tmp_path)


def test_a_missing_file_is_refused_by_name(tmp_path, teachers):
    (opened(tmp_path).folder / "val-labels.npy").unlink()
    with pytest.raises(CacheError, match=r"val-labels.npy .*missing"):
        opened(tmp_path)


def test_one_altered_byte_is_found_when_asked_for(tmp_path, teachers):
    path = opened(tmp_path).folder / "val-images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheError, match=r"val-images.npy is altered"):
        opened(tmp_path, verify=True)


def test_a_broken_manifest_is_refused(tmp_path, teachers):
    path = opened(tmp_path).folder / "manifest.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(CacheError, match=r"manifest.json is unreadable; delete"):
        opened(tmp_path)


def test_an_interrupted_build_leaves_nothing_and_the_next_one_succeeds(tmp_path, teachers):
    def interrupt(stage, done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path, progress=interrupt)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []
    assert len(opened(tmp_path).train) == 48


def build_elsewhere(root, results):
    built = []
    targets = opened(root, progress=lambda *call: built.append(call))
    results.put((targets.fingerprint, bool(built)))


def test_two_processes_build_once(tmp_path, teachers):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=build_elsewhere, args=(tmp_path, results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=50) for _ in processes]
    for process in processes:
        process.join()
    assert len({fingerprint for fingerprint, _ in found}) == 1
    assert sorted(built for _, built in found) == [False, True]


def test_undecodable_images_are_skipped_and_named(tmp_path, teachers):
    images = open_images("embedded", "train", 40, 0, 64, None)
    from PIL import Image

    source = tmp_path / "images"
    source.mkdir()
    for i in range(40):
        Image.fromarray(images.read(i).image).save(source / f"{i}.png")
    chosen = open_images(f"imagefolder:{source}", "train", 20, 0, 64, None).names[3]
    (source / chosen).write_bytes(b"no image")
    targets = opened(tmp_path, uri=f"imagefolder:{source}", train_images=20, val_images=20)
    assert len(targets.train) == len(targets.train.summary["xfeat"]) == 19
    assert len(targets.skipped) == 1
    assert chosen in targets.skipped[0]
    assert targets.train.labels is None
    assert targets.num_classes is None


def test_what_cannot_be_written_is_one_line(tmp_path, teachers):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="cannot build"):
        opened(tmp_path / "file")


def test_impossible_grids_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(CacheError, match="grid: 0 is not possible"):
        opened(tmp_path, grid=0)
    with pytest.raises(DataError, match="no such folder"):
        opened(tmp_path, uri="imagefolder:/no/such")


def test_the_manifest_lists_every_file(targets):
    manifest = json.loads((targets.folder / "manifest.json").read_text())
    assert set(manifest["files"]) == {path.name for path in targets.folder.iterdir()} - {"manifest.json"}
