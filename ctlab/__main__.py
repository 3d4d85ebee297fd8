"""``python -m ctlab doctor|prune|seccomp|shell|version|vm``: what can be done without a notebook, or beside one."""

from __future__ import annotations

import argparse
import os
import signal
import sys


def _doctor(arguments: argparse.Namespace) -> int:
    from .doctor import doctor

    report = doctor()
    if arguments.json:
        import dataclasses
        import json

        probes = [dataclasses.asdict(item) for item in report]
        head = {"usable": report.usable, "why_not": report.why_not, "place": report.place, "ids": report.ids}
        print(json.dumps({**head, "probes": probes}, indent=1))
    else:
        print(report)
    return 0 if report.usable else 1


def _prune(arguments: argparse.Namespace) -> int:
    from .runtime import prune

    prune.main()
    return 0


def _seccomp(arguments: argparse.Namespace) -> int:
    from .errors import BadInput
    from .seccomp import told

    try:
        print(told.about(arguments.call) if arguments.call else told.table())
    except BadInput as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _vm(arguments: argparse.Namespace) -> int:
    from .vm import command

    return command.do_prepare() if arguments.what == "prepare" else command.do_status()


def _shell(arguments: argparse.Namespace) -> int:
    from . import terminal

    return terminal.main(arguments.lab, arguments.container, arguments.command)


def _version(arguments: argparse.Namespace) -> int:
    from importlib import metadata

    try:
        print(f"ctlab {metadata.version('ctlab')}")
    except metadata.PackageNotFoundError:
        print("ctlab (not installed: run from its source folder)")
    return 0


def main(words: list[str] | None = None) -> int:
    """Parse `words` (default: the command line) and do it; the exit status. A wrong command line exits with 2."""
    parser = argparse.ArgumentParser(prog="python -m ctlab", description="Container-networking laboratory")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verb = verbs.add_parser("doctor", help="try what this machine can do; exit status 1 if no lab can start")
    verb.add_argument("--json", action="store_true", help="as JSON")
    verb.set_defaults(do=_doctor)
    verbs.add_parser("prune", help="remove what labs that died have left").set_defaults(do=_prune)
    verb = verbs.add_parser("seccomp", help="what the default filter of system calls refuses, and why; or of a call")
    verb.add_argument("call", metavar="CALL", nargs="*")
    verb.set_defaults(do=_seccomp)
    verb = verbs.add_parser(
        "shell",
        help="a shell in a container, or what stands behind --, in this terminal; %%container shell prints the line",
    )
    verb.add_argument("lab", metavar="LAB", help="the lab's name, id or runtime folder")
    verb.add_argument("container", metavar="CONTAINER")
    verb.add_argument("command", metavar="-- COMMAND", nargs="*")
    verb.set_defaults(do=_shell)
    verbs.add_parser("version", help="print the version").set_defaults(do=_version)
    verb = verbs.add_parser("vm", help="what a lab on a kernel of its own boots from")
    verb.add_argument("what", choices=("prepare", "status"), help="make it ready now, or show what there is")
    verb.set_defaults(do=_vm)
    words = sys.argv[1:] if words is None else words
    end = words.index("--") if "--" in words else len(words)  # argparse takes a second one away in some versions
    arguments = parser.parse_args(words[:end])
    if words[end + 1 :]:
        if arguments.verb != "shell":
            parser.error(f"nothing can follow -- here: {words[end + 1]}")
        arguments.command = [*arguments.command, *words[end + 1 :]]
    try:
        status: int = arguments.do(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # who read along (`| head`) has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter would flush into it, too
        return 128 + signal.SIGPIPE
    return status


if __name__ == "__main__":
    sys.exit(main())
