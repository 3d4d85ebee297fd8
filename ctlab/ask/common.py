"""Options that several verbs share."""

from __future__ import annotations

from ..errors import BadInput
from .model import Option, Parsed

EXISTS = ("error", "keep", "replace")

LAB = Option("lab", metavar="NAME", kind="lab", help="the lab meant, if it isn't the current one")
EXPLAIN = Option("explain", kind="flag", help="show the commands a person would type, and do nothing")
EXISTS_OPTION = Option(
    "exists", metavar="|".join(EXISTS), kind="choice", choices=EXISTS, help="if the name is there already"
)
ALL = Option("all", "a", kind="flag", help="all that there are, instead of names")
QUIET_LIST = Option("quiet", "q", kind="flag", help="only the names")
FORCE = Option("force", "f", kind="flag", help="no error for one that isn't there")
FORCE_PRUNE = Option("force", "f", kind="flag", help="as in docker; prune never asks")
SIGNAL = Option("signal", "s", "SIGNAL", "signal", help="the signal, by name or number")
STOP_TIMEOUT = Option("timeout", "t", "SECONDS", "seconds", help="how long until SIGKILL (10 s)")

LIMITS = (
    Option("memory", "m", "SIZE", "memory", help="memory limit: 64M, 1.5g; of all limits, none lifts it"),
    Option("cpus", "", "NUMBER", "cpus", help="CPU quota: 0.5 is half a CPU"),
    Option("cpu-shares", "", "WEIGHT", "shares", help="share of the CPU when it is scarce (1024)"),
    Option("cpuset-cpus", "", "LIST", "cpuset", help="the CPUs it may run on: 0-2,4"),
    Option("pids-limit", "", "NUMBER", "pids", help="most processes and threads (2048); none lifts it"),
)

PROCESS = (
    Option("env", "e", "NAME=VALUE", "env", True, help="environment; NAME alone takes the notebook's value"),
    Option("env-file", "", "FILE", "path", True, help="environment from a file of NAME=VALUE lines"),
    Option("workdir", "w", "PATH", "absolute", help="working directory inside"),
    Option("user", "u", "USER[:GROUP]", help="who the program runs as (0)"),
    Option("tty", "t", kind="flag", help="one terminal for input and output"),
    Option("no-tty", "T", kind="flag", help="pipes, where a cell would give terminals"),
    Option("interactive", "i", kind="flag", help="cell magics only, where the body is the input anyway"),
    Option("expect", "", "STATUS", "expect", help="the good status: 0, 0,1, fail or any (0)"),
    Option("out", "o", "NAME", "identifier", help="put the result into this variable"),
    Option("quiet", "q", kind="flag", help="don't show the output"),
    Option("expand", "x", kind="flag", help="expand {expr} in the command too"),
)


def check_all(parsed: Parsed, cell: bool) -> None:
    """Names, or --all: one of the two."""
    if "all" in parsed.options and parsed.subjects:
        raise BadInput(f"--all is every one that there is: give it, or {' '.join(parsed.subjects)}")
    if "all" not in parsed.options and not parsed.subjects:
        raise BadInput(f"'%{parsed.noun} {parsed.verb}' needs names, or --all")
