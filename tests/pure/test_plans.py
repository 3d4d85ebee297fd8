"""Plans as commands against golden files, and what holds for every one of them.

To write the golden files anew: ``UPDATE_GOLDEN=1 pytest tests/pure/test_plans.py``, then read the difference.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctlab.kernel.capabilities import DEFAULT
from ctlab.plan import limits as limits_plan
from ctlab.plan import network, ops, render_network, render_root, rootfs, start
from ctlab.plan.limits import Limits
from ctlab.plan.render import (
    Commands,
    container_commands,
    detach_commands,
    endpoint_commands,
    network_commands,
    node_commands,
)
from ctlab.plan.render_network import inside_operation, node_operation
from ctlab.plan.render_process import enter_and_execute
from ctlab.plan.render_root import root_operation
from ctlab.runtime import executor, inside
from ctlab.spec import ContainerSpec, EndpointSpec, MountSpec, NetworkSpec

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "plans"
# A merged-/usr machine, a machine before that, and one without /opt.
MERGED = {
    "bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "usr": "folder", "etc": "folder",
    "opt": "folder", "home": "folder",
}  # fmt: skip
SPLIT = {"bin": "folder", "sbin": "folder", "lib": "folder", "usr": "folder", "etc": "folder"}
LONG = "a-network-with-a-name-of-sixty-three-characters-which-is-allowed"[:63]
FOREIGN = "Bürö/网络"

BLUE = EndpointSpec(
    "blue", 0, "eth0", "02:42:0a:0a:00:02", ("10.10.0.2/24",), ("10.10.0.1",), 1500, ("10.10.0.1",), ("10.10.0.1",)
)
_GREENS = ("10.20.0.1", "fd00:20::1")
GREEN = EndpointSpec(
    "green", 1, "eth1", "02:42:0a:14:00:02", ("10.20.0.2/24", "fd00:20::2/64"), (), 1400, _GREENS, _GREENS
)
SIX = EndpointSpec(
    LONG, 0, "eth0", "02:00:00:00:00:06", ("fd00:6::2/64",), ("fd00:6::1",), 1500, ("fd00:6::1",), ("fd00:6::1",)
)
NARROW = EndpointSpec(
    "wire", 0, "eth0", "02:42:0a:1e:00:01", ("10.30.0.1/31",), ("10.30.0.0",), 1500, ("10.30.0.0",), ("10.30.0.0",)
)


def container(
    *command: str,
    name: str = "web",
    image: str = "system",
    top: dict[str, str] | None = None,
    endpoints: tuple[EndpointSpec, ...] = (),
    limits: Limits | None = None,
    version: str = "v1",
    network_of: str | None = None,
    own_network: bool = True,
    **options: Any,
) -> list[str]:
    """The script of a container as the handles ask for it. `options`: of its spec."""
    options = {"hostname": "web", "capabilities": DEFAULT} | options
    spec = ContainerSpec(name, **({"command": command or ("sleep", "60")} | options))
    prepare = rootfs.prepare(image, MERGED if top is None else top)
    if not own_network:
        prepare = [ops.Unshare([kind for kind in rootfs.NAMESPACES if kind != "net"]), *prepare[1:]]
    writes = limits_plan.plan(limits, version) if limits else []
    base = "/sys/fs/cgroup"
    paths = {w.controller: f"{base}/{name}" if version == "v2" else f"{base}/{w.controller}/{name}" for w in writes}
    in_node, inside = start.in_node(name, 12, endpoints), start.inside(spec, 12, endpoints)
    return container_commands(name, prepare, in_node, inside, writes, paths, network_of=network_of)


def execute(*argv: str) -> ops.Execute:
    return ops.Execute(list(argv), ["PATH=/bin"], "/", "0", list(DEFAULT), False, False, False)


ALL_LIMITS = Limits(cpus=0.5, cpu_shares=512, cpuset_cpus="0-1", memory_bytes=64 << 20, pids_limit=10)
CASES: dict[str, Callable[[], list[str]]] = {
    "network-ipv4": lambda: network_commands(NetworkSpec("blue", "bridge", ("10.10.0.0/24",), ("10.10.0.1/24",))),
    "network-ipv6-long-name": lambda: network_commands(
        NetworkSpec(LONG, "bridge", ("fd00:6::/64",), ("fd00:6::1/64",))
    ),
    "network-dual-mtu-internal": lambda: network_commands(
        NetworkSpec("green", "bridge", ("10.20.0.0/24", "fd00:20::/64"), ("10.20.0.1/24", "fd00:20::1/64"), 1400, True)
    ),
    "network-foreign-name": lambda: network_commands(
        NetworkSpec(FOREIGN, "bridge", ("10.30.0.0/31",), ("10.30.0.0/31",))
    ),
    "network-none": lambda: network_commands(NetworkSpec("none", "none")),
    "node": lambda: node_commands(network.node()),
    "connect": lambda: endpoint_commands("web", *network.attach(12, "web", GREEN)),
    "disconnect": lambda: detach_commands("web", network.detach(12, GREEN)),
    "disconnect-moves-the-default-route": lambda: detach_commands(
        "web", network.detach(12, BLUE), start.detached((BLUE, GREEN), BLUE)[1]
    ),
    "container-on-a-network": lambda: container(endpoints=(BLUE,)),
    "container-on-two-networks": lambda: container(endpoints=(BLUE, GREEN)),
    "container-ipv6-long-name": lambda: container(name="c-" + LONG[:60], endpoints=(SIX,)),
    "container-foreign-name": lambda: container(name=FOREIGN, endpoints=(NARROW,)),
    "container-without-network": lambda: container(command=()),
    "container-on-the-nodes-network": lambda: container(own_network=False, network_mode="host"),
    "container-on-anothers-network": lambda: container(own_network=False, network_of="db"),
    "container-limits-v1": lambda: container(limits=ALL_LIMITS, version="v1"),
    "container-limits-v2": lambda: container(limits=ALL_LIMITS, version="v2"),
    "container-mounts": lambda: container(
        "cat", "/etc/a file", read_only=True, workdir="/srv/www",
        mounts=(
            MountSpec("/srv/pages", "/srv/www"), MountSpec("/home/ann/it's a file.txt", "/etc/a file", True),
            MountSpec("/tmp/x", "/-x", True), MountSpec("/", "/host", True),
        ),
    ),
    "container-split-usr": lambda: container(
        "true", top=SPLIT, endpoints=(BLUE,), mounts=(MountSpec("/srv/opt", "/opt"),), read_only=True
    ),
    "container-user": lambda: container("id", user="nobody", capabilities=("CHOWN", "SETUID")),
    "container-user-and-group": lambda: container(
        "id", user="1000:1000", env=(("PATH", "/bin"), ("HOME", "/tmp"), ("A", "b c"), ("Ü", "$x `y`"))
    ),
    "container-init-and-terminal": lambda: container(
        "sh", "-c", "echo 'a'\nEND\necho \"$HOME\"", init=True, tty=True, user="ann"
    ),
    "image-folder": lambda: container("/bin/sh", image="/images/alpine", endpoints=(BLUE,), workdir="/srv"),
    "image-archive": lambda: container("/bin/sh", image="/srv/my images/x.tar.gz", init=True),
    "image-folder-odd-path": lambda: container("/bin/sh", image="/srv/a,b:c", capabilities=()),
    "image-folder-user": lambda: container(
        "/bin/id", image="/images/alpine", user="daemon", limits=Limits(pids_limit=1), version="v2"
    ),
    "image-scratch": lambda: container(image="scratch", command=()),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_text_is_the_golden_one(case: str) -> None:
    text = str(Commands(CASES[case]())) + "\n"
    path = GOLDEN / f"{case}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_every_golden_file_has_its_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_a_shell_can_parse_it_and_its_here_document(case: str) -> None:
    text = str(Commands(CASES[case]()))
    subprocess.run(["sh", "-n"], input=text, text=True, check=True, capture_output=True)
    document = re.search(r"<< '(\w+)' &\n(.*)\n\1$", text, re.DOTALL)
    assert (document is not None) == case.startswith(("container-", "image-"))
    if document:
        subprocess.run(["sh", "-n"], input=document[2], text=True, check=True, capture_output=True)
        assert f"\n{document[1]}\n" not in document[2], "the document would end early"


@pytest.mark.parametrize("case", CASES)
def test_the_first_line_says_where_to_type_it(case: str) -> None:
    first = CASES[case]()[0]
    assert first.startswith("# ")
    assert "node" in first or case == "network-none"


def test_plans_are_the_same_twice_and_know_no_machine() -> None:
    for case, make in CASES.items():
        assert make() == make(), case


def test_commands_are_shown_as_they_are() -> None:
    commands = Commands(["# a", "", "ip link"])
    assert repr(commands) == str(commands) == "# a\n\nip link"
    assert commands.lines == ["# a", "", "ip link"]
    assert Commands("").lines == []
    assert Commands("x") == "x" and isinstance(Commands("x"), str)


def operation_commands(operation: Any) -> list[str]:
    """The commands of one operation, wherever it is performed."""
    if type(operation) is ops.Execute:
        return [line for line in enter_and_execute(operation, own_tools=True) if line]
    return node_operation(operation) if type(operation) in ops.IN_NODE else root_operation(operation)


words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(st.lists(words, min_size=1, max_size=4), words)
def test_words_reach_the_program_as_they_were_given(argv: list[str], value: str) -> None:
    """The last line is read back by a POSIX splitter: nothing that was given is a shell's word or lost."""
    lines = container("prog", *argv, env=(("A", value), ("HOME", "/")))
    body = "\n".join(lines)
    line = body[body.index("\nexec env") :]
    found = shlex.split(line[: line.rindex(" < /dev/null")])
    assert found[found.index("--") + 1 :] == ["prog", *argv]
    assert f"A={value}" in found


