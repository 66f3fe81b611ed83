"""What a GGUF file holds of a vocabulary."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Vocabulary:
    """A SentencePiece Unigram vocabulary as llama.cpp reads it (its tokenizer "t5").

    pieces, scores, types: of each id. charsmap: the normaliser's compiled map. prefix: whether a space is put before a text. trims:
    whether spaces at its ends and repeated ones are removed. eos, unk, pad: ids; None: there is none.
    """

    pieces: list[str]
    scores: list[float]
    types: list[int]
    charsmap: bytes
    prefix: bool
    trims: bool
    eos: int | None
    unk: int | None
    pad: int | None
