"""ONNX Runtime: what is exported, and that torch's memory is used as it lies."""

from __future__ import annotations

import tempfile

import torch
from torch.nn import functional as F

from nas.measure.runtimes import runner
from nas.measure.runtimes.onnx_graph import nearest
from tests.nas.measure.networks import Net, Out, check, images, needs_onnxruntime, ready, refusal

pytestmark = needs_onnxruntime


class Resized(Net):
    """Through a size that is no multiple, and back, as a stage does whose windows don't tile its map."""

    def encode(self, images):
        y = F.interpolate(self.conv(images), size=(16, 16), mode="nearest")
        y = F.interpolate(y * torch.arange(16.0), size=(14, 14), mode="nearest")
        return Out(y.mean((2, 3)), y)


def test_half_precision_is_refused_on_a_cpu():
    assert "fp32 only" in refusal("onnxruntime", ready(Net(), torch.bfloat16), images().to(torch.bfloat16))


def test_what_cannot_be_exported_is_refused():
    class Choosing(Net):
        def encode(self, images):
            return images if images.sum() > 0 else -images

    assert "data-dependent" in refusal("onnxruntime", ready(Choosing()), images())


def test_the_file_is_gone_and_the_network_runs_on(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    net, x = ready(Net()), images()
    run = runner("onnxruntime", net, x).run
    assert not list(tmp_path.iterdir())
    check(run, net, x)


def test_it_may_be_made_in_inference_mode_and_run_outside():
    with torch.inference_mode():
        net, x = ready(Net()), images()
        run = runner("onnxruntime", net, x).run
    check(run, net, x)


def test_a_session_runs_on_torchs_threads_and_memory():
    x = images()
    run = runner("onnxruntime", ready(Net()), x).run
    assert run.session.get_session_options().intra_op_num_threads == torch.get_num_threads()
    first, second = run(x), run(images(seed=1))
    assert [t.data_ptr() for t in first] == [t.data_ptr() for t in second], "outputs are made once"
    shape = run.session.get_inputs()[0].shape
    assert shape == [2, 32, 32, 3], "channels-last images are taken as they lie"


def test_images_in_another_layout_than_the_examples():
    net = ready(Net())
    check(runner("onnxruntime", net, images()).run, net, images(layout=torch.contiguous_format))


def test_uneven_resizing_sees_the_same_pixels():
    net, x = ready(Resized()), images(px=56)
    check(runner("onnxruntime", net, x).run, net, x)


def test_nearest_takes_the_places_that_pytorch_takes():
    for side in range(1, 40):
        for out in range(1, 40):
            places = torch.arange(float(side)).view(1, 1, side)
            want = F.interpolate(places, size=out, mode="nearest").flatten().tolist()
            assert nearest(side, out) == want, (side, out)
