"""Numbers for people: one form everywhere, no negative zero, a dash for what is unknown."""

import math

import pytest

from nas.numbers import fixed, fixed_interval, millions, plural, plural_range, probability


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (-0.0004, 3, "0.000"),
        (-0.0006, 3, "-0.001"),
        (-0.0, 0, "0"),
        (1234567.891, 1, "1,234,567.9"),
        (None, 3, "–"),
        (math.nan, 3, "–"),
        (-math.inf, 1, "–"),
    ],
)
def test_fixed_decimals(value, digits, text):
    assert fixed(value, digits) == text


def test_other_forms():
    assert fixed_interval(-0.0001, 0.25, 2) == "0.00 to 0.25"
    assert (millions(2_500_000, 2), millions(None, 2)) == ("2.50", "–")
    assert [probability(p) for p in (0.0412, 0.001, 0.000412, None)] == ["0.041", "0.001", "<0.001", "–"]


def test_counts_have_their_noun():
    assert [plural(n, "model") for n in (0, 1, 2, 12_000)] == ["no models", "1 model", "2 models", "12,000 models"]
    assert [plural(n, "process", "processes") for n in (1, 2)] == ["1 process", "2 processes"]
    ranges = [plural_range(counts, "seed") for counts in ([2, 1, 2], [2, 2], [1], [])]
    assert ranges == ["1 to 2 seeds", "2 seeds", "1 seed", "no seeds"]
