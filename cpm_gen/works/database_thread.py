"""The thread that runs the store's blocking methods for the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cpm_gen.errors import ConfigError
from cpm_gen.serving.errors import unavailable
from cpm_gen.works.storage.errors import StorageError
from cpm_gen.works.storage.store import Store

log = logging.getLogger("cpm_gen.works")

T = TypeVar("T")


class DatabaseThread:
    """One store on one thread. Lives on the event loop. ``timeout``: seconds that the database may take to answer."""

    def __init__(self, store: Store, timeout: float = 30.0) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, "cpm-gen works")
        self._closed = False
        self.timeout = timeout

    async def run_in_db(self, call: Callable[..., T], *arguments: object, late: Callable[[], None] | None = None) -> T:
        """Run a method of the store and return its result; raises ServiceError (unavailable) when it fails or times out.

        late: called on the event loop if the method succeeds after its timeout was reported.
        """
        if self._closed:
            raise unavailable("shutting_down", "the service is shutting down")
        loop = asyncio.get_running_loop()
        running = self._thread.submit(call, *arguments)
        try:
            async with asyncio.timeout(self.timeout):
                return await asyncio.wrap_future(running)
        except (StorageError, ConfigError, TimeoutError) as error:
            if late is not None and isinstance(error, TimeoutError) and not running.cancelled():
                running.add_done_callback(lambda done: done.exception() or loop.call_soon_threadsafe(late))
            message = f"no answer within {self.timeout:g} seconds" if isinstance(error, TimeoutError) else str(error)
            log.error("the database failed: %s", message)
            raise unavailable("storage_failed", "the works' database does not answer") from None

    def submit(self, call: Callable[..., object], *arguments: object) -> None:
        """Run a method of the store later, without waiting for it; does nothing after :meth:`close`."""
        if not self._closed:
            self._thread.submit(call, *arguments)

    async def close(self) -> None:
        """Close the store after the calls that were submitted, and end the thread."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self._store.close)
            self._thread.shutdown()
