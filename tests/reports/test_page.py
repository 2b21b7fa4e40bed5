import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from nas.records import Study, TrialRecord, TrialState
from reports.page import render, write_page
from reports.summary import summarize
from tests.reports import synthetic
from tests.reports.browser import needs_chromium, open_page
from tests.reports.test_summary import brute_front, brute_hypervolume, complete

STUDIES = {
    "one": lambda: synthetic.study(1, only=TrialState.COMPLETE),
    "two hundred": lambda: synthetic.study(200),
    "all infeasible": lambda: synthetic.study(12, only=TrialState.INFEASIBLE),
    "all failed": lambda: synthetic.study(12, only=TrialState.FAILED, baselines=False),
    "unfinished": lambda: synthetic.study(6, only=TrialState.RUNNING),
    "no baselines": lambda: synthetic.study(40, baselines=False),
    "empty": lambda: synthetic.study(0, baselines=False, budget=8),
}


def page_of(study: Study) -> str:
    return render(study, summarize(study))


def unpack(text: str) -> dict:
    packed = json.loads(text)

    def whole(value):
        if not isinstance(value, list):
            return value
        head, *rest = value
        values = [whole(v) for v in rest]
        return values if head < 0 else dict(zip(packed["keys"][head], values, strict=True))

    return whole(packed["data"])


def payload(page: str) -> dict:
    return unpack(re.search(r'id="data">(.*?)</script>', page, re.S)[1])


@needs_chromium
@pytest.mark.parametrize("name", STUDIES)
def test_page_opens_without_a_word_on_the_console(name, tmp_path):
    study = STUDIES[name]()
    write_page(study, tmp_path / "report.html", tmp_path)
    document, console = open_page(tmp_path / "report.html", tmp_path)
    assert console == []
    assert 'data-charts="ready"' in document
    assert len(re.findall(r'<div class="chart[^>]*data-live', document)) == len(
        re.findall(r'<div class="chart', document)
    )
    rows = re.search(r'<table id="all".*?</table>', document, re.S)[0].count("<tr data-row=")
    assert rows == len(study.trials)


def test_front_and_hypervolume_on_the_page_equal_a_brute_force():
    study = synthetic.study(200)
    page = page_of(study)
    volume = float(re.search(r"<dt>hypervolume</dt><dd>([\d.]+)</dd>", page)[1])
    assert volume == pytest.approx(brute_hypervolume(complete(study), 0.0, 0.25), abs=6e-5)
    table = re.search(r"Nets on the front, fastest first.*?</table>", page, re.S)[0]
    front = {int(n) for n in re.findall(r">trial (\d+)</a>", table)}
    assert front == brute_front(study) == set(payload(page)["front"])


def test_the_study_can_be_read_back_from_its_page():
    study = synthetic.study(30)
    trials = tuple(TrialRecord.from_dict(t) for t in payload(page_of(study))["trials"])
    assert [t.spec for t in trials] == [t.spec for t in study.trials]
    for ours, theirs in zip(trials, study.trials, strict=True):
        assert ours.state is theirs.state
        assert (ours.quality or 0) == pytest.approx(theirs.quality or 0, rel=1e-5)


def test_what_a_device_does_not_tell_can_be_read_back_too():
    study = synthetic.study(4, only=TrialState.COMPLETE)
    silent = [replace(t, measurement=replace(t.measurement, peak_memory_mib=None)) for t in study.trials]
    told = payload(page_of(replace(study, trials=tuple(silent))))["trials"]
    assert [TrialRecord.from_dict(t).measurement.peak_memory_mib for t in told] == [None] * len(silent)


