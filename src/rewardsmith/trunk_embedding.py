"""A model's trunk as an embedder of `data coverage`: the mean of the last layer over a text's tokens.

    N  texts     T  tokens     H  hidden size     D  dimensions kept

States of language models share a few large directions that say nothing of the text: the data's mean is taken away, the
strongest D directions are kept and each is scaled to the same spread (whitening; Su et al. 2103.15316), so that cosine
tells texts apart. A language that the tokenizer spells out byte by byte is one that the model was not trained on: of
texts with under two bytes a token nothing is judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rewardsmith.data.coverage.embedding import DIMENSIONS, Embedded, Points, unit
from rewardsmith.data.coverage.languages import language_of
from rewardsmith.progress import Bar
from rewardsmith.statistics import Floats

if TYPE_CHECKING:
    import torch

MOST_TOKENS = 256  # of a text: its first ones
BYTES_A_TOKEN = 2.0  # below it a language is spelt out
PER_DIMENSION = 10  # texts, at least


@dataclass(frozen=True)
class Trunk:
    """A model's body and its tokenizer."""

    name: str
    body: torch.nn.Module
    tokenizer: Any


def load_trunk(name: str, *, device: str = "auto", trust_remote_code: bool = False) -> Trunk:
    """The trunk of a reward model or of a base model. Raises ModelError with one line where it cannot be loaded."""
    import torch

    from rewardsmith.model.load import load_base

    base = load_base(name, trust_remote_code=trust_remote_code)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    body: Any = base.trunk
    return Trunk(name, body.to(device).eval(), base.tokenizer)


class TrunkEmbedder:
    """See the module. `fit` learns the mean and the directions from the data's texts."""

    alike = 0.1

    def __init__(
        self, trunk: Trunk, *, tokens_per_batch: int = 8192, precision: str = "float32", quiet: bool = False
    ) -> None:
        self.name = f"the trunk of {trunk.name}"
        self.trunk, self.tokens_per_batch, self.precision, self.quiet = trunk, tokens_per_batch, precision, quiet

    def fit(self, texts: Sequence[str]) -> Embedded:
        state_NH, judged_N = self._states(texts)
        self.mean_H = state_NH.mean(0)
        _, spread_D, direction_DH = np.linalg.svd(state_NH - self.mean_H, full_matrices=False)
        n = int(np.clip(len(texts) // PER_DIMENSION, 1, min(DIMENSIONS, max(int((spread_D > 1e-6).sum()), 1))))
        self.map_HD = (direction_DH[:n] / np.maximum(spread_D[:n, None], 1e-6)).T
        return Embedded(self._points(state_NH), judged_N)

    def embed(self, texts: Sequence[str]) -> Embedded:
        state_NH, judged_N = self._states(texts)
        return Embedded(self._points(state_NH), judged_N)

    def _points(self, state_NH: Floats) -> Points:
        return unit((state_NH - self.mean_H) @ self.map_HD)

    def _states(self, texts: Sequence[str]) -> tuple[Floats, np.ndarray]:
        """([N, H] mean state of each text, [N] whether its language is known), in padded batches of like length."""
        read = self.trunk.tokenizer
        rows = [read(text, add_special_tokens=False)["input_ids"][:MOST_TOKENS] or [0] for text in texts]
        state_NH: Floats | None = None
        with Bar("reading prompts with the trunk", len(texts), quiet=self.quiet) as bar:
            for part in self._batches([len(row) for row in rows]):
                states_BH = self._batch([rows[n] for n in part])
                if state_NH is None:
                    state_NH = np.empty((len(texts), states_BH.shape[1]))
                state_NH[part] = states_BH
                bar.advance(len(part))
        assert state_NH is not None, "there is a text"
        return state_NH, known_languages(texts, rows)

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Numbers of texts that share a padded batch of at most `tokens_per_batch` tokens."""
        parts: list[list[int]] = [[]]
        for n in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
            if parts[-1] and (len(parts[-1]) + 1) * lengths[parts[-1][0]] > self.tokens_per_batch:
                parts.append([])
            parts[-1].append(n)
        return parts

    def _batch(self, rows: Sequence[Sequence[int]]) -> Floats:
        import torch

        device = next(self.trunk.body.parameters()).device
        longest = max(map(len, rows))
        token_BT = torch.zeros((len(rows), longest), dtype=torch.long)
        mask_BT = torch.zeros_like(token_BT)
        for b, row in enumerate(rows):
            token_BT[b, : len(row)], mask_BT[b, : len(row)] = torch.tensor(row), 1
        half = self.precision == "bfloat16"
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            found = self.trunk.body(input_ids=token_BT.to(device), attention_mask=mask_BT.to(device))
        weight_BT1 = mask_BT.to(device)[..., None].float()
        mean_BH = (found.last_hidden_state.float() * weight_BT1).sum(1) / weight_BT1.sum(1)
        return np.asarray(mean_BH.double().cpu().numpy())


def known_languages(texts: Sequence[str], rows: Sequence[Sequence[int]]) -> np.ndarray:
    """[N] false for texts in a language of which a token is under two bytes on average."""
    n_bytes: dict[str, int] = {}
    n_tokens: dict[str, int] = {}
    languages = [language_of(text) for text in texts]
    for text, row, language in zip(texts, rows, languages, strict=True):
        if len(row) < MOST_TOKENS:
            n_bytes[language] = n_bytes.get(language, 0) + len(text.encode("utf-8", "surrogatepass"))
            n_tokens[language] = n_tokens.get(language, 0) + len(row)
    known = {name: n_bytes[name] >= BYTES_A_TOKEN * n_tokens[name] for name in n_bytes}
    return np.array([known.get(language, True) for language in languages], dtype=bool)
