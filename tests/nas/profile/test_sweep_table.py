"""The best batch size and its ties."""

import io
from dataclasses import replace

from rich.console import Console

from nas.profile.arguments import ProfileSettings
from nas.profile.profiles import Point, Profile, Sweep
from nas.profile.sweep_tables import best_line, show_sweep
from nas.study.timing_doubts import TOO_FEW

SETTINGS = ProfileSettings(("eradio_femto",), device="cpu")
COUNTS = type("Counts", (), {"macs": 7_000_000})


def point(batch, low, value, high, **more):
    return Point(batch, batch, 64, 7, value, low, high, 1000 * batch / value, **{"samples": 30, "verdict": "ok"} | more)


RATES = (1, 100, 110, 120), (8, 190, 200, 207), (12, 205, 210, 215), (16, 190, 195, 204)  # batch, low, median, high
SWEEP = Sweep(tuple(point(*rates) for rates in RATES), {})


def test_the_best_is_the_highest_median_and_ties_overlap_it():
    assert SWEEP.best.batch == 12
    assert [p.batch for p in SWEEP.ties] == [8]  # 16 ends below 205, where the best begins
    assert (
        best_line(SWEEP) == "best throughput: 210 img/s [205, 215] at batch 12; its interval overlaps those of batch 8"
    )
    plain = SWEEP.to_dict()
    assert (plain["best"]["batch"], [t["batch"] for t in plain["ties"]]) == (12, [8])
    assert (Sweep((), {8: "out of memory"}).best, Sweep((), {}).ties) == (None, ())


def test_few_samples_have_no_interval_and_no_ties():
    few = {"samples": 2, "verdict": TOO_FEW}
    sweep = Sweep((point(1, None, 10, None, **few), point(2, None, 9.9, None, **few)), {})
    assert sweep.ties == ()
    assert best_line(sweep).startswith("best throughput: 10 img/s at batch 1; no interval is usable (2 samples, too")
    out = shown(*sweep.points)
    assert "[" not in out
    assert " ".join(out.split()).count("too few samples") >= 3  # in both rows and in the remedy
    assert "--measure-seconds 60" in " ".join(out.split())
    assert Sweep((point(1, 9, 10, 11), point(2, None, 9.9, None, **few)), {}).ties == ()


def shown(*points, kind="batch", refused=None, runtime=None):
    profile = Profile("resnet", None, 4, 64, COUNTS, (), {})
    console = Console(width=80, file=io.StringIO())
    show_sweep(profile, kind, Sweep(points, refused or {}), replace(SETTINGS, runtime=runtime), console)
    return console.file.getvalue()
