"""Download files over HTTP, one at a time. A broken download is resumed, and a file gets its name when it is complete.

Downloaded shards stay until the user deletes the folder, along with at most one partial file a URL.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from nas.data.dataset import DataError, DataUnavailable
from nas.redaction import public_word

SCHEMES = ("http://", "https://")
ATTEMPTS = 6  # in a row without a single byte; an attempt with bytes resets the count
FIRST_WAIT_S = 0.5  # doubled from attempt to attempt
TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 20
ABSENT = frozenset({403, 404, 410})  # object stores answer 403 for a missing file in a folder that cannot be listed
REFUSED = frozenset({400, 401, 405, *ABSENT})  # a retry would not help

# A server that was never reached will not answer the next attempt either: nobody listens, no such host, no route.
UNREACHABLE = (ConnectionRefusedError, socket.gaierror, ssl.SSLCertVerificationError)
NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL})

# Parameters of signed URLs, in lower case: those that each has, and those that some have. S3, its earlier version and
# CloudFront, Google Cloud Storage in two versions, Azure (shared access signatures).
_SIGNATURES: tuple[tuple[frozenset[str], frozenset[str]], ...] = (
    (
        frozenset({"x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires", "x-amz-signature"}),
        frozenset({"x-amz-signedheaders", "x-amz-security-token"}),
    ),
    (frozenset({"awsaccesskeyid", "expires", "signature"}), frozenset({"x-amz-security-token"})),
    (frozenset({"key-pair-id", "signature", "expires"}), frozenset()),
    (frozenset({"key-pair-id", "signature", "policy"}), frozenset()),
    (
        frozenset({"x-goog-algorithm", "x-goog-credential", "x-goog-date", "x-goog-expires", "x-goog-signature"}),
        frozenset({"x-goog-signedheaders"}),
    ),
    (frozenset({"googleaccessid", "expires", "signature"}), frozenset()),
    (
        frozenset({"sv", "sig", "se"}),
        frozenset({"st", "sp", "sr", "spr", "sip", "skoid", "sktid", "skt", "ske", "sks", "skv"}),
    ),
)

Bytes = Callable[[int, int], None]  # bytes on disk, bytes in all (0 if unknown)


class Absent(DataError):
    """The server has no such file."""


def is_remote(source: str) -> bool:
    """Tell whether a shard has to be fetched."""
    return source.startswith(SCHEMES)


def local_path(url: str, folder: Path) -> Path:
    """Return the path of a URL's content in `folder`, which is the same when the URL is signed again."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", urlsplit(url).path.rpartition("/")[2])
    return folder / f"{hashlib.sha256(without_signature(url).encode()).hexdigest()[:16]}-{name}"


def without_signature(url: str) -> str:
    """Return a URL without the parameters that sign it for a time; one that is not signed as a whole stays as it is.

    They grant access to the object that host, path and the other parameters name, as `versionId`, and choose none: two
    URLs that name two objects never become the same.
    """
    parts = urlsplit(url)
    parameters = [(part.partition("=")[0].lower(), part) for part in parts.query.split("&")]
    names = {name for name, _ in parameters}
    for required, others in _SIGNATURES:
        if required <= names:
            parameters = [(name, part) for name, part in parameters if name not in required | others]
    query = "&".join(part for _, part in parameters)
    return url if query == parts.query else parts._replace(query=query).geturl()


def fetch(url: str, folder: Path, check: Callable[[Path], object], progress: Bytes) -> Path:
    """Return the file of a URL in `folder`, downloaded if missing. `check` raises DataError for an invalid file.

    A partial file is continued with a Range request if the server still has the same version. Raises DataError
    when retries are used up, Absent immediately when the server has no such file.
    """
    target = local_path(url, folder)
    if target.is_file():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{target.name}.lock"):
            if not target.is_file():
                partial = Partial(url, folder / f".{target.name}.part")
                partial.complete(progress)
                try:
                    check(partial.path)
                except DataError:
                    partial.discard()
                    raise
                partial.path.rename(target)
                partial.discard()
    except OSError as error:
        reason = error.strerror or error
        raise DataUnavailable(
            f"--data webdataset: cannot store '{public_word(url)}' in '{folder}': {reason}"
        ) from error
    return target


