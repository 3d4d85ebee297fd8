"""The nursery: a child of the supervisor that makes slots, and buries what is left of ended containers.

So the supervisor waits for neither.

The first processes are cloned with CLONE_PARENT: they are the supervisor's children, which it reaps itself.
"""

from __future__ import annotations

import _socket
import errno
import os
import select

from ..errors import KernelError, describe_bug
from ..kernel import launcher, netlink, syscalls, title
from ..kernel.lean import signal, suppress
from ..plan import ops
from . import birth, orders, runner, system_copy
from .context import LAUNCHER, Context, Filter
from .tree import Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from ..kernel import cgroup


_MOST_DEAD = 64  # beyond it a burial comes before what else there is to do


def live(
    control: _socket.socket,
    folders: cgroup.LabFolders | None,
    system: system_copy.Source,
    keep: set[int],
    *,
    single_id: bool,
) -> NoReturn:
    """In the clone: make the copy of the system, wait until the lab's root is built, enter it, serve."""
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        syscalls.close_all_but({control.fileno(), *system.descriptors(), *keep})
        title.set_title("ctlab nursery")
        system.wait()
        become_root(single_id=single_id)
        copy = system_copy.Copy(system)
        system.close()
        message, (namespace,) = orders.receive(control)
        if message is None:
            os._exit(0)
        syscalls.setns(namespace, syscalls.CLONE_NEWNS)
        os.close(namespace)
        orders.send(control, copy.attach())
        main(control, Context(folders, single_id, launcher.Launcher(LAUNCHER)))
    except Exception as error:
        with suppress(OSError):
            orders.send(control, {"note": describe_bug(error)})
    finally:
        os._exit(1)


def again(control: _socket.socket, context: Context) -> NoReturn:
    """In a clone of the supervisor's, which is in the lab's root already: serve in place of one that has died."""
    syscalls.close_all_but({control.fileno(), *context.descriptors()})  # what the supervisor reports to isn't ours
    try:
        if context.system is not None:
            context.system.wait()
            orders.send(control, system_copy.Copy(context.system).attach())
            context.system.close()
            context.system = None
        main(control, context)
    except Exception as error:
        with suppress(OSError):
            orders.send(control, {"note": describe_bug(error)})
    finally:
        os._exit(1)


def become_root(*, single_id: bool) -> None:
    """Take the ids of the lab's root, which the keeper has mapped by now."""
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    if not single_id:
        os.setgroups([])
    # A change of credentials clears both: /proc/self belongs to us again, and our life hangs on our parent's.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    os.umask(0o022)


def main(control: _socket.socket, context: Context) -> NoReturn:
    """Serve ``{"operations": …, "filter": …}`` (what a slot is) and ``{"make": number, …}`` while it lives."""
    link = netlink.Netlink()
    operations: list[Any] = []
    limits: list[list[Any]] = []
    mounts: dict[int, int] = {}  # number of a slot, or of the container that it has become -> its mount namespace
    dead: list[tuple[int, int]] = []  # what is to be buried when nothing else is to be done: (number, private folder)
    renamed: list[int] = []  # what the supervisor hasn't been told of
    waiting = select.poll()
    waiting.register(control, select.POLLIN)
    while True:
        if renamed and not waiting.poll(0):
            orders.send(control, {"renamed": renamed})
            renamed = []
        if dead and (len(dead) > _MOST_DEAD or not waiting.poll(0)):
            with suppress(OSError):  # what resists stays; the next container is made all the same
                _bury(mounts, *dead.pop(0))
            continue
        message, given = orders.receive(control)
        if message is None:
            os._exit(0)
        if "bury" in message:
            dead.append((message["bury"], message["private"]))
            continue
        if "hold" in message:
            mounts[message["hold"]] = given[0]
            continue
        if "rename" in message:
            with suppress(OSError):  # gone already
                link.run([netlink.set_link(message["rename"], name=message["name"], alias=message["alias"])])
            renamed.append(message["rename"])
            continue
        if "operations" in message:
            operations, limits = ops.decode(message["operations"]), message["limits"]
            context.filter = Filter(*message["filter"])
            continue
        if "runner" in message:
            _make_runner(control, context)
            continue
        order = birth.Order(
            operations, message["make"], limits=limits, spare=True, sibling=True, awaited=message["awaited"]
        )
        try:
            made = birth.make(order, context, link)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "?")
            _failed(control, order, f"{name} in {error.strerror}")
            continue
        except KernelError as error:  # no cgroup folder is to be had
            _failed(control, order, str(error))
            continue
        assert made.spare is not None
        mounts[made.serial] = made.mount_namespace
        descriptors = [made.pidfd, made.status.detach(), made.out, made.err, made.holder]
        orders.send(
            control,
            {"made": order.serial, "pid": made.pid, "spare": [made.spare.number, made.spare.name]},
            descriptors,
        )
        for descriptor in descriptors:
            os.close(descriptor)


def _failed(control: _socket.socket, order: birth.Order, message: str) -> None:
    orders.send(control, {"failed": order.serial, "message": message, "born": order.born})


def _bury(mounts: dict[int, int], number: int, private: int) -> None:
    """Close the last reference to an ended container's mounts, which go here; remove its private folder."""
    if (descriptor := mounts.pop(number, -1)) >= 0:
        os.close(descriptor)
    if private >= 0:
        Tree.remove_private(private)


def _make_runner(control: _socket.socket, context: Context) -> None:
    ours, theirs = orders.pair()
    try:
        made = new_runner(ours, theirs, context, context.filter, sibling=True)
    except OSError as error:
        orders.send(control, {"runner-failed": True, "message": str(error)})
        return
    orders.send(control, {"runner": True}, [made, ours.fileno()])
    ours.close()
    os.close(made)


def new_runner(
    ours: _socket.socket, theirs: _socket.socket, context: Context, filter_: Filter, *, sibling: bool
) -> int:
    """Clone a runner for programs that have this filter of system calls; its pidfd. `theirs` is closed here."""
    pid, pidfd = syscalls.clone3_python(0, sibling=sibling)
    if pid == 0:
        try:
            ours.close()
            title.set_title("ctlab runner")
            syscalls.close_all_but({theirs.fileno(), *context.descriptors()})
            runner.main(theirs, context, filter_.early)
        finally:
            os._exit(70)
    theirs.close()
    return pidfd
