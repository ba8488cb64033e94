"""What stands behind every endpoint: texts in, scores out, through the one queue; and the change of the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from rewardsmith.data.schema import Group, text_of
from rewardsmith.errors import RewardsmithError
from rewardsmith.progress import say
from rewardsmith.scoring import Scores
from rewardsmith.serving.batcher import Batcher, Caller
from rewardsmith.serving.engine import Engine, Rows
from rewardsmith.serving.metrics import Metrics
from rewardsmith.serving.refusals import Refusal
from rewardsmith.serving.settings import Limits


class Service:
    """A model that is served. `load()` reads it again from where it came."""

    def __init__(self, engine: Engine, load: Callable[[], Engine], limits: Limits) -> None:
        self.engine, self.load, self.limits = engine, load, limits
        center, spread = engine.expected()
        self.metrics = Metrics(center=center, spread=spread)
        self.batcher = Batcher(
            tokens_per_batch=engine.scorer.tokens_per_batch, most_waiting=limits.max_waiting, observer=self.metrics
        )
        self.metrics.waiting.set_function(lambda: self.batcher.n_accepted)
        self.metrics.waiting_tokens.set_function(lambda: self.batcher.waiting_tokens)
        self.tokenising = ThreadPoolExecutor(1, thread_name_prefix="tokenise")
        self.loading = asyncio.Lock()
        self.reloading: set[asyncio.Task[Engine]] = set()
        self.ready = False

    async def start(self) -> None:
        """Warm up; `ready` from then on. What that took says how much the first requests may pile up."""
        tokens, seconds = await asyncio.get_running_loop().run_in_executor(self.tokenising, self.engine.warm_up)
        self.batcher.measured(tokens, seconds)
        self.ready = True
        self.metrics.ready.set(1)

    async def stop(self) -> None:
        """Answer what was accepted, then let the threads end."""
        self.ready = False
        self.metrics.ready.set(0)
        await asyncio.get_running_loop().run_in_executor(None, self.batcher.close)
        self.tokenising.shutdown()

    async def reload(self) -> Engine:
        """Read the model again and serve it from now on; requests that are under way keep the old one.

        Refusal where it cannot be loaded: the old one stays. A caller that is cancelled (its deadline may be shorter
        than the loading of a large model) does not end the change.
        """
        task = asyncio.ensure_future(self._reload())
        self.reloading.add(task)
        task.add_done_callback(self._reloaded)
        return await asyncio.shield(task)

    def _reloaded(self, task: asyncio.Task[Engine]) -> None:
        self.reloading.discard(task)
        if not task.cancelled():
            task.exception()  # looked at: where nobody waits any more, it was said in the log

    async def _reload(self) -> Engine:
        async with self.loading:
            loop = asyncio.get_running_loop()
            try:
                engine = await loop.run_in_executor(None, self._load)
            except Exception as error:  # whatever is wrong with the new one, the old one serves
                self.metrics.reloads.labels("failed").inc()
                known = isinstance(error, RewardsmithError)
                said = " ".join(str(error).split())
                say(f"the model stays as it was: {said if known else f'{type(error).__name__}: {said}'}")
                raise Refusal("failed", "the new model cannot be loaded; the old one stays (see the log)") from None
            self.engine = engine
            self.metrics.reloads.labels("done").inc()
            say(f"serving {engine.name} {engine.artifact or ''} from now on")
            return engine

    def _load(self) -> Engine:
        engine = self.load()
        # While the old model serves, a long row would only take its time.
        engine.warm_up(longest=False)
        return engine

    # -- for the gate ---------------------------------------------------------------------------------------

    def wait_seconds(self) -> float:
        return self.batcher.wait_seconds()

    def note_left(self) -> None:
        self.metrics.left.inc()

    def note(self, path: str, status: int, seconds: float) -> None:
        self.metrics.requests.labels(path, str(status)).inc()
        self.metrics.seconds.labels(path).observe(seconds)

    # -- scoring --------------------------------------------------------------------------------------------

    async def score_groups(self, client: Caller, groups: Sequence[Group]) -> tuple[Engine, list[Scores]]:
        """Scores of each group, in order; one that cannot be rendered says why in `error`."""
        self._check_count(sum(len(group.responses) for group in groups))
        with self._accepted(client, sum(len(group.responses) for group in groups)):
            engine = self.engine
            encoded = await self._tokenised(engine.encode, groups)
            kept = [item for item in encoded if isinstance(item, Rows)]
            rewards = iter(await self._rewards(client, engine, [item.token_ids for item in kept]))
            found = []
            for group, item in zip(groups, encoded, strict=True):
                if isinstance(item, Rows):
                    answers = [text_of(response) for response in group.responses]
                    scores = engine.scores(item, next(rewards), answers)
                    self._observe(scores, answers)
                else:
                    scores = Scores(np.full(len(group.responses), np.nan), error=item)
                found.append(scores)
            return engine, found

    async def encode(self, engine: Engine, groups: Sequence[Group]) -> list[Rows | str]:
        """The rows of groups, for a caller that looks at them before they are scored."""
        self._check_count(sum(len(group.responses) for group in groups))
        return await self._tokenised(engine.encode, groups)

    async def tokenise(self, engine: Engine, texts: Sequence[str], *, close: bool = False) -> list[np.ndarray]:
        """Rows of texts that are rendered already; with `close`, they end as the template ends a dialogue."""
        self._check_count(len(texts))
        whole = [engine.closed(text) for text in texts] if close else texts
        return await self._tokenised(engine.texts, whole)

    async def score_rows(
        self,
        client: Caller,
        engine: Engine,
        rows: Sequence[Rows],
        answers: Sequence[str | None] = (),
        prompts: Sequence[str | None] = (),
    ) -> list[float]:
        """The reward of each row of tokens, in order. `answers` are their texts where they are known.

        Rows with the same of `prompts` are answers to one prompt: an ensemble's members are compared on all of them.
        """
        n_responses = sum(len(item.token_ids) for item in rows)
        self._check_count(n_responses)
        with self._accepted(client, n_responses):
            values = await self._rewards(client, engine, [item.token_ids for item in rows])
            found = [float("nan")] * len(rows)
            for together in groups_of(prompts, len(rows)):
                joined = Rows(
                    tuple(row for n in together for row in rows[n].token_ids),
                    tuple(flag for n in together for flag in rows[n].truncated),
                )
                texts = [answers[n] for n in together] if answers else []
                scores = engine.scores(joined, np.concatenate([values[n] for n in together], axis=1), texts)
                if not np.isfinite(scores.rewards).all():
                    raise Refusal("failed", "the model gives no finite reward")
                self._observe(scores, [text for text in texts if text is not None])
                for n, reward in zip(together, scores.rewards.tolist(), strict=True):
                    found[n] = reward
        return found

    def check_model(self, name: str | None) -> None:
        """Refusal where a request asks for a model that is not served."""
        if name is not None and name != self.engine.name:
            raise Refusal("unknown", f"The model `{name[:200]}` does not exist.")

    async def _tokenised(self, call: Callable[[Any], Any], texts: Sequence[Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.tokenising, call, texts)

    async def _rewards(
        self, client: Caller, engine: Engine, rows_GK: Sequence[Sequence[np.ndarray]]
    ) -> list[np.ndarray]:
        n_tokens = sum(len(row) for rows_K in rows_GK for row in rows_K)
        if n_tokens > self.limits.max_tokens:
            raise Refusal("large", f"{n_tokens} tokens; at most {self.limits.max_tokens} are allowed in a request")
        return await self.batcher.submit(client.name, engine, rows_GK, deadline=client.deadline)

    def _check_count(self, n_responses: int) -> None:
        if n_responses > (most := self.limits.max_responses):
            raise Refusal("large", f"batch size {n_responses} > maximum allowed batch size {most}")

    def _accepted(self, client: Caller, n_responses: int) -> Any:
        return self.batcher.accept(client.name, n_responses)

    def _observe(self, scores: Scores, answers: Sequence[str]) -> None:
        self.metrics.scored(scores.rewards, scores.n_tokens, scores.truncated, answers)


def groups_of(prompts: Sequence[str | None], n: int) -> list[list[int]]:
    """Places of the rows that belong together, in the order of their first; a row without a prompt is alone."""
    found: dict[Any, list[int]] = {}
    for place in range(n):
        prompt = prompts[place] if prompts else None
        found.setdefault(place if prompt is None else prompt, []).append(place)
    return list(found.values())
