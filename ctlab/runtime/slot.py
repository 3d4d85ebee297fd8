"""A container before its program runs: what the first process does between its birth and `exec`.

The supervisor clones this process into fresh namespaces. It makes its root, says so, waits for its
orders, performs them, says so, waits for the word that the node's side is done, and becomes the program.
The status socket is close-on-exec: its end of file is how the supervisor learns that `exec` succeeded.
"""

from __future__ import annotations

import _socket
import marshal
import os
import time

from ..kernel import capabilities, launcher, netlink, seccomp, syscalls, title
from ..kernel.lean import suppress
from ..plan import ops
from ..plan.rootfs import DEFAULT_PATH
from . import inside, orders, program, resources, terminals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from .context import Context, Filter

_SHARED_BYTES = 64 << 20  # of System V segments, all of a container's together


class Birth:
    """What the supervisor hands to a new first process."""

    def __init__(
        self,
        status: _socket.socket,
        operations: list[Any],
        number: int,
        join: Any,
        context: Context,
        filter_: Filter,
        streams: tuple[int, int],
        network_of: int = -1,
        keep: int = 0,
        *,
        awaited: bool,
    ) -> None:
        self.status = status
        self.operations = operations
        self.number = number
        self.join = join
        self.context = context
        self.filter = filter_  # of system calls, which the program is to have
        self.streams = streams
        self.network_of = network_of
        self.awaited = awaited  # somebody waits for it, so nothing is done in advance
        self.keep = keep  # the capabilities that the bounding set is to have


def run(birth: Birth) -> NoReturn:
    """Everything that happens in the child; never returns."""
    try:
        _live(birth)
    except program.ProgramError as error:
        _report(birth.status, {"error": error.kind, "message": str(error), "errno": error.errno})
    except OSError as error:
        _report(
            birth.status, {"error": "KernelError", "message": error.strerror or str(error), "errno": error.errno or 0}
        )
    except BaseException as error:
        _report(birth.status, {"error": "CtlabError", "message": f"{type(error).__name__}: {error}", "errno": 0})
    os._exit(70)


def _report(status: _socket.socket, message: dict[str, Any]) -> None:
    with suppress(OSError):
        orders.send(status, message)


