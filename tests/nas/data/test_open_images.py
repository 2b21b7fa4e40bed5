"""Images a person brings: folders, CIFAR-10; what is split, what is labeled, what is refused."""

import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from nas.data import CorruptImage, DataError, dataset, open_images
from nas.data.cifar import FOLDER
from tests.nas.data.builders import encoded, png, whole, write_shard
from tests.waiting import PATIENCE_S


@pytest.fixture
def folder(tmp_path):
    for name, base in (("cat", 0), ("dog", 100)):
        (tmp_path / name).mkdir()
        for i in range(30):
            (tmp_path / name / f"{i:02}.png").write_bytes(png(base + i))
    return tmp_path


def both(uri, seed=0, count=None, size_px=32):
    return [open_images(uri, split, count, seed, size_px, Path("unused")) for split in ("train", "val")]


def test_an_image_is_on_the_same_side_in_every_process():
    assert [n for n in range(12) if dataset.held_out(f"{n}.png")] == [4, 9]


def test_imagefolder_labels_by_subfolder_and_splits_without_overlap(folder):
    train, val = both(f"imagefolder:{folder}")
    assert len(train) + len(val) == 60
    assert len(val) >= 3
    assert not set(train.names) & set(val.names)
    assert train.num_classes == 2
    assert train.class_names == ("cat", "dog")
    for i in range(len(val)):
        sample = val.read(i)
        assert sample.image.shape == (32, 32, 3)
        assert sample.label == int(sample.image[0, 0, 0] >= 100)
        assert sample.mask is None


def test_imagefolder_fingerprint_follows_the_content(folder):
    train, _ = both(f"imagefolder:{folder}")
    before = train.fingerprint
    (folder / train.names[0]).write_bytes(png(255))
    again, _ = both(f"imagefolder:{folder}")
    assert again.fingerprint != before


def test_files_are_asked_for_their_identity_together_and_keep_their_order(folder, monkeypatch):
    paths = sorted(folder.glob("*/*.png"))
    one_by_one = [dataset.file_identity(path) for path in paths]
    monkeypatch.setattr(dataset, "_FILES_A_TASK", 7)
    assert dataset.identities(paths) == one_by_one
    assert dataset.identities([]) == []
    two = threading.Barrier(2, timeout=PATIENCE_S)
    monkeypatch.setattr(dataset, "file_identity", lambda path: f"{two.wait() >= 0} {path.name}")
    assert dataset.identities(paths[:14]) == [f"True {path.name}" for path in paths[:14]]


def test_imagefolder_without_subfolders_has_no_labels(tmp_path):
    for i in range(20):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    train, _ = both(f"imagefolder:{tmp_path}")
    assert train.num_classes is None
    assert train.class_names is None
    assert train.read(0).label is None


def test_imagefolder_follows_links_to_class_folders_and_images(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "dog").rename(elsewhere / "hounds")
    (folder / "dog").symlink_to(elsewhere / "hounds")
    (folder / "cat" / "00.png").rename(elsewhere / "0.png")
    (folder / "cat" / "00.png").symlink_to(elsewhere / "0.png")
    train, val = both(f"imagefolder:{folder}")
    assert len(train) + len(val) == 60
    assert train.class_names == ("cat", "dog")


def test_imagefolder_ends_at_links_that_lead_around_it(folder):
    (folder / "cat" / "all").symlink_to(folder)
    (folder / "dog" / "cats").symlink_to(folder / "cat")
    train, val = both(f"imagefolder:{folder}")
    assert sorted({*train.names, *val.names})[:30] == [f"cat/{i:02}.png" for i in range(30)]
    assert len(train) + len(val) == 90  # the cats are seen as dogs too, as the link says


def test_an_image_outside_of_the_class_folders_is_named(folder):
    (folder / "stray.png").write_bytes(png(0))
    train, val = both(f"imagefolder:{folder}")
    assert train.num_classes is None
    assert train.notes == val.notes == ("labels are not used: 'stray.png' lies in no class folder",)


