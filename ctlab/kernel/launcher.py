"""The one last step before a container's program runs: the launcher, and children that go that way.

Whatever becomes a program of a container executes the launcher first: under a kilobyte of machine code of our own in a
file that nobody in a lab can change (on a read-only mount of the lab's). It closes every descriptor but the program's
own, and only then names the container's working directory and program. So no path that a container chose is ever
looked up while the process holds something that leads out of it, and `/proc/self/exe`, at that moment, is the
launcher and not this machine's interpreter.

There are two ways to it: a container's first process becomes it (`Launcher.become`), or stays it, as an init that has
a program or idles (`Launcher.be_init`); a runner makes a child with vfork
semantics, born in a cgroup, which becomes it (`Launcher.spawn`: no page table is copied and none torn down, which is
most of what a fork of a Python process costs). What that child does before is a list of system calls that a function
in the launcher's own file performs, since Python can't run in a child that shares its parent's memory.

The source is in machine_code/; what its parts do is said there.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select

from . import launcher_code, seccomp, syscalls
from .lean import signal, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REPORT = 3  # the descriptor over which the launcher tells what didn't work
SCRIPT = 9  # the descriptor that it leaves open besides, where there is a script
HIGH = 16  # descriptors of ours are moved there before the numbers below are given away
FAILED_STATUS = 70
WORKING_DIRECTORY, PROGRAM = 1, 2  # the steps that the report names
REPORT_BYTES = 8
_REPORT_MS = 2000  # from the birth to the program, or to the report that there is none

_FLAGS, _WITH_SCRIPT, _WITH_TERMINAL = 0x40, 1, 2
INIT_ENDS_BY = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)  # where it has no program
INIT_PASSES_ON = tuple(number for number in range(1, 65) if number != signal.SIGCHLD)  # that one is its own
_INIT = "ctlab-init"  # what the init is called, and by its first letter the launcher knows that it is to be it
_STACK_BYTES = 32 << 10  # of the child until it executes the launcher; a signal's frame would fit, but all are blocked
_PROT_READ, _PROT_WRITE, _PROT_EXEC, _MAP_PRIVATE, _MAP_ANONYMOUS = 1, 2, 4, 2, 0x20
_MAP_FAILED = ctypes.c_void_p(-1).value
_X86 = os.uname().machine in ("x86_64", "AMD64")
_SYS_WRITE = 1 if _X86 else 64
_SYS_SETSID = 112 if _X86 else 157
_SYS_DUP3 = 292 if _X86 else 24
_SYS_PRLIMIT64, _RLIMIT_NOFILE = 302 if _X86 else 261, 7
_SYS_EXECVEAT = 322 if _X86 else 281
_SYS_CLONE3 = 435
_EXECUTE = "execute the launcher (which a filter of system calls has to allow)"
_TOO_LONG = "give the program its words and environment (128 KiB each at most, together a quarter of the stack's limit)"

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)


def code() -> bytes:
    """The launcher for this machine. Raises OSError ENOEXEC on a processor that it wasn't written for."""
    machine = os.uname().machine
    found = launcher_code.CODE.get("x86_64" if machine == "AMD64" else machine)
    if found is None:
        raise OSError(errno.ENOEXEC, f"ctlab's launcher isn't written for {machine}")
    return bytes.fromhex(found)


def _error(number: int, what: str) -> OSError:
    said = f"{errno.errorcode.get(number, number)} ({os.strerror(number)})"
    if what == _EXECUTE and number == errno.E2BIG:
        return OSError(number, f"{_TOO_LONG}: {said}; pass it in a file or by standard input")
    return OSError(number, f"{what}: {said}")


def _map(size: int, protection: int, flags: int, descriptor: int = -1) -> int:
    address = _libc.mmap(None, size, protection, flags, descriptor, 0)
    if address is None or address == _MAP_FAILED:
        raise _error(ctypes.get_errno(), f"mmap {size} bytes")
    return int(address)


def _texts(words: Sequence[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(words) + 1))(*words, None)


