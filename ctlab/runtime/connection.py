"""One call of the owner's to the supervisor: the request, and the answer, or what it reports as its error."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from ..errors import KINDS, CtlabError, KernelError, one_line
from . import answers, messages, own_limits, packets, passing, protocol
from .packets import Surprise
from .waiting import ready

if TYPE_CHECKING:
    from .client import Client

T = TypeVar("T")
Request = tuple[Any, ...]  # one of `messages.REQUESTS`
Event = tuple[Any, ...]  # one of `messages.EVENTS`, or `Gone`


class Reply(Generic[T]):
    """An answer: the message, the descriptors beside it, the process it speaks of (numbered as here)."""

    __slots__ = ("descriptors", "message", "process")

    def __init__(self, message: T, descriptors: list[int], process: int) -> None:
        self.message = message
        self.descriptors = descriptors
        self.process = process


def raise_failure(failure: messages.Failure) -> NoReturn:
    """Raise what an answer reports."""
    cls, text = KINDS.get(failure.kind, CtlabError), one_line(failure.message)
    if issubclass(cls, KernelError):
        raise cls(text, failure.errno)
    raise cls(text)


class Connection:
    """One call socket of a client. `answered`: nothing is to come on it, so that somebody else may have it."""

    def __init__(self, sock: socket.socket, client: Client) -> None:
        self.socket = sock
        self.answered = True
        self._client = client
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def send(self, request: Request, descriptors: Sequence[int] = ()) -> None:
        """Send a request. Raises LabGone, KernelError for one that can't be sent, OSError."""
        self.answered = False
        try:
            passing.send(self.socket, protocol.pack(request), descriptors)
        except KernelError:
            self.answered = True
            raise
        except (BrokenPipeError, ConnectionResetError):
            raise self._client._gone_error() from None

    def send_only(self, requests: Sequence[Request]) -> None:
        """Send requests that are served after what was sent before, and whose answers nobody waits for."""
        self.answered = False
        with contextlib.suppress(OSError):
            for request in requests:
                packets.send(self.socket, protocol.pack(request), flags=socket.MSG_DONTWAIT)

    def receive(self, *kinds: type[T]) -> Reply[T]:
        """The next answer, which is of one of these kinds. Raises what it reports if it is a failure.

        LabGone at the end of file and for what can't be the answer, KernelError where its descriptors had no room here.
        """
        client = self._client
        ready(self._poll, None)
        try:
            body, descriptors, process = packets.receive(self.socket)
            if not body:
                raise client._gone_error()
            message = answers.read(body, descriptors, kinds)
        except Surprise as error:
            raise client.end_for(f"as an answer {error}") from None
        except OSError as error:
            if error.errno is None:  # no call's: a TimeoutError of the caller's own handler of SIGALRM
                raise
            if error.errno != errno.EMFILE:
                raise client._gone_error() from None
            self.answered = messages.Begun not in kinds  # after that the end comes, and nobody would wait for it
            text = f"the answer can't be taken: {own_limits.words(OSError(errno.EMFILE, ''))}"
            raise KernelError(text, errno.EMFILE) from None
        self.answered = True
        if type(message) is messages.Failure:
            raise_failure(message)
        if client.in_vm:  # the kernel has named a relay of ours, and a VM's kernel knows another process
            process = message.pid if type(message) is messages.Running else 0
        return Reply(message, descriptors, process)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()