def test_what_is_left_out_of_a_folder_is_noted_with_its_reason(folder, tmp_path_factory):
    """A pipe is never opened: it would wait for its writer."""
    os.mkfifo(folder / "cat" / "pipe.png")
    (folder / "cat" / "gone.png").symlink_to(folder / "nowhere")
    (folder / "cat" / "itself.png").symlink_to(folder / "cat" / "itself.png")
    (folder / "cat" / "all").symlink_to(folder)
    for name in ("b.gif", "a.gif", "README"):
        (folder / "dog" / name).write_text("")
    train, val = both(f"imagefolder:{folder}")
    assert len(train) + len(val) == train.available + val.available == 60
    assert train.class_names == ("cat", "dog")
    assert (
        train.notes
        == val.notes
        == (
            "left out: 2 files with the suffix .gif, as 'dog/a.gif'",
            "left out: 1 file without a suffix, as 'dog/README'",
            "left out: 1 link to a folder that contains it, as 'cat/all'",
            "left out: 2 links to missing files, as 'cat/gone.png'",
            "left out: 1 pipe, socket or device, as 'cat/pipe.png'",
        )
    )
    assert both(f"imagefolder:{folder}", count=3)[0].available == train.available


def test_a_folder_that_cannot_be_read_is_noted(folder, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read any folder
    train, val = both(f"imagefolder:{folder}")
    assert len(train) + len(val) == 30
    assert train.notes == ("left out: 1 folder that cannot be read (Permission denied), as 'dog'",)


def test_names_that_are_no_utf8_are_names_like_others(folder):
    """An old disk has Latin-1 names; Python shows such a byte as a lone surrogate."""
    for file in (folder / "cat").iterdir():
        file.rename(file.with_name(f"\udcfc{file.name}"))
    (folder / "cat").rename(folder / "caf\udce9")
    train, val = both(f"imagefolder:{folder}")
    assert len(train) + len(val) == 60
    assert train.class_names == ("caf ", "dog")  # as text for people
    assert {train.read(i).label for i in range(len(train))} == {0, 1}
    assert len(train.fingerprint) == 16


def test_a_train_folder_alone_is_split_and_is_no_class(folder):
    (folder / "train").mkdir()
    for name in ("cat", "dog"):
        (folder / name).rename(folder / "train" / name)
    train, val = both(f"imagefolder:{folder}")
    inside, _ = both(f"imagefolder:{folder}/train")
    assert (train.class_names, train.names, train.fingerprint) == (("cat", "dog"), inside.names, inside.fingerprint)
    assert len(train) + len(val) == 60
    (folder / "test").mkdir()
    (folder / "test" / "0.png").write_bytes(png(0))
    with pytest.raises(DataError, match=r"'train' and 'test' of .* would be two classes; call the held-out"):
        both(f"imagefolder:{folder}")


def test_imagefolder_with_train_and_val_folders(folder):
    """Validation labels follow the training folder's classes, even where validation lacks one."""
    for split, classes in (("train", ("cat", "dog", "fox")), ("val", ("dog", "fox"))):
        for i, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            (folder / split / name / "0.png").write_bytes(png(i))
    train, val = both(f"imagefolder:{folder}")
    assert (len(train), len(val)) == (3, 2)
    assert train.class_names == val.class_names == ("cat", "dog", "fox")
    assert sorted(val.read(i).label for i in range(2)) == [1, 2]
    (folder / "val" / "hen").mkdir()
    (folder / "val" / "hen" / "0.png").write_bytes(png(0))
    with pytest.raises(DataError, match=r"'.*/val/hen/0.png' is in no class folder of '.*/train'"):
        both(f"imagefolder:{folder}")


@pytest.mark.parametrize(("link", "target"), [("val", "train"), ("val/dog", "train/dog"), ("train/hen", "val/cat")])
def test_a_folder_of_both_splits_is_refused(tmp_path, link, target):
    """Held-out images would be trained on."""
    for name in ("train/cat", "train/dog", "val/cat"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "0.png").write_bytes(png(0))
    assert all(both(f"imagefolder:{tmp_path}"))
    if link == "val":
        shutil.rmtree(tmp_path / link)
    (tmp_path / link).symlink_to(tmp_path / target)
    with pytest.raises(DataError, match=r"/train' and '.*/val' both lead to '.*': held-out images would") as caught:
        both(f"imagefolder:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_a_truncated_image_is_named(folder):
    train, _ = both(f"imagefolder:{folder}")
    path = folder / train.names[0]
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(CorruptImage, match=train.names[0]):
        train.read(0)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("imagefolder:/no/such", "no such folder '/no/such'"),
        ("webdataset:/no/such-{0..1}.tar", "no such shard '/no/such-0.tar'"),
        ("imagenet", "unknown source 'imagenet'; choices: builtin, imagefolder:PATH"),
        ("imagefolder:", "unknown source"),
    ],
)
def test_missing_sources_are_one_line_errors(uri, message):
    with pytest.raises(DataError, match=message) as caught:
        both(uri)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="no images"):
        both(f"imagefolder:{tmp_path}")


