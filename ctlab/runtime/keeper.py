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
import sys
import time
from typing import Any

from ..errors import CtlabError, describe_bug, one_line
from ..kernel import cgroup_outside, id_ranges, process_end, syscalls, title
from . import founding, protocol, runtime_folder, seed, system_read
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
        self.channel: socket.socket  # to the supervisor, once there is one
        self.supervisor_pidfd = -1
        self.user_namespace = -1
        self.why = ""  # the supervisor has died, if it could say so

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
            end = process_end.how(self.supervisor_pidfd) if self.wait_for_supervisor(_HOW_SECONDS) else ""
            self.why = f"its supervisor ended{f' ({end})' if end else ''}"
        self._say({"gone": "died", "why": self.why})  # first: the folders of what is frozen may take seconds
        self.clean_up()

    def _owner_says(self) -> bool:
        """The owner's word; True when all is over."""
        message = protocol.received(self.control)
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
        path, refused = message.get("path"), 0
        if type(path) is not str:
            self.why = "its inside asked for a mount of no path, so it was ended"
            return False
        try:
            if not self._is_allowed(path):
                raise OSError(errno.EPERM, f"mount {path}: the owner of the lab hasn't asked for it (EPERM)")
            descriptor = syscalls.copy_mount(path)
            try:
                if message.get("idmap"):
                    try:
                        flag, namespace = syscalls.MOUNT_ATTR_IDMAP, self.user_namespace
                        syscalls.mount_setattr(descriptor, flag, recursive=True, userns=namespace)
                    except OSError as error:  # EINVAL: a file system without id-mapped mounts
                        refused = error.errno or 0
                # Who asks waits for the answer; who doesn't take it must not keep us from what we watch.
                answer = {"ok": True, "refused": refused}
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
        self.wait_for_supervisor(_DEATH_SECONDS)
        left: list[str] = []
        until = time.monotonic() + _REMOVE_SECONDS
        if self.cgroup:
            while (left := self.cgroup.remove(_ROUND_SECONDS)) and time.monotonic() < until:
                pass
        elif self.leaf:
            cgroup_outside.LabCgroup("none", {}, self.leaf).remove()
        if self.wait_for_supervisor(_REMOVE_SECONDS):
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self.supervisor_pidfd, os.WEXITED)
        if self.ids is not None:
            self.ids.release()
        if left:
            self.folder.leave()  # with its note: the next to start or prune removes them
        else:
            self.folder.remove()

    def wait_for_supervisor(self, seconds: float) -> bool:
        """Whether there was one and it has ended, within the time."""
        if self.supervisor_pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self.supervisor_pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


def main(
    planted: tuple[_socket.socket, int], reader: system_read.Reader, *, port: bool, trouble: OSError | None
) -> None:
    """The rest of the process; `planted`: where the seed waits, and its pid. `port`: the supervisor has one (in a VM).

    `trouble`: why there can be no lab.
    """
    control = socket.socket(fileno=seed.CONTROL)
    config = protocol.received(control)
    if config is None:
        return
    keeper = None
    title.set_title(f"ctlab keeper {config['name']}")
    try:
        if trouble is not None:
            raise trouble
        keeper = Keeper(control, planted, reader, config, port=port)
        founding.found(keeper)
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
