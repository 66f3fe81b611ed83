"""What the routes share: the loaded model, who may ask for how much, and the way of a request into the engine.

A route makes a :class:`Wanted` of a body; :meth:`Service.start` checks it against the limits, turns its prompts into tokens and hands
a :class:`~cpm_gen.serving.job.Job` to the engine's thread; the route reads the job's chunks and calls :meth:`Service.finish`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from cpm_gen.config.options import ModelOptions, TextOptions
from cpm_gen.config.serve_options import ServeOptions
from cpm_gen.engine.window import Window
from cpm_gen.errors import CpmGenError
from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.serving.api_keys import Key, Keys
from cpm_gen.serving.engine_client import EngineLoop
from cpm_gen.serving.errors import ServiceError, invalid, unavailable
from cpm_gen.serving.generation_spec import Wanted
from cpm_gen.serving.job import Job
from cpm_gen.serving.metrics import Metrics
from cpm_gen.serving.tokenizer_pool import Tokenizing
from cpm_gen.text.find_tokenizer import find_tokenizer

log = logging.getLogger("cpm_gen.server")

_MANY = 10_000  # token ids; checking more takes milliseconds and is done beside the event loop


class Service:
    """One loaded model and everything around it. Lives on the event loop."""

    def __init__(self, options: ServeOptions, model: ModelOptions, keys: Keys) -> None:
        self.options = options
        self.batch = model.batch
        self.keys = keys
        self._model = model
        self.metrics = Metrics()
        self.tokenizing = Tokenizing(options.tokenize_timeout, options.tokenize_queue)
        self.model_id = _model_id(model.model)
        self.created = int(time.time())
        self.draining = False
        self._open = False
        self.engine = EngineLoop(
            lambda rank_died: TextEngine.load(model, rank_died),
            self.metrics,
            queue=options.queue,
            batch=model.batch,
            stuck_after=options.stuck_after,
            restart=options.restart_workers,
        )
        self._probe: asyncio.Task[bool] | None = None

    async def load(self) -> None:
        """Start what answers; takes requests on return. Raises what the model's loading raised."""
        self.engine.start()
        reading = asyncio.create_task(self._start_tokenizing())
        try:
            while self.engine.state == "loading":
                await self.engine.changed.wait()
            if self.engine.error is not None:
                raise self.engine.error
            await reading
        finally:
            reading.cancel()
        self._open = True

    async def _start_tokenizing(self) -> None:
        await self.tokenizing.start(find_tokenizer(self._model).path)

    def require(self) -> TextEngine:
        """The loaded model; raises ServiceError (unavailable) where requests are not taken."""
        if self.draining:
            raise unavailable("shutting_down", "the service is shutting down")
        llm = self.engine.require()
        if not self._open:
            raise unavailable("loading", "the model is being loaded")
        return llm

    async def answers(self) -> bool:
        """Whether the network answered lately; where it had nothing to do, it is asked for a token's probability now."""
        llm = self.engine.require()
        if time.monotonic() - self.engine.answered < self.options.probe_after:
            return True
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._ask(llm))
        try:
            async with asyncio.timeout(self.options.probe_after):
                return await asyncio.shield(self._probe)
        except TimeoutError:
            return False

    async def _ask(self, llm: TextEngine) -> bool:
        try:
            await self.engine.score([llm.tokenizer.eod] * 2)
        except (CpmGenError, ServiceError):
            return False
        return True

    async def start(self, wanted: Wanted, key: Key) -> Job:
        """Check, encode and queue. Raises ServiceError, InputError or ConfigError; otherwise :meth:`finish` must follow."""
        llm = self.require()
        self.check(wanted, self.options.max_text_tokens)
        samples = len(wanted.prompts) * wanted.text.n
        key.enter()
        try:
            self.engine.reserve(samples)
            try:
                job = await self._job(llm, wanted)
                self.require()  # encoding takes its time
            except BaseException:
                self.engine.release(samples)
                raise
        except BaseException:
            key.leave()
            raise
        job.left = key.leave
        self.engine.submit(job)
        self.metrics.prompt_tokens.inc(job.prompt_tokens)
        return job

    def deadline(self, limit: float | None = None) -> float:
        """When a request that begins now must have ended, by :func:`time.monotonic`; ``limit``: the client's seconds."""
        most = self.options.request_timeout
        return time.monotonic() + (most if limit is None else min(limit, most))

    def finish(self, job: Job) -> None:
        """The client has its answer, or left: what still runs leaves the batch before the next step. May be called again."""
        left, job.left = job.left, None
        if left is not None:
            self.engine.cancel(job)
            left()

    async def _job(self, llm: TextEngine, wanted: Wanted) -> Job:
        began, deadline = time.monotonic(), self.deadline(wanted.limit)
        text = seeded(wanted.text)
        prompts = await self.encode(llm, wanted)
        window = self.window(llm, wanted)

        def build() -> Job:
            requests = llm.requests(
                prompts,
                wanted.sampling,
                text,
                window=window,
                recompute=wanted.decoder == "recompute",
                logprobs=wanted.logprobs,
            )
            own = wanted.limit is not None and wanted.limit < self.options.request_timeout
            return Job("gen-" + secrets.token_hex(8), requests, text, deadline, began, own)

        many = sum(map(len, prompts)) > _MANY
        job = await asyncio.to_thread(build) if many else build()
        if self.options.log_prompts:
            log.info("%s prompts %r", job.id, wanted.prompts)
        return job

    async def encode(self, llm: TextEngine, wanted: Wanted) -> list[list[int]]:
        """Token ids of the prompts, within the service's time for a request; raises ServiceError."""
        async with in_time(self.deadline()):
            return await self._encode(llm, wanted)

    async def _encode(self, llm: TextEngine, wanted: Wanted) -> list[list[int]]:
        prompts, style = [], wanted.text.style
        for at, prompt in enumerate(wanted.prompts):
            field = wanted.field(at)
            ids = await self.tokenizing.encode(prompt, style, field) if isinstance(prompt, str) else list(prompt)
            _known(ids, llm.size.vocabulary, field)
            if len(ids) > llm.window.limit and not wanted.truncate:
                raise invalid(
                    f"the prompt has {len(ids):,} tokens and the network sees {llm.window.limit:,}; shorten it, or say "
                    "truncate_prompt to have its beginning left out of sight",
                    field,
                    "prompt_too_long",
                )
            prompts.append(ids)
        return prompts

    def window(self, llm: TextEngine, wanted: Wanted) -> Window:
        """The model's window, with what was wished of it; raises ServiceError."""
        own = llm.window
        keep = own.keep if wanted.keep is None else wanted.keep
        if not 0 <= keep < own.limit:
            raise invalid(f"must be from 0 to {own.limit - 1}, not {keep}", "window.keep")
        hop = min(own.hop, own.limit - keep) if wanted.hop is None else wanted.hop
        if not self.options.min_window_hop <= hop <= own.limit - keep:
            raise invalid(f"must be from {self.options.min_window_hop} to {own.limit - keep}, not {hop}", "window.hop")
        return Window(own.limit, hop, wanted.boundary or own.boundary, keep)

    def check(self, wanted: Wanted, most: int | None) -> None:
        """The limits that are settings, and at most so many tokens (None: any number); raises ServiceError."""
        options, text = self.options, wanted.text
        _at_most(len(wanted.prompts), options.max_prompts, "prompt", "prompts", "too_many_prompts")
        _at_most(text.n, options.max_samples, "n", "samples of a prompt", "too_many_samples")
        check_length(text.max_new_tokens, most)
        _at_most(len(text.stop), options.max_stop, "stop", "stop strings", "too_many_stops")
        _at_most(
            max(map(len, text.stop), default=0),
            options.max_stop_chars,
            "stop",
            "characters of a stop string",
            "too_long",
        )
        for at, prompt in enumerate(wanted.prompts):
            self.check_chars(prompt, wanted.field(at))
        _known(wanted.sampling.banned_ids, self.engine.require().size.vocabulary, "banned_ids")
        cached = self.engine.require().options.decoder == "cached"
        if wanted.decoder == "cached" and not cached:
            raise invalid("this service runs without a cache; leave decoder out", "decoder")

    def check_chars(self, text: str | Sequence[int], field: str) -> None:
        """Is a text, or what became of one, short enough to look at? Raises ServiceError."""
        _at_most(len(text), self.options.max_prompt_chars, field, "characters", "prompt_too_long")


