"""The line that opens a shell inside a container from a terminal of the same user.

It enters the lab's user namespace first, which that user owns, and then the container's own namespaces, and gives up
what the container's programs don't have. It isn't in the container's cgroup: its limits don't hold for the shell.
"""

from __future__ import annotations

import os
import shlex
import time
from typing import TYPE_CHECKING

from .. import engines
from ..errors import ProgramNotFound, StateError, Unsupported
from ..kernel.capabilities import DEFAULT
from ..runtime import messages
from ..runtime.program import DEFAULT_PATH

if TYPE_CHECKING:
    from ..container import Container

_NAMESPACES = ("user", "mnt", "uts", "ipc", "net", "pid", "cgroup")
_ENTER = ("--user", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
_ANCHOR = ("sleep", "infinity")
_ANCHOR_SECONDS = 2.0


def shell_line(container: Container) -> str:
    """The line to paste. Raises StateError for a container that doesn't run, Unsupported for one without a shell.

    Unsupported also for one in a VM: its processes are the guest's, and the same numbers here are somebody else's.
    """
    container._alive()
    if engines.vm_facts(container.lab) is not None:
        raise Unsupported(
            f"container {container.name} is in a VM, into whose namespaces no terminal of this machine leads: "
            f"%container exec {container.name} -- COMMAND, or %%container exec {container.name} with a script below"
        )
    if container.state != "running":
        raise StateError(f"container {container.name} isn't running, it is {container.state}")
    shell = next((path for path in ("/bin/bash", "/bin/sh") if _has(container, path)), None)
    if shell is None:
        raise Unsupported(f"there is no shell in container {container.name}: neither /bin/bash nor /bin/sh")
    words = ["nsenter", "--target", str(_door(container)), *_ENTER]
    if container.lab._client.facts["single_id"]:
        words.append("--preserve-credentials")  # the one id is root inside already, and no other can be taken
    spec = container.spec
    words += ["env", "-i", f"PATH={DEFAULT_PATH}", "HOME=/root", f"HOSTNAME={spec.hostname}"]
    line = f'{shlex.join(words)} TERM="$TERM"'
    if _has(container, "/usr/bin/setpriv"):
        capabilities = DEFAULT if spec.capabilities is None else spec.capabilities
        kept = ",".join(f"+{name.lower()}" for name in capabilities)
        line += f" setpriv --no-new-privs --inh-caps=-all --bounding-set=-all{',' + kept if kept else ''}"
    return f"{line} {shell}"


def _has(container: Container, path: str) -> bool:
    """Whether there is such a file."""
    answer = container.lab._call(messages.Kind(container.id, path), messages.Lies).message
    return bool(answer.kind == "file")


def _door(container: Container) -> int:
    """The number, out here, of a process of the container whose namespaces a terminal of this user may open.

    The init of ctlab's own hides itself, so where it is alone a `sleep` is started beside it.
    """
    namespace = int(container.inspect()["namespaces"]["pid"])
    found = _open_process(namespace)
    if found is not None:
        return found
    try:
        container.exec(list(_ANCHOR), detach=True)
    except ProgramNotFound as error:
        raise Unsupported(f"a terminal can't enter {container.name}: {error}") from None
    until = time.monotonic() + _ANCHOR_SECONDS
    while time.monotonic() < until:
        found = _open_process(namespace)
        if found is not None:
            return found
        time.sleep(0.01)
    raise Unsupported(f"no process of container {container.name} lets its namespaces be opened from here")


def _open_process(namespace: int) -> int | None:
    for name in sorted((name for name in os.listdir("/proc") if name.isdigit()), key=int):
        try:
            if os.stat(f"/proc/{name}/ns/pid").st_ino == namespace:
                for kind in _NAMESPACES:
                    os.stat(f"/proc/{name}/ns/{kind}")
                return int(name)
        except OSError:
            continue
    return None
