"""Verbs that look: namespaces and processes of a container, the rings of counters, what the lab itself costs."""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

from ..kernel import netlink, syscalls
from . import changes, messages, storage
from .calls import Call, Refused
from .record import Record

if TYPE_CHECKING:
    from .supervisor import Supervisor

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
DUMP_LARGEST_BYTES = 16 << 20  # in hex it has to fit into one frame of a VM's port
TOP_MOST = 10_000  # processes that one table shows
COMMAND_BYTES = 4096  # of a process's command line; of all together as many as of these:
_COMMANDS_FULL = 128
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_NLM_F_DUMP, _NLMSG_DONE = 0x300, 3
_NAMESPACES = ("mnt", "pid", "net", "uts", "ipc", "cgroup", "user")


def _status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def processes(record: Record) -> list[messages.Process]:
    """The processes of a container, found by their PID namespace. Refused where they are more than `TOP_MOST`.

    What a command line says and how long it is, is up to the container: it is cut off.
    """
    if record.slot is None:
        return []
    found: list[messages.Process] = []
    inside: dict[int, int] = {}  # a process's number here -> in the container
    pids = members(record)
    if len(pids) > TOP_MOST:
        raise Refused("StateError", f"container {record.name}: {len(pids)} processes, top shows {TOP_MOST} at most")
    most = min(COMMAND_BYTES, COMMAND_BYTES * _COMMANDS_FULL // max(len(pids), 1))
    for entry in pids:
        try:
            status = _status(entry)
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
            command = _command(entry, most)
        except OSError:
            continue  # it has just ended
        inside[entry] = int(status["NSpid"].split()[-1])
        found.append(
            messages.Process(
                pid=inside[entry],
                parent=int(fields[1]),
                user=int(status["Uid"].split()[0]),
                state=fields[0],
                cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
                memory_bytes=int(fields[21]) * _PAGE,
                command=command or f"[{status['Name']}]",
            )
        )
    # 0: it is outside, as the first process's is, and a program's that was exec'ed into it
    return sorted(process._replace(parent=inside.get(process.parent, 0)) for process in found)


def _command(pid: int, most: int) -> str:
    """A process's command line, of at most so many bytes; one that goes on ends with ``…``."""
    descriptor = os.open(f"/proc/{pid}/cmdline", os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(descriptor, most + 1)
    finally:
        os.close(descriptor)
    words = data[:most].rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    return f"{words}…" if len(data) > most else words


def members(record: Record) -> list[int]:
    """The processes of a container: those in its cgroup, else those of its PID namespace that can be asked."""
    assert record.slot is not None
    if record.slot.cgroup is not None:
        return record.slot.cgroup.pids()
    found = [record.pid]
    try:
        namespace = os.stat(f"/proc/{record.pid}/ns/pid").st_ino
    except OSError:
        return found
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != record.pid:
            try:
                if os.stat(f"/proc/{entry}/ns/pid").st_ino == namespace:
                    found.append(int(entry))
            except OSError:
                continue
    return found


def top(supervisor: Supervisor, call: Call) -> None:
    """The processes of a container."""
    call.reply(messages.Table(processes(supervisor.record(call.message.id))))


def facts(supervisor: Supervisor, call: Call) -> None:
    """What the kernel says of a container now: namespace ids, memory used, who is in it."""
    record = supervisor.record(call.message.id)
    namespaces: dict[str, int] = {}
    usage = folder_id = None
    if record.slot is not None:
        for kind in _NAMESPACES:
            try:
                namespaces[kind] = os.stat(f"/proc/{record.pid}/ns/{kind}").st_ino
            except OSError:
                continue
        folder = record.slot.cgroup
        if folder is not None:
            usage, folder_id = folder.usage_bytes(), folder.id
    call.reply(messages.Known(record.state, record.returncode, namespaces, usage, folder_id))


def rings(supervisor: Supervisor, call: Call) -> None:
    """The rings of counters, to be mapped by the owner."""
    services = supervisor.services
    call.reply(messages.Counters(), [services.container_ring, services.endpoint_ring])


def sampler(supervisor: Supervisor, call: Call) -> None:
    """An order for the sampler: interval, pause, resume, now."""
    if call.message.order.get("do") == "now":
        supervisor.catch_up()  # what has ended is to have its last row
        supervisor.services.sample_now(lambda: call.reply(messages.Ok()))
        return
    supervisor.services.sampler_control(call.message.order)
    call.reply(messages.Ok())


def costs(supervisor: Supervisor, call: Call) -> None:
    """Resident memory (bytes) and CPU time (seconds) of the lab's own processes; its storage."""
    answer: dict[str, dict[str, float]] = {}
    for name, pid in {"supervisor": os.getpid(), **supervisor.services.pids}.items():
        try:
            status = _status(pid)
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        answer[name] = {
            "resident_bytes": int(status["VmRSS"].split()[0]) * 1024,
            "cpu_seconds": (int(fields[11]) + int(fields[12])) / _TICKS,
        }
    call.reply(messages.Used(answer, storage.state()))


def dump(supervisor: Supervisor, call: Call) -> None:
    """A table of the kernel's, as its own messages in hex: of a container's network namespace, or of the node's."""
    container_id = call.message.id
    request = bytes.fromhex(call.message.request)
    if container_id is None:
        supervisor.settle_names()
        found = _dump(request)
    else:
        record = supervisor.record(container_id)
        if record.slot is None or record.state == "starting":  # its own network may not be there yet
            raise Refused("StateError", f"container {record.name} isn't running")
        changes.enter_network(record)
        try:
            found = _dump(request)
        finally:
            syscalls.setns(supervisor.own_network, syscalls.CLONE_NEWNET)
    call.reply(messages.Dumped(found.hex()))


def _dump(request: bytes) -> bytes:
    """What a netlink dump request answers here, up to its DONE or ERROR message, which is the last one.

    Never waits: the kernel writes each part of a dump when the one before is read. Raises OSError: EINVAL for a
    request that is no dump, EMSGSIZE for a table of more than `DUMP_LARGEST_BYTES`.
    """
    if len(request) < 16 or _HEADER.unpack_from(request)[2] & _NLM_F_DUMP != _NLM_F_DUMP:
        raise OSError(errno.EINVAL, "only netlink dumps can be asked for")
    found = bytearray()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock:
        sock.send(request)
        while True:
            data = sock.recv(1 << 16, socket.MSG_DONTWAIT)  # the kernel fills at most 32 KiB
            found += data + bytes(-len(data) % 4)
            if len(found) > DUMP_LARGEST_BYTES:
                raise OSError(errno.EMSGSIZE, f"the table has more than {DUMP_LARGEST_BYTES >> 20} MiB")
            offset = 0
            while offset + 16 <= len(data):
                length, kind, *_ = _HEADER.unpack_from(data, offset)
                if kind in (_NLMSG_DONE, netlink.NLMSG_ERROR):
                    return bytes(found)
                offset += (length + 3) & ~3


def listening(supervisor: Supervisor, call: Call) -> None:
    """The TCP ports that something in a container listens on."""
    record = supervisor.record(call.message.id)
    ports: set[int] = set()
    for table in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{record.pid}/net/{table}", encoding="ascii") as file:
                next(file)
                for line in file:
                    fields = line.split()
                    if fields[3] == "0A":  # TCP_LISTEN
                        ports.add(int(fields[1].rpartition(":")[2], 16))
        except OSError:
            continue
    call.reply(messages.Ports(sorted(ports)))


def pidfds(supervisor: Supervisor, call: Call) -> None:
    """The first processes of containers, as descriptors: a pid of ours would mean nothing to the owner."""
    found = [record for record in map(supervisor.records.get, call.message.ids) if record is not None]
    found = [record for record in found if record.pidfd >= 0]
    call.reply(messages.Firsts([record.id for record in found], []), [record.pidfd for record in found])


VERBS = {
    messages.FirstProcesses: pidfds,
    messages.Listening: listening,
    messages.Dump: dump,
    messages.Top: top,
    messages.Facts: facts,
    messages.Rings: rings,
    messages.Sampler: sampler,
    messages.Costs: costs,
}
