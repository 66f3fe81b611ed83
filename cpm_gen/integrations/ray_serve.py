"""The service as replicas of Ray Serve, with the same REST API behind one address.

``serve run cpm_gen.integrations.ray_serve:app batch=16 database=postgresql+psycopg://user@host/name``: the arguments are cpm-gen's
settings. ``configs/ray/serve.yaml`` is the same as a file. Each replica is a whole service: a model, an engine, works by leases.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import click
import ray
from ray import serve
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cpm_gen.config.resolve import Settings, resolve
from cpm_gen.errors import ConfigError, CpmGenError
from cpm_gen.runtime.plan import Machine, plan_worker
from cpm_gen.server import logs
from cpm_gen.server.app import create_app
from cpm_gen.server.main import COMMIT_SECONDS, END_SECONDS, TRACE_SECONDS, drain
from cpm_gen.server.tracing import start_tracing
from cpm_gen.serving.api_keys import ApiKeys
from cpm_gen.serving.errors import ServiceError
from cpm_gen.serving.service import Service
from cpm_gen.works.manager import WorkManager
from cpm_gen.works.storage.store import Store

_REPLICAS = "replicas"  # the one argument that is not a setting of cpm-gen


def app(arguments: Mapping[str, Any]) -> serve.Application:
    """The application that ``serve run`` and ``serve deploy`` start; raises ConfigError and CheckpointError.

    arguments: settings of cpm-gen by their names in YAML, over those of the environment; ``config``: YAML files, separated by commas;
    ``replicas``: a number, or ``least-most`` to let the queue decide, 1 by default.
    """
    given = dict(arguments)
    least, most = _replicas(given.pop(_REPLICAS, 1))
    files = [Path(file) for file in str(given.pop("config", "")).split(",") if file]
    settings = resolve(files=files, environment=os.environ, flags=given)
    if most > 1 and "://" not in (settings.serve.database or ""):
        raise ConfigError(
            "replicas share works over PostgreSQL: give database=postgresql+psycopg://user@host/name, or replicas=1"
        )
    settings, bundle = _resources(settings)
    scaled: dict[str, Any] = {"num_replicas": least}
    if least != most:
        scaled = {"autoscaling_config": autoscaling(least, most, settings.model.batch)}
    return serve.deployment(
        name="cpm-gen",
        ray_actor_options={"num_cpus": bundle["CPU"], "num_gpus": bundle.get("GPU", 0)},
        # the ranks of a replica are its child processes, so all its GPUs are of one node
        placement_group_bundles=[bundle],
        placement_group_strategy="STRICT_PACK",
        max_ongoing_requests=settings.serve.connections,
        graceful_shutdown_timeout_s=settings.serve.drain_timeout + COMMIT_SECONDS + END_SECONDS + TRACE_SECONDS,
        **scaled,
    )(serve.ingress(_application(settings))(Replica)).bind()


def autoscaling(least: int, most: int, batch: int) -> dict[str, Any]:
    """Ray Serve's autoscaling by :func:`wanted_replicas`, where a replica is full with ``batch`` texts."""
    return {
        "min_replicas": least,
        "max_replicas": most,
        "target_ongoing_requests": batch,
        "upscale_delay_s": 10.0,
        "downscale_delay_s": 300.0,  # loading a model is dear
        "policy": {"policy_function": wanted_replicas},
    }


def wanted_replicas(context: Any) -> tuple[int, dict[str, Any]]:
    """Ray Serve's policy: as many replicas as have places for all texts that are written or wait.

    Requests are not counted: one that follows a work costs nothing, and a work is written without one.
    """
    stats = context.aggregated_metrics or {}
    places = sum((stats.get("places") or {}).values())
    unheld = max((stats.get("unheld") or {}).values(), default=0)  # of the database, so each replica says the same
    return max(1, math.ceil((places + unheld) / context.config.target_ongoing_requests)), {}


