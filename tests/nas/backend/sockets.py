"""The sockets on which this process and those that it has started listen."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from tests.nas.backend.processes import descendants


def listening_addresses() -> set[str]:
    """Return the hex addresses of the listening IPv4 and IPv6 sockets of this process and its descendants."""
    files = set()
    for process in (os.getpid(), *descendants(os.getpid())):
        with suppress(OSError):  # it ends
            files |= {str(file.readlink()) for file in Path(f"/proc/{process}/fd").iterdir()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    rows += [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    return {row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in files}


def is_loopback(address: str) -> bool:
    """Return whether a hex address is a loopback one.

    127.0.0.0/8 ends in 7F in the kernel's byte order; ::1 and ::ffff:127.x are the IPv6 forms.
    """
    host = address.split(":")[0]
    if len(host) == 8:
        return host.endswith("7F")
    return host == "0" * 24 + "01000000" or (host.startswith("0000000000000000FFFF0000") and host.endswith("7F"))
