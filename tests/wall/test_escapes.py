"""At `execve` of what a container chose, nothing that it can name leads out: every way to start, every descriptor.

The kernel resolves a program's path, and the path in its first line, while the process still has what it had before:
its descriptors (close-on-exec comes later), its working directory, its own program as `/proc/self/exe`. A *trap* is a
program whose first line names one of them. What a trap would reach is a program of the machine that lies in no
container: a shell, which then reads the trap's second line. (No script: the shell of one couldn't open it again.)
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel_help import long_form, need_ids, patient, tries
from terminal_help import Person, shell_words

from ctlab import shells
from ctlab.errors import CtlabError

pytestmark = pytest.mark.kernel
DESCRIPTORS = range(tries(20, 41))  # what a start holds is few and low
REACHED = 77  # what a trap's second line ends with, if anything reads it that isn't the container's
RAN_OURS = 78  # the same, where the machine's Python does
UP = "/.." * 12
NAMES = [*(f"fd/{number}" for number in DESCRIPTORS), "cwd", "root", "task/self/cwd"]
DEADLINE_SECONDS = 10.0
IMAGES = ("folder", "system")


class World:
    """A folder of the machine with the program that must not be reached, traps that lead to it, and an image."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ctlab-outside-"))
        self.folder.chmod(0o755)
        busybox = shutil.which("busybox")
        if busybox is None:
            shutil.rmtree(self.folder)
            pytest.skip("no busybox on this machine (Debian package busybox-static)")
        self.outside = self.folder / "sh"
        shutil.copy(busybox, self.outside)
        self.traps = self.folder / "traps"
        self.traps.mkdir()
        for name in NAMES:
            program(self.traps / name.replace("/", "-"), f"#!/proc/self/{name}{UP}{self.outside}\nexit {REACHED}\n")
        # A script of Python, so that an interpreter that is made to run it does more than end.
        program(self.traps / "exe", f"#!/proc/self/exe\nimport os\nos._exit({RAN_OURS})\n")
        program(self.traps / "good", "#!/usr/bin/sh\nsleep 60\n")
        self.image = self.folder / "image"
        for name in ("bin", "usr/bin", "etc", "data"):
            (self.image / name).mkdir(parents=True)
        shutil.copytree(self.traps, self.image / "traps")
        shutil.copy(busybox, self.image / "usr/bin/busybox")
        for name in ("sh", "sleep", "cp", "rm", "mkdir", "test", "true"):
            (self.image / "usr/bin" / name).symlink_to("busybox")
        (self.image / "bin/sh").symlink_to("/usr/bin/busybox")
        for folder, _, _ in os.walk(self.folder):
            os.chmod(folder, 0o755)

    def options(self, image: str) -> dict[str, Any]:
        """How the traps come into a container: with the image of a folder, or mounted on the machine's own system."""
        return {"image": str(self.image)} if image == "folder" else {"mounts": f"{self.traps}:/traps:ro"}


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    yield made
    shutil.rmtree(made.folder)


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def trap(name: str) -> str:
    return f"/traps/{name.replace('/', '-')}"


def status(start: Callable[..., Any], /, *words: Any, **options: Any) -> int | str:
    """What a try ended with: its status, or the error that says that nothing ran."""
    try:
        ended = start(*words, **options)
    except CtlabError as error:
        return type(error).__name__
    return int(ended if isinstance(ended, int) else ended.returncode)


def reached(tries: dict[str, int | str]) -> dict[str, int | str]:
    """Those that got out. Each try must have come to an end."""
    return {name: how for name, how in tries.items() if how in (REACHED, RAN_OURS)}


ALL_TRAPS = [*NAMES, "exe"]
# All are tried by the plainest of them, and by every one in the long form.
LOW_TRAPS = ALL_TRAPS if long_form() else [*(f"fd/{number}" for number in range(14)), "cwd", "exe"]


def test_the_program_outside_would_be_noticed(lab: Any, world: World) -> None:
    """What the other tests look for is there, runs in both images, and isn't reached by its own name."""
    for image in IMAGES:
        container = lab.run(
            **world.options(image) | {"mounts": [f"{world.folder}:/shown:ro", f"{world.traps}:/traps:ro"]}
        )
        assert container.exec(["/shown/sh", trap("fd/0")]).returncode == REACHED
        assert EXECS["shell"](container, ["/shown/sh", trap("fd/0")]) == REACHED
        assert status(container.exec, [str(world.outside)]) == "ProgramNotFound"


