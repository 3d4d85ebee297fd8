"""The verbs of %container."""

from __future__ import annotations

from .. import names
from ..errors import BadInput
from . import common, docker
from .model import Noun, Option, Parsed, Subject, Verb

ONE = (Subject("CONTAINER", "container"),)
SEVERAL = (Subject("CONTAINER", "container", repeated=True),)
ANY = (Subject("CONTAINER", "container", optional=True, repeated=True),)

DETACH = Option("detach", "d", kind="flag", help="don't wait for the end; the handle comes back")

RUN_OPTIONS = (
    DETACH,
    Option("name", "", "NAME", "name", help="its name (c1, c2, …); with --count a pattern: 'w{n:02}'"),
    Option("network", "", "NETWORK", "network", True, help="a network, none, host or container:NAME (bridge)"),
    Option("ip", "", "ADDRESS", "ipv4", help="its IPv4 address on the first network"),
    Option("ip6", "", "ADDRESS", "ipv6", help="its IPv6 address on the first network"),
    Option("mac-address", "", "MAC", "mac", help="its MAC address on the first network"),
    Option("hostname", "", "NAME", help="its host name (docker's -h; here -h is help)"),
    *common.LIMITS,
    Option("volume", "v", "SRC:DST[:ro]", "mount", True, help="show a path of this machine inside", into="mount"),
    Option("mount", "", "SRC:DST[:ro]", "mount", True, help="the same"),
    *common.PROCESS,
    Option("entrypoint", "", "PROGRAM", help="the program that gets the command as its arguments"),
    Option("init", kind="flag", help="a small PID 1 that reaps"),
    Option("rm", kind="flag", help="remove it when it ends"),
    Option("read-only", kind="flag", help="its root file system can't be written"),
    Option("cap-add", "", "CAPABILITY", "capability", True, help="one more capability: NET_ADMIN"),
    Option("cap-drop", "", "CAPABILITY", "capability", True, help="one capability less, or ALL"),
    Option(
        "security-opt", "", "WORD", "text", True,
        help="seccomp=unconfined or seccomp=FILE; no-new-privileges, which is always on",
    ),
    Option("label", "l", "NAME=VALUE", "label", True, help="a note that inspect shows"),
    Option("stop-signal", "", "SIGNAL", "signal", help="what stop sends (SIGTERM)"),
    Option("stop-timeout", "", "SECONDS", "seconds", help="how long stop waits (10 s)"),
    Option("count", "", "NUMBER", "count", help="make this many, in one batch"),
    Option("wait", "", "port:PORT", "condition", help="return when that port answers"),
    Option("node", "", "NODE", "node", help="the node it runs on (host)"),
    common.EXISTS_OPTION,
    common.EXPLAIN,
    common.LAB,
)  # fmt: skip

NOBODY_TYPES = (
    "-i/--interactive: nobody can type into a line magic; a cell's body is the input: %%container exec NAME, "
    "and a terminal's: %container shell NAME"
)


def check_program(parsed: Parsed, cell: bool) -> None:
    """What run and exec have in common."""
    options = parsed.options
    if "interactive" in options and not cell:
        raise BadInput(NOBODY_TYPES)
    if "tty" in options and "no_tty" in options:
        raise BadInput("-t and -T exclude each other: a terminal or pipes")
    for key in ("expect", "quiet"):
        if "detach" in options and key in options:
            raise BadInput(f"--{key} is for a program that is waited for, so it can't go with -d")


def check_run(parsed: Parsed, cell: bool) -> None:
    """Names against --count, addresses against networks."""
    check_program(parsed, cell)
    options = parsed.options
    name, count = options.get("name"), options.get("count")
    if isinstance(name, str):
        if isinstance(count, int):
            names.expand_pattern("container", name, count)
        else:
            names.check_name("container", name)
    single = [key for key in ("ip", "ip6", "mac_address", "hostname", "out") if key in options]
    if isinstance(count, int) and count > 1 and single:
        raise BadInput(f"--{single[0].replace('_', '-')} is one container's, so it can't go with --count {count}")
    networks = options.get("network")
    alone = [n for n in networks if n in ("none", "host") or ":" in n] if isinstance(networks, list) else []
    if alone and isinstance(networks, list) and len(networks) > 1:
        raise BadInput(f"--network {alone[0]} goes with no other network")
    if alone and (own := [key for key in ("ip", "ip6", "mac_address") if key in options]):
        raise BadInput(f"--{own[0].replace('_', '-')} needs a network of its own, so it can't go with {alone[0]}")
    if "entrypoint" in options and options["entrypoint"] == "":
        raise BadInput("--entrypoint can't be empty; without it the command's first word is the program")


def check_exec(parsed: Parsed, cell: bool) -> None:
    """A line magic needs a command; a cell's body can be the script."""
    check_program(parsed, cell)
    if parsed.command is None and not cell:
        [container] = parsed.subjects
        raise BadInput(
            f"exec needs a command: %container exec {container} -- ls -l; or a cell with a script: "
            f"%%container exec {container}"
        )


