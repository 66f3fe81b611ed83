"""The vocabulary of a loaded model: how prompts become token ids, and which ids end a text or are never written."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

from cpm_gen.config.options import StyleName, TextOptions
from cpm_gen.engine.window import Window
from cpm_gen.errors import InputError, TokenizerError
from cpm_gen.runtime.plan import LoadPlan
from cpm_gen.sampling.ranking import Sentences
from cpm_gen.text.find_tokenizer import NoVocabulary, fitting_tokenizer
from cpm_gen.text.forms import bigrams
from cpm_gen.text.forms.bigrams import Bigrams
from cpm_gen.text.forms.cache import FormCache
from cpm_gen.text.forms.masks import FormMasks
from cpm_gen.text.forms.passage import Passage
from cpm_gen.text.forms.passage_masks import PassageMasks
from cpm_gen.text.forms.requested import compiled, requested_form
from cpm_gen.text.ids_only import IdsOnly
from cpm_gen.text.prompt_styles import detokenizer, encode_prompt, start_ids
from cpm_gen.text.stop_strings import Stops, find_stops
from cpm_gen.text.stories.requested import ends_itself
from cpm_gen.text.tokenizer import Detokenizer, TextTokenizer

_MEMOISED = 64  # sets of stop strings


class ModelVocabulary:
    """A model's tokenizer with the options that concern it. Safe to use from any thread.

    A model may have none; what needs one then raises TokenizerError. Raises TokenizerError for a vocabulary that cannot be read, was
    named and is not there, or does not fit the model's word embedding.
    """

    def __init__(self, plan: LoadPlan) -> None:
        self._options = plan.options
        self._rows = plan.size.vocabulary
        self._folder = plan.checkpoint.folder
        self._tokenizer: TextTokenizer | None = None
        self._missing: NoVocabulary | None = None
        try:
            self._tokenizer = fitting_tokenizer(plan.options, self._rows)
        except NoVocabulary as error:
            self._missing = error
        self._forms = FormCache(self._bigrams)
        # for a request's ids in the thread that builds it, and for its streams in the thread of the engine
        self._stops = functools.lru_cache(_MEMOISED)(self._find_stops)

    @property
    def tokenizer(self) -> TextTokenizer:
        """The model's tokenizer; raises TokenizerError if there is none."""
        if self._tokenizer is None:
            raise TokenizerError(str(self._missing))
        return self._tokenizer

    @functools.cached_property
    def reader(self) -> TextTokenizer:
        """The tokenizer, or for a model without one a stand-in: its ids can be written and have no text."""
        if self._missing is None:
            return self.tokenizer
        if self._options.start_token is not None or self._options.end_token is not None:
            raise TokenizerError(str(self._missing))
        return IdsOnly(self._folder, self._rows, self._missing)

    def form(self, text: TextOptions, banned: Sequence[int]) -> FormMasks | None:
        """The form of a text over this vocabulary; None: free. banned: ids that are never written.

        Raises FormError for a form that cannot be read or that the vocabulary cannot fill, ConfigError for settings that do not go
        together.
        """
        form = requested_form(text)
        if form is None:
            return None
        tokenizer, lines = self.tokenizer, self.detokenizer(text.style)
        return compiled(form, lambda written: self._forms.masks(written, tokenizer, lines, self._rows, banned))

    def passage(self, passage: Passage, style: StyleName, banned: Sequence[int]) -> PassageMasks:
        """A passage of a text in a form over this vocabulary. banned: further ids that are never written. Raises InputError."""
        _, never = self.bounds(TextOptions(style=style))
        tokenizer, lines = self.tokenizer, self.detokenizer(style)
        return self._forms.passage(passage, tokenizer, lines, self._rows, (*banned, *never))

    def _bigrams(self) -> Bigrams | None:
        """The table that the options name, or the one beside the model; raises InputError for one that does not fit."""
        named = self._options.form_bigrams
        if named == "none":
            return None
        folder = self._folder.parent if self._folder.is_file() else self._folder
        path = folder / bigrams.FILE if named is None else Path(named)
        if named is None and not path.is_file():
            return None
        return bigrams.load(path, self.tokenizer, self._rows)

    def hints(self) -> list[str]:
        """A note about rows of the network's vocabulary that have no piece."""
        count = 0 if self._tokenizer is None else len(self._tokenizer.without_text(self._rows))
        return (
            [f"{count:,} of the network's {self._rows:,} rows have no piece; they are never written"] if count else []
        )

    def encode(self, prompt: str, style: StyleName = "plain") -> list[int]:
        """Token ids of a prompt in a style (see :mod:`cpm_gen.text.prompt_styles`); raises InputError for an empty one."""
        options = self._options
        return encode_prompt(style, prompt, self.tokenizer, options.lyric_lines, special_pieces=options.special_pieces)

    def begin_ids(self, prompt: str | None, text: TextOptions) -> list[int]:
        """Token ids that a text continues: of its prompt, or of the token that begins a text where it has none.

        None: no prompt. A text in a form or with an outline needs none, and for it an empty one is none. Raises InputError.
        """
        if text.unconditional and prompt is not None:
            raise InputError("an unconditional text has no prompt; leave it out")
        if text.unconditional or (ends_itself(text.form, text.story) and (prompt is None or prompt == "")):
            return self.start_ids()
        if prompt is None:
            raise InputError("a prompt must be text, not None; unconditional=True writes without one")
        return self.encode(prompt, text.style)

    def start_ids(self) -> list[int]:
        """Token ids of a text that begins from nothing; raises InputError where the vocabulary has no token for that."""
        return start_ids(self.tokenizer)

    def detokenizer(self, style: StyleName, *, chapters: bool = False) -> Detokenizer:
        """A new incremental detokenizer for a text in a style. chapters: see :func:`~cpm_gen.text.prompt_styles.detokenizer`."""
        return detokenizer(style, self.reader, chapters=chapters)

    def decode(self, ids: Iterable[int], style: StyleName, *, chapters: bool = False) -> str:
        """The text of token ids in a style, as a person reads it. chapters: as for :meth:`detokenizer`."""
        detokenizer = self.detokenizer(style, chapters=chapters)
        return "".join(map(detokenizer.push, ids)) + detokenizer.flush()

    def sentences(self, style: StyleName, *, chapters: bool = False) -> Sentences:
        """How candidates for a sentence are read and where they end; raises TokenizerError where there is no tokenizer."""
        ends = self.tokenizer.boundary_ids("sentence") or frozenset()
        return Sentences(functools.partial(self.decode, style=style, chapters=chapters), ends)

    def stops_at_end(self, text: TextOptions) -> bool:
        """Whether the end token ends a text with these options."""
        return not text.ignore_eos and (text.stop_at_eod or self.reader.ends_texts)

    def stops(self, text: TextOptions) -> Stops:
        """What ends a text with these options besides its length and its end token."""
        return self._stops(tuple(text.stop), text.style)

    def _find_stops(self, stop: tuple[str, ...], style: StyleName) -> Stops:
        if not stop:
            return Stops((), frozenset(), ())
        return find_stops(stop, self.tokenizer, detokenizer(style, self.tokenizer))

    def bounds(self, text: TextOptions, end_token: str | None = None) -> tuple[frozenset[int], tuple[int, ...]]:
        """The token ids that end a text with these options, and those that it never holds.

        end_token: replaces the model's. Raises TokenizerError where the vocabulary has no such piece.
        """
        reader = self.reader
        end = reader.end if end_token is None else reader.special(end_token)
        stop_ids = self.stops(text).ids | ({end} if end is not None and self.stops_at_end(text) else set())
        # rows of the embedding that only pad the vocabulary have no text, and <unk> stands for text that was not known
        never = reader.without_text(self._rows)
        if reader.unk is not None and reader.unk not in stop_ids and not self._options.special_pieces:
            never.append(reader.unk)
        return stop_ids, tuple(never)

    def ends(self, window: Window) -> frozenset[int] | None:
        """The token ids after which the window may begin; None: after any."""
        return None if window.boundary == "token" else self.tokenizer.boundary_ids(window.boundary)

    def visible(self, token_ids: Sequence[int], window: Window) -> int:
        """Number of a history's tokens that the network sees in the window."""
        start = window.advance(token_ids, window.keep, self.ends(window))
        return len(window.context(tuple(token_ids), start))
