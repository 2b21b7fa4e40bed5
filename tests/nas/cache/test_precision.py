"""A cache of teachers in bf16 is another one than in fp32, and everything that opens it computes in bf16, too."""

from dataclasses import replace

import numpy as np
import pytest

from nas.cache import CacheError, load_targets, open_study_targets
from nas.cache.__main__ import main
from nas.cache.entry import read_json, write_json
from nas.cache.images import ImageCacheBuilder
from nas.cache.targets import read_cache_set
from nas.cache.verify import plan_of, verify_set
from nas.study.config import DistillConfig, SearchConfig
from nas.teachers import TEACHERS
from tests.nas.analysis.builders import small_study

CONFIG = SearchConfig(
    teachers="xfeat", train_images=48, val_images=20, teacher_precision="bf16", distill=DistillConfig(batch_size=16)
)


@pytest.fixture(scope="module")
def root(tmp_path_factory, teachers):
    return tmp_path_factory.mktemp("bf16")


@pytest.fixture(scope="module")
def rounded(root):
    return open_study_targets(CONFIG, root)


def test_targets_in_bf16_lie_beside_those_in_fp32_and_are_nearly_the_same(root, rounded):
    exact = open_study_targets(replace(CONFIG, teacher_precision="fp32"), root)
    assert exact.path != rounded.path
    assert exact.data_fingerprint == rounded.data_fingerprint
    assert [targets.teachers["xfeat"].precision for targets in (exact, rounded)] == ["fp32", "bf16"]
    assert exact.teachers["xfeat"].fingerprint == rounded.teachers["xfeat"].fingerprint, "the same teacher"
    for head in ("summary", "spatial"):
        features = [
            getattr(targets.teachers["xfeat"], head).invert(np.moveaxis(getattr(targets.val, head)["xfeat"][:], 1, -1))
            for targets in (exact, rounded)
        ]
        a, b = (values.reshape(-1, values.shape[-1]) for values in features)
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert 0.99 < cosines.mean() < 0.999999, "rounded, but nearly the same"


def test_a_study_finds_its_cache_again_without_being_told(root, rounded, monkeypatch):
    monkeypatch.setattr(ImageCacheBuilder, "build", lambda *call: pytest.fail("it builds again"))
    info = replace(
        small_study().info,
        config=CONFIG.to_dict(),
        teachers={"xfeat": TEACHERS["xfeat"].fingerprint},
        data={"name": "builtin", "fingerprint": rounded.data_fingerprint},
    )
    assert open_study_targets(CONFIG, root, study=info).path == rounded.path
    assert load_targets(rounded.path).teachers["xfeat"].precision == "bf16"


@pytest.mark.parametrize(
    ("recorded", "message"),
    [({"teachers": {"xfeat": "other"}}, "the teachers are not"), ({"data": {"fingerprint": "other"}}, "the images of")],
)
def test_another_study_s_cache_is_refused_before_it_is_built(recorded, message, rounded, tmp_path):
    info = replace(
        small_study().info,
        config=CONFIG.to_dict(),
        teachers=recorded.get("teachers", {"xfeat": TEACHERS["xfeat"].fingerprint}),
        data={"name": "builtin", "fingerprint": rounded.data_fingerprint} | recorded.get("data", {}),
    )
    with pytest.raises(CacheError, match=message):
        open_study_targets(CONFIG, tmp_path, study=info, progress=lambda *call: pytest.fail(f"it works: {call}"))
    assert not list(tmp_path.rglob("*.json"))


def test_verify_runs_the_teacher_in_the_precision_of_the_entry(rounded):
    cache_set = read_cache_set(rounded.path)
    assert [teacher.precision for teacher in plan_of(cache_set, {}).teachers] == ["bf16"]
    assert [each.stored for each in verify_set(rounded.path, 20, {})] == pytest.approx([1, 1], abs=1e-4)


def test_an_entry_that_names_no_precision_is_of_fp32(root, rounded, built, tmp_path):
    """Those that were built before there was a choice."""
    manifest = read_cache_set(built[0].path).teachers["xfeat"].manifest
    assert manifest["precision"] == "fp32"
    content = read_json(read_cache_set(rounded.path).teachers["xfeat"].manifest_path)
    assert content.pop("precision") == "bf16"
    for entry in read_cache_set(rounded.path).entries:
        (tmp_path / entry.folder.name).symlink_to(entry.folder)
    copied = tmp_path / rounded.path.name
    copied.write_bytes(rounded.path.read_bytes())
    folder = tmp_path / read_cache_set(copied).teachers["xfeat"].folder.name
    folder.unlink()
    folder.mkdir()
    for path in read_cache_set(rounded.path).teachers["xfeat"].folder.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "manifest.json").unlink()
    write_json(folder / "manifest.json", content)
    assert load_targets(copied).teachers["xfeat"].precision == "fp32"


def test_the_command_builds_in_bf16_and_the_list_says_so(teachers, tmp_path, capsys):
    words = ["--teachers", "xfeat", "--train-images", "32", "--val-images", "16", "--cache", str(tmp_path)]
    for precision in ("fp32", "bf16"):
        assert main(["build", *words, "--teacher-precision", precision]) == 0
    capsys.readouterr()
    assert main(["ls", "--cache", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert listed.count("xfeat int8") == 2
    assert listed.count("xfeat int8, computed in bf16") == 1
    assert main(["verify", "--cache", str(tmp_path)]) == 0
    with pytest.raises(SystemExit):
        main(["build", *words, "--teacher-precision", "fp16"])
