import re
from dataclasses import replace
from functools import cache

import pytest

from nas.records import Study, StudyInfo, TrialState
from reports.compare.__main__ import main
from reports.compare.charts import pictures
from reports.compare.page import render
from reports.compare.sides import side_by_side
from tests.reports import plainly, synthetic
from tests.reports.plainly import Page
from tests.reports.test_command import stored  # noqa: F401  (a fixture)
from tests.reports.test_page import ATTACKS, hostile


@cache
def known_cost() -> Study:
    study = synthetic.study(60, seed=1)
    return told(study, name="known-cost", config=study.info.config | {"sampler": "known_cost"})


@cache
def control() -> Study:
    """Another search, that has seen 50 nets of the first one too and has a lower reference point."""
    study = synthetic.study(40, seed=2)
    shared = [replace(t, number=t.number + 100) for t in known_cost().trials[5:55]]
    faster = [
        replace(
            t, measurement=t.measurement and replace(t.measurement, ratio=t.measurement.ratio * (1 + 0.2 * (i % 3)))
        )
        for i, t in enumerate(shared)
    ]
    quality, speed = study.info.objectives
    objectives = (replace(quality, reference=-0.1), replace(speed, reference=0.5))
    config = study.info.config | {"sampler": "random"}
    return told(replace(study, trials=(*study.trials, *faster)), name="control", objectives=objectives, config=config)


def told(study: Study, **changed) -> Study:
    return replace(study, info=replace(study.info, **changed))


def page(*studies: Study) -> Page:
    """Without its pictures, which take seconds."""
    return Page(render(side_by_side(studies), {}))


@cache
def both() -> Page:
    return page(known_cost(), control())


def numbers(found: Page) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in found.table("Numbers of the studies").rows[1:]}


def nets(study: Study, baselines: bool = False) -> list[plainly.Net]:
    return [plainly.place(t) for t in plainly.trained(study, baselines)]


def test_numbers_are_those_of_plain_loops_over_one_reference_point():
    a, b = known_cost(), control()
    found = numbers(both())
    for i, study in enumerate((a, b)):
        front = plainly.front(plainly.trained(study, False))
        counted = [t for t in study.trials if t.counts]
        assert found["architectures evaluated"][i] == str(len(counted))
        assert found["training steps"][i] == f"{sum(t.rungs[-1].steps for t in counted):,}"
        assert found["on the front"][i] == str(len(front))
        assert found["fastest on the front, × reference"][i] == f"{front[0].measurement.ratio:.3f}"
        assert found["best quality on the front"][i] == f"{max(t.rungs[-1].quality for t in front):.3f}"
        assert found["hypervolume"][i] == f"{plainly.hypervolume(nets(study), (-0.1, 0.25)):.4f}"
        baselines = plainly.hypervolume(nets(study, True), (-0.1, 0.25))
        assert found["hypervolume of the baselines alone"][i] == f"{baselines:.4f}"
    assert "above quality -0.1 and speed 0.25" in both().words


def test_curves_are_compared_after_as_many_trainings():
    a, b = known_cost(), control()
    curves = []
    for study in (a, b):
        counted = sorted((t for t in study.trials if t.counts), key=lambda t: (t.finished_s, t.number))
        done = [
            [plainly.place(t) for t in counted[:n] if t.state is TrialState.COMPLETE] for n in range(len(counted) + 1)
        ]
        curves.append([plainly.hypervolume(some, (-0.1, 0.25)) for some in done])
    least = min(map(len, curves)) - 1
    words = both().words
    assert f"after {least} trainings, all that the shorter search made" in words
    assert f"they stand at {curves[0][least]:.4f} and {curves[1][least]:.4f}" in words
    for ours, theirs, said in ((0, 1, "A reached B"), (1, 0, "B reached A")):
        first = next((n for n, volume in enumerate(curves[ours]) if volume >= curves[theirs][-1] - 1e-12), None)
        assert (said in words) is (first is not None)
        if first is not None:
            assert f"{said}’s final hypervolume after {first} trainings" in words


