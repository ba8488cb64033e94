"""Edits that damage an answer: its text is broken, or written carelessly. What they leave is worse by construction.

    broken     words in mixed order; broken off; begun again and broken off; stuck in a few words; letters at random in
               the place of words, or beside them
    careless   all in lower case, or most marks gone, or both; letters dropped or doubled; letters of another alphabet

The audit asks about the same faults with edits of its own. No text of one is a text of the other, so that a probe tells
what was learnt, and not what was learnt by heart. Letters at random are drawn from the text itself, so in its own
script. A text in a script that puts no spaces between words is not broken: where a word begins is not known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from random import Random

from rewardsmith.edits import SENTENCE_END, Edit, TextEdit, first_of, sentences

# Thai, Lao, Tibetan, Burmese, Khmer, kana, Chinese characters
UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
WORD = re.compile(r"\S+")
LETTER = re.compile(r"[^\W\d_]")
STOPS = frozenset(".!?…।؟。！？")
CLOSING = "\"'”’)]*_"
MARKS = frozenset(".,;:!?…।؟،؛。，、；：！？—–-") | frozenset(CLOSING)
FEWEST = 6  # words inside sentences, below which too little can be broken
FEWEST_LETTERS = 5  # different ones, to draw from
CUT = (0.4, 0.95)  # of the characters are left where a text is broken off
LONGEST_NOISE = 300  # characters of it that are put beside the text


def inner_words(text: str) -> list[re.Match[str]]:
    """Words that neither begin nor end a line or a sentence. None of them in a script without spaces."""
    if UNSPACED.search(text):
        return []
    found = []
    for line in re.finditer(r"[^\n]+", text):
        words = list(WORD.finditer(text, line.start(), line.end()))
        found += [
            word
            for before, word in pairwise(words[:-1])
            if before.group().rstrip(CLOSING)[-1:] not in STOPS
            and word.group()[-1] not in MARKS
            and not word.group()[0].isupper()
        ]
    return found


def replaced(text: str, words: Sequence[re.Match[str]], by: Sequence[str]) -> str:
    """The text with each of the words, in order, replaced by another."""
    parts, at = [], 0
    for word, new in zip(words, by, strict=True):
        parts += [text[at : word.start()], new]
        at = word.end()
    return "".join([*parts, text[at:]])


def run_of(words: Sequence[re.Match[str]], least: int, most: int, rng: Random) -> Sequence[re.Match[str]]:
    """From `least` to `most` neighbours of the words."""
    n = rng.randint(least, max(least, most))
    start = rng.randrange(len(words) - n + 1)
    return words[start : start + n]


def letters_of(text: str) -> list[str]:
    """The letters of a text, each as often as it is there; [] where they are too few kinds to draw noise from."""
    found = LETTER.findall(text.lower())
    return found if len(set(found)) >= FEWEST_LETTERS else []


def ends(text: str) -> bool:
    """Whether a text ends as a sentence does."""
    return text.rstrip().rstrip(CLOSING)[-1:] in STOPS


# -- broken -----------------------------------------------------------------------------------------------------------


def mixed_order(text: str, rng: Random) -> Edit | None:
    """Half of the inner words or more change places; marks and capitals stay where they were."""
    inner = inner_words(text)
    if len(inner) < FEWEST:
        return None
    run = run_of(inner, max(FEWEST, len(inner) // 2), len(inner), rng)
    words = [word.group() for word in run]
    order = rng.sample(words, len(words))
    moved = sum(a.casefold() != b.casefold() for a, b in zip(words, order, strict=True))
    return Edit(replaced(text, run, order)) if 2 * moved > len(words) else None


def broken_off(text: str, rng: Random) -> Edit | None:
    """Ends behind an inner word: in the middle of a sentence."""
    if not ends(text):
        return None
    places = [word.end() for word in inner_words(text) if CUT[0] <= word.end() / len(text) <= CUT[1]]
    return Edit(text[: rng.choice(places)]) if places else None


def begun_again(text: str, rng: Random) -> Edit | None:
    """Behind its end, one of its sentences once more, which breaks off."""
    long = [words for words in map(str.split, sentences(text)) if len(words) >= FEWEST]
    if not long or not ends(text) or UNSPACED.search(text):
        return None
    words = rng.choice(long)
    stump = " ".join(words[: rng.randint(2, len(words) // 2)]).rstrip("".join(MARKS))
    return Edit(f"{text} {stump}") if stump else None


def stuck(text: str, rng: Random) -> Edit | None:
    """One to three inner words are said over and over."""
    inner = inner_words(text)
    if len(inner) < FEWEST:
        return None
    words = run_of(inner, 1, 3, rng)
    said = " ".join(word.group() for word in words)
    return Edit(replaced(text, words[:1], [f"{f'{said} ' * rng.randint(4, 8)}{words[0].group()}"]))


def noise_instead(text: str, rng: Random) -> Edit | None:
    """Letters at random, as many, in the place of four inner words to half of them."""
    inner, letters = inner_words(text), letters_of(text)
    if len(inner) < FEWEST or not letters:
        return None
    run = run_of(inner, 4, len(inner) // 2, rng)
    return Edit(replaced(text, run, [at_random(word.group(), letters, rng) for word in run]))


def noise_beside(text: str, rng: Random) -> Edit | None:
    """A sentence of letters at random among the others. Its neutral twin is the sentence whose shape it has, again."""
    letters = letters_of(text)
    shapes = [part for part in sentences(text) if len(part) <= LONGEST_NOISE and len(part.split()) >= 4]
    if not letters or not shapes or UNSPACED.search(text):
        return None
    shape = " ".join(rng.choice(shapes).split())
    place = rng.choice([*(gap.start() for gap in SENTENCE_END.finditer(text)), len(text)])

    def beside(part: str) -> str:
        return f"{text[:place]} {part}{text[place:]}"

    return Edit(beside(at_random(shape, letters, rng)), placebo=beside(shape))


def at_random(text: str, letters: Sequence[str], rng: Random) -> str:
    """The text with other letters in the place of its letters."""
    return LETTER.sub(lambda _: rng.choice(letters), text)


BROKEN: tuple[TextEdit, ...] = (mixed_order, broken_off, begun_again, stuck, noise_instead, noise_beside)


def broken(text: str, rng: Random) -> Edit | None:
    """One of BROKEN that applies; None for a text that is too short for all, or whose script has no spaces."""
    return first_of(BROKEN, text, rng)


# -- careless ---------------------------------------------------------------------------------------------------------

CODE = re.compile(r"[`{}<>=\\|]|\(\)|://|^(\s{4}|\t)", re.MULTILINE)  # there, case and marks are more than form
A_MARK = re.compile(r"[.,;:!?؟،؛।](?=[\"'”’)\]]*(\s|$))|[。，、；：！？]")  # none within 3.5, 10:30 or a.txt
SHORTEST = 40  # characters: "Paris." and "paris" are one answer
LEAST_MARKS = 3
LEAST_CAPITALS = 2
LONGER_WORD = re.compile(r"[^\W\d_]{5,}")
LEAST_WORDS = 3  # to misspell


def few_marks(text: str, rng: Random) -> Edit | None:
    """Most marks taken out, at least one of them left."""
    marks = list(A_MARK.finditer(text))
    if len(marks) < LEAST_MARKS:
        return None
    gone = sorted(rng.sample(marks, rng.randint(-(-len(marks) // 2), len(marks) - 1)), key=re.Match.start)
    return Edit(replaced(text, gone, [""] * len(gone)))


def lower_case(text: str, rng: Random) -> Edit | None:
    """Without capitals; half of the time without marks too."""
    if sum(map(str.isupper, text)) < LEAST_CAPITALS:
        return None
    lower = text.lower()
    return Edit(A_MARK.sub("", lower) if rng.random() < 0.5 else lower)


def misspelt(text: str, rng: Random) -> Edit | None:
    """A letter dropped or doubled inside every fourth longer word, and in three of them at least."""
    words = list(LONGER_WORD.finditer(text))
    if len(words) < LEAST_WORDS:
        return None
    n = max(LEAST_WORDS, len(words) // 4)
    drawn = sorted(rng.sample(words, n), key=re.Match.start)
    return Edit(replaced(text, drawn, [_misspelt(word.group(), rng) for word in drawn]))


def _misspelt(word: str, rng: Random) -> str:
    i = rng.randint(1, len(word) - 2)
    return word[:i] + (word[i] * 2 if rng.random() < 0.5 else "") + word[i + 1 :]


OTHER_ALPHABETS = str.maketrans("oavikuwxzBEHKMNT", "οαʋıκυѡχʐΒΕΗΚΜΝΤ")


def other_letters(text: str, rng: Random) -> Edit | None:
    """In every third longer word that has such, letters of other alphabets that look like its own."""
    words = [word for word in LONGER_WORD.finditer(text) if word.group().translate(OTHER_ALPHABETS) != word.group()]
    if len(words) < LEAST_WORDS:
        return None
    drawn = sorted(rng.sample(words, max(LEAST_WORDS, len(words) // 3)), key=re.Match.start)
    return Edit(replaced(text, drawn, [word.group().translate(OTHER_ALPHABETS) for word in drawn]))


CARELESS: tuple[TextEdit, ...] = (few_marks, lower_case, misspelt, other_letters)


def careless(text: str, rng: Random) -> Edit | None:
    """One of CARELESS that applies; None for code, and for a text so short that marks may be left out."""
    return None if CODE.search(text) or len(text) < SHORTEST else first_of(CARELESS, text, rng)
