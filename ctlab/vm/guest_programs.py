"""What a VM does that is no lab: `echo`, to measure the bare port, and `run`, a program as the guest's root."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from typing import Any

from . import frames, guest_setup

_CHUNK = 1 << 16


def run(port: int, config: dict[str, Any]) -> None:
    """Do what `config` says, on the port, until the host has heard enough; the machine is ended by the caller."""
    if config["program"] == "echo":
        _boot(port, {"at": "ready", "facts": {}})
        _echo(port)
    elif config["program"] == "run":
        _run(port, config)
    else:
        raise RuntimeError(f"no program {config['program']!r}: lab, echo or run")


def _echo(port: int) -> None:
    while True:
        size, kind, number = frames.HEADER.unpack(read(port, frames.HEADER.size))
        body = read(port, size)
        if kind == frames.DATA:
            write(port, frames.pack(frames.DATA, number, body))


def _run(port: int, config: dict[str, Any]) -> None:
    guest_setup.load_all()
    _boot(port, {"at": "ready", "facts": {"kernel_release": os.uname().release}})
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    child = subprocess.Popen(
        config["argv"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        cwd=config.get("cwd", "/"), env={**environment, **config.get("env", {})}, start_new_session=True,
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None
    pidfd = os.pidfd_open(child.pid)
    ended = _pump(port, child.stdin.fileno(), child.stdout.fileno(), pidfd)
    _boot(port, {"at": "ended", "returncode": child.wait() if ended else -1})


def _pump(port: int, stdin: int, stdout: int, pidfd: int) -> bool:
    """Carry the program's streams until it has ended and its output is read; False: the host has gone."""
    poll = select.poll()
    for descriptor in (port, stdout, pidfd):
        poll.register(descriptor, select.POLLIN)
    open_output, ended, until = True, False, 0.0
    while open_output or not ended:
        events = poll.poll(100 if ended else None)
        for descriptor, _ in events:
            if descriptor == port:
                size, kind, _ = frames.HEADER.unpack(read(port, frames.HEADER.size))
                body = read(port, size)
                if kind == frames.DATA and stdin >= 0:
                    stdin = _feed(stdin, body)
                elif kind == frames.END and stdin >= 0:
                    stdin = _shut(stdin)
            elif descriptor == stdout:
                data = os.read(stdout, _CHUNK)
                if data:
                    write(port, frames.pack(frames.DATA, 1, data))
                else:
                    poll.unregister(stdout)
                    open_output = False
            else:
                poll.unregister(pidfd)
                ended, until = True, time.monotonic() + 1.0
        if ended and open_output and not events and time.monotonic() > until:
            return True  # what it left behind holds its output, and says nothing any more
    return True


def _feed(stdin: int, body: bytes) -> int:
    try:
        while body:
            body = body[os.write(stdin, body) :]
    except BrokenPipeError:
        return _shut(stdin)
    return stdin


def _shut(stdin: int) -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), stdin)  # the file object that owns it may be closed later
    return -1


def _boot(port: int, message: dict[str, Any]) -> None:
    message["uptime_seconds"] = round(time.clock_gettime(time.CLOCK_BOOTTIME), 3)
    write(port, frames.pack(frames.BOOT, 0, json.dumps(message).encode()))


def read(port: int, size: int) -> bytes:
    """Exactly `size` bytes. Raises RuntimeError when the host has closed the port."""
    data = bytearray()
    while len(data) < size:
        more = os.read(port, size - len(data))
        if not more:
            raise RuntimeError("the host has closed the port")
        data += more
    return bytes(data)


def write(port: int, data: bytes) -> None:
    """All of `data`."""
    view = memoryview(data)
    while view:
        view = view[os.write(port, view) :]
