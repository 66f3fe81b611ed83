"""A manager of works in this process, on a database that is slow or fails on request."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cpm_gen.config.options import ModelOptions
from cpm_gen.config.serve_options import ServeOptions
from cpm_gen.serving.api_keys import ApiKeys
from cpm_gen.serving.errors import ServiceError
from cpm_gen.serving.service import Service
from cpm_gen.works.live import LiveWork
from cpm_gen.works.manager import WorkManager
from cpm_gen.works.spec import WindowSpec, WorkSpec
from cpm_gen.works.storage.errors import StorageError
from cpm_gen.works.storage.store import Store
from cpm_gen.works.views import WorkView
from tests.waiting import PATIENCE

OWNER = "anonymous"
PROMPT = "话说天下大势，"


class FlakyStore(Store):
    """A store whose named methods are slow or fail."""

    slow: dict[str, float]
    fails: set[str]

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        if name not in ("save", "add", "delete", "check", "read", "get", "page") or not hasattr(self, "fails"):
            return method

        def call(*arguments: Any) -> Any:
            if name in self.fails:
                raise StorageError("failed on request")
            time.sleep(self.slow.get(name, 0.0))
            return method(*arguments)

        return call


@asynccontextmanager
async def managing(
    database: Path, model: ModelOptions | None = None
) -> AsyncGenerator[tuple[WorkManager, FlakyStore, Service], None]:
    store = FlakyStore(str(database))
    store.slow, store.fails = {}, set()
    service = Service(ServeOptions(), model or ModelOptions(), ApiKeys(streams=9))
    works = WorkManager(service, store)
    await service.load()
    await works.open()
    try:
        yield works, store, service
    finally:
        store.slow, store.fails = {}, set()
        await works.close()
        assert await service.close(20)


def spec(**other: Any) -> WorkSpec:
    return WorkSpec(**{"seed": 7, "window": WindowSpec(hop=255), "max_new_tokens": 60} | other)


async def create(works: WorkManager, prompt: str | list[str] = PROMPT, **other: Any) -> LiveWork:
    return await works.create(spec(**other), prompt, {}, OWNER)


async def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not become true"
        await asyncio.sleep(0)
    return value


async def settled(works: WorkManager, live: LiveWork) -> WorkView:
    """The work when it is neither queued nor running."""
    deadline = time.monotonic() + PATIENCE
    while (view := await works.view(live, token_ids=True)).state in ("queued", "running"):
        assert time.monotonic() < deadline, "the work did not settle"
        await asyncio.sleep(0.01)
    return view


def tokens(view: WorkView) -> list[list[int]]:
    return [list(text.token_ids or ()) for text in view.texts]


async def undisturbed(service: Service, prompt: str = PROMPT, **other: Any) -> list[list[int]]:
    """Token ids that a request with the same parameters gets."""
    result = await service.generate(spec(**other).generation(prompt))
    return [list(text.token_ids) for text in result.texts]


async def recovered(works: WorkManager, store: FlakyStore) -> None:
    store.fails = set()
    await until(lambda: works.scheduler.all_persisted)


async def refused(asked: Awaitable[Any]) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await asked
    return caught.value
