"""The keywords of `Lab.run` become a `ContainerSpec`: checked, completed, nothing asked of the kernel."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import security_options, units
from .errors import BadInput, NotFound, Unsupported
from .kernel.capabilities import DEFAULT, GRANTABLE, NUMBER
from .names import check_name, did_you_mean, parse_signal
from .plan.limits import PIDS_DEFAULT, Limits
from .plan.ops import is_kernels
from .reading import read_text
from .spec import SCRIPT, ContainerSpec, MountSpec
from .spelling import in_a_magic, option

MOST_MOUNTS = 250  # each is a descriptor in one message, which carries 253 (SCM_MAX_FD), and the body may be two more


def check_body(argv: list[str], count: int | None, keywords: Mapping[str, Any]) -> None:
    """What `stdin` and `script` go with; a script becomes the command that reads it."""
    given = [word for word in ("stdin", "script") if keywords.get(word) is not None]
    if not given:
        return
    if len(given) > 1:
        raise BadInput("stdin= and script= exclude each other: a script's own stdin is empty")
    if count is not None and count > 1:
        body = "a cell's body" if in_a_magic() else f"{given[0]}="
        raise BadInput(f"{body} is one container's, so it can't go with {option('count', count)}")
    if given == ["script"]:
        if argv:
            raise BadInput("script= is run by /bin/sh, so it can't go with a command")
        argv += SCRIPT
    elif not argv:
        raise BadInput("stdin= needs a command that reads it")


def check_exists(exists: str | None) -> None:
    """BadInput for a way of dealing with a name in use that there isn't."""
    if exists not in (None, "error", "keep", "replace"):
        raise BadInput(f"exists={exists!r}: error, keep or replace")


def several(value: str | Iterable[str] | None) -> list[str]:
    """A repeatable keyword: one string is a list of one."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, os.PathLike) or hasattr(value, "pools"):
        return [_text(value)]
    try:
        return [_text(item) for item in value]
    except TypeError:
        raise BadInput(f"{value!r} is neither a text nor a list of them") from None


def _text(item: object) -> str:
    """A word of a list, which may also be a path, or a Network where its name could stand."""
    if isinstance(item, os.PathLike):
        return str(os.fspath(item))
    return str(item.name) if hasattr(item, "pools") else str(item)  # type: ignore[attr-defined]  # a Network's


def limits_of(keywords: Mapping[str, Any], base: Limits | None = None) -> Limits:
    """The limits named by keywords, over `base`. A value of None leaves what is; 0 or "none" is no limit."""
    values: dict[str, Any] = {
        "cpus": base.cpus if base else None,
        "cpu_shares": base.cpu_shares if base else None,
        "cpuset_cpus": base.cpuset_cpus if base else None,
        "memory_bytes": base.memory_bytes if base else None,
        "pids_limit": base.pids_limit if base else PIDS_DEFAULT,
        "pids_default": base.pids_default if base else True,
    }
    cpus, memory = keywords.get("cpus"), keywords.get("memory")
    if cpus is not None:
        values["cpus"] = None if _lifts(cpus) else units.parse_cpus(cpus)
    if memory is not None:
        values["memory_bytes"] = None if _lifts(memory) else units.parse_size(memory)
    for name in ("cpu_shares", "pids_limit"):
        value = keywords.get(name)
        if value is not None:
            values[name] = None if _lifts(value) else whole_number(name, value)
    if keywords.get("pids_limit") is not None:
        values["pids_default"] = False
    cpuset = keywords.get("cpuset_cpus")
    if cpuset is not None:
        values["cpuset_cpus"] = None if cpuset == "none" else units.format_cpuset(units.parse_cpuset(cpuset))
    return Limits(**values)


def _lifts(value: Any) -> bool:
    """Whether a limit's value says that there is to be none."""
    return not isinstance(value, bool) and value in (0, -1, "0", "-1", "none")


def whole_number(name: str, value: Any) -> int:
    try:
        if isinstance(value, str):
            return int(value)
        if not isinstance(value, bool):
            return operator.index(value)
    except (TypeError, ValueError):
        pass
    raise BadInput(f"{option(name.replace('_', '-'), value)} isn't a whole number")


