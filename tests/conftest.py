"""What every test gets: caches of its own, and a name that is the same in every process."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def pytest_make_parametrize_id(config, val, argname):
    # pytest spells bytes out in a test's name, and gzip writes the second it ran in: workers that
    # collected on either side of a second would disagree about which tests there are.
    return f"{argname}-{len(val)}-bytes" if isinstance(val, bytes) else None
