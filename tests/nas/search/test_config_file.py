"""Files of settings: what is wrong is one line, a flag overrides, and a search's own file starts it again."""

from __future__ import annotations

import os
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from nas.measure.environment import environment
from nas.plan.arguments import parse as plan_settings
from nas.search.__main__ import main
from nas.search.arguments import parse
from nas.search.config_file import (
    FILE_NAME,
    config_text,
    read_options,
    recorded_sources,
    run_table,
)
from nas.search.options import recipe_names
from nas.search.settings import SearchCommand, command_of, resume_command
from nas.search.study_opening import extend_study
from nas.storage.errors import StoreError
from nas.storage.store import Store, read_study
from nas.study.config import DistillConfig, Group, SearchConfig
from search_space import SPACES
from tests.nas.study.builders import search_config, study_info
from tests.nas.study.searches import sampler_of

EVERYTHING = """
budget = 7
space = "micro"
baselines = ["eradio_pico"]
measure_seconds = 1
teacher_precision = "fp32"
[distill]
rung_steps = [5, 15]
learning_rate = 1e-3
weights = { lite0 = 2.0 }
groups = [{ teachers = ["lite0"], batch_size = 16, img_size = [32, 64], rate = 2 }]
[choices.stages]
blocks = ["mbconv"]
[limits]
max_params = 1e6
[run]
cache = "somewhere"
workers = 3
max_hours = 2.5
trial_timeout = 900
teacher_weights = { "vit_small_patch14_reg4_dinov2.lvd142m" = "dino.safetensors" }
[plan]
gpus = [8]
assume_tflops = 312.0
"""


def written(folder: Path, text: str) -> str:
    (folder / "mine.toml").write_text(text)
    return str(folder / "mine.toml")


def test_every_table_reaches_the_search(tmp_path: Path) -> None:
    command = parse(["--config", written(tmp_path, EVERYTHING), "--run", str(tmp_path / "run")])
    assert command.config == replace(
        SearchConfig(
            budget=7,
            space="micro",
            choices={"stages": {"blocks": ["mbconv"]}},
            baselines=("eradio_pico",),
            measure_seconds=1,
            limits={"max_params": 1e6},
            distill=DistillConfig(
                rung_steps=(5, 15),
                learning_rate=1e-3,
                weights={"lite0": 2.0},
                groups=(Group(("lite0",), 16, (32, 64), 2.0),),
            ),
        ),
        device=command.config.device,
        runtime=command.config.runtime,
        measure_batch_size=command.config.measure_batch_size,
    )
    assert (command.cache, command.workers, command.max_hours, command.trial_timeout) == ("somewhere", 3, 2.5, 900)
    assert command.teacher_weights == {"vit_small_patch14_reg4_dinov2.lvd142m": Path("dino.safetensors")}
    plan = plan_settings(["--config", written(tmp_path, EVERYTHING)])
    assert (plan.assume_tflops, plan.gpus, plan.workers, plan.max_hours) == (312, (8,), 8, 2.5)


def test_flags_override_the_file(tmp_path: Path) -> None:
    flags = ["--budget", "9", "--rung-steps", "4,8", "--distill", "weights={}", "--workers", "1", "--max-params", "2e6"]
    command = parse(["--config", written(tmp_path, EVERYTHING), "--run", str(tmp_path / "run"), *flags])
    assert (command.config.budget, command.config.distill.rung_steps, command.workers) == (9, (4, 8), 1)
    assert command.config.distill.weights == {}
    assert command.config.distill.learning_rate == 1e-3
    assert command.config.limits == {"max_params": 2e6}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("budget = [", ("mine.toml", "TOML")),
        ("bugdet = 5\nseed = 'x'\n[run]\nworker = 1", ("bugdet:", "seed: 'x'", "run.worker:", "mean workers?")),
        ('budget = "many"', ("mine.toml: budget: 'many': must be a valid integer",)),
        ('sampler = "magic"', ("mine.toml: --sampler:", "known-cost")),
        ("baselines = [3]", ("mine.toml: baselines: 3: must be a valid string",)),
        ("[distill]\nlearning_rat = 1", ("mine.toml: distill.learning_rat:", "learning_rate")),
        ("[distill]\ngroups = [3]", ("mine.toml: distill.groups: 3: must be a dictionary",)),
        ("[limits]\nmax_weight = 1", ("mine.toml: limits.max_weight:", "max_params")),
        ("[run]\nresume = 'x'", ("mine.toml: run.resume:", "workers")),
        ('data = "no\x80"', ("mine.toml", "UTF-8")),
    ],
)
def test_what_is_wrong_is_one_line_with_the_file_and_the_key(
    text: str, words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(text.encode("latin-1"))
    assert main(["--config", str(path), "--run", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "/no/such.toml"], "cannot read '/no/such.toml'"),
        (["--recipe", "phone"], "imagenet-8a100"),
        (["--recipe", "laptop", "--config", "x.toml"], "--recipe: does not go with --config"),
    ],
)
def test_a_file_that_cannot_be_taken_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