def check_update(parsed: Parsed, cell: bool) -> None:
    """Nothing to change is a mistake."""
    if not any(option.key in parsed.options for option in common.LIMITS):
        ways = ", ".join(f"--{option.name}" for option in common.LIMITS)
        raise BadInput(f"update needs something to change: {ways}")


def check_rename(parsed: Parsed, cell: bool) -> None:
    """The new name must be one."""
    names.check_name("container", parsed.subjects[1])


def check_write(parsed: Parsed, cell: bool) -> None:
    """CONTAINER:/PATH."""
    container, colon, path = parsed.subjects[0].partition(":")
    if not container or not colon or not path.startswith("/"):
        raise BadInput(f"{parsed.subjects[0]!r} isn't CONTAINER:/PATH: write %%container write web:/srv/index.html")


def check_copy(parsed: Parsed, cell: bool) -> None:
    """Exactly one side is inside a container."""
    inside = [is_inside(subject) for subject in parsed.subjects]
    if "-" in parsed.subjects:
        raise BadInput("cp copies files, '-' (a tar stream) isn't in ctlab: %%container write puts text into a file")
    if inside == [True, True]:
        raise BadInput("cp copies between this machine and a container, not from one container to another")
    if inside == [False, False]:
        raise BadInput("cp needs CONTAINER:/PATH on one side: %container cp web:/etc/hosts .")


def is_inside(text: str) -> bool:
    """Whether a side of cp is CONTAINER:PATH: what begins with '/' or '.' is a path of this machine, as in Docker."""
    return ":" in text and not text.startswith(("/", "."))


def _verb(name: str, help: str, *options: Option, **rest: object) -> Verb:
    return Verb("container", name, help, (*options, common.LAB), **rest)  # type: ignore[arg-type]  # fields of `Verb`, written below


VERBS = (
    Verb(
        "container", "run", "make a container and run a program in it", RUN_OPTIONS,
        (Subject("IMAGE", "image", optional=True),), "optional", cell=True, absent=docker.RUN, check=check_run,
    ),
    _verb(
        "exec", "run a program in a container that runs", DETACH, *common.PROCESS,
        subjects=ONE, command="required", cell=True, absent=docker.EXEC, check=check_exec,
    ),
    _verb(
        "ps", "list containers", Option("all", "a", kind="flag", help="also those that don't run"),
        common.QUIET_LIST, aliases=("ls", "list"), absent=docker.LISTING,
    ),
    _verb(
        "logs", "what a container has written", Option("follow", "f", kind="flag", help="go on until it ends"),
        Option("tail", "n", "LINES", "tail", help="only the last lines (all)"),
        Option("since", "", "TIME", "duration", help="only what is younger: 5m"),
        Option("timestamps", "t", kind="flag", help="when each line was written"),
        subjects=ONE, absent=docker.LOGS,
    ),
    _verb(
        "stop", "stop signal, 10 s, SIGKILL", common.ALL, common.STOP_TIMEOUT, subjects=ANY, absent=docker.STOPPING,
        check=common.check_all,
    ),
    _verb("kill", "send a signal (SIGKILL)", common.SIGNAL, subjects=SEVERAL),
    _verb("start", "run a container's program again", subjects=SEVERAL, absent=docker.STARTING),
    _verb("restart", "stop and start", common.STOP_TIMEOUT, subjects=SEVERAL, absent=docker.STOPPING),
    _verb(
        "rm", "remove; one that runs is killed first, and that is said", common.ALL, common.FORCE, subjects=ANY,
        aliases=("remove",), absent=docker.REMOVING, check=common.check_all,
    ),
    _verb("prune", "remove all that ended", common.FORCE_PRUNE, absent=docker.PRUNING),
    _verb(
        "rename", "give a container another name",
        subjects=(*ONE, Subject("NEW_NAME", "new")), check=check_rename,
    ),
    _verb("inspect", "everything known about containers", subjects=SEVERAL, absent=docker.INSPECTING),
    _verb("top", "the processes of a container", subjects=ONE),
    _verb("pause", "freeze all processes", subjects=SEVERAL),
    _verb("unpause", "let them go on", subjects=SEVERAL),
    _verb(
        "update", "change limits while it runs", *common.LIMITS,
        subjects=SEVERAL, absent=docker.LIMITS, check=check_update,
    ),
    _verb(
        "wait", "wait for the end; the status comes back",
        Option("timeout", "", "TIME", "seconds", help="give up after this long"), subjects=SEVERAL,
    ),
    _verb(
        "cp", "copy a file or folder into or out of a container",
        subjects=(Subject("SOURCE", "path"), Subject("TARGET", "path")), absent=docker.COPYING, check=check_copy,
    ),
    _verb("stats", "what each container uses now", subjects=ANY, absent=docker.STATS),
    _verb("shell", "the line that opens a shell inside from a terminal", subjects=ONE),
    _verb(
        "write", "the cell's body becomes a file inside",
        subjects=(Subject("CONTAINER:/PATH", "path"),), cell=True, line=False, check=check_write,
    ),
)  # fmt: skip

CONTAINER = Noun("container", "containers", VERBS, "ps", absent_verbs=docker.CONTAINER_VERBS)