def _words(
    argv: Sequence[str], path: str, workdir: str, environment: Mapping[str, str], *, script: bool, terminal: bool
) -> tuple[ctypes.Array[ctypes.c_char_p], ctypes.Array[ctypes.c_char_p]]:
    """argv and envp of the launcher."""
    flags = chr(_FLAGS + (_WITH_SCRIPT if script else 0) + (_WITH_TERMINAL if terminal else 0))
    words = _texts([os.fsencode(word) for word in (flags + workdir, path, *argv)])
    return words, _variables(environment)


def _variables(environment: Mapping[str, str]) -> ctypes.Array[ctypes.c_char_p]:
    return _texts([os.fsencode(f"{name}={value}") for name, value in environment.items()])


class Child:
    """A program on its way: its pid (here), its pidfd, and where the launcher reports a failure."""

    __slots__ = ("pid", "pidfd", "report")

    def __init__(self, pid: int, pidfd: int, report: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.report = report

    def failure(self) -> tuple[int, int] | None:
        """(Step, errno) of a launcher that could not go on; None once the program runs. Waits until that is known.

        But not for ever: what else runs in the container can open the launcher's end and keep it.
        """
        poll = select.poll()
        poll.register(self.report, select.POLLIN)
        return read_report(os.read(self.report, REPORT_BYTES)) if poll.poll(_REPORT_MS) else None

    def end(self) -> None:
        """Kill it and wait for its end, if it hasn't been waited for."""
        with suppress(OSError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            os.waitid(os.P_PID, self.pid, os.WEXITED)

    def close(self) -> None:
        """Close both descriptors."""
        os.close(self.report)
        os.close(self.pidfd)


def read_report(data: bytes) -> tuple[int, int] | None:
    """(Step, errno) that a report says; None if it is none."""
    if len(data) != REPORT_BYTES:
        return None
    return int.from_bytes(data[:4], "little"), int.from_bytes(data[4:], "little")


class Launcher:
    """The launcher's file, opened: a descriptor to execute, and its function, mapped."""

    def __init__(self, path: str) -> None:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        self.descriptor = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, HIGH)
        os.close(opened)
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            machine = "x86_64" if _X86 else os.uname().machine
            size = os.fstat(file).st_size
            at = _map(size, _PROT_READ | _PROT_EXEC, _MAP_PRIVATE, file) + launcher_code.LIST_OF_CALLS[machine]
        finally:
            os.close(file)
        self._perform = ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p)(at)
        stack = _map(_STACK_BYTES, _PROT_READ | _PROT_WRITE, _MAP_PRIVATE | _MAP_ANONYMOUS)
        self._stack = stack
        self._by_prctl = seccomp.by_prctl()

    def become(
        self, argv: Sequence[str], path: str, workdir: str, environment: Mapping[str, str], *, script: bool = False
    ) -> OSError:
        """Execute the launcher in this process, whose streams and report are in place; returns only if it couldn't."""
        return self._execute(*_words(argv, path, workdir, environment, script=script, terminal=False))

    def be_init(self, child: int, environment: Mapping[str, str], late: bytes) -> OSError:
        """Become the init of this PID namespace, which reaps; returns only if it couldn't.

        `child`: the program, to which signals are passed on and with which it ends; 0: there is none, so it idles.
        It may run already, and can trace this process from the end of its exec on: by then the report is closed.
        `late`: a filter of system calls, which is loaded last. All signals are blocked from here on: what comes before
        the init has blocked them itself would be dropped, since it is PID 1, by which they are not handled.
        """
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        for descriptor in (REPORT, SCRIPT):
            with suppress(OSError):
                os.set_inheritable(descriptor, False)
        if late:
            seccomp.install(late)
        words = [_INIT, *([str(child)] if child else [])]
        return self._execute(_texts([word.encode() for word in words]), _variables(environment))

    def _execute(self, words: ctypes.Array[ctypes.c_char_p], variables: ctypes.Array[ctypes.c_char_p]) -> OSError:
        _libc.syscall(
            ctypes.c_long(_SYS_EXECVEAT), ctypes.c_int(self.descriptor), b"", words, variables,
            ctypes.c_int(syscalls.AT_EMPTY_PATH),
        )  # fmt: skip
        return _error(ctypes.get_errno(), _EXECUTE)

    def spawn(
        self,
        argv: Sequence[str],
        path: str,
        workdir: str,
        environment: Mapping[str, str],
        streams: Mapping[int, int],
        *,
        cgroup: int = -1,
        tasks: Sequence[int] = (),
        files: int = 0,
        program: bytes = b"",
        terminal: bool = False,
    ) -> Child:
        """Start a program in a session of its own. `streams`: descriptor there (0-2, `SCRIPT`) → descriptor here.

        `cgroup`: a version 2 directory to be born in, -1 = where we are. `tasks`: opened files of version 1 folders
        that the child joins. `files`: how many it may have open, 0 = as many as we. `program`: a filter of system calls
        that is loaded in the child (no_new_privs must be set here). `terminal`: descriptor 0 is its controlling one.
        All signals should be blocked here; the launcher unblocks them. Raises OSError with what didn't work.
        """
        words, variables = _words(argv, path, workdir, environment, script=SCRIPT in streams, terminal=terminal)
        report, far = os.pipe2(os.O_CLOEXEC)
        moved: list[int] = []
        try:
            zero = ctypes.c_char_p(b"0")
            itself = ctypes.cast(zero, ctypes.c_void_p).value or 0
            # The session first: who is in ours could, once it can be traced (as soon as it is the launcher), signal
            # all of us by its process group, which reaches across PID namespaces.
            calls: list[tuple[str, tuple[int, ...]]] = [("make a session", (_SYS_SETSID,))]
            calls += [("join a cgroup of the container", (_SYS_WRITE, here, itself, 1)) for here in tasks]
            for there, here in (*streams.items(), (REPORT, far)):
                if here < HIGH:  # a number that is about to be given away
                    here = fcntl.fcntl(here, fcntl.F_DUPFD_CLOEXEC, HIGH)
                    moved.append(here)
                calls.append((f"dup3 to {there}", (_SYS_DUP3, here, there, 0)))
            if files:
                limit = (ctypes.c_uint64 * 2)(files, files)
                bound = (_SYS_PRLIMIT64, 0, _RLIMIT_NOFILE, ctypes.addressof(limit), 0)
                calls.append((f"limit open files to {files}", bound))
            filter_ = seccomp.Program(len(program) // seccomp.INSTRUCTION_BYTES, program)
            if program:
                calls.append((seccomp.LOADING, seccomp.loading(filter_, by_prctl=self._by_prctl)))
            empty = ctypes.c_char_p(b"")
            address = ctypes.cast(empty, ctypes.c_void_p).value or 0
            execute = (
                _SYS_EXECVEAT, self.descriptor, address, ctypes.addressof(words), ctypes.addressof(variables),
                syscalls.AT_EMPTY_PATH,
            )  # fmt: skip
            calls.append((_EXECUTE, execute))
            pid, pidfd = self._clone(calls, cgroup)
        except BaseException:
            os.close(report)
            raise
        finally:
            for descriptor in (*moved, far):
                os.close(descriptor)
        return Child(pid, pidfd, report)

    def _clone(self, calls: list[tuple[str, tuple[int, ...]]], cgroup: int) -> tuple[int, int]:
        pidfd = ctypes.c_int(-1)
        flags = syscalls.CLONE_VM | syscalls.CLONE_VFORK | syscalls.CLONE_PIDFD
        clone = syscalls.CloneArgs(
            flags=flags | (syscalls.CLONE_INTO_CGROUP if cgroup >= 0 else 0), pidfd=ctypes.addressof(pidfd),
            exit_signal=signal.SIGCHLD, stack=self._stack, stack_size=_STACK_BYTES, cgroup=max(cgroup, 0),
        )  # fmt: skip
        numbers = [_SYS_CLONE3, ctypes.addressof(clone), ctypes.sizeof(clone), 0, 0, 0, 0]
        for _, call in calls:
            numbers += [*call, *[0] * (7 - len(call))]
        list_of_calls = (ctypes.c_uint64 * len(numbers))(*numbers)
        failed = (ctypes.c_uint64 * 2)(0, 0)
        pid: int = self._perform(ctypes.addressof(list_of_calls), len(calls) + 1, ctypes.addressof(failed))
        if pid < 0:
            raise _error(-pid, "clone3")
        if failed[0]:  # the child wrote it into our memory, and is dead
            os.close(pidfd.value)
            os.waitpid(pid, 0)
            raise _error(int(failed[1]), calls[failed[0] - 1][0])
        return pid, pidfd.value
