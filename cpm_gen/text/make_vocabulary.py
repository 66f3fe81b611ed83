"""A vocabulary in CPM's convention, made from texts: SentencePiece's unigram model with the special pieces of CPM-1.

The pieces have CPM-1's ids: ``<unk>`` 0, ``<s>`` 1, ``</s>`` 2, ``▃`` 3, ``<sep>`` 4, ``<pad>`` 5, ``<mask>`` 6, ``<eod>`` 7, the bare
``▁`` 8, ``▂`` 10. One thing is different on purpose: a rule of the normaliser removes the space that joins jieba's words. So no token is
spent on the boundaries of words, and a window holds about a fifth more characters. A text is encoded as with CPM-1's own vocabulary
(:mod:`cpm_gen.text.cpm_tokenizer`).
"""

from __future__ import annotations

import json
import random
import re
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cpm_gen.errors import ConfigError, InputError
from cpm_gen.text.cpm_tokenizer import VOCABULARY_FILE

LEAST, MOST = 256, 100_000  # pieces
NAMES_FILE = "vocab.json"

_SPECIALS = {0: "<unk>", 1: "<s>", 2: "</s>", 3: "▃", 4: "<sep>", 5: "<pad>", 6: "<mask>", 7: "<eod>", 8: "▁", 10: "▂"}
_MARKS = str.maketrans(
    dict.fromkeys("▁▂▃")
)  # the text's own ones: they read as white space, and are no pieces to learn
_LINES = 400_000  # of the texts, drawn at random, that the pieces are learned from
_BYTES = 16_384  # of a line; longer ones are left out by SentencePiece
_COVERAGE = 0.99975  # of all characters get a piece; the others are <unk>
_LONGEST = 8  # characters of a piece

# half-width punctuation as typed becomes the full-width punctuation of books; digits and letters are unchanged
_RULES = {
    " ": "",
    ",": "，",
    ";": "；",
    ":": "：",
    "!": "！",
    "?": "？",
    "．": "。",
    "•": "·",
    "「": "“",
    "」": "”",
}
_ALWAYS = string.digits + string.ascii_letters + string.punctuation + "，。！？；：、“”‘’《》（）…—·们她它您吗呢吧啊"

# SentencePiece does not end at Ctrl-C, so it runs in a process of its own
_CHILD = "import json, sys; from sentencepiece import SentencePieceTrainer as t; t.train(**json.loads(sys.argv[1]))"


def make_vocabulary(texts: Iterable[str], folder: Path, pieces: int) -> None:
    """Write ``chinese_vocab.model`` and ``vocab.json`` (the id of each piece) to ``folder``, which exists. Takes minutes for 20 MB.

    The same texts give the same pieces. Raises ConfigError for a number of pieces out of bounds and where protobuf is missing, and
    InputError for texts without that many pieces.
    """
    if not LEAST <= pieces <= MOST:
        raise ConfigError(f"pieces must be from {LEAST} to {MOST:,}, not {pieces:,}")
    proto = _protobuf()
    lines = sorted({line.translate(_MARKS).strip() for text in texts for line in text.splitlines()} - {""})
    if not lines:
        raise InputError("the texts are empty; give files that hold text")
    random.Random(0).shuffle(lines)
    with tempfile.TemporaryDirectory() as work:
        model = proto.ModelProto()
        model.ParseFromString(_train(lines, Path(work), pieces))
    _lay_out(model, pieces, proto.ModelProto.SentencePiece)
    (folder / VOCABULARY_FILE).write_bytes(model.SerializeToString(deterministic=True))
    ids = {p.piece: i for i, p in enumerate(model.pieces)}
    (folder / NAMES_FILE).write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")


def _protobuf() -> Any:
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError:
        raise ConfigError(
            "to make a vocabulary needs protobuf; in the checkout, pip install -c constraints.txt -e '.[hf]'"
        ) from None
    return sentencepiece_model_pb2


def _train(lines: list[str], work: Path, pieces: int) -> bytes:
    """SentencePiece's own model of the lines, serialized."""
    corpus, rules = work / "corpus.txt", work / "rules.tsv"
    corpus.write_text("\n".join(lines), encoding="utf-8")
    rules.write_text("".join(f"{ord(a):X}\t{' '.join(f'{ord(c):X}' for c in b)}\n" for a, b in _RULES.items()))
    options = {
        "input": str(corpus),
        "model_prefix": str(work / "model"),
        "model_type": "unigram",
        "vocab_size": pieces - len(_SPECIALS) + 1,  # <unk> is among its pieces
        "bos_id": -1,
        "eos_id": -1,
        "pad_id": -1,
        "unk_id": 0,
        "character_coverage": _COVERAGE,
        "required_chars": _ALWAYS,
        "normalization_rule_tsv": str(rules),
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "max_sentencepiece_length": _LONGEST,
        "input_sentence_size": _LINES,
        "shuffle_input_sentence": True,
        "max_sentence_length": _BYTES,
        "num_threads": 2,
        "minloglevel": 1,
        "hard_vocab_limit": True,
    }
    done = subprocess.run([sys.executable, "-P", "-c", _CHILD, json.dumps(options)], capture_output=True, text=True)
    if done.returncode:
        raise InputError(_reason(done.stderr, pieces))
    return (work / "model.model").read_bytes()


def _reason(said: str, pieces: int) -> str:
    """What a person can do about SentencePiece's error."""
    if most := re.search(r"Vocabulary size too high .*? <= (\d+)", said):
        bound = int(most[1]) + len(_SPECIALS) - 1
        return (
            f"the texts have too few different words for {pieces:,} pieces; give more text, or at most {bound:,} pieces"
        )
    if least := re.search(r"Vocabulary size is smaller than required_chars\. \d+ vs (\d+)", said):
        characters = int(least[1])
        bound = characters + len(_SPECIALS)
        return f"the texts have {characters:,} different characters, too many for {pieces:,} pieces; take at least {bound:,}"
    lines = said.strip().splitlines() or ["it gave no reason"]
    return f"SentencePiece failed: {lines[-1][:300]}"


def _lay_out(model: Any, pieces: int, piece: Any) -> None:
    """Give the special pieces CPM-1's ids, and the learned ones the ids between and after them."""
    learned = iter([p for p in model.pieces if p.type == piece.NORMAL and p.piece not in _SPECIALS.values()])
    kinds = {
        "<unk>": piece.UNKNOWN,
        "▃": piece.USER_DEFINED,
        "▂": piece.USER_DEFINED,
        "<eod>": piece.NORMAL,
        "▁": piece.NORMAL,
    }
    ordered = []
    for i in range(pieces):
        name = _SPECIALS.get(i)
        if name is None:
            ordered.append(next(learned))
            continue
        kind = kinds.get(name, piece.CONTROL)
        # low enough that the string "<eod>" becomes its characters, as with the original vocabulary
        ordered.append(piece(piece=name, score=-1000.0 if kind == piece.NORMAL else 0.0, type=kind))
    del model.pieces[:]
    model.pieces.extend(ordered)
    trainer = model.trainer_spec
    trainer.vocab_size, trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id = pieces, 0, 1, 2, 5
    for name in ("input", "model_prefix", "self_test_sample_size"):  # paths of the machine that made it
        trainer.ClearField(name)
    model.normalizer_spec.ClearField("normalization_rule_tsv")
