"""The printed commands of a node leave behind what the executor leaves behind, on the kernel, both made afresh.

The operations are performed in one new network namespace and typed in another one.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from explain_help import comparable
from kernel_help import patient

from ctlab.kernel import netlink, syscalls
from ctlab.plan import network, ops
from ctlab.plan.render import Commands, detach_commands, endpoint_commands, node_commands
from ctlab.runtime.executor import NodeExecutor
from ctlab.runtime.inside import configure_network
from ctlab.spec import EndpointSpec, NetworkSpec

pytestmark = pytest.mark.kernel
ROOT = Path(__file__).resolve().parents[2]

LONG = "a-network-with-a-long-name"
WORLDS: dict[str, list[tuple[NetworkSpec, EndpointSpec]]] = {
    "ipv4": [
        (
            NetworkSpec("blue", "bridge", ("10.10.0.0/24",), ("10.10.0.1/24",)),
            EndpointSpec("blue", 0, "eth0", "02:42:0a:0a:00:02", ("10.10.0.2/24",), ("10.10.0.1",)),
        )
    ],
    "dual, MTU, two networks, one without a default route": [
        (
            NetworkSpec("blue", "bridge", ("10.10.0.0/24", "fd00:10::/64"), ("10.10.0.1/24", "fd00:10::1/64"), 1400),
            EndpointSpec(
                "blue", 0, "eth0", "02:42:0a:0a:00:02", ("10.10.0.2/24", "fd00:10::2/64"), ("10.10.0.1", "fd00:10::1"),
                1400,
            ),
        ),
        (
            NetworkSpec("green", "bridge", ("10.20.0.0/16",), ("10.20.0.1/16",), 9000, True),
            EndpointSpec("green", 1, "eth1", "02:42:0a:14:00:02", ("10.20.0.2/16",), (), 9000),
        ),
    ],
    "ipv6 with a long name": [
        (
            NetworkSpec(LONG, "bridge", ("fd00:6::/64",), ("fd00:6::1/64",)),
            EndpointSpec(LONG, 0, "eth0", "02:00:00:00:00:06", ("fd00:6::2/64",), ("fd00:6::1",)),
        )
    ],
    "two addresses in all": [
        (
            NetworkSpec("wire", "bridge", ("10.30.0.0/31",), ("10.30.0.0/31",)),
            EndpointSpec("wire", 0, "eth0", "02:42:0a:1e:00:01", ("10.30.0.1/31",), ("10.30.0.0",)),
        )
    ],
}  # fmt: skip

_READ = {
    "links": "ip -j -d link", "addresses": "ip -j -d addr", "routes 4": "ip -j -d route show table all",
    "routes 6": "ip -j -d -6 route show table all", "rules": "ip -j rule", "ports": "bridge -j -d link",
}  # fmt: skip
_SYSCTLS = (
    "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv6/conf/default/accept_dad",
    "net/ipv6/conf/*/addr_gen_mode", "net/ipv6/conf/*/forwarding", "net/ipv4/conf/*/forwarding",
)  # fmt: skip


def enter_user(pid: int) -> list[str]:
    """What runs a command in the user namespace of a process, where that isn't our own."""
    return ["nsenter", "--target", str(pid), "--user", "--preserve-credentials"] if os.geteuid() else []


def enter_network(pid: int) -> list[str]:
    """What runs a command in the network namespace of a process."""
    return [*(enter_user(pid) or ["nsenter", "--target", str(pid)]), "--net"]


def look(pid: int) -> dict[str, Any]:
    """The network state of the namespace of a process, and its sysctls."""
    enter = enter_network(pid)
    state: dict[str, Any] = {}
    for name, command in _READ.items():
        text = subprocess.run([*enter, *command.split()], check=True, capture_output=True, text=True).stdout
        state[name] = sorted((comparable(entry) for entry in json.loads(text or "[]")), key=json.dumps)
    script = "cd /proc/sys; " + "; ".join(f"grep -H . {path}" for path in _SYSCTLS)
    text = subprocess.run([*enter, "sh", "-c", script], check=True, capture_output=True, text=True).stdout
    state["sysctls"] = sorted(text.split())
    return state


def settled(pid: int) -> dict[str, Any]:
    """The state once it no longer changes (an interface's carrier comes a moment after it is up)."""
    before, until = look(pid), time.monotonic() + patient(5)
    while time.monotonic() < until:
        time.sleep(0.03)
        now = look(pid)
        ends = [link for link in now["links"] if link.get("linkinfo", {}).get("info_kind") == "veth"]
        if now == before and all(link["operstate"] == "UP" for link in ends):
            break
        before = now
    return before


