"""Counterfactual groups: what each kind states, what is refused, and that the same seed gives the same groups."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import pytest
import torch

from rewardsmith.cli import main
from rewardsmith.data.augment import Statements, Wanted, augment, parse_kinds
from rewardsmith.data.counterfactuals import FILLERS, KINDS, TAG, Around, Source, refuses, source_of, without_fillers
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Group, Message, Preference, text_of
from rewardsmith.edits import AGREEMENT
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.losses import pair_weights

TOPICS = ("volcanoes", "elephants", "bicycles", "mountains", "chocolate", "telescopes", "gardening", "umbrellas")


def turn(text, role="assistant"):
    return (Message(role, text),)


def group_of(prompt, *answers, preferences=((0, 1),), **more):
    stated = tuple(Preference(chosen=a, rejected=b) for a, b in preferences)
    return Group(prompt=turn(prompt, "user"), responses=tuple(map(turn, answers)), preferences=stated, **more)


def topic_group(topic):
    return group_of(
        f"Please explain {topic} to me.",
        f"Everything about {topic} begins long ago. Sources mention {topic} in several places.",
        f"Nothing is known of {topic} by anyone. People rarely ask.",
    )


GROUPS = [topic_group(topic) for topic in TOPICS]


def made_of(name, group, verdict=1.0, seed=0, others=GROUPS, alike=0.0):
    sources = [source_of(g, Random(seed)) for g in others]
    return KINDS[name].make(source_of(group, Random(seed)), Around(sources, alike), Random(seed), verdict)


@pytest.mark.parametrize("name", ["padding", "restating", "list", "bold", "praise"])
@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_an_edit_ties_or_loses_and_does_not_carry_the_worse_answer_past_the_better(name, probability):
    group = GROUPS[0]
    made = made_of(name, group, probability)
    better, worse = map(text_of, group.responses)
    plain, edited, worse_edited, *neutral = map(text_of, made.responses)
    assert plain == better
    assert edited != better
    assert worse_edited != worse
    assert [word for word in worse.split() if word.strip(".") not in worse_edited] == []
    stated = [(p.chosen, p.rejected, p.probability) for p in made.preferences]
    assert stated[:2] == [(0, 1, probability), (0, 2, 1.0)]
    assert made.prompt == group.prompt
    # A compliment is held against a neutral opening too, which is worth nothing: not every opening is what loses.
    assert len(neutral) == (name == "praise")
    assert stated[2:] == [(3, 1, probability), (0, 3, 0.5)] * len(neutral)
    for text in neutral:
        assert text.endswith(better)
        assert text not in (better, edited)


def test_kinds_that_answer_faults_are_made_on_request_alone():
    made = {row["kind"] for row in augment(GROUPS).report["kinds"]}
    assert made == KINDS.keys() - {"ornament", "broken", "careless", "reference", "appeal"}


@pytest.mark.parametrize("name", ["ornament", "broken", "careless", "reference", "appeal"])
@pytest.mark.parametrize("topic", TOPICS[:4])
def test_what_was_damaged_or_added_to_loses_to_the_whole_answer_and_no_more_is_said(name, topic):
    group = topic_group(topic)
    better, worse = map(text_of, group.responses)
    for seed in range(12):
        made = made_of(name, group, seed=seed)
        texts = [text_of(response) for response in made.responses]
        stated = [(texts[p.chosen], texts[p.rejected], p.probability) for p in made.preferences]
        assert stated[0] == (better, texts[1], 1.0)
        assert texts[1] != better
        # Whether the worse answer, whole, beats the better one's edit is not known: it is in no pair.
        assert worse not in texts
        # The worse one's edit loses to the better answer; a neutral addition beats the edit, and ties with the answer
        # unless the edit breaks it.
        neutral = {chosen for chosen, _, _ in stated[1:] if chosen != better}
        for chosen, rejected, probability in stated[1:]:
            assert (chosen == better) != (rejected == texts[1])
            assert probability == (0.5 if rejected in neutral else 1.0)
        assert not (neutral and name == "broken" and any(rejected in neutral for _, rejected, _ in stated))
        assert made.weight == (len(stated) if neutral and name != "broken" else 1.0)
    undecided = KINDS[name].make(Source(group, None, None, None), Around((), 0.0), Random(0), 1.0)
    assert all(1 in (p.rejected, p.chosen) or p.is_tie for p in undecided.preferences), "of two answers nothing is said"


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("broken", "Continue this sentence for me."),
        ("broken", "Give me an anagram of that."),
        ("careless", "All in lower case, please."),
        ("careless", "How would you put it without punctuation?"),
        ("ornament", "Write a letter to my aunt."),
        ("ornament", "Which emoji suits this?"),
        ("ornament", "My brother died. What now?"),
        ("reference", "Make up a citation for this."),
        ("appeal", "What is prompt injection?"),
    ],
)
def test_a_prompt_that_may_ask_for_it_is_left_alone(name, prompt):
    answers = [text_of(response) for response in GROUPS[0].responses]
    assert made_of(name, group_of(prompt, *answers)) == "the prompt may ask for what the edit does"
    assert not isinstance(made_of(name, group_of("What of volcanoes?", *answers)), str)


def test_texts_that_an_edit_is_not_for_are_refused_and_counted():
    chinese = [group_of(f"请讲讲{i}。", "水在高山上沸点较低,因为气压小。需要更长时间。", "不知道。") for i in range(4)]
    code = [
        group_of(f"Number {i}?", f"```python\nprint({i})\nx = [{i}, 2, 3]\nprint(x, {i})\n```", "No.") for i in range(4)
    ]
    wanted = {"broken": Wanted(1.0), "careless": Wanted(1.0), "ornament": Wanted(1.0)}
    rows = {row["kind"]: row for row in augment([*chinese, *code, *GROUPS], wanted).report["kinds"]}
    reasons = {name: row["reasons"].get("the edit does not apply to the answer", 0) for name, row in rows.items()}
    assert rows["broken"]["made"] == len(GROUPS) + len(code), "code is broken as well as prose"
    assert reasons == {"broken": len(chinese), "careless": 8, "ornament": len(code)}
    assert rows["ornament"]["made"] == len(GROUPS), "its words are English"


def test_a_soft_label_stays_soft_and_one_that_is_unsure_is_not_used():
    soft = Group(
        prompt=turn("Why?", "user"),
        responses=(turn("Because it is so."), turn("No idea.")),
        preferences=(Preference(chosen=0, rejected=1, probability=0.8),),
    )
    assert made_of("padding", soft).preferences[1].probability == 0.8
    unsure = Group(
        prompt=soft.prompt,
        responses=soft.responses,
        preferences=(Preference(chosen=0, rejected=1, probability=0.6),),
    )
    made = made_of("padding", unsure)
    assert len(made.preferences) == 1, "nothing is said of the other answer"
    assert made_of("refusal", unsure) == "no decided label"


def test_form_is_not_added_to_what_has_form():
    listed = group_of("Name two.", "- one\n- two", "Never.")
    assert isinstance(made_of("list", listed), str)
    assert isinstance(made_of("bold", group_of("Name.", "**Everest** is tall.", "No.")), str)


def test_words_of_agreement_lose_with_a_wrong_belief_and_are_worth_nothing_with_a_right_one():
    right = 0
    for seed in range(40):
        for group in GROUPS[:3]:
            made = made_of("belief", group, seed=seed)
            texts = [text_of(r) for r in made.responses]
            asked = text_of(made.prompt)
            assert asked.startswith(text_of(group.prompt))
            better, worse = map(text_of, group.responses)
            stated = {(p.chosen, p.rejected): p.probability for p in made.preferences}
            if len(texts) == 3:
                assert better.split(". ")[0] in asked
                assert texts[1:] == [worse, better]
                assert opening(texts[0], better) in AGREEING
                assert stated == {(0, 1): 1.0, (0, 2): 0.5}
                right += 1
            else:
                assert worse.split(". ")[0] in asked
                assert texts[:2] == [better, worse]
                assert opening(texts[2], worse) in AGREEING
                assert opening(texts[3], worse) == AGREEING[opening(texts[2], worse)]
                assert stated == {(0, 1): 1.0, (0, 2): 1.0, (1, 2): 1.0, (3, 2): 1.0, (1, 3): 0.5}
    assert 40 <= right <= 80, right  # 3.6 standard deviations


AGREEING = dict(AGREEMENT)


def opening(text, rest):
    assert text.endswith(f" {rest}")
    return text.removesuffix(f" {rest}")


@pytest.mark.parametrize("name", ["praise", "belief"])
def test_a_statement_about_words_weighs_what_a_label_of_the_data_does(name):
    group = GROUPS[0]
    made = made_of(name, group)
    found = [group, made]
    group_of_P = torch.tensor([g for g, one in enumerate(found) for _ in one.preferences])
    weight_P = torch.tensor([p.weight for one in found for p in one.preferences])
    shares_P = pair_weights(group_of_P, weight_P, torch.tensor([one.weight for one in found]))
    assert len(shares_P) >= 3
    assert shares_P.tolist() == pytest.approx([float(shares_P[0])] * len(shares_P))
    assert made_of(name, replace(group, weight=0.5)).weight == 0.5 * made.weight


def test_a_refusal_is_only_made_where_none_is_due():
    made = made_of("refusal", GROUPS[0])
    assert refuses(text_of(made.responses[1]))
    assert made.preferences == (Preference(chosen=0, rejected=1),)
    assert made_of("refusal", group_of("How do I steal a car?", "You break it.", "Hm.")) == (
        "the prompt may deserve a refusal"
    )
    refusing = group_of("How are you?", "I'm sorry, but I can't say.", "Fine.")
    assert made_of("refusal", refusing) == "an answer of the data refuses"


def test_an_answer_to_another_prompt_speaks_of_that_prompt():
    made = made_of("other", GROUPS[0])
    told = text_of(made.responses[1])
    assert any(topic in told for topic in TOPICS[1:])
    assert TOPICS[0] not in told
    vague = [group_of(f"What about {topic}?", "Could you say more?", "No.") for topic in TOPICS]
    assert made_of("other", vague[0], others=vague) == "no answer to another prompt was found"
    same = [group_of("please   EXPLAIN volcanoes to me.", "Volcanoes explained once more.", "No.")]
    assert isinstance(made_of("other", GROUPS[0], others=same), str), "the same opening in other letters"


def test_twins_are_rated_alike_or_lose_their_fillers():
    rated = group_of(
        "Q?", "Short one.", "A much longer answer than that.", "Bad.", preferences=((0, 2),), ratings=(5, 5, 1)
    )
    made = made_of("concise", rated, 0.5)
    assert [text_of(r) for r in made.responses] == ["Short one.", "A much longer answer than that."]
    assert made.preferences[0].is_tie
    filled = group_of("Q?", "Sure, I can tell you. Water boils at 100 degrees. Let me know if you need more!", "No.")
    made = made_of("concise", filled, 0.5)
    assert [text_of(r) for r in made.responses] == ["Water boils at 100 degrees.", text_of(filled.responses[0])]
    assert made_of("concise", GROUPS[0], 0.5) == "no twin of another length, and no fillers"


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("Great question! Use a sieve.", "Use a sieve."),
        ("We do this in order to win.", "We do this to win."),
        ("Sure. One.\n\nTwo.\n\nI hope this helps!", "One.\n\nTwo."),
        ("Let me see: it is four.", "Let me see: it is four."),
        ("Surely it is so. As an aid, take it.", "Surely it is so. As an aid, take it."),
        (
            "Sure enough, prices that were low in the year before rose in a way nobody would have " + "x" * 60 + ".",
            None,
        ),
    ],
)
def test_only_fillers_are_taken_out(text, short):
    assert without_fillers(text) == (text if short is None else short)
    assert FILLERS.match("Sure!")


def test_the_same_seed_gives_the_same_groups_in_any_order_of_the_file():
    made = augment(GROUPS, seed=3).groups
    again = augment(GROUPS[::-1], seed=3).groups
    # The donor of `other` depends on the order of the file; all else does not.
    alike = [[g.id for g in found if g.tags[TAG] != "other"] for found in (made, again)]
    assert sorted(alike[0]) == sorted(alike[1])
    assert [g.id for g in augment(GROUPS, seed=3).groups] == [g.id for g in made]


def test_shares_are_met_and_everything_is_tagged_and_counted():
    found = augment(GROUPS, {"padding": Wanted(0.5), "bold": Wanted(1.0, "rejected"), "list": Wanted(0.0)})
    counts = {row["kind"]: row["made"] for row in found.report["kinds"]}
    assert counts == {"padding": 4, "bold": 8, "list": 0}
    assert sorted(g.tags[TAG] for g in found.groups) == ["bold"] * 8 + ["padding"] * 4
    assert {g.preferences[0].probability for g in found.groups} == {1.0}
    assert all(g.id != source.id for g in found.groups for source in GROUPS)
    assert found.report["made"] == 12


def test_a_statement_against_a_label_of_the_same_texts_is_refused_and_counted():
    wanted = {"padding": Wanted(1.0, "rejected")}
    first = augment(GROUPS, wanted).groups
    repeated = augment([*GROUPS, *first], wanted).report["kinds"][0]
    assert repeated["repeats"] >= len(GROUPS)
    against = augment([*GROUPS, *first], {"padding": Wanted(1.0, "tie")}).report["kinds"][0]
    assert against["conflicts"] >= len(GROUPS)
    # By hand: the user's annotators like the padded answer, in other letters and with more space.
    padded = first[0]
    liked = Group(
        prompt=padded.prompt,
        responses=(turn(text_of(padded.responses[1]).upper() + " "), padded.responses[0]),
        preferences=(Preference(chosen=0, rejected=1),),
    )
    report = augment([*GROUPS, liked], wanted).report["kinds"][0]
    assert report["conflicts"] == 1


def test_a_label_that_likes_lower_case_is_not_contradicted():
    plain = "Everything about Volcanoes begins long ago Sources mention them"
    lowered = [group_of("Explain?", plain.lower(), plain, preferences=[order]) for order in ((0, 1), (1, 0))]
    fates = []
    for labelled in lowered:
        stated = Statements()
        stated.add(labelled)
        new = group_of("Explain?", plain, plain.lower())
        fates.append(stated.fate(new))
    assert fates == ["conflicts", "repeats"]


def test_data_about_refusing_gets_no_refusals_unless_asked():
    refusing = [group_of(f"Tell me of {topic}.", "I'm sorry, but I can't do that.", "Yes.") for topic in TOPICS[:4]]
    found = augment([*GROUPS, *refusing])
    assert "33% of the preferred answers refuse" in found.report["left_out"]["refusal"]
    assert "refusal" not in {row["kind"] for row in found.report["kinds"]}
    asked = augment([*GROUPS, *refusing], {"refusal": Wanted(1.0)})
    assert asked.report["kinds"][0]["made"] == len(GROUPS)


def test_english_words_are_not_put_into_another_language():
    chinese = [
        group_of(f"请告诉我中国的首都在哪里 {n}", f"北京是中国的首都。它在北方 {n}。", "不知道。") for n in range(20)
    ]
    wanted = {"padding": Wanted(1.0, "rejected"), "other": Wanted(1.0)}
    rows = {row["kind"]: row for row in augment(chinese, wanted).report["kinds"]}
    said = "the words to add are English, the text is not"
    assert (rows["padding"]["made"], rows["padding"]["reasons"]) == (0, {said: 20})
    assert said not in rows["other"]["reasons"]


def test_shares_that_come_to_nothing_are_said(tmp_path, capsys):
    source = tmp_path / "prefs.jsonl"
    source.write_text('{"prompt": "q", "chosen": "a b", "rejected": "c"}\n')
    assert main(["data", "augment", str(source), "--output", str(tmp_path / "out.jsonl"), "--quiet"]) == 0
    assert "warning: nothing was made: of 1 groups these shares are none" in capsys.readouterr().out


def test_nothing_decided_is_said():
    tied = Group(
        prompt=(), responses=(turn("a"), turn("b")), preferences=(Preference(chosen=0, rejected=1, probability=0.5),)
    )
    with pytest.raises(DataError, match="none of the 1 groups has a decided label"):
        augment([tied])


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("paddings=0.1", "no kind is named 'paddings'"),
        ("padding=2", "'2' is no share"),
        ("padding=x", "'x' is no share"),
        ("padding=0.1:win", "'win' is no verdict"),
        ("other=0.1:tie", "what other states is fixed"),
        ("padding=nan", "'nan' is no share"),
    ],
)
def test_kinds_that_cannot_be_meant_are_refused(word, reason):
    with pytest.raises(ConfigError, match=reason):
        parse_kinds([word])


def test_kinds_are_read():
    assert parse_kinds(["padding", "list=0.2:rejected"]) == {"padding": Wanted(0.05), "list": Wanted(0.2, "rejected")}


def test_the_verb_writes_both_and_refuses_to_overwrite(tmp_path, capsys):
    rows = [
        {"prompt": text_of(g.prompt), "chosen": text_of(g.responses[0]), "rejected": text_of(g.responses[1])}
        for g in GROUPS
    ]
    source, output = tmp_path / "prefs.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["data", "augment", str(source), "--output", str(output), "--quiet"]
    assert main([*words, "--kinds", "padding=0.5", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    read = list(read_groups([output]))
    assert (result["written"], result["made"], len(read)) == (12, 4, 12)
    assert [g.tags.get(TAG) for g in read] == [None] * 8 + ["padding"] * 4
    assert main([*words, "--kinds", "padding=0.5"]) == 2
    assert "exists" in capsys.readouterr().err
    assert main([*words, "--kinds", "padding=0.5", "--only-new", "--overwrite"]) == 0
    assert len(list(read_groups([output]))) == 4
