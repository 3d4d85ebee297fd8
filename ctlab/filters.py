"""Which filter of system calls the programs of a container have: compiled by the owner, sent as bytes.

A lab's slots are made with the filter of a container with the default capabilities; another filter (a profile of the
person's own, none at all, or one that capabilities open) goes with the order to start.
"""

from __future__ import annotations

import base64
import functools
import os
from typing import TYPE_CHECKING

from .errors import BadInput
from .kernel.capabilities import DEFAULT
from .seccomp import docker
from .seccomp.compile import digest, passes, program
from .seccomp.default import PROFILE
from .seccomp.profile import Profile
from .spelling import option

if TYPE_CHECKING:
    from .spec import ContainerSpec

_EARLY, _LATE, _WHOLE = "early", "late", "whole"


def of_lab() -> list[str]:
    """The two parts of the filter that slots are made with, each in base64."""
    return [_text(_default(part)) for part in (_EARLY, _LATE)]


def own(spec: ContainerSpec, kernel_release: str) -> str | None:
    """A container's own filter in base64, ``""`` for none at all; None: that of the lab."""
    if spec.seccomp == "unconfined":
        return ""
    found = _whole(spec, kernel_release)
    return None if found == _default(_WHOLE) else _text(found)


def describe(spec: ContainerSpec, kernel_release: str) -> dict[str, str]:
    """What `inspect` shows: whose profile it is, and a digest of the program."""
    if spec.seccomp == "unconfined":
        return {"profile": "unconfined", "program": ""}
    return {"profile": spec.seccomp_source, "program": digest(_whole(spec, kernel_release))}


def reopened(spec: ContainerSpec, kernel_release: str) -> str:
    """What to say of a filter that lets keyctl through, "" of others: a lab's root is, for keys, who started it."""
    if spec.seccomp != "unconfined" and not _passes_keyctl(*_what_decides(spec), kernel_release):
        return ""
    why = f"seccomp={spec.seccomp_source} lets keyctl through"
    return f"{why}: nothing keeps its programs from your own keys in the kernel"


def check(text: bytes, source: str) -> None:
    """Raise BadInput for a text that is no profile in Docker's format; the place in it is named."""
    try:
        docker.parse(text, source, _version(os.uname().release))
    except BadInput as error:
        raise _as_typed(error) from None


@functools.lru_cache
def _default(part: str) -> bytes:
    return program(PROFILE, frozenset(DEFAULT), os.uname().machine, part)


def _whole(spec: ContainerSpec, kernel_release: str) -> bytes:
    return _compiled(*_what_decides(spec), kernel_release)


def _what_decides(spec: ContainerSpec) -> tuple[str, str, frozenset[str]]:
    return spec.seccomp, spec.seccomp_source, frozenset(spec.capabilities)


@functools.lru_cache
def _compiled(text: str, source: str, capabilities: frozenset[str], kernel_release: str) -> bytes:
    try:
        return program(_profile(text, source, kernel_release), capabilities, os.uname().machine)
    except BadInput as error:
        raise _as_typed(error) from None


@functools.lru_cache
def _passes_keyctl(text: str, source: str, capabilities: frozenset[str], kernel_release: str) -> bool:
    return passes(_profile(text, source, kernel_release), capabilities, os.uname().machine, "keyctl")


def _as_typed(error: BadInput) -> BadInput:
    """What is wrong with a profile, after the option that named its file."""
    path, _, wrong = str(error).removeprefix("seccomp profile ").partition(": ")
    return BadInput(f"{option('security-opt', f'seccomp={path}')}: {wrong}")


def _profile(text: str, source: str, kernel_release: str) -> Profile:
    return PROFILE if text == "default" else docker.parse(text.encode(), source, _version(kernel_release))


def _version(release: str) -> tuple[int, int]:
    """(6, 12) of ``6.12.1-generic``."""
    major, minor, *_ = (*release.split("."), "0")
    digits = "".join(character for character in minor if character.isdigit())
    return int(major), int(digits or 0)


def _text(code: bytes) -> str:
    return base64.b64encode(code).decode()
