"""The magics: each only understands its line, calls the Python API and shows what comes back.

What a verb does is in the `magic_…` module of its subject, imported when it is first used, so that loading the
extension stays quick.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from IPython.core.magic import Magics, line_cell_magic, magics_class, needs_local_scope, no_var_expand
from traitlets import Bool, Float, Int, TraitError, validate

from .. import spelling
from ..errors import LabGone, one_line
from ..interrupts import Interrupted
from . import grammar

_MODULES = {
    "lab": "magic_lab", "node": "magic_network", "network": "magic_network", "stats": "magic_stats",
    "topology": "magic_topology",
    "container run": "magic_run", "container exec": "magic_run",
    "container ps": "magic_look", "container logs": "magic_look", "container inspect": "magic_look",
    "container top": "magic_look", "container wait": "magic_look", "container stats": "magic_look",
    "container cp": "magic_files", "container write": "magic_files", "container shell": "magic_files",
    "container": "magic_container",
}  # fmt: skip


@magics_class
class CtlabMagics(Magics):
    """The magics of ctlab: %lab, %network, %container, %stats, %topology, %node."""

    interval = Float(0.1, help="Seconds between two samples of the counters, in labs that the magics start.").tag(
        config=True
    )
    vm_if_needed = Bool(
        None,
        allow_none=True,
        help="Whether labs that the magics start take a VM (engine auto) where this machine's kernel can't have one; "
        "None: as CTLAB_VM_IF_NEEDED in the environment says.",
    ).tag(config=True)
    refresh = Float(0.25, help="Seconds between two pictures of %stats --live.").tag(config=True)
    output_bytes = Int(1_000_000, help="The most of one program's output that a cell shows.").tag(config=True)
    traceback = Bool(False, help="Whether an error of ctlab shows the whole traceback.").tag(config=True)

    @validate("interval", "refresh")
    def _check_time(self, proposal: Any) -> Any:
        low, high = (0.01, 60.0) if proposal["trait"].name == "interval" else (0.1, 10.0)
        if not low <= proposal["value"] <= high:
            raise TraitError(f"CtlabMagics.{proposal['trait'].name}: from {low:g} to {high:g} seconds")
        return proposal["value"]

    @line_cell_magic
    @no_var_expand
    @needs_local_scope
    def lab(self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None) -> Any:
        return self._do("lab", line, cell, local_ns)

    @line_cell_magic
    @no_var_expand
    @needs_local_scope
    def node(self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None) -> Any:
        return self._do("node", line, cell, local_ns)

    @line_cell_magic
    @no_var_expand
    @needs_local_scope
    def network(self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None) -> Any:
        return self._do("network", line, cell, local_ns)

    @line_cell_magic
    @no_var_expand
    @needs_local_scope
    def container(self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None) -> Any:
        return self._do("container", line, cell, local_ns)

    @line_cell_magic
    @no_var_expand
    @needs_local_scope
    def stats(self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None) -> Any:
        return self._do("stats", line, cell, local_ns)

    @line_cell_magic
    @no_var_expand
    @needs_local_scope
    def topology(self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None) -> Any:
        return self._do("topology", line, cell, local_ns)

    @line_cell_magic
    @no_var_expand
    @needs_local_scope
    def link(self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None) -> Any:
        return self._do("link", line, cell, local_ns)

    @line_cell_magic
    @no_var_expand
    @needs_local_scope
    def pod(self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None) -> Any:
        return self._do("pod", line, cell, local_ns)

    @line_cell_magic
    @no_var_expand
    @needs_local_scope
    def image(self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None) -> Any:
        return self._do("image", line, cell, local_ns)

    @line_cell_magic
    @no_var_expand
    @needs_local_scope
    def experiment(self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None) -> Any:
        return self._do("experiment", line, cell, local_ns)

    def _do(self, noun: str, line: str, cell: str | None, local_ns: Mapping[str, Any] | None) -> Any:
        """Understand, do, show: the one way of every magic."""
        from . import magic_context

        shell: Any = self.shell
        namespace = {**shell.user_ns, **(local_ns or {})}
        if cell is not None:
            from .. import words

            line, cell = words.continue_line(line, cell)
        with spelling.of_a_magic():
            parsed = grammar.parse(noun, line, namespace, cell=cell is not None)
            if parsed.help is not None:
                return magic_context.Text(parsed.help)
            for note in parsed.notes:
                print(note)
            name = _MODULES.get(f"{noun} {parsed.verb}") or _MODULES[noun]
            context = magic_context.Context(self, parsed, cell)
            try:
                module = importlib.import_module(f".{name}", __package__)
                result = module.VERBS[f"{noun} {parsed.verb}"](context)
            except LabGone:
                context.heard_of_death()
                raise
            except KeyboardInterrupt as error:
                if type(error) is not KeyboardInterrupt:
                    raise  # it says what was interrupted
                raise Interrupted(one_line(f"{'%' if cell is None else '%%'}{noun} {line}", 200)) from None
        return None if parsed.silenced and magic_context.is_statement(shell) else result


for _noun in grammar.NOUNS:
    getattr(CtlabMagics, _noun).__doc__ = grammar.help_text(_noun)
