"""Tokenised data on disk: the same as tokenised now, and only for the same input."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rewardsmith.data.schema import Group, Message
from rewardsmith.text import token_cache
from rewardsmith.text.render import RenderConfig, Renderer
from rewardsmith.text.token_cache import cache_folder, encode_cached
from tests.tiny import tiny_tokenizer


def group(i: int, words: str = "no") -> Group:
    return Group(
        prompt=(Message("user", f"say {i} " * (1 + i % 5)),),
        responses=((Message("assistant", "yes"),), (Message("assistant", words * (i + 1)),)),
    )


GROUPS = [group(i) for i in range(30)]


def renderer(**changes) -> Renderer:
    return Renderer(tiny_tokenizer(), RenderConfig(**{"max_length": 48, "overlong": "cut-prompt", **changes}))


@pytest.fixture(autouse=True)
def keep_everything(monkeypatch):
    monkeypatch.setattr(token_cache, "WORTH_KEEPING_S", 0.0)


def files() -> list:
    return sorted(cache_folder("tokens").glob("*"))


def as_plain(encoded) -> list:
    return [(e.group.id, [r.tolist() for r in e.token_ids], e.prefix_length, e.truncated) for e in encoded]


@pytest.mark.parametrize("overlong", ["cut-prompt", "drop"])
def test_what_is_read_is_what_was_tokenised(overlong, monkeypatch):
    first, second, plain = (renderer(overlong=overlong) for _ in range(3))
    fresh = encode_cached(first, GROUPS)
    monkeypatch.setattr(Renderer, "encode_stream", lambda *_: pytest.fail("tokenised again"))
    again = encode_cached(second, GROUPS)
    monkeypatch.undo()
    assert as_plain(again) == as_plain(fresh) == as_plain(plain.encode(GROUPS))
    assert second.report.to_dict() == first.report.to_dict() == plain.report.to_dict()
    assert bool(first.report.dropped) == (overlong == "drop")
    assert all(a.group is g.group for a, g in zip(again, fresh, strict=True))


def test_other_input_has_another_file():
    encode_cached(renderer(), GROUPS)
    encode_cached(renderer(max_length=50), GROUPS)
    encode_cached(renderer(), GROUPS[:-1])
    encode_cached(renderer(), [*GROUPS[:-1], group(29, "never")])
    encode_cached(renderer(), [*GROUPS[:-1], replace(GROUPS[-1], template_kwargs={"enable_thinking": False})])
    assert len(files()) == 5


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x00" * 100])
def test_a_damaged_file_is_made_anew(content):
    fresh = encode_cached(renderer(), GROUPS)
    (file,) = files()
    good = file.read_bytes()
    file.write_bytes(content)
    assert as_plain(encode_cached(renderer(), GROUPS)) == as_plain(fresh)
    assert file.read_bytes() == good


def test_what_is_quick_is_not_kept_and_no_place_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setattr(token_cache, "WORTH_KEEPING_S", 60.0)
    encode_cached(renderer(), GROUPS)
    assert not cache_folder("tokens").exists()
    monkeypatch.setattr(token_cache, "WORTH_KEEPING_S", 0.0)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(encode_cached(renderer(), GROUPS)) == len(GROUPS)


def test_old_files_make_room(monkeypatch):
    encode_cached(renderer(), GROUPS[:10])
    (first,) = files()
    monkeypatch.setattr(token_cache, "LIMIT_BYTES", first.stat().st_size * 1.5)
    encode_cached(renderer(), GROUPS[10:20])
    assert len(files()) == 1
    assert files() != [first]
