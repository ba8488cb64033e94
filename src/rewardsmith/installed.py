"""What this package is, as it is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """The version, or "unknown" where the sources run without having been installed."""
    try:
        return version("rewardsmith")
    except PackageNotFoundError:
        return "unknown"
