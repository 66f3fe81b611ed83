"""The main program: bind, load, serve, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn

from cpm_gen.config.resolve import Settings
from cpm_gen.config.serve_options import ServeOptions
from cpm_gen.errors import ConfigError, CpmGenError
from cpm_gen.server.app import create_app
from cpm_gen.server.exposure import check_exposure
from cpm_gen.server.uvicorn_protocol import connections
from cpm_gen.serving.api_keys import Keys
from cpm_gen.serving.errors import ServiceError, unavailable
from cpm_gen.serving.service import Service
from cpm_gen.works.manager import Works
from cpm_gen.works.storage.store import Store

log = logging.getLogger("cpm_gen.server")

_END = 10.0  # seconds for the engine's thread and the ranks to end
_KEEP = 10.0  # seconds for the database to take the works' last words
_ANSWER = 2.0  # seconds for last answers to reach their clients


class _Server(uvicorn.Server):
    """Signals are ours: the first one drains."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(settings: Settings) -> int:
    """Serve until a signal; returns the exit status. Raises the children of CpmGenError where it cannot begin."""
    options = settings.serve
    _log_to_stderr()
    keys = Keys(options.keys, os.environ, streams=options.key_streams, rate=options.key_rate)
    check_exposure(options, keys)
    with _bind(options) as listener:
        return asyncio.run(_serve(settings, keys, listener, Store(options.database)))


def _log_to_stderr() -> None:
    root = logging.getLogger("cpm_gen")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    root.propagate = False


def _bind(options: ServeOptions) -> socket.socket:
    """The listening socket; raises ConfigError."""
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


async def _serve(settings: Settings, keys: Keys, listener: socket.socket, store: Store) -> int:
    service = Service(settings.serve, settings.model, keys)
    works = Works(service, store)
    server = _Server(
        uvicorn.Config(
            create_app(service, works),
            http=connections(settings.serve),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(_ANSWER),
        )
    )
    asked = asyncio.Event()
    _on_signals(service, asked)
    answering = asyncio.create_task(server.serve([listener]))
    watching = asyncio.create_task(service.engine.watch())
    failure = await _load(service, works, asked)
    if service.engine.state == "loading":  # loading does not let itself be interrupted; ranks end with this process
        service.tokenizing.close()
        os._exit(143)
    if failure is None and not asked.is_set():
        for note in service.require().notes:
            log.info("note: %s", note)
        sys.stdout.write(f"cpm-gen serves {service.model_id} on {_address(listener, settings.serve.host)}\n")
        sys.stdout.flush()
        await asyncio.wait(
            (answering, ending := asyncio.create_task(asked.wait())), return_when=asyncio.FIRST_COMPLETED
        )
        ending.cancel()
    kept = await _drain(service, works, settings.serve.drain_timeout)
    server.should_exit = True
    await answering
    watching.cancel()
    service.tokenizing.close()
    await service.tokenizing.closed()
    if not await service.engine.end(_END):
        log.error("the engine did not end; the process ends without it")
        service.engine.kill()
        os._exit(1)
    if not kept:
        log.error("the works' database did not answer; the process ends without it")
        os._exit(1)
    if failure is not None:
        raise failure
    return 0


async def _load(service: Service, works: Works, asked: asyncio.Event) -> BaseException | None:
    """Wait for the model and the works, or for a signal; returns why there is no model."""

    async def load() -> None:
        try:
            await service.load()
            await works.open()
        except ServiceError as error:
            raise CpmGenError(error.message) from None

    loading, ending = asyncio.create_task(load()), asyncio.create_task(asked.wait())
    await asyncio.wait((loading, ending), return_when=asyncio.FIRST_COMPLETED)
    ending.cancel()
    if loading.done():
        return loading.exception()
    loading.cancel()
    return None


def _on_signals(service: Service, asked: asyncio.Event) -> None:
    """The first SIGTERM, SIGINT or SIGHUP asks to end, the second ends the process at once."""

    def handle(number: int) -> None:
        if asked.is_set():
            log.warning("ending at once")
            service.engine.kill()
            service.tokenizing.close()
            os._exit(128 + number)
        log.info("ending: new requests are refused, running ones may finish")
        service.draining = True
        asked.set()

    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            with contextlib.suppress(NotImplementedError):
                asyncio.get_running_loop().add_signal_handler(number, handle, number)


async def _drain(service: Service, works: Works, timeout: float) -> bool:
    """Wait for running jobs; those that do not finish in time end with an error. Works go on in the next process.

    Returns whether the database, meanwhile, took what they wrote and let go; where not, its thread waits for it still.
    """
    service.draining = True
    deadline = asyncio.get_running_loop().time() + timeout
    kept = False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_KEEP):
            await works.close()
            kept = True
    while service.engine.busy and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.05)
    if service.engine.busy:
        log.warning("drain timeout: %d requests are cut short", service.engine.busy)
        service.engine.fail_all(unavailable("shutting_down", "the service is shutting down"))
    return kept
