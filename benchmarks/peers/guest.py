"""ctlab inside a virtual machine: `own.py` run as the guest's root, its calls and answers passed through the port.

What it measures lies in the guest alone: the caller, the lab and its containers; the port carries only the call to
measure and the figures. One thread, since a `Machine` belongs to a process with one.
"""

from __future__ import annotations

import json
import os
import select
import sys
import tempfile

from benchmarks.peers.worker import OUTSIDE, ROOT, Missing
from ctlab.errors import CtlabError
from ctlab.vm import frames
from ctlab.vm.guest_programs import read, write
from ctlab.vm.machine import Machine
from ctlab.vm.options import VmOptions

MEMORY_BYTES = 1 << 30  # ctlab's own side imports pandas at most, and one machine is like the other
_CHUNK = 1 << 16
MODULE = "benchmarks.peers.own"


def main() -> None:
    """Boot, then be a pipe between this process's streams and the program's, until the input ends."""
    script = f"""
        # The guest's /tmp is its own.
        if [ ! -e {ROOT} ]; then mkdir -p {ROOT}; mount --bind /run/ctlab/system{ROOT} {ROOT}; fi
        cd {ROOT}; exec {sys.executable} -B -m {MODULE} 2>/dev/console"""
    config = {
        "id": "bench", "name": "bench", "program": "run", "argv": ["/bin/sh", "-c", script], "cwd": "/",
        "env": {"LC_ALL": "C.UTF-8", "TMPDIR": "/tmp", OUTSIDE: "none"},
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="ctlab-bench-") as folder:
        shown = [str(ROOT), sys.prefix, sys.base_prefix, os.path.realpath(sys.executable)]
        machine = Machine(folder, VmOptions(MEMORY_BYTES, 1), program="run", lab_name="bench", shown=shown)
        try:
            machine.start()
            port = machine.accept()
            write(port.fileno(), frames.pack(frames.CONFIG, 0, json.dumps(config).encode()))
            _carry(port.fileno(), machine)
        finally:
            machine.kill()


def _carry(port: int, machine: Machine) -> None:
    poll = select.poll()
    for descriptor in (0, port):
        poll.register(descriptor, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == 0:
                data = os.read(0, _CHUNK)
                write(port, frames.pack(frames.DATA if data else frames.END, 0, data))
                if not data:
                    poll.unregister(0)
                continue
            try:
                size, kind, _ = frames.HEADER.unpack(read(port, frames.HEADER.size))
                body = read(port, size)
            except (OSError, RuntimeError):
                raise SystemExit(f"the VM ended: {machine.console_tail()}") from None
            if kind == frames.DATA:
                write(1, body)
            elif kind == frames.BOOT and json.loads(body)["at"] == "ended":
                return


if __name__ == "__main__":
    try:
        main()
    except CtlabError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
    except Missing as error:
        print(json.dumps({"missing": str(error)}), flush=True)
