"""Colours of everything that ctlab shows in a notebook: CSS variables for light and dark.

They follow JupyterLab's own variables where there are such, then VS Code's, then have a value of their own, so a
picture also looks right in a page that knows neither. Dark is what the *page* says it is, never what the operating
system prefers: a notebook's theme is chosen in the notebook.
"""

from __future__ import annotations

SCOPE = "ctlab"  # the class of every root element

HUES = 6  # how many networks have a colour of their own before colours repeat

_DARK_PAGES = (
    'body[data-jp-theme-light="false"]',  # JupyterLab, Notebook 7
    "html[theme=dark]",
    "html[data-theme=dark]",  # Sphinx themes
    "body[data-theme=dark]",
    "body.vscode-dark",
    "body.vscode-high-contrast:not(.vscode-high-contrast-light)",
)

_COMMON = {
    "text": "var(--jp-ui-font-color1, var(--vscode-editor-foreground, {text}))",
    "muted": "var(--jp-ui-font-color2, var(--vscode-descriptionForeground, {muted}))",
    "background": "var(--jp-layout-color0, var(--vscode-editor-background, {background}))",
    "line": "var(--jp-border-color1, var(--vscode-panel-border, {line}))",
    "font": "var(--jp-ui-font-family, var(--vscode-font-family, system-ui, sans-serif))",
    "mono": "var(--jp-code-font-family, var(--vscode-editor-font-family, ui-monospace, monospace))",
}

_LIGHT = {
    "text": "#1f2328", "muted": "#59636e", "background": "#ffffff", "line": "#c5ccd3",
    "node": "#f4f6f8", "accent": "#0969da",
    "running": "#1a7f37", "running-fill": "#dcf5e2",
    "created": "#0969da", "created-fill": "#e3f1fd",
    "paused": "#9a6700", "paused-fill": "#fdf3c6",
    "exited": "#6e7781", "exited-fill": "#e8ebee",
    "removed": "#8c959f", "removed-fill": "#ffffff",
    "failed": "#bc4c00", "failed-fill": "#ffe8d9",
    "lost": "#cf222e", "lost-fill": "#ffe6e4",
    "hue-0": "#0969da", "hue-1": "#bc4c00", "hue-2": "#8250df", "hue-3": "#1b7c83", "hue-4": "#bf3989",
    "hue-5": "#7a6a00",
}  # fmt: skip

_DARK = {
    "text": "#e6edf3", "muted": "#9aa4af", "background": "#111418", "line": "#4a525b",
    "node": "#1c2025", "accent": "#58a6ff",
    "running": "#3fb950", "running-fill": "#14341f",
    "created": "#58a6ff", "created-fill": "#13304f",
    "paused": "#d8a827", "paused-fill": "#3d3009",
    "exited": "#9aa4af", "exited-fill": "#2b3036",
    "removed": "#6e7781", "removed-fill": "#16191d",
    "failed": "#f0883e", "failed-fill": "#4a2710",
    "lost": "#ff6b63", "lost-fill": "#4a1b1b",
    "hue-0": "#58a6ff", "hue-1": "#f0883e", "hue-2": "#bc8cff", "hue-3": "#39c5cf", "hue-4": "#f778ba",
    "hue-5": "#d6bd4a",
}  # fmt: skip


def _block(selector: str, palette: dict[str, str]) -> str:
    values = {**palette, **{name: value.format(**palette) for name, value in _COMMON.items()}}
    body = "".join(f"--ctlab-{name}:{value};" for name, value in values.items())
    return f"{selector}{{{body}}}"


def variables() -> str:
    """The CSS that defines ``--ctlab-…`` below every element of class ``ctlab``; without a newline."""
    dark = ",".join(f"{page} .{SCOPE}" for page in _DARK_PAGES)
    return _block(f".{SCOPE}", _LIGHT) + _block(dark, _DARK)
