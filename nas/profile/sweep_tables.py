"""Print a sweep over batch sizes or input sizes: a row for each size, and the best batch size with its ties."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.numbers import plural
from nas.profile.arguments import ProfileSettings
from nas.profile.profiles import Point, Profile, Sweep
from nas.profile.timing_words import interval, remedies
from nas.study.timing_doubts import CONTENDED


def show_sweep(p: Profile, kind: str, sweep: Sweep, settings: ProfileSettings, console: Console) -> None:
    """Print a sweep's table, and the best batch size of a batch sweep."""
    console.print(sweep_table(p, kind, sweep, settings))
    if kind == "batch" and sweep.best:
        console.print(best_line(sweep))


def sweep_table(p: Profile, kind: str, sweep: Sweep, settings: ProfileSettings) -> Table:
    """Tabulate a sweep, one row for each size; the caption has the sizes that were not timed."""
    other = f"{p.resolution} px, {p.counts.macs / 1e9:.4g} GMACs" if kind == "batch" else f"batch {p.batch}"
    table = Table(title=f"{p.arch}: {kind} sweep, {other}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    headings = ("batch",) if kind == "batch" else ("px", "GMACs")
    for heading in (*headings, "img/s", "95 %", "ms/call", "samples"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", min_width=len(CONTENDED))  # "too few samples" takes two lines
    for point in sweep.points:
        table.add_row(
            *_size(point, kind),
            f"{point.throughput_img_s:.4g}{' †' if point.doubt else ''}",
            Text(_point_interval(point) or "-"),
            f"{point.time_ms:.2f}",
            str(point.samples),
            point.verdict,
        )
    table.caption = _sweep_caption(sweep, settings)
    return table


def _point_interval(point: Point) -> str:
    """Return the interval of a size's throughput; "" where none is usable."""
    low, high = point.throughput_low_img_s, point.throughput_high_img_s
    return "" if low is None or high is None else interval(low, high)


def best_line(sweep: Sweep) -> str:
    """Return a line with the best throughput and the batch sizes that tie with it."""
    best = sweep.best
    assert best is not None
    rate = " ".join(filter(None, (f"{best.throughput_img_s:.4g} img/s", _point_interval(best))))
    ties = ", ".join(str(point.batch) for point in sweep.ties)
    phrases = [f"best throughput: {rate} at batch {best.batch}"]
    if ties:
        phrases.append(f"its interval overlaps those of batch {ties}")
    if best.doubt and best.throughput_low_img_s is not None:
        phrases.append(f"doubtful, because {best.doubt}")
    if best.throughput_low_img_s is None:
        phrases.append(f"no interval is usable ({plural(best.samples, 'sample')}, {best.verdict})")
    return "; ".join(phrases)


def _sweep_caption(sweep: Sweep, settings: ProfileSettings) -> str:
    sentences = ["All sizes are timed interleaved" + ("" if settings.arm.runtime == "eager" else ", in eager mode")]
    if doubts := dict.fromkeys(point.doubt for point in sweep.points if point.doubt):
        sentences.append(f"†: doubtful, because {' or '.join(doubts)}")
    sentences += dict.fromkeys(note[:1].upper() + note[1:] for point in sweep.points for note in point.notes)
    sentences += remedies((point.verdict for point in sweep.points), settings.seconds)
    if sweep.refused:
        sentences.append("Not timed: " + "; ".join(f"{size} ({reason})" for size, reason in sweep.refused.items()))
    return ". ".join(sentences) + "."


def _size(point: Point, kind: str) -> tuple[str, ...]:
    if kind != "batch":
        return str(point.resolution), f"{point.macs / 1e9:.4g}"
    return (f"{point.batch}" + (f" ({point.requested} requested)" if point.requested != point.batch else ""),)
