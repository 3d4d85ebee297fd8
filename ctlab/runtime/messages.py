"""What the owner and the supervisor say to each other: every request, answer and event, its fields and their types.

One definition for both sides. On the wire a message is a list, its kind first and then its fields in order (`protocol`
makes JSON of it), and both sides check what arrives (`shapes`): the supervisor refuses what has another shape; for the
owner, who takes whatever comes from inside for anybody's, the lab is over. Who adds a field here has to give it in all
places that make such a message, and to nothing else. Lean: see `kernel.lean`.
"""

from __future__ import annotations

from .packets import MOST_DESCRIPTORS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Mapping
    from typing import Any, NamedTuple
else:
    from ..plan._record import NamedTuple  # the same, without the import of `typing`


# -- requests: start ----------------------------------------------------------------------------
class Start(NamedTuple):
    """Start a container, new or again: `Running`. A descriptor comes along if its program has a `body`."""

    id: str
    key: int  # the sampler's and the collector's number for it
    name: str
    prepare: list[Any] | None  # operations that make its slot; None: one that was made in advance will do
    filter: str | None  # its own filter of system calls, in base64; None: the lab's
    prepare_again: list[Any] | None  # as `prepare`, where it has run before
    network: str  # "own", "node", or the id of the container whose it shares
    node_operations: list[Any]
    inside: list[Any]  # operations for its first process, the program last
    limits: list[list[Any]]  # writes beside those of its slot: controller, file, value, whether the file may be absent
    processes: int  # how many it may have where no cgroup counts them; 0: any
    mounts: list[str]  # host paths, for the keeper
    idmap: bool
    endpoints: list[Any]  # [network, addresses], for the resolver
    links: list[Any]  # [endpoint key, name of the node's end], for the sampler
    remove_at_exit: bool
    start: int  # which start of the owner's this is
    body: str  # "stdin", "script" or ""


class StartMany(NamedTuple):
    """Start all of these or none: `Ok`."""

    starts: list[Start]


class MayStart(NamedTuple):
    """Whether so many could be started once the containers `ended` have: `Ok`, or what is known to be in their way."""

    ended: list[str]
    starts: int
    writes: bool  # whether they have a program, and so streams
    again: bool  # they are what is to be started
    network: str  # as of `Start`
    named: bool  # whether it has addresses


class FirstProcesses(NamedTuple):
    """The first processes of containers: `Firsts`."""

    ids: list[str]


class Image(NamedTuple):
    """Prepare an image folder under a key: `Ok`. `kind`: "folder", at `path`; "archive", which comes along."""

    key: str
    kind: str
    path: str


# -- requests: run in it ------------------------------------------------------------------------
class Exec(NamedTuple):
    """Run a program, with its three streams, and a script's, as descriptors: `Begun` or `Ended`, see there."""

    id: str
    execution: int
    argv: list[str]
    tty: bool
    detached: bool
    environment: list[str]
    workdir: str
    user: str
    capabilities: list[str]
    processes: int  # as of `Start`
    script_descriptor: int | None
    window: list[int] | None  # rows and columns of one terminal of a person that it gets instead of its streams


class SignalExecution(NamedTuple):
    """A signal to such a program, or to its whole process group, if it still runs: `Ok`."""

    execution: int
    signal: int
    group: bool


class ResizeExecution(NamedTuple):
    """Another size for the terminal of such a program, as of `Exec`: `Ok`."""

    execution: int
    window: list[int]


class Logs(NamedTuple):
    """The ring of what a container wrote, once all that was written by now is in it: `Output`."""

    id: str


class Follow(NamedTuple):
    """The same at once, and news of it on the eventfd that comes along: `Followed`."""

    id: str
    follower: int


class Unfollow(NamedTuple):
    """No more news: `Ok`."""

    id: str
    follower: int


# -- requests: change ---------------------------------------------------------------------------
class Wait(NamedTuple):
    """`Exit`, when the container has exited. `start`: of which start it is the end; 0, the present one."""

    id: str
    start: int


class Signal(NamedTuple):
    """A signal to its first process: `Seen`. `start`: of which start that is; 0, the present one."""

    id: str
    signal: int
    only_if_seen: bool  # not sent to one that would not see it
    start: int


