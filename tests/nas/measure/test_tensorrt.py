"""TensorRT's engine, where there is neither its package nor a GPU: a stand-in that takes the same calls.

The stand-in knows what the documentation of versions 10 and 11 says, reads the ONNX file and computes with ONNX Runtime
from and to the very addresses that it was given. What it can't show: that TensorRT itself builds the network.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import math
from types import SimpleNamespace

import pytest
import torch

from nas.measure.runtime_spec import ArmError
from nas.measure.runtimes.tensorrt_engine import engine
from tests.nas.measure.networks import Net, check, images, ready

onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx': pip install -e '.[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx': pip install -e '.[onnx]'")
pytest.importorskip("onnxscript", reason="needs the extra 'onnx': pip install -e '.[onnx]'")


class Flag(enum.IntEnum):
    """NetworkDefinitionCreationFlag's numbers."""

    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


DataType = enum.Enum("DataType", "FLOAT HALF BF16 INT32")
Mode = enum.Enum("TensorIOMode", "NONE INPUT OUTPUT")
ELEMENTS = {1: DataType.FLOAT, 10: DataType.HALF, 16: DataType.BF16}  # onnx.TensorProto's


class Library:
    """The `tensorrt` module. `calls` are its methods in the order they were called; a call named in `broken` fails."""

    NetworkDefinitionCreationFlag, DataType, TensorIOMode = Flag, DataType, Mode

    def __init__(self, broken: str = "") -> None:
        self.broken, self.calls, self.profiles = broken, [], []

    def Logger(self, severity):
        return "logger"

    Logger.ERROR, Logger.WARNING = 1, 2

    def Builder(self, logger):
        return SimpleNamespace(
            create_network=lambda flags: SimpleNamespace(flags=flags, model=None),
            create_builder_config=lambda: SimpleNamespace(add_optimization_profile=self.profiles.append),
            create_optimization_profile=Profile,
            build_serialized_network=self._build,
        )

    def OnnxParser(self, network, logger):
        def parse_from_file(path):
            network.model = onnx.load(path)  # weights beside the file too
            return self._call("parse")

        return SimpleNamespace(
            parse_from_file=parse_from_file,
            num_errors=1,
            get_error=lambda i: SimpleNamespace(desc=lambda: "no importer for Gargle\nat node 3"),
        )

    def Runtime(self, logger):
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: Engine(self, plan) if self._call("load") else None)

    def _build(self, network, config):
        inputs = {value.name for value in network.model.graph.input}
        assert all(profile.keys() == inputs for profile in self.profiles)
        self.flags = network.flags
        return network.model.SerializeToString() if self._call("build") else None

    def _call(self, name):
        self.calls.append(name)
        return name != self.broken


class Profile(dict):
    """An IOptimizationProfile: the smallest, usual and largest shape of each input."""

    def set_shape(self, name, *shapes):
        least, usual, most = shapes
        assert all(a <= b <= c for a, b, c in zip(least, usual, most, strict=True))
        self[name] = shapes


class Engine:
    """An ICudaEngine; its context is itself."""

    def __init__(self, library, plan) -> None:
        self.library, self.plan = library, plan
        graph = onnx.load_from_string(plan).graph
        self.inputs, self.values = [i.name for i in graph.input], [*graph.output, *graph.input]
        self.num_io_tensors = len(self.values)
        self.addresses = {}

    def create_execution_context(self):
        return self if self.library._call("context") else None

    def get_tensor_name(self, index):
        return self.values[index].name

    def get_tensor_mode(self, name):
        return Mode.INPUT if name in self.inputs else Mode.OUTPUT

    def get_tensor_dtype(self, name):
        return ELEMENTS[self._type(name).elem_type]

    def get_tensor_shape(self, name):
        return [d.dim_value for d in self._type(name).shape.dim]

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return self.library._call("bind")

    def execute_async_v3(self, stream_handle):
        assert stream_handle == LoggedStream.handle
        fed = {name: self._memory(name).numpy() for name in self.inputs}
        names = [v.name for v in self.values if v.name not in self.inputs]
        session = onnxruntime.InferenceSession(self.plan, providers=["CPUExecutionProvider"])
        for name, result in zip(names, session.run(names, fed), strict=True):
            self._memory(name).copy_(torch.from_numpy(result))
        return self.library._call("execute")

    def _type(self, name):
        return next(v for v in self.values if v.name == name).type.tensor_type

    def _memory(self, name):
        shape = self.get_tensor_shape(name)
        memory = (ctypes.c_float * math.prod(shape)).from_address(self.addresses[name])
        return torch.frombuffer(memory, dtype=torch.float32).view(shape)


class LoggedStream:
    """A side stream that logs the begin and end of ordered work among the library's calls."""

    handle = 4711

    def __init__(self, library) -> None:
        self.calls = library.calls

    @contextlib.contextmanager
    def ordered(self):
        self.calls.append("ordered")
        yield
        self.calls.append("ordered ends")


def made(net, x, broken: str = ""):
    library = Library(broken)
    return library, engine(library, net, x, LoggedStream(library))


def test_computes_from_and_to_torchs_memory():
    net, x = ready(Net()), images()
    library, run = made(net, x)
    check(run, net, x)
    check(run, net, images(seed=1))
    assert run.context.addresses["images"] != x.data_ptr(), "the last call's images, not the example's"
    assert library.calls[:4] == ["parse", "build", "load", "context"]
    assert library.calls[4:6] == ["bind", "bind"], "outputs are bound once, when it is made"
    assert library.calls[6:] == ["bind", "ordered", "execute", "ordered ends"] * 2
    run(x)
    assert run.context.addresses["images"] == x.data_ptr(), "they are read where they lie"
    assert run.context.get_tensor_shape("images") == [2, 32, 32, 3]


def test_images_in_another_layout_than_the_examples():
    net = ready(Net())
    check(made(net, images())[1], net, images(layout=torch.contiguous_format))


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [(torch.float16, DataType.HALF), (torch.bfloat16, DataType.BF16)],
)
def test_precision_is_the_arms(dtype, kind):
    library, run = made(ready(Net(), dtype), images().to(dtype))
    assert library.flags == 1 << Flag.STRONGLY_TYPED, "else TensorRT 10 would run everything in fp32 or as it likes"
    assert run.context.get_tensor_dtype("images") == kind
    assert {t.dtype for t in run.outputs} == {dtype}
    assert [tuple(t.shape) for t in run.outputs] == [(2, 8), (2, 8, 8, 8)]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("parse", "Gargle"),
        ("build", "could not build"),
        ("execute", "run the"),
    ],
)
def test_what_tensorrt_says_no_to_is_refused_in_one_line(broken, words):
    with pytest.raises(ArmError, match=words) as caught:
        made(ready(Net()), images(), broken)[1](images())
    assert "\n" not in str(caught.value)


def test_a_context_that_does_not_fit_is_a_lack_of_memory():
    with pytest.raises(torch.OutOfMemoryError, match="device memory"):
        made(ready(Net()), images(), "context")