def fake_cifar10(folder):
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    record = np.concatenate([[7], np.full(1024, 200), np.full(1024, 100), np.full(1024, 50)]).astype(np.uint8)
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        (folder / FOLDER / f"{name}.bin").write_bytes(record.tobytes() * 4)


def test_cifar10_reads_the_binary_records(tmp_path):
    fake_cifar10(tmp_path)
    train = open_images("cifar10", "train", None, 0, 32, tmp_path)
    sample = train.read(0)
    assert len(train) == 20
    assert sample.label == 7
    assert train.class_names[7] == "horse"
    assert sample.image[5, 5].tolist() == [200, 100, 50]


def test_cifar10_damaged_file_is_refused(tmp_path):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "test_batch.bin").write_bytes(b"\0" * 3000)
    with pytest.raises(DataError, match=r"test_batch.bin' is damaged"):
        open_images("cifar10", "val", None, 0, 32, tmp_path)


def test_two_processes_download_cifar10_once_and_see_whole_files(tmp_path, monkeypatch):
    """The archive is made here: the server is the boundary."""
    downloads = []

    def unpack(url, root, extract_root=None, md5=None):
        downloads.append(md5)
        fake_cifar10(tmp_path / "server")
        for file in (tmp_path / "server" / FOLDER).iterdir():
            target = Path(extract_root or root) / FOLDER / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            content = file.read_bytes()
            target.write_bytes(content[:3073])  # one record is there, and the file looks whole
            time.sleep(0.1)
            target.write_bytes(content)

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", unpack)
    with ThreadPoolExecutor(2) as pool:
        opened = list(
            pool.map(lambda split: open_images("cifar10", split, None, 0, 32, tmp_path / "cache"), ["train", "val"] * 2)
        )
    assert len(downloads) == 1
    assert [len(images) for images in opened] == [20, 4] * 2
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [f".{FOLDER}.lock", FOLDER]


@pytest.mark.parametrize("form", ["builtin", "imagefolder", "webdataset", "cifar10"])
@pytest.mark.parametrize("views", [1, 2])
def test_sizes_that_are_read_together_are_those_that_are_read_alone(tmp_path, form, views):
    rng = np.random.default_rng(0)
    photographs = [rng.integers(0, 256, (90, 120 + i, 3), dtype=np.uint8) for i in range(12)]
    if form == "imagefolder":
        for i, pixels in enumerate(photographs):
            (tmp_path / f"{i}.png").write_bytes(encoded(pixels))
    if form == "webdataset":
        mask = encoded(rng.integers(0, 5, (90, 120), dtype=np.uint8))
        write_shard(
            tmp_path / "a.tar", {f"{i}": {"png": encoded(p), "seg.png": mask} for i, p in enumerate(photographs)}
        )
    if form == "cifar10":
        fake_cifar10(tmp_path)
    uri = {"imagefolder": f"imagefolder:{tmp_path}"}.get(form, form)
    if form == "webdataset":
        uri = whole(tmp_path / "a.tar")
    together, *alone = (open_images(uri, "train", 4, 0, px, tmp_path, views=views) for px in (64, 32, 64, 256))
    for i in (0, len(together) - 1):
        samples = together.read_sizes(i, [32, 64, 256])
        assert list(samples) == [32, 64, 256]
        for sample, images in zip(samples.values(), alone, strict=True):
            expected = images.read(i)
            np.testing.assert_array_equal(sample.image, expected.image)
            np.testing.assert_array_equal(sample.mask, expected.mask)
            assert sample.label == expected.label
    for images in alone:
        other = together.at_size(images.size_px)
        assert (other.size_px, other.fingerprint, len(other)) == (images.size_px, images.fingerprint, len(images))
