"""The labelling page as a process: an address, keys, SIGTERM."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from rewardsmith.errors import ConfigError
from rewardsmith.labelling.app import create_app
from rewardsmith.labelling.desk import Desk
from rewardsmith.progress import say
from rewardsmith.serving.keys import KeyRing
from rewardsmith.serving.run import (
    LOOPBACK_NAMES,
    PatientProtocol,
    Server,
    Started,
    check_address,
    check_tls,
    config_of,
    listen,
)

CONNECTIONS = 500  # at once; uvicorn answers 503 beyond
DRAIN_SECONDS = 10.0


def serve_page(
    desk: Desk,
    *,
    host: str = "127.0.0.1",
    port: int = 8010,
    keys: KeyRing | None = None,
    tls_cert: str | None = None,
    tls_key: str | None = None,
    allow_hosts: Sequence[str] = (),
    log_requests: bool = True,
    on_started: Started = lambda address, stop: say(f"labelling at {address}"),
) -> None:
    """Serve the page until SIGTERM or SIGINT.

    Raises ConfigError for an address that others can reach without a key, and for one that cannot be listened on.
    """
    keys = keys or KeyRing()
    check_address(host, keys)
    check_tls(tls_cert, tls_key)
    PatientProtocol.header_seconds = desk.limits.body_seconds
    hosts = () if keys else (*LOOPBACK_NAMES, host.strip("[]"), *allow_hosts)

    async def nothing_to_read_again() -> None:
        say("SIGHUP: nothing to read again; keys are looked at by themselves")

    async def run() -> None:
        app: Any = create_app(desk, keys=keys, hosts=hosts, log_requests=log_requests)
        config = config_of(app, CONNECTIONS, DRAIN_SECONDS, tls_cert, tls_key)
        listening = listen(host, port)
        server = Server(config, on_started, nothing_to_read_again)
        try:
            with suppress(SystemExit):  # uvicorn's way to end a start that failed; it has said why
                await server.serve(sockets=[listening])
        finally:
            listening.close()
        if not server.started:
            raise ConfigError("the page could not be served (see above)")

    asyncio.run(run())
