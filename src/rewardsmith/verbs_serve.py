"""The verbs `serve`, `keys add` and `keys revoke`: options, calls into the library, and what is said to people."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rewardsmith.aggregation import check_aggregate
from rewardsmith.errors import ConfigError
from rewardsmith.progress import say
from rewardsmith.serving.settings import Limits
from rewardsmith.verbs_common import AggregateOptions, Name, at_least

if TYPE_CHECKING:
    from rewardsmith.cli import Common

KEY_VARIABLE = "REWARDSMITH_API_KEY"


@dataclass(frozen=True, kw_only=True)
class Serve(AggregateOptions):
    """Serve a reward model over HTTP, in the shapes of vLLM, TEI and OpenRLHF and in our own, with a page to try it.

    Example: rewardsmith serve rm --port 8000
    Example: rewardsmith serve --follow project
    """

    model: Annotated[Name, tyro.conf.arg(metavar="RM")] = ""
    """A reward model: an artifact or ensemble folder, or any one-output sequence classifier. With --follow: none."""
    follow: str | None = None
    """Serve what is released in this project (refresh release, rollback), and change over when that changes. A release
    whose files are not those that were released is refused, and the old one stays."""
    follow_seconds: float = 2.0
    """With --follow: look this often for another release."""
    host: str = "127.0.0.1"
    """Address to listen on. Other than this machine's own, keys are needed."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    api_key: str | None = None
    """A key that requests must show. Others on this machine may see it in the list of processes: the environment's
    REWARDSMITH_API_KEY or --key-file keep it from them."""
    key_file: str | None = None
    """Hashes of the keys that requests may show; changes take effect within a second. See keys add."""
    tls_cert: str | None = None
    """Certificate chain (PEM): serve https."""
    tls_key: str | None = None
    """The certificate's private key (PEM)."""
    model_name: str | None = None
    """Name that requests may ask for. Default: the folder's name."""
    tokens_per_batch: int | None = None
    """Most tokens computed at once. Default: 2048 on a CPU, 16384 on a GPU."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU where there is one."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the matrix products, as of score."""
    adjusted: bool = False
    """Serve the adjusted rewards (calibrate --length, --bound) in the place of the plain ones."""
    allow_host: tuple[str, ...] = ()
    """Further names that requests may call this server by, where no keys are used."""
    cors_origin: tuple[str, ...] = ()
    """Origins whose pages may call this server. None by default."""
    log_texts: bool = False
    """Put the bodies of requests into the log. They hold people's texts."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        at_least(
            port=(self.port, 0),
            tokens_per_batch=(self.tokens_per_batch, 16),
            follow_seconds=(self.follow_seconds, 0.05),
        )
        if bool(self.model) == (self.follow is not None):
            raise ConfigError("name a reward model, or a project with --follow: one of the two")

    def run(self, common: Common) -> dict[str, Any]:
        try:
            import fastapi  # noqa: F401
            import prometheus_client  # noqa: F401
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise ConfigError(f"serve needs {error.name}; install it with: pip install 'rewardsmith[serve]'") from None
        from rewardsmith.serving.engine import load_engine
        from rewardsmith.serving.follow import Follow
        from rewardsmith.serving.keys import KeyRing
        from rewardsmith.serving.run import check_address, check_tls, serve

        given = [key for key in (self.api_key, os.environ.get(KEY_VARIABLE)) if key]
        keys = KeyRing(given, self.key_file)
        check_address(self.host, keys)  # before the model is loaded
        check_tls(self.tls_cert, self.tls_key)
        check_aggregate(self.aggregate, self.aggregate_strength)

        def load() -> Any:
            folder, name, release = self._what()
            return load_engine(
                folder,
                name=self.model_name or name,
                tokens_per_batch=self.tokens_per_batch,
                device=self.device,
                precision=self.precision,
                aggregate=self.aggregate,
                aggregate_strength=self.aggregate_strength,
                adjusted=self.adjusted,
                release=release,
            )

        engine = load()

        def started(address: str, stop: Callable[[], None]) -> None:
            say(f"serving {engine.name} at {address} (page: {address}/, description: {address}/docs)")

        service = serve(
            engine,
            load,
            host=self.host,
            port=self.port,
            keys=keys,
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
            limits=self.limits,
            allow_hosts=self.allow_host,
            cors_origins=self.cors_origin,
            log_texts=self.log_texts,
            log_requests=not common.quiet,
            follow=None if self.follow is None else Follow(self._release_now, self.follow_seconds),
            on_started=started,
        )
        counted = service.metrics
        return {
            "model": self.model or self.follow,
            "responses": int(counted.total("rewardsmith_responses_total")),
            "tokens": int(counted.total("rewardsmith_tokens_total", kind="computed")),
            "shared_tokens": int(counted.total("rewardsmith_tokens_total", kind="shared")),
        }

    def _what(self) -> tuple[str, str | None, str | None]:
        """(folder, name it is served by, release) of what is to be served now, its files compared with the release."""
        if self.follow is None:
            return self.model, None, None
        from rewardsmith.refresh.releases import open_current

        pointer, folder = open_current(self.follow)
        return str(folder), Path(self.follow).resolve().name, pointer.label

    def _release_now(self) -> str | None:
        from rewardsmith.refresh.releases import current

        assert self.follow is not None
        pointer = current(self.follow)
        return None if pointer is None else pointer.label

    def show(self, result: dict[str, Any]) -> str:
        return f"stopped: {result['responses']} responses scored, {result['tokens']} tokens computed"


@dataclass(frozen=True, kw_only=True)
class KeysAdd:
    """Make an API key for serve. It is printed once; the file keeps its hash.

    Example: rewardsmith keys add trainer --file keys.txt
    """

    name: Annotated[Name, tyro.conf.arg(metavar="NAME")]
    """Whose key it is: it names the client in the log, and shares the server with the others."""
    file: str
    """The file of hashes, made where it is not there."""
    admin: bool = False
    """The key may also have the model read again."""

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.serving.keys import add_key

        return {"name": self.name, "file": self.file, "key": add_key(self.file, self.name, admin=self.admin)}

    def show(self, result: dict[str, Any]) -> str:
        return str(result["key"])


@dataclass(frozen=True, kw_only=True)
class KeysRevoke:
    """Take an API key away. A server that uses the file knows within a second.

    Example: rewardsmith keys revoke trainer --file keys.txt
    """

    name: Annotated[Name, tyro.conf.arg(metavar="NAME")]
    """Whose key it is."""
    file: str
    """The file of hashes."""

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.serving.keys import revoke_key

        revoke_key(self.file, self.name)
        return {"name": self.name, "file": self.file}

    def show(self, result: dict[str, Any]) -> str:
        return f"{result['name']} is revoked"
