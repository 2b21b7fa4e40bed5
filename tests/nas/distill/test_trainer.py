"""Distillation: it learns, it repeats itself, its averages and scores are what they say."""

from __future__ import annotations

import copy
import fcntl
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from backbones import Features, build, build_network
from nas.cache.grid import to_grid
from nas.cache.standardize import Standardizer
from nas.cache.targets import Targets, TeacherTargets
from nas.distill.evaluation.explained_variance import explained_variance
from nas.distill.folded_heads import fold
from nas.distill.heads import Student, normalize
from nas.distill.losses import DistillationLoss
from nas.distill.rungs import Checkpoint, Training, TrainingContext, TrainingStopped, _check_same_step
from nas.distill.trainer import GRAD_NORM, Distiller, TrainingError, _float_pairs
from nas.measure.device_lock import DEVICE_FILE
from nas.study.config import DistillConfig, Group
from search_space import NetworkSpec, TimmSpec, preset
from tests.nas.distill.targets_builder import targets, two_teachers
from tests.nas.study.builders import search_config

CONFIG = DistillConfig(img_size=32, batch_size=16, warmup_steps=2, precision="fp32", rung_steps=(4, 8))
EVERYTHING = replace(
    CONFIG, balance="drop", summary_loss="angle", spatial_loss="hybrid", standardization="global", max_grad_norm=0.1
)


@pytest.fixture
def leases_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.distill.trainer._CPU_STEPS_PER_LEASE", 5)


def distiller(folder: Path, config: DistillConfig = CONFIG, seed: int = 0) -> Distiller:
    torch.manual_seed(seed)
    return Distiller(build(preset("eradio_femto")), targets(folder), config, seed=seed)


@pytest.mark.parametrize("loss", ["mse", "cosine"])
def test_a_student_learns_its_teacher(tmp_path: Path, loss: str) -> None:
    run = distiller(tmp_path, replace(CONFIG, summary_loss=loss))
    assert list(run.angular_transforms) == (["colour/summary"] if loss == "cosine" else [])
    before = explained_variance(run.averaged, targets(tmp_path).val, "cpu", run.angular_transforms)["colour"]
    run.train_until(60)
    after = explained_variance(run.averaged, targets(tmp_path).val, "cpu", run.angular_transforms)["colour"]
    assert after["spatial"] > 0.5 > before["spatial"]
    assert after["summary"] > 0.5 > before["summary"]


def test_a_student_of_shifted_images_learns_its_teacher(tmp_path: Path) -> None:
    run = distiller(tmp_path, replace(CONFIG, max_shift=1))
    run.train_until(60)
    assert explained_variance(run.averaged, targets(tmp_path).val, "cpu")["colour"]["spatial"] > 0.5
    same = distiller(tmp_path)
    same.train_until(8)
    assert run.losses[:8] != same.losses


def test_a_shift_leaves_cells_to_compare(tmp_path: Path) -> None:
    run = distiller(tmp_path, replace(CONFIG, max_shift=64))
    run.train_until(4)
    assert all(np.isfinite(loss) for losses in run.losses for loss in losses.values())


def test_ranks_that_have_read_different_checkpoints_do_not_train(monkeypatch: pytest.MonkeyPatch) -> None:
    _check_same_step({"distiller": {"step": 5}})
    monkeypatch.setattr("nas.distill.rungs.distributed.distinct", lambda step: [-1, step])
    with pytest.raises(TrainingError, match="different checkpoints, none and that of step 5"):
        _check_same_step({"distiller": {"step": 5}})


def test_same_seed_same_losses_and_in_one_go_or_in_two(tmp_path: Path) -> None:
    one, two = distiller(tmp_path), distiller(tmp_path)
    one.train_until(8)
    two.train_until(3)
    two.train_until(8)
    assert one.losses == two.losses
    assert one.losses != distiller(tmp_path, seed=1).losses


def test_a_training_begins_where_an_earlier_one_ended(tmp_path: Path) -> None:
    """From what a study keeps: averaged weights and folded heads."""
    ended = distiller(tmp_path)
    ended.train_until(5)
    teachers = targets(tmp_path).teachers
    backbone = copy.deepcopy(ended.averaged.backbone).requires_grad_(True)
    heads = fold(ended.averaged.heads, teachers, 16)
    begun = Distiller(backbone, targets(tmp_path), CONFIG, seed=5, adaptors=heads)
    val = targets(tmp_path).val
    wanted, found = (explained_variance(run.averaged, val, "cpu")["colour"] for run in (ended, begun))
    assert found == pytest.approx(wanted, abs=1e-4)
    begun.train_until(1)


