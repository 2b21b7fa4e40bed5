import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from nas.analysis.evidence import gather_evidence
from nas.study.records import StudyRecord, TrialRecord, TrialState
from reports.document import TEMPLATES
from reports.formatting import packed_json
from reports.page import render, write_page
from reports.summary import summarize
from search_space.arch import STEM_STRIDES
from search_space.stage import OPTIONAL
from tests.reports import synthetic
from tests.reports.awkward import ATTACKS, hostile
from tests.reports.browser import needs_chromium
from tests.reports.brute_force import Page, payload
from tests.waiting import until

# Fields of a stage that its diagram does not describe, because they hardly change its cost.
NOT_DESCRIBED = {"cpb_hidden", "pre_conv_groups", "qkv_bias", "layer_scale", "grid"}
STUDIES = {
    "one": lambda: synthetic.study(1, only=TrialState.COMPLETE),
    "two hundred": lambda: synthetic.study(200),
    "all infeasible": lambda: synthetic.study(12, only=TrialState.INFEASIBLE),
    "all failed": lambda: synthetic.study(12, only=TrialState.FAILED, baselines=False),
    "unfinished": lambda: synthetic.study(6, only=TrialState.RUNNING),
    "predicted": lambda: synthetic.predicted(synthetic.study(40)),
    "no baselines": lambda: synthetic.study(40, baselines=False),
    "empty": lambda: synthetic.study(0, baselines=False, budget=8),
}


def page_of(study: StudyRecord) -> str:
    return render(study, summarize(study))


FAST = ("predicted", "all infeasible", "empty")


@needs_chromium
@pytest.mark.parametrize("name", [*FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in STUDIES if n not in FAST)])
def test_page_opens_without_a_word_on_the_console(name, tmp_path, browser):
    study = STUDIES[name]()
    write_page(gather_evidence(study), tmp_path / "report.html", tmp_path)
    browser.open(tmp_path / "report.html")
    document = browser.document()
    assert browser.console == []
    assert len(re.findall(r'<div class="chart[^>]*data-live', document)) == len(
        re.findall(r'<div class="chart', document)
    )
    rows = re.search(r'<table id="all".*?</table>', document, re.S)[0].count("<tr data-row=")
    assert rows == len(study.trials)


@needs_chromium
@pytest.mark.parametrize(
    "script",
    [
        "fetch('https://example.com').catch(() => null)",  # the policy forbids it
        "setTimeout(() => { throw new Error('uncaught'); })",
    ],
)
def test_the_console_of_a_page_that_complains_is_not_empty(script, tmp_path, browser):
    write_page(gather_evidence(STUDIES["one"]()), tmp_path / "report.html", tmp_path)
    browser.open(tmp_path / "report.html")
    browser.evaluate(f"{script}, null")
    until(lambda: browser.evaluate("true") and browser.console)  # an answer brings what was said before it


def test_the_study_can_be_read_back_from_its_page():
    study = synthetic.study(30)
    trials = tuple(TrialRecord.from_dict(t) for t in payload(page_of(study))["trials"])
    assert [t.spec for t in trials] == [t.spec for t in study.trials]
    for ours, theirs in zip(trials, study.trials, strict=True):
        assert ours.state is theirs.state
        assert (ours.score or 0) == pytest.approx(theirs.score or 0, rel=1e-5)


def test_nulls_at_the_end_of_a_record_take_no_space():
    """Most of a trial's last fields are null; with them a page of 10,000 trials is over 12 MB."""
    assert json.loads(packed_json([{"a": 1, "b": None, "c": None}, {"a": None, "b": None, "c": 2}])) == {
        "keys": [["a", "b", "c"]],
        "data": [-1, [0, 1], [0, None, None, 2]],
    }


@pytest.mark.slow
def test_a_thousand_trials_stay_small(tmp_path):
    study = synthetic.study(1000)
    write_page(gather_evidence(study), tmp_path / "report.html", tmp_path)
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


@needs_chromium
@pytest.mark.parametrize("attack", ["".join(ATTACKS), "".join(reversed(ATTACKS))], ids=["forwards", "backwards"])
def test_hostile_text_is_shown_and_never_runs(attack, tmp_path, browser):
    study = hostile(attack)
    write_page(gather_evidence(study), tmp_path / "report.html", tmp_path)
    browser.open(tmp_path / "report.html", "#" + study.trials[7].arch_id)
    browser.wait("document.querySelector('dialog[open]') !== null")
    document = browser.document()
    assert browser.console == []
    assert re.search(r'<dialog id="card"[^>]* open', document)
    assert not re.search(
        r"<title>owned|<img|<iframe|<svg onload", re.sub(r"<script.*?</script>", "", document, flags=re.S)
    )
    assert document.count("<script") == 3


def test_comparison_networks_have_lines_in_the_chart_and_rows_in_a_table_and_are_no_trials():
    study = synthetic.study(20)
    ratios = {"timm:near": 1.5, "timm:far": 0.001, "timm:unmeasured": None}
    page = page_of(synthetic.with_scale(study, ratios))
    rows = Page(page).table("Comparison networks").body()
    assert [row[""] for row in rows] == ["timm:near", "timm:far", "timm:unmeasured"]
    assert rows[0][f"× {study.info.reference}, 95 % interval"].startswith("1.500")
    assert [row["name"] for row in payload(page)["datasets"]["scale"]] == ["timm:near"]
    assert len(payload(page)["trials"]) == len(study.trials)


def test_reports_load_neither_torch_nor_ray():
    code = "import sys, reports.__main__; print(sorted({'torch', 'ray', 'timm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_page_holds_no_secret_of_a_url() -> None:
    study = synthetic.study(8)
    uri = "webdataset:https://me:pw0rd@host/a.tar?X-Sig=s3cret"
    info = replace(study.info, command=f"search --data {uri}", config={**study.info.config, "data": uri})
    linked = replace(study, info=replace(info, data={"name": uri, "fingerprint": "f"}))
    page = render(linked, summarize(linked))
    assert "https://host/a.tar" in page
    assert "s3cret" not in page
    assert "pw0rd" not in page


def test_the_drawing_of_a_card_knows_the_stride_of_every_stem() -> None:
    line = re.search(r"STEM_STRIDES = \{([^}]*)\}", (TEMPLATES / "diagrams.js").read_text())
    assert line is not None
    strides = {stem: str(stride) for stem, stride in STEM_STRIDES.items()}
    assert dict(pair.split(": ") for pair in line[1].strip().split(", ")) == strides


def test_the_drawing_of_a_card_describes_every_field_of_a_stage() -> None:
    table = re.search(r"DETAILS = \[(.*?)\];", (TEMPLATES / "diagrams.js").read_text(), re.DOTALL)
    assert table is not None
    assert set(re.findall(r"\['(\w+)', v =>", table[1])) == set(OPTIONAL) - NOT_DESCRIBED
