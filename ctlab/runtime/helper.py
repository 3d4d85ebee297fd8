"""One of the supervisor's helpers: a process that does one thing for the whole lab, started anew when it dies.

Whoever uses one keeps what it has to know (`renew` tells a new one all of it), so a death costs what the dead one had
in its hands. One that dies again and again stays off, and who needs it hears so, in one line.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import describe_bug
from ..kernel import syscalls, title
from . import messages, packets, protocol
from .calls import Refused

if TYPE_CHECKING:
    from .supervisor import Supervisor

MOST_STARTS = 3  # anew, within:
_WITHIN_SECONDS = 60.0
_PATIENCE_MS = 3000
DEAD = (errno.EPIPE, errno.ECONNRESET)


class Helper:
    """A helper, whichever process it is at present. `control` is None where there is none."""

    def __init__(
        self,
        supervisor: Supervisor,
        name: str,
        main: Callable[[Any], Any],
        *,
        lost: str,
        without: str,
        renew: Callable[[], None],
        hear: Callable[[protocol.Message], None] | None = None,
        keep: Callable[[], set[int]] = set,
    ) -> None:
        """`main`: what it does, with its end of the control socket. `keep`: descriptors that it has besides.

        `lost`: what is lost when it dies, `without`: while there is none, in half a sentence each. `renew` tells a new
        one what it has to know, and whoever waits for an answer that none will come, if there is no new one. `hear`
        takes what it says by itself.
        """
        self._supervisor = supervisor
        self.name = name
        self._main = main
        self._lost = lost
        self._without = without
        self._renew = renew
        self._hear = hear
        self._keep = keep
        self.control: socket.socket | None = None
        self.pid = 0
        self.why = ""  # that there is none
        self._pidfd = -1
        self._renewing = False
        self._starts: list[float] = []  # anew

    def start(self) -> None:
        """Clone it. Raises OSError."""
        ours, theirs = protocol.pair()
        try:
            pid, pidfd = syscalls.clone3_python(0)
            if pid == 0:
                self._become(theirs)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.adopt(ours, pid, pidfd)

    def adopt(self, control: socket.socket, pid: int, pidfd: int) -> None:
        """This process is it, from now on."""
        self.control, self.pid, self._pidfd = control, pid, pidfd
        self._supervisor.on(pidfd, self.died)
        if self._hear is not None:
            self._supervisor.on(control.fileno(), self._said)

    def _become(self, control: socket.socket) -> NoReturn:
        report = self._supervisor.events
        try:
            # What the supervisor has dropped must not be finalized here, where its descriptors' numbers are others'.
            gc.freeze()
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            syscalls.close_all_but({control.fileno(), report.fileno(), *self._keep()})
            title.set_title(f"ctlab {self.name}")
            self._main(control)
        except Exception as error:
            with contextlib.suppress(OSError):
                packets.send(report, protocol.pack(messages.Note(f"{self.name}: {describe_bug(error)}")))
        finally:
            os._exit(1)

    def send(self, message: protocol.Message, descriptors: Sequence[int] = ()) -> None:
        """Tell it what is in the state already that `renew` tells a new one: so it need not be said twice.

        Raises Refused where there is none.
        """
        if self.control is not None:
            try:
                self._send(self.control, protocol.encode(message), descriptors)
            except OSError as error:
                if self._renewing or error.errno not in DEAD:
                    raise
                self.died()
        self.needed()

    @staticmethod
    def _send(control: socket.socket, body: bytes, descriptors: Sequence[int]) -> None:
        """Send, and wait for room; one that takes nothing for some seconds (it was stopped) is as a dead one."""
        with contextlib.suppress(BlockingIOError):
            packets.send(control, body, descriptors, flags=socket.MSG_DONTWAIT)
            return
        room = select.poll()
        room.register(control, select.POLLOUT)
        if not room.poll(_PATIENCE_MS):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        packets.send(control, body, descriptors)

    def answer(self) -> protocol.Message | None:
        """The next that it says; None: it has died, or says nothing for some seconds, which is as good."""
        assert self.control is not None
        heard = select.poll()
        heard.register(self.control, select.POLLIN)
        return protocol.receive(self.control)[0] if heard.poll(_PATIENCE_MS) else None

    def needed(self) -> None:
        """Raises Refused where there is none."""
        if self.control is None:
            raise Refused("StateError", self.why)

    def _said(self) -> None:
        assert self.control is not None and self._hear is not None
        body, _, _ = packets.receive(self.control)
        if body:
            self._hear(protocol.decode(body))
        else:
            self.died()

    def died(self) -> None:
        """Bury it and start it anew, three times a minute at most; one line says so."""
        how = self._bury()
        now = self._supervisor.now()
        self._starts = [moment for moment in self._starts if moment > now - _WITHIN_SECONDS]
        if len(self._starts) >= MOST_STARTS:
            self._stay_off(how, f"died {MOST_STARTS + 1} times in a minute and stays off")
            return
        self._starts.append(now)
        try:
            self.start()
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "?")
            self._stay_off(how, f"died and can't be started anew ({name} in {error.strerror})")
            return
        self._supervisor.tell(messages.HelperDied(self.name, how, True, self._lost))
        self._renewing = True
        try:
            self._renew()
        except OSError as error:
            if error.errno not in DEAD:
                raise
            with contextlib.suppress(ProcessLookupError):  # or it is silent; its end is heard of by itself
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        finally:
            self._renewing = False

    def _stay_off(self, how: str, what: str) -> None:
        self.why = f"the lab's {self.name} {what}, and {self._without}: start another lab"
        self._supervisor.tell(messages.HelperDied(self.name, how, False, self.why))
        self._renew()

    def _bury(self) -> str:
        """Close what belonged to the dead process; how it ended."""
        with contextlib.suppress(ProcessLookupError):  # its socket may have come to its end before it has
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        status = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        self._supervisor.off(self._pidfd)
        os.close(self._pidfd)
        self._pidfd, self.pid = -1, 0
        if self.control is not None:
            self._supervisor.off(self.control.fileno())
            self.control.close()
            self.control = None
        if status is None or status.si_code == os.CLD_EXITED:
            return f"status {status.si_status if status else '?'}"
        return signal.Signals(status.si_status).name
