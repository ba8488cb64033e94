"""Sections of the page that come from results of other verbs. One function a kind of result, in one list.

A kind is recognised by the keys of its JSON object. To add one: a function in a module of its own that turns the
object into a `Section`, and a line in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rewardsmith.errors import DataError
from rewardsmith.report.audit_section import audit_section
from rewardsmith.report.section import Section

# A key that only this kind of result has, and what makes its section.
KINDS: tuple[tuple[str, Callable[[Mapping[str, Any]], Section]], ...] = (("probes", audit_section),)


def sections(results: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Section]:
    """The section of each (name, result), in the order of KINDS. Raises DataError for a result of no known kind."""
    found = []
    for name, result in results:
        ranks = [rank for rank, (key, _) in enumerate(KINDS) if key in result]
        if not ranks:
            keys = ", ".join(f"'{key}'" for key, _ in KINDS)
            raise DataError(f"--with {name}: no result that a page can show (none of the keys {keys})")
        try:
            found.append((ranks[0], KINDS[ranks[0]][1](result)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"--with {name}: not as its verb writes it: {type(error).__name__} {error}") from None
    return [section for _, section in sorted(found, key=lambda item: item[0])]