def test_coverage_each_way():
    a, b = known_cost(), control()
    fronts = [[plainly.place(t) for t in plainly.front(plainly.trained(s, False))] for s in (a, b)]
    table = both().table("Coverage").rows
    ab, ba = plainly.coverage(*fronts), plainly.coverage(*fronts[::-1])
    assert ab != ba
    assert table[1][1:] == ["", f"{100 * ab:.1f} %"]
    assert table[2][1:] == [f"{100 * ba:.1f} %", ""]


def test_nets_in_common_and_how_alike_they_rank():
    a, b = known_cost(), control()
    speeds = [{t.arch_id: t.measurement.ratio for t in reversed(s.trials) if t.measurement} for s in (a, b)]
    qualities = [
        {t.arch_id: t.rungs[-1].quality for t in plainly.trained(s, False) + plainly.trained(s, True)} for s in (a, b)
    ]
    rows = both().table("Rank correlations of A and B").body()
    for row, (first, second) in zip(rows, (speeds, qualities), strict=True):
        pairs = [(first[i], second[i]) for i in first if i in second]
        assert len(pairs) > 10
        assert int(row["nets"]) == len(pairs)
        assert row["τ"] == f"{plainly.tau(pairs):.2f}"
    table = both().table("Nets that A and B share").rows[1:]
    fastest = sorted((i for i in speeds[0] if i in speeds[1]), key=lambda i: (-speeds[0][i], i))
    assert [row[0] for row in table] == fastest[:25]
    for arch_id, _, _, ours, theirs, quality, other in table:
        assert (ours, theirs) == (f"{speeds[0][arch_id]:.3f}", f"{speeds[1][arch_id]:.3f}")
        assert quality == (f"{qualities[0][arch_id]:.3f}" if arch_id in qualities[0] else "–")
        assert other == (f"{qualities[1][arch_id]:.3f}" if arch_id in qualities[1] else "–")


def test_settings_that_differ_and_no_others():
    shown = {row[0]: row[1:] for row in both().table("Table of settings").rows[1:]}
    assert shown["config.sampler"] == ["known_cost", "random"]
    assert shown["objective.throughput reference"] == ["0.25", "0.5"]
    assert "config.seed" not in shown
    assert "environment.device" not in shown


def other_objective(info: StudyInfo) -> dict:
    return {
        "objectives": (replace(info.objectives[0], label="explained variance of something else"), info.objectives[1])
    }


@pytest.mark.parametrize(
    ("change", "words", "gone"),
    [
        (
            lambda i: {"teachers": {"hed": "0" * 64}},
            "The teachers differ: A: efficientnet_lite0 000000000000…",
            "quality",
        ),
        (lambda i: {"teachers": i.teachers | {"hed": f"{2:064x}"}}, "The teachers differ", "quality"),
        (lambda i: {"data": {"name": "builtin", "fingerprint": "0" * 64}}, "The images differ", "quality"),
        (
            lambda i: {"rung_steps": (60, 180, 541)},
            "trained to different lengths: A: 540 steps; B: 541 steps",
            "quality",
        ),
        (other_objective, "Quality is not the same quantity", "quality"),
        (lambda i: {"reference": "eradio_nano"}, "different reference nets: A: eradio_pico; B: eradio_nano", "speed"),
    ],
)
def test_numbers_that_do_not_compare_are_not_compared_and_it_says_why(change, words, gone):
    a, b = known_cost(), control()
    found = page(a, told(b, **change(b.info)))
    assert words in found.words.replace("\n", " ")
    assert "hypervolumes are not compared" in found.words
    assert not [name for name in numbers(found) if "hypervolume" in name]
    assert ("best quality on the front" in numbers(found)) is (gone != "quality")
    assert ("fastest on the front, × reference" in numbers(found)) is (gone != "speed")
    assert "Coverage" not in [t.label for t in found.tables]
    assert "ends with a hypervolume" not in found.words
    assert "picture of its own" in found.words
    assert len(found.table("Rank correlations of A and B").body()) == 2


