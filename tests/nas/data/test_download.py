"""Shards over HTTP from a real server on the loopback device that breaks connections, forgets and lies."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from nas.data import DataError, download, open_images
from tests.nas.data.builders import encoded, write_shard

IMAGES = 12  # of a shard


class Server(ThreadingHTTPServer):
    """Serves `files` (name -> bytes). `breaks`: how many times a response ends after `after` bytes of its body."""

    def __init__(self, host="127.0.0.1"):
        self.host = f"[{host}]" if ":" in host else host
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), Handler)
        self.files, self.requests = {}, []
        self.breaks, self.after = 0, 5000
        self.ranges: bool | str = True  # or "refused" (416), or "wrong": another part than the one asked for
        self.tag = '"{}"'  # of ETag; "" for none
        self.status = 200

    @property
    def url(self):
        return f"http://{self.host}:{self.server_port}"

    def asked(self, name):
        return [sent for path, sent in self.requests if path == name]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, name = self.server, self.path.partition("?")[0][1:]
        server.requests.append((name, self.headers.get("Range")))
        content = server.files.get(name)
        if content is None or server.status != 200:
            self.send_error(404 if content is None else server.status)
            return
        tag, first = server.tag.format(hash(content)), 0
        wanted = self.headers.get("Range", "")
        if wanted and server.ranges == "refused":
            self.send_error(416)
            return
        if wanted and server.ranges and self.headers.get("If-Range", tag) == tag:
            asked = int(wanted.removeprefix("bytes=").removesuffix("-"))
            first = asked if server.ranges is True else asked + 100
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if tag:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        body = content[first:]
        if server.breaks and name.endswith(".tar"):
            server.breaks -= 1
            body = body[: server.after]
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(params=["127.0.0.1"])
def server(tmp_path, monkeypatch, request):
    """Six shards of twelve noisy images each, and their classes' names."""
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(download, "CHUNK_BYTES", 1000)
    noise = np.random.default_rng(0).integers(0, 256, (6, IMAGES, 24, 24, 3), dtype=np.uint8)
    with Server(request.param) as running:
        for shard, images in enumerate(noise):
            samples = {f"{i:02}": {"png": encoded(image), "cls": b"1"} for i, image in enumerate(images)}
            write_shard(tmp_path / "shard.tar", samples)
            running.files[f"train-{shard:04}.tar"] = (tmp_path / "shard.tar").read_bytes()
        running.files["val-0000.tar"] = running.files["train-0000.tar"]
        running.files["classes.json"] = b'["cat", "dog", "hen"]'
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def opened(server, cache, count=None, seed=0, split="train", **settings):
    uri = f"webdataset:{server.url}/train-{{0000..0005}}.tar::{server.url}/val-0000.tar"
    return open_images(uri, split, count, seed, 24, cache, **settings)


def stored(cache):
    return sorted(path.name for path in (cache / "shards").iterdir() if not path.name.startswith("."))


def shard_files(cache):
    return [name for name in stored(cache) if name.endswith(".tar")]


def test_only_the_shards_that_are_needed_are_fetched_and_only_once(server, tmp_path):
    cache = tmp_path / "cache"
    images = opened(server, cache, count=IMAGES + 1)
    assert (len(images), images.num_classes, images.class_names) == (IMAGES + 1, 3, ("cat", "dog", "hen"))
    assert len(shard_files(cache)) == 2
    assert [images.read(i).image.std() > 50 for i in range(len(images))] == [True] * len(images)
    before = len(server.requests)
    again = opened(server, cache, count=IMAGES + 1)
    assert again.fingerprint == images.fingerprint
    assert len(server.requests) == before
    assert len(opened(server, cache)) == 6 * IMAGES
    assert [len(server.asked(f"train-{i:04}.tar")) for i in range(6)] == [1] * 6
    assert len(stored(cache)) == 7


def test_a_remote_set_equals_the_same_local_set(server, tmp_path):
    for name, content in server.files.items():
        (tmp_path / name).write_bytes(content)
    local = open_images(f"webdataset:{tmp_path}/train-*.tar::{tmp_path}/val-0000.tar", "train", 30, 3, 24, tmp_path)
    there = opened(server, tmp_path / "cache", count=30, seed=3)
    assert local.fingerprint == there.fingerprint
    assert [local.read(i).image.tobytes() for i in range(30)] == [there.read(i).image.tobytes() for i in range(30)]


