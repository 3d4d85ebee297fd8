"""The last steps of a container as commands: the new root is entered, privileges are given up, the program runs.

The system image holds the tools of the machine, so the shell pivots into it and goes on there. Any other image may
hold none at all: there the new root is moved over the old one and entered by the very last program, `unshare --root`,
which is still the node's. That needs CAP_SYS_CHROOT until the end and root as user; where a container has not got
both, the image's own `setpriv` is used.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import ops
from .render_root import root_operation
from .render_words import comment, quote, words

# PID 1 with --init: passes a stop signal on, reaps, and ends with the program's status.
INIT = 'trap "kill -TERM \\$child" TERM INT HUP; "$@" & child=$!; wait $child; wait $child'


def enter_and_execute(execute: ops.Execute, own_tools: bool, pids: tuple[str, str] | None = None) -> list[str]:
    """The commands from the node's root to the running program.

    `own_tools`: the image is this machine's system, so that what is needed until the end is in it.
    `pids`: (limit, file) of a limit of processes, which comes last, since every command until then is one.
    """
    if own_tools:
        lines = [f"exec 3> {quote(pids[1])}  # written at the end, when it is out of sight"] if pids else []
        lines += ["", "# the new root is entered for good, the old one is gone", *root_operation(ops.PivotRoot())]
        return lines + _process(execute, [], [], [f"echo {quote(pids[0])} >&3", "exec 3>&-"] if pids else [])
    late = [f"echo {quote(pids[0])} > {quote(pids[1])}"] if pids else []
    root = execute.user in ("0", "root", "")
    lines = ["", "# the new root is moved over the old one"]
    lines += ["mount --move . /"]
    if not execute.argv:
        lines += [comment("nothing to run, and an image may hold no program: the node's sleep waits, outside of it")]
        return lines + _process(execute, [], [], late)
    enter = ["unshare", "--root=.", f"--wd={execute.workdir}"]
    if root and "SYS_CHROOT" in execute.capabilities:
        lines += [comment("and entered last, so that the tools until then are the node's, not the image's")]
        return lines + _process(execute, [], [*enter, "--"], late)
    lines += [comment("and entered; env and setpriv (util-linux) are the image's own from here on")]
    return lines + _process(execute, [*enter, "--"], [], late)


def _process(execute: ops.Execute, before: list[str], last: list[str], late: list[str]) -> list[str]:
    """Who it is, what it may do, which environment it has: one `exec`.

    `before` and `last`: words in front of everything and in front of the program; `late`: lines in front of `exec`.
    """
    argv = execute.argv or ["sleep", "infinity"]
    user = execute.user if execute.argv else "0"
    root = user in ("0", "root", "")
    files = "etc/passwd etc/group" if before else "/etc/passwd /etc/group"
    lines = ["", "# the program: no privilege beyond these, and none to be gained"]
    home = "/root"
    if not root:
        lines += _lookup(user, *files.split())
        home = ""
    if not before and not last and execute.argv and execute.workdir != "/":
        lines.append(f"cd {quote(execute.workdir)}")
    limits = ["--no-new-privs", "--inh-caps=-all", f"--bounding-set={_capabilities(execute.capabilities)}"]
    ids = [] if root else ['--reuid="$uid"', '--regid="$gid"', '--groups="$groups"']
    environment = _environment(execute.environment, home)
    if execute.init and execute.argv:
        lines.append(comment("its parent, process 1, is a small init that reaps and passes signals on"))
        own = ["setpriv", *ids, "--"] if ids else []
        init = words(["setpriv", *limits, "--", "sh", "-c", INIT, "init"])
        command = [words([*before, "env", "-i"]), *environment, init, *own, *_words(last), words(argv)]
    else:
        command = [words([*before, "env", "-i"]), *environment, "setpriv", *ids, words(limits), "--"]
        command += [*_words(last), words(argv)]
    if execute.tty:
        lines.append(comment("in the lab its output goes to two terminals of its own; here it goes to this one"))
    return [*lines, *late, f"exec {' '.join(command)} < /dev/null"]


def _words(values: list[str]) -> list[str]:
    return [words(values)] if values else []


def _capabilities(names: Iterable[str]) -> str:
    return ",".join(["-all", *(f"+{name.lower()}" for name in names)])


def _environment(entries: Iterable[str], home: str) -> list[str]:
    """``NAME=value`` words; an empty HOME becomes the user's (`home`, or the shell variable of that name)."""
    variables = dict(entry.split("=", 1) for entry in entries)
    found = []
    if not variables.setdefault("HOME", ""):
        variables["HOME"] = home
        if not home:
            del variables["HOME"]
            found = ['HOME="$home"']
    return [*(quote(f"{name}={value}") for name, value in variables.items()), *found]


def _lookup(user: str, passwd: str, groups: str) -> list[str]:
    """Shell variables uid, gid, groups and home of a user, looked up in the container's own files.

    A number that is in no file is taken as it is, with group 0 and home ``/``.
    """
    name, _, group = user.partition(":")
    entry = f"awk -F: -v u={quote(name)} '$1 == u || $3 == u {{ print; exit }}' {passwd}"
    lines = [
        f"entry=$({entry} || :)",
        f'[ -n "$entry" ] || entry={quote(f"{name}::{name}:0::/:")}',
        'uid=$(echo "$entry" | cut -d: -f3) gid=$(echo "$entry" | cut -d: -f4) home=$(echo "$entry" | cut -d: -f6)',
    ]
    if group:
        found = f"awk -F: -v g={quote(group)} '$1 == g || $3 == g {{ print $3; exit }}' {groups}"
        return [*lines, f"gid=$({found} || :); gid=${{gid:-{quote(group)}}} groups=$gid"]
    member = """'("," $4 ",") ~ ("," u ",") { printf ",%s", $3 }'"""
    return [
        *lines,
        'login=$(echo "$entry" | cut -d: -f1)',
        f'groups=$gid$(awk -F: -v u="$login" {member} {groups} || :)',
    ]
