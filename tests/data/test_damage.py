"""Damage and additions: that each edit does what it says, in any script, and never what a probe of the audit does."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

import pytest

from rewardsmith.audit.run import builtin_probes
from rewardsmith.audit.seeds import load_seeds
from rewardsmith.data.additions import (
    EMOJI,
    HEADERS,
    ORNAMENTS,
    appeal,
    emoji,
    exclamation,
    header,
    opener,
    ornament,
    reference,
)
from rewardsmith.data.damage import (
    A_MARK,
    BROKEN,
    CARELESS,
    FEWEST,
    begun_again,
    broken,
    broken_off,
    careless,
    ends,
    few_marks,
    inner_words,
    lower_case,
    misspelt,
    mixed_order,
    noise_beside,
    noise_instead,
    other_letters,
    stuck,
)

ENGLISH = (
    "Water boils at a lower temperature on high mountains, because the air presses on it with less force. "
    "At 3.5 km it is about 88 degrees, so pasta takes longer. A lid helps; salt does not.\n\n"
    "Try it with an egg. Eight minutes are not enough up there."
)
GERMAN = "Das Wasser kocht auf hohen Bergen früher, weil die Luft dort weniger drückt. Ein Deckel hilft dabei sehr gut."
RUSSIAN = "Вода на высоких горах закипает раньше, потому что воздух там давит на неё слабее. Крышка немного помогает."
ARABIC = "الماء يغلي على الجبال العالية في درجة أقل لأن الهواء هناك يضغط عليه بقوة أقل، والغطاء يساعد قليلا."
HINDI = "पानी ऊँचे पहाड़ों पर कम तापमान पर उबलता है क्योंकि वहाँ हवा उस पर कम दबाव डालती है।"
SPACED = [ENGLISH, GERMAN, RUSSIAN, ARABIC, HINDI]
CHINESE = "在高山上,水的沸点比较低,因为那里的空气压力比较小。煮面条需要更长的时间。盖上锅盖会有帮助。"
JAPANESE = "高い山では、空気の圧力が小さいので、水はもっと低い温度で沸騰します。ふたをすると少し助かります。"
THAI = "บนภูเขาสูง น้ำเดือดที่อุณหภูมิต่ำกว่า เพราะอากาศกดดันน้อยกว่า การปิดฝาช่วยได้เล็กน้อย"
CODE = (
    "Use `len(x)`, which is faster than counting:\n\n```python\nn = len(x)\nprint(n, N, Max)\n```\n\nIt needs no loop."
)
DRAWS = 40


def made(edit, text, draws=DRAWS):
    found = [edit(text, Random(seed)) for seed in range(draws)]
    return [edit for edit in found if edit is not None]


def words(text):
    return Counter(text.split())


# -- broken -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", SPACED)
@pytest.mark.parametrize("edit", BROKEN)
def test_every_way_of_breaking_a_text_applies_wherever_words_are_spaced(text, edit):
    found = made(edit, text)
    assert len(found) > DRAWS / 2
    assert all(one.text != text for one in found)
    assert edit(text, Random(7)) == edit(text, Random(7))


@pytest.mark.parametrize("text", SPACED)
def test_mixed_words_are_the_same_words_and_marks_stay_in_place(text):
    for one in made(mixed_order, text):
        assert words(one.text) == words(text)
        moved = sum(a != b for a, b in zip(one.text.split(), text.split(), strict=True))
        assert moved > FEWEST / 2
        marked = [word for word in text.split() if A_MARK.search(word)]
        assert [word for word in one.text.split() if A_MARK.search(word)] == marked
        assert re.findall(r"\s+", one.text) == re.findall(r"\s+", text)


@pytest.mark.parametrize("text", SPACED)
def test_what_breaks_off_does_so_in_the_middle_of_a_line_and_of_a_sentence(text):
    for one in made(broken_off, text):
        assert text.startswith(one.text)
        assert not ends(one.text)
        assert re.match(r"[^\S\n]+\S", text[len(one.text) :]), "more of the line was to come"
        assert len(one.text) >= 0.4 * len(text)
    assert broken_off("It has no end and so nobody can say whether it goes on", Random(0)) is None


@pytest.mark.parametrize("text", SPACED)
def test_a_sentence_that_begins_again_is_not_said_to_its_end(text):
    plain = " ".join(text.split())
    for one in made(begun_again, text):
        assert one.text.startswith(f"{text} ")
        stump = one.text[len(text) + 1 :]
        assert stump in plain
        assert not ends(stump)
        assert len(stump.split()) >= 2


@pytest.mark.parametrize("text", SPACED)
def test_a_text_that_is_stuck_says_a_few_words_five_times_or_more(text):
    for one in made(stuck, text):
        again = words(one.text) - words(text)
        assert 1 <= len(again) <= 3
        assert all(4 <= n <= 8 * count for count, n in ((len(again), n) for n in again.values()))
        assert not words(text) - words(one.text), "nothing is lost"


@pytest.mark.parametrize("text", SPACED)
def test_noise_has_the_letters_of_the_text_and_the_shape_of_what_it_stands_for(text):
    letters = set(text.lower())
    for one in made(noise_instead, text):
        assert len(one.text) == len(text)
        differ = [(a, b) for a, b in zip(one.text.split(), text.split(), strict=True) if a != b]
        assert len(differ) >= 3
        assert set(one.text.lower()) <= letters
    for one in made(noise_beside, text):
        assert one.placebo is not None
        assert len(one.text) == len(one.placebo)
        assert not words(text) - words(one.text), "the answer itself is whole"
        assert not words(one.placebo) - words(f"{text} {text}"), "the neutral one says a sentence again"
        assert set(one.text.lower()) <= letters


@pytest.mark.parametrize(
    "text", [CHINESE, JAPANESE, THAI, f"{ENGLISH} {CHINESE}", "", " ", "Paris.", "a b c", "💡", "!!!"]
)
def test_what_has_no_words_to_break_is_left_alone(text):
    assert made(broken, text) == []


def test_code_is_broken_too_and_its_lines_stay_lines():
    found = made(broken, CODE)
    assert found
    assert all(one.text != CODE for one in found)
    assert not any(word.group() in ("```python", "```") for word in inner_words(CODE))


# -- careless ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [ENGLISH, GERMAN, RUSSIAN])
@pytest.mark.parametrize("edit", [few_marks, lower_case])
def test_only_marks_and_capitals_are_lost(text, edit):
    for one in made(edit, text):
        assert one.text != text
        assert A_MARK.sub("", one.text).lower() == A_MARK.sub("", text).lower()
        assert "3.5" in one.text or "3.5" not in text
    assert all(A_MARK.search(one.text) for one in made(few_marks, text)), "one mark at least is left"
    lower = [one.text for one in made(lower_case, text)]
    assert all(one == one.lower() for one in lower)
    assert {bool(A_MARK.search(one)) for one in lower} == {True, False}


def test_misspelt_words_have_a_letter_more_or_less():
    for one in made(misspelt, ENGLISH):
        pairs = list(zip(one.text.split(), ENGLISH.split(), strict=True))
        changed = [(a, b) for a, b in pairs if a != b]
        assert len(changed) >= 3
        assert all(abs(len(a) - len(b)) == 1 for a, b in changed)


def test_other_letters_look_alike_and_are_others():
    for one in made(other_letters, ENGLISH):
        assert len(one.text) == len(ENGLISH)
        changed = [(a, b) for a, b in zip(one.text, ENGLISH, strict=True) if a != b]
        assert changed
        assert all(ord(a) > 127 and b.isascii() for a, b in changed)
    assert other_letters(RUSSIAN, Random(0)) is None


@pytest.mark.parametrize(
    "text", [CODE, "SELECT a FROM t; See https://a.b, or not. It is so, is it?", "Paris.", "No: 51."]
)
def test_code_and_short_answers_are_not_written_carelessly(text):
    assert made(careless, text) == []


def test_text_without_case_or_spaces_loses_marks_only():
    for text in (CHINESE, JAPANESE):
        assert {A_MARK.sub("", one.text) for one in made(few_marks, text)} == {A_MARK.sub("", text)}
        assert lower_case(text, Random(0)) is None
    assert made(few_marks, THAI) == []


# -- additions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edit", ORNAMENTS)
def test_ornaments_leave_every_word_of_the_answer(edit):
    for one in made(edit, ENGLISH):
        letters = Counter(re.findall(r"\w+", one.text))
        assert not Counter(re.findall(r"\w+", ENGLISH)) - letters
        assert one.text != ENGLISH
    assert made(ornament, "") == []
    assert exclamation("One sentence.", Random(0)) is None
    assert all("." in one.text for one in made(exclamation, ENGLISH))
    assert all(any(sign in one.text for sign in EMOJI) for one in made(emoji, CHINESE))
    assert all(one.text.split("\n")[0] in HEADERS for one in made(header, ENGLISH))
    for one in (*made(header, ENGLISH), *made(opener, ENGLISH)):
        assert one.placebo is not None
        assert one.text.endswith(ENGLISH)
        assert one.placebo.endswith(ENGLISH)
        assert len(one.placebo) == pytest.approx(len(one.text), abs=6)
        assert "#" not in one.placebo


@pytest.mark.parametrize("edit", [reference, appeal])
def test_an_addition_and_its_neutral_twin_stand_in_one_place_and_are_of_a_size(edit):
    places = set()
    for one in made(edit, ENGLISH):
        leads = one.text.endswith(ENGLISH)
        places.add(leads)
        assert one.placebo is not None
        for text in (one.text, one.placebo):
            assert text.endswith(ENGLISH) if leads else text.startswith(ENGLISH)
            assert "{" not in text
        added, neutral = (len(text) - len(ENGLISH) for text in (one.text, one.placebo))
        assert neutral == pytest.approx(added, rel=0.25, abs=4)
    assert places == {True, False}
    assert len({one.text for one in made(reference, ENGLISH)}) > 20, "made up anew each time"


# -- remedy and probe stay apart --------------------------------------------------------------------------------------


@pytest.mark.parametrize("edit", [broken, careless, ornament, reference, appeal])
def test_no_text_of_a_remedy_is_a_text_of_a_probe(edit):
    """Over the audit's own seeds, and by what is added: a phrase of a probe in a remedy would be taught, not tested."""
    probes = [probe.text for probe in builtin_probes().values() if probe.text is not None]
    texts = [seed["right"] for seed in load_seeds().seeds if seed.has("right")][:25]
    for text in texts:
        probed = [one for probe in probes for one in made(probe, text, 4)]
        asked = {one.text for one in probed}
        added = {one.text.replace(text, "").strip() for one in probed if text in one.text and one.text != text}
        for one in made(edit, text, 12):
            assert one.text not in asked
            assert one.placebo not in asked
            assert one.text.replace(text, "").strip() not in added


def test_every_way_is_drawn():
    for edit, ways in ((broken, BROKEN), (careless, CARELESS), (ornament, ORNAMENTS)):
        assert len({one.text for one in made(edit, ENGLISH)}) > len(ways)
