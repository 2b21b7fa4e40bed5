"""The built-in images: deterministic, balanced, exact masks, and nothing shared between the splits."""

import numpy as np
import pytest
from PIL import Image

from nas.data import open_images
from nas.data.composites import (
    CLASSES,
    Composites,
    GlyphPoses,
    backgrounds,
    characters,
    draw_glyph,
    objects,
    photograph_paths,
)


@pytest.fixture(scope="module")
def images():
    return open_images("builtin", "train", 60, seed=3, size_px=96, cache_dir=None)


def test_same_seed_and_index_give_the_same_bytes(images):
    again = open_images("builtin", "train", 60, seed=3, size_px=96, cache_dir=None)
    for i in (0, 17, 59):
        np.testing.assert_array_equal(images.read(i).image, again.read(i).image)
        np.testing.assert_array_equal(images.read(i).mask, again.read(i).mask)
    assert images.fingerprint == again.fingerprint


@pytest.mark.parametrize("other", [{"seed": 4}, {"split": "val"}, {"size_px": 64}, {"count": 61}])
def test_fingerprint_tells_sets_apart(images, other):
    settings = {"split": "train", "count": 60, "seed": 3, "size_px": 96} | other
    assert Composites(**settings).fingerprint != images.fingerprint


def test_an_image_does_not_depend_on_how_many_are_asked_for(images):
    np.testing.assert_array_equal(images.read(5).image, Composites("train", 9, 3, 96).read(5).image)


@pytest.mark.parametrize(("size_px", "least"), [(32, 0.88), (96, 0.93), (128, 1.0), (224, 0.92)])
def test_every_size_shows_the_same_scene(size_px, least):
    """Masks of 64 px against those of other sizes, which nearest-neighbor resizing shifts by half a pixel."""
    shared = []
    for i in range(20):
        small, other = (Composites("train", 20, 3, px).read(i) for px in (64, size_px))
        resized = np.asarray(Image.fromarray(other.mask).resize((64, 64), Image.Resampling.NEAREST))
        shared.append(((resized > 0) & (resized == small.mask)).sum() / ((resized > 0) | (small.mask > 0)).sum())
        assert small.label == other.label
    assert np.median(shared) >= least


def test_classes_are_balanced_and_every_object_is_visible(images):
    samples = [images.read(i) for i in range(60)]
    assert np.bincount([s.label for s in samples], minlength=images.num_classes).tolist() == [4] * 15
    for sample in samples:
        assert sample.image.shape == (96, 96, 3)
        assert sample.image.dtype == np.uint8
        assert sample.mask.max() < images.mask_classes
        assert (sample.mask == sample.label + 1).mean() > 0.01
        assert (sample.mask == 0).mean() > 0.05


def test_some_images_carry_a_distractor_of_another_class(images):
    classes = [set(np.unique(images.read(i).mask)) - {0} for i in range(60)]
    assert 8 <= sum(len(found) == 2 for found in classes) <= 35
    assert max(len(found) for found in classes) == 2


def test_mask_is_where_the_object_changed_the_photograph(monkeypatch):
    """With a black photograph, what is not black must be in the mask, up to antialiased borders."""

    def black(split, rng, size_px):
        return Image.new("RGB", (size_px, size_px))

    monkeypatch.setattr("nas.data.composites.random_crop", black)
    for i in range(30):
        sample = Composites("train", 30, 0, 96).read(i)
        lit = sample.image.max(2) > 140
        assert (sample.mask[lit] > 0).mean() > 0.97


def test_validation_objects_are_unseen_in_every_class():
    for name, train, val in zip(CLASSES, objects("train"), objects("val"), strict=True):
        assert not set(train) & set(val), name
        assert len(val) >= 5, name
        assert set(train) | set(val) == set(characters(CLASSES[name]))


def test_no_object_is_in_two_classes_and_the_font_draws_each():
    everything = [glyph for ranges in CLASSES.values() for glyph in characters(ranges)]
    assert len(everything) == len(set(everything))
    missing = draw_glyph("\U000f0000", 24).tobytes()
    blank = [hex(ord(glyph)) for glyph in everything if draw_glyph(glyph, 24).tobytes() == missing]
    assert blank == []


def test_validation_photograph_parts_are_unseen():
    for path, train, val in zip(photograph_paths(), backgrounds("train"), backgrounds("val"), strict=True):
        whole = np.asarray(Image.open(path).convert("RGB"))
        np.testing.assert_array_equal(np.concatenate([np.asarray(train), np.asarray(val)], axis=1), whole)


def test_poses_show_held_out_glyphs_twice_and_a_shorter_set_shows_the_first_of_them():
    poses = GlyphPoses(40, 64)
    assert len(poses) == 40
    held, trained = ({glyph for glyphs in objects(split) for glyph in glyphs} for split in ("val", "train"))
    assert set(poses._glyphs) == held
    assert not held & trained
    assert len(GlyphPoses(10_000, 64)) == 2 * len(held)
    for i in range(0, 40, 2):
        first, second = poses.read(i), poses.read(i + 1)
        assert first.label == second.label == i // 2
        assert (first.image != second.image).mean() > 0.5, "another pose on another background"
        assert all(0.05 < sample.mask.mean() < 0.95 for sample in (first, second))
    np.testing.assert_array_equal(GlyphPoses(7, 64).read(5).image, poses.read(5).image)
    assert len(GlyphPoses(7, 64)) == 6