def _live(birth: Birth) -> None:
    if birth.join is not None:
        birth.join()  # single-threaded, in the lab's own ids: the cheap moment to enter the cgroups
    if birth.network_of >= 0:
        syscalls.setns(birth.network_of, syscalls.CLONE_NEWNET)
    syscalls.unshare(syscalls.CLONE_NEWCGROUP)
    syscalls.close_all_but({birth.status.fileno(), *birth.streams, birth.context.launcher.descriptor})
    os.setsid()
    title.set_title("ctlab-init")
    resources.bound_files()
    resources.be_killed_first()
    root = inside.Root(f"/work/{birth.number}")
    unshare, *mounts = birth.operations
    settings = -1
    # What isn't given back by killing who wrote it has a size, as /dev/shm has; older kernels leave that to real root.
    _write("kernel/shmall", str(_SHARED_BYTES // os.sysconf("SC_PAGE_SIZE")))
    if "net" in unshare.kinds:
        set_up_network()
        settings = _interface_settings()
    os.umask(0)  # modes are what they say
    inside.perform(root, mounts)
    os.umask(0o022)
    link = netlink.Netlink()
    if "net" in unshare.kinds:
        inside.configure_network(link, [ops.LinkUp("lo")])
    capabilities.drop_bounding(birth.keep)  # what this process holds itself stays until it becomes the program
    program.default_signals()
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if birth.filter.early:
        seccomp.install(birth.filter.early)
    elif birth.filter.late:
        seccomp.check()  # early, before the node's side is made
    if not birth.awaited:
        _rehearse(root)
    order, mounts_given = orders.receive(birth.status)
    if order is not None and "spare" in order:
        # Both ends are up long before they are used: a link that has just come up drops what is sent through it
        # until the kernel's link watch has run, and a program's first packet would be lost.
        _believe_no_router("eth0", settings)
        if settings >= 0:
            os.close(settings)
            settings = -1
        inside.configure_network(link, [ops.LinkUp("eth0")])
        order, mounts_given = orders.receive(birth.status)
    if order is None:
        os._exit(0)  # a spare that nobody needs any more
    marks = [("inside: orders", time.monotonic_ns())]
    network, places, execute = inside.sort(ops.decode(order["operations"]))
    hardware = {name: (mac, mtu) for name, mac, mtu in order["hardware"]}
    for each in network:
        if isinstance(each, ops.LinkUp):
            _believe_no_router(each.name, settings)
    if settings >= 0:
        os.close(settings)
    if network or hardware:
        inside.configure_network(link, network, hardware)
    link.close()
    marks.append(("inside: network", time.monotonic_ns()))
    given = iter(mounts_given)
    inside.obey(root, places, given)
    marks.append(("inside: files", time.monotonic_ns()))
    body = (order["body"], next(given)) if order["body"] else ("", -1)
    _become(birth, root, execute, marks, body, order["processes"])


def _rehearse(root: inside.Root) -> None:
    """Go through the motions once while nobody waits: a fresh fork copies every page that Python touches first."""
    sample = ops.encode(
        [
            ops.Hostname("ctlab"),
            ops.AddAddress("lo", "127.0.0.2/8"),
            ops.WriteFile("/etc/hostname", "", 0o644),
            ops.Execute([], ["PATH=/", "HOME="], "/", "0", list(capabilities.DEFAULT), False, False, False),
        ]
    )
    hostname, address, file, execute = ops.decode(marshal.loads(marshal.dumps(sample)))
    assert isinstance(address, ops.AddAddress) and isinstance(execute, ops.Execute)
    inside.obey(root, [hostname, file], iter(()))
    netlink.set_link(2, mac="02:42:00:00:00:00", mtu=1500)
    netlink.set_link(2, up=True)
    netlink.new_address(2, address.address)
    netlink.new_route(2, "default", "127.0.0.1")
    capabilities.mask(execute.capabilities)
    program.environment(execute.environment, "/")
    program.resolve_user("0")
    with suppress(program.ProgramError):
        program.find("/", "/")
    program.lacking("/", "/", 0)
    with suppress(OSError):
        seccomp.install(seccomp.NONE)
    for path in program.LOADED_BY_ALL:  # an overlay is slow at the first look only
        with suppress(OSError), open(path, "rb") as opened:
            opened.read(1)


def _become(
    birth: Birth,
    root: inside.Root,
    execute: ops.Execute,
    marks: list[tuple[str, int]],
    body: tuple[str, int],
    processes: int,
) -> None:
    out, err = birth.streams
    if execute.tty:
        masters, (out, err) = terminals.raw_pairs()
        orders.send(birth.status, {"terminals": True}, masters)
        for master in masters:
            os.close(master)
    if execute.read_only_root:
        root.make_root_read_only()
    stdin = body[1] if body[0] == "stdin" else os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    variables = program.environment(execute.environment, "")
    keep = capabilities.mask(execute.capabilities)
    home = program.resolve_user(execute.user)[3]
    variables["HOME"] = variables["HOME"] or home
    path, lacks = "", []
    if execute.argv:  # early: before the node's side is made
        path = program.find(execute.argv[0], variables.get("PATH", DEFAULT_PATH), execute.workdir)
        lacks = program.lacking(path, execute.workdir, keep)
    marks.append(("inside: ready", time.monotonic_ns()))
    _wait_for_go(birth.status, {"configured": True, "path": path, "lacks": lacks, "marks": marks})
    targets = {0: stdin, 1: out, 2: err, launcher.REPORT: birth.status.detach()}
    if not execute.argv:  # nobody will write: who keeps the streams need not
        targets |= {1: stdin, 2: stdin}
    if body[0] == "script":
        targets[launcher.SCRIPT] = body[1]
    program.place(targets)
    birth.status = _socket.socket(fileno=launcher.REPORT)
    program.become(execute.user, keep, single_id=birth.context.single_id, bounded=True)
    child = _with_program() if execute.argv and execute.init else 0
    resources.bound_processes(processes, by_exec=False)  # an init's too: it can be traced, and made to fork
    if child or not execute.argv:
        raise birth.context.launcher.be_init(child, variables, birth.filter.late)
    if birth.filter.late:
        seccomp.install(birth.filter.late)
    script = launcher.SCRIPT in targets
    raise birth.context.launcher.become(execute.argv, path, execute.workdir, variables, script=script)


def _with_program() -> int:
    """The program is to be a child: its pid, 0 in the child; who has it becomes the init.

    It may run before that, and can't look into us: `become` has seen to that.
    """
    try:
        child = os.fork()
    except OSError as error:
        raise program.birth_error(error) from None
    with suppress(OSError):  # here and there, whoever comes first; the program may run already
        os.setpgid(child, 0)
    return child


def _wait_for_go(status: _socket.socket, message: dict[str, Any]) -> None:
    orders.send(status, message)
    answer, _ = orders.receive(status)
    if answer is None:
        os._exit(0)


def set_up_network() -> None:
    """What holds in every network namespace of a lab, before it has an interface.

    Everyone may open ICMP sockets: `ping` then needs no NET_RAW, which can forge packets. (The groups must be mapped;
    with one id only, 0 is.) And no router is believed that announces itself: a neighbour with NET_RAW could.
    """
    if not _write("net/ipv4/ping_group_range", "0 65535"):
        _write("net/ipv4/ping_group_range", "0 0")
    _write("net/ipv6/conf/default/accept_ra", "0")


def _interface_settings() -> int:
    """The folder of what each interface has been told, before /proc/sys becomes read-only; -1 without IPv6."""
    try:
        return os.open("/proc/sys/net/ipv6/conf", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1


def _believe_no_router(interface: str, settings: int) -> None:
    """As `set_up_network` does, for an interface that may have been made before, and isn't up yet."""
    if settings >= 0:
        descriptor = os.open(f"{interface}/accept_ra", os.O_WRONLY | os.O_CLOEXEC, dir_fd=settings)
        os.write(descriptor, b"0")
        os.close(descriptor)


def _write(name: str, value: str) -> bool:
    """Write below /proc/sys; whether the kernel took it."""
    with suppress(OSError):
        descriptor = os.open(f"/proc/sys/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
            return True
        finally:
            os.close(descriptor)
    return False