@contextlib.asynccontextmanager
async def in_time(deadline: float | None) -> AsyncGenerator[None, None]:
    """For what must end by a deadline of :func:`time.monotonic`, the event loop's clock; raises ServiceError (unavailable) then."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise unavailable("timeout", "time was up before there was an answer") from None


def seeded(text: TextOptions) -> TextOptions:
    """With a seed, drawn where none was given; JavaScript's numbers hold it."""
    return text if text.seed is not None else dataclasses.replace(text, seed=secrets.randbits(48))


def _model_id(model: str | None) -> str:
    if model in (None, "embedded"):
        return "cpm-embedded"
    path = Path(model)
    return path.name if path.name not in ("", "..") else path.resolve().name  # a link's own name is the model's


def check_length(tokens: int | None, most: int | None) -> None:
    """Raises ServiceError for more tokens than ``most``; None: without end."""
    if most is not None and (tokens is None or tokens > most):
        raise invalid(f"must be at most {most}", "max_new_tokens", "too_many_tokens")


def _known(ids: Sequence[int], vocabulary: int, field: str) -> None:
    if ids and max(ids) >= vocabulary:
        raise invalid(f"token ids are from 0 to {vocabulary - 1}, not {max(ids)}", field)


def _at_most(count: int, most: int, field: str, what: str, code: str) -> None:
    if count > most:
        raise invalid(f"{count:,} {what}; the most here is {most:,}", field, code)
