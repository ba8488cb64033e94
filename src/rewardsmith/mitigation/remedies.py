"""What can be done about a fault, as a table: which probes each remedy answers, what it does, what it costs.

A training option is one line here: its fields are those of `TrainConfig`, `LossConfig` or `RenderConfig` by name.

    Remedy(name="smoothing", stage="training", families=ANY, train={"label_smoothing": 0.1}, what="...", cost="...")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rewardsmith.data.augment import Wanted, parse_kinds
from rewardsmith.data.counterfactuals import KINDS
from rewardsmith.errors import ConfigError

Stage = Literal["data", "weights", "people", "training", "after"]
ANY = ("*",)
LENGTH = ("length", "warnings")
FORM = ("list", "bold", "header", "emoji", "link", "exclamation", "opener", "punctuation")
STRONG = 0.5  # SD: an edit that gains so much is stated to lose, where a smaller gain is stated to be a tie
DOSES = ((1.0, 3), (0.5, 2))  # effects in SD, and how many times the usual share they are answered with
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One thing that can be done.

    stage     data: new groups; weights: of the pairs; people: something to read; training: an option of the run;
              after: an adjustment of the trained model's rewards
    families  families of probes that it answers; "*": any fault
    what      what it does, in words
    cost      what it costs, where that cannot be worked out before
    auto      whether `--take auto` takes it
    share     new groups for each group of the data, for an effect below 0.5 SD; 2 and 3 times as many from 0.5 and 1
              SD ("data")
    strong    the verdict of the edited answer where the effect is STRONG or more; "" where the kind has none to choose
    train     options of the run ("training")
    doubts    share of the labels that a model of the data must doubt before it is proposed
    """

    name: str
    stage: Stage
    families: tuple[str, ...]
    what: str
    cost: str = ""
    auto: bool = False
    share: float = 0.0
    strong: str = ""
    train: Mapping[str, Any] = field(default_factory=dict)
    doubts: float = 0.0

    def answers(self, family: str) -> bool:
        return "*" in self.families or family in self.families

    def wanted(self, effect: float) -> Wanted:
        """What `data augment` is asked for, by the size of the effect in SD."""
        verdict = KINDS[self.name].verdict
        times = next((times for least, times in DOSES if effect >= least), 1)
        return Wanted(min(1.0, self.share * times), self.strong if self.strong and effect >= STRONG else verdict)


def _pairs(name: str, families: tuple[str, ...], what: str, share: float = 0.1, strong: str = "") -> Remedy:
    return Remedy(name=name, stage="data", families=families, what=what, auto=True, share=share, strong=strong)


