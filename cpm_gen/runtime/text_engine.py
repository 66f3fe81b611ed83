"""Texts on a loaded model: requests are queued, steps write a token for each, chunks of text come out.

:class:`cpm_gen.llm.LLM` and the service are built on :class:`TextEngine`. One thread at a time may use it, except where a
method says otherwise: a second one gets a CpmGenError.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType

from cpm_gen.config.arguments import token_ids as check_ids
from cpm_gen.config.logit_bias import biases
from cpm_gen.config.model_sizes import ModelSize, NetworkVariant
from cpm_gen.config.options import ModelOptions, SamplingParams, TextOptions, check_candidates
from cpm_gen.engine.engine import Engine
from cpm_gen.engine.scheduler import CachedScheduler, RecomputeScheduler
from cpm_gen.engine.sequence import Request
from cpm_gen.engine.window import Window
from cpm_gen.errors import ConfigError, CpmGenError
from cpm_gen.outputs import Chunk
from cpm_gen.runtime.hints import window_hint
from cpm_gen.runtime.loaded_model import LoadedModel
from cpm_gen.runtime.plan import Machine, plan_load
from cpm_gen.runtime.stories import Stories
from cpm_gen.runtime.text_stream import TextStream
from cpm_gen.runtime.vocabulary import ModelVocabulary
from cpm_gen.sampling.constraints import Constraint
from cpm_gen.sampling.logprobs import TopCollector
from cpm_gen.text.stories.requested import has_outline

_STEP_TOKENS = 256  # a step's budget: the longest delay that a long prompt causes for the other texts


class TextEngine:
    """A loaded model with an engine, a scheduler and a vocabulary.

    loaded: the model and its ranks. scheduler, token_engine: what runs in each step, and the engine that speaks token ids.
    vocabulary: encodes prompts, and says what ends a text. stories: what texts' stories mean in it. options, size, variant, window,
    notes: of the model; see :class:`cpm_gen.runtime.plan.LoadPlan`.
    """

    def __init__(self, loaded: LoadedModel, vocabulary: ModelVocabulary) -> None:
        plan = loaded.plan
        self.loaded = loaded
        self.options: ModelOptions = plan.options
        self.size: ModelSize = plan.size
        self.variant: NetworkVariant = plan.checkpoint.variant
        self.window: Window = plan.window
        self.vocabulary = vocabulary
        self.stories = Stories(vocabulary, plan.size.vocabulary)
        trained = window_hint(plan.checkpoint.folder, plan.size.positions, plan.options)
        self.notes = [*plan.notes, *trained, *vocabulary.hints()]
        batch = plan.options.batch
        cached = plan.options.decoder == "cached"
        self.scheduler = CachedScheduler(batch, plan.slots, _STEP_TOKENS) if cached else RecomputeScheduler()
        self.token_engine = Engine(loaded.runner, self.scheduler, batch=batch)
        self._streams: dict[int, TextStream] = {}  # by id of their generation
        self._step_seconds = 0.0
        self._use = threading.RLock()  # held by the thread that uses the engine

    @staticmethod
    def load(options: ModelOptions, on_rank_death: Callable[[str], None] | None = None) -> TextEngine:
        """Plan the load on this machine, start the ranks and load the weights.

        on_rank_death: called from a thread when a rank died and no step has noticed. Raises the children of CpmGenError.
        """
        plan = plan_load(options, Machine.detect())
        vocabulary = ModelVocabulary(plan)  # what is wrong with it is said before the weights are read
        return TextEngine(LoadedModel.start(plan, on_rank_death), vocabulary)

    def run(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        text: TextOptions,
        stop: Callable[[], bool] = lambda: False,
        window: Window | None = None,
        complete: bool = False,
    ) -> Iterator[Chunk]:
        """Write ``text.n`` samples for each prompt of token ids, as chunks. Closing the iterator ends the samples.

        stop: called after every step; True ends all samples, each with a last chunk whose finish_reason is "cancelled". window:
        replaces the model's. complete: of candidates, see :class:`Request`.
        """
        ready: deque[Chunk] = deque()
        streams = self.begin(self.requests(prompts, sampling, text, window=window, complete=complete), text, ready)
        try:
            while True:
                while ready:
                    yield ready.popleft()
                if failure := next((s.generation.failure for s in streams if s.generation.failure), None):
                    raise failure
                unfinished = [s for s in streams if not s.done]
                if not unfinished:
                    return
                if stop():
                    for stream in unfinished:
                        stream.cancel()
                else:
                    self.step()
        finally:
            self.end(streams)

    def requests(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        text: TextOptions,
        *,
        window: Window | None = None,
        recompute: bool = False,
        logprobs: int | None = None,
        end_token: str | None = None,
        constraint: Constraint | None = None,
        complete: bool = False,
    ) -> list[Request]:
        """``text.n`` checked requests for each prompt of token ids. Safe to call from any thread.

        window, end_token: replace the model's; constraint: in place of that of a form or an outline; the rest as in :class:`Request`.
        Raises InputError for ids outside the vocabulary, StoryError, and ConfigError for a window longer than the network's
        positions and for more candidates than the batch.
        """
        self.loaded.check_open()
        most = self.size.vocabulary - 1
        prompts = [check_ids(prompt, most) for prompt in prompts]
        check_ids(sampling.banned_ids, most)
        check_ids(list(biases(sampling.logit_bias)), most)
        if window is not None and window.limit > self.size.positions:
            raise ConfigError(f"window limit must be at most {self.size.positions}, the network's positions")
        check_candidates(text, self.options.batch)
        insertions = self.stories.insertions(text, window or self.window)
        window = self.window_beside(text, window)
        ends = self.vocabulary.ends(window)
        stop_ids, never = self.vocabulary.bounds(text, end_token)
        seed = secrets.randbits(63) if text.seed is None else text.seed
        sampling = dataclasses.replace(sampling, banned_ids=(*sampling.banned_ids, *never))
        outline = has_outline(text.story)
        sentences = self.vocabulary.sentences(text.style, chapters=outline) if text.candidates > 1 else None
        form = constraint or self.vocabulary.form(text, sampling.banned_ids)
        alone = form is not None or outline
        if alone:  # a token that ends lines does not end it
            stop_ids = frozenset()
        fulfilled = [self.stories.chapters(text, prompt) if form is None else form for prompt in prompts]
        return [
            Request(
                prompt=tuple(prompt),
                window=window,
                ends=ends,
                params=sampling,
                seed=seed,
                sample_index=index,
                max_new_tokens=None if alone else text.max_new_tokens,
                stop_ids=stop_ids,
                recompute=recompute,
                logprobs=logprobs,
                constraint=what,
                insertions=insertions,
                candidates=text.candidates,
                sentences=sentences,
                complete=complete,
                scored=text.rank,
            )
            for prompt, what in zip(prompts, fulfilled, strict=True)
            for index in range(text.n)
        ]

    def window_beside(self, text: TextOptions, window: Window | None = None) -> Window:
        """The window over a text with these options, beside what it shows of a story. window: replaces the model's."""
        window = window or self.window
        insertions = self.stories.insertions(text, window)
        return window if insertions is None else window.within(insertions.room)

    def begin(
        self, requests: Sequence[Request], text: TextOptions, ready: deque[Chunk], shown: int | None = None
    ) -> list[TextStream]:
        """Queue requests, ``text.n`` for each prompt; steps append their chunks to ``ready``. :meth:`end` must follow.

        shown: for a request that continues an earlier run, the number of characters that run returned.
        """
        strings, chapters = self.vocabulary.stops(text).strings, has_outline(text.story)
        with self._one_thread():
            streams = [
                TextStream(
                    self.token_engine,
                    request,
                    self.vocabulary.detokenizer(text.style, chapters=chapters),
                    strings,
                    at // text.n,
                    ready,
                    place=at,
                    shown=shown,
                )
                for at, request in enumerate(requests)
            ]
            self._streams |= {id(s.generation): s for s in streams}
        return streams

    def end(self, streams: Iterable[TextStream]) -> None:
        """Forget streams of :meth:`begin`; unfinished ones leave the batch before the next step."""
        with self._use:  # waits for another thread's step: a generator may be closed in any thread
            for stream in streams:
                self.token_engine.cancel(stream.generation)
                del self._streams[id(stream.generation)]

    def step(self) -> None:
        """One step for every stream that was begun and is not done."""
        with self._one_thread():
            began = time.perf_counter()
            with self.loaded.rank_errors():
                advanced = self.token_engine.step()
            for generation in advanced:
                self._streams[id(generation)].advance()
            self._step_seconds += time.perf_counter() - began

    @property
    def running(self) -> int:
        """Number of samples that the next step continues."""
        return self.token_engine.running

    @property
    def waiting(self) -> int:
        """Number of samples that wait for a place in the batch."""
        return self.token_engine.waiting

    @property
    def slots(self) -> tuple[int, int] | None:
        """Slots of the KV cache in use, and their number; None without a cache."""
        scheduler = self.scheduler
        return (scheduler.slots_used, scheduler.slots) if isinstance(scheduler, CachedScheduler) else None

    def profile(self) -> tuple[int, dict[str, float]]:
        """Number of steps so far, and their seconds by purpose."""
        spent, communication = self.token_engine.spent, self.loaded.group.seconds
        parts = self.loaded.runner.network.profile() or {"network": spent.network - communication}
        parts |= {"sampling": spent.sampling, "communication": communication}
        return spent.steps, parts | {"Python": max(0.0, self._step_seconds - sum(parts.values()))}

    def score(self, token_ids: Sequence[int]) -> list[float | None]:
        """Natural log-probability of each token given the ones before it in the window; None for the first.

        Needs no tokenizer unless the window moves to sentences or ``<eod>``. Raises InputError for ids outside the vocabulary,
        NumericsError for logits that are not finite.
        """
        ids = check_ids(token_ids, self.size.vocabulary - 1)
        first: list[float | None] = [None] * min(len(ids), 1)
        return first + [p for part in self.scoring(ids) for p in part]

    def scoring(
        self, token_ids: Sequence[int], window: Window | None = None, top: TopCollector | None = None
    ) -> Iterator[list[float]]:
        """:meth:`score` from the second token on, in parts of one pass of the network each; steps may run between them.

        window: replaces the model's. top: gets the most probable tokens in the place of each scored token.
        """
        ids = check_ids(token_ids, self.size.vocabulary - 1)
        window = window or self.window
        with self._one_thread():
            parts = iter(self.token_engine.score(ids, window, self.vocabulary.ends(window), top))
        while True:
            with self._one_thread(), self.loaded.rank_errors():
                part = next(parts, None)
            if part is None:
                return
            yield part

    @contextlib.contextmanager
    def _one_thread(self) -> Iterator[None]:
        """Raise CpmGenError if the model is not open here, or another thread is using it."""
        self.loaded.check_open()
        if not self._use.acquire(blocking=False):
            raise CpmGenError(
                "another thread uses this model, and one thread at a time may; "
                "give all prompts to one generate_many, use a lock, or let cpm-gen serve share the model"
            )
        try:
            yield
        finally:
            self._use.release()

    @property
    def rank(self) -> int:
        """This process's rank; only rank 0 writes, the others :meth:`follow`."""
        return self.loaded.rank

    def follow(self) -> None:
        """On ranks other than 0: work for rank 0 until it closes."""
        self.loaded.follow()

    def digest(self) -> str:
        """A hash that tells the model's weights from others; see :func:`cpm_gen.runtime.loaded_model.digest`."""
        return self.loaded.digest()

    def close(self) -> None:
        """End the other ranks. Idempotent. Happens automatically when the program ends."""
        self.loaded.close()

    def abandon(self) -> None:
        """End without telling the other ranks: one is dead or stuck."""
        self.loaded.abandon()

    def kill_ranks(self) -> bool:
        """Kill the ranks that this process started; False if there are none. Safe to call from any thread."""
        return self.loaded.kill_ranks()

    def __enter__(self) -> TextEngine:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
