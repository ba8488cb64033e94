"""Surface features of a response, and how much of the labels they explain without reading an answer.

Maths. f(y) is a vector of features of a response's text; a pair gives d = f(chosen) - f(rejected). The
surface model says P(chosen is better) = sigmoid(w . d / s), with s the root mean square of d over the
training pairs and no intercept, so that it has no opinion on a pair that looks the same from both sides.
Counts enter as log(1 + count): the tenth bullet matters less than the first. Length enters as characters and
as characters per word, not as characters and words: those two are so correlated that their coefficients
would mean nothing.

The model is trained on four fifths of the opening turns and asked about the last fifth, five times. What it
gets right there is what a reward model can get right by looking at the surface alone.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log1p
from typing import Any, NamedTuple

import numpy as np

from rewardsmith.data.schema import Group, Preference, text_of
from rewardsmith.data.split import opening_of, unit_hash
from rewardsmith.statistics import Floats, Interval, Ints, clustered_mean

FOLDS = 5
MOST_PAIRS = 50_000  # that the baseline is fitted on
FEWEST_PAIRS = 20  # below it nothing is fitted: the interval would say nothing
FEWEST_PROMPTS = 10
FEWEST_DIFFER = 10  # pairs: a feature that differs in fewer is not worth naming
TELLING = 0.51  # the interval has to begin above this: a hair over one half is of no consequence
NO_INTERVAL = Interval(None).to_json()

# Words and phrases that count for a feature, found anywhere. Each single word belongs to one feature.
LEXICON: dict[str, list[str]] = {
    name: phrases.split(", ")
    for name, phrases in {
        "refusal": "i can't, i cannot, i can not, i won't, i will not, i'm unable, i am unable, "
        "i'm not able, i am not able, as an ai, not appropriate, inappropriate, illegal, unethical",
        "apology": "sorry, apologize, apologise, apologies, apology, unfortunately, regret",
        "hedges": "may, might, perhaps, maybe, possibly, probably, likely, generally, usually, seem, seems, "
        "could, it depends, i think, i believe, not sure",
        "certainty": "definitely, certainly, clearly, obviously, undoubtedly, always, never, absolutely",
        "caveats": "however, important to note, keep in mind, please note, be careful, consult, professional",
        "connectives": "because, therefore, thus, hence, first, firstly, second, secondly, finally, overall, "
        "for example, for instance, such as, in conclusion",
        "first person": "i, me, my, mine, i'm, i've, i'd, i'll",
        "second person": "you, your, yours, you're, you've, you'll",
        "thanks and offers": "thank, thanks, let me know, hope this helps, feel free, glad to, happy to help",
    }.items()
}
OPENERS = ("sure", "certainly", "of course", "absolutely", "great question", "good question", "happy to")
STARTS = tuple(f" {opener} " for opener in OPENERS)
WORDS = {word: name for name, phrases in LEXICON.items() for word in phrases if " " not in word}
PHRASES = [(f" {phrase} ", name) for name, phrases in LEXICON.items() for phrase in phrases if " " in phrase]
PUNCTUATION = str.maketrans(dict.fromkeys('!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~“”…—–', " ") | {"’": "'"})
END_MARKS = frozenset(".!?:;)]}\"'”’`*|…。！？")
EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]")
NUMBERED = re.compile(r"\d{1,3}[.)] ")


class View:
    """A text, with what several features look at worked out once: that is most of the cost."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.words = text.split()
        plain = text.lower().translate(PUNCTUATION).split()
        self.counts = Counter([WORDS[word] for word in plain if word in WORDS])
        self.plain = f" {' '.join(plain)} "
        for phrase, name in PHRASES:
            if phrase in self.plain:
                self.counts[name] += self.plain.count(phrase)
        self.lines = [line.lstrip() for line in text.split("\n")]

    def capitals(self) -> int:
        """Words of two or more letters, all of them capital."""
        return sum(len(word) > 1 for word in filter(str.isupper, self.words))

    def lines_with(self, *starts: str) -> int:
        """Lines that begin with one of `starts`, after blanks."""
        return sum(line.startswith(starts) for line in self.lines)


Measure = Callable[[View], float]


@dataclass(frozen=True)
class Feature:
    """One named number of a text, with what it is in plain words."""

    name: str
    meaning: str
    measure: Measure


def counted(*needles: str) -> Measure:
    """log(1 + how often one of `needles` is there)."""
    return lambda view: log1p(sum(map(view.text.count, needles)))


def said(name: str) -> Feature:
    """log(1 + how often one of the lexicon's words and phrases is there)."""
    return Feature(name, ", ".join(LEXICON[name][:4]), lambda view: log1p(view.counts[name]))