REMEDIES: tuple[Remedy, ...] = (
    _pairs("padding", LENGTH, "pairs in which sentences that say nothing lose"),
    _pairs("restating", LENGTH, "pairs in which saying it all twice loses", 0.05),
    _pairs("concise", LENGTH, "ties between an answer with and without its fillers", 0.05),
    _pairs("list", ("list",), "pairs of lines against bullets", strong="rejected"),
    _pairs("bold", ("bold",), "pairs of plain against bold words", strong="rejected"),
    Remedy(
        name="ornament",
        stage="data",
        families=("emoji", "header", "exclamation", "opener"),
        what="pairs of plain against emoji, headers, exclamation marks or ready openers; neutral additions fell along",
        share=0.1,
        strong="rejected",
    ),
    _pairs("broken", ("gibberish", "cut off"), "pairs in which mixed words, noise or a text broken off loses", 0.15),
    _pairs(
        "careless",
        ("punctuation", "typos", "homoglyphs"),
        "pairs in which missing marks and capitals, wrong spelling or look-alike letters lose",
        0.05,
    ),
    _pairs("reference", ("citation", "authority", "link"), "pairs in which an invented reference loses"),
    _pairs("appeal", ("self-praise", "injection"), "pairs in which words to whoever rates the answer lose"),
    _pairs("praise", ("flattery",), "pairs in which a compliment to the user loses"),
    _pairs(
        "belief",
        ("sycophancy", "credentials", "pushback", "opinion"),
        "pairs in which agreeing with the user wins only where the user is right",
    ),
    _pairs("refusal", ("refusal",), "pairs in which a refusal that nothing calls for loses"),
    _pairs("other", ("constant", "other answer", "prompt"), "pairs in which the answer to another prompt loses"),
    Remedy(
        name="balance",
        stage="weights",
        families=(*LENGTH, *FORM),
        what="weights under which length and form no longer tell the labels",
        auto=True,
    ),
    Remedy(
        name="review",
        stage="people",
        families=ANY,
        what="a list of labels that look wrong, for people to read; nothing is dropped",
    ),
    Remedy(
        name="label-smoothing",
        stage="training",
        families=ANY,
        what="a tenth of each label given to chance, so that wrong labels pull less",
        cost="smaller reward gaps; no further time",
        train={"label_smoothing": 0.1},
    ),
    Remedy(
        name="consistency",
        stage="training",
        families=("length", "list", "bold", "flattery"),
        what="the same reward for an answer and for it with padding, bullets, bold words or a compliment",
        cost="one more answer to each prompt in training; on alpaca_eval -0.008 [-0.023, +0.008] of accuracy, and "
        "padding of short answers was paid more",
        train={"consistency": 0.2},
    ),
    Remedy(
        name="odin",
        stage="training",
        families=("length",),
        what="a second head that takes what length explains; the head that is kept must not follow length",
        cost="where longer answers are better, quality goes with length: on alpaca_eval -0.172 [-0.250, -0.108] of "
        "accuracy",
        train={"odin": 1.0},
    ),
    Remedy(
        name="flip-rate",
        stage="training",
        families=ANY,
        what="labels taken for turned round one time in ten, so that one against a large reward gap pulls little",
        cost="on alpaca_eval -0.003 [-0.012, +0.005] of accuracy; no further time",
        train={"flip_rate": 0.1},
        doubts=0.1,
    ),
    Remedy(
        name="length-calibration",
        stage="after",
        families=LENGTH,
        what="what length does to the reward, fitted on pairs kept out of training, taken out of the adjusted rewards",
    ),
    Remedy(
        name="bound",
        stage="after",
        families=ANY,
        what="adjusted rewards between 0 and 1, so that a policy gains little by pushing one answer ever higher",
        cost="none in accuracy: the order of answers stays; a tenth of the prompts is kept out of training to fit it",
    ),
)
BY_NAME = {remedy.name: remedy for remedy in REMEDIES}


@dataclass(frozen=True)
class Taken:
    """A remedy to apply; `wanted` for one that adds pairs."""

    remedy: Remedy
    wanted: Wanted | None = None

    @property
    def word(self) -> str:
        """As `--take` would say it."""
        if self.wanted is None:
            return self.remedy.name
        verdict = f":{self.wanted.verdict}" if self.wanted.verdict else ""
        return f"{self.remedy.name}={self.wanted.share:g}{verdict}"


def taken_of(words: Sequence[str], proposals: Sequence[Mapping[str, Any]]) -> list[Taken]:
    """What `--take` names: `auto` is what the plan marks so, NAME or KIND=SHARE:VERDICT anything in the table.

    A kind that the plan proposes is taken as proposed unless the word says otherwise, be it before `auto` or behind it.
    ConfigError for a name that is none, or none that the plan could apply.
    """
    proposed = {row["name"]: row for row in proposals}
    found: dict[str, Taken] = {}
    if AUTO in words:
        found = {row["name"]: _taken(row["word"]) for row in proposals if row["auto"]}
    for word in (word for word in words if word != AUTO):
        name = word.partition("=")[0]
        if name not in BY_NAME:
            raise ConfigError(f"--take {word}: no remedy is named {name!r}; there are: auto, {', '.join(BY_NAME)}")
        found[name] = _taken(proposed[name]["word"] if word == name and name in proposed else word)
    return [found[name] for name in BY_NAME if name in found]


def _taken(word: str) -> Taken:
    remedy = BY_NAME[word.partition("=")[0]]
    if remedy.stage != "data":
        if "=" in word:
            raise ConfigError(f"--take {word}: {remedy.name} has no share; say {remedy.name}")
        return Taken(remedy)
    (asked,) = parse_kinds([word], "--take").values()
    share = asked.share if "=" in word else remedy.share
    return Taken(remedy, Wanted(share, asked.verdict or KINDS[remedy.name].verdict))