def test_averaged_weights_follow_the_ema_formula(tmp_path: Path) -> None:
    run = distiller(tmp_path)
    name = next(n for n, p in run.student.named_parameters() if p.ndim == 4)
    expected = copy.deepcopy(run.student.state_dict()[name])
    for step in range(1, 4):
        run.train_until(step)
        decay = min(CONFIG.ema_decay, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * run.student.state_dict()[name]
    torch.testing.assert_close(run.averaged.state_dict()[name], expected)


def test_parameters_that_a_network_shares_are_averaged_once_a_step() -> None:
    network = build_network(TimmSpec("coat_tiny"))
    averages, currents = _float_pairs(copy.deepcopy(network), network)
    places = [average.data_ptr() for average in averages]
    assert len(places) == len(set(places))
    names = [name for name, value in network.state_dict().items() if value.is_floating_point()]
    assert len(places) < len(names), "some have two names"
    assert {current.data_ptr() for current in currents} == {network.state_dict()[name].data_ptr() for name in names}


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path) -> None:
    run = distiller(tmp_path)
    with torch.no_grad():
        next(run.student.parameters()).fill_(float("inf"))
    with pytest.raises(TrainingError, match="step 1"):
        run.train_until(1)


def test_the_step_of_a_loss_that_is_not_finite_is_named_inside_a_slot_too(tmp_path: Path) -> None:
    """Losses are read every five steps; the eighth step is neither the first nor the last of its five."""
    run, calls = distiller(tmp_path), iter(range(1, 100))
    run.student.register_forward_pre_hook(
        lambda _, inputs: (inputs[0] * float("nan"), *inputs[1:]) if next(calls) == 8 else None
    )
    with pytest.raises(TrainingError, match=r"step 8$"):
        run.train_until(20)
    assert len(run.losses) == 7