def environment(
    env: Mapping[str, Any] | Iterable[str] | None, files: Iterable[str] = ()
) -> tuple[tuple[str, str], ...]:
    """Pairs from a dictionary, ``NAME=value`` words (a bare NAME takes the notebook's own) and files of them."""
    pairs: dict[str, str] = {}
    for path in files:
        text = read_text(os.path.expanduser(path), option("env-file", path))
        lines = [line.strip() for line in text.splitlines()]
        pairs.update(environment([line for line in lines if line and not line.startswith("#")]))
    words: Iterable[str]
    if isinstance(env, Mapping):
        words = [f"{name}={value}" for name, value in env.items()]
    else:
        words = several(env)
    for word in words:
        name, equals, value = word.partition("=")
        if not re.fullmatch(r"[^\s=\0]+", name):
            raise BadInput(f"{option('env', word)}: write NAME=value")
        if equals:
            pairs[name] = value
        elif name in os.environ:
            pairs[name] = os.environ[name]
        else:
            raise BadInput(f"{option('env', name)}: the notebook has no variable of that name; write {name}=value")
    if any("\0" in value for value in pairs.values()):
        raise BadInput("environment: a value can't hold a zero byte")
    return tuple(pairs.items())


def mount(text: str | MountSpec) -> MountSpec:
    """``SRC:DST``, ``SRC:DST:ro`` or ``type=bind,source=…,target=…[,readonly]``; SRC is relative to this folder."""
    if isinstance(text, MountSpec):
        return text
    read_only = False
    if "=" in text and "target=" in text.replace("destination=", "target=").replace("dst=", "target="):
        source = target = ""
        for part in text.split(","):
            name, _, value = part.partition("=")
            if name == "type" and value != "bind":
                raise Unsupported(f"mount type={value}: only bind mounts are in this version")
            if name in ("source", "src"):
                source = value
            elif name in ("target", "destination", "dst"):
                target = value
            elif name in ("readonly", "ro"):
                read_only = value in ("", "true", "1")
            elif name != "type":
                raise BadInput(f"mount '{text}': no field '{name}'; there are type, source, target, readonly")
    else:
        parts = text.split(":")
        if len(parts) not in (2, 3) or not all(parts):
            raise BadInput(f"mount '{text}': write SRC:DST or SRC:DST:ro")
        source, target = parts[0], parts[1]
        if len(parts) == 3:
            if parts[2] not in ("ro", "rw"):
                raise BadInput(f"mount '{text}': the last part is ro or rw, not '{parts[2]}'")
            read_only = parts[2] == "ro"
    path = os.path.realpath(os.path.expanduser(source))  # what it is now; a link that comes later isn't followed
    if not target.startswith("/"):
        raise BadInput(f"mount '{text}': the place in the container is an absolute path, not '{target}'")
    place = os.path.normpath(f"/{target.lstrip('/')}")  # which would keep two slashes at the front
    if is_kernels(place):
        raise BadInput(f"mount '{text}': {place} is the container's own")
    check_source(path)
    return MountSpec(path, place, read_only)


def check_source(path: str) -> None:
    """Raises NotFound for a mount of what isn't there."""
    if not os.path.exists(path):
        raise NotFound(f"mount source {path} does not exist (ENOENT)")


def capabilities(add: Iterable[str], drop: Iterable[str]) -> tuple[str, ...]:
    """The default set, with what is added and dropped."""
    chosen = set(DEFAULT)
    for word in drop:
        name = word.upper().removeprefix("CAP_")
        if name == "ALL":
            chosen.clear()
        elif name in NUMBER:
            chosen.discard(name)
        else:
            raise BadInput(f"{option('cap-drop', word)}: no such capability{did_you_mean(name, NUMBER)}")
    for word in add:
        name = word.upper().removeprefix("CAP_")
        if name == "ALL":
            raise Unsupported(
                f"{option('cap-add', 'ALL')} isn't in ctlab; name what is needed, of {', '.join(sorted(GRANTABLE))}"
            )
        if name not in NUMBER:
            raise BadInput(f"{option('cap-add', word)}: no such capability{did_you_mean(name, NUMBER)}")
        if name not in GRANTABLE:
            raise Unsupported(
                f"{option('cap-add', name)} isn't in ctlab: containers share the lab's user namespace, "
                "so it would reach the whole lab"
            )
        chosen.add(name)
    return tuple(sorted(chosen, key=lambda name: NUMBER[name]))


