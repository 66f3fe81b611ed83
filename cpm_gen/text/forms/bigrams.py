"""How likely each token follows another: the table behind the lookahead of forms. Learned, stored, read.

A file is one line of JSON and then arrays, all of it compressed (xz). The line has the file's own schema and version, and the digest of
the vocabulary whose ids it counts: a table for another vocabulary is refused.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpm_gen.config.text_files import read_bounded
from cpm_gen.errors import InputError
from cpm_gen.text.tokenizer import TextTokenizer

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

FILE = "form_bigrams.xz"  # its name beside a model
_SCHEMA, _VERSION = "cpm-gen bigrams", 1
_MOST_BYTES = 1 << 26  # of a file, and of its content
_STEPS = 16  # a stored probability is exp(-n / 16), n below 256
_MOST_PAIRS = 500_000  # kept: a table of about a megabyte, two milliseconds for each slot of a line
_DISCOUNT = 0.75  # of each count, for pairs that were not seen
_BUFFER = 1 << 22  # pairs that are collected before they are counted


class Bigrams:
    """The probabilities of the next token after each token of a vocabulary.

    after: for each pair that is kept, the token that follows, in the order of the tokens before. counts: the number of such pairs of each
    token, int64 ``[V]``. probabilities: of the pairs, float64. alone: the distribution that has the rest of each row, float64 ``[V]``.
    """

    def __init__(self, counts: Counts, after: NDArray[np.intp], probabilities: Floats, alone: Floats) -> None:
        self.counts, self.after, self.probabilities = counts, after, probabilities
        self.alone = alone / alone.sum()
        self._rows = counts.nonzero()[0]
        self._starts = (counts.cumsum() - counts)[self._rows]
        self.rest = np.ones(len(counts))  # the share of the next token that no pair has
        if len(self._rows):
            self.rest[self._rows] -= np.add.reduceat(probabilities, self._starts)
        np.maximum(self.rest, 1e-4, out=self.rest)

    @classmethod
    def even(cls, vocabulary: int) -> Bigrams:
        """A table that knows nothing: every token is as likely after every other."""
        none = np.zeros(vocabulary, dtype=np.int64)
        return cls(none, np.empty(0, dtype=np.intp), np.empty(0), np.ones(vocabulary))

    @property
    def vocabulary(self) -> int:
        """The number of ids."""
        return len(self.counts)

    def expected(self, weights: Floats) -> Floats:
        """For each token, the expectation of ``weights`` ``[V]`` of the token after it. The order of the sums is fixed."""
        found: Floats = self.rest * float((self.alone * weights).sum())
        if len(self._rows):
            found[self._rows] += np.add.reduceat(weights[self.after] * self.probabilities, self._starts)
        return found


class PairCounter:
    """Counts which tokens follow which, in texts or in what a model predicts."""

    def __init__(self, vocabulary: int) -> None:
        self.tokens = 0
        self._vocabulary = vocabulary
        self._keys: list[NDArray[np.int64]] = []
        self._weights: list[Floats] = []
        self._waiting = 0

    def add_text(self, ids: Sequence[int]) -> None:
        """Count the pairs of a text."""
        tokens = np.asarray(ids, dtype=np.int64)
        self.add(tokens[:-1], tokens[1:], 1.0)
        self.tokens += len(tokens)

    def add(self, before: ArrayLike, after: ArrayLike, weights: ArrayLike) -> None:
        """Add ``weights`` to the counts of pairs."""
        keys = np.asarray(before, dtype=np.int64) * self._vocabulary + np.asarray(after, dtype=np.int64)
        self._keys.append(keys)
        self._weights.append(np.broadcast_to(np.asarray(weights, dtype=np.float64), keys.shape))
        self._waiting += len(keys)
        if self._waiting > _BUFFER:
            self._count()

    def _count(self) -> None:
        keys, places = np.unique(np.concatenate([np.empty(0, np.int64), *self._keys]), return_inverse=True)
        weights = np.bincount(places, np.concatenate([np.empty(0), *self._weights]), minlength=len(keys))
        self._keys, self._weights, self._waiting = [keys], [weights.astype(np.float64)], 0

    def bigrams(self, *, least: float = 2.0, discount: float = _DISCOUNT) -> Bigrams:
        """The table of the pairs counted at least ``least`` times, the most frequent ones if there are many.

        Raises InputError if nothing was counted.
        """
        self._count()
        (keys,), (weights,) = self._keys, self._weights
        if not len(keys):
            raise InputError("there is no pair of tokens to learn from; give longer texts")
        size = self._vocabulary
        totals = np.bincount(keys // size, weights, minlength=size)
        alone = np.bincount(keys % size, minlength=size) + 0.01  # after how many tokens it stands (Kneser and Ney 1995)
        if np.count_nonzero(weights >= least) > _MOST_PAIRS:
            least = float(np.partition(weights, -_MOST_PAIRS - 1)[-_MOST_PAIRS - 1]) + 1e-9
        kept = weights >= least
        before, after, weights = keys[kept] // size, keys[kept] % size, weights[kept]
        # as a file has them, so that a table is the same before and after it is stored
        return _decoded(
            np.bincount(before, minlength=size),
            after,
            _encoded((weights - discount) / totals[before]),
            _encoded(alone / alone.max()),
        )


def _encoded(probabilities: Floats) -> NDArray[np.uint8]:
    steps: Floats = np.rint(-np.log(probabilities) * _STEPS)
    return steps.clip(0, 255).astype(np.uint8)


def _decoded(counts: Counts, after: Counts, pairs: NDArray[np.uint8], alone: NDArray[np.uint8]) -> Bigrams:
    values = np.exp(-np.arange(256) / _STEPS)
    return Bigrams(counts.astype(np.int64), after.astype(np.intp), values[pairs], values[alone])


def vocabulary_digest(tokenizer: TextTokenizer) -> str:
    """A hash that tells a vocabulary from others: of what each id reads as."""
    surfaces = "\0".join(tokenizer.surface(i) for i in range(tokenizer.size) if i not in tokenizer.holes)
    return hashlib.sha256(surfaces.encode("utf-8", "surrogatepass")).hexdigest()


def save(bigrams: Bigrams, path: Path, tokenizer: TextTokenizer, tokens: int) -> int:
    """Write a table to a file and return the file's size in bytes. tokens: how many it was learned from. Raises OSError."""
    about = {"schema": _SCHEMA, "version": _VERSION, "vocabulary": bigrams.vocabulary, "pairs": len(bigrams.after)}
    about |= {"tokenizer": tokenizer.kind, "digest": vocabulary_digest(tokenizer), "tokens": tokens}
    steps = np.diff(bigrams.after, prepend=0).astype("<i4")  # small within a row
    content = b"".join(
        [
            json.dumps(about).encode() + b"\n",
            bigrams.counts.astype("<i4").tobytes(),
            _encoded(bigrams.alone / bigrams.alone.max()).tobytes(),
            _encoded(bigrams.probabilities).tobytes(),
            steps.view(np.uint8).reshape(-1, 4).T.tobytes(),  # low bytes first, then the others: they compress better
        ]
    )
    packed = lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
    path.write_bytes(packed)
    return len(packed)