@pytest.mark.usefixtures("leases_as_on_a_gpu")
@pytest.mark.parametrize("part", ["backbone", "heads"])
def test_weights_that_are_not_finite_after_the_last_step_are_not_saved(
    tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a step has a finite loss, and without clipping nobody looks at its gradient."""
    monkeypatch.setattr(Checkpoint, "due", True)
    context = context_of(tmp_path, replace(CONFIG, rung_steps=(20,)))
    spec, calls = preset("eradio_femto"), iter(range(1, 100))
    run = Training(spec.arch_id, build(spec), context)
    weights = next(p for name, p in run._distiller.student.named_parameters() if name.startswith(part) and p.ndim > 1)
    weights.register_hook(lambda gradient: gradient * (float("inf") if next(calls) == 10 else 1.0))
    with pytest.raises(TrainingError, match=r"the weights are not finite after step 10$"):
        run.rung(0)
    run.close()
    saved = run._checkpoint.load()
    assert saved is not None
    assert saved["distiller"]["step"] == 5
    assert all(value.isfinite().all() for value in saved["distiller"]["student"].values())


class HostReads(TorchFunctionMode):
    """Counts calls that make the host wait for a value of the device."""

    CALLS = (
        Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.nonzero, Tensor.__bool__, Tensor.__float__,
        Tensor.__int__, Tensor.__index__, Tensor.__contains__,
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in self.CALLS
        return func(*args, **(kwargs or {}))


class ScalarReads(TorchDispatchMode):
    """Counts the scalars that operators read, those inside PyTorch's own functions included."""

    CALLS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in self.CALLS
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("leases_as_on_a_gpu")
@pytest.mark.parametrize("balance", ["adaloss", "drop"])
def test_the_host_reads_from_the_device_once_in_five_steps(tmp_path: Path, balance: str) -> None:
    run = distiller(tmp_path, replace(EVERYTHING, balance=balance, accumulate=2, max_grad_norm=1.0))
    run.train_until(1)  # the optimizer makes its state
    with HostReads() as reads, ScalarReads() as scalars:
        run.train_until(11)
    assert len(run.losses) == 11
    assert (reads.count, scalars.count) == (2, 0)


def gradient(run: Distiller) -> Tensor:
    return torch.cat([p.grad.flatten() for p in run.student.parameters() if p.grad is not None])


def test_clipping_scales_the_gradient_to_its_limit_and_keeps_the_norms(tmp_path: Path) -> None:
    free, clipped = distiller(tmp_path), distiller(tmp_path, replace(CONFIG, max_grad_norm=0.01))
    for run in (free, clipped):
        run.train_until(1)
    norm = float(gradient(free).norm())
    assert norm > 0.02
    torch.testing.assert_close(gradient(clipped), gradient(free) * 0.01 / norm, rtol=1e-3, atol=1e-8)
    assert clipped.grad_norms == [pytest.approx(norm, rel=1e-4)]
    assert free.grad_norms == []


@pytest.mark.parametrize("kind", ["global", "raw"])
def test_heads_answer_in_the_space_of_their_loss(tmp_path: Path, kind: str) -> None:
    """A head's answer is its last layer's output; scoring alone brings it back to PHI-S."""
    whole, config = stretched(targets(tmp_path)), replace(CONFIG, standardization=kind)
    run = Distiller(build(preset("eradio_femto")), whole, config, seed=0)
    heads = run.averaged.heads
    with torch.no_grad():
        features = run.averaged.backbone.encode(normalize(torch.from_numpy(whole.val.images[:8])))
        answer = heads(features)["colour"]["spatial"]
        tokens = to_grid(features.spatial, whole.grid).flatten(2).transpose(1, 2)
        predicted = heads.predict_targets(features)["colour"]["spatial"]
    assert torch.equal(answer.flatten(2).transpose(1, 2), heads.spatial["colour"](tokens))
    transform = heads.transforms["colour/spatial"]
    torch.testing.assert_close(transform.apply(predicted), answer, rtol=1e-4, atol=1e-4)
    assert (predicted - answer).abs().max() > 0.1, "the spaces differ"
    wanted = torch.from_numpy(whole.val.spatial["colour"][:8]).float()
    loss = DistillationLoss(whole, config, torch.device("cpu"))
    losses = loss({"colour": {"spatial": transform.apply(wanted)}}, {"colour/spatial": wanted})
    assert losses["colour/spatial"].tolist() == [0.0] * 8


def stretched(whole: Targets) -> Targets:
    """The same targets, of a teacher whose own features have a mean of 0.5 to 1.2 and deviations of 3."""
    own = Standardizer(np.linspace(0.5, 1.2, 8), np.eye(8) / 3, np.eye(8) * 3, 1.0)
    return replace(whole, teachers={"colour": TeacherTargets("fingerprint", own, own)})


def test_mean_losses_cover_the_last_third(tmp_path: Path) -> None:
    run = distiller(tmp_path)
    run.losses, run.step = [{"a/summary": float(i)} for i in range(9)], 9
    assert run.mean_losses(0) == {"a/summary": 7.0}
    assert run.mean_losses(6) == {"a/summary": 8.0}
    run.losses, run.step = (
        [{"a/summary": float(i)} for i in range(6000, 9000)],
        9000,
    )  # of all steps, those that are kept
    assert run.mean_losses(0) == {"a/summary": 7499.5}
    assert run.mean_losses(6000) == {"a/summary": 8499.5}


def test_losses_of_a_long_training_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.distill.trainer.KEPT_STEPS", 6)
    run = distiller(tmp_path, replace(CONFIG, max_grad_norm=1.0))
    run.train_until(10)
    assert len(run.losses) == len(run.grad_norms) == 6
    assert run.means(8, 10) == {**_mean(run.losses[-2:]), GRAD_NORM: float(np.mean(run.grad_norms[-2:]))}
    assert run.means(0, 10) == {**_mean(run.losses), GRAD_NORM: float(np.mean(run.grad_norms))}
    run.student.register_forward_pre_hook(lambda _, inputs: (inputs[0] * float("nan"), *inputs[1:]))
    with pytest.raises(TrainingError, match=r"loss of colour/summary is not finite at step 11$"):
        run.train_until(12)


def _mean(entries: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([entry[name] for entry in entries])) for name in entries[0]}