def flagged(test: Callable[[View], bool]) -> Measure:
    """1 where the test holds, else 0."""
    return lambda view: float(test(view))


FEATURES: tuple[Feature, ...] = (
    Feature("length", "characters", lambda v: log1p(len(v.text))),
    Feature("word length", "characters per word", lambda v: len(v.text) / max(len(v.words), 1)),
    Feature("paragraphs", "blank lines between paragraphs", counted("\n\n")),
    Feature("line breaks", "line breaks", counted("\n")),
    Feature("bullets", "lines that begin with -, * or •", lambda v: log1p(v.lines_with("- ", "* ", "• "))),
    Feature(
        "numbered items",
        "lines that begin with 1. or 1)",
        lambda v: log1p(sum(map(bool, map(NUMBERED.match, v.lines)))),
    ),
    Feature("bold", "**bold** and __bold__", lambda v: log1p((v.text.count("**") + v.text.count("__")) // 2)),
    Feature("headers", "Markdown headers", lambda v: log1p(v.lines_with("# ", "## ", "### ", "#### "))),
    Feature("code blocks", "``` fences", counted("```")),
    Feature("inline code", "`code`", lambda v: log1p(max(0, v.text.count("`") - 3 * v.text.count("```")) // 2)),
    Feature("table rows", "lines that begin with |", lambda v: log1p(v.lines_with("|"))),
    Feature("links", "URLs and Markdown links", counted("http://", "https://", "www.", "](")),
    Feature("emoji", "emoji", lambda v: 0.0 if v.text.isascii() else log1p(len(EMOJI.findall(v.text)))),
    Feature("exclamation marks", "!", counted("!")),
    Feature("question marks", "?", counted("?")),
    Feature("commas", "commas and semicolons", counted(",", ";")),
    Feature("colons", "colons", counted(":")),
    Feature("quotes", "double quotes", counted('"', "“", "”")),
    Feature("brackets", "opening brackets", counted("(", "[")),
    Feature("digits", "digits 0 to 9", counted(*"0123456789")),
    Feature("capitals", "words in capitals", lambda v: log1p(v.capitals())),
    Feature("no final mark", "does not end in a mark", flagged(lambda v: v.text.rstrip()[-1:] not in END_MARKS)),
    Feature("ready opener", ", ".join(OPENERS[:4]), flagged(lambda v: v.plain.startswith(STARTS))),
    *map(said, LEXICON),
)


def surface_features(text: str) -> list[float]:
    """One number per feature, in the order of `FEATURES`."""
    view = View(text)
    return [feature.measure(view) for feature in FEATURES]


class Pairs(NamedTuple):
    """Per pair: features of chosen minus rejected, the same of characters, the opening turn and its fold, and what the
    pair counts in training beside one of weight 1.
    """

    difference_PF: Floats
    length_P: Floats
    prompt_P: Ints
    fold_P: Ints
    weight_P: Floats


def surface_baseline(
    groups: Sequence[Group], seed: int = 0, *, most_pairs: int = MOST_PAIRS, of_groups: int | None = None
) -> dict[str, Any]:
    """How well length and surface features predict the labels of held-out prompts. Ready for JSON.

    Every number counts a pair as training does: by its group's weight and its own among the group's pairs.

    n_pairs, n_prompts  what the numbers rest on: decided pairs (ties left out), distinct opening turns
    sampled             true where these are a sample of the groups' pairs (at most `most_pairs`)
    length_accuracy     share of pairs whose longer side was chosen (equal lengths count one half), with a 95%
                        interval clustered by opening turn; shorter_accuracy is the same of the shorter side
    logistic_accuracy   the same of the logistic model on held-out openings; `auc` is its area under the curve
    features            strongest first, of those that differ in at least 1% of the pairs: `coefficient` per
                        SD of the difference (above 0: more of it is preferred), `accuracy` of "more of it
                        wins" (no difference counts one half), `differ` pairs in which it differs, and
                        `accuracy_where_differs` over those
    reading             what all this means, in plain words

    `of_groups` says how many groups there were where `groups` is itself a sample of them.
    Values are None where there are fewer than 20 pairs or 10 openings.
    """
    decided = [[p for p in group.preferences if not p.is_tie] for group in groups]
    kept = sample_pairs(decided, most_pairs, seed)
    pairs = pair_differences(groups, kept, seed)
    n, n_prompts = len(pairs.length_P), len(np.unique(pairs.prompt_P))
    result: dict[str, Any] = {
        "n_pairs": n,
        "n_prompts": n_prompts,
        "sampled": n < sum(map(len, decided)) or len(groups) < (of_groups or 0),
        "length_accuracy": NO_INTERVAL,
        "shorter_accuracy": NO_INTERVAL,
        "logistic_accuracy": NO_INTERVAL,
        "auc": None,
        "features": [],
    }
    if n >= FEWEST_PAIRS and n_prompts >= FEWEST_PROMPTS:
        result |= fitted(pairs, seed)
    return result | {"reading": reading(result)}


def sample_pairs(decided: Sequence[Sequence[Preference]], most: int, seed: int) -> list[list[Preference]]:
    """At most about `most` pairs in all: the same number from every group that has more than its share."""
    if sum(map(len, decided)) <= most:
        return [list(pairs) for pairs in decided]
    draw = random.Random(seed)
    each = fair_share([len(pairs) for pairs in decided], most)
    chosen = [list(pairs) if len(pairs) <= each else draw.sample(pairs, each) for pairs in decided]
    if sum(map(len, chosen)) > most:  # more groups than pairs wanted
        kept = set(draw.sample(range(len(chosen)), most))
        chosen = [pairs if index in kept else [] for index, pairs in enumerate(chosen)]
    return chosen


def fair_share(sizes: Sequence[int], total: int) -> int:
    """The largest cap >= 1 under which the capped sizes add up to at most `total`."""
    low, high = 1, max(sizes)
    while low < high:
        cap = (low + high + 1) // 2
        if sum(min(size, cap) for size in sizes) <= total:
            low = cap
        else:
            high = cap - 1
    return low


def pair_differences(groups: Sequence[Group], kept: Sequence[Sequence[Preference]], seed: int) -> Pairs:
    """Feature differences of the kept pairs, with their opening turn's number and fold."""
    openings: dict[str, int] = {}
    rows: list[Floats] = []
    lengths: list[int] = []
    prompts: list[int] = []
    weights: list[float] = []
    for group, pairs in zip(groups, kept, strict=True):
        if not pairs:
            continue
        prompt = openings.setdefault(opening_of(group), len(openings))
        texts = {k: text_of(group.responses[k]) for p in pairs for k in (p.chosen, p.rejected)}
        features = {k: np.array(surface_features(text)) for k, text in texts.items()}
        rows += [features[p.chosen] - features[p.rejected] for p in pairs]
        lengths += [len(texts[p.chosen]) - len(texts[p.rejected]) for p in pairs]
        prompts += [prompt] * len(pairs)
        weights += pair_weights(group, pairs)
    fold_C = folds(list(openings), seed)
    prompt_P = np.array(prompts, dtype=np.int64)
    difference_PF = np.array(rows).reshape(len(rows), len(FEATURES))
    length_P, weight_P = np.array(lengths, dtype=np.float64), np.array(weights, dtype=np.float64)
    return Pairs(difference_PF, length_P, prompt_P, fold_C[prompt_P], weight_P)


def pair_weights(group: Group, pairs: Sequence[Preference]) -> list[float]:
    """What each pair counts in training beside one of weight 1: an average over the pairs of a group, then over groups,
    gives a pair its group's weight times its own over the mean of the group's own.
    """
    mean = sum(p.weight for p in group.preferences) / len(group.preferences)
    return [group.weight * p.weight / mean if mean > 0 else 0.0 for p in pairs]


def folds(openings: Sequence[str], seed: int) -> Ints:
    """A fold per opening: sizes differ by at most one, and the order of the openings plays no part."""
    order = sorted(range(len(openings)), key=lambda c: (unit_hash(openings[c], seed), openings[c]))
    fold_C = np.zeros(len(openings), dtype=np.int64)
    fold_C[order] = np.arange(len(openings)) % FOLDS
    return fold_C


def fitted(pairs: Pairs, seed: int) -> dict[str, Any]:
    """Every number of the baseline that needs enough pairs."""
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(seed)
    # Turned round at random, so that "first side better" is true for half the pairs.
    side_P = rng.choice([-1.0, 1.0], size=len(pairs.length_P))
    side_P[:2] = 1.0, -1.0  # both classes are there
    score_P = held_out_scores(pairs, side_P)
    longer_P, right_P, weight_P = wins(pairs.length_P), wins(score_P), pairs.weight_P
    return {
        "length_accuracy": clustered_mean(longer_P, pairs.prompt_P, weight_P, seed=seed).to_json(),
        "shorter_accuracy": clustered_mean(1 - longer_P, pairs.prompt_P, weight_P, seed=seed).to_json(),
        "logistic_accuracy": clustered_mean(right_P, pairs.prompt_P, weight_P, seed=seed).to_json(),
        "auc": float(roc_auc_score(side_P > 0, score_P * side_P, sample_weight=weight_P)),
        "features": strongest(pairs, side_P),
    }


def held_out_scores(pairs: Pairs, side_P: Floats) -> Floats:
    """[P] each pair's score by a model that was fitted to the other folds' openings; above 0 it is right.

    side_P  1 or -1: pairs of -1 are turned round for the fit, which needs both outcomes
    """
    score_P = np.zeros(len(pairs.length_P))
    for fold in range(FOLDS):
        held_P = pairs.fold_P == fold
        weight_F = fit(pairs.difference_PF[~held_P], side_P[~held_P], pairs.weight_P[~held_P])
        score_P[held_P] = pairs.difference_PF[held_P] @ weight_F
    return score_P


def wins(difference_P: Floats) -> Floats:
    """1 where the difference is above zero, 0 below, one half at zero."""
    return (1 + np.sign(difference_P)) / 2


def fit(difference_PF: Floats, side_P: Floats, weight_P: Floats | None = None, *, penalty: float = 1.0) -> Floats:
    """Weights per unit of each feature; 0 for a feature that never differs. `penalty` times half the squared norm of
    the weights per SD is added to the loss.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits  # scikit-learn's own dependency

    scale_F = scale(difference_PF)
    if len(np.unique(side_P)) < 2 or not np.isfinite(scale_F).any():
        return np.zeros(len(scale_F))
    model = LogisticRegression(C=1 / penalty, fit_intercept=False, max_iter=1000)
    with threadpool_limits(1):  # so few features gain nothing from threads, and sums keep their order
        model.fit(difference_PF / scale_F * side_P[:, None], side_P, sample_weight=weight_P)
    weight_F: Floats = model.coef_[0] / scale_F
    return weight_F


def scale(difference_PF: Floats) -> Floats:
    """SD of each difference about zero; infinite where it is always zero, so that dividing by it gives 0."""
    scale_F: Floats = np.sqrt((difference_PF**2).mean(0))
    return np.where(scale_F > 0, scale_F, np.inf)


def strongest(pairs: Pairs, side_P: Floats) -> list[dict[str, Any]]:
    """Features that differ in enough pairs, by the size of their coefficient in a model of all pairs."""
    scale_F = scale(pairs.difference_PF)
    coefficient_F = fit(pairs.difference_PF, side_P, pairs.weight_P) * np.where(np.isfinite(scale_F), scale_F, 0)
    listed = []
    for index, feature in enumerate(FEATURES):
        difference_P = pairs.difference_PF[:, index]
        differ = int((difference_P != 0).sum())
        if differ >= max(FEWEST_DIFFER, 0.01 * len(difference_P)):
            more = weighted_mean(wins(difference_P), pairs.weight_P * (difference_P != 0))
            listed.append({
                "name": feature.name,
                "meaning": feature.meaning,
                "coefficient": float(coefficient_F[index]),
                "accuracy": weighted_mean(wins(difference_P), pairs.weight_P),
                "differ": differ,
                "accuracy_where_differs": more,
            })  # fmt: skip
    return sorted(listed, key=lambda row: -abs(row["coefficient"]))


def weighted_mean(value_P: Floats, weight_P: Floats) -> float:
    """The mean under the weights, one half where nothing counts."""
    total = float(weight_P.sum())
    return float(value_P @ weight_P / total) if total > 0 else 0.5


def reading(result: dict[str, Any]) -> str:
    """What the baseline means, in one plain sentence."""
    model, longer = result["logistic_accuracy"], result["length_accuracy"]
    if model["value"] is None:
        return (
            f"{result['n_pairs']} decided pairs over {result['n_prompts']} prompts are too few to say what "
            f"the surface predicts (at least {FEWEST_PAIRS} over {FEWEST_PROMPTS} are needed)."
        )
    name, simple = ("longer", longer) if longer["value"] >= 0.5 else ("shorter", result["shorter_accuracy"])
    facts = (
        f"always preferring the {name} answer agrees with {share(simple)} of the labels, and a model of "
        f"{len(FEATURES)} surface features with {share(model)} on prompts that it has not seen"
    )
    best = max(model["value"], simple["value"])
    low = max(model["low"] or 0, simple["low"] or 0)
    if low < TELLING:
        return f"The surface tells next to nothing about these labels: {facts}."
    if best < 0.6:
        return f"The surface tells a little about these labels: {facts}."
    if best < 0.7:
        return (
            f"The surface tells a good part of these labels: {facts}; a reward model has to do clearly "
            "better than that to have learnt anything else."
        )
    return (
        f"Most of these labels can be told without reading an answer: {facts}; an accuracy near that "
        "proves nothing, so judge a reward model on pairs of equal length."
    )


def share(interval: dict[str, float | None]) -> str:
    """ "83% (80 to 86)"."""
    value, low, high = interval["value"], interval["low"], interval["high"]
    assert value is not None
    shown = f"{value:.0%}"
    return shown if low is None or high is None else f"{shown} ({low * 100:.0f} to {high * 100:.0f})"
