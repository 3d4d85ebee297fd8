"""The guest's first process: makes the root, starts what the host asks for, reaps, ends the machine.

`main` is what the kernel runs (see `command_line`). The port is served by this process until the lab's supervisor
takes it over; what goes wrong before is told there (FATAL) and on the console.

CONFIG's `program` is one of: `lab`; `echo` (each DATA frame comes back: the bare port, to be measured); `run`: `argv`,
`env`, `cwd` as the guest's root, its standard input, output and error DATA frames, with all modules loaded.
"""

from __future__ import annotations

import _socket
import json
import os
import time

from . import frames, guest_setup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PORT, _LAST = 6, 9  # the lab's supervisor finds the port there; its keeper has no other descriptors beyond the last
_LARGEST_READ = 1 << 16
_started = time.clock_gettime(time.CLOCK_BOOTTIME)


def main() -> None:
    """Be PID 1. Returns never: the machine ends."""
    port = -1
    try:
        guest_setup.load_early()
        guest_setup.mount_root()
        port = guest_setup.open_port(frames.PORT_NAME)
        kernel_seconds = guest_setup.kernel_seconds()
        for at, seconds in ((b"init", kernel_seconds or _started), (b"python", _started)):
            now = time.clock_gettime(time.CLOCK_BOOTTIME)  # both are told when there is a port to tell them on
            _send(port, frames.BOOT, b'{"at": "%s", "uptime_seconds": %.3f, "now": %.3f}' % (at, seconds, now))
        guest_setup.settle()
        _live(port)
    except BaseException as error:
        _fatal(port, error)
    finally:
        guest_setup.end()


def _live(port: int) -> None:
    archive = os.memfd_create("ctlab-system", os.MFD_CLOEXEC)
    done, written = os.pipe2(os.O_CLOEXEC)
    control, keeper = _start_keeper(port, (archive, done, written))
    os.close(done)
    config = _config(port)
    if config["program"] == "lab":
        os.write(archive, _frame(port, frames.SYSTEM))  # before the supervisor reads from the port
        os.close(archive)
        os.close(written)
        _be_a_lab(port, control, keeper, config)
        return
    os.close(control)  # it was to be a lab; without its orders it ends
    os.waitpid(keeper, 0)
    from . import guest_programs

    guest_programs.run(port, config)


def _start_keeper(port: int, system: tuple[int, ...]) -> tuple[int, int]:
    """Fork the lab's keeper, from before anything heavy is imported: (our end of its control socket, its pid).

    `system`: what `seed` has as ARCHIVE, DONE, HOLD.
    """
    pairs = [_socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET) for _ in range(3)]
    pid = os.fork()
    if pid == 0:
        try:
            wanted = [theirs.fileno() for _, theirs in pairs]
            # Through numbers above all that are wanted: one of those here may have such a number.
            high = [_duplicate(number, _LAST + 10) for number in (*wanted, port, *system)]
            for number, descriptor in enumerate(high, start=3):
                os.dup2(descriptor, number)
            from ..runtime import seed

            seed.main(port=True)
        except BaseException as error:
            _say(f"the keeper ended: {type(error).__name__}: {error}")
        finally:
            os._exit(1)
    ours = [mine.detach() for mine, _ in pairs]  # those for calls and events only stay open: the port is in their place
    return ours[0], pid


def _duplicate(descriptor: int, least: int) -> int:
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, least)


def _be_a_lab(port: int, control: int, keeper: int, config: dict[str, Any]) -> None:
    """Tell the keeper what to be, the host when it is ready; reap until the keeper has ended."""
    orders = {"id": config["id"], "name": config["name"], "owner": os.getpid(), "interval": config["interval"]}
    orders["storage"] = config["storage"]
    os.write(control, json.dumps({**orders, "any_path": True}).encode())
    said = os.read(control, _LARGEST_READ)
    if b'"error"' in said or not said:
        nothing = b'{"error": "CtlabError", "message": "the keeper in the VM ended before it was ready", "errno": 0}'
        _send(port, frames.FATAL, said or nothing)
        return
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    _send(port, frames.BOOT, b'{"at": "ready", "uptime_seconds": %.3f, "facts": %s}' % (now, said))
    os.close(port)
    while True:
        pid, status = os.wait()
        if pid == keeper:
            _say(f"the lab's keeper ended with status {os.waitstatus_to_exitcode(status)}")
            return


def _config(port: int) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(_frame(port, frames.CONFIG))
    return config


def _frame(port: int, wanted: int) -> bytes:
    size, kind, _ = frames.HEADER.unpack(_read(port, frames.HEADER.size))
    body = _read(port, size)
    if kind != wanted:
        raise RuntimeError(f"the host's frame is of kind {kind}, not {wanted}")
    return body


def _read(port: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = os.read(port, size - len(data))
        if not more:
            raise RuntimeError("the host has closed the port")
        data += more
    return bytes(data)


def _send(port: int, kind: int, body: bytes) -> None:
    data = frames.pack(kind, 0, body)
    while data:
        data = data[os.write(port, data) :]


def _fatal(port: int, error: BaseException) -> None:
    _say(f"{type(error).__name__}: {error}")
    if port >= 0:
        number = error.errno or 0 if isinstance(error, OSError) else 0
        text = f"the VM can't go on: {type(error).__name__}: {error}"
        try:
            _send(port, frames.FATAL, json.dumps({"error": "KernelError", "message": text, "errno": number}).encode())
        except OSError:
            pass


def _say(text: str) -> None:
    """One line on the console, which is what is left of a machine that has ended."""
    os.write(2, f"ctlab: {text}\n".encode(errors="replace"))
