"""What the page of a run says in words and tables: where the model comes from, and the numbers behind it.

Every function takes what is recorded and leaves out what is not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rewardsmith.data.schema import TIE
from rewardsmith.evaluation.evaluate import PairRows
from rewardsmith.progress import clock
from rewardsmith.report import run_figures
from rewardsmith.report.page import count, counted, decimal, finite, minus, percent, reward, short_place, small

GGUF = "gguf:"  # as in model.load, whose import would bring torch along

# What it is -----------------------------------------------------------------------------------------


def about(
    meta: Mapping[str, Any], evaluation: Mapping[str, Any], measured_on: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """(heading, words): where the model comes from, and the names of what it was measured on. Only what is known."""
    training, config, data = (meta.get(key) or {} for key in ("training", "config", "data"))
    found = [
        ("Made from", base_model(meta.get("base_model"))),
        ("Trained on", side_words(data.get("train") or {}, training)),
        ("How", how_words(training, config)),
        ("Members", members_words(meta)),
        ("Measured on", measured_words(data.get("eval") or {}, evaluation, config, measured_on)),
    ]
    return [(heading, words) for heading, words in found if words]


def base_model(name: str | None) -> str:
    """A name for people: hub names whole, of a path its last part."""
    if not name:
        return ""
    bare = name.removeprefix(GGUF).replace("\\", "/").rstrip("/")
    hub = bare.count("/") == 1 and not bare.startswith(("/", ".", "~"))
    kind = " (weights in a GGUF file)" if name.startswith(GGUF) else ""
    return (bare if hub else short_place(bare)) + kind


def side_words(side: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    groups, pairs = side.get("groups", training.get("groups")), side.get("pairs", training.get("pairs"))
    if groups is None:
        return ""
    names = file_names(side)
    return (
        f"{counted(groups, 'group')} (a prompt and its answers each)"
        + (f" with {counted(pairs, 'preference')}" if pairs is not None else "")
        + (f", from {names}" if names else "")
    )


def how_words(training: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    if training.get("steps") is None:
        return ""
    parts = [counted(training["steps"], "step")]
    if config.get("epochs"):
        parts.append(counted(config["epochs"], "pass", "passes") + " over the data")
    parts.append(trained_part(config))
    if training.get("seconds") is not None:
        device = f" on {training['device']}" if training.get("device") else ""
        parts.append(f"{clock(training['seconds'])}{device}")
    return ", ".join(part for part in parts if part)


def trained_part(config: Mapping[str, Any]) -> str:
    """Which weights moved."""
    if config.get("lora_rank"):
        return f"LoRA adapters of rank {config['lora_rank']}"
    if config.get("train_layers") is not None:
        return f"the top {counted(config['train_layers'], 'layer')} and the reward head"
    return "all weights" if config else ""


def members_words(meta: Mapping[str, Any]) -> str:
    members, averaged = meta.get("members") or [], meta.get("averaged") or []
    if averaged:
        return f"one model, whose weights are the mean of {len(averaged)}: {', '.join(map(str, averaged))}"
    if not members:
        return ""
    names = [str(one.get("from")) for one in meta.get("joined") or []]
    how = f"which were trained apart ({', '.join(names)})" if names else "which share the lower layers"
    return f"{len(members)}, {how}; the reward is their mean"


def measured_words(
    side: Mapping[str, Any], evaluation: Mapping[str, Any], config: Mapping[str, Any], names: Sequence[str]
) -> str:
    """What the numbers come from; `names` are the files given now, `side` what training held out."""
    if not evaluation.get("n_pairs"):
        return "nothing here: see below what that means"
    prompts, pairs = evaluation.get("n_prompts"), evaluation["n_pairs"]
    where = file_names({"files": [{"path": name} for name in names]}) or file_names(side)
    share = config.get("eval_fraction")
    if not where and share:
        where = f"about {share:.0%} of the prompts in the same data"
    return (
        (f"{counted(prompts, 'prompt')} with " if prompts is not None else "")
        + counted(pairs, "preference")
        + (f", from {where}" if where else "")
    )


def file_names(side: Mapping[str, Any]) -> str:
    names = [short_place(str(file.get("path", ""))) for file in side.get("files") or []]
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


# Beside the figures ---------------------------------------------------------------------------------


def plain_loss(meta: Mapping[str, Any]) -> bool:
    """Whether the training loss is the pair loss in nats, so that log 2 is a coin's and held-out loss compares."""
    loss = (meta.get("config") or {}).get("loss") or {}
    extras = ("label_smoothing", "use_margins", "centring", "regression")
    ties = loss.get("ties", "soft") in ("soft", "drop")
    return loss.get("objective", "bradley-terry") == "bradley-terry" and ties and not any(map(loss.get, extras))


