"""What our pages have in common: the template environment, numbers as words, and the atomic write."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewardsmith.errors import DataError


def render(template: str, **values: Any) -> str:
    """A template of this package as HTML. Texts are escaped; figures come in as Markup."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rewardsmith.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count, "percent": percent, "short": short_place, "size": count}
    return environment.get_template(template).render(values)


def count(number: float | None) -> str:
    """A whole number, "–" for none."""
    return "–" if number is None else f"{number:,.0f}"


def percent(number: float | None) -> str:
    """A share with as many places as its size deserves."""
    if number is None:
        return "–"
    return f"{number:.2%}" if 0 < number < 0.001 else f"{number:.1%}"


def interval(value: Mapping[str, float | None]) -> str:
    """The 95% interval in words."""
    low, high = value["low"], value["high"]
    return "no interval" if low is None or high is None else f"{low * 100:.0f} to {high * 100:.0f}%"


def bounds(row: Mapping[str, Any] | None, form: str = ".3f") -> str:
    """ "0.812 to 0.851" of a row's low and high."""
    low, high = ((row or {}).get(end) for end in ("low", "high"))
    return "no interval" if low is None or high is None else minus(f"{low:{form}} to {high:{form}}")


def with_bounds(row: Mapping[str, Any] | None, form: str = ".3f", *, key: str = "value") -> str:
    """ "+0.012 (−0.004 to +0.028)" of a row's `key`, low and high; without an interval the number alone."""
    value = finite((row or {}).get(key))
    if row is None or value is None:
        return "–"
    return minus(f"{value:{form}}") + ("" if row.get("low") is None else f" ({bounds(row, form)})")


def counted(number: float, one: str, many: str = "") -> str:
    """ "1 pair", "1,632 pairs"."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def span(low: float, high: float) -> str:
    """61.0% to 72.0%"""
    return f"{percent(low)} to {percent(high)}"


def points(difference: float) -> str:
    """The size of a difference of shares, in percentage points."""
    return f"{abs(difference) * 100:.1f} points"


def signed(difference: float) -> str:
    """A difference of shares in points: +4.1."""
    return minus(f"{difference * 100:+.1f}")


def reward(number: float | None) -> str:
    """A reward or a difference of two, signed: +0.413."""
    return "–" if number is None else minus(f"{number:+.3f}" if abs(number) < 100 else f"{number:+,.1f}")


def decimal(number: float | None) -> str:
    return "–" if number is None or not math.isfinite(number) else f"{number:.3f}"


def small(number: float | None) -> str:
    return "–" if number is None else minus(f"{number:.1e}")


def finite(number: Any) -> float | None:
    return float(number) if number is not None and math.isfinite(number) else None


def minus(text: str) -> str:
    """A number's text with the minus sign that is as wide as a plus."""
    return text.replace("-", "−")


def short_place(place: str) -> str:
    """ "file:line" without the folders."""
    return place.replace("\\", "/").rpartition("/")[2]


def write_text(path: Path, text: str, what: str = "page") -> None:
    """Write through a temporary file beside it, so that no half page is ever there.

    Raises DataError where it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        try:
            # errors="replace": a lone surrogate in somebody's text must not cost the page.
            with open(handle, "w", encoding="utf-8", errors="replace") as file:
                file.write(text)
            os.chmod(name, 0o644)  # mkstemp's 0o600 would hide the page from a web server
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DataError(f"{path}: the {what} cannot be written: {error.strerror or error}") from None
