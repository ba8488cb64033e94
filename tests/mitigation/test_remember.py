"""What was scored once is not scored again, and what failed is."""

from __future__ import annotations

import numpy as np

from rewardsmith.data.schema import Group, Message
from rewardsmith.mitigation.remember import Remembering
from rewardsmith.scoring import FunctionScorer, no_scores


def group(prompt: str, *answers: str) -> Group:
    return Group(
        prompt=(Message("user", prompt),), responses=tuple((Message("assistant", answer),) for answer in answers)
    )


def test_texts_are_scored_once_and_given_in_the_order_asked():
    heard: list[tuple[str, str]] = []
    scorer = Remembering(FunctionScorer(lambda prompt, answer: float(heard.append((prompt, answer)) or len(answer))))
    first, second = group("q", "a", "bbb"), group("r", "cc")
    found = [scores.rewards.tolist() for scores in scorer.score([first, second, first])]
    assert found == [[1.0, 3.0], [2.0], [1.0, 3.0]]
    assert len(heard) == 3
    assert scorer.score([second])[0].rewards.tolist() == [2.0]
    assert len(heard) == 3
    scorer.score([group("q", "bbb", "a")])  # the other way round is another question: an audit asks it on purpose
    assert len(heard) == 5


def test_what_could_not_be_scored_is_asked_again():
    class Failing:
        calls = 0

        def score(self, groups):
            self.calls += 1
            return [no_scores(g, "no room") for g in groups]

    failing = Failing()
    scorer = Remembering(failing)
    for _ in range(2):
        assert np.isnan(scorer.score([group("q", "a")])[0].rewards).all()
    assert failing.calls == 2
