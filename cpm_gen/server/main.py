"""The main program of ``cpm-gen serve``: bind, load, serve, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator

import uvicorn

from cpm_gen.config.resolve import Settings
from cpm_gen.config.serve_options import ServeOptions
from cpm_gen.errors import ConfigError, CpmGenError, RankError
from cpm_gen.parallel.launchers import launched
from cpm_gen.server import logs
from cpm_gen.server.acceptor import Acceptor
from cpm_gen.server.app import create_app
from cpm_gen.server.exposure import check_exposure
from cpm_gen.server.tracing import start_tracing
from cpm_gen.server.uvicorn_protocol import Connection, connections
from cpm_gen.serving.api_keys import ApiKeys
from cpm_gen.serving.errors import ServiceError
from cpm_gen.serving.service import Service
from cpm_gen.serving.tracing import RequestTracer
from cpm_gen.works.manager import WorkManager
from cpm_gen.works.storage.store import Store

log = logging.getLogger("cpm_gen.server")

END_SECONDS = 10.0  # for the engine's thread and the ranks to end
COMMIT_SECONDS = 10.0  # for the database to commit the works at shutdown
TRACE_SECONDS = 1.0  # for the last spans to reach their collector
RESPONSE_SECONDS = 2.0  # for the last responses to reach their clients


class _Server(uvicorn.Server):
    """uvicorn with our own acceptor, and without its signal handlers: :func:`_handle_signals` installs ours."""

    def __init__(self, config: uvicorn.Config, protocol: type[Connection]) -> None:
        super().__init__(config)
        self._protocol = protocol

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup([])
        kind, patience = self._protocol, self._protocol.options.body_timeout
        state, lifespan = self.server_state, self.lifespan.state

        def protocol() -> Connection:
            return kind(config=self.config, server_state=state, app_state=lifespan)

        # uvicorn closes them as it does asyncio's servers
        self.servers += [Acceptor(listener, kind.limit, protocol, patience) for listener in sockets or ()]  # type: ignore[misc]

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(settings: Settings) -> int:
    """Serve until a signal; return the exit status. Raises the children of CpmGenError if the service cannot start."""
    options = settings.serve
    logs.configure(options.log_level, options.log_format)
    keys = ApiKeys(options.keys, os.environ, streams=options.key_streams, rate=options.key_rate)
    check_exposure(options, keys)
    if options.restart_workers and launched():
        raise ConfigError(
            "restart_workers: only the launcher can start its ranks again; leave it out, and start the launcher again when it ends"
        )
    tracer = start_tracing(os.environ)
    with _bind(options) as listener:
        return asyncio.run(_serve(settings, keys, listener, Store(options.database, options.work_lease), tracer))


def _bind(options: ServeOptions) -> socket.socket:
    """The listening socket. Raises ConfigError."""
    try:
        found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(f"cannot listen on {options.host} port {options.port}: {error.strerror or error}") from None
    return listener


def _address(listener: socket.socket, host: str) -> str:
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _serve(
    settings: Settings, keys: ApiKeys, listener: socket.socket, store: Store, tracer: RequestTracer | None
) -> int:
    service = Service(settings.serve, settings.model, keys, tracer)
    works = WorkManager(service, store)
    protocol = connections(settings.serve)
    config = uvicorn.Config(
        create_app(service, works),
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(RESPONSE_SECONDS),
    )
    server = _Server(config, protocol)
    stopping = asyncio.Event()
    _handle_signals(service, stopping)
    serving = asyncio.create_task(server.serve([listener]))
    failure = await _load(service, works, stopping)
    if service.engine.state == "loading":  # loading cannot be interrupted; the ranks end with this process
        service.kill()
        os._exit(143)
    if failure is None and not stopping.is_set():
        for note in service.require().notes:
            log.info("note: %s", note)
        sys.stdout.write(f"cpm-gen serves {service.model_id} on {_address(listener, settings.serve.host)}\n")
        sys.stdout.flush()
        failure = await _until_end(service, serving, stopping)
    committed = await drain(service, works, settings.serve.drain_timeout)
    server.should_exit = True
    await serving
    if tracer is not None:
        await asyncio.to_thread(tracer.close, TRACE_SECONDS)
    if not await service.close(END_SECONDS):
        log.error("the engine did not end; the process ends without it")
        service.kill()
        os._exit(1)
    if not committed:
        log.error("the works' database did not answer; the process ends without it")
        os._exit(1)
    if failure is not None:
        raise failure
    return 0


async def _until_end(service: Service, serving: asyncio.Task[None], stopping: asyncio.Event) -> RankError | None:
    """Wait for a signal; under a launcher also for the loss of a rank, which only the launcher can start again: returned as an error."""
    signalled, lost = asyncio.create_task(stopping.wait()), asyncio.create_task(_rank_lost(service))
    ends = (serving, signalled, lost) if launched() else (serving, signalled)
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    lost.cancel()
    return lost.result() if lost.done() and not stopping.is_set() else None


async def _rank_lost(service: Service) -> RankError:
    while service.engine.state not in ("failed", "stuck"):
        await service.engine.changed.wait()
    error = service.engine.error
    return RankError(f"{(error and error.__cause__) or 'a step does not end'}; start all ranks again")


async def _load(service: Service, works: WorkManager, stopping: asyncio.Event) -> BaseException | None:
    """Load the model and open the works, until a signal arrives; return the error if loading failed."""

    async def load() -> None:
        try:
            await service.load()
            await works.open()
        except ServiceError as error:
            raise CpmGenError(error.message) from None

    loading, signalled = asyncio.create_task(load()), asyncio.create_task(stopping.wait())
    await asyncio.wait((loading, signalled), return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    if loading.done():
        return loading.exception()
    loading.cancel()
    return None


def _handle_signals(service: Service, stopping: asyncio.Event) -> None:
    """The first SIGTERM, SIGINT or SIGHUP starts the shutdown; the second one ends the process at once."""

    def handle(number: int) -> None:
        if stopping.is_set():
            log.warning("ending at once")
            service.kill()
            os._exit(128 + number)
        log.info("ending: new requests are refused, running ones may finish")
        service.draining = True
        stopping.set()

    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            with contextlib.suppress(NotImplementedError):
                asyncio.get_running_loop().add_signal_handler(number, handle, number)


async def drain(service: Service, works: WorkManager, timeout: float) -> bool:
    """Commit the works, which resume in the next process, and drain the service; both within ``timeout`` seconds.

    Returns False if the database did not commit within COMMIT_SECONDS; its thread then still waits for it.
    """
    service.draining = True
    deadline = time.monotonic() + timeout
    committed = False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(COMMIT_SECONDS):
            await works.close()
            committed = True
    await service.drain(deadline - time.monotonic())
    return committed
