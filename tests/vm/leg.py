"""The VM leg: boots machines, runs the tests of the kernel in them, keeps the reports. ``python tests/vm/leg.py``.

One process for each machine (a `Machine` belongs to a process with one thread), and one that starts them, passes on
what they say and sees to it that they end: a machine that dies, hangs or takes too long fails the leg with its
console's last lines. Reports go to out/legs/vm-MACHINE-NUMBER.json. Files in which a test failed, and what a machine
that died didn't report, are run once more in a fresh machine (`leg_twice.py`).

With files of tests/kernel as arguments, only those are run, as root (`--user`: the ordinary users' share too).
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REPORTS = ROOT / "out/legs"
# For the leg: three times what its tests take where nothing accelerates the machine, for machines that are slower.
WHOLE_SECONDS = 25 * 60
LONG_SECONDS = 2 * 60 * 60
# A machine says something at least once a test, and a test has its own limit; in the long form one may take minutes.
SILENCE_SECONDS = 1800 if os.environ.get("CTLAB_TEST_LONG") == "1" else 240
BOOT_SECONDS = 60
# The guest's /tmp and /run are its own: a checkout that lies there is brought from the host's files. Then: the rest.
SHOW = """[ -e "$1" ] || { mkdir -p "$1"; mount --bind "/run/ctlab/system$1" "$1"; }; cd "$1"; shift; exec "$@" """
_ENDED = "the machine ended before its tests did"


class LegFailed(Exception):
    """The machine did not get to the end of its tests; the text says why, with the console's last lines."""


# -- one machine ------------------------------------------------------------------------------------------------------
def frames_of(port: socket.socket, ends: dict[str, int], until: float) -> Iterator[tuple[int, bytes]]:
    """(kind, body) of what the guest sends, until the port closes. `ends`: name -> pidfd, whose end is an error.

    `until`: the latest moment (time.monotonic). Raises LegFailed.
    """
    from ctlab.vm import frames

    pending = bytearray()
    silent_since, limit = time.monotonic(), BOOT_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(port, selectors.EVENT_READ, "port")
        selector.register(sys.stdin, selectors.EVENT_READ, "parent")
        for name, pidfd in ends.items():
            selector.register(pidfd, selectors.EVENT_READ, name)
        while True:
            now = time.monotonic()
            if now >= until:
                raise LegFailed("the leg's time is over")
            if now >= silent_since + limit:
                raise LegFailed(f"the machine has said nothing for {limit} s")
            ready = {key.data for key, _ in selector.select(min(until, silent_since + limit) - now)}
            if "port" in ready:
                received = port.recv(1 << 16)
                silent_since, limit = time.monotonic(), SILENCE_SECONDS
                pending += received
                while len(pending) >= frames.HEADER.size:
                    size, kind, _ = frames.HEADER.unpack_from(pending)
                    end = frames.HEADER.size + size
                    if len(pending) < end:
                        break
                    yield kind, bytes(pending[frames.HEADER.size : end])
                    del pending[:end]
                if received:
                    continue
                raise LegFailed(_ENDED)
            if "parent" in ready:
                raise LegFailed("interrupted")
            if ready:
                raise LegFailed(f"{_ENDED} ({', '.join(sorted(ready))} is gone)")


def run_machine(name: str, argv: list[str], environment: dict[str, str], until: float) -> int:
    """Boot a machine and run a program in it as its root, its output on standard output; the program's status.

    Raises LegFailed with the console's tail, CtlabError.
    """
    from legs import MACHINE_MEMORY_BYTES

    from ctlab.vm import frames
    from ctlab.vm.machine import LAST_WORDS_SECONDS, Machine
    from ctlab.vm.options import VmOptions

    began = time.monotonic()
    config = {"id": f"leg-{name}", "name": name, "program": "run", "argv": argv, "env": environment, "cwd": "/"}
    with tempfile.TemporaryDirectory(prefix=f"ctlab-leg-{name}-") as folder:
        options = VmOptions(MACHINE_MEMORY_BYTES, 1)
        shown = [str(ROOT), sys.prefix, sys.base_prefix, os.path.realpath(sys.executable)]
        machine = Machine(folder, options, program="run", lab_name=f"leg-{name}", shown=shown)
        try:
            machine.start()
            with machine.accept() as port:
                port.sendall(frames.pack(frames.CONFIG, 0, json.dumps(config).encode()))
                for kind, body in frames_of(port, machine.pidfds, until):
                    if kind == frames.DATA:
                        sys.stdout.buffer.write(body)
                        sys.stdout.buffer.flush()
                    elif kind == frames.FATAL:
                        raise LegFailed(f"the guest can't go on: {body.decode(errors='replace')}")
                    elif kind == frames.BOOT:
                        said = json.loads(body)
                        if said["at"] == "ended":
                            return int(said["returncode"])
                        print(f"guest: {said} after {time.monotonic() - began:.1f} s; {machine.facts}", flush=True)
        except LegFailed as error:
            now = machine.ended(LAST_WORDS_SECONDS if _ENDED in str(error) else 0.0) or "it still runs"
            console = "\n".join(f"    {line}" for line in machine.console_tail(30).splitlines())
            raise LegFailed(f"{error}; {now}; the console's last lines:\n{console or '    (none)'}") from None
        finally:
            machine.kill()
    raise LegFailed(_ENDED)


