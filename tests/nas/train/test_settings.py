"""What a command line of `backbone-nas train` means, and what it is refused for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nas.cli import BAD_INPUT
from nas.search.preconditions import check_image_count
from nas.study.config import DistillConfig, Group, SearchConfig
from nas.study.records import RaceResult
from nas.terminal import stderr_console
from nas.train.__main__ import main
from nas.train.arguments import parse
from nas.train.command import _with_live_images as with_live_images
from nas.train.command import copies_in_mosaics
from nas.train.training_settings import (
    CALIBRATION_IMAGES,
    LONG_RECIPE,
    TrainCommand,
    TrainingPlan,
    with_steps,
)
from nas.validation import ConfigError
from search_space import SPACES, TimmSpec, preset
from search_space.windows import padding_line
from tests.nas.analysis.builders import new_store, small_study


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def command(*words: str) -> TrainCommand:
    return parse([*words, "--device", "cpu"])


def test_a_preset_is_trained_alone_with_the_recipe_of_a_long_training() -> None:
    made = command("eradio_pico", "--train-steps", "95", "--distill", "learning_rate=0.001")
    config = made.session.config
    assert made.plan.architecture == preset("eradio_pico")
    assert config.distill.rung_steps == (10, 20, 30, 40, 50, 60, 70, 80, 90, 95)
    assert {name: getattr(config.distill, name) for name in LONG_RECIPE} == LONG_RECIPE
    assert (config.distill.learning_rate, config.distill.img_size, config.reference) == (0.001, 64, "eradio_pico")
    assert (config.baselines, config.scale, config.budget, config.limits) == ((), (), 1, {})
    assert made.session.run.is_dir()
    assert made.session.run.name.endswith("-train-eradio_pico")
    assert not made.session.resume


def test_images_and_reference_suit_the_architecture(tmp_path: Path) -> None:
    large = command("eradio_xt", "--train-steps", "10").session.config
    assert (large.distill.img_size, large.reference) == (224, "eradio_xt")
    (tmp_path / "mine.json").write_text(preset("like_levit_256").to_json())
    mine = command("mine.json", "--train-steps", "10", "--img-size", "96")
    assert (mine.plan.name, mine.session.config.distill.img_size) == ("mine", 96)
    other_size = command("eradio_xt", "--train-steps", "10", "--img-size", "256")
    assert [stage.window for stage in other_size.plan.architecture.stages] == [None, None, 8, 8]


def test_a_search_gives_its_data_its_recipe_and_the_recommended_model(tmp_path: Path) -> None:
    study = small_study({0: (0.2, 1.0), 1: (0.3, 2.0), 2: (0.25, 4.0)})
    config = SearchConfig.from_dict(study.info.config)
    config = replace(config, val_images=99, teacher_precision="bf16", limits={"max_params": 1.0})
    race = RaceResult(2700, 30_000, 1, None, 0.4)
    new_store(tmp_path / "search", replace(study, info=replace(study.info, config=config.to_dict(), race=race)))
    best, second = (command("search", "--train-steps", "10", *more) for more in ((), ("--trial", "1")))
    assert best.plan.architecture.arch_id == study.trials[2].arch_id
    assert second.plan.architecture.arch_id == study.trials[1].arch_id
    assert (best.session.config.val_images, best.session.config.limits) == (99, {})
    assert best.session.config.train_images == 30_000, "as its race"
    other = command("search", "--train-steps", "10", "--data", "imagefolder:photos").session.config
    assert other.train_images == config.train_images, "other data may have fewer"
    assert best.session.config.distill.schedule == "wsd"
    live = command("search", "--train-steps", "10", "--live").session.config
    assert best.session.config.teacher_precision == live.teacher_precision == "bf16"
    with pytest.raises(ConfigError, match="--warm: trial 1 has no weights"):
        command("search", "--train-steps", "10", "--trial", "1", "--warm")
    with pytest.raises(ValueError, match="--trial: the study has no trial '99'"):
        command("search", "--train-steps", "10", "--trial", "99")


def test_live_teachers_see_all_images_and_the_cache_has_a_few() -> None:
    words = ("eradio_pico", "--train-steps", "5", "--train-images", "9000", "--live", "--teacher-devices", "cpu,cuda:1")
    made = command(*words)
    assert (made.plan.live_images, made.session.config.train_images) == (9000, CALIBRATION_IMAGES)
    assert (made.plan.augment, made.plan.teacher_devices) == (True, ("cpu", "cuda:1"))
    assert not command(*words, "--no-augment").plan.augment
    cached = command(*words[:5])
    assert (cached.plan.live_images, cached.session.config.train_images) == (None, 9000)
    assert command(*words[:3], "--live", "--train-images", "64").session.config.train_images == 64


def test_a_batch_of_live_images_may_be_larger_than_the_cache_is_otherwise() -> None:
    large = (CALIBRATION_IMAGES * 2, CALIBRATION_IMAGES * 4)
    words = ("eradio_pico", "--train-steps", "5", "--live", "--batch-size", str(large[0]))
    made = command(*words, "--train-images", "1000000")
    assert (made.plan.live_images, made.session.config.train_images) == (1_000_000, large[0])
    groups = f'groups=[{{"teachers":["lite0","hed","xfeat"],"batch_size":{large[1]},"img_size":[64]}}]'
    assert command(*words, "--train-images", "9000", "--distill", groups).session.config.train_images == large[1]
    with pytest.raises(ConfigError, match=rf"--train-images: 4000: must be at least a batch \({large[0]}\)"):
        command(*words, "--train-images", "4000")


@pytest.fixture
def photographs(tmp_path: Path) -> str:
    """Return a folder of 32 images to train on and 4 held-out ones, which nobody reads."""
    for split, number in (("train", 32), ("val", 4)):
        (tmp_path / "photographs" / split).mkdir(parents=True)
        for i in range(number):
            (tmp_path / "photographs" / split / f"{i}.png").touch()
    return "imagefolder:photographs"


def count_live(data: str, monkeypatch: pytest.MonkeyPatch, *more: str) -> tuple[int, list[TrainCommand]]:
    """Return the exit code of a command that counts its images, and the settings that it would train with."""
    begun: list[TrainCommand] = []
    monkeypatch.setattr("nas.train.command._train", lambda counted, console: begun.append(counted))
    return main(["eradio_pico", "--train-steps", "5", "--live", "--device", "cpu", "--data", data, *more]), begun


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (("--train-images", "33"), "only 32 of 33 images to train on; check the path and the shards, or ask for what"),
        (("--train-images", "1000000"), "only 32 of 1,000,000 images to train on; check the path and the shards"),
        (
            ("--batch-size", "64"),
            "a training batch takes 64. Add images, or give --batch-size 32",
        ),
    ],
)
def test_live_images_that_are_fewer_than_asked_for_are_refused(
    more: tuple[str, ...],
    error: str,
    photographs: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert count_live(photographs, monkeypatch, *more) == (BAD_INPUT, [])
    said = capsys.readouterr().err
    assert error in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(("more", "number"), [((), 32), (("--train-images", "20"), 20)])
def test_live_teachers_take_the_images_that_there_are(
    more: tuple[str, ...],
    number: int,
    photographs: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The default asks for no number, neither of the images that train nor of those that fit the statistics."""
    code, (made,) = count_live(photographs, monkeypatch, "--batch-size", "16", *more)
    assert code == 0
    assert (made.plan.live_images, made.session.config.train_images) == (number, number)
    assert "4 of 600 images held out" in check_image_count(made.session.config, number, 4)
    said = capsys.readouterr().err
    assert said.startswith(f"live teachers: {number} images to train on")
    assert ("of the 32 that there are (--train-images N for more)" in said) == (number < 32)


