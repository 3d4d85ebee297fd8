"""`--security-opt`: what of Docker's words goes in a lab, read once, by the owner. The kernel isn't asked here."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from . import filters
from .errors import BadInput, Unsupported
from .reading import open_file
from .seccomp import docker
from .spelling import option

DEFAULT, UNCONFINED = "default", "unconfined"
_THERE_ARE = "there are no-new-privileges, seccomp=unconfined and seccomp=FILE"
_ABSENT = {
    "label": "a lab's containers have no SELinux labels of their own",
    "apparmor": "a lab's containers have no AppArmor profile of their own",
    "systempaths": "what is masked in /proc and /sys stays so",
    "mask": "what is masked in /proc and /sys stays so",
    "unmask": "what is masked in /proc and /sys stays so",
    "proc-opts": "each container has a /proc of its own, as it is",
    "credentialspec": "that is for Windows",
}


class Filter(NamedTuple):
    """The filter of system calls that was asked for.

    `profile`: ``default``, ``unconfined``, or the text of a file in Docker's format. `source`: what was typed for it.
    """

    profile: str = DEFAULT
    source: str = DEFAULT


def read(words: Iterable[str]) -> Filter:
    """The filter that the words ask for; each is checked.

    Raises BadInput, NotFound (no such file), Unsupported (what Docker has and a lab hasn't).
    """
    found: Filter | None = None
    for word in words:
        name, separator, value = word.partition("=") if "=" in word else word.partition(":")
        name = name.strip()
        if name == "no-new-privileges":
            _check_on(word, value if separator else "true")
        elif name == "seccomp":
            given = _filter(word, value)
            if found is not None and found != given:
                raise BadInput(f"{option('security-opt', 'seccomp')} is given twice: {found.source} and {given.source}")
            found = given
        elif name in _ABSENT:
            raise Unsupported(f"{option('security-opt', word)}: {_ABSENT[name]}; {_THERE_ARE}")
        else:
            raise BadInput(f"{option('security-opt', word)}: {_THERE_ARE}")
    return found or Filter()


def _check_on(word: str, value: str) -> None:
    if value.lower() in ("false", "0"):
        raise Unsupported(
            f"{option('security-opt', word)}: a container's programs never gain privileges by setuid files"
        )
    if value.lower() not in ("true", "1"):
        raise BadInput(f"{option('security-opt', word)}: no-new-privileges is true, always")


def _filter(word: str, value: str) -> Filter:
    if value == UNCONFINED:
        return Filter(UNCONFINED, UNCONFINED)
    if value in (DEFAULT, "builtin"):
        return Filter()
    if not value:
        raise BadInput(f"{option('security-opt', word)}: write seccomp=unconfined or seccomp=FILE")
    path = os.path.abspath(os.path.expanduser(value))
    return Filter(_profile(path), path)


def _profile(path: str) -> str:
    """The text of a profile in Docker's format."""
    with open(open_file(path, option("security-opt", f"seccomp={path}")), "rb") as file:
        data = file.read(docker.MAX_BYTES + 1)
    filters.check(data, path)
    return data.decode()
