"""The keeper: the one process of a lab that lives outside it.

It makes what must lie outside (cgroup folder, runtime folder), clones the supervisor into the lab's
namespaces, watches the owner, and removes both folders when the lab is gone, for whatever reason.
It is started by posix_spawn in a session of its own: an interrupt of the notebook never reaches it.

Descriptors on entry: 3 = control socket to the owner, 4 = call socket and 5 = event socket of the
supervisor, handed through. The configuration is the first message on 3.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import os
import select
import signal
import socket
import stat
import sys
import time
from typing import Any

from ..errors import CtlabError, describe_bug, one_line
from ..kernel import (
    cgroup_discover,
    cgroup_mounts,
    cgroup_outside,
    id_ranges,
    idmap,
    process_count,
    process_end,
    syscalls,
    title,
)
from . import orders, protocol, runtime_folder, seed, storage_size, system_read
from .packets import Surprise

_REMOVE_SECONDS = 5.0
_ROUND_SECONDS = 0.5
_DEATH_SECONDS = 0.1
_HOW_SECONDS = 0.6  # the end of all in it is waited for, to say how it ended: its owner hears of it within a second


class Keeper:
    """One lab, seen from outside."""

    def __init__(
        self,
        control: socket.socket,
        planted: tuple[_socket.socket, int],
        reader: system_read.Reader,
        config: dict[str, Any],
        *,
        port: bool,
    ) -> None:
        owner: int = config["owner"]
        self.control = control
        self.port = port
        self.planted, self.seed = planted
        self.reader = reader
        self.config = config
        self.lab_id: str = config["id"]
        self.owner_pidfd = os.pidfd_open(owner)
        self.folder = runtime_folder.create(self.lab_id, config["name"], owner)
        self.cgroup: cgroup_outside.LabCgroup | None = None
        self.leaf: str | None = None
        self.ids: id_ranges.Held | None = None  # started by root: the range that no other lab has
        self.cleaned_up = False
        # In a virtual machine that machine is the wall: who can ask us has all that it holds.
        self.any_path: bool = config.get("any_path", False)
        self.allowed: set[str] = set()  # host paths that the owner wants to be mounted
        self.supervisor_pidfd = -1
        self.user_namespace = -1
        self.why = ""  # the supervisor has died, if it could say so

    def start(self) -> None:
        """Make the outside folders and the supervisor; tell the owner."""
        # Each folder is written down before it is made: we may be killed between any two lines.
        self.folder.record(tried_in=_candidates(), tried_since=time.monotonic_ns())
        delegation = cgroup_discover.discover()
        self.leaf = delegation.leaf
        mapping, self.ids = idmap.reserve(idmap.choose(), self.lab_id)
        if delegation.version != "none":
            parents = {*delegation.parents.values(), *([delegation.unified] if delegation.unified else [])}
            self.folder.record(cgroups=[os.path.join(parent, f"ctlab-{self.lab_id}") for parent in sorted(parents)])
            self.cgroup = cgroup_outside.make_lab(delegation, self.lab_id, mapping.first_uid, mapping.first_gid)
        ours, theirs = protocol.pair()
        folders = self.cgroup.open() if self.cgroup else {}
        leaf = self.cgroup.open_leaf() if self.cgroup else None
        size = self.config.get("storage") or storage_size.default_bytes(in_vm=self.port)
        facts = {
            "cgroup_version": delegation.version,
            "cgroup_folders": list(folders),
            "leaf": leaf is not None,
            "single_id": mapping.single,
            "by_root": os.getuid() == 0,
            "interval_seconds": self.config["interval"],
            "host_top": _host_top(),
            "storage_bytes": size,
            "storage_inodes": storage_size.inodes(size),
            "name": self.config["name"],
            "port": self.port,
        }
        read = [self.reader.archive, self.reader.done]
        descriptors = [theirs.fileno(), *read, *folders.values(), *([] if leaf is None else [leaf])]
        pid, self.supervisor_pidfd = self._bear(facts, descriptors)
        theirs.close()
        os.close(seed.CALLS)
        os.close(seed.EVENTS)
        if self.port:
            os.close(seed.PORT)
        for descriptor in (self.reader.done, *descriptors[3:]):
            os.close(descriptor)
        try:
            idmap.write(pid, mapping)
            self.user_namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, CtlabError):
            if self._wait_for_supervisor(0):
                raise RuntimeError(f"its supervisor {process_end.at_start(self.supervisor_pidfd)}") from None
            raise
        self.reader.mapped()
        self.channel = ours
        self._go("identity")
        self._go("run")  # by now its parent-death signal is set
        protocol.send(
            self.control,
            {
                "ready": True,
                "supervisor": pid,
                "keeper": os.getpid(),
                "mapping": mapping.describe(),
                "single_id": mapping.single,
                "cgroup": delegation.version,
                "controllers": list(delegation.controllers),
                "pids_by": _pids_by(delegation),
                "cgroup_reason": delegation.reason,
                "cgroup_remedy": delegation.remedy,
                "runtime_folder": self.folder.path,
                "cgroup_paths": self.cgroup.paths() if self.cgroup else [],
            },
        )

    def _bear(self, facts: dict[str, Any], descriptors: list[int]) -> tuple[int, int]:
        """Let the seed clone the supervisor: (pid, pidfd)."""
        if not _readable_without_privilege():
            from . import supervisor  # noqa: F401 - imported here, since a clone in a user namespace of its own can't

            return seed.bear(facts, descriptors, sibling=False, before=self.folder.forget)
        try:
            orders.send(self.planted, facts, descriptors)
            self._await(self.planted)
            answer, given = orders.receive(self.planted)
        except (BrokenPipeError, ConnectionResetError):
            answer = None
        self.planted.close()
        if answer is None:
            raise RuntimeError(f"the seed of its supervisor {process_end.at_start(os.pidfd_open(self.seed))}")
        os.kill(self.seed, signal.SIGKILL)  # it has nothing more to do; who has stopped it would hold us up
        os.waitpid(self.seed, 0)
        if not given:
            raise OSError(answer["errno"], answer["message"])
        return answer["pid"], given[0]

    def _go(self, where: str) -> None:
        """Tell the supervisor to take its next step, and wait until it has."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # what it has said last says why
            protocol.send(self.channel, {"go": where})
        self._await(self.channel)
        answer = _receive(self.channel) or _receive(self.channel)  # first comes that it died with our word unread
        if answer is None:
            raise RuntimeError(f"its supervisor {process_end.at_start(self.supervisor_pidfd)}")
        if "error" in answer:
            raise RuntimeError(answer["message"])

    def _await(self, connection: socket.socket | _socket.socket) -> None:
        """Wait for the next message of a process that we have made, as long as there is somebody who wants the lab."""
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        poll.register(self.owner_pidfd, select.POLLIN)
        poll.register(self.control, 0)  # POLLHUP: it was closed
        if connection.fileno() not in (ready := self.reader.wait(poll)):
            raise RuntimeError(f"its owner {'has ended' if self.owner_pidfd in ready else 'wants it no longer'}")

    def watch(self) -> None:
        """Wait for the owner's word, the owner's death, or the supervisor's."""
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(self.channel, select.POLLIN)
        poll.register(self.owner_pidfd, select.POLLIN)
        poll.register(self.supervisor_pidfd, select.POLLIN)
        while True:
            for descriptor in self.reader.wait(poll):
                if descriptor == self.supervisor_pidfd:
                    self._supervisor_died()
                    return
                if descriptor == self.owner_pidfd:
                    self.clean_up()
                    return
                if descriptor == self.control.fileno() and self._owner_says():
                    return
                if descriptor == self.channel.fileno() and not self._serve():
                    # It has said what can't be. Or it has closed all that it had, but its pidfd tells of its end only
                    # once everything inside is dead, and what the v1 freezer holds isn't before it is thawed.
                    self._supervisor_died()
                    return

    def _supervisor_died(self) -> None:
        last_words = select.poll()
        last_words.register(self.channel, select.POLLIN)
        while not self.why and last_words.poll(0) and self._serve():
            pass
        if not self.why:
            end = process_end.how(self.supervisor_pidfd) if self._wait_for_supervisor(_HOW_SECONDS) else ""
            self.why = f"its supervisor ended{f' ({end})' if end else ''}"
        self._say({"gone": "died", "why": self.why})  # first: the folders of what is frozen may take seconds
        self.clean_up()

    def _owner_says(self) -> bool:
        """The owner's word; True when all is over."""
        message = _receive(self.control)
        if message is not None and message["do"] == "allow":
            self.allowed.update(message["paths"])
            return False
        self.clean_up()
        if message is not None:
            self._say({"gone": "stopped"})
        return True

    def _is_allowed(self, path: str) -> bool:
        """Whether the owner has asked for this path to be mounted; what it said before is read first."""
        if self.any_path:
            return True
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        while path not in self.allowed and poll.poll(0):
            if self._owner_says():
                sys.exit(0)
        return path in self.allowed

    def _serve(self) -> bool:
        """The supervisor asks for a mount of a host path that only we can reach (started by root).

        Who has broken out of a container may be the supervisor, so only what the owner asked for is given.
        """
        try:
            message, _, _ = protocol.receive(self.channel, most_descriptors=0, most_values=protocol.MOST_VALUES)
        except Surprise as error:
            self.why = f"its inside sent its keeper {one_line(str(error))}, so it was ended"
            return False
        except OSError:
            return False
        if message is None:
            return False
        if "error" in message:
            self.why = one_line(str(message.get("message")))
            if self.port:  # in a VM the console is all that somebody reads
                os.write(2, f"ctlab: {self.why}\n".encode(errors="replace"))
            return False
        path, idmapped = message.get("path"), False
        if type(path) is not str:
            self.why = "its inside asked for a mount of no path, so it was ended"
            return False
        try:
            if not self._is_allowed(path):
                raise OSError(errno.EPERM, f"mount {path}: the owner of the lab hasn't asked for it (EPERM)")
            descriptor = syscalls.copy_mount(path)
            try:
                if message.get("idmap"):
                    with contextlib.suppress(OSError):  # a file system without idmapped mounts
                        flag, namespace = syscalls.MOUNT_ATTR_IDMAP, self.user_namespace
                        syscalls.mount_setattr(descriptor, flag, recursive=True, userns=namespace)
                        idmapped = True
                # Who asks waits for the answer; who doesn't take it must not keep us from what we watch.
                answer = {"ok": True, "idmapped": idmapped}
                protocol.send(self.channel, answer, [descriptor], flags=socket.MSG_DONTWAIT)
            finally:
                os.close(descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):  # it died meanwhile; its pidfd says so
                protocol.send(self.channel, protocol.failure(error), flags=socket.MSG_DONTWAIT)
        return True

    def _say(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            protocol.send(self.control, message)

    def clean_up(self) -> None:
        """End the supervisor (the kernel ends everything inside with it) and remove the folders. Twice is no error."""
        if self.cleaned_up:
            return
        self.cleaned_up = True
        if self.supervisor_pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.supervisor_pidfd, signal.SIGKILL)
        # Until it is gone its children may make or freeze folders. But what the v1 freezer holds does not die before it
        # is thawed, which `remove` does: so wait a moment only, and look at the folders again as long as some are left.
        self._wait_for_supervisor(_DEATH_SECONDS)
        left: list[str] = []
        until = time.monotonic() + _REMOVE_SECONDS
        if self.cgroup:
            while (left := self.cgroup.remove(_ROUND_SECONDS)) and time.monotonic() < until:
                pass
        elif self.leaf:
            cgroup_outside.LabCgroup("none", {}, self.leaf).remove()
        if self._wait_for_supervisor(_REMOVE_SECONDS):
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self.supervisor_pidfd, os.WEXITED)
        if self.ids is not None:
            self.ids.release()
        if left:
            self.folder.leave()  # with its note: the next to start or prune removes them
        else:
            self.folder.remove()

    def _wait_for_supervisor(self, seconds: float) -> bool:
        """Whether there was one and it has ended, within the time."""
        if self.supervisor_pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self.supervisor_pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