SIGNED = "webdataset:https://user:secret@host/{0..3}.tar?sig=s3cret"


def test_the_file_of_a_search_starts_it_again_and_has_no_secrets(tmp_path: Path) -> None:
    config = parse(["--config", written(tmp_path, EVERYTHING), "--run", str(tmp_path / "first")]).config
    command = SearchCommand(
        config, tmp_path / "first", teacher_weights={"a": Path("/a.safetensors")}, cache="/c", workers=2,
        storage="postgresql://me@host/nas", address="auto", trial_timeout=5.0, max_hours=1.5,
    )  # fmt: skip
    path = tmp_path / "config.toml"
    path.write_text(config_text(config.to_dict(), run_table(command)))
    options = read_options(path)
    again = command_of({**options, "run": str(tmp_path / "second"), "config": str(path), "dry_run": True}, "")
    new = ("run", "text", "dry_run", "device_source")
    kept = [field.name for field in fields(SearchCommand) if field.name not in new]
    assert {name: getattr(again, name) for name in kept} == {name: getattr(command, name) for name in kept}
    signed = replace(config, data=SIGNED)
    text = config_text(signed.to_dict(), {})
    assert "secret" not in text
    assert "s3cret" not in text
    assert tomllib.loads(text)["data"] == "webdataset:https://host/{0..3}.tar"
    assert "removed" in text


def recorded_run(folder: Path) -> tuple[Path, Path, Path]:
    """Return the run folder of a new study, and the cache and the file of weights that its search recorded."""
    config = search_config()
    space = {name: list(values) for name, values in SPACES[config.space].choices().items()}
    info = replace(study_info(config), space=space, environment=environment("cpu"))
    Store.create(folder / "run", info, sampler_of(config)).close()
    (folder / "cache").mkdir()
    (folder / "a.safetensors").touch()
    os.chdir(folder)
    command = SearchCommand(
        search_config(), folder / "run", cache="cache", teacher_weights={"a": Path("a.safetensors")},
        trial_timeout=900.0, workers=7, max_hours=2.0,
    )  # fmt: skip
    (folder / "run" / FILE_NAME).write_text(config_text(command.config.to_dict(), run_table(command)))
    return folder / "run", folder / "cache", folder / "a.safetensors"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the current folder be another one than that of the search."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


def extend(run: Path, command: SearchCommand) -> None:
    with Store.open(run) as store:
        extend_study(store, command)


def test_a_resumed_search_has_the_cache_of_the_search(tmp_path: Path, elsewhere: Path) -> None:
    run, cache, weights = recorded_run(tmp_path)
    os.chdir(elsewhere)
    resumed = parse(["--resume", str(run)])
    assert (resumed.cache, resumed.teacher_weights, resumed.trial_timeout) == (str(cache), {"a": weights}, 900)
    assert (resumed.workers, resumed.max_hours) == (None, None), "they are those of one session"
    given = parse(["--resume", str(run), "--cache", "b", "--teacher-weights", "a=w", "--trial-timeout", "5"])
    assert (given.cache, given.teacher_weights, given.trial_timeout) == ("b", {"a": Path("w")}, 5)
    again = parse(["--resume", str(run), "--teacher-weights", "b=w"])
    assert again.teacher_weights == {"a": weights, "b": Path("w")}


def test_an_extension_changes_the_budget_of_the_file_alone(tmp_path: Path, elsewhere: Path) -> None:
    run, cache, weights = recorded_run(tmp_path)
    before = tomllib.loads((run / FILE_NAME).read_text())
    extend(run, parse(["--resume", str(run), "--extend", "3", "--workers", "1"]))
    after = tomllib.loads((run / FILE_NAME).read_text())
    assert before["run"] == {"cache": str(cache), "workers": 7, "trial_timeout": 900.0, "max_hours": 2.0} | {
        "teacher_weights": {"a": str(weights)}
    }
    assert after == before | {"budget": before["budget"] + 3}
    extend(run, parse(["--resume", str(run), "--extend", "3", "--trial-timeout", "5"]))
    assert tomllib.loads((run / FILE_NAME).read_text())["run"]["trial_timeout"] == 5.0, "later commands need it"


