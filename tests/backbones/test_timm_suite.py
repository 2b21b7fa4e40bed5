"""timm's own model tests, of the installed version and as they are, run on our presets.

The suite lies in timm's source distribution, which pip fetches. Its functions are called with our names, as timm's own
parametrisation calls them with timm's. What needs real tensors runs on small networks: one of every block, registered
here, and the smallest of the family; what runs on the meta device, on every preset (exhaustive).
"""

import importlib.util
import inspect
import re
import subprocess
import sys
import tarfile
from importlib.metadata import version

import pytest

from backbones import entrypoints
from search_space import PRESETS
from tests.backbones.builders import STAGES, spec_of
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.slow
TIMM = f"timm-{version('timm')}"
SHA256 = {"timm-1.0.31": "baa0b333339c46d3d6d4965d99b69f5053afed71210e8f433d7ea5ee6a18f0ec"}  # pip install --report

BLOCKS = {stage.block: stage for stage in reversed(STAGES.values())}
MICRO = {f"micro_{block}": spec_of(stage) for block, stage in BLOCKS.items()}
MICRO["micro_vit_windows"] = spec_of(STAGES["vit windows"], summary="token")
ON_EVERY_BLOCK = (
    "test_model_forward",
    "test_model_backward",
    "test_model_forward_fx",
    "test_model_backward_fx",
)
ON_ONE = (
    "test_model_forward_features",
    "test_model_forward_intermediates",
    "test_model_forward_intermediates_features",
    "test_prune_intermediate_layers_contract",
    "test_prune_intermediate_layers_params_used",
    "test_reset_classifier_keeps_pool",
)
ON_META = "test_model_default_cfgs"
BATCH = {"test_model_backward": 2, "test_model_backward_fx": 2}
# Left out: test_model_forward_torchscript and the fx-to-torchscript pair. torch.jit.script reads a subset of Python
# that our layers don't keep to (checkpoint's keyword arguments, unpacked lists, math.isqrt), and PyTorch has deprecated
# it for torch.export, which is tested in test_entrypoints. Those that load published weights: there are none.


@pytest.fixture(scope="module")
def suite(pytestconfig, tmp_path_factory):
    """timm's tests/test_models.py as a module."""
    path = fetch(tmp_path_factory.mktemp("timm"))
    for mark in sorted(set(re.findall(r"pytest\.mark\.(\w+)", path.read_text()))):
        pytestconfig.addinivalue_line("markers", f"{mark}: of timm's own suite")
    for name, spec in MICRO.items():
        entrypoints.register(name, spec)
    spec = importlib.util.spec_from_file_location("timm_test_models", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fetch(folder):
    if TIMM not in SHA256:
        pytest.skip(f"the hash of {TIMM} is not recorded")
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{TIMM.replace('-', '==')} --hash=sha256:{SHA256[TIMM]}")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=timm", f"--dest={folder}"]
    done = subprocess.run([*pip, "-r", wanted], check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    assert "DO NOT MATCH THE HASHES" not in done.stderr, done.stderr
    if done.returncode:
        pytest.skip(f"timm's source distribution cannot be had: {done.stderr.strip().splitlines()[-1]}")
    with tarfile.open(folder / f"{TIMM}.tar.gz") as archive:
        archive.extract(member := f"{TIMM}/tests/test_models.py", folder, filter="data")
    return folder / member


def run(suite, test, name):
    function = getattr(suite, test, None)
    if function is None:
        pytest.skip(f"{TIMM} has no {test}")
    known = {"model_name": name, "batch_size": BATCH.get(test, 1), "cfg_device": "meta"}
    function(**{argument: known[argument] for argument in inspect.signature(function).parameters})


@pytest.mark.parametrize("name", MICRO)
@pytest.mark.parametrize("test", ON_EVERY_BLOCK)
def test_networks_of_one_block(suite, test, name):
    run(suite, test, name)


@pytest.mark.parametrize("test", [*ON_EVERY_BLOCK, *ON_ONE])
def test_the_smallest_of_the_family(suite, test):
    run(suite, test, "eradio_femto")


@pytest.mark.parametrize("name", ["eradio_femto", *MICRO])
def test_on_the_meta_device(suite, name):
    run(suite, ON_META, name)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", PRESETS)
def test_presets_on_the_meta_device(suite, name):
    run(suite, ON_META, name)