def container_spec(
    name: str, command: Sequence[str], networks: tuple[str, ...], keywords: Mapping[str, Any]
) -> ContainerSpec:
    """A checked spec; `networks` are names that exist, or one of host, none, container:ID."""
    check_name("container", name)
    hostname = keywords.get("hostname") or _hostname(name)
    if (
        not re.fullmatch(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9-]+)*", hostname)
        or len(hostname) > 64
    ):
        raise BadInput(
            f"{option('hostname', hostname)} isn't a host name (RFC 1123: letters, digits and -, at most 63 a label)"
        )
    workdir = keywords.get("workdir") or "/"
    if not str(workdir).startswith("/"):
        raise BadInput(f"{option('workdir', workdir)}: an absolute path, please")
    stop_signal = keywords.get("stop_signal") or "SIGTERM"
    parse_signal(stop_signal)
    timeout = keywords.get("stop_timeout")
    mode = (
        networks[0]
        if networks and (networks[0] in ("host", "none") or networks[0].startswith("container:"))
        else "bridge"
    )
    security = several(keywords.get("security_opt"))
    seccomp = security_options.read(security)
    labels = keywords.get("labels")
    label_pairs = (
        labels.items() if isinstance(labels, Mapping) else (word.partition("=")[::2] for word in several(labels))
    )
    return ContainerSpec(
        name=name,
        image=str(keywords.get("image") or "system"),
        command=tuple(str(word) for word in command),
        env=environment(keywords.get("env"), several(keywords.get("env_file"))),
        workdir=str(workdir),
        user=user_word(keywords.get("user")) or "0",
        hostname=hostname,
        init=bool(keywords.get("init")),
        tty=bool(keywords.get("tty")),
        rm=bool(keywords.get("rm")),
        read_only=bool(keywords.get("read_only")),
        mounts=_bounded([mount(word) for word in _mounts(keywords.get("mounts"))]),
        limits=limits_of(keywords),
        capabilities=capabilities(several(keywords.get("cap_add")), several(keywords.get("cap_drop"))),
        security_opt=tuple(security),
        seccomp=seccomp.profile,
        seccomp_source=seccomp.source,
        stop_signal=str(stop_signal),
        stop_timeout_seconds=10.0 if timeout is None else units.parse_duration(timeout),
        network_mode=mode,
        networks=() if mode != "bridge" else networks,
        node=str(keywords.get("node") or "host"),
        labels=tuple((str(a), str(b)) for a, b in label_pairs),
    )


def _mounts(value: Any) -> list[str | MountSpec]:
    if value is None:
        return []
    if isinstance(value, str | MountSpec):
        return [value]
    if isinstance(value, Mapping):
        return [f"{source}:{target}" for source, target in value.items()]
    return list(value)


def _bounded(mounts: list[MountSpec]) -> tuple[MountSpec, ...]:
    if len(mounts) > MOST_MOUNTS:
        raise BadInput(
            f"{len(mounts)} mounts: a container has {MOST_MOUNTS} at most; mount a folder that holds several"
        )
    return tuple(mounts)


def user_word(value: str | int | None) -> str | None:
    """Who a program runs as: ``name``, ``uid``, ``uid:gid``, or a number. None where nobody is named."""
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadInput(f"{option('user', value)}: a name, a number, or both parts as 'user:group'")
    return str(value)


def _hostname(name: str) -> str:
    """A host name from a container's name: what a host name can't hold becomes a hyphen."""
    return re.sub(r"[^a-zA-Z0-9-]+", "-", name).strip("-")[:63] or "container"
