"""The verbs of %lab and %node, and the magics that have none: %stats and %topology."""

from __future__ import annotations

from .. import names
from ..errors import BadInput
from . import common
from .model import Absent, Noun, Option, Parsed, Subject, Verb

ENGINES = ("auto", "native", "vm")
GRANULARITIES = ("container", "endpoint", "device", "connection", "qdisc", "node")
NOT_YET = "isn't in this version"


def check_start(parsed: Parsed, cell: bool) -> None:
    """The new lab's name."""
    for name in parsed.subjects:
        names.check_name("lab", name)
    if parsed.subjects and parsed.options.get("lab", parsed.subjects[0]) != parsed.subjects[0]:
        raise BadInput("start takes the new lab's name once: as a word or with --lab")


def check_stop(parsed: Parsed, cell: bool) -> None:
    """Names, --all, or nothing: the current one."""
    if "all" in parsed.options and (parsed.subjects or "lab" in parsed.options):
        raise BadInput("--all is every lab of this notebook: give it, or names")


def check_stats(parsed: Parsed, cell: bool) -> None:
    """Options of %stats that say different things."""
    options = parsed.options
    if "last" in options and "since" in options:
        raise BadInput("--last and --since say the same thing in two ways: give one")
    if "interval" in options and "live" not in options:
        raise BadInput("--interval is how often --live draws; how often is sampled: %lab start --interval 50ms")
    if "keep" in options and "live" not in options:
        raise BadInput("--keep goes with --live: the dashboard before stays live too")
    for alone in ("stop", "columns"):
        others = [key for key in options if key not in (alone, "lab")]
        if alone in options and others:
            raise BadInput(f"--{alone} goes with no other option, --{others[0]} is given")


def check_topology(parsed: Parsed, cell: bool) -> None:
    """A frozen map isn't live."""
    if "keep" in parsed.options and "freeze" in parsed.options:
        raise BadInput("--keep is for a live map, --freeze makes a still one: give one")


LAB = Noun(
    "lab", "labs: each one world of containers and networks", (
        Verb(
            "lab", "start", "start a lab", (
                Option("interval", "", "TIME", "duration", help="how often counters are read (100ms)"),
                Option(
                    "engine", "", "ENGINE", "choice", choices=ENGINES,
                    help="native: this machine's kernel; vm: one of its own (auto)",
                ),
                Option("vm-memory", "", "SIZE", "size", help="the VM's memory (512M)"),
                Option("vm-cpus", "", "N", "count", help="the VM's CPUs (1)"),
                Option("vm-if-needed", kind="flag", help="a VM where this machine's kernel can't"),
                Option("storage", "", "SIZE", "size", help="what containers may write, together (a quarter of memory)"),
                common.EXISTS_OPTION, common.LAB,
            ),
            (Subject("NAME", "new", optional=True),),
            absent=(Absent("uplink", f"--uplink {NOT_YET}: networks stay inside the lab"),), check=check_start,
        ),
        Verb(
            "lab", "stop", "end a lab and all that is in it", (common.ALL, common.LAB),
            (Subject("NAME", "lab", optional=True, repeated=True),), check=check_stop,
        ),
        Verb("lab", "status", "what the lab holds", (common.LAB,), (Subject("NAME", "lab", optional=True),)),
        Verb("lab", "ls", "the labs of this notebook", (common.QUIET_LIST, common.LAB), aliases=("list", "ps")),
        Verb("lab", "use", "make a lab the current one", (common.LAB,), (Subject("NAME", "lab"),)),
        Verb("lab", "doctor", "what works on this machine, and what to do about the rest", (common.LAB,)),
        Verb("lab", "prune", "clear what dead labs left", (common.FORCE_PRUNE, common.LAB)),
    ),
    "status",
    absent_verbs={
        "plan": f"%lab plan {NOT_YET}: --explain on run and on network verbs shows what they would do",
        "apply": f"%lab apply {NOT_YET}: a notebook's cells, run again, make the same world",
        "save": f"%lab save {NOT_YET}: the notebook itself is the record",
        "load": f"%lab load {NOT_YET}: a notebook's cells, run again, make the same world",
    },
)  # fmt: skip

_ONE_NODE = f"{NOT_YET}: every lab has the one node 'host'"
NODE = Noun(
    "node", "nodes: the machines of a lab",
    (Verb("node", "ls", "list nodes", (common.QUIET_LIST, common.LAB), aliases=("list", "ps")),),
    "ls",
    absent_verbs={verb: f"%node {verb} {_ONE_NODE}" for verb in ("create", "rm", "inspect", "start", "stop", "exec")},
)  # fmt: skip

STATS = Noun(
    "stats", "counters and rates as a frame, or live", (
        Verb(
            "stats", "show", "counters and rates of containers (all that there are)", (
                Option("live", kind="flag", help="draw them, moving while cells run"),
                Option("last", "", "TIME", "duration", help="how far back (30s)"),
                Option("since", "", "TIME", "moment", help="from then on: 30s ago, or a date and time"),
                Option("metrics", "", "GLOB,…", "globs", True, help="columns, by name or pattern: cpu_*,memory_bytes"),
                Option("by", "", "KIND", "choice", choices=GRANULARITIES, help="what a row is about (container)"),
                Option("interval", "", "TIME", "duration", help="how often --live draws (250ms)"),
                Option("columns", kind="flag", help="the columns that there are, with units and sources"),
                Option("keep", kind="flag", help="the dashboard before stays live too"),
                Option("stop", kind="flag", help="make the live dashboard static"),
                common.LAB,
            ),
            (Subject("CONTAINER", "container", optional=True, repeated=True),), check=check_stats,
        ),
    ),
    "show", implicit=True,
)  # fmt: skip

TOPOLOGY = Noun(
    "topology", "the lab as a map, live", (
        Verb(
            "topology", "show", "the lab as a map, live", (
                Option("keep", kind="flag", help="the map before stays live too"),
                Option("freeze", kind="flag", help="a still picture"),
                common.LAB,
            ),
            check=check_topology,
        ),
    ),
    "show", implicit=True,
)  # fmt: skip

LATER = (
    Noun("link", "wires", later=f"%link {NOT_YET}: containers meet on networks (%network create NAME)"),
    Noun("pod", "pods", later=f"%pod {NOT_YET}: --network container:NAME shares a container's network"),
    Noun("image", "images", later=f"%image {NOT_YET}: run takes 'system', 'scratch', a folder or a tar file"),
    Noun("experiment", "experiments", later=f"%experiment {NOT_YET}: %stats measures, a Python loop repeats"),
)
