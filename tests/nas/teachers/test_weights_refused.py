"""What a user reads where a teacher has no usable weights: one line at once, exit code 2, and nothing was begun.

The hub is a server on this machine that answers as the hub does; the client is the real one.
"""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from nas.cache import __main__ as cache_command
from nas.search import __main__ as search_command
from nas.teachers import TeacherError, specs
from tests.nas.teachers.holes import shapes_of, write_holes
from tests.nas.teachers.small_networks import register, saved

DINO = "vit_small_patch14_dinov2.lvd142m"
ANOTHER = "vit_small_patch14_reg4_dinov2.lvd142m"
INSTEAD = f"--teacher-weights {DINO}=FILE"


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


class HubAnswers(http.server.BaseHTTPRequestHandler):
    """Refuses each request with one status and error code."""

    status, error_code = 500, ""

    def do_HEAD(self) -> None:
        self.send_response(self.status)
        if self.error_code:
            self.send_header("X-Error-Code", self.error_code)
            self.send_header("X-Error-Message", f"the hub says {self.error_code}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *words: object) -> None:
        pass


@contextlib.contextmanager
def hub_that_refuses(status: int, error_code: str) -> Iterator[str]:
    handler = type("Handler", (HubAnswers,), {"status": status, "error_code": error_code})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def hub_that_is_silent() -> Iterator[str]:
    """Accept connections and answer nothing, as behind some firewalls."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def no_hub() -> Iterator[str]:
    """Give an address on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


def use_hub(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


def refusal(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], search: bool = True) -> str:
    """Run a command that has to end at once, and return its line."""
    small = ["--train-images", "32", "--val-images", "8", "--cache", str(tmp_path / "cache"), *words]
    run = [] if "--plan" in words else ["--run", str(tmp_path / "run")]
    begun = ["--device", "cpu", "--batch-size", "8", *run]
    code = search_command.main([*begun, *small]) if search else cache_command.main(["build", *small])
    errors = capsys.readouterr().err.splitlines()
    lines = [line for line in errors if line.startswith("error: ")]
    assert code == 2, errors
    assert len(lines) == 1
    assert not [line for line in errors if "Retrying" in line or "thrown while" in line]
    assert not (tmp_path / "cache").exists()
    assert not list((tmp_path / "run").glob("study*"))
    return lines[0]


@pytest.mark.parametrize(
    ("hub", "words", "search"),
    [
        (no_hub, "the hub cannot be reached", True),
        (hub_that_is_silent, "the hub cannot be reached", True),
        (partial(hub_that_refuses, 403, "GatedRepo"), "accepted its license", False),
        (partial(hub_that_refuses, 401, "RepoNotFound"), "cannot fetch", True),
        (partial(hub_that_refuses, 404, "EntryNotFound"), "holds no model.safetensors", True),
        (partial(hub_that_refuses, 503, ""), "cannot fetch", True),
    ],
    ids=["no network", "no answer", "gated", "no such repository", "no such file", "out of order"],
)
def test_a_hub_that_gives_no_weights_is_one_line_that_names_the_option(
    hub: Callable[[], contextlib.AbstractContextManager[str]],
    words: str,
    search: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with hub() as endpoint:
        use_hub(endpoint, monkeypatch)
        line = refusal(["--teachers", f"lite0,{DINO}@224"], tmp_path, capsys, search)
    assert words in line
    assert INSTEAD in line
    assert f"teacher {DINO}@224" in line


def absent(path: Path) -> None:
    """Write no file."""


def truncated(path: Path) -> None:
    write_holes(path, shapes_of(DINO))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)


def of_another_network(path: Path) -> None:
    write_holes(path, shapes_of(ANOTHER))


def page_in_place_of_a_file(path: Path) -> None:
    path.write_text("<!doctype html><html>Entry not found</html>")


def pointer_of_git_lfs(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 88240512\n")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (absent, "no such file"),
        (truncated, "damaged or of another kind"),
        (page_in_place_of_a_file, "damaged or of another kind"),
        (pointer_of_git_lfs, "git lfs pull"),
        (of_another_network, f"does not fit {DINO}"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_file_that_is_not_the_network_s_is_one_line_that_names_it(
    write: Callable[[Path], object], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.safetensors"
    write(path)
    names = ["--teachers", f"lite0,{DINO}@224", "--teacher-weights", f"{DINO}={path}"]
    line = refusal(names, tmp_path, capsys)
    assert words in line
    assert str(path) in line
    assert f"--teacher-weights {DINO}=" in line


def test_a_file_in_the_hub_s_cache_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "hub" / f"models--timm--{DINO}" / "snapshots" / "0" / "model.safetensors"
    snapshot.parent.mkdir(parents=True)
    write_holes(snapshot, shapes_of(DINO))
    ref = snapshot.parents[2] / "refs" / "main"
    ref.parent.mkdir()
    ref.write_text("0")
    with no_hub() as endpoint:
        use_hub(endpoint, monkeypatch)
        (spec,) = specs(f"{DINO}@224")
        assert spec.check() == "its weights are here"
        assert len(spec.fingerprint) == 16


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_damaged(value: float, tmp_path: Path) -> None:
    register()
    tensors = load_file(saved("small_dinov3", tmp_path))
    tensors["blocks.1.attn.proj.weight"][3, 4] = value
    save_file(tensors, tmp_path / "nan.safetensors")
    (spec,) = specs("small_dinov3", {"small_dinov3": tmp_path / "nan.safetensors"})
    with pytest.raises(TeacherError, match=r"nan\.safetensors is damaged: blocks\.1\.attn\.proj\.weight"):
        spec.load()


def test_a_plan_refuses_the_file_of_another_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of_another_network(tmp_path / "w.safetensors")
    names = ["--teachers", f"{DINO}@224", "--teacher-weights", f"{DINO}={tmp_path / 'w.safetensors'}"]
    line = refusal(["--plan", *names], tmp_path, capsys)
    assert f"does not fit {DINO}" in line
