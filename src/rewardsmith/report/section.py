"""One section of the page of a model, made from the result of another verb."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """`body` is HTML of our own templates; `weak` and `next_steps` go to the top of the page."""

    anchor: str
    heading: str
    body: str
    weak: tuple[str, ...] = ()
    next_steps: tuple[str, ...] = ()
