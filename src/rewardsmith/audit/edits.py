"""Markers: how much of a bias a cell shows, for planting it. The edits themselves are in `rewardsmith.edits`."""

from __future__ import annotations

import re
from math import log

from rewardsmith.audit.probes import Cell, Marker
from rewardsmith.edits import Twins


def says(twins: Twins) -> Marker:
    """1 where the answer holds one of the phrases."""
    phrases = [phrase for phrase, _ in twins]
    return lambda cell: float(any(phrase in cell.response for phrase in phrases))


def holds(pattern: str, flags: int = re.MULTILINE) -> Marker:
    """1 where the answer holds a match of the regular expression."""
    compiled = re.compile(pattern, flags)
    return lambda cell: float(compiled.search(cell.response) is not None)


def log_length(cell: Cell) -> float:
    """How long the answer is: log of its characters."""
    return log(max(len(cell.response), 1))
