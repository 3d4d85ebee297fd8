"""An hour of everything that comes and goes in one lab: nothing of its processes, nor of its owner, grows with it.

`CTLAB_CHURN_SECONDS`: another time than an hour.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kernel_help import patient

import ctlab
from ctlab.errors import CtlabError

pytestmark = [pytest.mark.kernel, pytest.mark.faults, pytest.mark.long]
SECONDS = float(os.environ.get("CTLAB_CHURN_SECONDS", "3600"))
SETTLED = 0.25  # of the time, until caches, pools and rings are as large as they get
KEPT = 24  # containers there are at a time


class Churn:
    """A lab in which things are done at random, seeded, and counted."""

    def __init__(self, lab: Any, folder: Path) -> None:
        self.lab = lab
        self.order = random.Random(7)
        self.done: dict[str, int] = {}
        self.number = 0
        self.folder = folder
        (folder / "file").write_bytes(bytes(100_000))

    def step(self) -> None:
        """One thing; what is refused (an address that is taken, one that is gone) is counted as that."""
        action = self.order.choice(self.actions())
        name = action.__name__.strip("_")
        try:
            action()
        except CtlabError as error:
            name += f" refused: {type(error).__name__}"
        self.done[name] = self.done.get(name, 0) + 1

    def actions(self) -> list[Callable[[], Any]]:
        if len(self.lab.containers) < KEPT // 2:
            return [self._run, self._batch]
        usual = [self._run, self._exec, self._exec, self._write, self._copy, self._restart, self._pause, self._connect]
        return [*usual, self._remove, self._detached, self._network, self._logs, self._run_to_its_end, self._script]

    def one(self) -> Any:
        return self.order.choice(list(self.lab.containers))

    def fresh(self, prefix: str) -> str:
        self.number += 1
        return f"{prefix}{self.number}"

    def _run(self) -> None:
        if len(self.lab.containers) > KEPT:
            self._remove()
        self.lab.run(["sh", "-c", "echo up; exec sleep 1000"], name=self.fresh("c"), networks=[self._any_network()])

    def _batch(self) -> None:
        self.lab.run(["sleep", "1000"], name=self.fresh("b") + "-{n}", count=4)

    def _any_network(self) -> str:
        return str(self.order.choice(list(self.lab.networks)).name)

    def _exec(self) -> None:
        assert self.one().exec(["echo", "x" * 1000]).stdout

    def _script(self) -> None:
        assert self.one().script("seq 1000 | tail -1").stdout == "1000\n"

    def _detached(self) -> None:
        process = self.one().exec(["sleep", "1000"], detach=True)
        process.kill()
        process.wait(patient(10))

    def _write(self) -> None:
        self.one().write("/srv/file", "y" * 10_000)

    def _copy(self) -> None:
        container = self.one()
        container.copy_in(self.folder / "file", "/srv/copy")
        container.copy_out("/srv/copy", self.folder / "back")

    def _restart(self) -> None:
        self.one().restart(timeout=0)

    def _pause(self) -> None:
        self.one().pause().unpause()

    def _connect(self) -> None:
        network = self.lab.networks[self._any_network()]
        container = self.one()
        (network.disconnect if container in network.containers else network.connect)(container)

    def _network(self) -> None:
        made = self.lab.network(self.fresh("n"))
        if len(self.lab.networks) > 4:
            made.remove()

    def _logs(self) -> None:
        assert "\0" not in str(self.one().logs())

    def _remove(self) -> None:
        self.one().remove()

    def _run_to_its_end(self) -> None:
        assert self.lab.run(["true"], rm=True).wait(patient(20)) == 0

    def sizes(self) -> dict[str, float]:
        """Descriptors and resident memory (MB) of the owner and of each process of the lab; folders and files of it."""
        facts = self.lab._client.facts
        found: dict[str, float] = {}
        waiting = [os.getpid()]
        for pid in waiting:
            try:
                below = [
                    p for task in Path(f"/proc/{pid}/task").iterdir() for p in (task / "children").read_text().split()
                ]
                title = "owner" if pid == os.getpid() else Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
                name = " ".join(title.split()[:2])
                if (pid != os.getpid() and not name.startswith("ctlab")) or name in ("ctlab-init", "ctlab runner"):
                    continue
                found[f"{name}: descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                found[f"{name}: MB"] = int(rollup.partition("Private_Dirty:")[2].split()[0]) / 1024
            except OSError:
                continue
            waiting += map(int, below)
        storage = self.lab.status()["storage"]
        found |= {"files": storage["used_inodes"], "storage MB": storage["used_bytes"] / (1 << 20)}
        found["keys"] = len(Path("/proc/keys").read_text().splitlines())
        assert facts
        return found


def test_an_hour_of_churn(usable: None, tmp_path: Path) -> None:
    with ctlab.Lab(f"churn-{os.getpid()}") as lab:
        for name in ("blue", "green"):
            lab.network(name)
        churn = Churn(lab, tmp_path)
        began = time.monotonic()
        series: list[dict[str, float]] = []
        while (at := time.monotonic() - began) < SECONDS:
            churn.step()
            if at > SECONDS * SETTLED + len(series) * SECONDS / 100:
                series.append(churn.sizes())
        third = len(series) // 3
        first, last = series[:third], series[-third:]
        print("\n".join(f"{count:7} {name}" for name, count in sorted(churn.done.items())))
        grown = {}
        for name in sorted(set(first[0]) & set(last[-1])):
            before = sum(sizes.get(name, 0) for sizes in first) / third
            after = sum(sizes.get(name, 0) for sizes in last) / third
            print(f"{name:35} {before:10.1f} {after:10.1f}")
            if after > before * 1.1 + (2 if "MB" in name else 20):
                grown[name] = (before, after)
        assert sum(churn.done.values()) > 10 * SECONDS / 60
        assert not grown
