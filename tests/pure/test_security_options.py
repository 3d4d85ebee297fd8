"""What `--security-opt` takes: Docker's words, read into the spec, each with one line where it can't be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ctlab.errors import BadInput, CtlabError, NotFound, Unsupported
from ctlab.request import container_spec
from ctlab.seccomp.docker import MAX_BYTES
from ctlab.security_options import read

pytestmark = pytest.mark.usefixtures("in_a_magic")  # for how options are spelled
PROFILE = '{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []}'


def test_the_default() -> None:
    assert read([]) == ("default", "default") == read(["no-new-privileges"]) == read(["seccomp=builtin"])
    assert read(["no-new-privileges:true", "no-new-privileges=true"]) == ("default", "default")


def test_no_filter() -> None:
    assert read(["seccomp=unconfined"]) == ("unconfined", "unconfined")
    assert read(["seccomp:unconfined", "no-new-privileges"]) == ("unconfined", "unconfined")


def test_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "profile=1:2.json"
    file.write_text(PROFILE)
    assert read([f"seccomp={file}"]) == (PROFILE, str(file))
    monkeypatch.chdir(tmp_path)
    assert read(["seccomp=profile=1:2.json"]) == (PROFILE, str(file))


def test_the_spec(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_text(PROFILE)
    words = [f"seccomp={file}", "no-new-privileges"]
    spec = container_spec("c", ["true"], (), {"security_opt": words})
    assert (spec.seccomp, spec.seccomp_source, spec.security_opt) == (PROFILE, str(file), tuple(words))
    spec = container_spec("c", ["true"], (), {"security_opt": "seccomp=unconfined"})
    assert (spec.seccomp, spec.security_opt) == ("unconfined", ("seccomp=unconfined",))
    assert container_spec("c", ["true"], (), {}).seccomp == "default"


@pytest.mark.parametrize(
    ("word", "kind", "says"),
    [
        ("", BadInput, "'': there are no-new-privileges, seccomp=unconfined and seccomp=FILE"),
        ("nonsense", BadInput, "nonsense: there are"),
        ("seccomp", BadInput, "write seccomp=unconfined or seccomp=FILE"),
        ("seccomp=", BadInput, "write seccomp=unconfined or seccomp=FILE"),
        ("no-new-privileges=false", Unsupported, "never gain privileges"),
        ("no-new-privileges=perhaps", BadInput, "is true, always"),
        ("apparmor=unconfined", Unsupported, "no AppArmor profile of their own; there are"),
        ("label=disable", Unsupported, "no SELinux labels"),
        ("label:disable", Unsupported, "no SELinux labels"),
        ("systempaths=unconfined", Unsupported, "masked in /proc"),
        ("seccomp=/no/where.json", NotFound, "ENOENT"),
        ("seccomp=/", NotFound, "EISDIR"),
        ("seccomp=/dev/null", BadInput, "it is a device, not a file"),
        ("seccomp=/dev/zero", BadInput, "it is a device, not a file"),
    ],
)
def test_what_it_refuses(word: str, kind: type[CtlabError], says: str) -> None:
    with pytest.raises(kind) as caught:
        read([word])
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("--security-opt ")


def test_two_filters_are_one_too_many() -> None:
    with pytest.raises(BadInput, match="given twice: unconfined and default"):
        read(["seccomp=unconfined", "seccomp=default"])
    assert read(["seccomp=unconfined", "seccomp=unconfined"]).profile == "unconfined"


@pytest.mark.parametrize("name", ["a\0b", "\0", "\ud800"])
def test_what_is_no_path(name: str) -> None:
    with pytest.raises(BadInput, match=r"^--security-opt 'seccomp=/.*': no file can be called that \(") as caught:
        read([f"seccomp={name}"])
    assert str(caught.value).isprintable()


def test_a_profile_is_utf8(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        path.write_bytes(PROFILE.encode(encoding))
        with pytest.raises(BadInput) as caught:
            read([f"seccomp={path}"])
        assert str(caught.value).startswith(f"--security-opt seccomp={path}: ") and "\n" not in str(caught.value)
    path.write_bytes(PROFILE.encode("utf-8-sig"))
    assert read([f"seccomp={path}"]).profile.lstrip("\ufeff") == PROFILE


@pytest.mark.parametrize("data", [b"[1]", b"{}", b'{"defaultAction"', b"\xff\xfe", b"[" * 100_000, b'"x"'])
def test_what_is_no_profile(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "profile.json").write_bytes(data)
    with pytest.raises(BadInput) as caught:
        read([f"seccomp={tmp_path}/profile.json"])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_files_that_never_end_or_never_begin(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="it is a pipe, not a file"):
        read([f"seccomp={tmp_path}/pipe"])
    (tmp_path / "large").write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(BadInput, match="larger than 1 MiB"):
        read([f"seccomp={tmp_path}/large"])


def test_what_is_no_word() -> None:
    with pytest.raises(BadInput, match="neither a text nor a list"):
        container_spec("c", ["true"], (), {"security_opt": 5})