class Interrupt(NamedTuple):
    """A signal to the process group of its first process, as a terminal sends one: `Ok`. `start`: as of `Signal`.

    A first process that would not see it is killed, once the others have ended.
    """

    id: str
    signal: int
    start: int


class Remove(NamedTuple):
    """Kill it if it runs, and forget it: `Ok`."""

    id: str


class Pause(NamedTuple):
    """Freeze or thaw it: `State`."""

    id: str
    frozen: bool


class Limits(NamedTuple):
    """Change its limits: `Ok`, or `LimitRefusal` with all as it was. Writes are as of `Start`."""

    id: str
    writes: list[list[Any]]
    undo: list[list[Any]]
    memory_bytes: int | None  # the limit, where it is a lower one


class Attach(NamedTuple):
    """Give it an endpoint: `Ok`. The fields are as of `Start`."""

    id: str
    node_operations: list[Any]
    inside: list[Any]
    endpoints: list[Any]
    links: list[Any]


class Detach(NamedTuple):
    """Take an endpoint away: `Ok`. The fields are as of `Start`."""

    id: str
    node_operations: list[Any]
    inside: list[Any]
    endpoints: list[Any]
    links: list[Any]


class Rename(NamedTuple):
    """It is called otherwise from now on: `Ok`."""

    id: str
    name: str
    endpoints: list[Any]


class Configure(NamedTuple):
    """What makes a slot, and how many to keep ready: `Ok`. Limits are as of `Start`."""

    operations: list[Any]
    limits: list[list[Any]]
    slots: int
    filter: list[str]  # of the lab's filter of system calls the early and the late part, in base64


class Perform(NamedTuple):
    """Node operations: `Ok`."""

    operations: list[Any]


# -- requests: look, copy -----------------------------------------------------------------------
class Top(NamedTuple):
    """Its processes: `Table`."""

    id: str


class Facts(NamedTuple):
    """What the kernel says of it: `Known`."""

    id: str


class MemoryKills(NamedTuple):
    """Whether something in it was killed for its memory limit since this was last asked, or a signal sent: `Killed`."""

    id: str


class Listening(NamedTuple):
    """The TCP ports on which something in it listens: `Ports`."""

    id: str


class Dump(NamedTuple):
    """A netlink dump, of its network namespace or (None) of the node's: `Dumped`. `request`: in hex."""

    id: str | None
    request: str


class Rings(NamedTuple):
    """The rings of counters: `Counters`."""


class Sampler(NamedTuple):
    """Pass an order on to the sampler (interval, pause, resume, now): `Ok`; of now once it has been done."""

    order: dict[str, Any]


class Costs(NamedTuple):
    """What the lab's own processes use: `Used`."""


class Kind(NamedTuple):
    """What lies at a path of a container: `Lies`."""

    id: str
    path: str


class Names(NamedTuple):
    """The names in a folder of a container: `Named`."""

    id: str
    path: str


class CopyOut(NamedTuple):
    """Write a path of a container, as a tar stream, to the descriptor that comes along: `Copied`."""

    id: str
    path: str


class CopyIn(NamedTuple):
    """Unpack the tar stream on the descriptor that comes along into a folder of a container: `Copied`."""

    id: str
    path: str


# -- answers ------------------------------------------------------------------------------------
class Ok(NamedTuple):
    """It is done."""


class Failure(NamedTuple):
    """The answer to any request that failed. `kind`: a name in `errors.KINDS`; `errno`: 0 where no call failed."""

    kind: str
    message: str
    errno: int


class LimitRefusal(NamedTuple):
    """`write`: which one of `Limits` the kernel refused; -1: none was tried, since more memory than that is in use."""

    write: int
    errno: int
    usage_bytes: int | None


class Running(NamedTuple):
    """A program has been exec'ed. The kernel tells its pid beside the message, but for a VM's, whose own `pid` is."""

    marks: list[Any]  # where the time went: what, monotonic nanoseconds
    pid: int


class Firsts(NamedTuple):
    """Of the ids that run, pidfds come along; out of a VM, where none can, `pids`."""

    ids: list[str]
    pids: list[int]


class Begun(NamedTuple):
    """A detached program runs; or, before `Ended`, one on terminals.

    Their masters come along: of stdout and stderr; of a person's the one, out of a VM a pipe from it and one to it.
    """


class Ended(NamedTuple):
    """A program that was waited for has ended."""

    returncode: int


