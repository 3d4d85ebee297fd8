"""What this machine can do for a lab, found out by doing it: `ctlab.doctor()`, ``%lab doctor``.

Takes well under a second, as root or as anyone, and leaves nothing behind. Works on every operating
system; where there are no namespaces it says where to go instead.
"""

from __future__ import annotations

import html
import os
import shutil
import sys
import tempfile
import textwrap
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from .apart import ready
from .cards import NO_FORMULAS
from .errors import CtlabError, describe
from .kernel import probe, probe_checks, probe_facts, probe_options, probe_place, probe_remedies, probe_vm
from .kernel.launcher_code import CODE
from .kernel.probe_checks import DelegationLike
from .kernel.probe_facts import Facts

if TYPE_CHECKING:
    import pandas

# What a place without labs still has; it needs nothing of the kernel.
RECORDED = "ctlab.sample_run() shows a recorded lab: its map, counters and chart"

_WORDS = {True: "works", False: "missing", None: "not tried"}
_MARKS = {True: "✓", False: "✗", None: "·"}
_IDS = {
    "root": "started by root, with a range of ids",
    "nested": "started by root of a user namespace, with its ids",
    "range": "started by a user, with a range of ids",
    "single": "one id only: no files of other owners, no su, no apt inside",
}


@dataclass(frozen=True)
class Probe:
    """One thing that was tried or read.

    `ok` None: it was not tried, `detail` says why. `remedy`: what to do; its first line stands alone.
    `essential`: no lab starts without it.
    """

    name: str
    ok: bool | None
    detail: str = ""
    remedy: str = ""
    essential: bool = False