def environment_of_guest(name: str) -> dict[str, str]:
    """What the tests are told there. Nothing of the host's own environment."""
    from kernel_help import long_form
    from legs import SLOWNESS

    return {
        **({"CTLAB_TEST_LONG": "1"} if long_form() else {}),
        "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root", "USER": "root", "LOGNAME": "root", "LANG": "C.UTF-8", "TMPDIR": "/tmp",
        "PYTHONDONTWRITEBYTECODE": "1", "CTLAB_TEST_SLOWNESS": str(SLOWNESS), "CTLAB_TEST_LEG": "vm",
        "CTLAB_TEST_MACHINE": name,
    }  # fmt: skip


def show_checkout() -> None:
    """As root the share is read by `nobody`: where the checkout lies in a closed folder, show it to the share alone.

    In a mount namespace of this process, and so of the share's server; nothing of the machine changes.
    """
    if os.geteuid() != 0:
        return
    sys.path.insert(0, str(ROOT / "tests"))
    import as_user

    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    os.makedirs(cache, exist_ok=True)
    as_user.show([*as_user.needed(), cache])


def one(name: str, steps: list[dict[str, Any]], seconds: float) -> int:
    """The process of one machine: its steps, its reports; 0 if all tests passed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    show_checkout()
    argv = ["/bin/sh", "-ec", SHOW, "sh", str(ROOT), sys.executable, "-B", "tests/vm/in_guest.py", json.dumps(steps)]
    try:
        return run_machine(name, argv, environment_of_guest(name), time.monotonic() + seconds)
    except LegFailed as error:
        print(f"FAILED: {error}", flush=True)
        return 1


# -- all of them ------------------------------------------------------------------------------------------------------
def compile_before() -> None:
    """The guest can't keep what it compiles: have pytest do it here, rewritten assertions included."""
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", "tests/kernel"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise LegFailed(f"the tests can't be collected:\n{done.stdout[-3000:]}")
    subprocess.run([sys.executable, "-m", "compileall", "-q", "ctlab", "tests"], cwd=ROOT, check=True)


def report_of(machine: str, number: int) -> Path:
    """The report of a machine's step, counted from 1."""
    return REPORTS / f"vm-{machine}-{number}.json"


class Shown:
    """What a machine's process says: passed on line by line with its name, reports put aside into files."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.reports = 0
        self._rest = b""

    def take(self, data: bytes) -> None:
        """Some bytes of its output."""
        from in_guest import REPORT

        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r")
            if text.startswith(REPORT):
                self.reports += 1
                number, _, report = text.removeprefix(REPORT).partition(" ")
                report_of(self.name, int(number)).write_text(json.dumps(json.loads(report), indent=1))
            else:
                print(f"{self.name}| {text}", flush=True)


def all_of(shares: dict[str, list[dict[str, Any]]], seconds: float = WHOLE_SECONDS) -> int:
    """Run every machine, side by side; 0 if all went well and every step has reported. Nothing is left running."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + seconds + 30  # they have their own limit; this one is for a process that hangs itself
    running: dict[str, subprocess.Popen[bytes]] = {}
    shown = {name: Shown(name) for name in shares}
    try:
        with selectors.DefaultSelector() as selector:
            for name, steps in shares.items():
                command = [sys.executable, __file__, "--machine", name, json.dumps(steps), str(seconds)]
                running[name] = subprocess.Popen(
                    command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
                )
                selector.register(running[name].stdout or 0, selectors.EVENT_READ, name)
            while selector.get_map() and time.monotonic() < until:
                for key, _ in selector.select(max(0.0, until - time.monotonic())):
                    data = os.read(key.fd, 1 << 16)
                    shown[key.data].take(data or b"\n")
                    if not data:
                        selector.unregister(key.fileobj)
        statuses = {name: process.wait(max(1.0, until - time.monotonic())) for name, process in running.items()}
    finally:
        for process in running.values():
            process.kill()  # its machine's processes die with it
            process.communicate()
    bad = [f"{name} (status {status})" for name, status in statuses.items() if status]
    bad += [f"{name} (a step without a report)" for name, steps in shares.items() if shown[name].reports < len(steps)]
    if bad:
        print(f"the VM leg failed: {', '.join(bad)}")
    return 1 if bad else 0


def main() -> int:
    """As a program."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]
    if sys.argv[1:2] == ["--machine"]:
        return one(sys.argv[2], json.loads(sys.argv[3]), float(sys.argv[4]))
    import kernel_help
    import leg_twice
    import legs

    parser = argparse.ArgumentParser(description="Run the tests of the kernel in virtual machines.")
    parser.add_argument("files", nargs="*", help="files of tests/kernel (default: all)")
    parser.add_argument("--user", action="store_true", help="with FILES: the ordinary users' share too")
    chosen = parser.parse_args()
    shares = legs.shares(chosen.files or None, as_user=chosen.user or not chosen.files)
    began = time.monotonic()
    from ctlab.errors import CtlabError
    from ctlab.vm.prepare import prepare

    try:
        compile_before()
        prepare()
    except (CtlabError, LegFailed) as error:
        print(f"the VM leg can't start: {error}")
        return 1
    chosen_seconds = LONG_SECONDS if kernel_help.long_form() else WHOLE_SECONDS
    orders = {name: legs.orders(steps) for name, steps in shares.items() if steps}
    status = leg_twice.run(orders, all_of, chosen_seconds)
    print(f"the VM leg took {time.monotonic() - began:.0f} s")
    return status


if __name__ == "__main__":
    sys.exit(main())
