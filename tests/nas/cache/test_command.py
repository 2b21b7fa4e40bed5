"""``backbone-nas cache``: its output, its errors, its deletions."""

import errno
import fcntl
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from nas.cache import CacheError, command, open_targets
from nas.cache.__main__ import main
from nas.cache.command import agreement_line
from nas.cache.entry import mark_in_use
from nas.cache.estimate import TIMING
from nas.cache.inventory import read_entry
from nas.cache.shards import ArrayWriter
from nas.cache.targets import read_cache_set
from nas.cache.verify import verify_set
from tests.nas.cache.builder import SIZES
from tests.nas.data.builders import png, write_shard

BUILD = ["build", "--teachers", "xfeat", "--train-images", "48", "--val-images", "20"]


@pytest.fixture
def cache(built, tmp_path):
    """A copy of a cache that no process uses, with one set, whatever other tests added to the original."""
    root = tmp_path / "cache"
    shutil.copytree(built[0].path.parent, root)
    for path in root.glob("set-*.json"):
        if path.name != built[0].path.name:
            path.unlink()
    return root


def names(root):
    return sorted(path.name.rpartition("-")[0] for path in root.iterdir() if path.is_dir())


def test_build_prints_an_estimate_first_and_a_summary_last(teachers, tmp_path, capsys):
    assert main([*BUILD, "--cache", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines()[2].startswith("teacher cache: about ")
    assert err.splitlines()[:2] == [f"{TIMING}: 0/1", f"{TIMING}: 1/1"]
    assert "on an idle machine, in 6 steps" in err
    assert "xfeat on val images: 20/20" in err
    assert "xfeat spatial: 64 -> 16 channels" in out
    assert "cosine of decompressed to live features 0.9" in out
    assert main([*BUILD, "--cache", str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""


def test_a_build_warns_of_maps_that_are_smaller_than_the_grid(teachers, tmp_path, capsys):
    tiny = ["build", "--teachers", "xfeat", "--train-images", "8", "--val-images", "4", "--cache", str(tmp_path)]
    assert main([*tiny, "--grid", "9"]) == 0
    assert "warning: the targets have 9 x 9 cells, " in capsys.readouterr().err


def test_verify_runs_every_teacher_again(cache, built, capsys):
    assert main(["verify", "--cache", str(cache), "--samples", "16"]) == 0
    out = capsys.readouterr().out
    agreements = verify_set(cache / built[0].path.name, 16, {})
    assert all(agreement_line(agreement) in out for agreement in agreements)
    heads = [(agreement.teacher, agreement.head) for agreement in agreements]
    assert sorted(heads) == [(name, head) for name in ("lite0", "xfeat") for head in ("spatial", "summary")]
    assert {agreement.images for agreement in agreements} == {16}
    assert [agreement.stored for agreement in agreements] == pytest.approx([1] * 4, abs=1e-4)


@pytest.mark.parametrize("what", ["bytes", "targets", "teacher"])
def test_verify_detects_changes(cache, what, capsys, monkeypatch):
    """Altered bytes; targets of other images with valid hashes; a teacher with another preprocessing."""
    path = next(cache.glob("targets-xfeat-*/val-00000-spatial.npy"))
    rows = np.load(path)
    if what == "teacher":
        from nas.teachers.xfeat import XFeat

        original = XFeat.forward
        monkeypatch.setattr(XFeat, "forward", lambda self, images: original(self, images.flip(2)))
        monkeypatch.setattr("nas.teachers.base.recorded_activations", dict)  # as for teachers not recorded there
    else:
        with ArrayWriter(path, rows.dtype, rows.shape[1:]) as writer:
            writer.append(rows[::-1])
    if what == "targets":
        monkeypatch.setattr("nas.cache.entry.CacheEntry.check", lambda entry, hashes: None)
    assert main(["verify", "--cache", str(cache)]) == 1
    expected = {
        "bytes": "val-00000-spatial.npy is altered",
        "targets": "xfeat spatial: cosine of stored to live targets 0.",
        "teacher": "xfeat computes other features now",
    }
    assert expected[what] in capsys.readouterr().out


@pytest.mark.parametrize(("entry", "way"), [("images", "bit"), ("targets-xfeat", "truncated")])
def test_verify_detects_damaged_poses_which_no_manifest_knows(cache, entry, way, capsys):
    path = sorted(cache.glob(f"{entry}-*/poses-*.npy"))[-1]
    content = bytearray(path.read_bytes())
    if way == "bit":
        content[len(content) // 2] ^= 1
    else:
        del content[len(content) // 2 :]
    path.write_bytes(content)
    assert main(["verify", "--cache", str(cache)]) == 1
    assert path.name in "".join(capsys.readouterr())


def test_verify_writes_nothing(cache):
    """The cache may be another user's, which this process can only read."""
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert main(["verify", "--cache", str(cache), "--samples", "16"]) == 0
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before


def test_ls_lists_the_entries(cache, capsys):
    shutil.rmtree(next(cache.glob("targets-lite0-*")))
    (cache / "images-0123456789abcdef" / "working").mkdir(parents=True)
    (cache / "targets-0123456789abcdef").mkdir()
    (cache / "targets-0123456789abcdef" / "manifest.json").write_text('{"format": 1}')
    assert main(["ls", "--cache", str(cache)]) == 0
    out = capsys.readouterr().out
    assert "builtin images" in out
    assert next(line for line in out.splitlines() if line.startswith("xfeat int8")).split()[2] == "68"
    assert "incomplete" in out
    assert "other format" in out


def test_entries_are_read_while_a_build_renames_their_files(cache):
    (folder,) = cache.glob("images-*")
    ended = threading.Event()

    def write_and_rename():
        while not ended.is_set():
            (folder / "a.npy.tmp").write_bytes(b"1")
            (folder / "a.npy.tmp").rename(folder / "a.npy")

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write_and_rename)
        try:
            images = {read_entry(folder).images for _ in range(2000)}
        finally:
            ended.set()
        writing.result()
    assert images == {68}


@pytest.mark.parametrize("form", ["imagefolder:images", "webdataset:a.tar::val.tar"])
def test_a_cache_of_a_relative_path_is_verified_from_another_folder(tmp_path, monkeypatch, capsys, teachers, form):
    (tmp_path / "images").mkdir()
    for i in range(40):
        (tmp_path / "images" / f"{i}.png").write_bytes(png(6 * i))
    for shard in ("a.tar", "val.tar"):
        write_shard(tmp_path / shard, {f"{i}": {"png": png(6 * i)} for i in range(40)})
    monkeypatch.chdir(tmp_path)
    words = ["--teacher-precision", "fp32"]  # in bf16, gray images have the same features
    assert main([*BUILD, *words, "--data", form, "--cache", "cache"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()
    assert main(["verify", "--cache", "../cache", "--samples", "4"]) == 0
    assert "error" not in capsys.readouterr().out


def test_verify_shows_no_secrets_of_a_url(cache, capsys, monkeypatch):
    def refuse(*arguments):
        raise CacheError("the images of 'webdataset:https://me:hidden@host/{0..9}.tar?sign=hidden' are others")

    monkeypatch.setattr(command, "verify_set", refuse)  # in place of a server
    assert main(["verify", "--cache", str(cache)]) == 1
    out = capsys.readouterr().out
    assert "error: the images of 'webdataset:https://host/{0..9}.tar' are others" in out
    assert "hidden" not in out


def test_gc_deletes_by_age(cache, capsys):
    """Sets without one of their entries are deleted too; other folders stay."""
    (cache / "cifar-10").mkdir()
    old = next(cache.glob("targets-lite0-*"))
    os.utime(old / "used", (time.time() - 40 * 86400,) * 2)
    assert main(["gc", "--days", "30", "--dry-run", "--cache", str(cache)]) == 0
    assert f"would delete {old.name}" in capsys.readouterr().out
    assert old.exists()
    assert main(["gc", "--days", "30", "--cache", str(cache)]) == 0
    assert names(cache) == ["cifar", "images", "targets-xfeat"]
    assert all(set(read_cache_set(path).teachers) == {"xfeat"} for path in cache.glob("set-*.json"))
    assert main(["gc", "--all", "--cache", str(cache)]) == 0
    assert names(cache) == ["cifar"]
    assert not list(cache.glob("set-*.json"))


def test_gc_keeps_entries_in_use(teachers, tmp_path, capsys):
    assert main([*BUILD, "--cache", str(tmp_path)]) == 0  # in use until this process ends
    assert main(["gc", "--all", "--cache", str(tmp_path)]) == 0
    assert names(tmp_path) == ["images", "targets-xfeat"]
    assert "in use, not deleted: targets-xfeat" in capsys.readouterr().out


def test_gc_keeps_complete_entries_while_another_teacher_is_built(cache, capsys):
    """A build that adds targets to an old cache may take hours; gc must not take the rest away meanwhile."""
    (images,) = cache.glob("images-*")
    os.utime(images / "used", (time.time() - 40 * 86400,) * 2)
    ended = []

    def progress(stage, done, total):
        if "xfeat" in stage and not ended:
            ended.append(main(["gc", "--all", "--cache", str(cache)]))

    open_targets("builtin", "xfeat", root=cache, progress=progress, storage="bf16", **SIZES)
    assert ended == [0]
    assert f"in use, not deleted: {images.name}" in capsys.readouterr().out
    assert images.exists()


@pytest.mark.parametrize("name", ["set-*.json", "*/poses-*.npy"])
def test_a_fifo_in_a_cache_is_damage_that_nobody_waits_for(cache, name, capsys):
    path = next(cache.glob(name))
    path.unlink()
    os.mkfifo(path)
    assert main(["verify", "--cache", str(cache)]) == 1
    out, err = capsys.readouterr()
    assert (f"{path}" in out.splitlines()[-1], err) == (True, "")
    assert main(["ls", "--cache", str(cache)]) == 0


def test_verify_reads_no_more_than_a_set_can_have(cache, capsys):
    """A file that is all hole takes no room on the disk, and all memory where it is read."""
    with next(cache.glob("set-*.json")).open("r+b") as file:
        file.truncate(2**40)
    assert main(["verify", "--cache", str(cache)]) == 1
    assert "is damaged" in capsys.readouterr().out


def test_verify_goes_on_after_a_damaged_set(cache, capsys):
    (path,) = map(str, cache.glob("set-*.json"))
    Path(path).write_text("{}")
    assert main(["verify", "--cache", str(cache), path, path]) == 1
    assert capsys.readouterr().out.count("is damaged") == 2


def test_verify_refuses_what_the_command_line_has_wrong(cache, capsys):
    (manifest,) = cache.glob("images-*/manifest.json")
    for words, message in (
        ([str(manifest)], "is not the file of a set"),
        ([__file__], "is not the file of a set"),
        (["--teacher-weights", "resnet18=none"], "--teacher-weights resnet18=none: "),
    ):
        assert main(["verify", "--cache", str(cache), *words]) == 2
        out, err = capsys.readouterr()
        assert (message in err, err.count("\n"), "error" in out) == (True, 1, False)


def test_gc_keeps_entries_that_another_user_reads(cache, monkeypatch, capsys):
    """The owner of a shared cache deletes nothing under a running search of a colleague."""
    (read,) = cache.glob("targets-xfeat-*")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write everywhere
        mark_in_use(read)
    assert main(["gc", "--all", "--cache", str(cache)]) == 0
    assert names(cache) == ["targets-xfeat"]
    assert f"in use, not deleted: {read.name}" in capsys.readouterr().out


def test_entries_on_nfs_are_marked_and_deleted(cache, monkeypatch):
    """NFS makes a lock of a file from a byte range, whose kind has to fit the file's mode: flock(2), NFS details."""
    flock = fcntl.flock

    def flock_of_nfs(file, operation):
        mode = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE
        if mode == (os.O_WRONLY if operation & fcntl.LOCK_SH else os.O_RDONLY):
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(file, operation)

    def rmtree_of_nfs(folder):
        """An open file keeps its folder from being removed."""
        open_files = [file.readlink() for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]
        assert not [file for file in open_files if Path(folder) in file.parents]
        rmtree(folder)

    rmtree = shutil.rmtree
    monkeypatch.setattr(fcntl, "flock", flock_of_nfs)  # there is no NFS here
    monkeypatch.setattr(shutil, "rmtree", rmtree_of_nfs)
    (read,) = cache.glob("targets-xfeat-*")
    mark_in_use(read)
    assert main(["gc", "--all", "--cache", str(cache)]) == 0
    assert names(cache) == ["targets-xfeat"]


def test_gc_deletes_incomplete_entries(cache):
    next(cache.glob("targets-xfeat-*/manifest.json")).unlink()
    assert main(["gc", "--incomplete", "--cache", str(cache)]) == 0
    assert names(cache) == ["images", "targets-lite0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gc", "--days=nan"], "--days: nan: must be"),
        (["build", "--teacher-weights", "x"], "'x': must be NAME=FILE"),
        (["build", "--target-dtype", "int3"], "--target-dtype: 'int3': must be 'int8', 'bf16'"),
        (["build", "--data", "imagefolder:/no/such"], "no such folder"),
        (["verify", "--cache", "/no/such"], "no finished cache in /no/such"),
        (["verify", "/no/such"], "cannot open '/no/such': No such file"),
        (["verify", "/dev/zero"], "cannot open '/dev/zero': Not a regular file"),
        (["ls", "--cache", "/no/such"], "there is no such folder"),
        (["gc"], "one of --days, --all and --incomplete is required"),
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_2(arguments, message, capsys):
    try:
        code = main(arguments)
    except SystemExit as ending:
        code = ending.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
