"""`data coverage`: what preference data covers, what it does not, and what it shares with benchmarks.

found = coverage(groups, LightEmbedder, target=read_items(["prompts.txt"]))
for warning in found.report["warnings"]:
    print(warning["message"])

G  groups     U  distinct prompts     T  target prompts, distinct     D  dimensions of the embedding
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewardsmith.data.coverage import embedding, findings
from rewardsmith.data.coverage.cells import Pairs, Table, cells, pairs_of, whole
from rewardsmith.data.coverage.contamination import Benchmark, contamination
from rewardsmith.data.coverage.embedding import Embedded, Embedder
from rewardsmith.data.coverage.holes import Distances, distances, holes_report, sample, target_clusters
from rewardsmith.data.coverage.items import Item
from rewardsmith.data.coverage.languages import is_recognised, language_of
from rewardsmith.data.coverage.naming import cluster_names
from rewardsmith.data.coverage.neighbours import nearest
from rewardsmith.data.coverage.traits import Traits, group_traits, prompt_traits, user_text
from rewardsmith.data.near import near_duplicates
from rewardsmith.data.schema import Group, is_blank, text_of
from rewardsmith.data.split import opening_of, opening_turn
from rewardsmith.data.survey import snippet
from rewardsmith.errors import DataError
from rewardsmith.statistics import Floats, Ints

NOT_PLACED = "(not placed)"
MOST_TARGET = 20_000  # distinct prompts of a target, or items of a benchmark, that are looked at
MOST_ANSWERS = 20_000  # of the data, against which a policy's outputs are held
MAP_POINTS, MAP_TARGET = 1200, 400
EXAMPLES = 5

Say = Callable[[str], object]


@dataclass(frozen=True)
class Coverage:
    """`report` is ready for JSON; `points` are those of the map, one dict each, empty where none was asked for."""

    report: dict[str, Any]
    points: list[dict[str, Any]]


@dataclass(frozen=True)
class Prompts:
    """The distinct prompts of the data that are not blank. rep_U: the first that each nearly repeats, else itself."""

    texts: list[str]
    sources: list[str]
    first_U: Ints  # the first group that has it
    of_G: Ints  # -1 where a group has no prompt
    rep_U: Ints
    place: Embedded
    topic_U: Ints  # -1 where it is not placed
    topics: list[str]

    @property
    def distinct(self) -> Ints:
        """Prompts that nearly repeat no other."""
        return np.flatnonzero(self.rep_U == np.arange(len(self.texts)))


def coverage(
    groups: Sequence[Group],
    make_embedder: Callable[[], Embedder],
    *,
    target: Sequence[Item] = (),
    benchmarks: Mapping[str, Sequence[Item]] | None = None,
    rewards: Sequence[Floats | None] | None = None,
    clusters: int | None = None,
    with_map: bool = False,
    seed: int = 0,
    say: Say = lambda stage: None,
) -> Coverage:
    """Everything that `data coverage` knows.

    rewards   a model's, [K] of each group, NaN or None where it has none: its accuracy per cell, its error on the map
    clusters  of prompts; by default grown with the square root of their number, from 2 to 40
    say       told what is being done

    Report: groups, prompts, pairs, ties, without_prompt, embedding {name, dimensions, prompts, placed, not_judged},
    topics [{name, prompts, examples}], languages, all and cells (see `cells.cells`), duplicates {exact,
    near, alike, examples}, target (None, or {prompts, answers}: see `holes.holes_report`), benchmarks (see
    `contamination`), warnings [{kind, level, message}], seed.

    Raises DataError where no group has a prompt.
    """
    embedder = make_embedder()
    say("prompts")
    prompts = prompts_of(groups, embedder, clusters, seed, say)
    traits = [with_topic(group_traits(group), prompts, u) for group, u in zip(groups, prompts.of_G.tolist())]
    say("labels")
    pairs = pairs_of(groups, rewards, seed)
    asked = distinct_items(target, seed)
    place_T = embedder.embed([user_text(item.prompt) for item in asked]) if asked else None
    target_traits = traits_of_target(asked, place_T, prompts)
    say("cells")
    opening_G = joined_openings(groups, prompts)
    table = Table(traits, opening_G, prompts.of_G, pairs, seed)
    report: dict[str, Any] = {
        "groups": len(groups),
        "prompts": len(prompts.texts),
        "pairs": len(pairs.group_P),
        "ties": int(pairs.tie_P.sum()),
        "without_prompt": int((prompts.of_G < 0).sum()),
        "embedding": embedding_facts(embedder.name, prompts),
        "languages": language_facts(traits),
        "topics": topic_facts(prompts),
        "all": whole(table),
        "cells": cells(table, target_traits),
        "duplicates": duplicates(prompts, embedder.alike),
        "target": None,
        "benchmarks": [],
        "seed": seed,
    }
    found = None
    if place_T is not None:
        say("holes")
        found, facts = prompt_holes(asked, place_T, prompts, opening_G, seed)
        report["target"] = {"prompts": facts, "answers": answer_holes(groups, opening_G, target, make_embedder, seed)}
    if benchmarks:
        say("benchmarks")
        looked_for = []
        for name, items in benchmarks.items():
            kept = [items[i] for i in sample(len(items), MOST_TARGET, np.random.default_rng(seed)).tolist()]
            place_I = embedder.embed([user_text(item.prompt) for item in kept])
            looked_for.append(Benchmark.of(name, kept, place_I))
        report["benchmarks"] = contamination(
            looked_for,
            all_texts(groups),
            prompts=prompts.texts,
            sources=prompts.sources,
            data=prompts.place,
            alike=embedder.alike,
        )
    report["warnings"] = findings.warnings_of(report)
    points: list[dict[str, Any]] = []
    if with_map:
        say("map")
        points = map_points(prompts, traits, pairs, asked, place_T, target_traits, found, seed)
    return Coverage(report, points)


# -- the data's prompts ---------------------------------------------------------------------------------------------


def prompts_of(groups: Sequence[Group], embedder: Embedder, clusters: int | None, seed: int, say: Say) -> Prompts:
    numbers: dict[str, int] = {}
    of_group, first = [], []
    for g, group in enumerate(groups):
        text = "" if is_blank(group.prompt) else user_text(group.prompt)
        if text and text not in numbers:
            numbers[text] = len(numbers)
            first.append(g)
        of_group.append(numbers[text] if text else -1)
    if not numbers:
        raise DataError(
            f"none of the {len(groups)} groups has a prompt, so there is nothing to cluster or to map; "
            "name its column with --prompt-key"
        )
    texts = list(numbers)
    say("near duplicates")
    rep_U = np.arange(len(texts))
    for u, like in near_duplicates(texts):
        rep_U[u] = like
    say("embedding")
    place = embedder.fit(texts)
    say("clusters")
    topic_U, topics = topics_of(texts, place, clusters, seed)
    sources = [groups[g].source for g in first]
    return Prompts(texts, sources, np.array(first), np.array(of_group), rep_U, place, topic_U, topics)


def topics_of(texts: Sequence[str], place: Embedded, clusters: int | None, seed: int) -> tuple[Ints, list[str]]:
    """([U] the topic of each prompt, -1 where it is not placed, the topics' names)."""
    topic_U = np.full(len(texts), -1, dtype=np.int64)
    placed = np.flatnonzero(place.placed_N)
    if not len(placed):
        return topic_U, []
    few = len(placed) < embedding.FEWEST_FOR_CLUSTERS and clusters is None
    k = 1 if few else clusters or embedding.n_clusters(len(placed))
    topic_U[placed] = embedding.cluster(place.point_ND[placed], k, seed)
    names = cluster_names([texts[u] for u in placed.tolist()], topic_U[placed])
    return topic_U, [f"{number}: {name}" for number, name in enumerate(names, 1)]  # the number keeps them apart


def with_topic(traits: Traits, prompts: Prompts, u: int) -> Traits:
    topic = prompts.topic_U[u] if u >= 0 else -1
    return {"topic": prompts.topics[topic] if topic >= 0 else NOT_PLACED} | traits


def joined_openings(groups: Sequence[Group], prompts: Prompts) -> Ints:
    """[G] the opening turn of each group as a number; those of near duplicates are one."""
    numbers: dict[str, int] = {}
    opening_G = np.array([numbers.setdefault(opening_of(group), len(numbers)) for group in groups], dtype=np.int64)
    root = np.arange(len(numbers))

    def find(c: int) -> int:
        while root[c] != c:
            root[c] = root[root[c]]
            c = int(root[c])
        return c

    for u in np.flatnonzero(prompts.rep_U != np.arange(len(prompts.texts))):
        a, b = (find(int(opening_G[prompts.first_U[x]])) for x in (u, prompts.rep_U[u]))
        root[max(a, b)] = min(a, b)
    return np.array([find(int(c)) for c in opening_G], dtype=np.int64)


def embedding_facts(name: str, prompts: Prompts) -> dict[str, Any]:
    judged_U = prompts.place.judged_N
    unknown = Counter(language_of(text) for text, judged in zip(prompts.texts, judged_U) if not judged)
    return {
        "name": name,
        "dimensions": int(prompts.place.point_ND.shape[1]),
        "prompts": len(judged_U),
        "placed": int(prompts.place.placed_N.sum()),
        "not_judged": dict(unknown.most_common()),
    }


def language_facts(traits: Sequence[Traits]) -> dict[str, Any]:
    """How many groups are in a language that is recognised, and what the others are."""
    counts = Counter(one["language"] for one in traits)
    unknown = {name: n for name, n in counts.most_common() if not is_recognised(name) and name != "no prompt"}
    known = [name for name in counts if is_recognised(name) and name != "no prompt"]
    return {"recognised": len(known), "not_recognised": unknown}


def topic_facts(prompts: Prompts) -> list[dict[str, Any]]:
    """Each topic with the prompts nearest to its middle."""
    rows = []
    for k, name in enumerate(prompts.topics):
        inside = np.flatnonzero(prompts.topic_U == k)
        point_ND = prompts.place.point_ND[inside]
        order = np.argsort(-(point_ND @ point_ND.mean(0)), kind="stable")[:3]
        rows.append({
            "name": name,
            "prompts": len(inside),
            "examples": [snippet(prompts.texts[u]) for u in inside[order].tolist()],
        })  # fmt: skip
    return rows


def duplicates(prompts: Prompts, limit: float) -> dict[str, Any]:
    """Prompts that several groups share, that nearly repeat another, and that only the embedding finds alike."""
    repeats = np.flatnonzero(prompts.rep_U != np.arange(len(prompts.texts)))
    alike = alike_pairs(prompts, limit)

    def shown(u: int, v: int) -> dict[str, str]:
        return {"source": prompts.sources[u], "text": snippet(prompts.texts[u]),
                "like_source": prompts.sources[v], "like": snippet(prompts.texts[v])}  # fmt: skip

    return {
        "exact": int((prompts.of_G >= 0).sum()) - len(prompts.texts),
        "near": len(repeats),
        "alike": len(alike),
        "examples": [shown(int(u), int(prompts.rep_U[u])) for u in repeats[:EXAMPLES]],
        "alike_examples": [shown(u, v) for u, v in alike[:EXAMPLES]],
    }


def alike_pairs(prompts: Prompts, limit: float) -> list[tuple[int, int]]:
    """(prompt, its neighbour) of distinct prompts closer than `limit`, looked for within a topic, the closest first."""
    found: list[tuple[float, int, int]] = []
    kept = prompts.distinct
    for k in range(len(prompts.topics)):
        inside = kept[prompts.topic_U[kept] == k]
        if len(inside) < 2:
            continue
        near_NX = prompts.place.near_NX[inside]
        distance_N, index_N = nearest(near_NX, near_NX, (inside, inside))
        for n in np.flatnonzero(distance_N < limit):
            found.append((float(distance_N[n]), int(inside[n]), int(inside[index_N[n]])))
    pairs = {(min(u, v), max(u, v)): d for d, u, v in found}
    return sorted(pairs, key=lambda pair: (pairs[pair], pair))


def all_texts(groups: Sequence[Group]) -> Iterator[tuple[str, str]]:
    """(text, source) of every prompt and answer."""
    for group in groups:
        yield text_of(group.prompt), group.source
        for response in group.responses:
            yield text_of(response), group.source


# -- a target set ---------------------------------------------------------------------------------------------------


def distinct_items(items: Sequence[Item], seed: int) -> list[Item]:
    """The first item of each prompt, a sample of them where there are very many."""
    kept = list({user_text(item.prompt): item for item in reversed(items)}.values())[::-1]
    return [kept[i] for i in sample(len(kept), MOST_TARGET, np.random.default_rng(seed)).tolist()]


def traits_of_target(asked: Sequence[Item], place_T: Embedded | None, prompts: Prompts) -> list[Traits]:
    """The target's traits: those of its prompts, and the topic whose middle is nearest."""
    if place_T is None:
        return []
    k = len(prompts.topics)
    middle_KD = np.array([prompts.place.point_ND[prompts.topic_U == t].mean(0) for t in range(k)])
    topic_T = (place_T.point_ND @ embedding.unit(middle_KD).T).argmax(1) if k else np.zeros(len(asked), dtype=np.int64)
    names = [prompts.topics[t] if k and placed else NOT_PLACED for t, placed in zip(topic_T, place_T.placed_N)]
    return [{"topic": name} | prompt_traits(item.prompt) for name, item in zip(names, asked, strict=True)]


def prompt_holes(
    asked: Sequence[Item], place_T: Embedded, prompts: Prompts, opening_G: Ints, seed: int
) -> tuple[Distances | None, dict[str, Any]]:
    kept = prompts.distinct
    found = distances(prompts.place.at(kept), place_T, opening_G[prompts.first_U[kept]], seed)
    texts = [user_text(item.prompt) for item in asked]
    label_T = target_clusters(texts, seed)
    data_texts, sources = [prompts.texts[u] for u in kept], [prompts.sources[u] for u in kept]
    return found, holes_report(texts, data_texts, sources, found, label_T, openings_of(asked), seed)


def openings_of(items: Sequence[Item]) -> Ints:
    """[T] the opening turn of each item as a number."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(opening_turn(item.prompt), len(numbers)) for item in items], dtype=np.int64)


def answer_holes(
    groups: Sequence[Group], opening_G: Ints, target: Sequence[Item], make_embedder: Callable[[], Embedder], seed: int
) -> dict[str, Any] | None:
    """The same for answers, where the target has some: are a policy's outputs like what was compared?"""
    rng = np.random.default_rng(seed)
    opening_T = openings_of(target)
    answers = [(answer, n) for item, n in zip(target, opening_T) for answer in item.answers if answer.strip()]
    said = {text_of(response): (group.source, n) for group, n in zip(groups, opening_G) for response in group.responses}
    said.pop("", None)
    if not answers or not said:
        return None
    answers = [answers[i] for i in sample(len(answers), MOST_TARGET, rng)]
    texts = [text for text, _ in answers]
    data_texts = list(said)
    data_texts = [data_texts[i] for i in sample(len(data_texts), MOST_ANSWERS, rng)]
    embedder = make_embedder()
    data = embedder.fit(data_texts)
    place_T = embedder.embed(texts)
    found = distances(data, place_T, np.array([said[text][1] for text in data_texts]), seed)
    label_T, sources = target_clusters(texts, seed), [said[text][0] for text in data_texts]
    return holes_report(texts, data_texts, sources, found, label_T, np.array([n for _, n in answers]), seed)


# -- the map --------------------------------------------------------------------------------------------------------


def map_points(
    prompts: Prompts,
    traits: Sequence[Traits],
    pairs: Pairs,
    asked: Sequence[Item],
    place_T: Embedded | None,
    target_traits: Sequence[Traits],
    found: Distances | None,
    seed: int,
) -> list[dict[str, Any]]:
    """Up to 1,600 prompts of data and target with two coordinates in [0, 1] by t-SNE (van der Maaten and Hinton 2008).

    Keys: x, y, kind ("data" or "target"), text, topic (number), language, safety, turns, source, error (share of the
    prompt's pairs that a model gets wrong, or None), distance and far (of a target prompt).
    """
    rng = np.random.default_rng(seed)
    placed = np.flatnonzero(prompts.place.placed_N & (prompts.rep_U == np.arange(len(prompts.texts))))
    data = placed[sample(len(placed), MAP_POINTS, rng)]
    target = np.zeros(0, dtype=np.int64)
    if place_T is not None:
        judged_T = np.flatnonzero(place_T.judged_N)
        target = judged_T[sample(len(judged_T), MAP_TARGET, rng)]
    shown = [*(prompts.texts[u] for u in data.tolist()), *(user_text(asked[t].prompt) for t in target.tolist())]
    xy_N2 = flat(points_together(prompts.place, place_T, data, target, shown, seed), seed)
    error_U = errors_of(prompts, pairs)
    rows = []
    for (x, y), u in zip(xy_N2, data.tolist()):
        own = traits[prompts.first_U[u]]
        rows.append({
            "x": x, "y": y, "kind": "data", "text": snippet(prompts.texts[u]), "topic": int(prompts.topic_U[u]),
            **{name: own.get(name, "") for name in ("language", "safety", "turns", "source")},
            "error": error_U.get(u), "distance": None, "far": False,
        })  # fmt: skip
    number = {name: k for k, name in enumerate(prompts.topics)}
    for (x, y), t in zip(xy_N2[len(data) :], target.tolist()):
        own = target_traits[t]
        rows.append({
            "x": x, "y": y, "kind": "target", "text": snippet(user_text(asked[t].prompt)),
            "topic": number.get(own["topic"], -1),
            **{name: own.get(name, "") for name in ("language", "safety", "turns")}, "source": "the target",
            "error": None, "distance": None if found is None else float(found.nearest_T[t]),
            "far": bool(found is not None and found.far_T[t]),
        })  # fmt: skip
    return rows


def points_together(
    data: Embedded, target: Embedded | None, data_N: Ints, target_N: Ints, shown: Sequence[str], seed: int
) -> embedding.Points:
    """The points that are drawn. Words that only the target has give it no place among the data's, and what is far is
    what the map is for: a light embedding is made anew of the texts that are shown.
    """
    if data.word_NV is not None:
        return embedding.LightEmbedder(seed).fit(shown).point_ND
    points = [data.point_ND[data_N], *([] if target is None else [target.point_ND[target_N]])]
    return np.concatenate(points)


def flat(point_ND: embedding.Points, seed: int) -> list[tuple[float, float]]:
    """Two coordinates in [0, 1] for each point."""
    from sklearn.manifold import TSNE

    n = len(point_ND)
    if n < 10:  # too few for neighbourhoods
        return [(float((i % 3) / 2), float(i // 3) / 3) for i in range(n)]
    model = TSNE(
        2,
        perplexity=min(30.0, (n - 1) / 3),
        init="random" if point_ND.shape[1] < 2 else "pca",
        random_state=seed,
        n_jobs=1,
    )
    xy_N2 = np.asarray(model.fit_transform(point_ND), dtype=np.float64)
    low, high = np.percentile(xy_N2, [0.5, 99.5], axis=0)
    scaled = np.clip((xy_N2 - low) / np.maximum(high - low, 1e-9), 0, 1)
    return [(float(x), float(y)) for x, y in scaled]


def errors_of(prompts: Prompts, pairs: Pairs) -> dict[int, float]:
    """The share of each prompt's scored pairs that the given model gets wrong."""
    scored = np.flatnonzero(~np.isnan(pairs.right_P))
    wrong: dict[int, list[float]] = {}
    for p in scored.tolist():
        wrong.setdefault(int(prompts.of_G[pairs.group_P[p]]), []).append(1 - pairs.right_P[p])
    return {u: float(np.mean(values)) for u, values in wrong.items() if u >= 0}