def load(path: Path, tokenizer: TextTokenizer, vocabulary: int) -> Bigrams:
    """Read the table in a file. vocabulary: rows of the model's word embedding. Raises InputError that names the file."""
    content = read_bounded(path, InputError, _MOST_BYTES, otherwise="so not a table of bigrams")
    try:
        content = lzma.LZMADecompressor().decompress(content, _MOST_BYTES)
        line, _, rest = content.partition(b"\n")
        about = json.loads(line)
        known = isinstance(about, dict) and about["schema"] == _SCHEMA
    except (lzma.LZMAError, ValueError, KeyError):
        known = False
    if not known:
        raise InputError(f"{path}: not a table of bigrams; cpm-gen form learn makes one")
    if about.get("version") != _VERSION:
        raise InputError(
            f"{path}: version {str(about.get('version'))[:20]} of the table is not known, only {_VERSION}; make it with cpm-gen form learn"
        )
    if about.get("digest") != vocabulary_digest(tokenizer):
        raise InputError(
            f"{path}: bigrams of another vocabulary ({str(about.get('tokenizer'))[:20]}, {str(about.get('vocabulary'))[:20]} tokens) than "
            f"{tokenizer.path} ({tokenizer.kind}, {tokenizer.size} tokens); make them with cpm-gen form learn"
        )
    try:
        return _widened(_read(about, rest), vocabulary)
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: the table of bigrams is damaged; make it with cpm-gen form learn") from None


def _read(about: dict[str, Any], rest: bytes) -> Bigrams:
    size, pairs = about["vocabulary"], about["pairs"]
    if len(rest) != 5 * size + 5 * pairs:
        raise ValueError
    counts = np.frombuffer(rest, "<i4", size).astype(np.int64)
    alone = np.frombuffer(rest, np.uint8, size, 4 * size)
    values = np.frombuffer(rest, np.uint8, pairs, 5 * size)
    planes = np.frombuffer(rest, np.uint8, 4 * pairs, 5 * size + pairs).reshape(4, pairs)
    after = np.ascontiguousarray(planes.T).view("<i4")[:, 0].cumsum(dtype=np.int64)
    if counts.min(initial=0) < 0 or counts.sum() != pairs or not ((after >= 0) & (after < size)).all():
        raise ValueError
    return _decoded(counts, after, values, alone)


def _widened(bigrams: Bigrams, vocabulary: int) -> Bigrams:
    """The table for a network whose embedding has more rows than the vocabulary has pieces, or fewer."""
    more = vocabulary - bigrams.vocabulary
    if more == 0:
        return bigrams
    if more < 0:
        raise ValueError
    counts = np.concatenate([bigrams.counts, np.zeros(more, dtype=np.int64)])
    alone = np.concatenate([bigrams.alone, np.zeros(more)])
    return Bigrams(counts, bigrams.after, bigrams.probabilities, alone)
