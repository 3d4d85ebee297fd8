"""What a recorded lab and its containers answer to a verb that needs a running one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import StateError

if TYPE_CHECKING:
    import pandas

    from .recording import Recording

# What a Lab and a Container have and a recording hasn't: a test holds both beside the classes.
LAB_METHODS = {"close_views", "endpoints", "graph", "network", "run", "sampled", "say", "status", "stop", "wait_for"}
LAB_PROPERTIES = {"died", "engine", "gone", "networks", "nodes", "why_gone"}
CONTAINER_METHODS = {
    "address", "copy_in", "copy_out", "exec", "explain", "failure", "follow", "kill", "logs", "neighbours", "pause",
    "remove", "rename", "restart", "routes", "script", "start", "stop", "stream_until_end", "top", "unpause", "update",
    "wait", "write",
}  # fmt: skip
CONTAINER_PROPERTIES = {
    "all_addresses",
    "command",
    "endpoints",
    "image",
    "limits",
    "oom_killed",
    "pid",
    "returncode",
    "spec",
}
_GONE = {"pid", "namespaces", "id"}  # of what was known: numbers that lead to nothing any more


def refusal(what: str, name: str, instead: str) -> StateError:
    """The error for what needs a running lab."""
    return StateError(f"{name}: {what} is recorded and can only be looked at ({instead}); a running one: ctlab.Lab()")


def refuse(error: StateError) -> Callable[..., NoReturn]:
    """What stands in the place of a method, so that only calling it fails."""

    def method(*_: object, **__: object) -> NoReturn:
        raise error

    return method


class RecordedContainer:
    """A container of a recording: what was known of it, and its counters."""

    def __init__(self, recording: Recording, name: str) -> None:
        self.recording = recording
        self.name = name

    @property
    def state(self) -> str:
        """Its state when it was recorded."""
        return str(self.inspect()["state"])

    @property
    def addresses(self) -> dict[str, str]:
        """Network → first address, without prefix length."""
        found = (element for element in self.recording.map_elements() if element["kind"] == "endpoint")
        return {
            str(element["target"]).partition(":")[2]: str(element["label"])
            for element in found
            if element["source"] == f"container:{self.name}"
        }

    def inspect(self) -> dict[str, Any]:
        """What a live map shows of it."""
        return dict(self.recording.details(f"container:{self.name}"))

    def stats(self, **options: Any) -> pandas.DataFrame:
        """Its counters, as `Recording.stats`."""
        return self.recording.stats(self.name, **options)

    def __getattr__(self, name: str) -> Any:
        if name in CONTAINER_METHODS | CONTAINER_PROPERTIES:
            error = refusal(f"container {self.name}", name, "inspect, stats")
            if name in CONTAINER_METHODS:
                return refuse(error)
            raise error
        raise AttributeError(f"a recorded container has no attribute '{name}'")

    def __repr__(self) -> str:
        where = " ".join(f"{network} {address}" for network, address in self.addresses.items())
        return f"<RecordedContainer {self.name}: {self.state}, {where}, {self.recording.as_of}>"

    def _repr_html_(self) -> str:
        from .cards import card

        facts = {name: value for name, value in self.inspect().items() if name not in _GONE}
        return card(f"container {self.name}", facts, self.recording.as_of)


def row(container: RecordedContainer) -> dict[str, Any]:
    """What a listing shows of one."""
    from .cards import short

    where = " ".join(f"{network} {address}" for network, address in container.addresses.items())
    command = short(container.inspect().get("command", ""))
    return {"name": container.name, "state": container.state, "command": command, "networks": where}
