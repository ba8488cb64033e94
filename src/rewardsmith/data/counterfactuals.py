"""Counterfactual groups: an answer of the user's own data, changed in a way whose worth is known.

A maker takes one group and gives a new one, or says in a word why it does not apply. What it states follows from the
edit, or from the label that it started from:

    padding, restating, praise   the answer, and the same with sentences that say nothing, twice over, with a compliment
    list, bold, ornament         the answer, and the same in bullets, with words in bold, with emoji or the like
    broken, careless             the answer, and the same with its text broken, or written without care (`damage`)
    reference, appeal            the answer, and the same with an invented reference, with words to whoever rates it
        In these ten, the worse answer of the pair is edited too, and stays worse: the edit does not turn the order.
        Whether a broken better answer beats a whole worse one is not known, and not stated.
    belief     the user states a sentence of the worse answer as their belief, and words of agreement before that answer
               lose; in half the groups they state one of the better answer, which wins with such words and without
    refusal    a refusal loses to the answer, where nothing in the prompt calls for one
    other      the better answer to another prompt loses (RRM, 2409.13156)
    concise    the answer without its fillers ties with it; or two equally rated answers of different length do
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from rewardsmith.data.additions import appeal, ornament, reference
from rewardsmith.data.damage import broken, careless
from rewardsmith.data.schema import TIE, Group, Message, Messages, Preference, text_of
from rewardsmith.data.split import opening_of
from rewardsmith.data.surface import View
from rewardsmith.edits import TextEdit, agreement, bold, bullets, padding, praise, restating, sentences

TAG = "augmented"
LONGEST = 4000  # characters of an answer that is edited
SURE = 0.75  # probability of a label that is taken for what is so
BELIEF_LENGTH = (12, 300)  # characters of a sentence that can be stated as a belief
LONGER = 1.5  # times as long: the detailed one of two twins
RATED_ALIKE = 0.02  # of the range of all ratings
SHORTER = 0.95  # of its length is left, at most, where fillers were taken out
TRIES = 10  # donors looked at for one prompt
MARKED_UP = re.compile(r"```|^\s*([-*•|#>]|\d{1,3}[.)])\s|\*\*|\t", re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """A group with the label it is used for: `better` and `worse` are None where nothing in it is decided."""

    group: Group
    better: int | None
    worse: int | None
    label: Preference | None


@dataclass(frozen=True)
class Around:
    """What a maker may look at beyond its group: all sources, and by how much ratings may differ to be alike."""

    sources: Sequence[Source]
    alike: float


Maker = Callable[[Source, Around, Random, float], Group | str]


@dataclass(frozen=True)
class Kind:
    """A kind of counterfactual. share: new groups for each group of the data, unless told otherwise.

    verdict  what the edited answer is against the plain one: "tie", "rejected", or "" where it is not for the user to
             say
    usual    whether it is made where no kinds are named; the others answer faults that an audit must show first
    english  whether it adds words of its own, which are English
    """

    make: Maker
    share: float
    verdict: str = ""
    usual: bool = True
    english: bool = False


def source_of(group: Group, rng: Random) -> Source:
    """The group with one of its decided labels, drawn at random."""
    decided = [p for p in group.preferences if p.probability >= SURE]
    if not decided:
        return Source(group, None, None, None)
    label = rng.choice(decided)
    return Source(group, label.chosen, label.rejected, label)


# -- makers ---------------------------------------------------------------------------------------------------------


def edited(
    edit: TextEdit,
    *,
    plain_only: bool = False,
    neutral: Literal["", "better", "plain"] = "",
    unless: re.Pattern[str] | None = None,
) -> Maker:
    """The answer against its edit, and against the worse answer's edit where a label gives one.

    plain_only   the edit is one of form, and takes text that has no form yet
    neutral      the edit's neutral twin, an addition of the same place and size, is a further answer that the edited
                 one is held against: else a model learns that additions lose, and of two still likes this one better.
                 plain: the twin is worth what the plain answer is, and each statement counts as a pair does
    unless       words of a prompt that may well ask for what the edit does
    """

    def change(response: Messages, rng: Random) -> tuple[Messages, Messages | None] | None:
        text = response[-1].content
        if (plain_only and MARKED_UP.search(text)) or len(text) > LONGEST or not text.strip() or response[-1].extra:
            return None
        made = edit(text, rng)
        if made is None or made.text == text:
            return None
        twin = None if made.placebo is None else with_text(response, made.placebo)
        return with_text(response, made.text), twin

    def make(source: Source, around: Around, rng: Random, probability: float) -> Group | str:
        group = source.group
        if unless is not None and unless.search(text_of(group.prompt)):
            return "the prompt may ask for what the edit does"
        which = source.better if source.better is not None else rng.randrange(len(group.responses))
        state = rng.getstate()
        changed = change(group.responses[which], rng)
        if changed is None:
            return "the edit does not apply to the answer"
        after, twin = changed
        responses = [group.responses[which], after]
        stated = [Preference(chosen=0, rejected=1, probability=probability)]
        if source.worse is not None and source.label is not None:
            rng.setstate(state)  # the same words behind both answers
            worse = change(group.responses[source.worse], rng)
            if worse is not None:
                responses.append(worse[0])
                stated.append(Preference(chosen=0, rejected=2, probability=source.label.probability))
        if neutral and twin is not None:
            n = len(responses)
            responses.append(twin)
            if neutral == "plain":
                stated += against_twin(plain=0, words=1, neutral=n, probability=probability)
                return each_counts(new_group(group, group.prompt, responses, stated))
            stated.append(Preference(chosen=n, rejected=1, probability=probability))
        return new_group(group, group.prompt, responses, stated)

    return make


def against_twin(*, plain: int, words: int, neutral: int, probability: float) -> list[Preference]:
    """Words before an answer against their neutral twin: the twin is worth what the plain answer is. Without this, a
    model that learns that additions lose has nothing to tell the two apart by.
    """
    return [
        Preference(chosen=neutral, rejected=words, probability=probability),
        Preference(chosen=plain, rejected=neutral, probability=TIE),
    ]


def each_counts(group: Group) -> Group:
    """The group with a weight of one pair for each of its statements. A prompt counts once, whatever is stated of it;
    here that would leave each statement a fraction of what a single label for the opposite weighs.
    """
    return replace(group, weight=group.weight * len(group.preferences))


BELIEFS = (
    "I think it is this: “{}”",
    "As far as I know: “{}”",
    "Somebody told me “{}”, and I believe it.",
    "I am quite sure of this: “{}”",
)


def belief(source: Source, around: Around, rng: Random, probability: float) -> Group | str:
    """A sentence of one answer as the user's belief. Where it is the worse answer's, words of agreement lose: against
    the better answer, the same answer without them, and their neutral twin. Where it is the better answer's, that
    answer wins with them, and they are worth nothing by themselves.
    """
    if source.better is None or source.worse is None or source.label is None:
        return "no decided label"
    group = source.group
    if not group.prompt or group.prompt[-1].role != "user" or group.prompt[-1].extra:
        return "the prompt does not end with the user"
    better, worse = group.responses[source.better], group.responses[source.worse]
    is_right = rng.random() < 0.5
    believed = better if is_right else worse
    said = statement(believed, worse if is_right else better)
    if said is None or refuses(text_of(believed)):
        return "the answer has no sentence to believe"
    last = group.prompt[-1]
    prompt = (*group.prompt[:-1], Message("user", f"{last.content} {rng.choice(BELIEFS).format(said)}"))
    edit = agreement(believed[-1].content, rng)
    assert edit.placebo is not None, "words of agreement have a neutral twin"
    agreeing, neutral = with_text(believed, edit.text), with_text(believed, edit.placebo)
    sure = source.label.probability
    if is_right:
        responses = [agreeing, worse, better]
        stated = [
            Preference(chosen=0, rejected=1, probability=sure),
            Preference(chosen=0, rejected=2, probability=TIE),
        ]
    else:
        responses = [better, worse, agreeing, neutral]
        stated = [
            Preference(chosen=0, rejected=1, probability=sure),
            Preference(chosen=0, rejected=2, probability=sure),
            Preference(chosen=1, rejected=2),
            *against_twin(plain=1, words=2, neutral=3, probability=1.0),
        ]
    return each_counts(new_group(group, prompt, responses, stated))


REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I cannot answer this.",
    "As an assistant, I am not able to give information on this topic. Please ask somebody who is qualified.",
    "I'm unable to assist with this request, because it could be misused. Is there something else that I can do?",
    "I won't go into this. It would not be appropriate for me to say anything about it, and I would rather not guess.",
    "I apologize, but I have to decline. My guidelines do not allow me to deal with questions of this kind, as safety "
    "comes first and I cannot know what the answer would be used for. Please consult a professional instead.",
)
# A prompt with one of these may well deserve a refusal. Too many are found rather than too few.
ALARMING = re.compile(
    r"\b(kill|murder|dead|death|die|bomb|weapon|gun|shoot|knife|poison|drug|cocaine|meth|heroin|weed|steal|stole|theft|"
    r"rob|shoplift|burgl|hack|password|malware|virus|phish|fraud|scam|fake|forge|counterfeit|blackmail|stalk|spy|track|"
    r"rape|sex|porn|nude|naked|penis|suicid|self.harm|hurt|harm|abus|beat|punch|attack|fight|rac(e|ist|ism)|nazi|"
    r"slur|hate|terror|illegal|crime|criminal|jail|prison|police|cop|cheat|lie|lying|revenge|prank|smuggl|launder|"
    r"explosi|kidnap|tortur|idiot|stupid|dumb|curse|swear|insult|bully|threat|fire|burn|blood|alcohol|underage|kid|"
    r"child|minor|credit card|social security|address|without (getting )?caught|get away with|trick|manipulat|secret"
    r")\w*",
    re.IGNORECASE,
)


def refuses(text: str) -> bool:
    """Whether an answer begins by declining."""
    opening = View(text[:300])
    return opening.counts["refusal"] > 0 or opening.plain.startswith((" i'm sorry ", " sorry ", " i apologize "))


def refusal(source: Source, around: Around, rng: Random, probability: float) -> Group | str:
    """A refusal, where neither the prompt nor the better answer hints that one is due."""
    if source.better is None:
        return "no decided label"
    group, better = source.group, source.group.responses[source.better]
    if any(refuses(text_of(response)) for response in group.responses):
        return "an answer of the data refuses"
    if ALARMING.search(text_of(group.prompt)):
        return "the prompt may deserve a refusal"
    declined: Messages = (Message("assistant", rng.choice(REFUSALS)),)
    return new_group(group, group.prompt, [better, declined], [Preference(chosen=0, rejected=1)])


def other(source: Source, around: Around, rng: Random, probability: float) -> Group | str:
    """The better answer to another prompt, where it speaks of what that prompt asks."""
    if source.better is None:
        return "no decided label"
    group, opening = source.group, opening_of(source.group)
    own = {text_of(response) for response in group.responses}
    mine = content_words(text_of(group.prompt))
    for _ in range(TRIES):
        donor = around.sources[rng.randrange(len(around.sources))]
        if donor.better is None or opening_of(donor.group) == opening:
            continue
        answer = donor.group.responses[donor.better]
        said, asked = content_words(text_of(answer)), content_words(text_of(donor.group.prompt))
        # An answer that fits any prompt ("Could you say more?") has nothing of its own one.
        if text_of(answer) in own or not said & (asked - mine):
            continue
        responses = [group.responses[source.better], answer]
        return new_group(group, group.prompt, responses, [Preference(chosen=0, rejected=1)])
    return "no answer to another prompt was found"


FILLERS = re.compile(
    r"^(Sure|Certainly|Of course|Absolutely|Great question|Good question|That's a (great|good) question|"
    r"((Sure|Of course|Certainly)[,!] )?(I'd|I would) be (happy|glad) to help|Happy to help|"
    r"Thank you for (asking|your question)|(I )?hope (this|that|it) helps|Let me know if|(Please )?feel free to|"
    r"If you have any (other|more|further)|Is there anything else (that )?I can|Please let me know|"
    r"As an AI( language model)?,)\b[^.!?\n]{0,120}[.!?]*$",
    re.IGNORECASE,
)
WORDY = tuple(
    (re.compile(rf"\b{long}\b", re.IGNORECASE), short)
    for long, short in (
        ("in order to", "to"),
        ("due to the fact that", "because"),
        ("a large number of", "many"),
        ("it is important to note that ", ""),
        ("it's important to note that ", ""),
        ("it is worth noting that ", ""),
        ("keep in mind that ", ""),
    )
)


def without_fillers(text: str) -> str:
    """The text without opening and closing phrases that say nothing, and with wordy phrases made short."""
    paragraphs = []
    for paragraph in text.split("\n"):
        kept = [part for part in sentences(paragraph) if not FILLERS.match(part)]
        removed = len(kept) < len(sentences(paragraph))
        paragraphs.append(" ".join(kept) if removed else paragraph)
    short = "\n".join(paragraphs)
    for pattern, replacement in WORDY:
        short = pattern.sub(replacement, short)
    return re.sub(r"\n{3,}", "\n\n", short).strip()


def concise(source: Source, around: Around, rng: Random, probability: float) -> Group | str:
    """A short and a long answer of equal worth: two of the data that are rated alike, else one with its fillers out."""
    group = source.group
    twins = rated_twins(group, around.alike)
    if twins:
        a, b = rng.choice(twins)
        responses = [group.responses[a], group.responses[b]]
        return new_group(group, group.prompt, responses, [Preference(chosen=0, rejected=1, probability=probability)])
    which = source.better if source.better is not None else rng.randrange(len(group.responses))
    response = group.responses[which]
    text = response[-1].content
    short = without_fillers(text)
    if response[-1].extra or not short or len(short) > SHORTER * len(text):
        return "no twin of another length, and no fillers"
    responses = [with_text(response, short), response]
    return new_group(group, group.prompt, responses, [Preference(chosen=0, rejected=1, probability=probability)])


def rated_twins(group: Group, alike: float) -> list[tuple[int, int]]:
    """(short, long) pairs of answers whose ratings are alike, and of which no label says which is better."""
    if group.ratings is None:
        return []
    rated = [(i, r, len(text_of(group.responses[i]))) for i, r in enumerate(group.ratings) if r is not None]
    stated = {frozenset((p.chosen, p.rejected)) for p in group.preferences}
    return [
        (i, j)
        for i, rating, short in rated
        for j, level, long in rated
        if short > 0 and long >= LONGER * short and abs(rating - level) <= alike and frozenset((i, j)) not in stated
    ]


# Prompts to which the edited answer may be the better one. Too many are found rather than too few.
ASKS_FOR_BROKEN = re.compile(
    r"\b(random|scrambl|shuffl|jumbl|anagram|nonsense|gibberish|lorem|repeat|again and again|over and over|cut.?off|"
    r"unfinished|incomplete|complete|continue|finish|letters|cipher|encrypt|encode|decode|garbl|broken|stutter)\w*",
    re.IGNORECASE,
)
ASKS_FOR_CARELESS = re.compile(
    r"\b(lower.?case|capitali[sz]|capital letter|in capitals|caps\b|punctuat|commas|full stops?|misspel|typo|slang|"
    r"informal|casual|text message|texting|tweet|unicode|letters|alphabet|greek)\w*",
    re.IGNORECASE,
)
ASKS_FOR_ORNAMENTS = re.compile(  # or is no place for them: a text that was ordered, and a grave matter
    rf"{ALARMING.pattern}|\b(emojis?|emoticon|smil(ey|ies)|head(er|ing|line)|title|section|markdown|exclamation|exclaim|"
    r"enthusias|format|only|just|exactly|nothing else|json|csv|html|xml|yaml|write|draft|compose|rewrite|rephrase|"
    r"translate|poem|story|letter|email|message|post|tweet|caption|slogan|sick|ill|pain|grief|funeral|lost|cancer|"
    r"depress|anxi|afraid|scared|divorc|diagnos)\w*",
    re.IGNORECASE,
)
ASKS_FOR_REFERENCES = re.compile(
    r"\b(cite|citation|reference|bibliograph|invent|made.?up|make up|fake|fiction|placeholder|dummy)\w*", re.IGNORECASE
)
ASKS_FOR_APPEALS = re.compile(
    r"\b(grad(e|ing)|evaluat|judg|verdict|prompt|inject|advert|slogan|boast)\w*", re.IGNORECASE
)

KINDS: dict[str, Kind] = {
    "padding": Kind(edited(padding), 0.05, "rejected", english=True),
    "restating": Kind(edited(restating), 0.02, "rejected", english=True),
    "list": Kind(edited(bullets, plain_only=True), 0.03, "tie"),
    "bold": Kind(edited(bold, plain_only=True), 0.03, "tie"),
    "praise": Kind(edited(praise, neutral="plain"), 0.03, "rejected", english=True),
    "ornament": Kind(
        edited(ornament, plain_only=True, neutral="plain", unless=ASKS_FOR_ORNAMENTS),
        0.03,
        "tie",
        usual=False,
        english=True,
    ),
    "broken": Kind(edited(broken, neutral="better", unless=ASKS_FOR_BROKEN), 0.05, "rejected", usual=False),
    "careless": Kind(edited(careless, unless=ASKS_FOR_CARELESS), 0.03, "rejected", usual=False),
    "reference": Kind(
        edited(reference, neutral="plain", unless=ASKS_FOR_REFERENCES), 0.03, "rejected", usual=False, english=True
    ),
    "appeal": Kind(
        edited(appeal, neutral="plain", unless=ASKS_FOR_APPEALS), 0.03, "rejected", usual=False, english=True
    ),
    "belief": Kind(belief, 0.05, english=True),
    "refusal": Kind(refusal, 0.05, english=True),
    "other": Kind(other, 0.1),
    "concise": Kind(concise, 0.05, "tie"),
}
PROBABILITY = {"tie": TIE, "rejected": 1.0, "": 1.0}


# -- words and parts ------------------------------------------------------------------------------------------------


def with_text(response: Messages, text: str) -> Messages:
    """The response with another text in its last turn."""
    return (*response[:-1], Message(response[-1].role, text, response[-1].extra))


def statement(response: Messages, other: Messages) -> str | None:
    """The first sentence of an answer that a user could believe: no filler, no question, and not in `other` too."""
    for sentence in sentences(text_of(response)):
        plain = " ".join(sentence.split()).strip("“”\"' ")
        fits = BELIEF_LENGTH[0] <= len(plain) <= BELIEF_LENGTH[1] and plain[-1] not in "?:"
        if fits and not FILLERS.match(plain) and not MARKED_UP.search(sentence) and sentence not in text_of(other):
            return plain
    return None


def content_words(text: str) -> set[str]:
    """Longer words of a text, in lower case."""
    return set(re.findall(r"[^\W\d_]{6,}", text.lower()))


def new_group(group: Group, prompt: Messages, responses: Sequence[Messages], stated: Sequence[Preference]) -> Group:
    """A group of the same tools, variables, tags and weight; `augment` adds its own tag."""
    return Group(
        prompt=prompt,
        responses=tuple(responses),
        preferences=tuple(stated),
        tags=dict(group.tags),
        tools=group.tools,
        template_kwargs=group.template_kwargs,
        weight=group.weight,
    )
