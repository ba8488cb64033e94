"""The version is there for an installed package, and no reason to fail for sources that are not."""

from __future__ import annotations

from importlib import metadata

from rewardsmith import installed


def test_the_version_is_that_of_the_package():
    assert installed.own_version() == metadata.version("rewardsmith")


def test_sources_that_are_not_installed_have_an_unknown_version(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(installed, "version", missing)
    assert installed.own_version() == "unknown"
