"""The recipes: what their comments promise, and that a search can start with them once its files are there."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.plan.__main__ import main as plan
from nas.plan.teacher_costs import material_counted
from nas.search.__main__ import main as search
from nas.search.config_file import read_options
from nas.search.options import recipe_names, recipe_path
from nas.search.settings import new_config
from nas.study.config import SearchConfig
from nas.teachers import TEACHERS, specs
from nas.teachers.timm_networks import parameters
from tests.nas.teachers.holes import shapes_of, write_holes

PRICED = [name for name in recipe_names() if name != "laptop"]
TOLERANCE = 0.1


def promised(name: str) -> dict[str, float]:
    """Return the figures in a recipe's comment: "# LABEL: NUMBER"."""
    lines = re.findall(r"^# ([^:\n]+): ([\d.,]+)$", recipe_path(name).read_text(), re.MULTILINE)
    return {label: float(number.replace(",", "")) for label, number in lines}


def settings(name: str) -> SearchConfig:
    return new_config(read_options(recipe_path(name)))


def test_the_recipe_of_a_laptop_is_the_default() -> None:
    assert settings("laptop") == new_config({})


def test_the_job_that_builds_the_cache_of_a_cluster_has_the_values_of_its_recipe() -> None:
    page = (Path(__file__).parents[3] / "docs/how-to/cluster.md").read_text().replace("\\\n", " ")
    (teachers,) = re.findall(r"^export TEACHERS=(\S+)$", page, re.MULTILINE)
    (command,) = re.findall(r"exec backbone-nas cache build (.*)'$", page, re.MULTILINE)
    given = dict(re.findall(r"--(\S+) (\S+)", command))
    config = settings("datacomp-64h100")
    assert teachers == config.teachers
    assert (int(given["train-images"]), int(given["val-images"])) == (config.train_images, config.val_images)
    assert int(given["img-size"]) == config.distill.img_size
    assert given["teacher-precision"] == config.teacher_precision
    assert config.views == 1
    assert config.target_dtype == SearchConfig().target_dtype


def test_the_disk_of_the_laptop_s_recipe_is_as_promised() -> None:
    material = material_counted(settings("laptop"), {}, device=None)
    assert promised("laptop") == pytest.approx(
        {
            "Teacher targets (GB)": sum(teacher.kept_bytes for teacher in material.teachers) / 1e9,
            "Images (GB)": material.images.kept_bytes / 1e9,
        },
        rel=TOLERANCE,
    )


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", PRICED)
def test_hours_cost_and_disk_are_what_plan_computes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(["--recipe", name, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    (cluster,) = (cluster for cluster in planned["clusters"] if cluster["planned"])
    figures = {key: figure["value"] for key, figure in planned["figures"].items()}
    assert promised(name) == pytest.approx(
        {
            "Teachers (h)": cluster["teachers_s"] / 3600,
            "Search (h)": cluster["search_s"] / 3600,
            "GPU-hours": cluster["device_hours"],
            "Cost (USD)": cluster["usd"],
            "Teacher targets (GB)": figures["targets_bytes"] / 1e9,
            "Images (GB)": figures["images_bytes"] / 1e9,
            "Run folder (GB)": figures["run_bytes"] / 1e9,
        },
        rel=TOLERANCE,
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "cifar10-1gpu" else pytest.mark.slow) for name in PRICED]
)
def test_the_size_of_the_weights_is_as_promised(name: str) -> None:
    (promise,) = re.findall(r"([\d.]+) GB(?: of\n# teachers' weights| of teachers' weights|, Hugging Face hub)",
                            recipe_path(name).read_text())  # fmt: skip
    chosen = [spec.name for spec in specs(settings(name).teachers) if spec.name not in TEACHERS]
    assert float(promise) == pytest.approx(sum(map(parameters, chosen)) * 4 / 1e9, rel=0.02)


def shard(path: Path, images: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number in range(images):
            picture = io.BytesIO()
            Image.fromarray(np.full((32, 32, 3), number % 256, np.uint8)).save(picture, "jpeg")
            for suffix, content in (("jpg", picture.getvalue()), ("cls", b"0")):
                member = tarfile.TarInfo(f"{path.stem}-{number:05d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["imagenet-8a100", "datacomp-64h100"])
def test_with_its_files_a_dry_run_finds_no_problem(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tiny shards and weights in place of the real ones, on the CPU."""
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        shard(tmp_path / f"shards/train-{number}.tar", 300)
    shard(tmp_path / "shards/val-0.tar", 4)
    flags = [
        "--data",
        "webdataset:shards/train-{0..1}.tar::shards/val-0.tar",
        "--device",
        "cpu",
        "--train-images",
        "600",
        "--val-images",
        "4",
    ]
    for number, spec in enumerate(specs(settings(name).teachers)):
        write_holes(tmp_path / f"{number}.safetensors", shapes_of(spec.name))
        flags += ["--teacher-weights", f"{spec.network}={number}.safetensors"]
    assert search(["--recipe", name, "--dry-run", *flags, "--cache", str(tmp_path / "cache")]) == 0
    shown = capsys.readouterr().out
    assert "problem" not in shown
    assert "600 images to train on (of 600 asked for), 4 held out (of 4)" in shown
    assert not (tmp_path / "runs").exists(), "a dry run leaves nothing"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["imagenet-8a100", "datacomp-64h100"])
def test_without_its_shards_a_dry_run_names_the_first(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert search(["--recipe", name, "--dry-run", "--device", "cpu", "--cache", str(tmp_path / "cache")]) == 2
    problems = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem  data: ")]
    assert re.search(r"no such shard '\S+0000\.tar'", problems[0])
