"""The bare port of a virtual machine: a frame there and back, with nothing of a lab on either end."""

from __future__ import annotations

import json
import tempfile

from benchmarks.peers.worker import Missing, SideFailed, serve, timed
from ctlab.errors import CtlabError
from ctlab.vm import frames
from ctlab.vm.guest_programs import read, write
from ctlab.vm.machine import Machine
from ctlab.vm.options import VmOptions

BODY = b"x" * 200  # about what an exec's call has


class Echo:
    """One machine whose first process sends each frame back."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ctlab-bench-")
        self._machine = Machine(self._folder.name, VmOptions(), program="echo", lab_name="bench")
        try:
            self._machine.start()
        except CtlabError as error:
            self._folder.cleanup()
            raise Missing(str(error)) from None
        self._socket = self._machine.accept()
        self._port = self._socket.fileno()
        config = {"id": "bench", "name": "bench", "program": "echo"}
        write(self._port, frames.pack(frames.CONFIG, 0, json.dumps(config).encode()))
        kind, body = 0, b"{}"
        while kind != frames.BOOT or json.loads(body)["at"] != "ready":
            kind, body = self._frame()

    def about(self) -> dict[str, str]:
        return {"version": f"{self._machine.facts['machine']}, {self._machine.facts['acceleration']}"}

    def _frame(self) -> tuple[int, bytes]:
        size, kind, _ = frames.HEADER.unpack(read(self._port, frames.HEADER.size))
        return kind, read(self._port, size)

    def echo(self, count: int, pause: float) -> list[float]:
        """Seconds of a frame there and back."""

        def run() -> None:
            write(self._port, frames.pack(frames.DATA, 1, BODY))
            if self._frame() != (frames.DATA, BODY):
                raise SideFailed("another frame came back than was sent")

        return timed(run, count, pause)

    def close(self) -> None:
        """End the machine."""
        self._machine.kill()
        self._socket.close()
        self._folder.cleanup()


if __name__ == "__main__":
    serve(Echo)