@given(st.sampled_from(["MakeBridge", "AddAddress", "Bind", "Hostname", "DeleteLink"]), words)
def test_odd_words_of_any_operation_stay_one_word(kind: str, word: str) -> None:
    operation: ops.Operation
    if kind == "MakeBridge":
        operation = ops.MakeBridge(word, "02:00:00:00:00:01", 1500)
    elif kind == "AddAddress":
        operation = ops.AddAddress(word, "10.0.0.1/24")
    elif kind == "Bind":
        operation = ops.Bind("/" + word, "/srv/x", True)
    elif kind == "Hostname":
        operation = ops.Hostname(word)
    else:
        operation = ops.DeleteLink(word)
    text = "\n".join(operation_commands(operation))
    found = shlex.split(text.replace(";", " ; "))
    wanted = "/" + word if kind == "Bind" else word
    assert wanted.replace(";", " ; ") in found


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40))
def test_a_file_is_written_as_it_was_given(content: str) -> None:
    lines = operation_commands(ops.WriteFile("/etc/a file", content, 0o600))
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(f"{folder}/etc")
        subprocess.run(["sh", "-e", "-c", "\n".join(lines)], cwd=folder, check=True)
        path = Path(folder, "etc/a file")
        assert path.read_bytes() == content.encode()
        assert path.stat().st_mode & 0o777 == 0o600


