"""Sharded arrays read like one numpy array; codecs lose half a step at most."""

import resource
import sys
import tomllib

import numpy as np
import pytest
import torch

from nas.cache import CacheError, shards
from nas.cache.codecs import CODECS
from nas.cache.images import map_in_order
from nas.cache.shards import ArrayWriter, ShardedArray, read_rows
from nas.search.options import recipe_path
from nas.teachers import specs

rng = np.random.default_rng(0)


@pytest.fixture
def sharded(tmp_path):
    """Rows 0..9 in files of 4, 4 and 2."""
    rows = np.arange(10 * 3).reshape(10, 3)
    paths = [tmp_path / f"{number}.npy" for number in range(3)]
    for path, part in zip(paths, np.split(rows, [4, 8]), strict=True):
        with ArrayWriter(path, np.int64, (3,)) as writer:
            for row in part:
                writer.append(row[None])
    return ShardedArray(paths, [4, 4, 2]), rows


@pytest.mark.parametrize(
    "index",
    [slice(None), slice(3, 9), slice(8, 100), slice(2, 2), slice(9, 0, -2), [7, 0, 7, 3], [-1, -10], []],
    ids=str,
)
def test_rows_are_those_of_one_array(sharded, index):
    array, rows = sharded
    index = np.array(index, dtype=int) if isinstance(index, list) else index
    selected = array[index]
    np.testing.assert_array_equal(selected, rows[index])
    assert selected.dtype == rows.dtype
    selected[:] = 0  # a copy: the file does not change
    np.testing.assert_array_equal(array[index], rows[index])


def test_length_shape_and_whole(sharded):
    array, rows = sharded
    assert len(array) == 10
    assert array.shape == (10, 3)
    np.testing.assert_array_equal(np.asarray(array, dtype=np.float32), rows)


@pytest.mark.parametrize("index", [[10], [-11]])
def test_missing_rows_are_refused(sharded, index):
    with pytest.raises(IndexError):
        sharded[0][np.array(index)]


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("shape", [(), (3,), (2, 5, 5)])
def test_a_flipped_bit_is_refused_when_its_row_is_read_and_not_before(tmp_path, shape):
    path, rows = tmp_path / "x" / "rows.npy", rng.integers(0, 99, (8, *shape))
    path.parent.mkdir()
    with ArrayWriter(path, np.int64, shape) as writer:
        writer.append(rows[:5])
        writer.append(rows[5:])
    size = rows[0].nbytes
    flip(path, 128 + 5 * size + size // 2)
    array = ShardedArray([path], [8])
    np.testing.assert_array_equal(array[np.array([7, 0, 4])], rows[[7, 0, 4]])
    for _ in range(2):
        with pytest.raises(CacheError, match=r"rows.npy is altered \(row 5 .*; delete the file"):
            array[np.array([0, 5])]


@pytest.mark.parametrize("place", [0, 30, 127])
def test_a_damaged_header_is_refused(tmp_path, place):
    """Also where it names another type or shape of as many bytes."""
    path = tmp_path / "rows.npy"
    with ArrayWriter(path, np.int64, (3,)) as writer:
        writer.append(rng.integers(0, 99, (4, 3)))
    flip(path, place)
    with pytest.raises(CacheError, match=r"rows.npy is "):
        ShardedArray([path], [4])[:]


@pytest.mark.parametrize("bytes_left", [0, 100, 128 + 96 + 15])
def test_a_truncated_file_is_refused(tmp_path, bytes_left):
    path = tmp_path / "rows.npy"
    with ArrayWriter(path, np.int64, (3,)) as writer:
        writer.append(rng.integers(0, 99, (4, 3)))
    path.write_bytes(path.read_bytes()[:bytes_left])
    with pytest.raises(CacheError, match=r"rows.npy is "):
        ShardedArray([path], [4])[:]


def test_a_file_is_opened_once(sharded):
    """A training on millions of images maps 1,500 files in one step, from a network file system perhaps."""
    array, rows = sharded
    opened, watched = [], set(map(str, array.paths))

    def hear(event, args):
        if event == "open" and str(args[0]) in watched and args[1]:  # an opener's own event has no mode
            opened.append(str(args[0]))

    sys.addaudithook(hear)
    np.testing.assert_array_equal(array[:], rows)
    assert sorted(opened) == sorted(watched)
    watched.clear()  # the hook stays until the process ends


def test_the_files_of_a_recipe_for_one_node_stay_mapped(monkeypatch):
    """Of a system with the usual limits: 65,530 maps of a process, and as many open files as it likes."""
    recipe = tomllib.loads(recipe_path("imagenet-8a100").read_text())
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, resource.RLIM_INFINITY))
    raised = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: raised.append(limits))
    arrays = 2 + sum(width > 0 for spec in specs(recipe["teachers"]) for width in spec.widths)  # pixels, labels, heads
    files = sum(-(-count // 256) * arrays for count in (recipe["train_images"], recipe["val_images"]))
    assert files <= shards.max_mapped_files() < 0.75 * 65_530
    assert raised == [(2 * shards.max_mapped_files(), resource.RLIM_INFINITY)] * len(raised)


def test_a_file_gets_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "rows.npy"
    with ArrayWriter(path, np.uint8, (2,)) as writer:
        writer.append(np.zeros((3, 2)))
        assert not path.exists()
    assert list(tmp_path.iterdir()) == [path]
    with (
        pytest.raises(ValueError, match="rows of shape"),
        ArrayWriter(tmp_path / "other.npy", np.uint8, (2,)) as writer,
    ):
        writer.append(np.zeros((3, 4)))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (6, 8, 2, 2), (6, 7)])
