"""What a large teacher needs: its activations are counted, and its batches run at once only as far as memory goes."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from nas.cache import estimate, teacher_features
from nas.cache.estimate import estimate_teacher, parallel_passes
from nas.cache.grid import to_grid
from nas.cache.images import BATCH, ImageCacheBuilder, ImageSource
from nas.cache.teacher_features import Compression, TeacherCacheBuilder, activation_bytes, in_passes
from nas.teachers import Teacher, specs
from nas.teachers.base import TeacherOutput, run_teacher
from tests.nas.teachers.small_networks import register, saved
from tests.waiting import PATIENCE_S

PX = 64


@pytest.fixture
def builder(tmp_path):
    images = ImageCacheBuilder(ImageSource("builtin", {"train": 8, "val": 4}, 0, 1, tmp_path), PX)
    return TeacherCacheBuilder(specs("xfeat")[0], images, Compression(4, "int8", 0.125))


class Watched(Teacher):
    """A teacher that counts how many of its passes run at the same time."""

    source_px = PX

    def __init__(self):
        super().__init__()
        self.running = self.most = self.without_data = 0
        self.lock, self.together = threading.Lock(), threading.Barrier(1)

    def forward(self, images):
        if images.device.type == "meta":
            self.without_data += 1
            return TeacherOutput(None, images + 1)
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.together.wait(PATIENCE_S)
        time.sleep(0.01)  # one more than may run would begin now
        with self.lock:
            self.running -= 1
        return TeacherOutput(None, images)


@pytest.mark.parametrize(("memory_in_passes", "at_once"), [(1, 1), (4, 2), (100, 3)])
def test_as_many_batches_run_at_once_as_half_of_the_memory_takes(builder, monkeypatch, memory_in_passes, at_once):
    """On three threads."""
    teacher = builder.__dict__["teacher"] = Watched()
    builder.device = torch.device("cpu")
    one_pass = activation_bytes(teacher, BATCH, PX)
    assert one_pass == 4 * BATCH * 3 * PX**2
    monkeypatch.setattr(teacher_features, "memory_bytes", lambda: memory_in_passes * one_pass)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    run = builder.live_features(lambda rows: torch.zeros(len(rows), 3, PX, PX, dtype=torch.uint8))
    teacher.together = threading.Barrier(at_once)
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: run([0, 1]), range(12)))
    assert teacher.most == at_once
    assert [heads["spatial"].shape for heads in results] == [(2, 3, 4, 4)] * 12


class Listed(Watched):
    """A teacher that lists the images of its passes."""

    def __init__(self):
        super().__init__()
        self.passes = []

    def forward(self, images):
        self.passes.append(len(images))
        return super().forward(images)


@pytest.mark.parametrize(
    ("memory_in_passes", "tiles", "passes"),
    [(2, 1, [32]), (0.5, 1, [8] * 4), (0.1, 2, [4] * 8), (0.5, 4, [16] * 2)],
)
def test_a_pass_takes_fewer_images_where_half_of_the_memory_holds_no_batch(
    builder, monkeypatch, memory_in_passes, tiles, passes
):
    """As SAM's at 1024 px; but the images of a mosaic stay together."""
    teacher = builder.__dict__["teacher"] = Listed()
    teacher.tiles, builder.device = tiles, torch.device("cpu")
    memory = int(memory_in_passes * activation_bytes(teacher, BATCH, PX))
    monkeypatch.setattr(teacher_features, "memory_bytes", lambda: memory)
    images = torch.randint(0, 256, (BATCH, 3, PX, PX), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    run = builder.live_features(lambda rows: images[list(rows)])
    teacher.passes.clear()  # those without data, which tell the memory
    torch.testing.assert_close(run(range(BATCH)), {"spatial": to_grid(images.float() / 255, 4)})
    assert teacher.passes == passes


@pytest.mark.parametrize("count", [32, 30, 7])
def test_mosaics_have_the_features_of_one_pass_wherever_their_batch_is_divided(tmp_path, count):
    """Also the last one, which images from the start of the batch complete."""
    register()
    name = "samvit_small.sa1b@128/2"
    (spec,) = specs(name, {name: saved("samvit_small", tmp_path)})
    teacher = spec.load()
    images = torch.randint(0, 256, (count, 3, PX, PX), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def run(part):
        return {"spatial": run_teacher(teacher, part, "fp32").spatial}

    whole = run(images)
    for at_once in (4, 8, 20):
        torch.testing.assert_close(in_passes(run, images, at_once, teacher.tiles), whole)
    if count % 4:  # dividing it as images without a mosaic changes it
        divided = torch.cat([run(part)["spatial"] for part in torch.split(images, 4)])
        assert not torch.allclose(divided, whole["spatial"], rtol=0.01, atol=0.01)


def test_an_estimate_counts_the_batches_that_run_at_once(builder, monkeypatch):
    seconds = {}
    monkeypatch.setattr(estimate, "seconds_per_image", lambda *_: 1.0)
    for at_once in (1, 100):
        monkeypatch.setattr(TeacherCacheBuilder, "passes_at_once", lambda self, teacher, at_once=at_once: at_once)
        seconds[at_once] = estimate_teacher(builder).seconds
    assert seconds[1] == pytest.approx(100 * seconds[100])


def test_batches_that_wait_for_a_gpu_save_no_time(builder, monkeypatch):
    """Without a GPU here, only the rule is tested."""
    monkeypatch.setattr(TeacherCacheBuilder, "passes_at_once", lambda self, teacher: 8)
    counted = {}
    for kind in ("cpu", "cuda"):
        builder.device = torch.device(kind)
        counted[kind] = parallel_passes(builder, Watched())
    assert counted == {"cpu": 8, "cuda": 1}


def test_a_teacher_is_timed_in_the_precision_of_the_build(builder, monkeypatch):
    seen = []

    def run(teacher, images, precision):
        seen.append(precision)
        return run_teacher(teacher, images, precision)

    monkeypatch.setattr(estimate, "run_teacher", run)
    builder.precision = "bf16"
    assert estimate_teacher(builder).seconds > 0
    assert set(seen) == {"bf16"}


def test_activations_are_those_of_the_largest_step_of_a_pass(tmp_path):
    """SAM's attention over a mosaic: a square matrix of 256 tokens a head and mosaic, which is more than its map."""
    register()
    name = "samvit_small.sa1b@256/4"
    (spec,) = specs(name, {name: saved("samvit_small", tmp_path)})
    teacher = spec.load()
    one, two = (activation_bytes(teacher, count, 64) for count in (16, 32))
    assert one < two < 2.2 * one
    assert one > 4 * 3 * 256 * 256  # the input
    assert all(parameter.device.type == "cpu" for parameter in teacher.parameters())