def test_each_operation_is_registered_and_has_commands_or_a_comment() -> None:
    net = NetworkSpec("b", "bridge", ("10.0.0.0/24",), ("10.0.0.1/24",))
    everything: list[Any] = [
        *network.node(), *network.create(net), *network.remove(net),
        *network.attach(1, "web", GREEN)[0], *network.attach(1, "web", BLUE)[1], *network.detach(1, BLUE),
        *rootfs.prepare("system", MERGED)[1:], *rootfs.prepare("scratch", {})[1:],
        *rootfs.prepare("/images/x", {})[1:], ops.Bind("/a", "/b", True), ops.Hostname("x"), execute("true"),
    ]  # fmt: skip
    assert {type(one) for one in everything} | {ops.Unshare} == set(ops.INVERSES)
    for operation in everything:
        lines = operation_commands(operation)
        assert lines and all(lines), operation
        subprocess.run(["sh", "-n"], input="\n".join(lines), text=True, check=True, capture_output=True)


class Elsewhere(NamedTuple):
    """An operation that nobody knows."""

    place: str


ELSEWHERE: Any = Elsewhere("there")


def script(root: list[Any], orders: list[Any], namespaces: list[str] = rootfs.NAMESPACES) -> list[str]:
    """A container whose root and whose orders have something besides."""
    prepare = [ops.Unshare(namespaces), *rootfs.scratch(), *root]
    return container_commands("web", prepare, [], [*orders, execute("true")], [], {})


