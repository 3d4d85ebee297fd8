"""What travels over a VM's port: frames, each a header (length, kind, id) and a body.

The host sends CONFIG first; the guest's first process answers with BOOT frames until its supervisor takes the port
over. `id` is a connection, a stream or a ring, whichever the kind speaks of. Bodies are JSON where not said otherwise.
Standard library only and lean: both ends import it, and in an emulated guest every import is felt.
"""

from __future__ import annotations

import errno
import struct

HEADER = struct.Struct("=IBI")  # bytes of the body, kind, id
LARGEST_BODY_BYTES = 64 << 20
PORT_NAME = "ctlab"
CALLS_AHEAD = 8  # that the guest hasn't begun to serve: more wait with those who make them
CALLS_STEP = 4

# Guest's first process <-> host
BOOT = 1  # guest: {"at": "init" | "python" | "ready" | "ended", "uptime_seconds": ..., "now", "facts", "returncode"}
CONFIG = 2  # host: what to be
FATAL = 3  # guest: {"error", "message", "errno"}: it can't go on
SYSTEM = 4  # host, after the CONFIG of a lab: the bytes of its `system_read.Archive`
# Calls; `id` is a connection
CALL = 10  # host: see `calls`
ANSWER = 11  # guest: see `calls`
CLOSE = 12  # host: the connection is over
EVENT = 13  # guest: as an answer
TAKEN = 14  # guest: it has begun to serve CALLS_STEP more calls
# Streams; `id` is one: even numbers are the host's, odd ones the guest's
DATA = 20  # bytes
# No more will come (from the sender of DATA; 4 bytes, little-endian: the errno that ended it, if one did), or nobody
# reads any more (from its receiver).
END = 21
CREDIT = 22  # CREDIT_BYTES, little-endian: so many more may be sent
CREDIT_BYTES = 8
# Mirrors of rings
LOG = 30  # guest: a log ring's changes, see `LogRing.changes`; `id` is the ring's key
TOLD = 31  # guest: a follower has been told; `id` is its number
ROWS = 32  # guest: new rows of a ring of counters; `id` is 0 (containers) or 1 (endpoints)


def pack(kind: int, number: int, body: bytes) -> bytes:
    """One frame."""
    return HEADER.pack(len(body), kind, number) + body


def fits(body: bytes) -> None:
    """Raise OSError EMSGSIZE for a body that no frame can hold."""
    if len(body) > LARGEST_BODY_BYTES:
        sizes = f"{len(body) / (1 << 20):.0f} MiB, and a VM lab's have at most {LARGEST_BODY_BYTES >> 20} MiB"
        raise OSError(errno.EMSGSIZE, f"the message is too large: {sizes} (EMSGSIZE)")