def test_copies_in_a_mosaic_of_live_teachers_are_told() -> None:
    """Of 16 images, where a process has 8 of its teachers' group in a step."""
    sam = "samvit_huge_patch16.sa1b@1024/4"
    groups = (Group(("lite0",), 4, (64,)), Group((sam,), 16, (64,)))
    for ranks, of_groups, told in ((1, (), 0), (2, (), 0), (1, groups, 0), (2, groups, 1)):
        recipe = DistillConfig(batch_size=32, ranks=ranks, groups=of_groups)
        notes = copies_in_mosaics(SearchConfig(teachers=f"{sam},lite0", distill=recipe))
        assert len(notes) == told
    assert f"{sam} has 16 images, and a process has 8 images a step" in notes[0]


def test_a_live_training_continues_with_the_images_that_it_began_with_alone(
    photographs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoints are of those: with others it would begin again, and replace them."""
    _, (begun,) = count_live(photographs, monkeypatch, "--batch-size", "16")
    resumed = replace(begun, session=replace(begun.session, resume=True))
    assert with_live_images(resumed, stderr_console()).plan == begun.plan
    Path("photographs/train/5.png").write_bytes(b"another image")
    with pytest.raises(ConfigError, match="these are not the images that the training began with"):
        with_live_images(resumed, stderr_console())
    earlier = replace(resumed, plan=replace(resumed.plan, live_fingerprint=None))  # of versions that kept no digest
    assert with_live_images(earlier, stderr_console()).plan.live_images == 32


def test_a_network_of_timm_is_trained_at_its_own_size_unless_another_is_given() -> None:
    large = command("timm:convnext_atto", "--train-steps", "5", "--device", "cpu")
    assert (large.plan.name, large.plan.architecture) == ("timm:convnext_atto", TimmSpec("convnext_atto"))
    config = large.session.config
    assert (config.distill.img_size, config.space) == (224, "full")
    assert large.session.run.name.endswith("-train-timm-convnext_atto")
    earlier = command("timm:adv_inception_v3", "--train-steps", "5", "--device", "cpu").session.config
    assert earlier.distill.img_size == 224
    small = command("timm:convnext_atto", "--train-steps", "5", "--device", "cpu", "--img-size", "64").session.config
    assert (small.distill.img_size, small.space) == (64, SearchConfig().space)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "ARCH: name a preset"),
        (["eradio_pico"], "--train-steps: give the number of steps, or else --epochs"),
        (["eradio_pico", "--train-steps", "5", "--epochs", "1"], "--epochs: not with --train-steps; give one of them"),
        (["bad.json", "--train-steps", "5"], "ARCH: cannot read 'bad.json' (No such file or directory)\n"),
        (
            ["eradio_pick", "--train-steps", "5"],
            "ARCH: no preset 'eradio_pick'; choose the run folder of a search, timm:NAME, a",
        ),
        (["eradio_pico", "--train-steps", "5", "--address", "auto"], "--address: add --workers N"),
        (["eradio_pico", "--train-steps", "5", "--address", "here", "--workers", "2"], "must be auto or HOST:PORT"),
        (
            ["timm:inception_v3", "--img-size", "96", "--train-steps", "5", "--distill", "grad_checkpointing=true"],
            "--distill grad_checkpointing: timm:inception_v3: it cannot recompute activations",
        ),
        (
            [
                *("timm:levit_128s", "--train-steps", "5", "--distill"),
                'groups=[{"teachers":["lite0","hed","xfeat"],"batch_size":32,"img_size":[192,224],"rate":1}]',
            ],
            "--distill groups: timm:levit_128s",
        ),
        (
            [
                *("eradio_pico", "--epochs", "5", "--distill"),
                'groups=[{"teachers":["lite0","hed","xfeat"],"batch_size":64,"img_size":[64]}]',
            ],
            "--epochs: not with groups, each of which goes through the images at a pace of its own; give --train-steps",
        ),
        (["timm:resnet19", "--train-steps", "5"], "ARCH: timm has no model 'resnet19'; similar: resnet"),
        (["timm:resnet18.a1_in1k", "--train-steps", "5"], "it begins with random weights; write timm:resnet18"),
        (
            ["timm:vit_small_patch14_dinov2", "--img-size", "64", "--train-steps", "5"],
            "--img-size: timm:vit_small_patch14_dinov2",
        ),
        (["eradio_pico", "--train-steps", "5", "--warm"], "--warm: only with the run folder of a search"),
        (["eradio_pico", "--train-steps", "5", "--trial", "3"], "--trial: only with the run folder of a search"),
        (["eradio_pico", "--train-steps", "5", "--workers", "5"], "--workers: 5: --batch-size: 32: must be a multiple"),
        (["eradio_pico", "--train-steps", "5", "--data", "imagefolder:nowhere"], "no such folder"),
        (["eradio_pico", "--train-steps", "5", "--no-augment"], "--no-augment: only with --live"),
        (["eradio_pico", "--train-steps", "5", "--teacher-devices", "cpu"], "--teacher-devices: only with --live"),
        (["eradio_pico", "--train-steps", "5", "--live", "--teacher-devices", "tpu"], "--teacher-devices: 'tpu': must"),
        (
            ["eradio_pico", "--train-steps", "5", "--live", "--device", "cpu", "--teacher-devices", "cpu,cuda:1"],
            "--teacher-devices: cuda:1: PyTorch sees no CUDA device here; run this on the node that has the GPUs",
        ),
        (
            [
                *("eradio_pico", "--train-steps", "5", "--live", "--address", "auto", "--workers", "2"),
                *("--teacher-devices", "cpu,cuda:1"),
            ],
            "--teacher-devices: cuda:1: not with --address: Ray gives each process the GPU of its student alone",
        ),
        (["eradio_pico", "--train-steps", "5", "--live", "--views", "2"], "--views: not with --live"),
        (["--resume", "."], "no study"),
        (["eradio_pico", "--resume", "."], "ARCH: does not go with --resume"),
        (["--resume", ".", "--train-steps", "9"], "--train-steps: does not go with --resume"),
    ],
)
def test_wrong_words_are_refused_in_one_line(words: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(words)
    except SystemExit as ended:
        code = int(str(ended.code))
    said = capsys.readouterr().err
    assert code == BAD_INPUT, said
    assert error in said
    assert said.count("\n") == 1


def test_a_search_is_no_training_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new_store(tmp_path / "search", small_study({0: (0.2, 1.0)}))
    assert main(["--resume", "search"]) == BAD_INPUT
    assert "--resume: 'search' was not written by backbone-nas train" in capsys.readouterr().err


def test_evaluations_end_with_the_last_step() -> None:
    plan = TrainingPlan("x", {})
    for steps in (1, 2, 9, 10, 11, 99, 1000, 12345):
        rungs = with_steps(SearchConfig(), plan, steps).distill.rung_steps
        assert rungs[-1] == steps
        assert len(rungs) <= 11
        assert list(rungs) == sorted(set(rungs))


def test_a_plan_is_plain_data() -> None:
    plan = TrainingPlan("x", SPACES["micro"].decode(SPACES["micro"].encode(preset("eradio_pico"))).to_dict(), epochs=3)
    assert TrainingPlan.from_dict(plan.to_dict()) == plan


def test_maps_that_windows_do_not_tile_are_named() -> None:
    """At 256 px stage 3's map of 16 x 16 takes three windows of 7 a side, and so do half of its places at ratio 2."""
    spec = preset("eradio_xt")
    assert [stage.window for stage in spec.stages] == [None, None, 7, 7]
    assert padding_line(spec, [224, 448]) == ""
    line = padding_line(spec, [256])
    assert "stage 3 at 256 px (16 x 16 to 21 x 21 for windows of 7)" in line
    assert "stage 4 at 256 px (8 x 8 to 14 x 14 for windows of 7)" in line
    assert line.endswith("up to 3.1 times the tokens")
    fitted = command("eradio_xt", "--train-steps", "10", "--img-size", "256").plan.architecture
    assert padding_line(fitted, [256]) == ""
    assert padding_line(preset("like_vit_base16"), [256]) == "", "its windows follow the map"
    assert padding_line(TimmSpec("resnet18"), [256]) == ""
    assert DistillConfig(img_size=448, groups=(Group(("lite0",), 64, (224, 256)),)).image_sizes == [224, 256, 448]