def test_a_broken_connection_is_continued_where_it_broke(server, tmp_path):
    server.breaks = 2
    images = opened(server, tmp_path, count=3)
    asked = [sent for path, sent in server.requests if path.endswith(".tar")]
    assert asked == [None, "bytes=5000-", "bytes=10000-"]
    shard = images.paths[0]
    assert shard.read_bytes() == server.files[shard.name.partition("-")[2]]
    assert [path for path in (tmp_path / "shards").iterdir() if path.suffix in (".part", ".tag")] == []


def test_a_killed_download_is_continued_by_the_next_process(server, tmp_path):
    def interrupt(stage, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(server, tmp_path, count=3, progress=interrupt)
    assert shard_files(tmp_path) == []
    opened(server, tmp_path, count=3)
    ranges = [sent for path, sent in server.requests if path.endswith(".tar")]
    assert ranges[0] is None
    assert 0 < int(ranges[1].removeprefix("bytes=").removesuffix("-")) <= 1000


@pytest.mark.parametrize(
    ("flag", "value", "ranged"),
    [("ranges", False, 1), ("ranges", "refused", 1), ("ranges", "wrong", 1), ("tag", "", 0), ("tag", 'W/"{}"', 0)],
)
def test_a_server_that_cannot_continue_starts_again(server, tmp_path, flag, value, ranged):
    """A weak ETag, or none, does not promise that the rest belongs to what is here: the rest is not asked for."""
    setattr(server, flag, value)
    server.breaks = 1
    shard = opened(server, tmp_path, count=3).paths[0]
    assert shard.read_bytes() == server.files[shard.name.partition("-")[2]]
    assert len([sent for _, sent in server.requests if sent]) == ranged


def test_a_file_that_changed_in_between_is_not_patched_together(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.breaks = 1
    with pytest.raises(DataError, match="after 1 attempts: the connection ended after 5000 of"):
        opened(server, tmp_path, count=3)
    changed = server.files["val-0000.tar"] + bytes(1024)
    server.files = dict.fromkeys(server.files, changed)
    assert opened(server, tmp_path, count=3).paths[0].read_bytes() == changed


def test_a_server_that_never_delivers_is_one_line_that_names_the_shard(server, tmp_path):
    server.status = 503
    with pytest.raises(DataError, match=r"cannot fetch '.*classes.json' after 6 attempts: HTTP Error 503") as caught:
        opened(server, tmp_path)
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 6


def test_a_host_that_never_answered_is_asked_once(tmp_path, monkeypatch):
    host = "127.0.0.1:1"
    monkeypatch.setattr(download.time, "sleep", lambda seconds: pytest.fail("it waits for nobody"))
    with pytest.raises(DataError, match=rf"cannot fetch 'http://{host}/a.tar': <urlopen error ") as caught:
        download.fetch(f"http://{host}/a.tar", tmp_path, lambda path: None, lambda here, total: None)
    assert "\n" not in str(caught.value)


def test_a_host_that_has_answered_may_be_away_for_a_moment(server, tmp_path):
    opened(server, tmp_path, count=1)
    server.server_close()
    server.shutdown()
    with pytest.raises(DataError, match=r"cannot fetch '.*/b.tar' after 6 attempts: .*refused"):
        download.fetch(f"{server.url}/b.tar", tmp_path, lambda path: None, lambda here, total: None)


def test_a_missing_shard_is_not_asked_for_twice(server, tmp_path):
    del server.files["train-0003.tar"]
    with pytest.raises(DataError, match=r"cannot fetch 'http.*/train-0003.tar': HTTP 404"):
        opened(server, tmp_path)
    assert len(server.asked("train-0003.tar")) == 1


def test_a_shard_that_is_no_tar_is_refused_and_not_kept(server, tmp_path):
    server.files = {name: b"<html>quota exceeded</html>" * 99 for name in server.files if name.endswith(".tar")}
    with pytest.raises(DataError, match=r"cannot read shard 'http.*/train-000\d.tar'"):
        opened(server, tmp_path, count=1)
    assert shard_files(tmp_path) == []
    assert not list((tmp_path / "shards").glob(".*.part"))


def test_absent_names_are_remembered_so_that_no_network_is_needed_again(server, tmp_path):
    del server.files["classes.json"]
    first = opened(server, tmp_path, count=3)
    assert (first.num_classes, first.class_names) == (2, None)
    assert not [path for path in (tmp_path / "shards").glob(".*") if path.suffix != ".lock"]
    asked = len(server.requests)
    server.status = 503
    assert opened(server, tmp_path, count=3).fingerprint == first.fingerprint
    assert len(server.requests) == asked


def test_names_that_an_expired_signature_hides_are_not_remembered_as_absent(server, tmp_path):
    server.status = 403
    with pytest.raises(DataError, match="HTTP 403"):
        opened(server, tmp_path, count=3)
    server.status = 200
    assert opened(server, tmp_path, count=3).class_names == ("cat", "dog", "hen")


def test_signatures_are_sent_but_never_shown(server, tmp_path):
    with pytest.raises(DataError) as caught:
        open_images(f"webdataset:{server.url}/no-{{0..1}}.tar?sign=secret", "train", 3, 0, 24, tmp_path)
    assert "secret" not in str(caught.value)
    uri = f"webdataset:{server.url}/train-{{0000..0005}}.tar?sign=secret"
    images = open_images(uri, "val", 2, 0, 24, tmp_path)
    assert len(images) == 2
    assert images.uri == uri.removesuffix("?sign=secret")


def test_progress_foresees_shards_like_the_first_one(server, tmp_path):
    calls = []
    server.files = {name: content + bytes(1 << 20) for name, content in server.files.items() if name.endswith(".tar")}
    opened(server, tmp_path, count=2 * IMAGES + 1, progress=lambda *call: calls.append(call))
    assert {stage for stage, _, _ in calls} == {"train shards, MiB"}
    done = [done for _, done, _ in calls]
    assert done == sorted(done)
    assert {(done, total) for _, done, total in calls} == {(0, 1), (1, 1), (1, 3), (2, 3), (3, 3)}


def test_more_than_fits_is_refused_before_it_is_fetched(server, tmp_path, monkeypatch):
    usage = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(DataError, match=r"needs 0 MiB more, but only 0 MiB are free in .*; ask for fewer images"):
        opened(server, tmp_path, count=3)


def test_two_openers_at_once_fetch_once(server, tmp_path):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(opened(server, tmp_path, count=20).fingerprint)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 3
    assert len([path for path, _ in server.requests if path.endswith(".tar")]) == 2


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
@pytest.mark.parametrize("server", ["::1"], indirect=True)
def test_a_host_may_be_named_by_its_ipv6_address(server, tmp_path):
    train = opened(server, tmp_path, count=3)
    val = opened(server, tmp_path, split="val")
    assert len(train) == 3
    assert len(val) == IMAGES
    assert train.read(0).label == 1
    assert val.uri == f"webdataset:{server.url}/train-{{0000..0005}}.tar::{server.url}/val-0000.tar"


@pytest.mark.parametrize(
    "pattern",
    ["http://[::1/a.tar?sig=s3cret", "http://h:p0rt/a.tar?sig=s3cret", "/a.tar::/b.tar::http://h/c.tar?sig=s3cret"],
)
def test_patterns_that_cannot_be_read_are_refused_without_their_secrets(pattern, tmp_path):
    with pytest.raises(DataError, match="--data webdataset: ") as caught:
        open_images(f"webdataset:{pattern}", "train", None, 0, 24, tmp_path)
    assert "s3cret" not in str(caught.value)


def test_the_error_of_an_empty_split_has_no_secrets(server, tmp_path):
    server.files["empty.tar"] = bytes(10240)
    uri = f"webdataset:{server.url}/empty.tar?sig=s3cret"
    with pytest.raises(DataError, match=r"no train images in '.*/empty.tar' \(0 in all") as caught:
        open_images(uri, "train", None, 0, 24, tmp_path)
    assert "s3cret" not in str(caught.value)


_S3 = "X-Amz-Algorithm=A&X-Amz-Credential={0}&X-Amz-Date={0}&X-Amz-Expires=9&X-Amz-SignedHeaders=h&X-Amz-Signature={0}"
_AZURE = "sv=2024&se={0}&sr=b&sp=r&sig={0}"


@pytest.mark.parametrize("signed", [_S3, _AZURE, "AWSAccessKeyId=k&Expires={0}&Signature={0}"])
def test_a_shard_is_not_fetched_again_when_only_its_signature_changed(server, tmp_path, signed):
    def path(query, name="train-0000.tar"):
        return download.fetch(f"{server.url}/{name}?{query}", tmp_path, lambda path: None, lambda here, total: None)

    first = path(signed.format(1))
    assert path(signed.format(2)) == first
    assert len(server.asked("train-0000.tar")) == 1
    others = [
        path(f"{signed.format(2)}&versionId=7"),
        path(f"versionId=8&{signed.format(2)}"),
        path(signed.format(2), "val-0000.tar"),
        path("Signature=1"),  # signed in no known way: the parameter may name the file
        path("Signature=2"),
        path("sig=1&file=1"),
    ]
    assert len({first, *others}) == 7
