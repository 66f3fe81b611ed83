"""The service: load a model, check requests against the limits, tokenize, run them on the engine, drain.

:mod:`cpm_gen.serving.scoring` scores and tokenizes texts with it.

A request is a :class:`~cpm_gen.serving.generation_spec.GenerationSpec`. :meth:`Service.start` checks it, encodes its prompts and submits a
:class:`~cpm_gen.serving.job.Job`; :meth:`Service.generate` and :meth:`Service.stream` do that and read the job to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from cpm_gen.config.logit_bias import biases
from cpm_gen.config.options import ModelOptions, check_candidates
from cpm_gen.config.serve_options import ServeOptions
from cpm_gen.engine.window import Window
from cpm_gen.errors import CpmGenError
from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.serving.api_keys import ApiKey, ApiKeys
from cpm_gen.serving.engine_client import EngineClient
from cpm_gen.serving.errors import ServiceError, from_library, invalid, unavailable
from cpm_gen.serving.fitting import check_prompt_length, fit
from cpm_gen.serving.generation_spec import (
    GenerationSpec,
    check_form,
    check_ids,
    check_limits,
    check_story,
    resolve_window,
    seeded,
)
from cpm_gen.serving.job import Job
from cpm_gen.serving.metrics import Metrics
from cpm_gen.serving.results import GenerationResult, Update, collect, updates
from cpm_gen.serving.tokenizer_pool import TokenizerPool
from cpm_gen.serving.tracing import RequestTracer
from cpm_gen.text.find_tokenizer import find_tokenizer
from cpm_gen.text.stories.requested import ends_itself

log = logging.getLogger("cpm_gen.serving")

_MANY = 10_000  # token ids; more take milliseconds to check, so a thread does it


class Service:
    """One loaded model. All methods run on one event loop; every refusal is a ServiceError."""

    def __init__(
        self,
        options: ServeOptions,
        model: ModelOptions,
        keys: ApiKeys | None = None,
        tracer: RequestTracer | None = None,
    ) -> None:
        """Nothing is loaded before :meth:`load`. Without ``keys`` every request is anonymous, without ``tracer`` none is traced."""
        self.options = options
        self.batch = model.batch
        self.tracer = tracer
        self.keys = ApiKeys() if keys is None else keys
        self._model = model
        self.metrics = Metrics()
        self.tokenizer_pool = TokenizerPool(options.tokenize_timeout, options.tokenize_queue)
        self.model_id = _model_id(model.model)
        self.served_names = (*options.served_model_name, self.model_id)  # under /v1: the first is shown, all are taken
        self.draining = False
        self.prompt_tokens: int | None = None  # most of a prompt that is shown whole; None before the model is loaded
        self.engine = EngineClient(
            lambda rank_died: TextEngine.load(model, rank_died),
            self.metrics,
            queue=options.queue,
            batch=model.batch,
            stuck_after=options.stuck_after,
            restart=options.restart_workers,
            record=self._trace,
        )
        self._watch: asyncio.Task[None] | None = None

    # life

    async def load(self) -> None:
        """Load the model and start the tokenizers; requests are accepted on return. Raises what loading raised."""
        self.engine.start()
        self._watch = asyncio.create_task(self.engine.watch())
        starting = asyncio.create_task(self._start_tokenizers())
        try:
            while self.engine.state == "loading":
                await self.engine.changed.wait()
            if self.engine.error is not None:
                raise self.engine.error
            await starting
        finally:
            starting.cancel()
        self.prompt_tokens = self.engine.require().window.limit

    async def _start_tokenizers(self) -> None:
        await asyncio.to_thread(find_tokenizer, self._model)  # raises what is wrong with it
        await self.tokenizer_pool.start(self._model)

    def require(self) -> TextEngine:
        """The loaded model. Raises ServiceError (unavailable) while requests are not accepted."""
        if self.draining:
            raise unavailable("shutting_down", "the service is shutting down")
        llm = self.engine.require()
        if self.prompt_tokens is None:
            raise unavailable("loading", "the model is being loaded")
        return llm

    async def check_ready(self) -> None:
        """Raises ServiceError (unavailable) unless requests are accepted and the network answers.

        If the network has not run for ``probe_after`` seconds, one token is scored to see that it answers.
        """
        self.require()
        if not await self.engine.answers(self.options.probe_after):
            raise unavailable("engine_down", "the engine does not answer", retry_after=30)
        self.require()

    async def drain(self, timeout: float) -> None:
        """Refuse new requests and wait for running ones; end those that take longer than ``timeout`` seconds with an error."""
        self.draining = True
        deadline = time.monotonic() + timeout
        while self.engine.busy and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        if self.engine.busy:
            log.warning("drain timeout: %d requests are cut short", self.engine.busy)
            self.engine.fail_all(unavailable("shutting_down", "the service is shutting down"))

    async def close(self, timeout: float = 10.0) -> bool:
        """End the tokenizers, the engine's thread and the ranks; False if the engine did not end within ``timeout`` seconds."""
        self.draining = True
        if self._watch is not None:
            self._watch.cancel()
        self.tokenizer_pool.close()
        await self.tokenizer_pool.closed()
        return await self.engine.end(timeout)

    def kill(self) -> None:
        """Kill all child processes, for a process that ends at once. May be called in any state."""
        self.engine.kill()
        self.tokenizer_pool.close()

    def _trace(self, job: Job, failure: ServiceError | None) -> None:
        if self.tracer is not None:
            self.tracer.record(job, failure, self.model_id)

    # generation

    async def generate(self, spec: GenerationSpec, key: ApiKey | None = None) -> GenerationResult:
        """Generate all texts. Cancelling the call cancels the generation."""
        job = await self.start(spec, key)
        try:
            return await collect(job)
        finally:
            self.cancel(job)

    async def stream(self, spec: GenerationSpec, key: ApiKey | None = None) -> AsyncGenerator[Update, None]:
        """Generate, with an update for each piece of text; the last one is the GenerationResult.

        Closing the generator, for instance by ``contextlib.aclosing``, cancels the generation.
        """
        job = await self.start(spec, key)
        try:
            async for update in updates(job):
                yield update
        finally:
            self.cancel(job)

    async def start(self, spec: GenerationSpec, key: ApiKey | None = None) -> Job:
        """Check, encode and submit. Call :meth:`cancel` at the end in any case.

        Raises ServiceError, or InputError or ConfigError for values that the library refuses.
        """
        key = key or self.keys.anonymous
        llm = self.require()
        self.check(spec, self.options.max_text_tokens)
        key.enter()
        try:
            self.engine.reserve(spec.places)
            try:
                job = await self._job(llm, spec)
                self.require()  # the state may have changed while the prompts were encoded
            except BaseException:
                self.engine.release(spec.places)
                raise
        except BaseException:
            key.leave()
            raise
        job.on_close = key.leave
        log.debug("%s: %d texts after %d prompt tokens", job.id, job.samples, job.prompt_tokens)
        self.engine.submit(job)
        self.metrics.prompt_tokens.inc(job.prompt_tokens)
        return job

    def cancel(self, job: Job) -> None:
        """Remove a job from the batch before the next step, if it still runs. May be called several times."""
        on_close, job.on_close = job.on_close, None
        if on_close is not None:
            self.engine.cancel(job)
            on_close()

    async def _job(self, llm: TextEngine, spec: GenerationSpec) -> Job:
        submitted, deadline = time.monotonic(), self.deadline(spec.timeout)
        text = seeded(spec.text)
        prompts = await self.encode(llm, spec)
        window = self.window(llm, spec)
        await self.fit(llm, spec, prompts)

        def build() -> Job:
            requests = llm.requests(
                prompts,
                spec.sampling,
                text,
                window=window,
                recompute=spec.decoder == "recompute",
                logprobs=spec.logprobs,
                constraint=spec.constraint,
                complete=spec.complete,
            )
            own = spec.timeout is not None and spec.timeout < self.options.request_timeout
            return Job("gen-" + secrets.token_hex(8), requests, text, deadline, submitted, own)

        many = sum(map(len, prompts)) > _MANY or ends_itself(
            text.form, text.story
        )  # the first one reads the vocabulary
        job = await asyncio.to_thread(build) if many else build()
        if self.options.log_prompts:
            log.info("%s prompts %r", job.id, spec.prompts)
        return job

    async def encode(self, llm: TextEngine, spec: GenerationSpec) -> list[list[int]]:
        """Token ids of the prompts, within the service's time for a request."""
        async with before(self.deadline()):
            return [await self._encode_prompt(llm, spec, at) for at in range(len(spec.prompts))]

    async def _encode_prompt(self, llm: TextEngine, spec: GenerationSpec, at: int) -> list[int]:
        prompt, field, limit = spec.prompts[at], spec.field(at), llm.window.limit
        if spec.text.unconditional:
            ids = self._start_ids(llm)
        elif isinstance(prompt, str):
            ids = await self.tokenizer_pool.encode(prompt, spec.text.style, field)
        else:
            ids = list(prompt)
        check_ids(ids, llm.size.vocabulary, field)
        check_prompt_length(spec, at, len(ids), limit)
        return ids

    async def fit(
        self, llm: TextEngine, spec: GenerationSpec, prompts: Sequence[Sequence[int]], *, form: bool = False
    ) -> None:
        """Check a spec against the window and the vocabulary, see :func:`cpm_gen.serving.fitting.fit`; raises ServiceError."""
        if spec.text.story is not None or (form and spec.text.form is not None):
            async with before(self.deadline()):
                await asyncio.to_thread(fit, llm, spec, prompts, self.window(llm, spec), form=form)

    def _start_ids(self, llm: TextEngine) -> list[int]:
        try:
            return llm.vocabulary.start_ids()
        except CpmGenError as error:
            raise from_library(error, "unconditional") from None

    def window(self, llm: TextEngine, spec: GenerationSpec) -> Window:
        """The model's window with the spec's changes."""
        return resolve_window(spec, llm.window, self.options.min_window_hop)

    def check(self, spec: GenerationSpec, max_tokens: int | None) -> None:
        """Check a spec against the limits and the model; ``max_tokens`` bounds a text (None: no bound)."""
        check_limits(spec, self.options, max_tokens)
        if spec.text.unconditional and any(len(prompt) for prompt in spec.prompts):
            raise invalid("an unconditional text has no prompt; leave it out", "prompt")
        llm = self.engine.require()
        check_story(spec.text, max_tokens)
        check_ids(spec.sampling.banned_ids, llm.size.vocabulary, "banned_ids")
        check_ids(tuple(biases(spec.sampling.logit_bias)), llm.size.vocabulary, "logit_bias")
        check_form(spec.text, max_tokens)
        try:
            check_candidates(spec.text, llm.options.batch)
        except CpmGenError as error:
            raise invalid(str(error), "candidates", "too_many_candidates") from None
        if spec.samples <= self.engine.capacity < spec.places:
            raise invalid(
                f"{spec.samples} texts with {spec.text.candidates} candidates each take {spec.places:,} places; "
                f"the queue has {self.engine.capacity:,}; ask for fewer",
                "candidates",
                "too_many_candidates",
            )
        if spec.decoder == "cached" and llm.options.decoder != "cached":
            raise invalid("this service runs without a cache; leave decoder out", "decoder")

    def deadline(self, timeout: float | None = None) -> float:
        """When a request that arrives now must have ended, by :func:`time.monotonic`; ``timeout``: the client's, in seconds."""
        limit = self.options.request_timeout
        return time.monotonic() + (limit if timeout is None else min(timeout, limit))


@contextlib.asynccontextmanager
async def before(deadline: float | None) -> AsyncGenerator[None, None]:
    """Raises ServiceError (unavailable) if the block takes until ``deadline``, by :func:`time.monotonic`, the event loop's clock."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise unavailable("timeout", "time was up before there was an answer") from None


def _model_id(model: str | None) -> str:
    if model in (None, "embedded"):
        return "cpm-embedded"
    path = Path(model)
    return path.name if path.name not in ("", "..") else path.resolve().name  # a link keeps its own name
