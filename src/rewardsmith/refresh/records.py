"""What goes into a refresh store and what comes out of it.

`New...` are rows to be added; the others are rows as they are kept, with their id. Messages are those of
`data.schema`; times are seconds since 1970 (UTC).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rewardsmith.data.schema import Message, Messages, content_hash, text_of
from rewardsmith.errors import DataError

Verdict = Literal["a", "b", "tie", "skip", "flag"]
Source = Literal["person", "judge", "gold"]
VERDICTS: tuple[Verdict, ...] = ("a", "b", "tie", "skip", "flag")
JUDGED: tuple[Verdict, ...] = ("a", "b", "tie")  # that say something of the order
SOURCES: tuple[Source, ...] = ("person", "judge", "gold")
MOST_ANSWERS = 9  # that are ranked together: one digit of the keyboard each
LONGEST_NAME = 200
LONGEST_NOTE = 10_000


@dataclass(frozen=True, kw_only=True)
class NewPrompt:
    """A prompt to add. Two with the same messages and context are one; the first one's source and tags stay."""

    messages: Messages
    source: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def context(self) -> str | None:
        """Tools and template variables as JSON; None where there are none."""
        if not self.tools and not self.template_kwargs:
            return None
        return json.dumps({"tools": self.tools, "template_kwargs": dict(self.template_kwargs)}, sort_keys=True)

    @property
    def key(self) -> str:
        text = content_hash(self.messages, ())
        if self.context is None:
            return text
        return text + hashlib.blake2b(self.context.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


@dataclass(frozen=True, kw_only=True)
class NewResponse:
    """What a policy said to a prompt in a round. The same text to the same prompt is one response, drawn twice.

    logprob is that of the policy, base_logprob that of the policy everything started from; None: not known.
    """

    prompt_id: int
    messages: Messages
    policy: str
    round: int
    base_logprob: float | None = None
    logprob: float | None = None

    @property
    def key(self) -> str:
        return f"{self.prompt_id}:{content_hash((), (self.messages,))}"


@dataclass(frozen=True, kw_only=True)
class NewComparison:
    """Two responses to one prompt that are worth a label. A pair is kept once, whichever way round it comes.

    kind     a short name of the reason, for counts ("new-new")
    why      the reason in words, for people
    score    what comes first in the queue: the highest
    overlap  how many labels are wanted
    """

    prompt_id: int
    a_id: int
    b_id: int
    round: int
    why: str
    kind: str = ""
    score: float = 0.0
    overlap: int = 1


@dataclass(frozen=True, kw_only=True)
class NewLabel:
    """A verdict to add: "a" says that the comparison's a is better, whichever side it stood on.

    seconds  how long it took; None: not known
    shown    "ab": a stood left; "ba": b did
    key      the sender's own name for this label, or for the ranking that it is part of: the same key again is the same
    """

    comparison_id: int
    annotator: str
    verdict: Verdict
    at: float
    seconds: float | None = None
    shown: str = "ab"
    note: str = ""
    source: Source = "person"
    key: str | None = None

    def row(self) -> dict[str, Any]:
        """As it is kept; DataError for what is no label."""
        check_label(self.verdict, self.source, self.shown, self.note, self.at, self.seconds)
        return {
            "comparison_id": self.comparison_id, "annotator": check_name(self.annotator), "verdict": self.verdict,
            "at": self.at, "seconds": self.seconds, "shown": self.shown, "note": storable(self.note),
            "source": self.source, "key": self.key,
        }  # fmt: skip


@dataclass(frozen=True)
class Added:
    """Ids in the order of what was given, and how many of them were not there before."""

    ids: list[int]
    new: int


@dataclass(frozen=True)
class Prompt:
    id: int
    messages: Messages
    source: str
    tags: Mapping[str, str]
    tools: Sequence[Mapping[str, Any]] | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    """A response; `policy` and `round` are the first that said it."""

    id: int
    prompt_id: int
    messages: Messages
    policy: str
    round: int
    base_logprob: float | None

    @property
    def text(self) -> str:
        return text_of(self.messages)


@dataclass(frozen=True)
class Comparison:
    """A comparison with its texts. `a` is the response with the lower id; `given` counts labels a, b and tie."""

    id: int
    prompt: Prompt
    a: Response
    b: Response
    round: int
    kind: str
    why: str
    score: float
    proposed_at: float
    overlap: int
    given: int
    flags: int
    is_open: bool
    set_id: int | None = None
    """The number of the set of answers that it is ranked in; None: a pair by itself."""


@dataclass(frozen=True)
class Leased:
    """What one annotator looks at until `until`: a pair, or all pairs among the answers of a set, by their ids."""

    comparisons: tuple[Comparison, ...]
    annotator: str
    until: float

    @property
    def comparison(self) -> Comparison:
        """The pair; of a set, its first one, whose id is the set's number."""
        return self.comparisons[0]

    @property
    def answers(self) -> tuple[Response, ...]:
        """The answers, in the order of their ids."""
        both = {answer.id: answer for pair in self.comparisons for answer in (pair.a, pair.b)}
        return tuple(both[i] for i in sorted(both))


@dataclass(frozen=True)
class Label:
    """One annotator's verdict; `undone_at` is None where it holds."""

    id: int
    comparison_id: int
    annotator: str
    verdict: Verdict
    at: float
    seconds: float | None
    shown: str
    note: str
    source: Source
    undone_at: float | None = None


@dataclass(frozen=True)
class Recorded:
    """A label, or those that a ranking comes to, as kept.

    `fresh` is False where the same had been kept before: a message sent twice. `given` are the fewest labels that one
    of the pairs has; `is_open` says whether one of them wants more.
    """

    labels: tuple[Label, ...]
    fresh: bool
    given: int
    is_open: bool

    @property
    def label(self) -> Label:
        """The label; of a ranking, that of the first pair."""
        return self.labels[0]


@dataclass(frozen=True)
class Model:
    """A trained model and what it came from. `details` is whatever else is worth keeping, JSON-ready."""

    id: int
    name: str
    path: str
    artifact_hash: str
    parent: str | None
    round: int
    data_hash: str
    at: float
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Gate:
    """A model's trial: whether it passed, and the figures that say so."""

    id: int
    model: str
    passed: bool
    figures: Mapping[str, Any]
    at: float


@dataclass(frozen=True)
class Release:
    """One entry of the registry. The last one is what is served; going back is one more entry."""

    seq: int
    model: str
    manifest_hash: str
    at: float
    note: str


@dataclass(frozen=True)
class Counts:
    """How much is in a store.

    rounds      comparisons by round: {"comparisons", "open", "labelled", "flagged"}
    kinds       the same by kind of proposal
    annotators  labels that hold, by annotator: {"a": ..., "b": ..., "tie": ..., "skip": ..., "flag": ...}
    """

    prompts: int
    responses: int
    comparisons: int
    open: int
    labelled: int
    flagged: int
    labels: int
    undone: int
    leases: int
    models: int
    releases: int
    rounds: Mapping[int, Mapping[str, int]]
    kinds: Mapping[str, Mapping[str, int]]
    annotators: Mapping[str, Mapping[str, int]]
    sources: Mapping[str, int]


def pack(messages: Messages) -> str:
    """Messages as JSON. Characters that no database takes as they are (NUL, lone surrogates) are escaped."""
    plain = [message.to_dict() for message in messages]
    text = json.dumps(plain, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(plain)
    return text


def unpack(text: str) -> Messages:
    """What `pack` packed."""
    return tuple(
        Message(turn.pop("role"), turn.pop("content"), turn)
        if len(turn) > 2
        else Message(turn["role"], turn["content"])
        for turn in json.loads(text)
    )


def check_name(name: str, what: str = "annotator") -> str:
    """A name without blanks around it; DataError where it is empty, too long or holds control characters."""
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{what}: a name is needed, not {name!r}")
    name = name.strip()
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise DataError(f"{what} {name[:40]!r}: at most {LONGEST_NAME} printable characters")
    return name


def check_label(verdict: str, source: str, shown: str, note: str, at: float, seconds: float | None) -> None:
    """DataError for what is no label."""
    if verdict not in VERDICTS:
        raise DataError(f"verdict {verdict!r}: give one of {', '.join(VERDICTS)}")
    if source not in SOURCES:
        raise DataError(f"source {source!r}: give one of {', '.join(SOURCES)}")
    if shown not in ("ab", "ba"):
        raise DataError(f"shown {shown!r}: give 'ab' (a stood left) or 'ba'")
    if not isinstance(note, str) or len(note) > LONGEST_NOTE:
        raise DataError(f"note: a text of at most {LONGEST_NOTE} characters")
    for name, value in (("at", at), ("seconds", seconds)):
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
            raise DataError(f"{name} {value!r}: give a finite number of seconds >= 0")


def storable(text: str) -> str:
    """Free text as both databases take it: NUL and lone surrogates become the replacement character."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
