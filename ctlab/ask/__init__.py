"""The table of what can be typed: every noun with its verbs, options and what is known to be missing."""

from __future__ import annotations

from .container import CONTAINER
from .lab import LAB, LATER, NODE, STATS, TOPOLOGY
from .network import NETWORK

NOUNS = {noun.name: noun for noun in (LAB, NODE, NETWORK, CONTAINER, STATS, TOPOLOGY, *LATER)}
"""By the magic's name, in the order in which help lists them."""
