"""`%load_ext ctlab` and `%unload_ext ctlab`.

Loading registers one object with the magics, one matcher, one formatter and the hooks that count and follow cells;
nothing is started and nothing is printed. Unloading takes all of that away again and makes live outputs static;
labs stay.
"""

from __future__ import annotations

import sys
from typing import Any

from .. import ticks
from .errors_view import KEY


def load(shell: Any) -> None:
    """Register everything with a shell; a second time replaces the first."""
    unload(shell)
    from . import completion, display, magics

    made = magics.CtlabMagics(shell)
    shell.register_magics(made)
    matcher = completion.matcher(shell)
    shell.Completer.custom_matchers.append(matcher)
    after_cell = display.after_cell
    shell.events.register("post_run_cell", after_cell)
    formatter = shell.display_formatter.ipython_display_formatter
    formatter.for_type("ctlab.completed.Completed", display.show_completed)
    ticks.hook()
    setattr(shell, KEY, (made, matcher, after_cell))


def unload(shell: Any) -> None:
    """Take it all away; what was live becomes static. Does nothing if it isn't loaded."""
    loaded = getattr(shell, KEY, None)
    if loaded is None:
        return
    delattr(shell, KEY)
    made, matcher, after_cell = loaded
    for kind, names in made.magics.items():
        registered = shell.magics_manager.magics[kind]
        for name in names:
            if getattr(registered.get(name), "__self__", None) is made:
                del registered[name]
    shell.magics_manager.registry.pop(type(made).__name__, None)
    if made in shell.configurables:
        shell.configurables.remove(made)
    if matcher in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.remove(matcher)
    try:
        shell.events.unregister("post_run_cell", after_cell)
    except ValueError:
        pass  # the shell's events were reset
    _forget_formatters(shell)
    if "ctlab.labs" in sys.modules:
        from . import display

        display.make_static()
    ticks.unhook()


def _forget_formatters(shell: Any) -> None:
    formatter = shell.display_formatter.ipython_display_formatter
    # Registered by name; the formatter turns the name into the class when it first meets one.
    found = getattr(sys.modules.get("ctlab.completed"), "Completed", None)
    for key in ("ctlab.completed.Completed", found):
        if key is not None:
            try:
                formatter.pop(key)
            except KeyError:
                pass