class Report(Sequence[Probe]):
    """All probes: a sequence by index, a mapping by name, a table when shown."""

    def __init__(self, probes: Sequence[Probe], facts: Facts, ids: str) -> None:
        self._probes = tuple(probes)
        self._by_name = {item.name: item for item in self._probes}
        self._facts = facts
        self._ids = ids

    @overload
    def __getitem__(self, key: int | str) -> Probe: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[Probe, ...]: ...
    def __getitem__(self, key: int | str | slice) -> Probe | tuple[Probe, ...]:
        return self._by_name[key] if isinstance(key, str) else self._probes[key]

    def __len__(self) -> int:
        return len(self._probes)

    def __iter__(self) -> Iterator[Probe]:
        return iter(self._probes)

    def __contains__(self, key: object) -> bool:
        return key in self._by_name or key in self._probes

    def keys(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(self._by_name)

    @property
    def usable(self) -> bool:
        """Whether a lab can start here."""
        return all(item.ok for item in self._probes if item.essential)

    @property
    def why_not(self) -> str:
        """One line: the first essential thing that is missing and its remedy; "" if a lab can start."""
        for item in self._probes:
            if item.essential and not item.ok:
                first, _, more = item.remedy.partition("\n")
                line = f"{item.name}: {item.detail}" + (f"; {first}" if first else "")
                return line + (" (in full: %lab doctor, or python -m ctlab doctor)" if more else "")
        return ""

    @property
    def vm(self) -> Probe | None:
        """The probe of the engine that brings its own kernel; None where there can't be one."""
        return self._by_name.get(probe_vm.NAME)

    @property
    def offer(self) -> str:
        """What follows `why_not` where a VM can have the lab instead; "" elsewhere."""
        there = not self.usable and self.vm is not None and self.vm.ok
        return "; or give the lab a kernel of its own: engine='vm' (%lab start --engine vm)" if there else ""

    @property
    def instead(self) -> str:
        """What follows `why_not` in an error: the VM where one can be had, else what there is to look at."""
        return self.offer or (f"; {RECORDED}" if not self.usable else "")

    @property
    def place(self) -> str:
        """Where this is: linux, docker, podman, container, kubernetes, hub, binder, colab, wsl1, wsl2, macos, …"""
        return self._facts.place

    @property
    def ids(self) -> str:
        """The ids that a lab has here: root, nested, range or single; "" where it can't start."""
        return self._ids

    @property
    def summary(self) -> str:
        """Two lines: the machine, and whether a lab can start."""
        facts = self._facts
        machine = f"{facts.system} {facts.release} {facts.machine}".strip()
        if not self.usable:
            verdict = "no lab can start here"
            verdict += " but in a VM of its own: %lab start --engine vm" if self.offer else f"; {RECORDED}"
        else:
            missing = [item.name for item in self._probes if item.ok is False and not item.essential]
            verdict = f"a lab can start here, {_IDS[self._ids]}"
            if "seccomp" in missing:
                verdict += f"; {probe_options.OPTIONS['seccomp'].without}"
            verdict += f"; missing: {', '.join(missing)}" if missing else ""
        return f"{machine}, {probe_place.NAMES[facts.place]}\n{verdict}"

    def text(self, width: int = 100) -> str:
        """The report for a terminal of `width` columns: what is missing, what was not tried, what works, what to do."""
        lines = ["ctlab doctor: " + self.summary.splitlines()[0], *self.summary.splitlines()[1:]]
        lines[1:] = _wrap(lines[1], width, "")
        longest = max((len(item.name) for item in self._probes), default=0)
        for ok in (False, None, True):
            items = [item for item in self._probes if item.ok is ok]
            if not items:
                continue
            lines += ["", _WORDS[ok]]
            if ok is None:
                reasons: dict[str, list[str]] = {}
                for item in items:
                    reasons.setdefault(item.detail, []).append(item.name)
                for reason, names in reasons.items():
                    lines += _wrap(f"  {reason}: {', '.join(names)}", width, "    ")
                continue
            for item in items:
                if item.detail or not ok:
                    label = f"  {item.name:<{longest}}  "
                    detail = ("essential; " if item.essential and not ok else "") + item.detail
                    lines += _wrap(label + detail, width, " " * len(label))
            plain = ", ".join(item.name for item in items if ok is True and not item.detail)
            if plain:
                lines += _wrap("  " + plain, width, "  ")
        remedies = self._remedies()
        if remedies:
            lines += ["", "what to do"]
            for remedy, names in remedies.items():
                first, *more = remedy.splitlines()
                # Not wrapped: a command must survive being copied.
                lines += [f"  {', '.join(names)}: {first}", *(f"    {line}" for line in more)]
        return "\n".join(line.rstrip() for line in lines)

    def _remedies(self) -> dict[str, list[str]]:
        """Each remedy once, with the names of what it mends."""
        found: dict[str, list[str]] = {}
        for item in self._probes:
            if item.remedy and not item.ok:
                found.setdefault(item.remedy, []).append(item.name)
        return found

    def __repr__(self) -> str:
        return self.text(min(shutil.get_terminal_size((100, 40)).columns, 140))

    def _repr_html_(self) -> str:
        """A plain table in the page's own colours: what is missing first, what just works in one row."""
        style = "text-align:left;vertical-align:top;padding:2px 12px 2px 0"
        cell, narrow = f'style="{style}"', f'style="{style};white-space:nowrap"'
        rows = []
        for ok in (False, None, True):
            state = f"<td {narrow}>{_MARKS[ok]} {_WORDS[ok]}</td>"
            for item in (item for item in self._probes if item.ok is ok and (item.detail or not ok)):
                weight = "bold" if ok is False else "normal"
                need = " (essential)" if item.essential and not ok else ""
                remedy = f'<span style="white-space:pre-wrap">{html.escape(item.remedy)}</span>' if not ok else ""
                name = f'<span style="font-weight:{weight}">{html.escape(item.name)}</span>'
                rows.append(
                    f"<tr>{state}<td {narrow}>{name}{need}</td>"
                    f"<td {cell}>{html.escape(item.detail)}</td><td {cell}>{remedy}</td></tr>"
                )
        plain = ", ".join(html.escape(item.name) for item in self._probes if item.ok and not item.detail)
        if plain:
            rows.append(f'<tr><td {narrow}>{_MARKS[True]} {_WORDS[True]}</td><td {cell} colspan="3">{plain}</td></tr>')
        head = "".join(f"<th {cell}>{title}</th>" for title in ("", "probe", "detail", "what to do"))
        summary = html.escape(self.summary).replace("\n", "<br>")
        return (
            f'<div class="ctlab-doctor {NO_FORMULAS}"><p>{summary}</p><table style="border-collapse:collapse">'
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        )

    def frame(self) -> pandas.DataFrame:
        """One row per probe, index `name`; columns ok (boolean, NA: not tried), essential, detail, remedy."""
        ready("pandas")
        import pandas

        rows = [(item.name, item.ok, item.essential, item.detail, item.remedy) for item in self._probes]
        frame = pandas.DataFrame(rows, columns=["name", "ok", "essential", "detail", "remedy"])
        return frame.astype({"ok": "boolean"}).set_index("name")


def _wrap(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        text, max(width, 40), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    ) or [text]


def build(
    outcomes: Sequence[probe.Outcome],
    facts: Facts,
    delegation: DelegationLike | None,
    vm: probe_checks.Finding | None = None,
) -> Report:
    """The report on a machine with these outcomes, facts, cgroups and VM engine; pure.

    Outside Linux there are no outcomes and no delegation.
    """
    machine = f"{facts.system} {facts.release}".strip()
    remedy = probe_remedies.elsewhere(facts)
    probes = [Probe("platform", not remedy, f"{machine}, {probe_place.NAMES[facts.place]}", remedy, True)]
    has_vm = vm is not None and bool(vm.ok)
    # With a range chosen beforehand a lab doesn't fall back to the one own id: the range is then needed.
    for outcome in outcomes:
        essential = probe.BY_NAME[outcome.name].essential or (outcome.name == "id-range" and facts.ids != "single")
        essential |= outcome.name == "seccomp" and facts.machine not in CODE  # as no launcher is
        detail, remedy = (outcome.detail, "") if outcome.ok else probe_remedies.explain(outcome, facts)
        if has_vm and not essential and remedy.startswith(probe_options.NEEDS_KERNEL):
            remedy += probe_vm.INSTEAD
        probes.append(Probe(outcome.name, outcome.ok, detail, remedy, essential))
    for finding in probe_checks.checks(facts, delegation) if delegation is not None else ():
        if has_vm and finding.name == "limits" and not finding.ok:
            finding = finding._replace(remedy=(finding.remedy + probe_vm.LIMITS).removeprefix("; "))
        probes.append(Probe(*finding))
    if vm is not None:
        if has_vm and facts.uid != 0 and any(one.name == "user-namespace" and not one.ok for one in outcomes):
            vm = vm._replace(detail=vm.detail + probe_vm.VISIBLE)
        probes.append(Probe(*vm))
    usable = all(item.ok for item in probes if item.essential)
    return Report(probes, facts, facts.ids if usable else "")


def doctor() -> Report:
    """Try everything that a lab is built on, now, in a throw-away process; changes nothing, raises nothing."""
    facts = probe_facts.gather()
    if facts.system != "Linux" or facts.place == "wsl1":
        return build((), facts, None)
    # Imported here: it reads Linux's files when called, and the report on other systems needs none of it.
    from .kernel import cgroup_discover, idmap

    try:
        delegation = cgroup_discover.discover(probe=True)
    except OSError as error:
        delegation = cgroup_discover.Delegation("none", {}, None, [], str(error), "")
    mapping = idmap.choose()
    plan = probe.Plan(
        ids=mapping.kind,
        ids_problem=mapping.reason,
        uid_lines=mapping.uid_lines,
        gid_lines=mapping.gid_lines,
        newuidmap=facts.programs.get("newuidmap", ""),
        newgidmap=facts.programs.get("newgidmap", ""),
        nft=facts.programs.get("nft", ""),
    )
    if delegation.unified is not None:
        # A scope of systemd is gone again by now; a lab asks for one of its own.
        gone = delegation.how == "scope"
        problem = "its folder is made by systemd when a lab starts" if gone else ""
        plan = plan._replace(cgroup2="" if gone else delegation.unified, cgroup2_problem=problem)
    if not probe_facts.ifb_is_safe(facts):
        plan = plan._replace(
            ifb_problem="the module ifb isn't loaded, and loading it adds ifb0 and ifb1 to the machine"
        )
    return build(probe.run(plan), facts, delegation, _vm_engine())


def _vm_engine() -> probe_checks.Finding:
    """What a VM engine needs, read and not tried: nothing is fetched or booted."""
    from .vm import accel, prepare, programs, reader

    try:
        missing = programs.missing()
        if missing:
            return probe_vm.finding(missing)
        state = prepare.status()
        if not state.release and not state.problem:
            _check_cache()
        if not state.problem:
            reader.reader()  # raises where root has nobody to let read
        return probe_vm.finding((), state.release, state.problem, accel.known())
    except CtlabError as error:
        problem, remedy = _apart(str(error))
        return probe_vm.finding((), "", problem, remedy=remedy)
    except OSError as error:
        return probe_vm.finding((), "", describe(error), remedy="")


def _check_cache() -> None:
    """CtlabError where what a VM boots from couldn't be kept; tried in the folder of its path that is there."""
    from .vm import cache

    place = cache.place()
    above = next(path for path in (place, *place.parents) if os.path.exists(path))
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".ctlab-", dir=above))
    except OSError as error:
        raise cache.refused(place, error) from None


def _apart(text: str) -> tuple[str, str]:
    """What failed and what to do, of an error's line."""
    for mark in ("; ", ": "):
        before, found, after = text.rpartition(mark)
        if found:
            return before, after
    return text, ""


class _Callable(types.ModuleType):
    """`ctlab.doctor` is this module as soon as anything imports it, and the function that people call as well."""

    def __call__(self) -> Report:
        return doctor()


sys.modules[__name__].__class__ = _Callable
