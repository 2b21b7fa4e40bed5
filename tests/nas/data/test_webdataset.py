"""WebDataset shards on disk: what is read, how labels, names and masks are found, what is refused."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from nas.data import IGNORE_LABEL, DataError, absolute_uri, check_uri, open_images, webdataset
from nas.data.dataset import shuffled
from nas.data.webdataset import shard_name
from tests.nas.data.builders import SHARED, encoded, png, whole, write_shard


def both(uri, seed=0, count=None, size_px=32):
    return [open_images(uri, split, count, seed, size_px, Path("unused")) for split in ("train", "val")]


def labeled(first, count):
    return {f"{first + i:03}": {"png": png(10 * i), "cls": str(i).encode()} for i in range(count)}


def keys(images):
    return [sample.key for sample in images.samples]


def test_braces_labels_and_masks(tmp_path):
    for shard in range(2):
        samples = labeled(10 * shard, 5)
        for i, fields in enumerate(samples.values()):
            fields["mask.png"] = png(i, mode="L")
        write_shard(tmp_path / f"s-{shard}.tar", samples)
    write_shard(tmp_path / "train.tar", samples)
    train, val = both(f"webdataset:{tmp_path}/train.tar::{tmp_path}/s-{{0..1}}.tar")
    assert (len(train), len(val)) == (5, 10)
    assert (train.num_classes, train.class_names, train.mask_classes) == (5, None, 5)
    for i in range(10):
        sample = val.read(i)
        assert sample.image[0, 0, 0] == 10 * sample.label
        assert np.unique(sample.mask).tolist() == [sample.label]


def test_one_pattern_is_split_by_key(tmp_path):
    write_shard(tmp_path / "a.tar", {f"{i:03}": {"png": png(i)} for i in range(40)})
    train, val = both(f"webdataset:{tmp_path}/a.tar")
    assert len(train) + len(val) == 40
    assert not set(keys(train)) & set(keys(val))
    assert train.num_classes is None
    assert not train.has_masks


def test_only_as_many_shards_as_the_count_asks_for_in_an_order_of_the_seed(tmp_path):
    for shard in (*(f"s-{number}" for number in range(8)), "val"):
        write_shard(tmp_path / f"{shard}.tar", labeled(0, 4))
    uri = f"webdataset:{tmp_path}/s-*.tar::{tmp_path}/val.tar"
    first = [both(uri, seed=seed, count=6)[0] for seed in range(6)]
    assert all(len(images) == 6 and len(images.paths) == 2 for images in first)
    assert len({images.paths for images in first}) > 1
    assert keys(first[0]) == keys(both(uri, seed=0, count=6)[0])
    assert set(keys(first[0])) < set(keys(both(uri, seed=0, count=7)[0]))
    assert len({images.fingerprint for images in first}) == 6


def test_shards_that_differ_in_what_a_url_asks_for_are_shuffled_and_signatures_do_not_matter():
    shards = [f"https://host/get?f={number:02d}" for number in range(20)]
    orders = [shuffled(shards, seed, shard_name) for seed in (0, 1)]
    assert shards != orders[0] != orders[1] != shards
    signed = [f"https://host/{n}.tar?sv=1&se={n}&sig={n}{n}" for n in range(20)]
    assert [shard_name(shard) for shard in signed] == [f"{n}.tar" for n in range(20)]
    assert shard_name("/data/a/0001.tar") == "0001.tar"


def test_patterns_of_paths_become_absolute_and_urls_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mixed = "webdataset:a/{0..3}.tar::https://me:x@host/{0..9}.tar?s=1#ignore=0,255"
    assert (
        absolute_uri(mixed) == f"webdataset:{tmp_path}/a/{{0..3}}.tar::https://me:x@host/{{0..9}}.tar?s=1#ignore=0,255"
    )
    for uri in ("builtin", "cifar10", "webdataset:/x/*.tar", "webdataset:{/x,/y}/0.tar", "webdataset:${D}/0.tar"):
        assert absolute_uri(uri) == uri


def test_a_shard_that_is_written_anew_is_read_anew(tmp_path):
    write_shard(tmp_path / "a.tar", labeled(0, 3))
    uri = whole(tmp_path / "a.tar")
    before, _ = both(uri)
    write_shard(tmp_path / "a.tar", labeled(0, 5))
    after, _ = both(uri)
    assert (len(before), len(after)) == (3, 5)
    assert before.fingerprint != after.fingerprint


@pytest.mark.parametrize("field", ["cls", "png", "mask.png"])
def test_a_shard_with_another_member_in_its_middle_is_other_data(tmp_path, field):
    """The tar's size, its first and its last 64 KiB are as before: only one member differs."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    samples = {f"{i:02}": {"png": encoded(noise), "cls": b"3", "mask.png": png(1, mode="L")} for i in range(20)}
    write_shard(tmp_path / "a.tar", samples)
    uri = whole(tmp_path / "a.tar")
    before, old = both(uri)[0], (tmp_path / "a.tar").read_bytes()
    samples["10"][field] = b"2" if field == "cls" else samples["10"][field] + b"\0"
    write_shard(tmp_path / "a.tar", samples)
    os.utime(tmp_path / "a.tar", ns=(0, 0))
    after, new = both(uri)[0], (tmp_path / "a.tar").read_bytes()
    assert (len(old), old[:65536], old[-65536:]) == (len(new), new[:65536], new[-65536:])
    assert old != new
    assert before.fingerprint != after.fingerprint


