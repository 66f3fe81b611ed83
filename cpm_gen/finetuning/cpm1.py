"""The data rules of CPM-1-Finetune-Text-Generation (``preprocess_*``), for ``--recipe cpm1``.

Lyrics: a line and ``<eod>`` after it; the lines of one song are packed greedily into examples of at most 1,025 ids. A longer line is an
example of its own, cut there. Of the songs the last 100 are held out. Novels: paragraphs between blank lines, their newlines deleted
and without ``<eod>``, joined and cut into consecutive examples of 1,025 ids. The last 10 paragraphs are held out. Where that would be
more than a tenth of the texts, a tenth is.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from cpm_gen.errors import ConfigError, InputError
from cpm_gen.finetuning.texts import Encoded, Ids, Source, Texts
from cpm_gen.finetuning.windows import IGNORED, Array, Rows
from cpm_gen.text.documents import read_documents
from cpm_gen.text.prompt_styles import encode_prompt
from cpm_gen.text.tokenizer import TextTokenizer

_HELD_OUT = {"lyric": 100, "novel": 10, "plain": 10}  # documents


class Cpm1Examples:
    """The examples of the recipe, each epoch in another order, as :class:`cpm_gen.finetuning.windows.Windows`.

    long_lines: lines that were cut. Raises InputError for texts that cannot be read or are too few, ConfigError for shares and first lines.
    """

    def __init__(self, sources: Sequence[Source], tokenizer: TextTokenizer, length: int, seed: int) -> None:
        self.length = length
        self.long_lines = 0
        self._seed = seed
        self._order = functools.lru_cache(2)(self._shuffled)
        self._pad = tokenizer.specials.get("<pad>", 0)
        self._examples: list[list[int]] = []
        encoded = []
        for source in sources:
            if source.share is not None or source.first_line:
                raise ConfigError(f"{source.path}: the recipe cpm1 has no shares and no first lines; leave them out")
            documents = [d for d in read_documents(source.path, records=True) if d.text.strip()]
            held = min(_HELD_OUT[source.style], max(1, len(documents) // 10))
            if len(documents) < 2:
                raise InputError(f"{source.path}: one text between blank lines; the recipe cpm1 needs at least two")
            parts = [[d.text for d in documents[:-held]], [d.text for d in documents[-held:]]]
            train, kept = (self._cut(source, part, tokenizer) for part in parts)
            self._examples += train
            encoded.append(_encoded(source, train, kept, len(documents), held, sum(len(d.text) for d in documents)))
        self.texts = Texts(encoded, None)
        self.tokens = sum(len(example) - 1 for example in self._examples)
        if not self._examples:
            raise InputError("the texts have no example of two tokens; give more text")

    def _cut(self, source: Source, texts: list[str], tokenizer: TextTokenizer) -> list[list[int]]:
        return self._lyrics(texts, tokenizer) if source.style == "lyric" else self._novel(texts, tokenizer)

    def _lyrics(self, songs: list[str], tokenizer: TextTokenizer) -> list[list[int]]:
        most = self.length + 1
        examples = []
        for song in songs:
            example: list[int] = []
            for line in filter(str.strip, song.split("\n")):
                ids = encode_prompt("lyric", line, tokenizer)
                if len(ids) > most:
                    self.long_lines += 1
                if example and len(example) + len(ids) > most:
                    examples.append(example)
                    example = []
                example = (example + ids)[:most]
            examples.append(example)
        return [example for example in examples if len(example) > 1]

    def _novel(self, paragraphs: list[str], tokenizer: TextTokenizer) -> list[list[int]]:
        ids = [i for text in paragraphs for i in tokenizer.encode(text.replace("\n", "").strip())]
        most = self.length + 1
        return [ids[at : at + most] for at in range(0, len(ids) - 1, most)]

    def _shuffled(self, epoch: int) -> Array:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._examples))

    def epoch_windows(self) -> float:
        return float(len(self._examples))

    def rows(self, index: int, whole: bool) -> Rows:
        """An example, padded at its end; all its tokens count."""
        epoch, place = divmod(index, len(self._examples))
        example = self._examples[int(self._order(epoch)[place])]
        ids = np.full((1, self.length), self._pad, dtype=np.int64)
        targets = np.full((1, self.length), IGNORED, dtype=np.int64)
        n = len(example) - 1
        ids[0, :n], targets[0, :n] = example[:-1], example[1:]
        return Rows(ids, targets, np.arange(self.length, dtype=np.int64)[None])


def _encoded(
    source: Source, train: list[list[int]], held: list[list[int]], documents: int, held_documents: int, characters: int
) -> Encoded:
    return Encoded(source, _flat(train), _flat(held), documents, held_documents, characters, 0)


def _flat(examples: list[list[int]]) -> Ids:
    return np.array([i for example in examples for i in example], dtype=np.int32)