def _receive(connection: socket.socket) -> dict[str, Any] | None:
    """The next message; None at the end of file, or when the other end died with a message of ours unread."""
    try:
        return protocol.receive(connection)[0]
    except OSError:
        return None


def _candidates() -> list[str]:
    """Every cgroup folder in which `discover` may make a trial folder."""
    found: list[str] = []
    with contextlib.suppress(OSError):
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            mounts = cgroup_mounts.mounts(file.read())
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            own = cgroup_mounts.own_paths(file.read())
        for mount in mounts:
            path = own.get(next(iter(mount.controllers), "") if mount.version == 1 else "", "/")
            found += cgroup_mounts.folders(mount, path)
    return list(dict.fromkeys(found))


def _readable_without_privilege() -> bool:
    """Whether our files can be read by user 0 without root's privileges (in another's home they may not be)."""
    if os.geteuid():
        return True
    # Of the library a module that isn't frozen into the interpreter, whose file may be missing.
    for file in (os.path.abspath(__file__), os.path.abspath(contextlib.__file__)):
        status = os.stat(file)
        if status.st_uid and not status.st_mode & stat.S_IROTH:
            return False
        while file != "/":
            file = os.path.dirname(file)
            status = os.stat(file)
            if status.st_uid and not status.st_mode & stat.S_IXOTH:
                return False
    return True