def test_a_sample_that_a_tar_holds_twice_is_the_later_one(tmp_path):
    """As tar itself unpacks it; the image, label and mask of one sample belong together."""
    write_shard(tmp_path / "a.tar", labeled(0, 3))
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        for field, content in (("png", png(77)), ("cls", b"7")):
            info = tarfile.TarInfo(f"001.{field}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    train, _ = both(whole(tmp_path / "a.tar"))
    read = {train.samples[i].key: train.read(i) for i in range(len(train))}
    assert {key: (int(sample.image[0, 0, 0]), sample.label) for key, sample in read.items()} == {
        "a.tar/000": (0, 0),
        "a.tar/001": (77, 7),
        "a.tar/002": (20, 2),
    }
    assert train.notes == ("left out: 2 files that a later one of the same name replaces, as 'a.tar/001.png'",)


def test_members_whose_names_are_no_utf8(tmp_path):
    write_shard(tmp_path / "a.tar", {f"caf\udce9{i}": {"png": png(i), "CLS": b"1"} for i in range(30)})
    train, val = both(f"webdataset:{tmp_path}/a.tar")
    assert (len(train) + len(val), train.num_classes) == (30, 2)
    assert len(train.fingerprint) == 16


def test_equal_names_in_two_folders_stay_apart(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_shard(tmp_path / folder / "0.tar", labeled(0, 3))
    write_shard(tmp_path / "val.tar", labeled(0, 3))
    train, _ = both(f"webdataset:{tmp_path}/{{a,b}}/0.tar::{tmp_path}/val.tar")
    assert len(train) == 6


def test_classes_json_names_the_labels(tmp_path):
    write_shard(tmp_path / "a.tar", labeled(0, 3))
    uri = whole(tmp_path / "a.tar")
    unnamed, _ = both(uri)
    (tmp_path / "classes.json").write_text(json.dumps(["cat", "dog", "hen", "fox"]))
    named, _ = both(uri)
    assert (unnamed.num_classes, unnamed.class_names) == (3, None)
    assert (named.num_classes, named.class_names) == (4, ("cat", "dog", "hen", "fox"))
    assert named.fingerprint != unnamed.fingerprint
    (tmp_path / "classes.json").write_text(json.dumps(["cat", "dog"]))
    with pytest.raises(DataError, match=r"a.tar/002 has the label 2; classes.json allows 0 to 1"):
        both(uri)


@pytest.mark.parametrize("content", ['{"cat": 0}', "[1, 2]", "[]", "not JSON", b"\xff\xfe"])
def test_a_classes_json_that_is_no_list_of_names_is_refused(tmp_path, content):
    write_shard(tmp_path / "a.tar", labeled(0, 3))
    (tmp_path / "classes.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=r"classes.json'"):
        both(whole(tmp_path / "a.tar"))


def test_labels_in_json(tmp_path):
    samples = {"a": {"label": 4}, "b": {"cls": 2, "caption": "a hen"}}
    write_shard(
        tmp_path / "a.tar", {key: {"png": png(0), "json": json.dumps(s).encode()} for key, s in samples.items()}
    )
    train, _ = both(whole(tmp_path / "a.tar"))
    assert sorted(train.read(i).label for i in range(2)) == [2, 4]
    assert train.num_classes == 5


@pytest.mark.parametrize("label", [b"dog", b"-2", b"1.5", b"", "٣".encode(), b"9" * 5000, b"1000000"])
def test_a_label_that_is_no_class_index_is_named(tmp_path, label):
    write_shard(tmp_path / "a.tar", {"x": {"png": png(0), "cls": label}})
    with pytest.raises(DataError, match=r"a.tar/x.cls holds the label .*; allowed: integers from 0"):
        both(whole(tmp_path / "a.tar"))


NO_LABELS = [None, "a hen", "", -1, 1.5, True, [3], {"en": 3}, 1_000_000, "9" * 5000]


@pytest.mark.parametrize("value", NO_LABELS, ids=lambda value: type(value).__name__)
def test_what_is_no_class_index_in_json_is_no_label(tmp_path, value):
    """Nor are the other samples' labels used: class indices of a part of the images would score another data set."""
    abouts = {"x": {"label": value}, "y": {"label": 1}, "z": {"label": value, "cls": "2"}}
    samples = {key: {"png": png(0), "json": json.dumps(about).encode()} for key, about in abouts.items()}
    write_shard(tmp_path / "a.tar", samples)
    train, _ = both(whole(tmp_path / "a.tar"))
    assert {sample.key: sample.label for sample in train.samples} == {"a.tar/x": None, "a.tar/y": 1, "a.tar/z": 2}
    assert (len(train), train.num_classes, train.read(1).label) == (3, None, None)
    why = ["left out: 1 label other than an integer from 0 to 999,999, as 'a.tar/x'"] if value is not None else []
    assert list(train.notes) == [*why, "labels are not used: 1 of 3 samples has no label, as 'a.tar/x'"]


def test_minus_one_means_no_label(tmp_path):
    samples = {"x": {"png": png(0), "cls": b"-1\n"}, "y": {"png": png(0), "cls": b"-1", "json": b'{"label": 7}'}}
    write_shard(tmp_path / "a.tar", samples)
    train, _ = both(whole(tmp_path / "a.tar"))
    assert {sample.key: sample.label for sample in train.samples} == {"a.tar/x": None, "a.tar/y": 7}
    assert train.num_classes is None


@pytest.mark.parametrize(("field", "content"), [("cls", b"1"), ("mask.png", png(1, mode="L"))])
def test_labels_or_masks_of_some_samples_are_not_used_with_a_note(tmp_path, field, content):
    write_shard(tmp_path / "a.tar", {"x": {"png": png(0), field: content}, "y": {"png": png(1)}})
    train, _ = both(whole(tmp_path / "a.tar"))
    what = "label" if field == "cls" else "mask"
    assert train.notes == (f"{what}s are not used: 1 of 2 samples has no {what}, as 'a.tar/y'",)
    assert (len(train), train.num_classes, train.has_masks) == (2, None, False)
    assert [train.read(i).label for i in range(2)] == [None, None]
    assert [train.read(i).mask for i in range(2)] == [None, None]


@pytest.fixture
def masked(tmp_path):
    """20 images whose masks hold 0, i % 4 and the void value 9."""
    samples = {}
    for i in range(20):
        mask = np.zeros((30, 30), dtype=np.uint8)
        mask[10:20], mask[20:] = i % 4, 9
        samples[f"{i:02}"] = {"png": png(i), "mask.png": encoded(mask)}
    write_shard(tmp_path / "a.tar", samples)
    return whole(tmp_path / "a.tar")


def test_ignored_mask_values_are_void(masked):
    plain, _ = both(masked)
    ignoring, _ = both(f"{masked}#ignore=9")
    twice, _ = both(f"{masked}#ignore=3,9")
    assert [images.mask_classes for images in (plain, ignoring, twice)] == [10, 4, 3]
    assert plain.fingerprint != ignoring.fingerprint
    for i in range(20):
        before, after = plain.read(i).mask, ignoring.read(i).mask
        np.testing.assert_array_equal(after == IGNORE_LABEL, before == 9)
        np.testing.assert_array_equal(after[before != 9], before[before != 9])


@pytest.mark.parametrize("value", ["256", "3,"])
def test_impossible_ignore_values_are_refused(masked, value):
    with pytest.raises(DataError, match="is not a mask value; allowed: 0 to 255"):
        both(f"{masked}#ignore={value}")


def test_masks_have_at_most_255_classes_for_255_is_void(masked, tmp_path):
    (tmp_path / "classes.json").write_text(json.dumps([f"kind {n}" for n in range(300)]))
    train, _ = both(masked)
    assert train.mask_classes == 255


def test_masks_are_counted_exactly_in_small_sets_and_sampled_in_large_ones(masked, monkeypatch):
    assert both(f"{masked}#ignore=9")[0].mask_classes == 4
    read = []
    decode_mask = webdataset.decode_mask
    monkeypatch.setattr(webdataset, "MAX_COUNTED_MASKS", 5)
    monkeypatch.setattr(webdataset, "decode_mask", lambda source, name: read.append(name) or decode_mask(source, name))
    assert both(masked)[0].mask_classes == 10
    assert len(read) == 5


@pytest.mark.parametrize(
    "pattern",
    ["*.tar::val-*.tar", "{train,val-0,val-1}.tar::./val-1.tar", "train.tar::link.tar"],
)
def test_a_shard_of_both_splits_is_refused(tmp_path, monkeypatch, pattern):
    """Held-out images would be trained on."""
    for name in ("train", "val-0", "val-1"):
        write_shard(tmp_path / f"{name}.tar", labeled(0, 3))
    (tmp_path / "link.tar").symlink_to("train.tar")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"TRAIN and VAL share [12] shards?, as '.*': held-out") as caught:
        check_uri(f"webdataset:{pattern}#ignore=0")
    assert "\n" not in str(caught.value)
    check_uri("webdataset:train.tar::val-*.tar")


def test_a_url_of_both_splits_is_refused_whatever_its_signature():
    signed = "https://me:secret@host/{0..9}.tar?sv=1&se=1&sig=secret::https://me:secret@host/{7..12}.tar?sv=1&se=2&sig=secret"
    with pytest.raises(DataError, match=r"share 3 shards, as 'https://host/7.tar'") as caught:
        check_uri(f"webdataset:{signed}")
    assert "secret" not in str(caught.value)
    check_uri("webdataset:https://host/get?f={0..9}::https://host/get?f=1{0..9}")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("pipe:cat a.tar", "'pipe:' would run a shell command; allowed: paths, http:// and https://"),
        ("s3://bucket/a.tar", "'s3://' cannot be read; allowed: paths, http:// and https://"),
        ("https://user:secret@host/*.tar?sign=secret", "'https://host/.*a server lists no files; use {0000..0099}"),
        ("/no/{0..3.tar", "cannot read the pattern '/no/{0..3.tar'"),
        ("/no/such-{0..1}.tar", "no such shard '/no/such-0.tar'"),
        ("/no/${unset}.tar", "missing environment variable"),
        ("/no/a.tar::", "'/no/a.tar::': allowed: PATTERN or TRAIN::VAL"),
        ("/no/{a..z}{a..z}{a..z}{a..z}{a..z}.tar", "more than 1,000,000 shards"),
        ("/no/{0..9,a,{b,c{0..99999}}}{0..9}.tar", "more than 1,000,000 shards"),
    ],
)
def test_patterns_that_cannot_be_read(argument, message):
    with pytest.raises(DataError, match=message) as caught:
        both(f"webdataset:{argument}")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.skipif(not (SHARED / "cifar10").is_dir(), reason=f"no {SHARED}/cifar10: set BACKBONE_NAS_SHARED")
