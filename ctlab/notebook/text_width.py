"""How wide a text is drawn at most, and texts cut to the room they have. Pure.

Nothing here can ask a browser, so the widths err on the wide side; `tests/browser` holds them against Chromium's.
"""

from __future__ import annotations

import unicodedata

MONO = 0.625  # ems of each sign: wider than the monospaced faces in use, which have 0.6 to 0.62


def width(sign: str) -> float:
    """The width of a character in ems of a wide sans-serif face."""
    if unicodedata.combining(sign):
        return 0.0
    if unicodedata.east_asian_width(sign) in "WF":
        return 1.1
    if sign in "mwMW@%—…":
        return 1.0
    if sign in "iljtfrI.,:;'|!()[] /":
        return 0.42
    return 0.74 if sign.isupper() else 0.64


def mono_width(sign: str) -> float:
    """The width of a character in ems of a monospaced face."""
    if unicodedata.combining(sign):
        return 0.0
    return 2 * MONO if unicodedata.east_asian_width(sign) in "WF" else MONO


def pixels(text: str, size: float = 12.0, *, mono: bool = False) -> float:
    """The width of a text of ``size`` pixels."""
    return sum(map(mono_width if mono else width, text)) * size


def shorten(text: str, room: float, size: float = 12.0, *, mono: bool = False) -> str:
    """``text``, or as much of its beginning and of its end, ``…`` between, as fits into ``room`` pixels.

    The end, since names that begin alike (``worker-00``, ``worker-01``) differ there.
    """
    of = mono_width if mono else width
    widths = [of(sign) * size for sign in text]
    if sum(widths) <= room:
        return text
    used, begin, end = size * 0.9, 0, len(text)
    while True:
        at_end = begin > len(text) - end
        used += widths[end - 1 if at_end else begin]
        if used > room:
            return f"{text[:begin]}…{text[end:]}"
        begin, end = (begin, end - 1) if at_end else (begin + 1, end)