class Replica:
    """A replica's own interface to Ray; :func:`ray.serve.ingress` adds the application as ``app``."""

    app: ServiceApplication

    async def check_health(self) -> None:
        """Raise an error if the replica is to be replaced."""
        await self.app.check()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Numbers for :func:`wanted_replicas`."""
        return self.app.stats()


class ServiceApplication:
    """A service as an ASGI application whose lifespan loads the model, and drains and ends the service."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError for settings that do not fit."""
        options = settings.serve
        logs.configure(options.log_level, options.log_format)
        keys = ApiKeys(options.keys, os.environ, streams=options.key_streams, rate=options.key_rate)
        self._tracer = start_tracing(os.environ)
        self._service = Service(options, settings.model, keys, self._tracer)
        self._works = WorkManager(self._service, Store(options.database, options.work_lease))
        self._app: ASGIApp = create_app(self._service, self._works)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or live."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._service.load()
            await self._works.open()
        except (CpmGenError, ServiceError) as error:
            self._service.kill()
            await send(_message("lifespan.startup.failed", message=str(error)))
            return
        await send(_message("lifespan.startup.complete"))
        await receive()
        await drain(self._service, self._works, self._service.options.drain_timeout)
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close, TRACE_SECONDS)
        await self._service.close(END_SECONDS)
        await send(_message("lifespan.shutdown.complete"))

    async def check(self) -> None:
        """Raises ServiceError if the engine does not answer, and loads no model."""
        if self._service.engine.state != "loading" and not self._service.draining:
            await self._service.check_ready()

    def stats(self) -> dict[str, float]:
        """places: of texts that are written or wait here; unheld: works of the model in the database that no replica holds."""
        scheduler = self._works.scheduler
        places = self._service.engine.reserved + len(scheduler.waiting)
        return {"places": places, "unheld": scheduler.others_wait}


def _message(kind: str, **content: str) -> Message:
    return {"type": kind, **content}


def _application(settings: Settings) -> Callable[[], ASGIApp]:
    """What builds the application in a replica. Ray sends it there with the settings."""

    def build() -> ASGIApp:
        return ServiceApplication(settings)

    return build


def _replicas(words: Any) -> tuple[int, int]:
    """Least and most replicas; raises ConfigError."""
    least, _, most = str(words).partition("-")
    if least.isdecimal() and (most or least).isdecimal() and 1 <= int(least) <= int(most or least):
        return int(least), int(most or least)
    raise ConfigError(f"replicas must be a number such as 2, or least and most such as 1-4, not {words}")


def _resources(settings: Settings) -> tuple[Settings, dict[str, float]]:
    """The settings with devices decided, and what a replica takes of the cluster; raises ConfigError and CheckpointError."""
    device, _, _ = settings.model.device.partition(":")  # Ray chooses which GPUs, and a replica sees no others
    machine = Machine.detect()
    plan = plan_worker(settings.model, machine, _most_gpus(device, machine))
    threads = settings.model.threads or 1
    if plan.device.type == "cuda":
        model = dataclasses.replace(settings.model, device=device)
        bundle: dict[str, float] = {"GPU": plan.degree, "CPU": threads}
    else:
        model = dataclasses.replace(settings.model, threads=threads, device="cpu")
        bundle = {"CPU": threads * plan.degree}
    return dataclasses.replace(settings, model=model), bundle


def _most_gpus(device: str, machine: Machine) -> float:
    """GPUs of the node that has most, in the cluster that runs, or that ``serve run`` will join or start on this machine."""
    if device == "cpu":
        return 0
    if ray.is_initialized():
        # built in the cluster, which nodes with GPUs may join later (KubeRay waits for the head alone): for "cuda" Ray waits for them
        return math.inf if device == "cuda" else _most_of_nodes()
    command = click.get_current_context(silent=True)  # of serve run, which calls app() before it joins --address
    address = (command and command.params.get("address")) or os.environ.get("RAY_ADDRESS")
    if address == "local":
        return machine.gpus
    try:
        ray.init(address or "auto", logging_level=logging.ERROR, log_to_driver=False)
    except ConnectionError:
        if address:
            raise
        return machine.gpus
    try:
        return _most_of_nodes()
    finally:
        ray.shutdown()  # serve run joins with a namespace and a runtime_env of its own


def _most_of_nodes() -> int:
    return max((int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
