"""What scorers that know nothing get: printed beside every score, because some of them get a lot.

A baseline is a list of rewards, one array per group, like a model's. `without_prompts` gives the groups for a
further one: the model itself, shown the answers without the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rewardsmith.data.schema import Group, Message, text_of
from rewardsmith.statistics import Floats

NEUTRAL = Message("user", "Please answer.")
OPENING = 160  # characters of an answer in which a refusal shows

# Lower case, straight apostrophes. An answer that has one of them in its opening counts as a refusal.
REFUSALS = (
    "i cannot",
    "i can't",
    "i can not",
    "i could not",
    "i'm sorry",
    "i am sorry",
    "sorry, but",
    "i'm really sorry",
    "i'm so sorry",
    "i apologize",
    "i apologise",
    "i'm not able to",
    "i am not able to",
    "i'm unable to",
    "i am unable to",
    "i won't",
    "i will not",
    "i must decline",
    "i refuse",
    "i don't feel comfortable",
    "i'm not comfortable",
    "can't assist",
    "cannot assist",
    "can't help with",
    "cannot help with",
    "unable to assist",
    "unable to help",
    "beyond my capabilities",
    "outside the scope",
    "not something i can",
    "isn't something i can",
    "my role doesn't",
    "programmed to avoid",
    "against my guidelines",
    "not appropriate",
    "not ethical",
    "i don't think it's appropriate",
    "i must politely",
    "i must respectfully",
)


def is_refusal(text: str) -> bool:
    """Whether the opening of an answer has one of `REFUSALS`. A list of words, not a judge: see its tests."""
    opening = text.strip()[:OPENING].lower().replace("\u2019", "'")
    return any(phrase in opening for phrase in REFUSALS)


def baselines(groups: Sequence[Group]) -> dict[str, list[Floats]]:
    """Rewards of the baselines that need no model.

    constant       0 for every answer: what equal rewards are worth
    longest        characters of the answer
    shortest       the same, negative
    always_refuse  1 for a refusal (`is_refusal`), else 0
    """
    texts = [[text_of(response) for response in group.responses] for group in groups]
    lengths = [np.array([len(text) for text in row], dtype=np.float64) for row in texts]
    return {
        "constant": [np.zeros(len(row)) for row in texts],
        "longest": lengths,
        "shortest": [-row for row in lengths],
        "always_refuse": [np.array([is_refusal(text) for text in row], dtype=np.float64) for row in texts],
    }


def without_prompts(groups: Sequence[Group], turn: Message = NEUTRAL) -> list[Group]:
    """The groups with `turn` as their whole prompt and no tools, ids kept.

    Score these, and give the rewards to the rule together with the *original* groups: all prompts are one here,
    and intervals clustered by it would have a single cluster.
    """
    return [replace(group, prompt=(turn,), tools=None) for group in groups]
