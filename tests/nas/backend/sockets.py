"""The sockets on which this user's processes listen."""

from __future__ import annotations

import os
from pathlib import Path


def listening_addresses() -> set[str]:
    """Return the hex addresses of this user's listening IPv4 and IPv6 sockets."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    rows += [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    return {row[1] for row in rows if row[3] == "0A" and row[7] == str(os.geteuid())}


def is_loopback(address: str) -> bool:
    """Return whether a hex address is a loopback one.

    127.0.0.0/8 ends in 7F in the kernel's byte order; ::1 and ::ffff:127.x are the IPv6 forms.
    """
    host = address.split(":")[0]
    if len(host) == 8:
        return host.endswith("7F")
    return host == "0" * 24 + "01000000" or (host.startswith("0000000000000000FFFF0000") and host.endswith("7F"))
