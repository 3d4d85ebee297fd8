"""The running script that is hit: lab after lab, each with a seeded random life.

It says on standard output what it is about to do (one word a line), and listens on standard input:
``next N`` (live life N), ``stop N`` (end it properly), ``exit N`` (os._exit), ``raise N`` (an exception).
An order for a life that is over already is not for the next one.
"""

from __future__ import annotations

import os
import random
import select
import sys
import time
from pathlib import Path
from typing import Any

import ctlab
from ctlab.errors import CtlabError


def say(word: str) -> None:
    """One line to the judge."""
    os.write(1, (word + "\n").encode())


orders: list[str] = []
life = 0


def told(wait: bool = False) -> str:
    """What the judge says; "" if it says nothing now."""
    while wait or orders or select.select([0], [], [], 0)[0]:
        if not orders:
            text = os.read(0, 1000).decode()
            if not text:
                os._exit(0)
            orders.extend(text.splitlines())
        word, _, number = orders.pop(0).partition(" ")
        if word != "next" and int(number) != life:
            continue
        if word == "exit":
            os._exit(3)
        if word == "raise":
            raise SystemError("as the judge wished")
        return word
    return ""


def names(handles: Any) -> set[str]:
    """What they are called."""
    return {handle.name for handle in handles}


class Life:
    """One lab."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        say("lab")
        self.lab = ctlab.Lab(f"lab{rng.randrange(10**6)}")
        say("up")
        self.made = 0

    def some(self) -> Any:
        """A running container, made if there is none."""
        running = [container for container in self.lab.containers if container.state == "running"]
        return self.rng.choice(running) if running else self.run()

    def run(self) -> Any:
        """Start one."""
        self.made += 1
        options: dict[str, Any] = self.rng.choice([{}, {"init": True}, {"networks": ["blue"]}, {"networks": ["none"]}])
        if "networks" in options and options["networks"] == ["blue"] and "blue" not in names(self.lab.networks):
            self.lab.network("blue")
        command = self.rng.choice([["sleep", "1000"], ["sh", "-c", "while :; do echo x; sleep 0.01; done"], None])
        say("run")
        return self.lab.run(command, name=f"c{self.made}", **options)

    def exec(self) -> None:
        """Run something in one, in front or behind."""
        container = self.some()
        say("exec")
        if self.rng.random() < 0.3:
            container.exec(["sleep", "1000"], detach=True)
        else:
            container.exec(["sh", "-c", "echo hello; cat /proc/self/status"])

    def pause(self) -> None:
        """Freeze one for a while."""
        container = self.some()
        say("pause")
        container.pause()
        say("paused")
        time.sleep(0.04)
        if self.rng.random() < 0.7:
            container.unpause()

    def stop(self) -> None:
        """Stop one."""
        container = self.some()
        say("stop")
        container.stop(timeout=0.2)

    def remove(self) -> None:
        """Remove one, running or paused or not."""
        self.some()
        container = self.rng.choice(list(self.lab.containers))
        say("remove")
        container.remove()

    def connect(self) -> None:
        """Attach one to a network, or take it away."""
        container = self.some()
        name = self.rng.choice(["red", "green"])
        network = self.lab.networks[name] if name in names(self.lab.networks) else self.lab.network(name)
        say("connect")
        if any(endpoint.network == name for endpoint in container.endpoints):
            network.disconnect(container)
        elif container.spec.network_mode == "bridge":
            network.connect(container)

    def copy(self) -> None:
        """Files in and out."""
        container = self.some()
        say("copy")
        container.write("/tmp/file", "x" * 100_000)
        container.copy_out("/tmp/file", Path(os.environ["HOME"], "out", "file"))

    def batch(self) -> None:
        """Several at once."""
        say("batch")
        self.lab.run(["sleep", "1000"], name=f"b{self.made}x{{n}}", count=3)
        self.made += 1

    def live(self) -> bool:
        """Do this and that, then stop the lab; whether another is to follow."""
        going_on = True
        acts = [
            self.run,
            self.exec,
            self.pause,
            self.pause,
            self.stop,
            self.remove,
            self.connect,
            self.copy,
            self.batch,
        ]
        for _ in range(self.rng.randint(6, 16)):
            if told() == "stop":
                going_on = False
                break
            try:
                self.rng.choice(acts)()
            except CtlabError:
                if self.lab.gone:
                    raise
        say("end")
        self.lab.stop()
        return going_on and told() != "stop"


def main() -> None:
    """Live until told otherwise."""
    rng = random.Random(int(sys.argv[1]))
    say("ready")
    global life
    while True:
        if told(wait=True) != "next":
            continue
        life += 1
        try:
            while Life(rng).live():
                say("ended")
            say("gone")
        except CtlabError as error:
            say(f"gone {type(error).__name__}: {error}")
        except SystemError:
            raise
        except Exception as error:  # the judge counts these: the API promises CtlabError
            place = error.__traceback__
            while place is not None and place.tb_next is not None:
                place = place.tb_next
            where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
            say(f"bug {type(error).__name__}: {error} ({where})")


main()
