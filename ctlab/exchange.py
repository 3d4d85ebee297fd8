"""One copy between this machine and a container: the request, the stream through a pipe, the answer.

All of it on a thread of its own (`apart`): whoever is interrupted leaves no descriptor, no thread and no process
behind. Our end of the pipe is closed then, and the container's side ends by that.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import select
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from .apart import Waiter, apart
from .errors import BadInput, CtlabError, KernelError
from .runtime import messages, own_limits, tar

if TYPE_CHECKING:
    from .container import Container

G = TypeVar("G")
_PIPE_BYTES = 1 << 20  # as large as the kernel lets a user have one
_BUFFER_BYTES = 1 << 18


class _End(io.RawIOBase):
    """Our end of the pipe: it waits no longer than somebody waits for the copy."""

    def __init__(self, descriptor: int, waiter: Waiter) -> None:
        super().__init__()
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._waiter = waiter

    def fileno(self) -> int:
        return self._descriptor

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._waiter.until(self._descriptor, select.POLLIN)
        return os.readv(self._descriptor, [buffer])

    def write(self, data: Any) -> int:
        while True:
            self._waiter.until(self._descriptor, select.POLLOUT)
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # less room than a page
                continue

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def exchange(
    container: Container,
    request: messages.CopyIn | messages.CopyOut,
    begin: Callable[[], AbstractContextManager[G]],
    work: Callable[[IO[bytes], G, Callable[[], None]], Any],
) -> tuple[Any, messages.Copied]:
    """Send `request` with one end of a pipe while `work` uses the other; what it returned, and the answer.

    `work(file, begun, check)`: our end, what `begin` has given before anything was sent, and what to call between
    long steps that don't touch the file. Raises what either side says, BadInput for a stream that broke off.
    """
    return apart("cp", lambda waiter: _exchange(container, request, begin, work, waiter))


def _exchange(
    container: Container,
    request: messages.CopyIn | messages.CopyOut,
    begin: Callable[[], AbstractContextManager[G]],
    work: Callable[[IO[bytes], G, Callable[[], None]], Any],
    waiter: Waiter,
) -> tuple[Any, messages.Copied]:
    result: Any = None
    trouble: Exception | None = None
    with begin() as begun, container.lab._client.borrow() as connection:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        read = isinstance(request, messages.CopyOut)
        ours, theirs = (reading, writing) if read else (writing, reading)
        end = _End(ours, waiter)
        try:
            try:
                fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            except OSError:
                pass  # the user has too many large ones: it works with a small one too
            connection.send(request, [theirs])
        except BaseException:
            end.close()
            raise
        finally:
            os.close(theirs)  # so that our end sees the end of file when nothing was started
        buffered = io.BufferedReader(end, _BUFFER_BYTES) if read else io.BufferedWriter(end, _BUFFER_BYTES)
        try:
            with buffered:
                result = work(cast(IO[bytes], buffered), begun, waiter.check)
        except (OSError, CtlabError, tar.ArchiveError) as error:
            trouble = error
        waiter.until(connection.socket.fileno(), select.POLLIN)
        try:
            answer = connection.receive(messages.Copied).message
        except CtlabError as error:
            # It knows better, but for a stream that broke off since we wanted no more of it.
            if trouble is None or getattr(error, "number", 0) != errno.EPIPE:
                raise
    if isinstance(trouble, BrokenPipeError | tar.ArchiveError):
        raise BadInput(f"the copy was cut off: {trouble}") from trouble
    if isinstance(trouble, OSError):
        raise KernelError(f"cp: {own_limits.words(trouble)}", trouble.errno or 0) from trouble
    if trouble is not None:
        raise trouble
    return result, answer
