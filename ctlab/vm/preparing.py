"""Make ready what a VM boots from in a process of its own, so that the keeper hears meanwhile whether it is wanted.

A first start may fetch a kernel, which takes as long as the network does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable

from ..errors import KINDS, CtlabError, KernelError, describe
from ..kernel import syscalls
from ..runtime import protocol
from . import accel, prepare, programs
from .loop import Loop

_END_SECONDS = 5.0  # for what was begun to be removed
_LARGEST_ANSWER = 1 << 16


def ready(loop: Loop, over: Callable[[], bool]) -> prepare.Prepared | None:
    """What to boot, made if need be; None if it was `over` before. Raises CtlabError."""
    there = prepare.ready()
    if there is not None and accel.known():
        return there
    said, says = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _be_the_maker(says, parent)
    os.close(says)
    pidfd = os.pidfd_open(pid)
    ended: list[bool] = []
    loop.on(pidfd, lambda: ended.append(True))
    try:
        loop.run(lambda: bool(ended) or over(), None, lambda: None)
        loop.off(pidfd)
        if not ended:
            _end(loop, pid, pidfd)
            return None
        os.waitpid(pid, 0)
        answer = os.read(said, _LARGEST_ANSWER)
    finally:
        os.close(said)
        os.close(pidfd)
    if answer:
        _raise(json.loads(answer))
    return prepare.prepare()


def _be_the_maker(says: int, parent: int) -> None:
    """In the child: make it, say what went wrong. An interrupt removes what was begun, and what was started."""
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() == parent:
            prepared = prepare.prepare()
            accel.choose(programs.find().qemu, prepared.kernel)
    except (CtlabError, OSError) as error:
        os.write(says, protocol.encode(protocol.failure(_told(error)))[:_LARGEST_ANSWER])
    except KeyboardInterrupt:
        pass
    except BaseException as error:
        os.write(says, protocol.encode(protocol.failure(CtlabError(f"{type(error).__name__}: {error}"))))
    finally:
        os._exit(0)


def _told(error: CtlabError | OSError) -> CtlabError:
    if isinstance(error, CtlabError):
        return error
    name = f" ({error.filename})" if error.filename else ""
    return KernelError(f"what the VM boots from can't be made ready: {describe(error)}{name}", error.errno or 0)


def _raise(failure: protocol.Message) -> None:
    kind = KINDS.get(failure["error"], CtlabError)
    if issubclass(kind, KernelError):
        raise kind(failure["message"], failure["errno"])
    raise kind(failure["message"])


def _end(loop: Loop, pid: int, pidfd: int) -> None:
    """Interrupt it and what it has started, then kill what is left."""
    ended: list[bool] = []
    loop.on(pidfd, lambda: ended.append(True))
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)
        if loop.run(lambda: bool(ended), _END_SECONDS, lambda: None):
            break
    loop.off(pidfd)
    os.waitpid(pid, 0)
