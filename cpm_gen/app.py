"""Builds everything from settings; the Python interface.

::

    import cpm_gen
    with cpm_gen.load() as llm:                       # the embedded model
        print(llm.generate("春风又绿江南岸", style="lyric", max_new_tokens=100).text)
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Unpack

import torch

from cpm_gen import parallel
from cpm_gen.build import choose_degree, computes_natively, fallback_note, make_runner_from, make_window
from cpm_gen.checkpoint import open_checkpoint, verify_replicas
from cpm_gen.config import (
    ModelOptions,
    ModelSize,
    SamplingParams,
    StyleName,
    TextOptions,
)
from cpm_gen.decoders import Cached, Recompute
from cpm_gen.engine import Engine
from cpm_gen.errors import ConfigError, CpmGenError, InputError, RankError
from cpm_gen.folders import fitting_tokenizer, model_folder
from cpm_gen.heads import resolve_heads
from cpm_gen.keywords import GenerateOptions, LoadOptions, generation_options, model_options
from cpm_gen.launch import Assignment, Ranks
from cpm_gen.parallel import TensorParallel
from cpm_gen.results import Chunk, Completion
from cpm_gen.runner import Runner
from cpm_gen.sequence import Request
from cpm_gen.styles import detokenizer, encode_prompt
from cpm_gen.tokenizer import Tokenizer
from cpm_gen.writer import Writer

_STEP_TOKENS = 256  # a step's budget: a long prompt delays the others by no more than this


def load(model: str | os.PathLike[str] | None = None, **options: Unpack[LoadOptions]) -> LLM:
    """Load a checkpoint folder (None: the embedded model) and return it ready to write.

    With ``tensor_parallel=N`` the other ranks are started as child processes of this one. Raises the children of CpmGenError.
    """
    given = {**options, "model": None if model is None else os.fspath(model)}
    return LLM(model_options(given))


class LLM:
    """A loaded model. Use as a context manager, or call :meth:`close`; not for use from several threads at once."""

    def __init__(self, options: ModelOptions, on_rank_death: Callable[[str], None] | None = None) -> None:
        self.options = options
        self._ranks: Ranks | None = None
        self._group = TensorParallel()
        self._finish: weakref.finalize[Any, Any] = weakref.finalize(self, lambda: None)
        self._closed = False
        self._writers: dict[int, Writer] = {}  # by id of their generation
        self._stepping = 0.0  # seconds in steps
        self.notes: list[str] = []  # what the person who loads it should know
        checkpoint = open_checkpoint(model_folder(options.model))
        if options.hidden not in (None, checkpoint.hidden):
            raise ConfigError(
                f"{checkpoint.folder}: hidden size is {checkpoint.hidden}, the settings describe a network of {options.hidden}"
            )
        if options.threads is not None and options.threads < 1:
            raise ConfigError(f"threads must be at least 1, not {options.threads}")
        heads = resolve_heads(checkpoint, options.heads)
        self.size: ModelSize = checkpoint.size(heads)
        self.window = make_window(options, checkpoint.positions)
        if options.batch < 1:
            raise ConfigError(f"batch must be at least 1, not {options.batch}")
        slots = options.batch + -(-options.batch // 2) if options.decoder == "cached" else 0
        launch = parallel.launched()
        degree = choose_degree(options, checkpoint, heads, launch)
        device = parallel.pick_device(options.device, launch.local_rank if launch else 0)
        computes_natively(options, device)  # a wish that cannot be granted is an error before ranks start
        self._tokenizer: Tokenizer | None = None
        verify_replicas(checkpoint)
        local = launch.local_size if launch else degree
        share = max(1, (options.threads or parallel.useful_threads(self.size.hidden)) // local)
        self._threads = (torch.get_num_threads(), share)
        torch.set_num_threads(share)  # torch has one number for the process; close() puts it back
        try:
            if launch:
                self._group = parallel.join_launched(launch, device)
            elif degree > 1:
                self._ranks = Ranks(
                    degree,
                    lambda rank, folder, ready: Assignment(
                        rank, degree, folder, share, options, heads, slots, os.getpid(), ready
                    ),
                    on_rank_death,
                )
                self._group = parallel.join_local(0, degree, device, self._ranks.folder)
            runner = make_runner_from(checkpoint, heads, options, slots, self._group, device)
        except BaseException as error:
            explained = self._explain(error) if isinstance(error, RuntimeError) else error
            self._abandon()
            if explained is error:
                raise
            raise explained from error
        self._runner = runner
        self._finish = weakref.finalize(self, _end_group, runner, self._group, self._ranks)
        if checkpoint.notes:
            dropped = ", ".join(checkpoint.notes)
            self.notes.append(f"the checkpoint names what is not loaded, dropped unseen: {dropped}")
        if slower := fallback_note(options, device):
            self.notes.append(slower)
        if self._group.rank == 0:
            cached = options.decoder == "cached"
            self._decoder = Cached(options.batch, slots, _STEP_TOKENS) if cached else Recompute()
            self._engine = Engine(runner, self._decoder, batch=options.batch)

    @property
    def rank(self) -> int:
        """This process's rank; only rank 0 writes, the others :meth:`follow`."""
        return self._group.rank

    def follow(self) -> None:
        """On ranks other than 0: work for rank 0 until it closes."""
        try:
            self._runner.follow()
        except RuntimeError as error:
            raise self._explain(error) from error

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
        start = self.window.advance(token_ids, self.window.keep, self._ends())
        return len(self.window.context(token_ids, start))

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
        self._check_open()
        self._check_ids(i for ids in (*prompts, sampling.banned_ids) for i in ids)
        seed = secrets.randbits(63) if text.seed is None else text.seed
        # rows of the embedding that pad the vocabulary have no text
        padding = range(self.tokenizer.size, self.size.vocabulary)
        sampling = dataclasses.replace(sampling, banned_ids=(*sampling.banned_ids, *padding))
        requests = [
            Request(
                prompt=tuple(prompt),
                window=self.window,
                ends=self._ends(),
                params=sampling,
                seed=seed,
                sample_index=index,
                max_new_tokens=text.max_new_tokens,
                stop_ids=frozenset({self.tokenizer.eod}) if text.stop_at_eod else frozenset(),
            )
            for prompt in prompts
            for index in range(text.n)
        ]
        ready: deque[Chunk] = deque()
        writers = [
            Writer(self._engine, request, detokenizer(text.style, self.tokenizer), text.stop, at // text.n, ready)
            for at, request in enumerate(requests)
        ]
        self._writers |= {id(w.generation): w for w in writers}
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
                    self._step()
        finally:
            for writer in writers:
                self._engine.cancel(writer.generation)
                del self._writers[id(writer.generation)]

    def _step(self) -> None:
        """One step for every stream that is open: each takes its chunks when it is asked for them."""
        self._check_open()
        began = time.perf_counter()
        try:
            advanced = self._engine.step()
        except RuntimeError as error:
            raise self._explain(error) from error
        for generation in advanced:
            self._writers[id(generation)].advance()
        self._stepping += time.perf_counter() - began

    def _explain(self, error: RuntimeError) -> CpmGenError | RuntimeError:
        """Why a step failed: a dead rank, if there is one, otherwise the error itself."""
        failure = self._ranks.failure(wait=3.0) if self._ranks else None
        if failure is None and (self._group.size == 1 or "onnection" not in str(error)):
            return error
        self._abandon()
        return RankError(failure or f"rank {self._group.rank} lost another rank, which says why above")

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
        self._check_open()
        self._check_ids(token_ids)
        try:
            return self._engine.score(list(token_ids), self.window, self._ends())
        except RuntimeError as error:
            raise self._explain(error) from error

    def _ends(self) -> frozenset[int] | None:
        return None if self.window.boundary == "token" else self.tokenizer.boundary_ids(self.window.boundary)

    def _check_open(self) -> None:
        if self._closed:
            raise CpmGenError("this model was closed; load it again")
        if self.rank:
            raise CpmGenError(f"this is rank {self.rank}, which follows rank 0; only that one writes")

    def _check_ids(self, ids: Iterable[int]) -> None:
        most = self.size.vocabulary - 1
        for i in ids:
            if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i <= most:
                raise InputError(f"token id {i!r} is not a whole number from 0 to {most}")

    def close(self) -> None:
        """End the other ranks and leave the group; calling it twice does no harm. Happens by itself when the program ends."""
        if not self._closed:
            self._closed = True
            self._finish()
            self._restore_threads()

    def _abandon(self) -> None:
        """Leave without a word to the other ranks: one is dead, or they never came to listen."""
        self._closed = True
        self._finish.detach()
        self._restore_threads()
        if self._ranks:
            self._ranks.close(grace=0.0)
        self._group.close()

    def _restore_threads(self) -> None:
        before, ours = self._threads
        if torch.get_num_threads() == ours:
            torch.set_num_threads(before)

    def __enter__(self) -> LLM:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def _end_group(runner: Runner, group: TensorParallel, ranks: Ranks | None) -> None:
    with contextlib.suppress(RuntimeError, RankError):
        if group.rank == 0:
            runner.close()
    group.close()
    if ranks:
        ranks.close()
