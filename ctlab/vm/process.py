"""Start a program that ends with us: QEMU and virtiofsd, as nobody where we are root. Single-threaded callers only."""

from __future__ import annotations

import os
import resource
import select
import signal
from collections.abc import Iterable, Sequence

from ..errors import KernelError, describe, errno_name
from ..kernel import syscalls
from .reader import reader
from .shares import Shares


def start(
    words: Sequence[str],
    inherited: Iterable[int],
    log: int,
    *,
    largest_file_bytes: int = 0,
    shares: Shares | None = None,
) -> tuple[int, int]:
    """Fork and exec: (pid, pidfd). Its standard output and error go to `log`; it dies when this process does.

    `inherited`: descriptors that it gets under the same numbers. `largest_file_bytes`: what it writes to a file is cut
    off there (0: no limit). `shares`: it runs in that mount namespace. Raises KernelError if it can't be started.
    """
    user = reader()
    parent = os.getpid()
    said, says = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        number = 0
        try:
            _become(words, inherited, log, largest_file_bytes, shares, user, parent)
        except OSError as error:
            number = error.errno or 0
        finally:
            os.write(says, number.to_bytes(4, "little"))
            os._exit(127)
    os.close(says)
    try:
        failure = os.read(said, 4)
    finally:
        os.close(said)
    if failure:
        os.waitpid(pid, 0)
        number = int.from_bytes(failure, "little")
        raise KernelError(f"can't start {words[0]}: {errno_name(number)} ({os.strerror(number)})", number)
    try:
        return pid, os.pidfd_open(pid)
    except OSError as error:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise KernelError(f"can't watch {words[0]}: {describe(error)}", error.errno or 0) from None


def _become(
    words: Sequence[str],
    inherited: Iterable[int],
    log: int,
    largest_file_bytes: int,
    shares: Shares | None,
    user: tuple[int, int] | None,
    parent: int,
) -> None:
    """In the child. Raises OSError; else it doesn't return."""
    os.setsid()  # an interrupt of a terminal isn't meant for it
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            try:
                signal.signal(number, signal.SIG_DFL)
            except (OSError, ValueError):
                pass  # a number without a signal
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for descriptor in inherited:
        os.set_inheritable(descriptor, True)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))  # a share keeps a descriptor for each file in use
    if largest_file_bytes:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails, and the program goes on
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file_bytes, largest_file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if shares is not None:
        shares.enter()
    if user is not None:
        os.setgroups([])
        os.setresgid(user[1], user[1], user[1])
        os.setresuid(user[0], user[0], user[0])
    # After the change of user, which would clear it; if the parent died before, nobody will send it.
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)  # a guest that breaks out finds no setuid program of use
    if os.getppid() != parent:
        os._exit(1)
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": "/"}
    os.execve(words[0], list(words), environment)


def wait(pidfd: int, seconds: float) -> None:
    """Until it has ended, or the time is over."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll(seconds * 1000)


def end(pid: int, pidfd: int) -> None:
    """SIGKILL, wait, close."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass
    os.close(pidfd)