@pytest.mark.parametrize("storage", CODECS)
def test_tensors_are_decoded_to_the_same_bits_as_arrays(storage, shape):
    values = rng.standard_normal(shape).astype(np.float32) * 3
    codec = CODECS[storage](np.abs(values).max(axis=(0, *range(2, values.ndim))))
    codes = codec.encode(values)
    assert np.array_equal(codec.decode_tensor(torch.from_numpy(codes)).numpy(), codec.decode(codes))


def test_rows_are_decoded(tmp_path):
    values = rng.standard_normal((6, 5, 2, 2)).astype(np.float32)
    codec = CODECS["int8"](np.abs(values).max((0, 2, 3)))
    with ArrayWriter(tmp_path / "rows.npy", np.int8, (5, 2, 2)) as writer:
        writer.append(codec.encode(values))
    array = ShardedArray([tmp_path / "rows.npy"], [6], codec)
    assert array.shape == values.shape
    assert array[2:4].shape == (2, 5, 2, 2)
    assert array.stored(slice(2, 4)).dtype == np.int8
    assert np.array_equal(read_rows(array, np.array([3, 1])).numpy(), array[np.array([3, 1])])
    plain = np.arange(6.0).reshape(3, 2)
    read_rows(plain, slice(1, 3)).zero_()
    assert plain.sum() == 15, "a tensor has a copy of the rows"


def test_int8_is_off_by_half_a_step_and_clips_larger_values():
    values = rng.standard_normal((50, 6, 4, 4)).astype(np.float32)
    largest = np.abs(values).max((0, 2, 3))
    codec = CODECS["int8"](largest)
    codes = codec.encode(values)
    assert codes.dtype == np.int8
    half = (largest / 254)[:, None, None]
    assert (np.abs(codec.decode(codes) - values) <= half * 1.0001).all()
    assert codec.clipped(values) == 0
    tight = CODECS["int8"](largest / 2)
    assert tight.clipped(values) == (np.abs(values) > largest[:, None, None] / 2 * 127.5 / 127).sum() > 0
    np.testing.assert_allclose(np.abs(tight.decode(tight.encode(values))).max((0, 2, 3)), largest / 2, rtol=1e-6)


def test_bf16_rounds_to_nearest_even_and_decodes_exactly():
    torch = pytest.importorskip("torch")
    values = np.concatenate([rng.standard_normal(1000) * 10.0 ** rng.integers(-20, 20, 1000), [0, 1, -1, 1 + 2**-8]])
    values = values.astype(np.float32)[:, None]
    codec = CODECS["bf16"](np.ones(1, np.float32))
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(codec.decode(codec.encode(values)), expected)
    np.testing.assert_array_equal(codec.encode(expected), codec.encode(values))


def test_fp32_is_exact():
    values = rng.standard_normal((5, 3)).astype(np.float32)
    codec = CODECS["fp32"](np.ones(3, np.float32))
    np.testing.assert_array_equal(codec.decode(codec.encode(values)), values)


def test_at_most_one_batch_per_thread_is_computed_ahead():
    """Memory does not grow with the number of batches."""
    import torch

    begun = []
    for taken, _ in enumerate(map_in_order(begun.append, range(200))):
        assert len(begun) - taken <= torch.get_num_threads() + 1
    assert sorted(begun) == list(range(200))
