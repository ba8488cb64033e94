"""What the frozen layers compute, kept on disk.

With only the top layers trained, the hidden states below them are the same in every epoch, for every member of
an ensemble and in every run of a sweep. They are computed once, in batches that depend on the data alone (so
that a run's numbers do not depend on whether it found them), and read from a file afterwards.

    <folder>/<key>/hidden.bin    [tokens, hidden] of every distinct token, batch after batch
    <folder>/<key>/meta.json     its shape

The key is a hash of the frozen weights, the tokens and the precision: a cache of anything else has another name.
One that cannot be read, or whose first batch comes out differently when computed again, is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rewardsmith.model.reward_model import RewardModel
from rewardsmith.progress import Bar
from rewardsmith.text.pack import PackedBatch, pack, plan_batches, row_paths
from rewardsmith.text.render import Encoded
from rewardsmith.text.token_cache import cache_folder

GB = 1e9
DATA, META = "hidden.bin", "meta.json"


class CacheUnusable(Exception):
    """Why there is no cache; training goes on without one."""


class TrunkCache:
    """Hidden states below a split model's upper layers, for the groups it was made of.

    `autocast` gives the context that training computes in. Raises CacheUnusable with the reason.
    """

    def __init__(
        self,
        model: RewardModel,
        encoded: Sequence[Encoded],
        *,
        limit_bytes: float,
        tokens_per_batch: int,
        precision: str,
        autocast: Callable[[], AbstractContextManager[Any]],
        folder: Path | None = None,
        quiet: bool = False,
    ) -> None:
        self.model, self.encoded, self.autocast = model, encoded, autocast
        self.device = model.value_head.weight.device
        # At most: groups may share more with each other. Said before long work on data that is too large.
        needed = 4.0 * model.value_head.in_features * sum(item.n_tokens for item in encoded)
        if needed > limit_bytes:
            raise CacheUnusable(f"{needed / GB:.1f} GB are more than --trunk-cache-gb {limit_bytes / GB:g}")
        self.batches = plan_batches([item.token_ids for item in encoded], tokens_per_batch)
        self.places, self.n_tokens = self._find_places()
        folder = folder or cache_folder("trunk")
        path = folder / self._key(precision)
        self.found = self._is_whole(path)
        if not self.found:
            shutil.rmtree(path, ignore_errors=True)
            _make_room(folder, needed, limit_bytes)
            self._compute(path, quiet)
        self.size = (path / DATA).stat().st_size
        os.utime(path / META)  # the least recently used one goes first
        self.path = path
        self.data_NH = self._open(path)

    def given(self, items: Sequence[Encoded], batch: PackedBatch) -> torch.Tensor:
        """given_TH of a batch that was packed from `items`, on the model's device."""
        places = [place for item in items for place in self.places[id(item)]]
        start_R = np.cumsum([0, *map(len, places)])[:-1]
        position_T = batch.position_ids_T.cpu().numpy()
        index_T = np.concatenate(places)[start_R[batch.owner_T] + position_T]
        return self.data_NH[torch.from_numpy(index_T)].to(self.device)

    # -- which token lies where ---------------------------------------------------------------------------

    def _find_places(self) -> tuple[dict[int, list[np.ndarray]], int]:
        """id(group) -> for each of its rows, where its tokens lie in the file; and how many lie there."""
        places: dict[int, list[np.ndarray]] = {}
        end = 0
        for members in self.batches:
            batch = pack([self.encoded[i] for i in members])
            paths = iter(row_paths(batch))
            for i in members:
                places[id(self.encoded[i])] = [end + next(paths) for _ in self.encoded[i].token_ids]
            end += batch.n_tokens
        return places, end

    def _key(self, precision: str) -> str:
        assert self.model.parts is not None
        trunk = self.model.parts.lower
        digest = hashlib.blake2b(digest_size=12)
        words = (torch.__version__, precision, self.device.type, self.model.parts.n_lower, self.batches)
        digest.update(repr(words).encode())
        for item in self.encoded:
            for row in item.token_ids:
                digest.update(row.tobytes() + b"|")
        config = trunk.config.to_dict()  # type: ignore[operator, union-attr]
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        for name, tensor in trunk.state_dict().items():
            plain = tensor.detach().cpu().contiguous().view(-1)
            digest.update(name.encode() + plain.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    # -- the file -----------------------------------------------------------------------------------------

    def _is_whole(self, path: Path) -> bool:
        """Whether a cache is there whose smallest batch is what the model computes now."""
        try:
            data_NH = self._open(path)
        except (OSError, ValueError, KeyError, RuntimeError):
            return False
        now = self._lower(self.batches[-1])
        kept = data_NH[self.n_tokens - len(now) :]
        # The same machine gives the same bits; another build of the same library rounds in its own way.
        return torch.allclose(now.float(), kept.float(), rtol=1e-2, atol=1e-3)

    def _open(self, path: Path) -> torch.Tensor:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
        shape = (self.n_tokens, meta["hidden"])
        dtype = getattr(torch, meta["dtype"])
        if (path / DATA).stat().st_size != shape[0] * shape[1] * dtype.itemsize:
            raise ValueError("the cache has another size than its tokens")
        flat = torch.from_file(str(path / DATA), shared=False, size=shape[0] * shape[1], dtype=dtype)
        return flat.view(shape)

    def _lower(self, members: Sequence[int]) -> torch.Tensor:
        batch = pack([self.encoded[i] for i in members]).to(self.device)
        with torch.no_grad(), self.autocast():
            return self.model.lower(batch).cpu()

    def _compute(self, path: Path, quiet: bool) -> None:
        """One forward pass through the frozen layers for every batch, into a folder that then gets its name."""
        writing = path.with_name(f".{path.name}.writing-{os.getpid()}")
        try:
            writing.mkdir(parents=True, exist_ok=True)
            with (writing / DATA).open("wb") as target, Bar("frozen layers", len(self.batches), quiet=quiet) as bar:
                for members in self.batches:
                    hidden_TH = self._lower(members)
                    target.write(hidden_TH.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
                    bar.advance()
                target.flush()
                os.fsync(target.fileno())
            meta = {
                "tokens": self.n_tokens,
                "hidden": hidden_TH.shape[1],
                "dtype": str(hidden_TH.dtype).removeprefix("torch."),
            }
            (writing / META).write_text(json.dumps(meta), encoding="utf-8")
            os.replace(writing, path)
        except OSError as error:
            if not (path / META).exists():  # else another run was faster, and its file is as good
                raise CacheUnusable(f"{path.parent} cannot be written: {error.strerror}") from None
        finally:
            shutil.rmtree(writing, ignore_errors=True)


def _make_room(folder: Path, needed: float, limit_bytes: float) -> None:
    """Remove the oldest caches until there is room under the limit; CacheUnusable where the disk has none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        caches = sorted(folder.glob(f"*/{META}"), key=lambda meta: meta.stat().st_mtime)
        used = sum((meta.parent / DATA).stat().st_size for meta in caches)
        while caches and used + needed > limit_bytes:
            oldest = caches.pop(0).parent
            used -= (oldest / DATA).stat().st_size
            shutil.rmtree(oldest, ignore_errors=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise CacheUnusable(f"{folder} cannot be used: {error.strerror}") from None
    if needed > 0.9 * free:
        raise CacheUnusable(f"{needed / GB:.1f} GB do not fit on the disk of {folder}")
