"""The Python interface: load a model, write texts, score texts.

::

    import cpm_gen
    with cpm_gen.load() as llm:                       # the embedded model
        print(llm.generate("春风又绿江南岸", style="lyric", max_new_tokens=100).text)
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from cpm_gen.config.arguments import shown
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.config.options import ModelOptions, StyleName
from cpm_gen.config.resolve import generation_options, model_options
from cpm_gen.engine.window import Window
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.networks.native import library
from cpm_gen.outputs import Chunk, Completion, by_logprob
from cpm_gen.runtime.rewrite import SAMPLES, Rewrites, plan_rewrite, rewrite, rewrite_options
from cpm_gen.runtime.rhymes import RHYMES, Rhymes, plan_rhymes, rhyme_options, rhymes
from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.text.tokenizer import TextTokenizer


def load(model: str | os.PathLike[str] | None = None, **options: Any) -> LLM:
    """Load a checkpoint folder (None: the embedded model).

    With ``tensor_parallel=N`` the other ranks are started as child processes of this one. Raises the children of CpmGenError.
    """
    return LLM(model_options({**options, "model": model}))


class LLM:
    """A loaded model. Use it as a context manager, or call :meth:`close`; not for use from several threads at once.

    engine: the :class:`TextEngine` underneath, for programs that batch requests themselves.
    """

    def __init__(self, options: ModelOptions) -> None:
        if not isinstance(options, ModelOptions):
            raise ConfigError(f"LLM takes ModelOptions, not {shown(options)}; load(model, …) makes them")
        self.engine = TextEngine.load(options)
        stale = library.stale()
        for note in self.notes if stale else ():
            if str(stale) in note:  # else only a measurement would show that torch computes
                warnings.warn(note, RuntimeWarning, stacklevel=3)

    @property
    def options(self) -> ModelOptions:
        """The options it was loaded with."""
        return self.engine.options

    @property
    def size(self) -> ModelSize:
        """The network's sizes."""
        return self.engine.size

    @property
    def window(self) -> Window:
        """Which tokens of a text the network sees."""
        return self.engine.window

    @property
    def notes(self) -> list[str]:
        """What the person who loads the model should know, such as a slower backend than possible."""
        return self.engine.notes

    @property
    def tokenizer(self) -> TextTokenizer:
        """The model's tokenizer; raises TokenizerError if there is none, or if it does not fit the model."""
        return self.engine.vocabulary.tokenizer

    def generate(self, prompt: str | None = None, **options: Any) -> Completion:
        """Write one text and return it whole. Without a prompt ``unconditional=True``, a ``form`` or a story's outline writes from nothing.

        ``form`` is a :class:`Form`, its name or its notation; ``story`` is a :class:`Story` or its notation.
        """
        if "n" in options:
            raise ConfigError("generate writes one text; generate_many(prompts, n=…) writes several")
        return self.generate_many(None if prompt is None else [prompt], **options)[0]

    def generate_many(self, prompts: Sequence[str] | None = None, *, n: int = 1, **options: Any) -> list[Completion]:
        """Write ``n`` texts for each prompt in one batch; in the order of the prompts, samples of a prompt side by side."""
        done: dict[tuple[int, int], Completion] = {}
        for chunk in self._stream(prompts, {**options, "n": n}):
            if chunk.completion:
                done[chunk.prompt, chunk.index] = chunk.completion
        ranked = bool(options.get("rank"))
        return [
            done[key] for key in sorted(done, key=lambda key: (key[0], by_logprob(done[key]) if ranked else 0, key))
        ]

    def stream(self, prompt: str | None = None, **options: Any) -> Iterator[Chunk]:
        """Write one text, a chunk for each token, or with candidates for each sentence. Closing the iterator ends the generation."""
        return self.stream_many(None if prompt is None else [prompt], **options)

    def stream_many(self, prompts: Sequence[str] | None = None, *, n: int = 1, **options: Any) -> Iterator[Chunk]:
        """Like :meth:`generate_many`, as chunks; those of different samples are interleaved. Takes no ``rank``."""
        if options.get("rank"):
            raise ConfigError("rank orders whole texts, and a stream begins before they are whole; use generate_many")
        return self._stream(prompts, {**options, "n": n}, complete=True)

    def _stream(
        self, prompts: Sequence[str] | None, options: Mapping[str, Any], complete: bool = False
    ) -> Iterator[Chunk]:
        """complete: all candidates are written to their ends, for a reader of the chunks."""
        sampling, text = generation_options(options)
        if prompts is None:
            encoded = [self.engine.vocabulary.begin_ids(None, text)]
        elif isinstance(prompts, (str, bytes, bytearray, Mapping)) or not isinstance(prompts, Iterable):
            raise InputError("prompts must be a list of texts; for one text there are generate() and stream()")
        else:
            encoded = [self.engine.vocabulary.begin_ids(prompt, text) for prompt in prompts]
        return self.engine.run(encoded, sampling, text, complete=complete)

    def rewrite(self, text: str, start: int, end: int, *, n: int = SAMPLES, **options: Any) -> Rewrites:
        """Candidates for ``text[start:end]``, best first: as long as the selection (± 30 %) and ending as it does.

        They are ranked by the log-probability of the text to the right after them; see :class:`cpm_gen.runtime.rewrite.Rewrites`.
        An empty selection asks for a sentence to insert. With a ``form`` the selection is one or more lines, or parts of lines, of a text
        that keeps to it, and the candidates fill their slots: no candidate makes a fault that the text does not have now.

        options: of sampling, ``style``, ``seed``, ``form``, ``rhyme_book``, ``acrostic``, ``include``, ``exclude``. Raises InputError for a
        selection outside the text, of white space, too long for the window, or that a form leaves no choice for.
        """
        return rewrite(self.engine, plan_rewrite(self.engine, text, start, end, *rewrite_options({**options, "n": n})))

    def rhymes(self, text: str, line: int, *, n: int = RHYMES, prompt: str | None = None, **options: Any) -> Rhymes:
        """The ``n`` most probable words that may end a line of a text in a form, best first; one pass of the network.

        line: of the text, from 1 on. prompt: what stands before the text. options: ``form``, ``rhyme_book``, ``acrostic``, ``include``,
        ``exclude``, ``style`` ("lyric"). Raises InputError for a line that is none of the form's.
        """
        return rhymes(self.engine, plan_rhymes(self.engine, text, line, rhyme_options(options), prompt), n)

    def encode(self, prompt: str, style: StyleName = "plain") -> list[int]:
        """Token ids of a prompt in a style; raises InputError for an empty one."""
        return self.engine.vocabulary.encode(prompt, style)

    def score(self, token_ids: Sequence[int]) -> list[float | None]:
        """Natural log-probability of each token given the ones before it in the window; None for the first.

        Needs no tokenizer unless the window moves to sentences or ``<eod>``. Raises InputError for ids outside the vocabulary.
        """
        return self.engine.score(token_ids)

    def close(self) -> None:
        """End the other ranks and leave the group. Idempotent. Happens automatically when the program ends."""
        self.engine.close()

    def __enter__(self) -> LLM:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