# -- run --------------------------------------------------------------------------------------------------------------
STARTS: dict[str, dict[str, Any]] = {
    "run": {},
    "none": {"networks": ["none"]},
    "host": {"networks": ["host"]},
    "init": {"init": True},
    "terminal": {"tty": True},
    "stdin": {"stdin": "text"},
    "working directory": {"workdir": "/etc"},
    "user": {"user": "7:7"},
    "user and init": {"user": "7:7", "init": True},
    "read-only": {"read_only": True},
    "capability": {"cap_add": ["NET_RAW"]},
    "batch": {"count": 2},
}
OF_A_USER = ("run", "init", "terminal", "user")  # as an ordinary user, for whom the same code runs
OF_A_FOLDER = ("run", "init", "user")  # made by the same code as on the system: the rest in the long form only


def start(lab: Any, world: World, image: str, command: list[str], options: dict[str, Any]) -> int | str:
    """Run it and remove it again; its status."""

    def run() -> int:
        made = lab.run(command, **world.options(image), **options)
        containers = list(made) if options.get("count") else [made]
        try:
            found = {container.wait(patient(DEADLINE_SECONDS)) for container in containers}
        finally:
            for container in containers:
                container.remove()
        return found.pop() if len(found) == 1 else REACHED

    return status(run)


@pytest.mark.parametrize(
    ("image", "way"),
    [
        (image, way)
        for image in IMAGES for way in STARTS
        if long_form()
        or ((image == "system" or way in OF_A_FOLDER) and (os.geteuid() == 0 or way in OF_A_USER))
    ],
)  # fmt: skip
def test_no_start_leads_out(lab: Any, world: World, image: str, way: str) -> None:
    if "user" in way:
        need_ids(lab)
    traps = ALL_TRAPS if way == "run" else LOW_TRAPS
    tries = {name: start(lab, world, image, [trap(name)], STARTS[way]) for name in traps}
    assert reached(tries) == {}


def test_no_script_of_a_start_leads_out(lab: Any, world: World) -> None:
    """/bin/sh, which reads it, is the image's: here it is the trap."""
    shell = world.image / "bin/sh"
    tries: dict[str, int | str] = {}
    try:
        for name in LOW_TRAPS:
            shell.unlink()
            shutil.copy(world.traps / name.replace("/", "-"), shell)
            for init in (False, True):
                container = None
                try:
                    container = lab.run(script="exit 0", image=str(world.image), init=init)
                    tries[f"{name} init={init}"] = container.wait(patient(DEADLINE_SECONDS))
                except CtlabError as error:
                    tries[f"{name} init={init}"] = type(error).__name__
                finally:
                    if container is not None:
                        container.remove()
    finally:
        shell.unlink()
        shell.symlink_to("/usr/bin/busybox")
    assert reached(tries) == {}


@pytest.mark.parametrize("init", [False, True])
def test_no_restart_leads_out(lab: Any, world: World, image: str, init: bool, tmp_path: Path) -> None:
    """What the container has made of its own program is what is started again."""
    for folder in (tmp_path, tmp_path.parent):
        folder.chmod(0o755)
    own = tmp_path / "program"
    shutil.copy(world.traps / "good", own)
    options = world.options(image)
    mounts = [f"{tmp_path}:/own", *([options.pop("mounts")] if "mounts" in options else [])]
    container = lab.run(["/own/program"], mounts=mounts, init=init, **options)
    tries: dict[str, int | str] = {}

    def again() -> int:
        container.restart(timeout=0)
        return int(container.wait(patient(DEADLINE_SECONDS)))

    for name in LOW_TRAPS:
        shutil.copy(world.traps / name.replace("/", "-"), own)
        tries[name] = status(again)
    assert reached(tries) == {}


# -- exec -------------------------------------------------------------------------------------------------------------
def _detached(container: Any, command: list[str], **options: Any) -> Any:
    return container.exec(command, detach=True, **options).wait(patient(DEADLINE_SECONDS))


def _shell(container: Any, command: list[str]) -> int:
    """`ctlab shell` in a terminal of a person's, the only way whose program has a controlling one, as its input too."""
    shells.open_door(container.lab)
    with Person(shell_words(container.lab.name, container.name, *command)) as person:
        return person.ended(DEADLINE_SECONDS)