class Output(NamedTuple):
    """The ring comes along, unless the container has been removed meanwhile."""


class Followed(NamedTuple):
    """The ring comes along."""


class Exit(NamedTuple):
    """How a container has ended."""

    returncode: int | None
    oom_killed: bool
    state: str
    start: int


class Seen(NamedTuple):
    """Whether the process has a handler for the signal: what is PID 1 sees no other."""

    seen: bool


class State(NamedTuple):
    """paused or running."""

    state: str


class Process(NamedTuple):
    """One of a `Table`. `parent`: 0 where it isn't in the container."""

    pid: int
    parent: int
    user: int
    state: str
    cpu_seconds: float
    memory_bytes: int
    command: str


class Table(NamedTuple):
    """Processes of a container, by their numbers in it."""

    processes: list[Process]


class Known(NamedTuple):
    """What the kernel says of a container."""

    state: str
    returncode: int | None
    namespaces: dict[str, int]  # kind → inode
    memory_usage_bytes: int | None
    cgroup_folder: str | None


class Killed(NamedTuple):
    """Whether something was killed for memory."""

    by_memory: bool


class Ports(NamedTuple):
    """TCP ports, in order."""

    ports: list[int]


class Dumped(NamedTuple):
    """The kernel's own messages, in hex."""

    reply: str


class Counters(NamedTuple):
    """The rings of containers' and of endpoints' counters come along."""


class Used(NamedTuple):
    """Process of the lab → resident_bytes, cpu_seconds; and of its storage bytes and inodes: all, used, free."""

    processes: dict[str, dict[str, float]]
    storage: dict[str, int]


class Lies(NamedTuple):
    """folder, file or nothing."""

    kind: str


class Copied(NamedTuple):
    """What was left out of a copy: the first ones, each its name and why, and how many."""

    skipped: list[list[str]]
    skipped_count: int


class Named(NamedTuple):
    """Names, those of folders with a slash behind them."""

    names: list[str]


# -- events -------------------------------------------------------------------------------------
class Started(NamedTuple):
    """A container runs."""

    id: str


class Changed(NamedTuple):
    """A container is paused or running again."""

    id: str
    state: str


class Exited(NamedTuple):
    """A container has ended; the rest is as of `Exit`."""

    id: str
    returncode: int | None
    oom_killed: bool
    state: str
    start: int


class ExecutionEnded(NamedTuple):
    """A detached program has ended."""

    execution: int
    returncode: int


class Note(NamedTuple):
    """A line for the lab's notes."""

    text: str


class SamplerError(NamedTuple):
    """The sampler couldn't do something."""

    message: str


class HelperDied(NamedTuple):
    """A helper of the lab's has ended: how; whether there is a new one; what is lost, or why there is none."""

    helper: str
    how: str
    again: bool
    lost: str


class Gone(NamedTuple):
    """The lab has ended. Told by the owner's side to itself: on no wire."""

    unexpected: bool
    why: str


REQUESTS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        Start, StartMany, MayStart, FirstProcesses, Image, Exec, SignalExecution, ResizeExecution, Logs, Follow,
        Unfollow, Wait, Signal, Interrupt, Remove, Pause, Limits, Attach, Detach, Rename, Configure, Perform, Top,
        Facts, MemoryKills, Listening,
        Dump, Rings, Sampler, Costs, Kind, Names, CopyOut, CopyIn,
    )
}  # fmt: skip
ANSWERS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        Ok, Failure, LimitRefusal, Running, Firsts, Begun, Ended, Output, Followed, Exit, Seen, State, Table, Known,
        Killed, Ports, Dumped, Counters, Used, Lies, Copied, Named,
    )
}  # fmt: skip
EVENTS: dict[str, Any] = {
    kind.__name__: kind for kind in (Started, Changed, Exited, ExecutionEnded, Note, SamplerError, HelperDied)
}
PARTS: dict[str, Any] = {kind.__name__: kind for kind in (Start, Process)}  # that occur in other messages

# How many descriptors may come with an answer; with all others none, nor with an event.
BRINGS: Mapping[type, Container[int]] = {
    Begun: (0, 1, 2), Output: (1,), Followed: (1,), Counters: (2,), Firsts: range(MOST_DESCRIPTORS + 1),
}  # fmt: skip
NOTHING: Container[int] = (0,)
