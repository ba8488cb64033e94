"""A scorer that is asked the same thing twice in one run: by an audit and the paired effects, a plan and the result."""

from __future__ import annotations

from collections.abc import Sequence

from rewardsmith.data.schema import Group, content_hash
from rewardsmith.scoring import Scorer, Scores


class Remembering:
    """A scorer that keeps what it said, in memory, so that nothing is computed twice where scores are not kept on the
    disk (`--no-score-cache`). What could not be scored is asked again."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.known: dict[str, Scores] = {}

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        keys = [repr((content_hash(g.prompt, g.responses), g.tools, g.template_kwargs)) for g in groups]
        missing = {key: group for key, group in zip(keys, groups, strict=True) if key not in self.known}
        fresh: dict[str, Scores] = {}
        if missing:
            fresh = dict(zip(missing, self.scorer.score(list(missing.values())), strict=True))
            self.known |= {key: scores for key, scores in fresh.items() if not scores.error}
        return [fresh[key] if key in fresh else self.known[key] for key in keys]