EXECS: dict[str, Callable[[Any, list[str]], Any]] = {
    "exec": lambda container, command: container.exec(command),
    "detached": _detached,
    "detached with stdin": lambda container, command: _detached(container, command, stdin="text"),
    "terminal": lambda container, command: container.exec(command, tty=True),
    "stdin": lambda container, command: container.exec(command, stdin="text"),
    "working directory": lambda container, command: container.exec(command, workdir="/etc"),
    "user": lambda container, command: container.exec(command, user="7:7"),
    "user, detached": lambda container, command: _detached(container, command, user="7:7"),
    "user, terminal": lambda container, command: container.exec(command, user="7:7", tty=True),
    "shell": _shell,
}
FIRSTS: dict[str, dict[str, Any]] = {
    "idle": {},  # the supervisor holds its namespaces
    "program": {"command": ["/usr/bin/sleep", "60"]},  # entered by its pidfd
    "init": {"command": ["/usr/bin/sleep", "60"], "init": True},
}


@pytest.mark.parametrize(
    ("image", "way", "first"),
    [
        (image, way, first)
        for image in IMAGES for way in EXECS for first in FIRSTS
        if long_form() or (first == "idle" if image == "system" else way in ("exec", "user"))
    ],
)  # fmt: skip
def test_no_exec_leads_out(lab: Any, world: World, image: str, way: str, first: str) -> None:
    if "user" in way:
        need_ids(lab)
    container = lab.run(**FIRSTS[first], **world.options(image))
    traps = LOW_TRAPS if way == "shell" else ALL_TRAPS  # which takes an interpreter for each
    tries = {name: status(EXECS[way], container, [trap(name)]) for name in traps}
    assert reached(tries) == {}


def test_no_first_exec_leads_out(lab: Any, world: World) -> None:
    """A runner that has just entered holds more than one that stayed."""
    containers = lab.run(count=len(ALL_TRAPS), name="c{n:02}", **world.options("folder"))
    tries = {name: status(container.exec, [trap(name)]) for container, name in zip(containers, ALL_TRAPS, strict=True)}
    assert reached(tries) == {}


@pytest.mark.parametrize("options", [{}, {"tty": True}, {"detach": True}, {"user": "7:7"}], ids=str)
def test_no_script_of_an_exec_leads_out(lab: Any, world: World, options: dict[str, Any]) -> None:
    if "user" in options:
        need_ids(lab)
    container = lab.run(**world.options("folder"))
    tries: dict[str, int | str] = {}

    def script() -> Any:
        done = container.script("exit 0", **options)
        return done.wait(patient(DEADLINE_SECONDS)) if options.get("detach") else done

    for name in ALL_TRAPS:
        container.exec(["/usr/bin/cp", trap(name), "/data/sh"]).check()
        container.exec(["/usr/bin/rm", "/bin/sh"]).check()
        container.exec(["/usr/bin/cp", "/data/sh", "/bin/sh"]).check()
        tries[name] = status(script)
    assert reached(tries) == {}


# -- working directories (CVE-2024-21626) -----------------------------------------------------------------------------
FOLDERS = [f"/proc/self/{name}" for name in NAMES]


def _seen(world: World) -> list[str]:
    """Ends with 0 where a path from the working directory leads to what lies outside."""
    return ["/usr/bin/test", "-e", f".{UP}{world.outside}"]


def test_no_working_directory_of_an_exec_lies_outside(lab: Any, world: World, image: str) -> None:
    container = lab.run(**world.options(image))
    for user in ("0",) if lab._client.facts["single_id"] else ("0", "7:7"):
        for up in ("", "/..", UP):
            tries = {
                folder: status(container.exec, _seen(world), workdir=f"{folder}{up}", user=user) for folder in FOLDERS
            }
            assert {folder for folder, how in tries.items() if how == 0} == set()


def test_no_working_directory_of_a_start_lies_outside(lab: Any, world: World, image: str) -> None:
    for init in (False, True):
        options = {"init": init}
        folders = [f"/proc/self/{name}" for name in LOW_TRAPS if name != "exe"]
        tries = {folder: start(lab, world, image, _seen(world), options | {"workdir": folder}) for folder in folders}
        assert {folder for folder, how in tries.items() if how == 0} == set()


@pytest.mark.parametrize("way", ["start", "exec"])
def test_no_program_is_named_by_a_descriptor(lab: Any, world: World, way: str) -> None:
    """The command itself may be such a path, without any script."""
    container = lab.run(**world.options("folder"))
    tries = {}
    for name in NAMES:
        command = [f"/proc/self/{name}{UP}{world.outside}", "-c", f"exit {REACHED}"]
        if way == "start":
            tries[name] = start(lab, world, "folder", command, {})
        else:
            tries[name] = status(container.exec, command)
    assert reached(tries) == {}
