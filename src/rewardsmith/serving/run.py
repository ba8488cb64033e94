"""The process: an address, signals, and the time limits that uvicorn leaves open.

SIGTERM and SIGINT  no new connections; what was accepted is answered; then the process ends
SIGHUP              the model's folder is read again; requests under way keep the model they were tokenised for

Where releases are followed, the same happens whenever another one is current (`follow`).
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from rewardsmith.errors import ConfigError, ModelError
from rewardsmith.progress import say
from rewardsmith.serving.gate import is_loopback
from rewardsmith.serving.keys import KeyRing
from rewardsmith.serving.refusals import Refusal
from rewardsmith.serving.settings import Limits

if TYPE_CHECKING:
    from rewardsmith.serving.engine import Engine
    from rewardsmith.serving.follow import Follow
    from rewardsmith.serving.service import Service

# (address, what ends the server; from another thread it is called through the loop)
Started = Callable[[str, Callable[[], None]], None]
CONNECTIONS = 2000  # at once; uvicorn answers 503 beyond
HEADER_BYTES = 32 * 1024
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class PatientProtocol(H11Protocol):
    """uvicorn's, with a limit on the time that a request's line and headers may take: a client that sends a byte a
    minute holds no connection for hours.
    """

    header_seconds = 10.0
    opening: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()

    def _watch(self) -> None:
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy or self.transport.is_closing():
            self._forget()
        elif self.opening is None:
            self.opening = self.loop.call_later(self.header_seconds, self.transport.close)

    def _forget(self) -> None:
        if self.opening is not None:
            self.opening.cancel()
            self.opening = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._forget()  # the keep-alive limit takes over until the next byte


class Server(uvicorn.Server):
    """uvicorn's server that ends with the process's own exit code, and says when it listens."""

    def __init__(self, config: uvicorn.Config, on_started: Started, on_reload: Callable[[], Any]) -> None:
        super().__init__(config)
        self.on_started, self.on_reload = on_started, on_reload
        self.tasks: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.started:
            return
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        scheme = "https" if self.config.is_ssl else "http"
        self.on_started(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}", self.stop)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handled = [(signal.SIGTERM, self.stop), (signal.SIGINT, self.stop)]
        if hasattr(signal, "SIGHUP"):
            handled.append((signal.SIGHUP, self.read_again))
        for number, handler in handled:
            with suppress(NotImplementedError, ValueError, RuntimeError):  # Windows; a thread that is not the main one
                loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number, _ in handled:
                with suppress(NotImplementedError, ValueError, RuntimeError):
                    loop.remove_signal_handler(number)

    def stop(self) -> None:
        if self.should_exit:
            self.force_exit = True  # asked a second time
        self.should_exit = True

    def read_again(self) -> None:
        async def reload() -> None:
            with suppress(Refusal):  # said already
                await self.on_reload()

        task = asyncio.ensure_future(reload())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def serve(
    engine: Engine,
    load: Callable[[], Engine],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: KeyRing | None = None,
    tls_cert: str | None = None,
    tls_key: str | None = None,
    limits: Limits | None = None,
    allow_hosts: Sequence[str] = (),
    cors_origins: Sequence[str] = (),
    log_texts: bool = False,
    log_requests: bool = True,
    follow: Follow | None = None,
    on_started: Started = lambda address, stop: say(f"serving at {address}"),
) -> Service:
    """Serve until SIGTERM or SIGINT; returns the service, whose metrics say what was done.

    Raises ConfigError for an address that others can reach without a key, and for one that cannot be listened on.
    """
    # Not needed by who only listens (the labelling page does), and heavy.
    from rewardsmith.serving.app import create_app
    from rewardsmith.serving.service import Service

    limits, keys = limits or Limits(), keys or KeyRing()
    check_address(host, keys)
    check_tls(tls_cert, tls_key)
    PatientProtocol.header_seconds = limits.body_seconds
    hosts = () if keys else (*LOOPBACK_NAMES, host.strip("[]"), *allow_hosts)

    async def run() -> Service:
        service = Service(engine, load, limits)
        app: Any = create_app(
            service, keys=keys, hosts=hosts, cors_origins=cors_origins, log_texts=log_texts, log_requests=log_requests
        )
        config = config_of(app, CONNECTIONS, limits.drain_seconds, tls_cert, tls_key)
        listening = listen(host, port)
        server = Server(config, on_started, service.reload)
        following = None if follow is None else asyncio.create_task(follow.run(service))
        try:
            with suppress(SystemExit):  # uvicorn's way to end a start that failed; it has said why
                await server.serve(sockets=[listening])
        finally:
            if following is not None:
                following.cancel()
            listening.close()
        if not server.started:
            raise ModelError("the server did not start: the model could not be warmed up (see above)")
        return service

    return asyncio.run(run())


def config_of(
    app: Any, connections: int, drain_seconds: float, tls_cert: str | None, tls_key: str | None
) -> uvicorn.Config:
    """How everything of this package listens: so many connections at most, small heads, nothing said of itself."""
    return uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=connections,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
    )


def check_address(host: str, keys: KeyRing) -> None:
    """ConfigError where others could reach the server without a key: for `serve` and the labelling page."""
    if not is_loopback(host) and not keys:
        raise ConfigError(
            f"--host {host}: others can reach this address, so keys are needed, one for each who asks: make them "
            "with rewardsmith keys add NAME --file FILE and give --key-file FILE, or stay on 127.0.0.1"
        )


def check_tls(cert: str | None, key: str | None) -> None:
    if (cert is None) != (key is None):
        raise ConfigError("give --tls-cert and --tls-key together")
    for option, file in (("--tls-cert", cert), ("--tls-key", key)):
        if file is not None and not Path(file).is_file():
            raise ConfigError(f"{option} {file!r} is no file")
    if cert is not None:
        import ssl

        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"--tls-cert {cert!r} and --tls-key {key!r} do not go together: {error}") from None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; ConfigError where the address is taken or none of this machine's."""
    host = host.strip("[]")
    if not 0 <= port < 2**16:  # the resolver would take it modulo 65536
        raise ConfigError(f"--port {port}: give a number up to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.set_inheritable(True)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: {getattr(error, 'strerror', None) or error}") from None
    return listening