def _pids_by(delegation: cgroup_discover.Delegation) -> str:
    """What holds the default number of processes of a container: ``cgroup``, ``rlimit`` (of the lab's), ``none``."""
    if delegation.version != "none" and "pids" in delegation.controllers:
        return "cgroup"
    return "rlimit" if process_count.per_namespace(os.uname().release) else "none"


def _host_top() -> dict[str, str]:
    """This machine's top-level entries: a link's target, or ``folder``."""
    top = {}
    with os.scandir("/") as entries:
        for entry in entries:
            if entry.is_symlink():
                top[entry.name] = os.readlink(entry.path)
            elif entry.is_dir():
                top[entry.name] = "folder"
    return top


def main(
    planted: tuple[_socket.socket, int], reader: system_read.Reader, *, port: bool, trouble: OSError | None
) -> None:
    """The rest of the process; `planted`: where the seed waits, and its pid. `port`: the supervisor has one (in a VM).

    `trouble`: why there can be no lab.
    """
    control = socket.socket(fileno=seed.CONTROL)
    config = _receive(control)
    if config is None:
        return
    keeper = None
    title.set_title(f"ctlab keeper {config['name']}")
    try:
        if trouble is not None:
            raise trouble
        keeper = Keeper(control, planted, reader, config, port=port)
        keeper.start()
    except BaseException as error:
        if not isinstance(error, OSError | RuntimeError | CtlabError):
            import traceback

            traceback.print_exc()
        with contextlib.suppress(OSError):
            protocol.send(control, protocol.failure(error))
        if keeper is not None:
            keeper.clean_up()
        sys.exit(1)
    try:
        keeper.watch()
    except Exception as error:
        keeper.clean_up()
        keeper._say({"gone": "died", "why": f"its keeper failed: {describe_bug(error)}"})
        raise
    finally:
        keeper.clean_up()
