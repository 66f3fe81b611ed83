"""Builds everything from settings; the Python interface.

::

    import cpm_gen
    with cpm_gen.load() as llm:                       # the embedded model
        print(llm.generate("春风又绿江南岸", style="lyric", max_new_tokens=100).text)
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Unpack

from cpm_gen.config.keywords import GenerateOptions, LoadOptions, generation_options, model_options
from cpm_gen.config.options import ModelOptions, SamplingParams, StyleName, TextOptions
from cpm_gen.engine.engine import Engine
from cpm_gen.engine.scheduler import Cached, Recompute
from cpm_gen.engine.sequence import Request
from cpm_gen.engine.window import Window
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.outputs import Chunk, Completion
from cpm_gen.runtime.loaded_model import Loaded
from cpm_gen.runtime.text_stream import Writer
from cpm_gen.text.find_tokenizer import fitting_tokenizer
from cpm_gen.text.prompt_styles import detokenizer, encode_prompt
from cpm_gen.text.tokenizer import Tokenizer

_STEP_TOKENS = 256  # a step's budget: a long prompt delays the others by no more than this


def load(model: str | os.PathLike[str] | None = None, **options: Unpack[LoadOptions]) -> LLM:
    """Load a checkpoint folder (None: the embedded model) and return it ready to write.

    With ``tensor_parallel=N`` the other ranks are started as child processes of this one. Raises the children of CpmGenError.
    """
    given = {**options, "model": None if model is None else os.fspath(model)}
    return LLM(model_options(given))


class LLM(Loaded):
    """A loaded model. Use as a context manager, or call :meth:`close`; not for use from several threads at once."""

    def __init__(self, options: ModelOptions, on_rank_death: Callable[[str], None] | None = None) -> None:
        super().__init__(options, on_rank_death)
        self._tokenizer: Tokenizer | None = None
        self._writers: dict[int, Writer] = {}  # by id of their generation
        self._stepping = 0.0  # seconds in steps
        if self.rank == 0:
            cached = options.decoder == "cached"
            self._decoder = Cached(options.batch, self.slots_made, _STEP_TOKENS) if cached else Recompute()
            self._engine = Engine(self._runner, self._decoder, batch=options.batch)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, loaded when first needed; raises TokenizerError where it does not fit the model."""
        if self._tokenizer is None:
            self._tokenizer = fitting_tokenizer(self.options, self.size.vocabulary)
        return self._tokenizer

    def generate(self, prompt: str, **options: Unpack[GenerateOptions]) -> Completion:
        """Write one text and return it whole."""
        if "n" in options:
            raise ConfigError("generate writes one text; generate_many(prompts, n=…) writes several")
        return self.generate_many([prompt], **options)[0]

    def generate_many(
        self, prompts: Sequence[str], *, n: int = 1, **options: Unpack[GenerateOptions]
    ) -> list[Completion]:
        """Write ``n`` texts for each prompt, together; in the order of the prompts, their samples side by side."""
        done: dict[tuple[int, int], Completion] = {}
        for chunk in self.stream_many(prompts, n=n, **options):
            if chunk.completion:
                done[chunk.prompt, chunk.index] = chunk.completion
        return [done[key] for key in sorted(done)]

    def stream(self, prompt: str, **options: Unpack[GenerateOptions]) -> Iterator[Chunk]:
        """Write one text, a chunk for each token. Closing the iterator ends the generation."""
        return self.stream_many([prompt], **options)

    def stream_many(self, prompts: Sequence[str], *, n: int = 1, **options: Unpack[GenerateOptions]) -> Iterator[Chunk]:
        """Like :meth:`generate_many`, as chunks; those of different samples come interleaved."""
        if isinstance(prompts, str):
            raise InputError("prompts must be a list of texts; for one text there are generate() and stream()")
        sampling, text = generation_options({**options, "n": n})
        return self.run([self.encode(prompt, text.style) for prompt in prompts], sampling, text)

    def encode(self, prompt: str, style: StyleName = "plain") -> list[int]:
        """Token ids of a prompt as the style reads it; raises InputError for an empty one."""
        return encode_prompt(style, prompt, self.tokenizer)

    def visible(self, token_ids: Sequence[int]) -> int:
        """How many of a history's tokens the network sees."""
        start = self.window.advance(token_ids, self.window.keep, self._ends(self.window))
        return len(self.window.context(tuple(token_ids), start))

    def run(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        text: TextOptions,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Chunk]:
        """Write ``text.n`` samples for each prompt of token ids, as chunks.

        stop: asked after every step; True ends all samples, each with a last chunk whose finish_reason is "cancelled".
        """
        ready: deque[Chunk] = deque()
        writers = self.begin(self.requests(prompts, sampling, text), text, ready)
        try:
            while True:
                while ready:
                    yield ready.popleft()
                if failure := next((w.generation.failure for w in writers if w.generation.failure), None):
                    raise failure
                unfinished = [w for w in writers if not w.done]
                if not unfinished:
                    return
                if stop():
                    for writer in unfinished:
                        writer.cancel()
                else:
                    self.step()
        finally:
            self.end(writers)

    def requests(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        text: TextOptions,
        *,
        window: Window | None = None,
        recompute: bool = False,
        logprobs: int | None = None,
    ) -> list[Request]:
        """``text.n`` requests for each prompt of token ids, checked: what :meth:`run` writes. Safe to call from any thread.

        window: another one than the model's; the rest as in :class:`Request`.
        """
        self._check_open()
        self._check_ids(i for ids in (*prompts, sampling.banned_ids) for i in ids)
        if window is not None and window.limit > self.size.positions:
            raise ConfigError(f"window limit must be at most {self.size.positions}, the network's positions")
        window = window or self.window
        seed = secrets.randbits(63) if text.seed is None else text.seed
        # rows of the embedding that pad the vocabulary have no text
        padding = range(self.tokenizer.size, self.size.vocabulary)
        sampling = dataclasses.replace(sampling, banned_ids=(*sampling.banned_ids, *padding))
        return [
            Request(
                prompt=tuple(prompt),
                window=window,
                ends=self._ends(window),
                params=sampling,
                seed=seed,
                sample_index=index,
                max_new_tokens=text.max_new_tokens,
                stop_ids=frozenset({self.tokenizer.eod}) if text.stop_at_eod else frozenset(),
                recompute=recompute,
                logprobs=logprobs,
            )
            for prompt in prompts
            for index in range(text.n)
        ]

    def begin(
        self, requests: Sequence[Request], text: TextOptions, ready: deque[Chunk], shown: int | None = None
    ) -> list[Writer]:
        """Queue requests (``text.n`` for each prompt); steps put their chunks into ``ready``. To be ended with :meth:`end`.

        shown: of a request that goes on, how many characters an earlier run gave out.
        """
        self._check_open()
        writers = [
            Writer(
                self._engine,
                request,
                detokenizer(text.style, self.tokenizer),
                text.stop,
                at // text.n,
                ready,
                place=at,
                shown=shown,
            )
            for at, request in enumerate(requests)
        ]
        self._writers |= {id(w.generation): w for w in writers}
        return writers

    def end(self, writers: Iterable[Writer]) -> None:
        """Forget what :meth:`begin` began; what is not done leaves the batch before the next step."""
        for writer in writers:
            self._engine.cancel(writer.generation)
            del self._writers[id(writer.generation)]

    @property
    def running(self) -> int:
        """Samples that the next step continues."""
        return self._engine.running

    @property
    def waiting(self) -> int:
        """Samples for which there was no room yet."""
        return self._engine.waiting

    def step(self) -> None:
        """One step for every sample that was begun and is not done."""
        self._check_open()
        began = time.perf_counter()
        try:
            advanced = self._engine.step()
        except RuntimeError as error:
            raise self._explain(error) from error
        for generation in advanced:
            self._writers[id(generation)].advance()
        self._stepping += time.perf_counter() - began

    @property
    def slots(self) -> tuple[int, int] | None:
        """Windows of the KV cache in use, and how many there are; None without a cache."""
        decoder = self._decoder
        return (decoder.slots_used, decoder.slots) if isinstance(decoder, Cached) else None

    def profile(self) -> tuple[int, dict[str, float]]:
        """How many steps were run so far, and the seconds that they took by what they were for."""
        spent = self._engine.spent
        parts = self._runner.model.profile() or {"network": spent.network - self._group.seconds}
        parts |= {"sampling": spent.sampling, "communication": self._group.seconds}
        return spent.steps, parts | {"Python": max(0.0, self._stepping - sum(parts.values()))}

    def score(self, token_ids: Sequence[int]) -> list[float | None]:
        """Natural log-probability of each token given the ones before it (those in the window); None for the first.

        Needs no tokenizer unless the window looks for sentences or ``<eod>``. Raises InputError for ids outside the vocabulary.
        """
        first: list[float | None] = [None] * min(len(token_ids), 1)
        return first + [p for part in self.scoring(token_ids) for p in part]

    def scoring(self, token_ids: Sequence[int]) -> Iterator[list[float]]:
        """:meth:`score` from the second token on, in parts of one pass of the network each; steps may come between them."""
        self._check_open()
        self._check_ids(token_ids)
        try:
            yield from self._engine.score(list(token_ids), self.window, self._ends(self.window))
        except RuntimeError as error:
            raise self._explain(error) from error

    def _ends(self, window: Window) -> frozenset[int] | None:
        return None if window.boundary == "token" else self.tokenizer.boundary_ids(window.boundary)

    def _check_ids(self, ids: Iterable[int]) -> None:
        most = self.size.vocabulary - 1
        for i in ids:
            if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i <= most:
                raise InputError(f"token id {i!r} is not a whole number from 0 to {most}")

    def __enter__(self) -> LLM:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
