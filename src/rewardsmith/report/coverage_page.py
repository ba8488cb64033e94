"""The page of `data coverage`: a map of the data, its holes, its cells. One HTML file, no network, no script.

The map's colours are switched by radio buttons and CSS alone. Texts come from files that nobody vouches for: the
template escapes all of them, and only our own figures are put in as markup.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardsmith.report.page import count, counted, percent, render, short_place, write_text

COLOURS = 8  # that are told apart; further values are grey
MAP_WIDTH, MAP_HEIGHT, MARGIN = 1000, 640, 16
MOST_LABELS = 14  # topics that are named on the map
VIEWS = ("topic", "source", "language", "safety", "turns")
ERRORS = {"e0": "right in every pair", "e1": "wrong in up to half", "e2": "wrong in more than half", "e3": "no reward"}
NAME_PARTS = 2  # words of a topic's name on the map
LETTER, LINE = 9.5, 22.0  # of a label, in the map's units
Points = Sequence[Mapping[str, Any]]


def write_coverage_page(result: Mapping[str, Any], points: Points, path: str | Path) -> None:
    """Write the page of a `coverage` result. The file appears whole or not at all; DataError where it cannot."""
    write_text(Path(path), coverage_page(result, points))


def coverage_page(result: Mapping[str, Any], points: Points) -> str:
    """The page as HTML."""
    views = map_views(result, points)
    return render(
        "coverage.html",
        result=result,
        title=", ".join(short_place(file) for file in result["files"]),
        headline=headline(result),
        views=views,
        dots=dots(result, points, views),
        labels=map_labels(result, points),
        size=(MAP_WIDTH, MAP_HEIGHT),
        n_points=Counter(point["kind"] for point in points),
        dimensions=dimensions(result),
        target=target_parts(result),
        number=short_number,
        interval=interval_cell,
        spanned=spanned,
    )


def headline(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(number, what it is, remark) of the facts that open the page."""
    duplicates = result["duplicates"]
    alike = f"; {counted(duplicates['alike'], 'pair more is', 'pairs more are')} alike" if duplicates["alike"] else ""
    facts = [
        (count(result["prompts"]), "distinct prompts", f"in {counted(result['groups'], 'group')}"),
        (count(result["pairs"]), "pairs", f"{count(result['ties'])} of them ties"),
        (count(duplicates["near"]), "near duplicates", "prompts that nearly repeat another" + alike),
    ]
    target = result["target"]
    if target is not None and target["prompts"]["far"] is not None:
        far, expected = target["prompts"]["far"], target["prompts"]["expected"]
        remark = f"{spanned(far)}; {percent(expected)} of a target like the data"
        facts.append((percent(far["value"]), "of the target's prompts are far", remark))
    if result["benchmarks"]:
        n = sum(row["contaminated"] for row in result["benchmarks"])
        of = counted(sum(row["prompts"] for row in result["benchmarks"]), "prompt")
        facts.append((count(n), "benchmark prompts in the data", f"of {of}"))
    right = result["all"]["model_accuracy"]
    if right["value"] is not None:
        facts.append((percent(right["value"]), "of the labels the model gets right", spanned(right)))
    return facts


def spanned(interval: Mapping[str, float | None]) -> str:
    if interval["low"] is None or interval["high"] is None:
        return "no interval"
    return f"{percent(interval['low'])} to {percent(interval['high'])}"


# -- the map --------------------------------------------------------------------------------------------------------


def map_views(result: Mapping[str, Any], points: Points) -> list[dict[str, Any]]:
    """The ways to colour the map that say something: key, title, note, legend [(class, name, points)]."""
    views: list[dict[str, Any]] = []
    if not points:
        return views
    if any(point["kind"] == "target" for point in points):
        views.append(hole_view(points))
    if any(point["error"] is not None for point in points):
        views.append(error_view(points))
    for key in VIEWS:
        values = Counter(value_of(result, point, key) for point in points if point["kind"] == "data")
        if key != "topic" and len(values) < 2:
            continue
        views.append(slice_view(key, values))
    first = next((view for view in views if view["key"] == "topic"), views[0])
    views.sort(key=lambda view: view is not first)
    return views


def slice_view(key: str, values: Counter[str]) -> dict[str, Any]:
    order = [value for value, _ in values.most_common()]
    if key == "topic":  # by their numbers, which stand on the map
        order.sort(key=lambda name: int(name.partition(":")[0]) if name[:1].isdigit() else MAP_WIDTH)
    # Topics are numbered on the map, so that colours may come again.
    code = {value: k % COLOURS if key == "topic" or k < COLOURS else COLOURS for k, value in enumerate(order)}
    legend = [(f"c{code[value]}", value, values[value]) for value in order[: 40 if key == "topic" else COLOURS]]
    if key != "topic" and len(order) > COLOURS:
        legend.append((f"c{COLOURS}", f"{len(order) - COLOURS} others", sum(values[v] for v in order[COLOURS:])))
    return {"key": key, "title": key, "code": code, "legend": legend, "note": ""}


def hole_view(points: Points) -> dict[str, Any]:
    target = [point for point in points if point["kind"] == "target"]
    far = sum(point["far"] for point in target)
    legend = [
        ("h0", "the data", len(points) - len(target)),
        ("h1", "target, near the data", len(target) - far),
        ("h2", "target, no near neighbour", far),
    ]
    note = (
        "A target prompt is far where its nearest prompt of the data is farther than 95% of the data's own prompts are "
        "from their nearest, or where it shares no word with any. The map is flat and the distance is not: a far "
        "prompt may be drawn beside others."
    )
    return {"key": "hole", "title": "hole", "code": {}, "legend": legend, "note": note}


