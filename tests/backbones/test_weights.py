"""A file of weights is its spec's or it is refused: in one line that names the file, whatever the bytes say."""

import json
import os
import random
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from backbones import WeightsError, build, fuse, load, save
from backbones.weights import digest
from search_space import PRESETS, ArchSpec, StageSpec

FEMTO = PRESETS["eradio_femto"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build(FEMTO)
    model.reset_classifier(3)
    model(torch.randn(4, 3, 32, 32))
    return model.eval()


@pytest.fixture
def path(model, tmp_path):
    save(model, tmp_path / "femto.safetensors")
    return tmp_path / "femto.safetensors"


def rewrite(path, change_state=None, change_metadata=None, forge=False):
    """Alter a file of ours; `forge` makes its checksum right again."""
    with safe_open(path, framework="pt") as file:
        metadata, state = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    (change_state or dict)(state)
    (change_metadata or dict)(metadata)
    if forge:
        metadata["sha256"] = digest(metadata, state)
    save_file(state, path, metadata or None)


def rewrite_header(path, change):
    """Alter the header's text and leave the data."""
    content = path.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = change(content[8:end].decode()).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[end:])


def refusal(path, spec=None):
    with pytest.raises(WeightsError) as caught:
        load(path, spec)
    message = str(caught.value)
    assert path.name in message
    assert message.isprintable()  # one line
    assert len(message) < 600
    return message


def flipped(content, bit):
    altered = bytearray(content)
    altered[bit // 8] ^= 1 << bit % 8
    return bytes(altered)


def test_round_trip(model, path):
    loaded, x = load(str(path)).eval(), torch.randn(2, 3, 64, 32)
    assert loaded.spec == FEMTO
    assert loaded.num_classes == 3
    assert torch.equal(loaded(x), model(x))
    assert all(torch.equal(a, b) for a, b in zip(loaded.encode(x), model.encode(x), strict=True))
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no half-written file stays behind


def test_a_file_is_on_the_disk_before_it_has_its_name(model, path, monkeypatch):
    """A training deletes its checkpoint next; a power cut must not leave an empty file under this name."""
    synced, os_fsync = [], os.fsync
    path.unlink()

    def fsync(descriptor):
        synced.append((os.fstat(descriptor).st_size, path.exists()))
        os_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    save(model, path)
    assert synced == [(path.stat().st_size, False)]


def test_an_unfinished_file_of_another_writer_is_left_alone(model, path):
    theirs = path.with_name(path.name + ".part")
    theirs.write_text("theirs")
    save(model, path)
    assert theirs.read_text() == "theirs"
    assert {file.name for file in path.parent.iterdir()} == {path.name, theirs.name}


def test_another_architecture_is_refused(path):
    assert load(path, FEMTO).spec == FEMTO
    assert PRESETS["eradio_pico"].arch_id in refusal(path, PRESETS["eradio_pico"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("norm.weight"), "'norm.weight' is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "'extra' is not part"),
        (lambda s: s.update({"ex\n\x1b[31mtra": torch.zeros(1)}), r"'ex\n\x1b[31mtra' is not part"),
        (lambda s: s.update({"norm.bias": torch.zeros(5)}), "'norm.bias' has shape (5,), not (128,)"),
        (lambda s: s.update({"norm.bias": torch.zeros(128, dtype=torch.bfloat16)}), "has type BF16, not F32"),
        (lambda s: s.update({"norm.bias": torch.zeros(128, dtype=torch.float8_e5m2)}), "has type F8_E5M2, not F32"),
        (lambda s: s.update({"norm.num_batches_tracked": torch.tensor(1.0)}), "has type F32, not I64"),
    ],
)
def test_tensors_that_do_not_fit_the_spec_are_refused_by_name_before_the_checksum(path, change, words):
    rewrite(path, change_state=change, forge=True)
    assert words in refusal(path)


@pytest.mark.parametrize(
    ("change_state", "change_metadata"),
    [
        (lambda s: s["norm.bias"].add_(1), None),
        (lambda s: s["norm.num_batches_tracked"].add_(1), None),
        (None, lambda m: m.update(spec=m["spec"].replace('"window":2', '"window":4'))),
        (None, lambda m: m.update(spec=json.dumps(json.loads(m["spec"])))),  # the same spec, other text
        (None, lambda m: m.update(sha256="0" * 64)),
        (None, lambda m: m.update(sha256="")),
    ],
)
def test_what_still_fits_is_refused_by_the_checksum(path, change_state, change_metadata):
    rewrite(path, change_state, change_metadata)
    assert "checksum" in refusal(path)


def test_heads_are_under_the_checksum_too(tmp_path):
    stage = StageSpec("attention", 1, 16, expansion=1.0, heads=4, pre_conv="none")
    save(build(ArchSpec((stage,) * 4, stem="patch")), tmp_path / "heads")
    assert load(tmp_path / "heads").spec.stages[3].heads == 4
    rewrite(tmp_path / "heads", change_metadata=lambda m: m.update(spec=m["spec"].replace('"heads":4', '"heads":8')))
    assert "checksum" in refusal(tmp_path / "heads")


def deep(levels):
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.clear(), "no spec"),
        (lambda m: m.pop("num_classes"), "'num_classes' is missing"),
        (lambda m: m.update(note="hello"), "'note' is unknown"),
        (lambda m: m.update(format="backbone-nas/1"), "format 'backbone-nas/1' is not 'backbone-nas/2'"),
        (lambda m: m.update(spec="{}"), "stages"),
        (lambda m: m.update(spec=PRESETS["eradio_pico"].to_json()), "has shape"),
        (lambda m: m.update(spec=deep(100_000)), "more than any spec can have"),
        (lambda m: m.update(spec='{"stages": ' + deep(30_000) + "}"), "not valid"),
        (lambda m: m.update(spec=m["spec"].replace("0.5", "NaN")), "nan is not a number"),
        (lambda m: m.update(spec=m["spec"].replace("0.5", "1e999")), "inf is not a number"),
        (lambda m: m.update(spec=m["spec"].replace("0.5", "9" * 5000)), "not valid"),
        (lambda m: m.update(spec=m["spec"].replace("0.5", "[\n]")), "[] is not a number"),
        (lambda m: m.update(num_classes="-1"), "num_classes '-1'"),
        (lambda m: m.update(num_classes="٣"), "num_classes"),
        (lambda m: m.update(num_classes="9" * 5000), "not a whole number below 100 million"),
        (lambda m: m.update(num_classes="99999999"), "(3, 128), not (99999999, 128)"),  # 48 GiB, were it built
        (lambda m: m.update(num_classes="0"), "'head.bias' is not part"),
    ],
)
def test_altered_metadata_is_refused_whatever_its_checksum(path, change, words):
    rewrite(path, change_metadata=change, forge=True)
    assert words in refusal(path)