def test_a_cosine_schedule_warms_up_and_ends_near_zero(tmp_path: Path) -> None:
    config = replace(CONFIG, schedule="cosine", warmup_steps=4, rung_steps=(10, 24), learning_rate=0.1)
    rates = [config.learning_rate_at(step) for step in range(24)]
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert rates[4] == pytest.approx(0.1)
    assert rates[14] == pytest.approx(0.05), "half of the way from the warm-up to the end"
    assert sorted(rates[4:], reverse=True) == rates[4:]
    assert 0 < rates[-1] < 0.001
    run = distiller(tmp_path, config)
    run.train_until(15)
    assert run._optimizer.param_groups[0]["lr"] == rates[14]
    assert replace(config, schedule="constant").learning_rate_at(23) == 0.1


def test_a_wsd_schedule_is_constant_and_falls_to_zero_in_the_last_fifth() -> None:
    config = replace(CONFIG, schedule="wsd", warmup_steps=4, rung_steps=(20, 100), learning_rate=0.1)
    rates = [config.learning_rate_at(step) for step in range(100)]
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert rates[4:81] == [0.1] * 77
    assert rates[85] == pytest.approx(0.05), "a quarter of the fall: 1 - sqrt(1/4)"
    assert sorted(rates[4:], reverse=True) == rates[4:]
    assert 0 < rates[-1] < 0.003
    short = replace(config, warmup_steps=90)
    assert short.learning_rate_at(89) == pytest.approx(0.1), "the fall begins after the warm-up"
    assert short.learning_rate_at(95) < 0.05


@pytest.mark.slow
def test_a_compiled_student_learns_the_same(tmp_path: Path) -> None:
    plain, compiled = distiller(tmp_path), distiller(tmp_path, replace(CONFIG, compile=True))
    plain.train_until(3)
    compiled.train_until(3)
    for mine, theirs in zip(compiled.losses, plain.losses, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)
    assert compiled.averaged.state_dict().keys() == plain.averaged.state_dict().keys()


@pytest.mark.slow
def test_each_of_many_students_in_a_process_is_compiled(tmp_path: Path) -> None:
    limit = {"recompile_limit": 1, "fail_on_recompile_limit_hit": True}  # of graphs, where Dynamo keeps eight
    with torch._dynamo.config.patch(limit):
        for name in ("eradio_femto", "eradio_pico"):
            config = replace(CONFIG, compile=True)
            Distiller(build(preset(name)), targets(tmp_path), config, seed=0).train_until(1)