def curve_notes(meta: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to know when reading the curve."""
    notes = []
    steps, _ = run_figures.series(curve, "loss")
    held_steps, held = run_figures.series(curve, "eval_accuracy")
    if len(steps) > run_figures.MOST_POINTS:
        each = -(-len(steps) // run_figures.MOST_POINTS)
        notes.append(f"Each point of the pale line is the mean of {each} steps.")
    if not plain_loss(meta):
        notes.append("The training loss has further terms, so it does not compare with the held-out loss.")
    kept = (meta.get("metrics") or {}).get("kept_step")
    if not len(held_steps):
        notes.append("Nothing was measured on held-out data during training.")
    elif len(held_steps) > 1 and kept is not None and (meta.get("config") or {}).get("keep_best", True):
        notes.append(
            f"The weights of step {count(kept)} were kept, the best of {len(held_steps)} held-out measurements. "
            "Where the accuracy above comes from the same pairs, that choice makes it a little too high."
        )
    if len(held):
        at = int(np.argmax(held_steps))
        notes.append(f"Held out at the last measurement, step {count(held_steps[at])}: accuracy {percent(held[at])}.")
    return notes


def margin_note(rows: PairRows) -> str:
    decided = rows.where(rows.probability_P != TIE)
    if not len(decided):
        return ""
    return (
        f"{counted(len(decided), 'decided pair')}; to the right of zero the model agrees with the data. The median is "
        f"{reward(float(np.median(decided.margin_P)))}. The outermost bars hold what lies beyond."
    )


# Numbers behind -------------------------------------------------------------------------------------


def measured(evaluation: Mapping[str, Any], not_finite: int) -> list[tuple[str, str]]:
    """(name, number) of the evaluation."""
    correlation = evaluation.get("length_correlation") or {}
    within = correlation.get("within_prompt") or {}
    found = [
        ("preferences (pairs)", count(evaluation.get("n_pairs"))),
        ("groups", count(evaluation.get("n_groups"))),
        ("prompts", count(evaluation.get("n_prompts"))),
        ("groups without a preference", count(evaluation.get("n_groups_without_pairs"))),
        ("ties in the labels, not in the accuracy", count(evaluation.get("label_ties"))),
        ("equal rewards, counted as wrong", count(evaluation.get("score_ties"))),
        ("rank correlation of reward and length, within prompts", correlation_words(within)),
        ("the same over all answers", minus(decimal(correlation.get("pooled")))),
        ("lengths measured in", str(evaluation.get("length_unit") or "–")),
    ]
    if not_finite:
        found.append(("groups left aside here: a reward that is no finite number", count(not_finite)))
    return [row for row in found if row[1] != "–"]


def correlation_words(figure: Mapping[str, Any]) -> str:
    value, low, high = (figure.get(key) for key in ("value", "low", "high"))
    if value is None:
        return "–"
    return minus(f"{value:+.2f}" + ("" if low is None or high is None else f" ({low:+.2f} to {high:+.2f})"))


def machine(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, number) of the training run and of the rewards' scale."""
    training = meta.get("training") or {}
    normalisation = meta.get("normalisation") or {}
    reference = normalisation.get("reference") or {}
    speed = meta.get("speed") or {}
    found = [
        ("base model, as named", str(meta.get("base_model") or "–")),
        ("steps", count(training.get("steps"))),
        ("step whose weights were kept", count((meta.get("metrics") or {}).get("kept_step"))),
        ("distinct tokens trained on", count(training.get("distinct_tokens"))),
        ("time of training", clock(training["seconds"]) if training.get("seconds") is not None else "–"),
        ("distinct tokens per second", count(speed.get("tokens_per_second"))),
        ("tokens that sharing saved", percent(speed.get("shared_tokens"))),
        ("share of the machine's matrix-product speed", percent(speed.get("mfu"))),
        ("most memory in use", "–" if not speed else f"{speed['peak_memory_gb']:.1f} GB"),
        ("device", str(training.get("device") or "–")),
        ("precision", precision_words(training.get("precision"))),
        ("processes", count(training.get("processes"))),
        ("mean reward", reward(finite(reference.get("mean")))),
        ("standard deviation of rewards", decimal(reference.get("std"))),
        ("measured on", reference_words(reference)),
        ("normalisation applied", str(normalisation.get("applied") or "–")),
        ("rewardsmith", str(meta.get("rewardsmith") or "–")),
    ]
    return [row for row in found if row[1] != "–"]


def precision_words(name: str | None) -> str:
    """accelerate's name for a type, for people."""
    return {None: "–", "no": "float32", "bf16": "bfloat16", "fp16": "float16"}.get(name, str(name))


def reference_words(reference: Mapping[str, Any]) -> str:
    if reference.get("n") is None:
        return "–"
    return f"{counted(reference['n'], 'answer')} ({reference.get('responses', 'which ones is not recorded')})"


def parity(meta: Mapping[str, Any]) -> dict[str, Any] | None:
    """The artifact's check that one answer gets one reward, however it is computed."""
    found = meta.get("parity") or {}
    differences = found.get("max_difference") or {}
    if not differences:
        return None
    tolerance = found.get("tolerance")
    worst = max((value for value in differences.values() if value is not None), default=None)
    return {
        "rows": [(name.replace("_", " "), small(value)) for name, value in differences.items()],
        "n": counted(found.get("n_rows") or 0, "row"),
        "spread": decimal(found.get("reward_spread")),
        "tolerance": small(tolerance),
        "share": small_share(worst, found.get("reward_spread")),
    }


def small_share(worst: float | None, spread: float | None) -> str:
    """The largest difference as a part of the rewards' spread, to two digits."""
    if not worst or not spread:
        return ""
    parts = float(f"{spread / worst:.1e}")
    return f"The largest is one part in {parts:,.0f} of the rewards' spread."


def data_files(meta: Mapping[str, Any]) -> list[dict[str, str]]:
    data = meta.get("data") or {}
    return [
        {"path": str(file.get("path", "")), "use": use, "sha256": str(file.get("sha256") or "not a local file")}
        for use, side in (("training", data.get("train") or {}), ("held out", data.get("eval") or {}))
        for file in side.get("files") or []
    ]


def cut_and_dropped(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, how many) did not reach the model whole."""
    data = meta.get("data") or {}
    rendering = data.get("rendering") or {}
    train, held_out = data.get("train") or {}, data.get("eval") or {}
    found = [
        ("rows dropped while reading, training", train.get("rows_dropped")),
        ("rows dropped while reading, held out", held_out.get("rows_dropped")),
        ("groups left out before training", rendering.get("dropped")),
        ("prompts cut to fit (oldest tokens)", rendering.get("prompts_cut")),
        ("answers cut to fit", rendering.get("responses_cut")),
    ]
    return [(name, count(number)) for name, number in found if number is not None]


def left_out(meta: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list((meta.get("data") or {}).get("left_out") or [])


def as_json(value: Any) -> str:
    """For reading: indented, nothing escaped that need not be. "" for nothing."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) if value else ""
