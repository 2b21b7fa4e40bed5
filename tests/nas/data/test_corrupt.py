"""Whatever a decoder or a tar reader meets, the message is one line with the name of the file."""

import errno
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nas.data import CorruptImage, DataError, open_images
from nas.data.dataset import RETRY_S, DataUnavailable, decode, decode_mask
from tests.nas.data.builders import encoded, png, whole, write_shard

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def png_bomb():
    """A few kilobytes that say they are 60,000 x 60,000 pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100000))
        + chunk(b"IEND", b"")
    )


BROKEN = {
    "truncated.jpg": encoded(NOISE, "jpeg")[:1500],
    "empty.png": b"",
    "bomb.png": png_bomb(),
    "text.jpg": b"<html>404 Not Found</html>",
    "cut.png": encoded(NOISE)[:2000],
}


def test_a_file_that_is_gone_ends_the_reading_by_name(tmp_path):
    for i in range(9):
        (tmp_path / f"{i}.png").write_bytes(png(0))
    images = open_images(f"imagefolder:{tmp_path}", "train", None, 0, 32, Path("unused"))
    for i in range(9):
        (tmp_path / f"{i}.png").unlink()
    assert len(images.fingerprint) == 16
    with pytest.raises(DataUnavailable, match=r"cannot read '/.*\d.png': No such file"):
        images.read(0)


def failing_reads(monkeypatch, times):
    """Let the next reads of files fail as a network disk does for a moment; return the seconds waited between them."""
    left, waited, opened = [times], [], Path.open

    def fail_at_first(path, *arguments):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return opened(path, *arguments)

    monkeypatch.setattr(Path, "open", fail_at_first)
    monkeypatch.setattr("nas.data.dataset.time.sleep", waited.append)
    return waited


@pytest.mark.parametrize("form", ["imagefolder", "webdataset"])
def test_a_read_that_fails_for_a_moment_is_tried_again(tmp_path, monkeypatch, form):
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    for split in ("train", "val"):
        (tmp_path / split / "x.png").write_bytes(png(7))
    write_shard(tmp_path / "a.tar", {"x": {"png": png(7)}})
    uri = f"imagefolder:{tmp_path}" if form == "imagefolder" else whole(tmp_path / "a.tar")
    images = open_images(uri, "train", None, 0, 32, Path("unused"))
    waited = failing_reads(monkeypatch, len(RETRY_S))
    assert (images.read(0).image == 7).all()
    assert waited == list(RETRY_S)
    failing_reads(monkeypatch, len(RETRY_S) + 1)
    with pytest.raises(DataUnavailable, match=r"cannot read '/.*(x.png|a.tar)': Input/output error"):
        images.read(0)


@pytest.mark.parametrize("form", ["imagefolder", "webdataset"])
def test_a_disk_that_is_away_for_a_moment_makes_no_other_data(tmp_path, monkeypatch, form):
    """Another fingerprint would let the teachers run again on all images."""
    for i in range(9):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    write_shard(tmp_path / "a.tar", {"x": {"png": png(7)}})
    uri = f"imagefolder:{tmp_path}" if form == "imagefolder" else whole(tmp_path / "a.tar")

    def opened():
        return open_images(uri, "train", None, 0, 32, Path("unused"))

    before, images = opened().fingerprint, opened()
    waited = failing_reads(monkeypatch, len(RETRY_S))
    assert images.fingerprint == before
    assert waited == list(RETRY_S)
    images = opened()
    failing_reads(monkeypatch, len(RETRY_S) + 1)
    with pytest.raises(DataUnavailable, match=r"cannot read '/.*(png|a.tar)': Input/output error"):
        _ = images.fingerprint


def test_a_folder_that_is_away_for_a_moment_is_not_left_out(tmp_path, monkeypatch):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(9):
            (tmp_path / name / f"{i}.png").write_bytes(png(i))
    scan, waited, left = os.scandir, [], [1]

    def fail_at_first(path):
        if Path(path).name == "dog" and left[0]:
            left[0] -= 1
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", fail_at_first)
    monkeypatch.setattr("nas.data.dataset.time.sleep", waited.append)
    images = open_images(f"imagefolder:{tmp_path}", "train", None, 0, 32, Path("unused"))
    assert (images.class_names, images.notes, waited) == (("cat", "dog"), (), [RETRY_S[0]])
    left[0] = len(RETRY_S) + 1
    with pytest.raises(DataUnavailable, match=r"cannot read '/.*dog': Stale file handle"):
        open_images(f"imagefolder:{tmp_path}", "train", None, 0, 32, Path("unused"))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_member_of_a_shard_is_corrupt_by_name(tmp_path, name):
    key, _, field = name.partition(".")
    write_shard(tmp_path / "a.tar", {key: {field: BROKEN[name]}})
    uri = whole(tmp_path / "a.tar")
    images = open_images(uri, "train", None, 0, 32, Path("unused"), views=2)
    with pytest.raises(CorruptImage, match=f"cannot decode image a.tar/{key}: ") as caught:
        images.read(1)
    assert "\n" not in str(caught.value)
    assert " at 0x" not in str(caught.value)  # it goes into a manifest


@pytest.mark.parametrize("mask", [b"", png(7), encoded(np.full((8, 8), 300, np.uint16)), encoded(NOISE)[:2000]])
def test_a_broken_mask_is_corrupt_by_name_and_does_not_stop_the_opening(tmp_path, mask):
    write_shard(
        tmp_path / "a.tar", {"x": {"png": png(0), "mask.png": mask}, "y": {"png": png(0), "mask.png": png(3, mode="L")}}
    )
    images = open_images(whole(tmp_path / "a.tar"), "train", None, 0, 32, Path("unused"))
    assert images.mask_classes == 4
    bad = next(i for i, sample in enumerate(images.samples) if sample.key.endswith("x"))
    with pytest.raises(CorruptImage, match=r"a.tar/x \(mask\): "):
        images.read(bad)
    assert images.read(1 - bad).mask.max() == 3


@pytest.mark.parametrize("cut", [0, 512, 1500, 2300])
def test_a_truncated_shard_is_refused_wherever_it_ends(tmp_path, cut):
    write_shard(tmp_path / "a.tar", {"x": {"png": png(0)}, "y": {"png": png(1)}})
    whole = (tmp_path / "a.tar").read_bytes()
    assert struct.unpack("<B", whole[2048:2049])[0] == 0  # the second member ends before: from here on, zeros
    (tmp_path / "a.tar").write_bytes(whole[:cut])
    with pytest.raises(DataError, match=r"cannot read shard '.*a.tar' as an uncompressed tar: ") as caught:
        open_images(f"webdataset:{tmp_path}/a.tar", "train", None, 0, 32, Path("unused"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"not a tar" * 200, b"\x1f\x8b" + b"z" * 2000, bytes(100)])
def test_a_file_that_is_no_tar_is_refused(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read shard '.*a.tar' as an uncompressed tar"):
        open_images(f"webdataset:{tmp_path}/a.tar", "train", None, 0, 32, Path("unused"))


def test_damage_inside_a_shard_is_not_taken_for_its_end(tmp_path):
    write_shard(tmp_path / "a.tar", {f"{i}": {"png": png(i)} for i in range(6)})
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[2048:2560] = b"\xff" * 512
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match="truncated or damaged at byte 2048"):
        open_images(f"webdataset:{tmp_path}/a.tar", "train", None, 0, 32, Path("unused"))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow mentions damaged metadata
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_flipped_bytes_give_an_image_or_a_name(data):
    kind = data.draw(st.sampled_from(["png", "jpeg", "webp", "bmp", "tiff"]))
    content = bytearray(encoded(NOISE, kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, min(len(content) - 1, 300)))] = data.draw(st.integers(0, 255))
    for read in (decode, decode_mask):
        message = "some/name"
        try:
            read(io.BytesIO(content), "some/name")
        except CorruptImage as error:
            message = str(error)
        assert "some/name" in message
        assert "\n" not in message


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "CMYK"])
def test_other_modes_become_rgb(mode):
    buffer = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(buffer, "tiff")
    assert decode(buffer, "x").mode == "RGB"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L"])
def test_transparent_pixels_are_white_not_their_hidden_color(mode):
    rgba = np.zeros((8, 8, 4), np.uint8)  # black, of which the left half is hidden
    rgba[:, 4:, 3] = 255
    rgba[0, 0] = (0, 0, 0, 128)
    image, options = Image.fromarray(rgba), {}
    if mode in ("P", "L"):  # one value or color is transparent
        image = Image.fromarray(np.repeat([[9] * 4 + [0] * 4], 8, 0).astype(np.uint8)).convert(mode)
        options = {"transparency": 9}
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, "png", **options)
    decoded = np.asarray(decode(buffer, "x"))
    assert decoded[1, 0].tolist() == [255, 255, 255]
    assert decoded[1, 7].tolist() == [0, 0, 0]
    assert mode in ("P", "L") or abs(int(decoded[0, 0, 0]) - 127) <= 1


def test_sixteen_bits_are_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    np.testing.assert_array_equal(np.asarray(decode(io.BytesIO(encoded(ramp)), "x"))[..., 0], ramp >> 8)


def test_sixteen_bits_of_either_byte_order_are_scaled():
    ramp = np.linspace(0, 65535, 256).astype(">u2").reshape(16, 16)
    with Image.open(io.BytesIO(encoded(ramp, "tiff"))) as image:
        assert image.mode == "I;16B"
    np.testing.assert_array_equal(np.asarray(decode(io.BytesIO(encoded(ramp, "tiff")), "x"))[..., 0], ramp >> 8)


@pytest.mark.parametrize("pixels", [np.ones((8, 8), np.float32), np.full((8, 8), 40000, np.int32)], ids=["F", "I"])
def test_numbers_without_a_range_are_no_black_or_white_image(pixels):
    with pytest.raises(CorruptImage, match=r"image x: mode [FI] of TIFF has no known range; allowed: 8 or 16 bits"):
        decode(io.BytesIO(encoded(pixels, "tiff")), "x")


def stored_turned(orientation: int, kind: str) -> tuple[bytes, np.ndarray]:
    """A file as a phone writes it, turned by its EXIF tag, and the picture that a viewer shows."""
    shown = np.zeros((40, 60, 3), np.uint8)
    shown[:20, :30], shown[20:, :30], shown[:20, 30:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    back = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: np.rot90(a, -1),
    }
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(back[orientation](shown))).save(buffer, kind, exif=exif)
    return buffer.getvalue(), shown


@pytest.mark.parametrize(
    ("orientation", "kind"), [*((n, "jpeg") for n in range(1, 9)), (6, "png"), (6, "tiff"), (6, "webp")]
)
def test_images_are_turned_as_their_exif_tag_says(orientation, kind):
    content, shown = stored_turned(orientation, kind)
    decoded = np.asarray(decode(io.BytesIO(content), "x")).astype(int)
    assert decoded.shape == shown.shape
    assert np.abs(decoded - shown).mean() < 8  # JPEG and WebP lose a little


def test_damaged_metadata_cost_no_image():
    content, _ = stored_turned(6, "jpeg")
    at = content.index(b"Exif\0\0") + 6
    decoded = decode(io.BytesIO(content[:at] + b"\xff" * 8 + content[at + 8 :]), "x")
    assert decoded.size == (40, 60)  # as it is stored


def check_members(folder, samples):
    """Open a shard of any members; it has images, or is refused in one line."""
    write_shard(folder / "a.tar", samples)
    message = "--data webdataset: "
    try:
        images = open_images(whole(folder / "a.tar"), "train", None, 0, 32, Path("unused"))
        for i in range(len(images)):
            try:
                images.read(i)
            except CorruptImage as error:
                assert "\n" not in str(error)  # noqa: PT017
    except DataError as error:
        message = str(error)
    assert message.startswith("--data webdataset: ")
    assert "\n" not in message


MEMBERS = st.dictionaries(
    st.text("ab/.\n0é", min_size=1, max_size=6),
    st.dictionaries(
        st.sampled_from(["png", "jpg", "cls", "json", "mask.png", "txt", "gif"]),
        st.sampled_from([png(3), png(3, mode="L"), b"", b"7", b"[" * 9999, b'{"label": [1]}', b'{"label": 2}'])
        | st.binary(max_size=40),
        max_size=3,
    ),
    max_size=4,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MEMBERS)
def test_any_members_of_a_shard_are_images_or_refused_in_one_line(tmp_path, samples):
    check_members(tmp_path, samples)


@pytest.mark.slow
@pytest.mark.exhaustive
@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MEMBERS)
def test_more_members_of_a_shard_are_images_or_refused_in_one_line(tmp_path, samples):
    check_members(tmp_path, samples)
