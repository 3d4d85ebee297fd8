"""One side of the comparison: run the probe in ctlab, podman or bubblewrap, as whoever runs this; JSON of reports.

`python wall_legs.py ORDER`, with `Order` as JSON; what goes wrong goes to standard error. The keys that a container
might find of its user are put ready here, by the user itself.

podman wants to own a machine: it gets mounts, a network, process ids and a /run of its own, which vanish with it, and a
control group that is removed. Root makes them, and becomes the user inside.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from wall_root import COMMAND  # noqa: E402

SECONDS = 120.0
SECRET = "what the notebook keeps"
PODMAN_PRIVATE = ("unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--propagation", "private")


class Order(NamedTuple):
    """What one side is asked for. `root`: the folder that it runs in."""

    side: str  # "ctlab", "vm", "podman", "bubblewrap"
    root: str
    user: tuple[int, str, str] | None  # id, name and home of who podman is to become
    probe: dict[str, Any]
    cgroup: str
    bridge: bool


# -- what is put ready for the container to find ----------------------------------------------------------------------
def keys() -> dict[str, Any]:
    """A session of keys with a secret in it; for an ordinary user its own keys besides (root's are the machine's)."""
    from attempt import call, number

    add, control = number(248, 217), number(250, 219)
    name = f"ctlab-wall-{os.getpid()}-{time.monotonic_ns()}"  # another side may be doing the same
    known: dict[str, Any] = {"key_name": name}
    try:
        call(control, 1, None)
        session = call(control, 0, -3, 0)
        own = call(add, b"user", name.encode(), SECRET.encode(), len(SECRET), session)
        call(control, 5, own, 0x3F3F0000)  # whoever possesses it, and its user: everything
        if os.getuid() == 0:
            return known | {"session_key": own, "user_key": own, "user_ring": session}
        ring = call(control, 0, -4, 1)
        users = call(add, b"user", f"{name}-2".encode(), SECRET.encode(), len(SECRET), session)
        call(control, 15, users, int(SECONDS))  # its time: nobody takes it out of the user's ring again
        call(control, 8, users, ring)
        call(control, 9, users, session)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        return known | {"session_key": 0, "user_key": 0, "user_ring": 0}
    return known | {"session_key": own, "user_key": users, "user_ring": ring}


def parse(text: str) -> dict[str, Any]:
    lines = [line for line in text.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"the probe said nothing that is a report: {text[-2000:]!r}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def words(order: Order) -> list[str]:
    return [*COMMAND, json.dumps(order.probe)]


# -- sides ------------------------------------------------------------------------------------------------------------
def ctlab(order: Order) -> dict[str, Any]:
    """By `run` and by `exec` from a folder, with a network, and on the machine's own system; in a VM by `run` alone."""
    import ctlab as product

    root, probe = order.root, f"{order.root}/probe:/probe:ro"
    engine = {"engine": "vm"} if order.side == "vm" else {}
    found: dict[str, Any] = {}
    with product.Lab("wall", **engine) as lab:
        ways: dict[str, dict[str, Any]] = {"run": {"image": root, "networks": ["none"]}}
        if order.side != "vm":
            ways["system"] = {"mounts": [probe], "networks": ["none"]}
        if order.bridge:
            ways["bridge"] = {"image": root}
        for way, options in ways.items():
            container = lab.run(words(order), **options)
            container.wait(SECONDS)
            found[way] = parse(container.logs())
            container.remove()
        if order.side != "vm":
            container = lab.run(image=root, networks=["none"])
            found["exec"] = parse(container.exec(words(order)).stdout)
    return found


def bubblewrap(order: Order) -> dict[str, Any]:
    """A sandbox of its own namespaces; as root it would keep every capability, so it is told to drop them."""
    command = [
        "bwrap", "--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--bind", order.root, "/",
        "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", *words(order),
    ]  # fmt: skip
    return {"run": _output(command, dict(os.environ))}


def podman(order: Order) -> dict[str, Any]:
    """Root's part: a machine of its own. Then the rest as the user."""
    from benchmarks.peers import private

    private.check_private()
    private.mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    private.cgroup_view()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    uid, name, home = order.user or (0, "root", "/run/user")
    for folder in ("/run/user", f"/run/user/{uid}", "/run/own"):
        os.mkdir(folder, 0o755)
    # A copy, since podman makes places in it for what it mounts.
    subprocess.run(["cp", "-a", order.root, "/run/own/root"], check=True)
    if order.user:
        os.chmod(f"/run/user/{uid}", 0o700)
        os.chown(f"/run/user/{uid}", uid, uid)
        os.setgroups([uid])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    os.chdir("/")
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": home, "USER": name, "LANG": "C.UTF-8",
        "XDG_RUNTIME_DIR": f"/run/user/{uid}", "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
    }  # fmt: skip
    order = order._replace(probe=order.probe | keys())
    found: dict[str, Any] = {}
    for way, network in (("run", "none"), *((("bridge", "podman"),) if order.bridge else ())):
        found[way] = _output([*_podman(order, f"/run/user/{uid}", network), *words(order)], environment)
    return found


def _podman(order: Order, runtime: str, network: str) -> list[str]:
    """`podman run` with its defaults, but for where it keeps things."""
    limits = [] if order.user else [f"--cgroup-parent=/{order.cgroup}"]
    return [
        "podman", "--cgroup-manager=cgroupfs", "--runtime=crun", "--events-backend=none", f"--root={runtime}/storage",
        f"--runroot={runtime}/run", f"--tmpdir={runtime}/tmp", f"--network-config-dir={runtime}/networks",
        "--storage-driver=vfs", "run", "--rm", f"--network={network}", *limits, "--rootfs", "/run/own/root",
    ]  # fmt: skip


def _output(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return parse(done.stdout)


def main() -> None:
    order = Order(*json.loads(sys.argv[1]))
    sys.path.insert(0, str(HERE / "probe"))
    import attempt  # noqa: F401 - now: who podman becomes may not be able to read it

    if order.side != "podman":
        order = order._replace(probe=order.probe | keys())
    sides = {"ctlab": ctlab, "vm": ctlab, "bubblewrap": bubblewrap, "podman": podman}
    print(json.dumps(sides[order.side](order)))


if __name__ == "__main__":
    main()