def test_the_last_checkpoints_are_kept_and_a_damaged_one_falls_back_to_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    for step in range(5):
        Checkpoint(path, "me", kept=3).save({"step": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.pt", "c.pt.1", "c.pt.2"]
    assert [Checkpoint(tmp_path / name, "me").load() for name in ("c.pt", "c.pt.1", "c.pt.2")] == [
        {"step": 4}, {"step": 3}, {"step": 2},
    ]  # fmt: skip
    path.write_bytes(path.read_bytes()[:100])
    assert Checkpoint(path, "me", kept=3).load() == {"step": 3}
    path.unlink()  # killed between the two renames
    assert Checkpoint(path, "me", kept=3).load() == {"step": 3}
    assert Checkpoint(path, "me").load() is None


class Coarse(torch.nn.Module):
    """A backbone of stride 64 whose map grows from left to right."""

    spatial_stride = 64

    def encode(self, images: Tensor) -> Features:
        rows, columns = (-(-side // 64) for side in images.shape[2:])
        return Features(images.mean((2, 3)), torch.arange(float(columns)).expand(1, 1, rows, columns))


def test_a_map_that_reaches_beyond_the_image_is_cut() -> None:
    """At stride 64, 224 px have 4 places of 4 cells of 16 px, of which 14 are the image's."""
    student = Student(Coarse(), torch.nn.Identity())  # type: ignore[arg-type]
    spatial = student.encode(torch.zeros(1, 3, 224, 96)).spatial
    whole = F.interpolate(torch.arange(2.0).expand(1, 1, 4, 2), scale_factor=4.0, mode="bilinear", align_corners=False)
    assert spatial.equal(whole[..., :14, :6])
    exact = student.encode(torch.zeros(1, 3, 128, 128)).spatial
    assert exact.equal(torch.arange(2.0).expand(1, 1, 2, 2))
    assert to_grid(exact, 14)[0, 0, 0].tolist() == pytest.approx(to_grid(exact, 14)[0, 0, 13].tolist())
    assert to_grid(exact, 14)[0, 0, 0, 13] == 1.0  # the last cell is the image's last, also for another grid


@pytest.mark.parametrize("config", [CONFIG, EVERYTHING], ids=["plain", "dropping"])
def test_a_run_restored_in_the_middle_goes_on_as_if_never_stopped(tmp_path: Path, config: DistillConfig) -> None:
    whole = distiller(tmp_path, config)
    whole.train_until(9)
    broken = distiller(tmp_path, config)
    broken.train_until(4)
    file = Checkpoint(tmp_path / "c.pt", "me")
    file.save({"distiller": broken.state_dict()})
    torch.manual_seed(99)  # another process stands elsewhere
    again = distiller(tmp_path, config)
    saved = Checkpoint(tmp_path / "c.pt", "me").load()
    assert saved is not None
    again.load_state_dict(saved["distiller"])
    again.train_until(9)
    assert (again.losses, again.grad_norms) == (whole.losses, whole.grad_norms)
    theirs, mine = whole.averaged.state_dict(), again.averaged.state_dict()
    assert all(torch.equal(theirs[name], mine[name]) for name in theirs)


def test_a_checkpoint_of_another_training_or_a_damaged_one_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    assert Checkpoint(path, "me").load() is None
    Checkpoint(path, "me").save({"step": 3})
    assert Checkpoint(path, "me").load() == {"step": 3}
    assert Checkpoint(path, "you").load() is None
    path.write_bytes(path.read_bytes()[:200])
    assert Checkpoint(path, "me").load() is None
    assert list(tmp_path.iterdir()) == [path], "nothing half written stays"


def test_a_flipped_bit_in_a_checkpoint_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    """Torch alone reads the tensors of a damaged archive."""
    path, content = tmp_path / "c.pt", {"step": 3, "weights": torch.arange(500.0)}
    Checkpoint(path, "me").save(content)
    whole = path.read_bytes()
    for place in range(0, len(whole), 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        found = Checkpoint(path, "me").load()
        if found is not None:  # the bit means nothing, as in the archive's padding
            assert found["step"] == 3
            assert torch.equal(found["weights"], content["weights"])


def context_of(folder: Path, config: DistillConfig) -> TrainingContext:
    """Return the context of trainings that leave a checkpoint every few steps."""
    folder.mkdir(exist_ok=True)
    folders = dict.fromkeys(("weights_dir", "pictures_dir", "checkpoint_dir", "lock_dir"), folder)
    settings = search_config(train_images=64, val_images=32, distill=config)
    return TrainingContext(settings, targets(folder), checkpoint_s=0.0, **folders)


@pytest.mark.parametrize("loss", ["mse", "cosine"])
def test_a_rung_compares_summaries_as_their_loss_does(tmp_path: Path, loss: str) -> None:
    run = begin(context_of(tmp_path, replace(CONFIG, summary_loss=loss, score="both")))
    result = run.rung(0)
    run.close()
    assert result is not None
    student, val = run._distiller.averaged, targets(tmp_path).val
    by_lengths, found = explained_variance(student, val, "cpu")["colour"], result.teachers["colour"]
    assert (found["summary"] == pytest.approx(by_lengths["summary"], abs=1e-3)) == (loss == "mse")
    assert found["spatial"] == pytest.approx(by_lengths["spatial"], abs=1e-6)
    assert result.score == pytest.approx((found["summary"] + found["spatial"]) / 2)


def test_a_rung_tells_what_the_model_has_memorized(tmp_path: Path) -> None:
    context = context_of(tmp_path, CONFIG)
    run, train = begin(context), context.targets.train
    result = run.rung(0)
    run.close()
    assert result is not None
    explained = explained_variance(run._distiller.averaged, train, "cpu")["colour"]
    assert result.train_score == pytest.approx(explained["spatial"], abs=1e-6) != result.score
    rows = (0, (len(train) - 1) // 2, len(train) - 1)
    assert np.array_equal(train.spread(3).images, [train.images[row] for row in rows])


def test_a_training_whose_checkpoint_lacks_something_begins_again(tmp_path: Path) -> None:
    def trained(folder: Path) -> Training:
        torch.manual_seed(0)
        spec = preset("eradio_femto")
        return Training(spec.arch_id, build(spec), context_of(folder, replace(CONFIG, rung_steps=(4, 6))))

    def numbers(training: Training) -> tuple[float, dict[str, float]]:
        result = training.rung(0)
        training.close()
        assert result is not None
        return result.score, result.losses

    wanted = numbers(trained(tmp_path / "fresh"))
    run = trained(tmp_path / "other")
    run.rung(0)
    run.close()
    saved = run._checkpoint.load()
    assert saved is not None
    for lost in ("rungs", "student"):
        state = {**saved, "distiller": {**saved["distiller"], "losses": [{"a": 9.0}] * 4}}
        del (state if lost in state else state["distiller"])[lost]
        run._checkpoint.save(state)
        assert numbers(trained(tmp_path / "other")) == wanted


def begin(context: TrainingContext) -> Training:
    torch.manual_seed(0)
    spec = preset("eradio_femto")
    return Training(spec.arch_id, build(spec), context)


@pytest.mark.usefixtures("leases_as_on_a_gpu")
def test_saving_takes_a_twentieth_of_a_training_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, saves, save = SimpleNamespace(now_s=0.0), [], Checkpoint.save

    def save_slowly(checkpoint: Checkpoint, content: dict[str, Any]) -> None:
        clock.now_s += 0.5
        save(checkpoint, content)
        saves.append(content["distiller"]["step"])

    def train(step: int) -> None:
        clock.now_s += 4.0

    monkeypatch.setattr("nas.distill.rungs.time", SimpleNamespace(monotonic=lambda: clock.now_s))
    monkeypatch.setattr(Checkpoint, "save", save_slowly)
    seconds: list[float] = []
    spec, context = preset("eradio_femto"), context_of(tmp_path, replace(CONFIG, rung_steps=(30,)))
    run = Training(spec.arch_id, build(spec), context, on_steps=train, on_saved=seconds.append)
    run.rung(0)
    run.close()
    assert saves == [5, 20], "every five steps take four seconds, and the next save is due ten after the last"
    assert seconds == [0.5, 0.5]


@pytest.mark.usefixtures("leases_as_on_a_gpu")
def test_a_training_that_is_asked_to_end_ends_after_the_step(tmp_path: Path) -> None:
    context, steps = context_of(tmp_path, replace(CONFIG, rung_steps=(20,))), []
    run = begin(replace(context, should_stop=lambda: run._distiller.step >= 7, checkpoint_s=1e6))
    run._on_steps = steps.append
    with pytest.raises(TrainingStopped):
        run.rung(0)
    run.close()
    saved = run._checkpoint.load()
    assert saved is not None
    assert (steps, saved["distiller"]["step"]) == ([5, 7], 7)


def test_the_stride_of_the_heads_is_computed_while_the_device_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, stride_at = [], Student.stride_at

    def observed(student: Student, image_px: int) -> int | None:
        with (tmp_path / DEVICE_FILE).open("a") as file, suppress(BlockingIOError):
            free.append(False)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free[-1] = True
        return stride_at(student, image_px)

    monkeypatch.setattr(Student, "stride_at", observed)
    run = begin(context_of(tmp_path, replace(CONFIG, rung_steps=(2,))))
    run.rung(0)
    run.close()
    assert free == [False]


def test_what_killed_processes_were_writing_is_removed(tmp_path: Path) -> None:
    begin(context_of(tmp_path, CONFIG)).close()
    run = begin(context_of(tmp_path, CONFIG))
    run._save()
    run.close()
    (checkpoint,) = tmp_path.glob("*.pt")
    unfinished = checkpoint.with_name(f"{checkpoint.name}.123-abcd.tmp")
    others = checkpoint.with_name("other.pt.123-abcd.tmp")
    for path in (unfinished, others):
        path.touch()
    begin(context_of(tmp_path, CONFIG)).close()
    assert checkpoint.exists()
    assert others.exists()
    assert not unfinished.exists()


def test_a_checkpoint_that_would_run_code_is_not_opened(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (ran.touch, ())

    torch.save({"identity": "me", "content": Evil()}, tmp_path / "c.pt")
    assert Checkpoint(tmp_path / "c.pt", "me").load() is None
    assert not ran.exists()


def test_accumulated_halves_give_the_gradient_of_the_whole(tmp_path: Path) -> None:
    """Without BatchNorm's batch statistics the two are the same step."""
    one = distiller(tmp_path)
    two = distiller(tmp_path, replace(CONFIG, accumulate=2))
    for run in (one, two):
        run.student.eval()
        run.train_until(1)
    assert one.losses[0] == pytest.approx(two.losses[0], rel=1e-5)
    for p, q in zip(one.student.parameters(), two.student.parameters(), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5)


def test_accumulated_parts_weigh_the_losses_like_the_whole(tmp_path: Path) -> None:
    runs = [distiller(tmp_path, replace(CONFIG, balance="adaloss", accumulate=parts)) for parts in (1, 4)]
    for run in runs:
        run.student.eval()
        run.train_until(5)
    one, four = (run.state_dict()["balance"]["running"] for run in runs)
    torch.testing.assert_close(four, one, rtol=5e-3, atol=0)


def test_gradient_checkpointing_changes_memory_not_numbers(tmp_path: Path) -> None:
    plain, frugal = distiller(tmp_path), distiller(tmp_path, replace(CONFIG, grad_checkpointing=True))
    plain.train_until(3)
    frugal.train_until(3)
    assert [list(e.values()) for e in frugal.losses] == [
        pytest.approx(list(e.values()), rel=1e-4) for e in plain.losses
    ]


def buffers_after(folder: Path, network: NetworkSpec, config: DistillConfig) -> dict[str, Tensor]:
    """Return the running statistics of a network of one step, in float64, which tells updates from roundings."""
    torch.manual_seed(0)
    run = Distiller(build_network(network), targets(folder), config, seed=0)
    run.train_until(1)
    run.close()
    return {name: value.double() for name, value in run.student.named_buffers()}


@pytest.mark.parametrize(("network", "parts"), [(TimmSpec("resnet18"), 1), (preset("eradio_pico"), 2)])
def test_activations_that_are_computed_again_do_not_count_twice(
    tmp_path: Path, network: NetworkSpec, parts: int
) -> None:
    config = replace(CONFIG, accumulate=parts)
    plain, frugal = (
        buffers_after(tmp_path, network, replace(config, grad_checkpointing=again)) for again in (False, True)
    )
    counts = [name for name in plain if name.endswith("num_batches_tracked")]
    assert len(counts) > 10
    assert {float(frugal[name]) for name in counts} == {float(parts)}
    for name, expected in plain.items():
        torch.testing.assert_close(frugal[name], expected, rtol=1e-4, atol=1e-6)


def test_student_sizes_and_teacher_groups_follow_the_schedule(tmp_path: Path) -> None:
    two = two_teachers(tmp_path)
    groups = (Group(("colour",), 8, (32,), 3.0), Group(("colour", "mean"), 16, (32, 64), 1.0))
    config = replace(CONFIG, img_size=64, groups=groups)
    torch.manual_seed(0)
    run = Distiller(build(preset("eradio_femto")), two, config, seed=0)
    seen = []
    run.student.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    run.train_until(12)
    plans = [run._loader._schedule[step] for step in range(12)]
    assert seen == [(p.group.batch_size, 3, p.image_px, p.image_px) for p in plans]
    assert {p.image_px for p in plans} == {32, 64}
    assert [any(k.startswith("mean/") for k in entry) for entry in run.losses] == [
        "mean" in p.group.teachers for p in plans
    ]


@pytest.mark.parametrize("network", [preset("eradio_femto"), TimmSpec("deit_tiny_patch16_224")])
def test_weight_decay_has_the_groups_of_timms_optimizers(network: NetworkSpec, tmp_path: Path) -> None:
    backbone = build_network(network)
    run = Distiller(backbone, targets(tmp_path), replace(CONFIG, weight_decay=0.3), seed=0)
    decaying = {id(p) for g in run._optimizer.param_groups if g["weight_decay"] == 0.3 for p in g["params"]}
    names: set[str] = backbone.no_weight_decay()  # type: ignore[operator]
    of_timm = param_groups_weight_decay(backbone, 0.3, no_weight_decay_list=names)
    theirs = {id(p) for group in of_timm if group["weight_decay"] for p in group["params"]}
    matrices = {id(p) for p in backbone.parameters() if p.ndim > 1}
    assert decaying & {id(p) for p in backbone.parameters()} == theirs
    assert theirs < matrices, "some are exempt"