def test_cifar10_shards():
    root = SHARED / "cifar10"
    train, val = both(f"webdataset:{root}/train-*.tar::{root}/val-*.tar")
    assert (len(train), len(val), train.num_classes) == (10000, 2000, 10)
    assert train.class_names == val.class_names == tuple(json.loads((root / "classes.json").read_text()))
    for images, each in ((train, 1000), (val, 200)):
        assert np.bincount([sample.label for sample in images.samples]).tolist() == [each] * 10
    assert train.read(0).image.std() > 5


@pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason=f"no {SHARED}/camvid: set BACKBONE_NAS_SHARED")
def test_camvid_masks_and_their_void():
    root = SHARED / "camvid"
    train, val = both(f"webdataset:{root}/train-*.tar::{root}/val-*.tar#ignore=11", size_px=64)
    assert (len(train), len(val), train.num_classes, train.mask_classes, val.mask_classes) == (200, 100, None, 11, 11)
    seen = set().union(*(np.unique(train.read(i).mask).tolist() for i in range(20)))
    assert IGNORE_LABEL in seen
    assert seen - {IGNORE_LABEL} <= set(range(11))


def test_a_whole_number_that_json_has_as_a_float_is_a_label(tmp_path):
    """pandas writes it so where another row has none."""
    write_shard(tmp_path / "a.tar", {key: {"png": png(0), "json": b'{"label": %s.0}' % key.encode()} for key in "56"})
    train, _ = both(whole(tmp_path / "a.tar"))
    assert {sample.label for sample in train.samples} == {5, 6}
