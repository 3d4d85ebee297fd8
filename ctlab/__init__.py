"""ctlab: a container-networking laboratory inside a notebook.

``%load_ext ctlab`` in IPython or Jupyter, or plain Python::

    import ctlab

    with ctlab.Lab("demo") as lab:
        lab.network("blue", subnet="10.10.0.0/24")
        web = lab.run(["python3", "-m", "http.server", "80"], name="web", networks=["blue"])

Nothing heavy is imported here: names are loaded when they are first used.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_WHERE = {
    "Lab": "lab",
    "Container": "container",
    "Network": "network",
    "Completed": "completed",
    "CtlabError": "errors",
    "BadInput": "errors",
    "NameInUse": "errors",
    "NotFound": "errors",
    "ProgramNotFound": "errors",
    "ProgramFailed": "errors",
    "Unsupported": "errors",
    "LimitRefused": "errors",
    "AddressError": "errors",
    "StateError": "errors",
    "KernelError": "errors",
    "LabGone": "errors",
    "current": "labs",
    "columns": "metrics.columns",
    "doctor": "doctor",
    "Recording": "recording",
    "sample_run": "recording",
}

TYPE_CHECKING = False  # the lab's inside imports this package too, and not `typing`: see `kernel.lean`
if TYPE_CHECKING:
    from typing import Any

    from .completed import Completed as Completed
    from .container import Container as Container
    from .doctor import doctor as doctor
    from .errors import AddressError as AddressError
    from .errors import BadInput as BadInput
    from .errors import CtlabError as CtlabError
    from .errors import KernelError as KernelError
    from .errors import LabGone as LabGone
    from .errors import LimitRefused as LimitRefused
    from .errors import NameInUse as NameInUse
    from .errors import NotFound as NotFound
    from .errors import ProgramFailed as ProgramFailed
    from .errors import ProgramNotFound as ProgramNotFound
    from .errors import StateError as StateError
    from .errors import Unsupported as Unsupported
    from .lab import Lab as Lab
    from .labs import current as current
    from .metrics.columns import columns as columns
    from .network import Network as Network
    from .recording import Recording as Recording
    from .recording import sample_run as sample_run


def __getattr__(name: str) -> Any:
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module 'ctlab' has no attribute '{name}'")
    return getattr(importlib.import_module(f".{module}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*_WHERE, "__version__"])


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext ctlab``: the magics, their completion, the counting of cells."""
    from .notebook.extension import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """``%unload_ext ctlab``: takes all of that away again; labs stay."""
    from .notebook.extension import unload

    unload(shell)
