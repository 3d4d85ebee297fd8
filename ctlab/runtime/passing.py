"""Sending to the lab, from a process whose limit of open files may be lower than that of a container.

The kernel counts the descriptors that a user's programs have sent and nobody has received yet, those in containers too
where the lab's root is the user himself, and refuses whoever may open fewer than that: ETOOMANYREFS.
"""

from __future__ import annotations

import errno
import resource
import socket
from collections.abc import Sequence

from ..errors import KernelError
from . import packets


def send(connection: socket.socket, body: bytes, descriptors: Sequence[int] = ()) -> None:
    """`packets.send`. Raises KernelError for a body that is too large and where nothing can be passed; OSError."""
    try:
        try:
            packets.send(connection, body, descriptors)
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:
                raise
            _send_with_most(connection, body, descriptors)
    except OSError as error:
        if error.errno == errno.EMSGSIZE:
            raise KernelError(error.strerror or "", errno.EMSGSIZE) from None
        if error.errno == errno.ETOOMANYREFS:
            raise KernelError(
                "nothing can be passed to the lab: ETOOMANYREFS (this user's programs have sent more descriptors that "
                "nobody has received than one may open; end the one that does, maybe in a container)",
                errno.ETOOMANYREFS,
            ) from None
        raise


def _send_with_most(connection: socket.socket, body: bytes, descriptors: Sequence[int]) -> None:
    """Again, with as many open files as may be, for the time of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        packets.send(connection, body, descriptors)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