_reached: set[str] = set()  # hosts that have answered this process


def is_permanent(error: Exception) -> bool:
    """Tell whether a connection cannot be made at all, so that another attempt would not help."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return isinstance(reason, UNREACHABLE) or (isinstance(reason, OSError) and reason.errno in NO_ROUTE)


class Partial:
    """An unfinished download. A second file holds the version (ETag or date) that its bytes belong to."""

    def __init__(self, url: str, path: Path) -> None:
        self.url, self.path, self.tag = url, path, path.with_suffix(".tag")

    def complete(self, progress: Bytes) -> None:
        """Send requests until the file has the length that the server reports.

        A server that has answered this process may be away for a moment; one that never has is asked once.
        """
        failures, host = 0, urlsplit(self.url).netloc
        while True:
            before = self.here()
            try:
                self.request(progress)
                _reached.add(host)
                return
            except urllib.error.HTTPError as error:
                _reached.add(host)
                if error.code in REFUSED:
                    kind = Absent if error.code in ABSENT else DataError
                    raise kind(
                        f"--data webdataset: cannot fetch '{public_word(self.url)}': HTTP {error.code}"
                    ) from error
                if error.code == 416:  # the file on disk is longer than the server's
                    self.discard()
                last: Exception = error
            except (urllib.error.URLError, HTTPException, ssl.SSLError, ConnectionError, TimeoutError) as error:
                last = error
            _reached.update([host] if self.here() > before else [])
            failures = 1 if self.here() > before else failures + 1
            in_vain = is_permanent(last) and host not in _reached
            if failures == ATTEMPTS or in_vain:
                reason = " ".join(str(last).split()) or type(last).__name__
                attempts = "" if in_vain else f" after {ATTEMPTS} attempts"
                raise DataUnavailable(
                    f"--data webdataset: cannot fetch '{public_word(self.url)}'{attempts}: {reason}"
                ) from last
            time.sleep(FIRST_WAIT_S * 2 ** (failures - 1))

    def request(self, progress: Bytes) -> None:
        """Request the rest of the file; the received bytes stay, even if the connection breaks."""
        headers = {}
        if self.here() and self.tag.is_file():
            headers = {"Range": f"bytes={self.here()}-", "If-Range": self.tag.read_text()}
        with urllib.request.urlopen(urllib.request.Request(self.url, headers=headers), timeout=TIMEOUT_S) as response:
            total = self.accept(response)
            with self.path.open("ab") as file:
                while chunk := response.read(CHUNK_BYTES):
                    file.write(chunk)
                    progress(file.tell(), total)
        if total and self.here() != total:
            raise ConnectionError(f"the connection ended after {self.here()} of {total} bytes")

    def accept(self, response: HTTPResponse) -> int:
        """Prepare the file for a response's body and return the whole length, 0 where it is unknown."""
        here = self.here()
        continued = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if response.status == 206:
            if not continued or int(continued[1]) != here:
                self.discard()
                raise ConnectionError("the server sent another part than the one asked for")
            total = int(continued[2])
        else:
            self.discard()
            here, total = 0, int(response.headers.get("Content-Length") or 0)
            version = response.headers.get("ETag", "W/")
            if version.startswith("W/"):  # a weak ETag does not promise equal bytes
                version = response.headers.get("Last-Modified", "")
            if version:
                self.tag.write_text(version)
        free = shutil.disk_usage(self.path.parent).free
        if total - here > free:
            raise DataUnavailable(
                f"--data webdataset: '{public_word(self.url)}' needs {(total - here) >> 20} MiB more, but only "
                f"{free >> 20} MiB are free in '{self.path.parent}'; ask for fewer images"
            )
        return total

    def here(self) -> int:
        """Return the number of bytes on disk."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def discard(self) -> None:
        """Remove the file and its version."""
        self.path.unlink(missing_ok=True)
        self.tag.unlink(missing_ok=True)