def test_a_thousand_trials_stay_small(tmp_path):
    study = synthetic.study(1000)
    write_page(study, tmp_path / "report.html", tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 3e6


def test_policy_names_every_script_and_style_by_hash_and_nothing_else():
    page = page_of(synthetic.study(5))
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', page)[1].replace("&#39;", "'")
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none';")
    for kind in ("script", "style"):
        texts = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.S)
        digests = [base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in texts]
        assert texts
        assert re.findall(r"'sha256-(.*?)'", re.search(rf"{kind}-src (.*?);", policy)[1]) == digests
    markup = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S)
    assert not re.search(r'\sstyle="|\son\w+="|(src|href)="(?!#|data:,)', markup)


ATTACKS = (
    "<script>document.title='owned'</script>",
    "</script><script>document.title='owned'</script>",
    "\"'><img src=x onerror=\"document.title='owned'\">",
    "<svg onload=\"document.title='owned'\"></svg>",
    "]]><!--<iframe srcdoc='<b>owned</b>'>",
    "$x^{2$ {{7*7}} {% raw %} __proto__",
    "\u2028\u2029",
)


def hostile(attack: str, trials: int = 40) -> Study:
    """A study in which everything that a user or a third party names is `attack`."""
    study = synthetic.study(trials)
    info = replace(
        study.info, name=attack, command=attack, created=attack,
        environment={attack: attack, "device": attack}, config={attack: [attack]},
        teachers={attack: attack}, data={attack: attack}, reference=attack, ledger={attack: 3.0}, limits={attack: 1.0},
        objectives=tuple(replace(o, label=attack, unit=attack) for o in study.info.objectives),
        teacher_facts={attack: replace(synthetic.facts(0), what=attack)}, chance={attack: 0.5},
        sessions=({"started": attack, "wall_s": 1.0},),
    )  # fmt: skip
    return Study(info, tuple(spoil(t, attack, keep_id=t.number == 7) for t in study.trials))


def spoil(trial: TrialRecord, attack: str, keep_id: bool) -> TrialRecord:
    stages = [{**s, "block": attack} for s in trial.spec["stages"]]
    m = trial.measurement
    return replace(
        trial,
        arch_id=trial.arch_id if keep_id else attack,
        spec={**trial.spec, "stages": stages, "stem": attack, attack: attack},
        baseline=trial.baseline and f"{attack}{trial.number}",
        reason=attack * (10_000 // len(attack)),
        measurement=m
        and replace(
            m, device=attack, arm=attack, reference=attack, verdict=attack, stages_s={attack: 1.0, "stage1": 2.0}
        ),
        rungs=tuple(
            replace(r, teachers={attack: {attack: r.quality}}, losses={attack: 1.0}, metrics={attack: 1.0})
            for r in trial.rungs
        ),
    )


@needs_chromium
@pytest.mark.parametrize("attack", ["".join(ATTACKS), "".join(reversed(ATTACKS))], ids=["forwards", "backwards"])
def test_hostile_text_is_shown_and_never_runs(attack, tmp_path):
    study = hostile(attack)
    write_page(study, tmp_path / "report.html", tmp_path)
    document, console = open_page(tmp_path / "report.html", tmp_path, "#" + study.trials[7].arch_id)
    assert console == []
    assert 'data-charts="ready"' in document
    assert re.search(r'<dialog id="card"[^>]* open', document)
    assert not re.search(
        r"<title>owned|<img|<iframe|<svg onload", re.sub(r"<script.*?</script>", "", document, flags=re.S)
    )
    assert document.count("<script") == 3


def test_reports_load_neither_torch_nor_ray():
    code = "import sys, reports.__main__; print(sorted({'torch', 'ray', 'timm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_page_holds_no_secret_of_a_url() -> None:
    study = synthetic.study(8)
    uri = "webdataset:https://me:pw0rd@host/a.tar?X-Sig=s3cret"
    info = replace(study.info, command=f"search --data {uri}", config={**study.info.config, "data": uri})
    told = replace(study, info=replace(info, data={"name": uri, "fingerprint": "f"}))
    page = render(told, summarize(told))
    assert "https://host/a.tar" in page
    assert "s3cret" not in page
    assert "pw0rd" not in page