REFUSALS: dict[str, Callable[[], object]] = {
    "node performs": lambda: executor.NodeExecutor(None, None, None, None).perform([ELSEWHERE]),  # type: ignore[arg-type]
    "root performs": lambda: inside.perform(inside.Root("/nowhere"), [ELSEWHERE]),
    "network performs": lambda: inside.configure_network(None, [ELSEWHERE]),  # type: ignore[arg-type]
    "orders": lambda: inside.sort([ELSEWHERE, execute("true")]),
    "no program": lambda: inside.sort([ops.Hostname("x"), ELSEWHERE]),
    "a bridge in a container": lambda: inside.sort([ops.MakeBridge("b", "", 1500), execute("true")]),
    "undo": lambda: ops.inverse([ELSEWHERE]),
    "arrives": lambda: ops.decode([["Elsewhere", "there"]]),
    "node renders": lambda: node_operation(ELSEWHERE),
    "network renders": lambda: inside_operation(ELSEWHERE),
    "root renders": lambda: root_operation(ELSEWHERE),
    "container renders": lambda: script([], [ELSEWHERE]),
    "root of a container renders": lambda: script([ELSEWHERE], []),
    "no network renders": lambda: script([], [ops.LinkUp("eth0")], ["mount"]),
}


@pytest.mark.parametrize("who", REFUSALS)
def test_an_unknown_operation_is_refused(who: str) -> None:
    with pytest.raises(ops.UnknownOperation):
        REFUSALS[who]()


def test_who_performs_and_who_renders_know_the_same() -> None:
    assert set(executor._PERFORM) == set(render_network._NODE) == set(ops.IN_NODE)
    assert set(inside._MESSAGES) == set(render_network._INSIDE) == set(ops.IN_NETWORK)
    assert set(inside._PERFORM) | {ops.Bind} == set(render_root._COMMANDS) == {*ops.MAKING_ROOT, *ops.IN_ROOT}
    placed = {*ops.IN_NODE, *ops.IN_NETWORK, *ops.MAKING_ROOT, *ops.IN_ROOT}
    assert placed | {ops.Unshare, ops.Execute} == set(ops.INVERSES)


def test_what_takes_a_plan_back_comes_newest_first() -> None:
    net = NetworkSpec("b", "bridge", ("10.0.0.0/24",), ("10.0.0.1/24", "fd00::1/64"))
    assert network.remove(net) == [
        ops.StopListening("fd00::1"), ops.StopListening("10.0.0.1"), ops.DeleteLink("br-b"),
    ]  # fmt: skip
    assert ops.inverse(network.remove(net)) == [ops.Listen("10.0.0.1"), ops.Listen("fd00::1")]
    assert ops.inverse(rootfs.prepare("system", MERGED)) == []


def test_a_container_without_its_program_is_refused() -> None:
    with pytest.raises(TypeError, match=r"the end of a container.s orders takes no operation Hostname"):
        container_commands("web", rootfs.prepare("scratch", {}), [], [ops.Hostname("web")], [], {})


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (ops.WriteFile("/etc/hosts", "what it holds", 0o644), "write file /etc/hosts"),
        (ops.WriteSysctl("net/ipv4/ip_forward", "1"), "write sysctl net/ipv4/ip_forward"),
        (ops.AddAddress("eth0", "10.0.0.2/24"), "add address eth0 10.0.0.2/24"),
        (ops.Folder("/tmp", 0o1777), "folder /tmp"),
        (ops.PivotRoot(), "pivot root"),
        (ops.RootOverlay("0123456789ab"), "root overlay"),
        ("interface hardware address", "interface hardware address"),
    ],
)
def test_what_failed_is_said_in_words(operation: Any, said: str) -> None:
    assert ops.failure(operation, errno.EACCES) == f"{said}: EACCES (Permission denied)"