def test_a_spec_out_of_proportion_to_its_file_is_refused_before_it_takes_memory(tmp_path):
    stage = {"block": "window", "depth": 16, "width": 1, "expansion": 1, "heads": 1, "pre_conv": "none"}
    stage |= {"window": 64, "cpb_hidden": 1}
    greedy = ArchSpec.from_dict({"stages": [stage] * 4, "stem": "patch", "downsampling": "pool"})
    with torch.device("meta"):
        names = build(greedy).state_dict()
    metadata = {"format": "backbone-nas/2", "num_classes": "0", "spec": greedy.to_json(), "sha256": ""}
    save_file(
        {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in names.items()}, tmp_path / "a", metadata
    )
    assert "needs 8 GiB in addition to the weights" in refusal(tmp_path / "a")


def test_any_flipped_bit_is_refused(path):
    content, rng = path.read_bytes(), random.Random(0)
    data = 8 + struct.unpack("<Q", content[:8])[0]
    text = content.index(b"__metadata__")
    bits = [
        *rng.sample(range(64), 16),
        *rng.sample(range(8 * 8, 8 * data), 20),
        *rng.sample(range(8 * text, 8 * (text + 600)), 20),
        *rng.sample(range(8 * data, 8 * len(content)), 3),
        8 * len(content) - 1,
    ]
    for bit in bits:
        path.write_bytes(flipped(content, bit))
        refusal(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: "", "not a safetensors file"),
        (lambda text: "[]", "not a safetensors file"),
        (lambda text: deep(200_000), "not a safetensors file"),
        (lambda text: text + " " * (9 << 20), "its header would have"),
        (lambda text: text.replace('"F32"', '"F16"', 1), "not a safetensors file"),  # of half the length
        (lambda text: text.replace('"norm.bias"', '"norm.weight"', 1), "'norm.weight' occurs 2 times"),
        (lambda text: text.replace('"spec"', '"format"', 1), "'format' occurs 2 times"),
        (lambda text: text.replace('"shape":[128]', '"shape":[-128]', 1), "not a safetensors file"),
        (lambda text: text.replace('"shape":[128]', f'"shape":[{2**63},{2**63}]', 1), "not a safetensors file"),
        (lambda text: text.replace('"data_offsets":[0,', f'"data_offsets":[{2**64 - 1},', 1), "not a safetensors file"),
    ],
)
def test_broken_headers_are_refused(path, change, words):
    before = path.read_bytes()
    rewrite_header(path, change)
    assert path.read_bytes() != before
    assert words in refusal(path)


@pytest.mark.parametrize("length", [0, 7, 8, 5000, -1])
def test_truncated_files_are_refused(path, length):
    path.write_bytes(path.read_bytes()[:length])
    refusal(path)


def test_a_longer_file_is_refused(path):
    path.write_bytes(path.read_bytes() + b"\0")
    refusal(path)


def test_what_is_no_safetensors_file_is_refused(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "pickle.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(random.Random(0).randbytes(100))
    (tmp_path / "promise.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{}")
    (tmp_path / "folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "fifo.safetensors")
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    for file in sorted(tmp_path.iterdir()):
        refusal(file)
    assert "no such file" in refusal(tmp_path / "none.safetensors")
    assert "not a regular file" in refusal(tmp_path / "folder.safetensors")


def test_a_pickle_is_never_opened(tmp_path, monkeypatch):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    torch.save({"norm.bias": Trap()}, tmp_path / "trap.safetensors")
    refusal(tmp_path / "trap.safetensors")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (fuse, "is fused or altered (tensor"),
        (lambda model: build(FEMTO).bfloat16(), "has type torch.bfloat16, not F32"),
        (lambda model: build(FEMTO).to("meta"), "has no values"),
        (lambda model: classifier("max"), "a classifier of features pooled by 'max'; a file holds those of 'avg' only"),
        (lambda model: classifier("catavgmax"), "a classifier of features pooled by 'catavgmax'"),
    ],
)
def test_a_model_that_would_not_load_is_not_saved(model, tmp_path, change, words):
    with pytest.raises(WeightsError) as caught:
        save(change(model), tmp_path / "no.safetensors")
    assert words in str(caught.value)
    assert not list(tmp_path.iterdir())


def classifier(pool):
    model = build(FEMTO)
    model.reset_classifier(3, pool)
    return model


def test_a_place_that_cannot_be_written_is_named(model, tmp_path):
    with pytest.raises(WeightsError, match="no/such"):
        save(model, tmp_path / "no" / "such" / "folder.safetensors")