def test_extensions_at_the_same_time_all_count_in_the_study_and_its_file(tmp_path: Path, elsewhere: Path) -> None:
    run, *_ = recorded_run(tmp_path)
    command = parse(["--resume", str(run), "--extend", "3"])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: extend(run, command), range(12)))
    budgets = read_study(run).info.config["budget"], read_options(run / FILE_NAME)["budget"]
    assert budgets == (search_config().budget + 36,) * 2
    (run / FILE_NAME).unlink()
    (run / FILE_NAME).mkdir()
    with pytest.raises(StoreError):
        extend(run, command)
    assert read_study(run).info.config["budget"] == budgets[0]


def test_the_command_that_resumes_has_what_the_study_did_not_record(tmp_path: Path, elsewhere: Path) -> None:
    run, *_ = recorded_run(tmp_path)
    assert resume_command(parse(["--resume", str(run)])).split()[2:] == ["--resume", str(run)]
    words = ["--cache", "b", "--teacher-weights", "a=w", "--trial-timeout", "50"]
    printed = resume_command(parse(["--resume", str(run), *words])).split()[4:]
    assert printed == ["--cache", f"{tmp_path}/b", "--trial-timeout", "50", "--teacher-weights", f"a={tmp_path}/w"]
    assert parse(["--resume", str(run), *printed]).trial_timeout == 50


def test_what_a_search_recorded_and_is_gone_falls_back_with_a_line(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BACKBONE_NAS_CACHE", str(elsewhere / "user"))
    run, cache, weights = recorded_run(tmp_path)
    assert recorded_sources(run, None, {}) == (cache, {"a": weights})
    assert recorded_sources(run, "b", {"a": Path("w")}) == (Path("b"), {"a": Path("w")})
    assert capsys.readouterr().err == ""
    cache.rmdir()
    weights.unlink()
    assert recorded_sources(run, None, {}) == (elsewhere / "user", {})
    first, second = capsys.readouterr().err.splitlines()
    assert str(cache) in first
    assert str(elsewhere / "user") in first
    assert str(weights) in second
    (run / FILE_NAME).unlink()
    assert recorded_sources(run, None, {}) == (elsewhere / "user", {})


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PyTorch see a GPU, for the commands that only decide."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("asked", "flag"),
    [
        (["--device", "cuda"], "--device cuda"),
        (["--space", "full"], "--space full"),
        (["--data", "imagefolder:mine"], "--data imagefolder:mine"),
    ],
)
def test_no_gpu_and_no_cluster_gets_the_budget_of_a_laptop_silently(
    asked: list[str], flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--run", str(tmp_path / "run")]
    assert main([*asked, *run, "--train-images", "4000"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {flag}: ")
    assert all(words in line for words in ("4,000 images", "30/90/270", "batches of 32", *recipe_names()))
    assert parse([*asked, *run, "--train-images", "4000", "--rung-steps", "30,90"]).config.train_images == 4000
    assert parse([*asked, *run, "--recipe", "imagenet-8a100"]).config.train_images == 1281167


def test_images_are_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resuming, retraining and a training open the images again, wherever they are started."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    words = ["--device", "cpu", "--run", str(tmp_path / "run"), "--data"]
    assert parse([*words, "imagefolder:mine"]).config.data == f"imagefolder:{tmp_path}/mine"
    assert parse([*words, "imagefolder:none"]).config.data == "imagefolder:none", (
        "what is refused later is named as given"
    )
    url = "webdataset:https://host/{0..3}.tar::https://host/val.tar?sig=1#ignore=9"
    assert parse([*words, url]).config.data == url


def test_choices_of_flags_are_added_to_those_of_the_file_and_make_the_space(tmp_path: Path) -> None:
    flags = ["--choices", "stage1.widths=8,16", "--choices", "stage1.depths=1", "--choices", "stages.mlp_expansions=2"]
    command = parse(["--config", written(tmp_path, EVERYTHING), *flags, "--run", str(tmp_path / "run")])
    stages = {"blocks": ["mbconv"], "mlp_expansions": [2]}
    assert command.config.choices == {"stages": stages, "stage1": {"widths": [8, 16], "depths": [1]}}
    first = command.config.search_space.stages[0]
    assert (first.blocks, first.widths, first.depths) == (("mbconv",), (8, 16), (1,))
    text = config_text(command.config.to_dict(), run_table(command))
    again = parse(["--config", written(tmp_path, text), "--run", str(tmp_path / "again")])
    assert again.config.search_space == command.config.search_space != SPACES["micro"]
