"""A model card: Markdown under the hub's metadata, from the same facts as the page.

The metadata follow the hub's model card specification: license, base_model, library_name, pipeline_tag, tags, and a
model-index whose results have a task, a dataset and metrics. Names from files stand in code spans, so that nothing in
them is read as Markdown or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rewardsmith.report import run_words
from rewardsmith.report.page import percent, span
from rewardsmith.report.run_page import Findings, Known, length_dots, slice_tables

METRICS = (
    ("accuracy", "Accuracy", "accuracy"),
    ("accuracy", "Accuracy, lengths within 10%", "length_matched_accuracy"),
    ("accuracy", "Longer answer wins (baseline, reads nothing)", "length_baseline"),
)
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # owner/name, which the hub can link to


def model_card(known: Known, found: Findings, *, license: str = "unknown") -> str:
    """The card. `license` is the hub's name of one; "unknown" is a name too."""
    import yaml

    head = yaml.safe_dump(metadata(known, license), sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{head}---\n\n{text(known, found)}"


def metadata(known: Known, license: str) -> dict[str, Any]:
    """The YAML block as an object. A base model that the hub does not know by name is left to the text."""
    base = str(known.meta.get("base_model") or "")
    found: dict[str, Any] = {
        "license": license,
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["reward-model", "rewardsmith"],
    }
    if HUB_NAME.fullmatch(base):
        found |= {"base_model": base, "base_model_relation": "finetune"}
    metrics = metrics_of(known.evaluation)
    if metrics:
        data = ", ".join(known.measured_on) or "held-out pairs"
        result = {
            "task": {"type": "text-classification", "name": "Reward modelling"},
            "dataset": {"name": data, "type": "preferences"},
            "metrics": metrics,
        }
        found["model-index"] = [{"name": known.title, "results": [result]}]
    return found


def metrics_of(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was measured; intervals are in the name, as the specification has no place for them."""
    found: list[dict[str, Any]] = []
    for kind, name, key in METRICS:
        figure = evaluation.get(key) or {}
        value, low, high = (figure.get(k) for k in ("value", "low", "high"))
        if value is not None:
            bounds = "" if low is None or high is None else f", 95% interval {low:.3f} to {high:.3f}"
            found.append({"type": kind, "name": name + bounds, "value": round(value, 4)})
    for name, key in (("Brier score", "brier"), ("Expected calibration error", "ece")):
        if evaluation.get(key) is not None:
            kind = "brier_score" if key == "brier" else "ece"
            found.append({"type": kind, "name": name, "value": round(evaluation[key], 4)})
    return found


def text(known: Known, found: Findings) -> str:
    """The card below its metadata."""
    lines = [
        f"# {plain(known.title)}",
        "",
        "A reward model: a language model with one output, the reward of an answer to a prompt. Rewards of different "
        "prompts do not compare.",
        "",
        f"**{found.verdict.headline}.** " + " ".join(map(plain, found.verdict.sentences)),
    ]
    for heading, sentences in (
        ("Good for", found.outlook.good),
        ("Weak", found.outlook.weak),
        ("What to do next", found.outlook.next_steps),
    ):
        lines += ["", f"## {heading}", "", *(f"- {plain(sentence)}" for sentence in sentences)]
    lines += ["", "## Use", "", *usage()]
    lines += ["", "## Where it comes from", ""]
    lines += [f"- {heading}: {plain(words)}" for heading, words in about_of(known)]
    lines += evaluation_lines(known, found)
    lines += ["", "Intervals are 95%, by bootstrap over prompts. Written by `rewardsmith report`.", ""]
    return "\n".join(lines)


def about_of(known: Known) -> list[tuple[str, str]]:
    return run_words.about(known.meta, known.evaluation, known.measured_on)


def usage() -> list[str]:
    return [
        "```python",
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        'model, tokenizer = (Auto.from_pretrained("FOLDER") for Auto in '
        "(AutoModelForSequenceClassification, AutoTokenizer))",
        'messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]',
        "text = tokenizer.apply_chat_template(messages, tokenize=False)",
        'reward = model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits[0, 0].item()',
        "```",
    ]


def evaluation_lines(known: Known, found: Findings) -> list[str]:
    dots = length_dots(known.evaluation, found.rows)
    if not dots:
        return []
    lines = ["", "## Evaluation", "", "| | share | 95% interval | |", "|---|---|---|---|"]
    lines += [row_of(dot) for dot in dots]
    if found.calibration.rows:
        lines += ["", plain(found.calibration.note)]
    for tag, slices in slice_tables(known.evaluation):
        lines += ["", f"Accuracy by {code(tag)}:", "", "| | share | 95% interval | |", "|---|---|---|---|"]
        lines += [row_of(dot, quoted=True) for dot in slices]
    return lines


def row_of(dot: Any, *, quoted: bool = False) -> str:
    bounds = dot.why or span(dot.low, dot.high)
    return f"| {code(dot.name) if quoted else dot.name} | {percent(dot.value)} | {bounds} | {dot.n} |"


def plain(words: str) -> str:
    """Text in which Markdown and HTML find nothing to read as theirs."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", " ".join(words.split()))


def code(name: str) -> str:
    """A name from a file as a code span in a table."""
    inside = " ".join(name.split()).replace("`", "'").replace("|", "\\|")
    return f"`{inside}`" if inside else "(empty)"
