"""A runner: a child of the supervisor that runs programs in one container, one after the other.

It is made in advance and enters the container when it is told what to run. The program is its child, made by the
launcher with vfork semantics (a fork of this interpreter would double the time), born in the container's PID namespace
and cgroup; the runner itself stays invisible to the container and is counted nowhere in it. It waits for the end,
answers the caller, and stays inside for a moment, for what comes next.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import time

from ..kernel import capabilities, launcher, seccomp, syscalls
from ..kernel.lean import signal, suppress
from ..plan.rootfs import DEFAULT_PATH
from . import orders, program, resources, terminals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from ..kernel import cgroup
    from .context import Context

_ALL = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWCGROUP
    | syscalls.CLONE_NEWPID  # of the children
)
_DYING_TRIES = 500
_NO_DESCRIPTOR = 1 << 20
_GONE = (errno.ESRCH, errno.ENOENT, errno.ENODEV, errno.ENOMEM, errno.EPERM)  # entering a container that has just ended


class _Place:
    """Where a runner is, once it has entered a container."""

    def __init__(self) -> None:
        self.entered = False
        self.folder = -1  # the version 2 folder that programs are born in
        self.ways: cgroup.Ways | None = None  # into its version 1 folders
        self.home = "/"
        self.root = False
        self.files = resources.files()  # open ones that a program may have; this process sends some, and has more
        self.late = b""  # what is loaded last of the programs' filter of system calls
        # Opened here and not in the container, where it would have to be looked up.
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)


def main(control: _socket.socket, context: Context, early: bytes) -> NoReturn:
    """Serve orders for one container (the first one's) and one user, until the end of file.

    `early`: the first part of the filter of system calls that its programs are to have.
    """
    os.setsid()  # no process group with the lab's other processes
    capabilities.drop_bounding(capabilities.mask(capabilities.GRANTABLE))
    resources.be_killed_first()
    program.default_signals()
    # Programs are made in our memory, where no handler may run; the launcher unblocks what they are to get.
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if early:
        seccomp.install(early)
    place = _Place()
    _rehearse(place, context)
    while True:
        order, descriptors = orders.receive(control)
        if order is None:
            os._exit(0)
        if "argv" not in order:
            continue  # a signal or a size that came when its program had ended
        caller = _socket.socket(fileno=descriptors.pop(0))
        try:
            if not order["again"]:
                descriptors = _enter(place, order, descriptors, context)
            run = _run_in_terminal if order["window"] else _run
            answer = run(control, caller, order, descriptors, place, context.launcher)
        except (program.ProgramError, OSError) as error:
            answer = _failure(error, place, order["name"])
        except BaseException as error:
            answer = {"error": "CtlabError", "message": f"{type(error).__name__}: {error}", "errno": 0}
        # Another user than root can't leave the cgroups again, so that runner is for one program.
        stays = place.entered and place.root
        with suppress(OSError):  # first, so that the caller's next program finds this runner waiting
            orders.send(control, {"answered": True, "stays": stays, **answer})
        with suppress(OSError):
            if not order["detached"] or "error" in answer:
                orders.answer(caller, answer)
        if not stays:
            os._exit(0)
        caller.close()
        for descriptor in descriptors:
            with suppress(OSError):
                os.close(descriptor)


def _failure(error: program.ProgramError | OSError, place: _Place, name: str) -> dict[str, Any]:
    """How a program that could not be run is reported; a container that ends meanwhile fails in many ways."""
    ended = _ended(error) if place.entered else error.errno in _GONE
    if ended:
        return {"error": "StateError", "message": f"container {name} ended before the program ran", "errno": 0}
    if isinstance(error, program.ProgramError):
        return {"error": error.kind, "message": str(error), "errno": error.errno}
    return {"error": "KernelError", "message": error.strerror or str(error), "errno": error.errno or 0}


def _ended(error: program.ProgramError | OSError) -> bool:
    """Whether the container that we are in has ended."""
    # No process can be born any more in a PID namespace whose first one is dying: ENOMEM, before /proc shows it.
    tries = _DYING_TRIES if error.errno == errno.ENOMEM else 1
    for _ in range(tries):
        if not os.path.exists("/proc/1"):
            return True
        if tries > 1:
            time.sleep(0.001)
    return False


def _rehearse(place: _Place, context: Context) -> None:
    """Go through the motions once while nobody waits.

    A fresh fork shares its pages with its parent; each one that Python touches first has to be copied, and a third
    of the time of an `exec` would go there.
    """
    ours, theirs = orders.pair()
    sample = {"argv": ["/"], "environment": ["PATH=/", "HOME="], "capabilities": list(capabilities.DEFAULT)}
    orders.send(ours, sample, [ours.fileno()])
    order, descriptors = orders.receive(theirs)
    assert order is not None
    for descriptor in descriptors:
        os.close(descriptor)
    ours.close()
    theirs.close()
    capabilities.mask(order["capabilities"])
    program.resolve_user("0")
    variables = program.environment(order["environment"], "/")
    with suppress(program.ProgramError):
        program.find("/", "/")
    streams = {0: place.null, 1: place.null, 2: _NO_DESCRIPTOR}  # so the child ends where it sets them up
    with suppress(OSError):
        context.launcher.spawn(order["argv"], "/", "/", variables, streams, program=seccomp.NONE)


def _enter(place: _Place, order: dict[str, Any], descriptors: list[int], context: Context) -> list[int]:
    """Enter the container and become the user; returns the descriptors that are the program's."""
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    place.root = order["user"] in ("0", "root", "")
    place.late = order["late"]
    place.folder = descriptors.pop(0) if order["unified"] else -1
    joined = None
    if context.folders is not None:
        joined = context.folders.adopt(order["cgroup"], order["controllers"])
        if place.root:
            place.ways = joined.ways()
            joined = None
        elif place.folder >= 0:
            # Only root may have a program be born in the folder: who isn't is moved before, which takes milliseconds.
            joined.join(cloned=False)
            os.close(place.folder)
            place.folder = -1
            joined = None
    pidfd = descriptors.pop(0)
    syscalls.setns(pidfd, _ALL)
    os.close(pidfd)
    if joined is not None:
        joined.join(cloned=True)  # while we are still who may
    keep = capabilities.mask(order["capabilities"])
    place.home = program.become(order["user"], keep, single_id=context.single_id)
    resources.bound_processes(order["processes"], by_exec=True)
    place.entered = True
    return descriptors


def _run_in_terminal(
    control: _socket.socket,
    caller: _socket.socket,
    order: dict[str, Any],
    streams: list[int],
    place: _Place,
    last: launcher.Launcher,
) -> dict[str, Any]:
    """Run one program to its end, all of whose streams are a terminal of the container's that is the session's own.

    The caller gets the master. What is kept here is the slave: it can be resized by that, and once the caller's end
    is closed the terminal is hung up, as by a person who closes a window.
    """
    master, slave = terminals.persons_pair(*order["window"])
    try:
        try:
            orders.answer(caller, {"started": True}, [master])
        finally:
            os.close(master)
        return _run(control, caller, order, streams, place, last, slave)
    finally:
        os.close(slave)


def _run(
    control: _socket.socket,
    caller: _socket.socket,
    order: dict[str, Any],
    streams: list[int],
    place: _Place,
    last: launcher.Launcher,
    terminal: int = -1,
) -> dict[str, Any]:
    """Run one program to its end. `streams` holds its descriptors, and more that are opened here.

    `terminal`: what it gets instead of them, -1 = none.
    """
    if order["tty"]:
        masters, (out, err) = terminals.raw_pairs()
        orders.answer(caller, {"started": True}, masters)
        for master in (*masters, *streams[1:3]):
            os.close(master)
        streams[1:3] = [out, err]
    targets = dict.fromkeys(range(3), place.null) | dict(enumerate(streams[:3]))
    if terminal >= 0:
        targets = dict.fromkeys(range(3), terminal)
    if order.get("script_descriptor") is not None:
        targets[launcher.SCRIPT] = streams[3]
    variables = program.environment(order["environment"], place.home)
    workdir = order["workdir"]
    path = program.find(order["argv"][0], variables.get("PATH", DEFAULT_PATH), workdir)
    ways = place.ways
    if ways is not None:
        ways.join()
    try:
        child = last.spawn(
            order["argv"], path, workdir, variables, targets, cgroup=place.folder,
            tasks=() if ways is None else ways.of_child, files=place.files,
            program=place.late, terminal=terminal >= 0,
        )  # fmt: skip
    except OSError as error:
        raise program.birth_error(error) from None
    finally:
        if ways is not None:
            ways.leave()
    while streams:
        os.close(streams.pop())
    try:
        # Whether it runs is known in a moment; who waits for its end anyway hears of it with that.
        failure = child.failure() if order["detached"] else None
        if order["detached"] and failure is None:
            orders.send(control, {"started": True})
            with suppress(OSError):  # who was interrupted meanwhile has gone, and ends the program by its number
                orders.answer(caller, {"started": True})
        returncode = _wait(control, child, terminal)
    except BaseException:
        child.end()  # nobody else would reap it, and without that its container never ends
        raise
    else:
        if returncode == launcher.FAILED_STATUS:
            failure = failure or child.failure()
        if failure is not None:
            lacks = program.lacking(path, workdir, capabilities.mask(order["capabilities"]))
            raise program.launch_error(failure, path, workdir, lacks)
        return {"returncode": returncode}
    finally:
        child.close()


def _wait(control: _socket.socket, child: launcher.Child, terminal: int) -> int:
    """Wait for the program; signals and sizes of its terminal come over the control socket meanwhile."""
    pidfd = child.pidfd
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(control, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == pidfd:
                status = os.waitid(os.P_PID, child.pid, os.WEXITED)
                assert status is not None
                return status.si_status if status.si_code == os.CLD_EXITED else 128 + status.si_status
            message, _ = orders.receive(control)
            if message is None:
                os._exit(0)
            if "window" in message:
                with suppress(OSError):  # it is hung up, or there is none
                    terminals.resize(terminal, *message["window"])
                continue
            if message["group"]:
                with suppress(OSError):  # it has ended, or has become who we can't signal
                    os.killpg(child.pid, message["signal"])
                continue
            try:
                signal.pidfd_send_signal(pidfd, message["signal"])
            except OSError as error:
                if error.errno != errno.ESRCH:
                    raise
