"""CPM's vocabulary as a ``tokenizer.json``, for programs that read Hugging Face folders.

Exact where jieba's words do not matter to the ids, as in the embedded vocabulary. In CPM-1's real one they do, and nothing in a
``tokenizer.json`` cuts words as jieba does.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from cpm_gen.checkpoints.gguf_vocabulary import Vocabulary
from cpm_gen.errors import TokenizerError
from cpm_gen.text.cpm_tokenizer import NEWLINE, SPACE, Tokenizer
from cpm_gen.text.vocabulary_files import read_vocabulary

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # types of pieces
_NEVER = -1e6  # the score of a piece that no text contains


def tokenizer_json(tokenizer: Tokenizer) -> str:
    """The text of a ``tokenizer.json`` that gives the same ids for every text, and the same text for every id.

    It has no added tokens: specials written in a text stay text, as in :meth:`Tokenizer.encode`. Raises TokenizerError for a
    vocabulary whose ids depend on words, with what to do instead.
    """
    if tokenizer.uses_words:
        raise TokenizerError(
            f"{tokenizer.path}: its ids depend on jieba's words, which no tokenizer.json can cut; keep the vocabulary as "
            "spiece.model and encode with cpm-gen (transformers' CpmTokenizer gives other ids)"
        )
    model = _parsed(tokenizer)
    vocabulary = [[p.piece, _NEVER if p.type in (_UNKNOWN, _CONTROL) else p.score] for p in model.pieces]
    charsmap = base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode("ascii")
    hidden = [p.piece for p in model.pieces if p.type == _CONTROL]
    unknown = model.pieces[tokenizer.unk or 0].piece
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                _replace(" ", "▂"),
                _replace("\n", "▃"),
                {"type": "Precompiled", "precompiled_charsmap": charsmap},
                _replace(" ", "▁"),
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                *(_replace(name, "") for name in hidden),
                _replace(unknown, tokenizer.surface(tokenizer.unk or 0)),
                _replace("▁", ""),
                _replace(" ", ""),
                _replace("▂", " "),
                _replace("▃", "\n"),
                {"type": "Fuse"},
            ],
        },
        "model": {"type": "Unigram", "unk_id": tokenizer.unk, "vocab": vocabulary, "byte_fallback": False},
    }
    return json.dumps(content, ensure_ascii=False)


def gguf_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """The vocabulary for llama.cpp, which encodes nearly all texts alike (27 of 633 differ), and knows no jieba.

    Raises TokenizerError for a vocabulary whose ids depend on words, with what to do instead.
    """
    if tokenizer.uses_words:
        raise TokenizerError(
            f"{tokenizer.path}: its ids depend on jieba's words, which llama.cpp does not have, so nearly every text would get other "
            "ids; give --ids-only for a file that takes token ids alone, and encode with cpm-gen tokenize"
        )
    model = _parsed(tokenizer)
    pieces, types = [p.piece for p in model.pieces], [int(p.type) for p in model.pieces]
    for written, meant in ((SPACE, " "), (NEWLINE, "\n")):
        if written in pieces:
            at = pieces.index(written)
            pieces[at], types[at] = meant, _USER_DEFINED  # llama.cpp finds such a piece before it normalises a text
    spec, special = model.normalizer_spec, tokenizer.specials.get
    return Vocabulary(
        pieces=pieces,
        scores=[float(p.score) for p in model.pieces],
        types=types,
        charsmap=bytes(spec.precompiled_charsmap),
        prefix=bool(spec.add_dummy_prefix),
        trims=bool(spec.remove_extra_whitespaces),
        eos=tokenizer.eod,
        unk=tokenizer.unk,
        pad=special("<pad>"),
    )


def _replace(text: str, by: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": text}, "content": by}


def _parsed(tokenizer: Tokenizer) -> Any:
    """The vocabulary as SentencePiece's protocol buffer; raises TokenizerError where protobuf is not installed."""
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError:
        raise TokenizerError(
            f"{tokenizer.path}: to write it as tokenizer.json needs protobuf; in the checkout, pip install -c constraints.txt -e '.[hf]'"
        ) from None
    messages: Any = sentencepiece_model_pb2
    model = messages.ModelProto()
    model.ParseFromString(read_vocabulary(tokenizer.path))
    return model
