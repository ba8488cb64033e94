"""One row of a publisher's file to one Group, for benchmarks that list several answers to a prompt.

As in `rows`. The right answers come first; ratings are 1 for them and 0 for the wrong ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rewardsmith.data.fields import Row, answer, integer, list_of, present, required, short
from rewardsmith.data.schema import Group, Preference
from rewardsmith.data.shapes import tag_value
from rewardsmith.errors import DataError
from rewardsmith.evaluation.benchmarks.rows import Place, asks, group_of, one_of, says
from rewardsmith.evaluation.benchmarks.rules_lists import BEST_OF_FOUR, PPE_DOMAINS, RM_BENCH_DOMAINS, STYLES, TIES


def all_pairs(n_right: int, n_all: int) -> list[Preference]:
    """Each of the first `n_right` responses beats each of the others."""
    return [Preference(chosen=i, rejected=j) for i in range(n_right) for j in range(n_right, n_all)]


# RewardBench 2 -------------------------------------------------------------------------------------


def rewardbench2_row(row: Row, place: Place) -> Group:
    """`{id, prompt, chosen: [...], rejected: [...], num_correct, total_completions, subset}`."""
    subset = one_of(row.get("subset"), (*BEST_OF_FOUR, TIES), "subset")
    right = [answer(v, f"chosen[{i}]") for i, v in enumerate(list_of(required(row, "chosen"), "chosen"))]
    wrong = [answer(v, f"rejected[{i}]") for i, v in enumerate(list_of(required(row, "rejected"), "rejected"))]
    for key, found in (("num_correct", len(right)), ("total_completions", len(right) + len(wrong))):
        if present(row, key) and integer(row[key], key) != found:
            raise DataError(f"'{key}' is {short(row[key])}, but the row has {found}")
    tags = {"subset": subset}
    if subset == TIES:
        tags |= ties_id(required(row, "id"))
    least, most = (2, len(right)) if tags.get("kind") == "tied" else (1, 1)
    if not least <= len(right) <= most:
        raise DataError(f"{len(right)} right answers; this kind of row has {'at least 2' if least > 1 else 'one'}")
    ratings = [1.0] * len(right) + [0.0] * len(wrong)
    preferences = all_pairs(len(right), len(ratings))
    return group_of(row, place, asks(row, "prompt"), [*right, *wrong], preferences, tags, ratings=ratings)


def ties_id(value: object) -> dict[str, str]:
    """Ties rows are named "ref:12" and "tied:12": one prompt with one, and with several right answers."""
    match = re.fullmatch(r"(ref|tied):(\d+)", value) if isinstance(value, str) else None
    if match is None:
        raise DataError(f"the id of a Ties row is {short(value)}, not 'ref:N' or 'tied:N'")
    return {"kind": match[1], "number": match[2]}


# RM-Bench ------------------------------------------------------------------------------------------


def rm_bench_row(row: Row, place: Place) -> Group:
    """`{id, prompt, chosen: [3 styles], rejected: [3 styles], domain}`; split files name the domain instead."""
    sides = {key: list_of(required(row, key), key) for key in ("chosen", "rejected")}
    for key, values in sides.items():
        if len(values) != len(STYLES):
            raise DataError(f"'{key}' has {len(values)} answers, not one per style ({', '.join(STYLES)})")
    named = row["domain"] if present(row, "domain") else place.words[0].removesuffix("_filtered")
    if named not in RM_BENCH_DOMAINS:
        raise DataError(
            f"unknown domain {short(named)}; give each row a 'domain' or name the file DOMAIN_filtered.json "
            f"({', '.join(RM_BENCH_DOMAINS)})"
        )
    tags = {"domain": named}
    if present(row, "subset"):
        tags["subset"] = tag_value(row["subset"], "subset")
    responses = [answer(v, f"{key}[{i}]") for key, values in sides.items() for i, v in enumerate(values)]
    ratings = [1.0] * len(STYLES) + [0.0] * len(STYLES)
    preferences = all_pairs(len(STYLES), len(ratings))
    return group_of(row, place, asks(row, "prompt"), responses, preferences, tags, ratings=ratings)


# PPE -----------------------------------------------------------------------------------------------

# Columns that only one domain's files have.
PPE_COLUMNS = {
    "answer_index": "mmlu_pro",
    "Subdomain": "gpqa",
    "ifeval_prompt": "ifeval",
    "test_list": "mbpp_plus",
    "level": "math",
}
PPE_NAMED = re.compile(rf"(?:ppe_)?({'|'.join(PPE_DOMAINS)})(?:_best_of_k|$)")


def ppe_row(row: Row, place: Place) -> Group:
    """`{question_id, model_name, prompt, scores: [k], response_1 .. response_k, sampled_conflict_pairs}`."""
    scores = [right(value, i) for i, value in enumerate(list_of(required(row, "scores"), "scores"))]
    responses = [says(row, f"response_{i + 1}") for i in range(len(scores))]
    if f"response_{len(scores) + 1}" in row:
        raise DataError(f"{len(scores)} scores, but there is a 'response_{len(scores) + 1}'")
    tags = {"domain": ppe_domain(row, place)}
    for key in ("model_name", "category"):
        if present(row, key):
            tags[key] = tag_value(row[key], key)
    # Each question comes once for each model that answered it.
    named = {"id": f"{row['question_id']}, {row.get('model_name')}"} if present(row, "question_id") else {}
    prompt = asks(row, "prompt")
    return group_of(named, place, prompt, responses, ppe_pairs(row, scores), tags, ratings=scores)


def right(value: object, index: int) -> float:
    """1.0 or 0.0 from true/false or 1/0."""
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise DataError(f"'scores[{index}]' is {short(value)}, not true or false")
    return float(value)


def ppe_pairs(row: Row, scores: Sequence[float]) -> list[Preference]:
    """The publisher's sampled pairs of a right and a wrong answer; where they are not there, all such pairs."""
    if not present(row, "sampled_conflict_pairs"):
        return [Preference(chosen=i, rejected=j) for i, a in enumerate(scores) for j, b in enumerate(scores) if a > b]
    found = []
    for pair in list_of(row["sampled_conflict_pairs"], "sampled_conflict_pairs", empty=True):
        values = list_of(pair, "sampled_conflict_pairs")
        ends = [integer(value, "sampled_conflict_pairs") for value in values]
        if len(ends) != 2 or not all(0 <= end < len(scores) for end in ends) or scores[ends[0]] == scores[ends[1]]:
            raise DataError(f"'sampled_conflict_pairs' holds {short(values)}, no right and wrong answer")
        first, second = sorted(ends, key=lambda end: -scores[end])
        found.append(Preference(chosen=first, rejected=second))
    return found


def ppe_domain(row: Row, place: Place) -> str:
    """The domain: its column, else the columns that only one domain has, else what the path says."""
    if present(row, "domain"):
        return one_of(row["domain"], PPE_DOMAINS, "domain")
    for column, name in PPE_COLUMNS.items():
        if column in row:
            return name
    for word in place.words:
        match = PPE_NAMED.match(re.sub(r"\W", "_", word))
        if match:
            return match[1]
    raise DataError(f"cannot tell the domain; add a 'domain' column ({', '.join(PPE_DOMAINS)})")
