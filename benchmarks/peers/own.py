"""ctlab itself, measured by the same worker as its peers: a Python process that holds a Lab."""

from __future__ import annotations

import importlib
import os
import platform
import select
import time
from typing import Any

from benchmarks.peers.worker import Missing, SideFailed, serve, timed
from benchmarks.processes import (
    cpu_seconds,
    descendants,
    own_cgroup_folders,
    private_dirty_kib,
    shared_memory_kib,
    supervisor,
)

LIMITS: dict[str, Any] = {"memory": "64M", "cpus": 0.5, "pids_limit": 64}
SUBNET = "10.10.0.0/24"
REACH = "import socket; print(socket.socket().connect_ex(({address!r}, 9)))"


class Own:
    """One Lab at a time: `open`, then what is to be measured, then `stop`."""

    def __init__(self) -> None:
        try:
            self._ctlab: Any = importlib.import_module("ctlab")
        except ImportError as error:
            raise Missing(f"ctlab can't be imported: {error}") from None
        if not hasattr(self._ctlab, "Lab"):
            raise Missing("ctlab has no Lab")
        self._unsupported = importlib.import_module("ctlab.errors").Unsupported
        self._lab: Any = None
        self._web: Any = None

    def about(self) -> dict[str, str]:
        version = getattr(self._ctlab, "__version__", "of the working tree")
        return {"version": f"ctlab {version}, Python {platform.python_version()}"}

    def open(self, engine: str = "native") -> float:
        """Starts the lab; seconds that took. Raises Missing where this machine can't have one."""
        begin = time.perf_counter()
        try:
            self._lab = self._ctlab.Lab("bench", engine=engine)
        except self._unsupported as error:
            raise Missing(str(error)) from None
        return time.perf_counter() - begin

    def first_output(self, engine: str) -> dict[str, Any]:
        """A lab from nothing to the output of its first container, and its end; seconds from the call, and facts."""
        begin = time.perf_counter()
        ready = self.open(engine)
        said = self._lab.run(["/bin/echo", "here"])
        said.wait()
        text = said.logs()
        seconds = time.perf_counter() - begin
        if str(text) != "here\n":
            raise SideFailed(f"the first container said {text!r}")
        facts = {"output": seconds, "ready": ready, "vm": self._lab.status().get("vm")}
        self.close()
        return facts

    def counters(self) -> int:
        """Reads the counters of all containers; how many rows there are."""
        return len(self._lab.stats())

    def busy_seconds(self, seconds: float) -> dict[str, float]:
        """CPU seconds that each of this lab's processes on this machine has used in the next `seconds`, by its name."""
        before = {process.pid: cpu_seconds(process.pid) for process in descendants(os.getpid())}
        time.sleep(seconds)
        used: dict[str, float] = {}
        for process in descendants(os.getpid()):
            if process.pid in before:
                name = "qemu" if process.name.startswith("qemu") else process.name
                name = "keeper" if process.parent == os.getpid() else name
                used[name] = used.get(name, 0.0) + cpu_seconds(process.pid) - before[process.pid]
        return used

    def network(self) -> float:
        """Makes the bridge; seconds."""
        begin = time.perf_counter()
        self._lab.network("blue", subnet=SUBNET)
        return time.perf_counter() - begin

    def start(self, count: int, pause: float, remove: bool = False) -> list[float]:
        """Seconds of run + wait of /bin/true on the bridge with all limits; removed after, timed too if `remove`."""
        made: list[Any] = []

        def run() -> None:
            container = self._lab.run(["/bin/true"], networks=["blue"], **LIMITS)
            status = container.wait()
            if status != 0:
                raise SideFailed(f"/bin/true ended with {status}")
            made.append(container)
            if remove:
                made.pop().remove()

        return timed(run, count, pause, None if remove else lambda: made.pop().remove())

    def phases(self, count: int, pause: float) -> list[list[float]]:
        """CLOCK_MONOTONIC seconds of each start: called, run returned, wait returned, remove returned."""
        found = []
        for _ in range(count):
            time.sleep(pause)
            moments = [time.monotonic()]
            container = self._lab.run(["/bin/true"], networks=["blue"], **LIMITS)
            moments.append(time.monotonic())
            container.wait()
            moments.append(time.monotonic())
            container.remove()
            moments.append(time.monotonic())
            found.append(moments)
        return found

    def exec_phases(self, count: int, pause: float) -> list[list[float]]:
        """CLOCK_MONOTONIC seconds of each exec: called, returned."""
        self.exec(1, 0.0)
        found = []
        for _ in range(count):
            time.sleep(pause)
            begin = time.monotonic()
            self._web.exec(["/bin/true"])
            found.append([begin, time.monotonic()])
        return found

    def up_phases(self, count: int) -> list[list[float]]:
        """CLOCK_MONOTONIC seconds of each of `count` starts of sleep on the bridge: called, returned."""
        found = []
        for number in range(1, count + 1):
            begin = time.monotonic()
            self._lab.run(["sleep", "600"], name=f"w{number:03}", networks=["blue"])
            found.append([begin, time.monotonic()])
        return found

    def exec(self, count: int, pause: float) -> list[float]:
        """Seconds of exec of /bin/true in a running container, its output back here."""
        if self._web is None:
            self._web = self._lab.run(["sleep", "600"], name="web", networks=["blue"])
            said = self._web.exec(["/bin/echo", "here"])
            if (said.stdout, said.returncode) != ("here\n", 0):
                raise SideFailed(f"exec of echo gave {said!r}")

        def run() -> None:
            done = self._web.exec(["/bin/true"])
            if (done.stdout, done.returncode) != ("", 0):
                raise SideFailed(f"exec of true gave {done!r}")

        return timed(run, count, pause)

    def up(self, count: int, batch: bool) -> float:
        """Seconds of `count` containers that run sleep on the bridge: one call each, or one call for all."""
        sleep = ["sleep", "600"]
        begin = time.perf_counter()
        if batch:
            self._lab.run(sleep, count=count, name="w{n:03}", networks=["blue"])
        else:
            for number in range(1, count + 1):
                self._lab.run(sleep, name=f"w{number:03}", networks=["blue"])
        return time.perf_counter() - begin

    def check(self, count: int) -> None:
        """All run sleep, have addresses of their own, and the first reaches the last (a refused connection)."""
        made = list(self._lab.containers)
        states = {container.state for container in made}
        programs = [process for process in descendants(os.getpid()) if process.name == "sleep"]
        addresses = {str(container.address("blue")) for container in made}
        if (len(made), states, len(programs), len(addresses)) != (count, {"running"}, count, count):
            raise SideFailed(f"{len(made)} containers: {states}, {len(programs)} programs, {len(addresses)} addresses")
        last = str(self._lab[f"w{count:03}"].address("blue"))
        said = self._lab["w001"].exec(["/usr/bin/python3", "-c", REACH.format(address=last)])
        if said.stdout.strip() != "111":
            raise SideFailed(f"the first container can't reach the last: {said!r}")

    def roles(self) -> dict[str, str]:
        """What this side calls a process, by pid (as text): the caller, the supervisor; the rest has its own name."""
        return {str(os.getpid()): "caller", str(supervisor(descendants(os.getpid())).pid): "supervisor"}

    def pid(self) -> int:
        """This process: the lab's owner."""
        return os.getpid()

    def pids(self) -> list[int]:
        """Process ids of everything the lab runs, as seen from outside."""
        return [process.pid for process in descendants(os.getpid())]

    def stop(self, patience: float = 10.0) -> dict[str, Any]:
        """`lab.stop()`, then waits until no process and no cgroup folder of the lab is left.

        `begin`, `returned`, `processes`, `cgroups`: CLOCK_MONOTONIC seconds of the call, its return, the last
        process's end, the last folder's. `left`: what is still there after `patience` seconds.
        """
        pids = self.pids()
        folders = own_cgroup_folders(pids, os.getpid())
        handles = []
        for pid in pids:
            try:
                handles.append(os.pidfd_open(pid))
            except ProcessLookupError:
                pass
        begin = time.monotonic()
        self._lab.stop()
        returned = time.monotonic()
        deadline = returned + patience
        poll = select.poll()
        for handle in handles:
            poll.register(handle, select.POLLIN)
        alive = set(handles)
        while alive and time.monotonic() < deadline:
            for handle, _ in poll.poll(100):
                alive.discard(handle)
                poll.unregister(handle)
        processes = time.monotonic()
        while any(folder.exists() for folder in folders) and time.monotonic() < deadline:
            time.sleep(0.001)
        cgroups = time.monotonic()
        left = [str(folder) for folder in folders if folder.exists()] + [f"{len(alive)} processes"] * bool(alive)
        for handle in handles:
            os.close(handle)
        self._lab = self._web = None
        return {
            "begin": begin, "returned": returned, "processes": processes, "cgroups": cgroups,
            "folders": len(folders), "left": left,
        }  # fmt: skip

    def idle(self, count: int) -> None:
        """Adds `count` idle containers."""
        if count:
            self._lab.run(["sleep", "600"], count=count, name="i{n:03}", networks=["blue"])

    def memory(self) -> dict[str, Any]:
        """KiB now: the supervisor's resident set, private dirty of the lab's processes without the programs, …"""
        lab = descendants(os.getpid())
        programs = {process.pid for process in lab if process.name == "sleep"}
        own = [process for process in lab if process.pid not in programs]
        return {
            "supervisor_resident": supervisor(lab).resident_kib,
            "lab_private_dirty": sum(private_dirty_kib(process.pid) for process in own),
            "programs_private_dirty": sum(private_dirty_kib(pid) for pid in programs),
            "caller_private_dirty": private_dirty_kib(os.getpid()),
            "shared_memory": shared_memory_kib(),
            "processes": {f"{process.name}-{process.pid}": private_dirty_kib(process.pid) for process in own},
        }

    def close(self) -> None:
        """Stops a lab that is still there."""
        if self._lab is not None:
            self._lab.stop()
            self._lab = self._web = None


if __name__ == "__main__":
    serve(Own)
