"""What a group is, in a few words each: the ways in which `data coverage` cuts the data into cells.

Every trait is a plain rule on the text that a person can check. Those that look for English words (safety, opinion,
what is asked for) say "not judged" of prompts in another language, rather than "no".
"""

from __future__ import annotations

import re
from bisect import bisect_left
from pathlib import PurePath

from rewardsmith.data.counterfactuals import ALARMING
from rewardsmith.data.coverage.languages import ENGLISH, UNKNOWN, UNSPACED, language_of
from rewardsmith.data.schema import Group, Messages, is_blank, text_of

SHOWN = 2000  # characters of a prompt that are looked at
NOT_JUDGED = "not judged (not English)"
WORD_EDGES = (8, 20, 50, 150, 500)
WORD_BINS = ("1 to 8 words", "9 to 20 words", "21 to 50 words", "51 to 150 words", "151 to 500 words", "over 500 words")
TURN_EDGES = (1, 2, 4)
TURN_BINS = ("1 turn", "2 turns", "3 or 4 turns", "5 or more turns")

STATES = re.compile(
    r"\b(i (really |do |don't |strongly |firmly |personally |just )*"
    r"(think|believe|feel|guess|suppose|doubt|prefer|agree|disagree)|"
    r"i'm (sure|certain|convinced|pretty sure)|i am (sure|certain|convinced)|in my (opinion|view)|imo|"
    r"if you ask me|(don't|do) you agree|isn't it|aren't they)\b|\bright\?",
    re.IGNORECASE,
)
ASKS = re.compile(
    r"\b(what do you (think|believe|feel)|do you (think|believe|like|prefer)|your (opinion|view|thoughts|favou?rite)|"
    r"which (is|one is|do you) (better|best|prefer)|should i)\b",
    re.IGNORECASE,
)
COMPOSED = (
    "essay|story|poem|song|letter|e-?mail|article|post|speech|review|script|haiku|joke|tweet|blog|proposal|dialogue|"
    "lyrics|paragraph"
)
# The form that is asked for: the first that fits.
FORMS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        ("code", r"```|\b(code|python|javascript|java|sql|html|css|regex|bash|(function|program) that|script)\b|c\+\+"),
        ("JSON or a table", r"\b(json|yaml|xml|csv|table|spreadsheet|latex)\b"),
        ("a list", r"\b(list|bullet|steps|step.by.step)\b|"
         r"\b(top|give me|name|tell me) (\w+ )?(\d+|two|three|four|five|ten)\b"),
        ("mathematics", r"\b(calculate|solve|equation|integral|derivative|probability|how many)\b|\d\s*[-+*/=^]\s*\d"),
        ("a rewrite or summary",
         r"\b(summari[sz]e|summary|rewrite|paraphrase|translate|proofread|edit|rephrase|shorten)\b"),
        ("a composed text", rf"\b(write|compose|draft|create|generate)\b.{{0,40}}\b({COMPOSED})\b"),
    )
)  # fmt: skip
HOW_TO = re.compile(r"^\s*(how (do|can|to|would|should)|what('s| is) the best way)|\bhow (do|can) (i|you|we)\b", re.I)
LEAD = re.compile(r"^(\d{1,3}[.)] |[-*•] )", re.MULTILINE)

Traits = dict[str, str]


def user_text(prompt: Messages) -> str:
    """What the user typed, turn after turn: what topics and neighbours are told by. System prompts are the same for
    many, and earlier answers are another's words."""
    said = "\n".join(message.content for message in prompt if message.role == "user").strip()
    return (said or text_of(prompt).strip())[:SHOWN]


def n_words(text: str) -> int:
    """Words, and for scripts without spaces half their characters."""
    if text.isascii():
        return len(text.split())
    unspaced = sum(map(len, UNSPACED.findall(text)))
    return len(UNSPACED.sub(" ", text).split()) + unspaced // 2


def word_bin(text: str) -> str:
    return WORD_BINS[bisect_left(WORD_EDGES, n_words(text))]


def prompt_traits(prompt: Messages) -> Traits:
    """The traits of a prompt, by dimension. "no prompt" where it is blank."""
    if is_blank(prompt):
        return dict.fromkeys(("language", "prompt length", "turns", "safety", "opinion", "asks for"), "no prompt")
    text = user_text(prompt)
    turns = max(sum(message.role == "user" for message in prompt), 1)
    language = language_of(text)
    # A few words that no language claims are nearly always English names and commands.
    judged = language in (ENGLISH, f"Latin script, {UNKNOWN}")
    return {
        "language": language,
        "prompt length": word_bin(text),
        "turns": TURN_BINS[bisect_left(TURN_EDGES, turns)],
        "safety": safety_of(text) if judged else NOT_JUDGED,
        "opinion": opinion_of(text) if judged else NOT_JUDGED,
        "asks for": asks_for(text) if judged else NOT_JUDGED,
    }


def safety_of(text: str) -> str:
    """Whether alarming words are there: such a prompt may deserve a refusal, or only look as if it did."""
    return "alarming words" if ALARMING.search(text) else "no alarming words"


def opinion_of(text: str) -> str:
    """Whether the user states an opinion (that an answer may flatter) or asks for one."""
    if STATES.search(text):
        return "states an opinion"
    return "asks for an opinion" if ASKS.search(text) else "no opinion"


def asks_for(text: str) -> str:
    """The form that is asked for, by the first rule that fits."""
    for name, pattern in FORMS:
        if pattern.search(text):
            return name
    if HOW_TO.search(text):
        return "how to do something"
    return "an answer to a question" if "?" in text else "something else"


def answer_form(text: str) -> str:
    """The form of an answer: the most structured that it has."""
    if "```" in text:
        return "code block"
    if "\n|" in text:
        return "table"
    if "\n#" in text or text.startswith("#"):
        return "headers"
    if "\n" in text and len(LEAD.findall(text)) > 1:
        return "list"
    return "bold" if "**" in text else "plain"


def forms_of(answers: list[str]) -> str:
    """The forms of a group's answers: one name, or that they differ."""
    forms = set(map(answer_form, answers))
    return forms.pop() if len(forms) == 1 else "answers of different forms"


def group_traits(group: Group) -> Traits:
    """All traits of a group, tags included."""
    answers = [text_of(response) for response in group.responses]
    file = group.source.rpartition(":")[0]
    traits = prompt_traits(group.prompt) | {
        "answer length": word_bin(max(answers, key=len)),
        "answer form": forms_of(answers),
        "source": PurePath(file).name if file else "(unknown)",
    }
    tags = {f"tag {name}": value for name, value in group.tags.items()}
    return traits | tags