def test_other_versions_and_machines_are_other_measurements_and_unknown_ones_are_none():
    a, b = known_cost(), control()
    env = {"device": "cpu", "cpu": "a CPU", "cpus": 2, "torch": "2.6.0", "timm": "1.0"}
    for changed, words in (
        ({"torch": "2.7.0"}, "with different torch: A: 2.6.0; B: 2.7.0."),
        ({"cpus": 4}, "on different machines: A: a CPU, 2 CPUs; B: a CPU, 4 CPUs."),
    ):
        assert words in page(told(a, environment=env), told(b, environment={**env, **changed})).words
        old = {name: value for name, value in env.items() if name not in changed}
        assert "Speeds were measured" not in page(told(a, environment=env), told(b, environment=old)).words


def test_other_rungs_parts_and_storage_are_told():
    a, b = known_cost(), control()
    first, second = (
        {**s.info.config, "eta": eta, "storage": kind} for s, eta, kind in ((a, 3, "int8"), (b, 2, "int4"))
    )
    found = page(told(a, config=first), told(b, config=second, rung_steps=(30, *b.info.rung_steps[1:]))).words
    for words in ("The lower rungs differ: A:", "B: 1/2.", "stored differently: A: int8; B: int4."):
        assert words in found


def test_recipes_are_told_by_what_differs():
    b = control()
    config = b.info.config | {"distill": {"batch_size": 64}}
    found = page(known_cost(), told(b, config=config))
    assert "The recipes of the distillation differ: A: batch_size 32; B: batch_size 64." in found.words
    assert "The recipes" not in both().words


def test_another_device_forbids_to_call_a_net_better_but_not_to_see_both_fronts():
    a, b = known_cost(), control()
    moved = tuple(replace(t, measurement=t.measurement and replace(t.measurement, device="H100")) for t in b.trials)
    found = page(a, replace(b, trials=moved))
    assert "Speeds were measured differently: A: synthetic CPU" in found.words
    assert "Coverage" not in [t.label for t in found.tables]
    assert "hypervolume" in numbers(found)


def test_three_studies_and_studies_without_a_front_have_a_page():
    empty = synthetic.study(0, baselines=False)
    lost = synthetic.study(5, only=TrialState.INFEASIBLE, baselines=False)
    found = page(known_cost(), empty, lost)
    assert found.table("Coverage").rows[1][2] == "no front"
    assert numbers(found)["on the front"][1:] == ["0", "0"]
    assert "after 0 trainings" not in found.words
    assert "No study has a front." in page(empty, lost).words


def test_pictures_show_every_front_wide_and_narrow():
    a, b = known_cost(), control()
    together, apart = (pictures(side_by_side([a, other])) for other in (b, told(b, reference="eradio_nano")))
    assert (set(together), set(apart)) == ({"fronts", "curve"}, {"front-A", "front-B"})
    for svg in (*together.values(), *apart.values()):
        assert svg.count("<svg ") == svg.count('<svg aria-hidden="true" ') == 2
    nets = sum(len(plainly.trained(study, False)) for study in (a, b))
    assert together["fronts"].count("<path") >= 2 * nets


@pytest.mark.parametrize("attack", ["".join(reversed(ATTACKS))])
def test_hostile_text_is_shown_and_nothing_runs(attack):
    comparison = side_by_side([hostile(attack), told(known_cost(), teachers={attack: attack}, reference=attack)])
    text = render(comparison, pictures(comparison))
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)[1]
    assert "script" not in policy
    assert "unsafe" not in policy
    markup = re.sub(r"<style>.*?</style>", "", text, flags=re.S)
    assert not re.search(r"<(script|img|iframe|svg onload)|\sstyle=\"|\son\w+=\"", markup)
    assert not re.search(r'(?:src|href)="(?!#|data:,)', markup)
    assert "&lt;iframe" in text


def test_command_writes_one_page(stored, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "page.html"
    assert main([str(stored), str(stored), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    found = Page(out.read_text())
    assert found.table("Coverage").rows[1][2] == "100.0 %"
    assert "A reached B’s final hypervolume" in found.words
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    "arguments", [["RUN"], ["RUN", "nowhere"], ["RUN", "RUN", "--out", "no/such/page.html"], ["RUN"] * 7]
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, stored, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    try:
        code = main([str(stored) if a == "RUN" else a for a in arguments])
    except SystemExit as stopped:
        code = stopped.code
    printed = capsys.readouterr()
    assert code == 2
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not list(tmp_path.iterdir())
