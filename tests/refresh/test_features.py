"""Features kept in a file: used again for the same answers, refused for others."""

from __future__ import annotations

import numpy as np
import pytest

from rewardsmith.errors import DataError
from rewardsmith.refresh.features import cached_features, fewer_answers
from tests.overoptimization.pools import pool


def test_a_file_is_used_again_and_refused_for_another_model_or_other_answers(tmp_path):
    file = str(tmp_path / "f.npz")
    groups = [pool([0, 1]).group, pool([0, 1, 2], number=1).group]
    calls = []

    def compute():
        calls.append(1)
        return [np.arange(4.0).reshape(2, 2), np.arange(6.0).reshape(3, 2) + 0.1]

    first, was_there = cached_features(groups, "text", file, compute)
    again, is_there = cached_features(groups, "text", file, compute)
    assert (was_there, is_there, len(calls)) == (False, True, 1)
    for a_KF, b_KF in zip(first, again, strict=True):
        assert np.array_equal(a_KF, b_KF)
    assert [len(features_KF) for features_KF in again] == [2, 3]
    with pytest.raises(DataError, match="another model"):
        cached_features(groups, "other", file, compute)
    with pytest.raises(DataError, match="other answers"):
        cached_features(groups[:1], "text", file, compute)
    assert list(tmp_path.iterdir()) == [tmp_path / "f.npz"]


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_one_line(tmp_path, content):
    file = tmp_path / "f.npz"
    file.write_bytes(content)
    with pytest.raises(DataError, match="no file of features"):
        cached_features([pool([0, 1]).group], "text", str(file), lambda: [np.zeros((2, 1))])


def test_fewer_answers_are_drawn_by_the_prompt_alone():
    pools = [pool(range(9), number=number) for number in range(3)]
    some = fewer_answers(pools, 4)
    assert [len(p.base_K) for p in some] == [4, 4, 4]
    assert some[0].base_K == pytest.approx([0.25] * 4)
    assert fewer_answers(pools[::-1], 4)[2].gold_JK.tolist() == some[0].gold_JK.tolist()
    assert fewer_answers(pools, 9)[0] is pools[0]