def error_view(points: Points) -> dict[str, Any]:
    classes = Counter(error_class(point) for point in points if point["kind"] == "data")
    legend = [(code, name, classes[code]) for code, name in ERRORS.items() if classes[code]]
    return {"key": "error", "title": "error of the model", "code": {}, "legend": legend, "note": ""}


def error_class(point: Mapping[str, Any]) -> str:
    error = point["error"]
    if error is None:
        return "e3"
    return "e0" if error == 0 else "e1" if error <= 0.5 else "e2"


def value_of(result: Mapping[str, Any], point: Mapping[str, Any], key: str) -> str:
    if key != "topic":
        return str(point[key])
    return str(result["topics"][point["topic"]]["name"]) if point["topic"] >= 0 else "(not placed)"


def dots(result: Mapping[str, Any], points: Points, views: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each point with its place and one class per view."""
    drawn = []
    for point in sorted(points, key=lambda point: (point["kind"] == "target", point["far"])):
        classes = ["t" if point["kind"] == "target" else "d"]
        for view in views:
            if view["key"] == "hole":
                classes.append("h0" if point["kind"] == "data" else "h2" if point["far"] else "h1")
            elif view["key"] == "error":
                classes.append(error_class(point))
            else:
                code = view["code"].get(value_of(result, point, view["key"]), COLOURS)
                classes.append(f"{view['key']}-c{code}")
        x, y = place(point)
        drawn.append({"x": f"{x:.1f}", "y": f"{y:.1f}", "classes": " ".join(classes), "text": hover(result, point)})
    return drawn


def place(point: Mapping[str, Any]) -> tuple[float, float]:
    return MARGIN + point["x"] * (MAP_WIDTH - 2 * MARGIN), MARGIN + point["y"] * (MAP_HEIGHT - 2 * MARGIN)


def hover(result: Mapping[str, Any], point: Mapping[str, Any]) -> str:
    parts = [point["text"], value_of(result, point, "topic")]
    if point["kind"] == "target":
        near = "no near neighbour" if point["far"] else "near the data"
        parts.append(f"target, {near}" + ("" if point["distance"] is None else f" (distance {point['distance']:.2f})"))
    elif point["error"] is not None:
        parts.append(f"wrong in {percent(point['error'])} of its pairs")
    return " · ".join(parts)


def map_labels(result: Mapping[str, Any], points: Points) -> list[dict[str, Any]]:
    """Numbers and names of the topics where most of their points lie, the largest first. A label moves up or down where
    it would cover another, and loses its name where that does not help."""
    labels: list[dict[str, Any]] = []
    for number, topic in enumerate(result["topics"][:40]):
        own = [place(point) for point in points if point["topic"] == number and point["kind"] == "data"]
        if not own:
            continue
        x, y = densest(own)
        name = map_name(topic["name"]) if len(labels) < MOST_LABELS else ""
        tries = [label_at(x, y + step * LINE, number + 1, text) for text in (name, "") for step in (0, -1, 1, -2, 2)]
        clear = (label for label in tries if all(apart(label, other) for other in labels))
        labels.append(next(clear, tries[-1]))
    return labels


def map_name(name: str) -> str:
    """The first terms of a topic's name; a mixed topic has none that is worth the room."""
    terms = name.partition(": ")[2]
    return "mixed" if terms.startswith("mixed: ") else ", ".join(terms.split(", ")[:NAME_PARTS])


def label_at(x: float, y: float, number: int, name: str) -> dict[str, Any]:
    """A label about (x, y), inside the map, with half its width."""
    half = LETTER * len(f"{number} {name}") / 2
    x, y = min(max(x, half), MAP_WIDTH - half), min(max(y, LINE), MAP_HEIGHT - LINE / 2)
    return {"x": round(x), "y": round(y), "half": half, "number": number, "name": name}


def apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool(abs(one["x"] - other["x"]) > one["half"] + other["half"] or abs(one["y"] - other["y"]) >= LINE)


def densest(places: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The point with the most others of its own near by: a middle would fall between two lumps."""

    def near(one: tuple[float, float]) -> int:
        return sum((one[0] - x) ** 2 + (one[1] - y) ** 2 < 60**2 for x, y in places)

    return max(places, key=near)


# -- tables ---------------------------------------------------------------------------------------------------------


def dimensions(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The cells by dimension, those that vary first."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for row in result["cells"]:
        rows.setdefault(row["dimension"], []).append(row)
    tables = [{"name": name, "rows": cells, "single": len(cells) == 1} for name, cells in rows.items()]
    return sorted(tables, key=lambda table: bool(table["single"]))


def target_parts(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Prompts and answers of the target, each with its holes."""
    target = result["target"]
    if target is None:
        return []
    return [{"what": what, **facts} for what, facts in target.items() if facts is not None]


def short_number(number: float) -> str:
    return f"{number:,.0f}"


def interval_cell(interval: Mapping[str, float | None]) -> str:
    """ "63% (60 to 65)"."""
    if interval["value"] is None:
        return "–"
    value = f"{interval['value']:.0%}"
    low, high = interval["low"], interval["high"]
    return value if low is None or high is None else f"{value} ({100 * low:.0f} to {100 * high:.0f})"