def carried(pid: int) -> None:
    """Returns once the kernel has seen each carrier of the namespace.

    It does so a moment after the link is up. What is taken away within this moment leaves other IPv6 routes behind.
    """
    command = [*enter_network(pid), "ip", "-j", "link"]
    until = time.monotonic() + patient(5)
    while time.monotonic() < until:
        links = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        if all(link["operstate"] == "UP" for link in links if link["ifname"] != "lo"):
            return
        time.sleep(0.02)
    raise AssertionError(f"no carrier: {links}")


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[list[int]]:
    """Processes that hold a fresh network namespace each; an ordinary user's in one user namespace."""
    holders: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            first = ["--user", "--map-root-user"] if os.geteuid() and not holders else []
            command = ["unshare", *first, "--net", "sh", "-c", "echo; exec sleep 60"]
            if holders:
                command = [*enter_user(holders[0].pid), *command]
            holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            holders.append(holder)
            assert holder.stdout is not None
            assert holder.stdout.readline(), command
        yield [holder.pid for holder in holders]
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
            assert holder.stdout is not None
            holder.stdout.close()


def performed(node: int, container: int, world: list[tuple[NetworkSpec, EndpointSpec]], disconnect: bool) -> None:
    """In a process of its own: the executor's way. The last line of this file calls it."""
    links = {}
    for pid in (node, container):
        descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        syscalls.setns(descriptor, syscalls.CLONE_NEWNET)
        os.close(descriptor)
        links[pid] = netlink.Netlink()
        if pid == node:
            home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.setns(home, syscalls.CLONE_NEWNET)
    listened: list[str] = []
    executor = NodeExecutor(links[node], listened.append, listened.remove, lambda *_: None)
    executor.perform(network.node())
    configure_network(links[container], [ops.LinkUp("lo")])
    for spec, endpoint in world:
        executor.perform(network.create(spec))
        in_node, inside = network.attach(7, "web", endpoint)
        executor.perform(in_node, peer_pid=container)
        configure_network(links[container], inside)
    if disconnect:
        carried(node)
        executor.perform(network.detach(7, world[-1][1]))
    assert listened == [gateway.partition("/")[0] for spec, _ in world for gateway in spec.gateways]


def typed(container: int, world: list[tuple[NetworkSpec, EndpointSpec]]) -> str:
    """The printed commands for the same, but for the end of it."""
    blocks = [node_commands(network.node()), [f"pid={container}", 'nsenter --target "$pid" --net ip link set lo up']]
    for spec, endpoint in world:
        blocks.append(node_commands(network.create(spec)))
        blocks.append(endpoint_commands("web", *network.attach(7, "web", endpoint)))
    return script(*blocks)


def script(*blocks: list[str]) -> str:
    """What is typed into a shell."""
    return "\n".join(str(Commands(block)) for block in blocks) + "\n"


def type_in(node: int, lines: str) -> None:
    """Runs the lines in the network namespace of a process; not one of them may complain."""
    done = subprocess.run([*enter_network(node), "sh", "-e"], input=lines, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, ""), lines


@pytest.mark.parametrize("disconnect", [False, True], ids=["", "and disconnected"])
@pytest.mark.parametrize("world", WORLDS)
def test_node_operations_leave_the_same_state(world: str, disconnect: bool) -> None:
    with namespaces(4) as (node, container, typed_node, typed_container):
        arguments = json.dumps([node, container, world, disconnect])
        path = os.pathsep.join([str(ROOT), str(Path(__file__).parents[1])])
        command = [*enter_user(node), sys.executable, __file__, arguments]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})
        type_in(typed_node, typed(typed_container, WORLDS[world]))
        if disconnect:
            carried(typed_node)
            type_in(typed_node, script(detach_commands("web", network.detach(7, WORLDS[world][-1][1]))))
        ours = theirs = None
        until = time.monotonic() + patient(3)
        while ours is None or (theirs != ours and time.monotonic() < until):
            # The kernel tells IPv6 of a carrier that is lost up to a second later.
            ours = {"node": settled(node), "container": settled(container)}
            theirs = {"node": settled(typed_node), "container": settled(typed_container)}
        assert theirs == ours
        # And it is no empty world: a comparison of nothing with nothing would be equal as well.
        names = {link["ifname"] for link in ours["node"]["links"]}
        assert {network.bridge_name(spec.name) for spec, _ in WORLDS[world]} <= names
        ends = len(WORLDS[world]) - disconnect
        assert sum(name.startswith("v7.") for name in names) == ends == len(ours["container"]["links"]) - 1


if __name__ == "__main__":
    _node, _container, _world, _disconnect = json.loads(sys.argv[1])
    performed(_node, _container, WORLDS[_world], _disconnect)
