"""Train the embedded model's vocabulary: SentencePiece unigram in CPM-1's convention.

    python training/vocabulary.py TEXT_DIR OUT_DIR [--pieces 8000]

The result has CPM-1's special ids (``<unk>`` 0, ``<s>`` 1, ``</s>`` 2, ``▃`` 3, ``<sep>`` 4, ``<pad>`` 5, ``<mask>`` 6,
``<eod>`` 7, bare ``▁`` 8, ``▂`` 10). One thing is different on purpose: a normaliser rule removes the space that joins jieba's
words, so no token is spent on word boundaries, and a window holds about a fifth more characters. The calling convention is the
original's: jieba, join by spaces, SentencePiece; decode, drop spaces.
"""

from __future__ import annotations

import argparse
import json
import random
import string
import tempfile
from pathlib import Path

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as spm_proto

SPECIALS = {0: "<unk>", 1: "<s>", 2: "</s>", 3: "▃", 4: "<sep>", 5: "<pad>", 6: "<mask>", 7: "<eod>", 8: "▁", 10: "▂"}

# Half-width punctuation as typed, mapped to the full-width punctuation of the books. Digits and letters are unchanged.
NORMALISER = {
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

ALWAYS = string.digits + string.ascii_letters + string.punctuation + "，。！？；：、“”‘’《》（）…—·们她它您吗呢吧啊"


def train(text_dir: Path, out_dir: Path, pieces: int) -> None:
    """Write ``chinese_vocab.model`` and ``vocab.json`` to ``out_dir``."""
    lines = sorted(
        {
            line.strip()
            for path in sorted(text_dir.rglob("*.txt"))
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.strip()
        }
    )
    random.Random(0).shuffle(lines)
    ordinary = pieces - len(SPECIALS)
    with tempfile.TemporaryDirectory() as tmp:
        corpus, rules = Path(tmp, "corpus.txt"), Path(tmp, "rules.tsv")
        corpus.write_text("\n".join(lines), encoding="utf-8")
        rules.write_text("".join(f"{ord(a):X}\t{' '.join(f'{ord(c):X}' for c in b)}\n" for a, b in NORMALISER.items()))
        spm.SentencePieceTrainer.train(
            input=str(corpus), model_prefix=str(Path(tmp, "model")), model_type="unigram",
            vocab_size=ordinary + 1, bos_id=-1, eos_id=-1, pad_id=-1, unk_id=0,  # + 1: <unk>
            character_coverage=0.99975, required_chars=ALWAYS, normalization_rule_tsv=str(rules),
            add_dummy_prefix=False, remove_extra_whitespaces=False, max_sentencepiece_length=8,
            input_sentence_size=400_000, shuffle_input_sentence=True, max_sentence_length=16384,
            num_threads=2, minloglevel=1, hard_vocab_limit=True,
        )  # fmt: skip
        model = spm_proto.ModelProto()
        model.ParseFromString(Path(tmp, "model.model").read_bytes())
    Piece = spm_proto.ModelProto.SentencePiece
    learned = iter([p for p in model.pieces if p.type == Piece.NORMAL and p.piece not in SPECIALS.values()])
    kinds = {
        "<unk>": Piece.UNKNOWN,
        "▃": Piece.USER_DEFINED,
        "▂": Piece.USER_DEFINED,
        "<eod>": Piece.NORMAL,
        "▁": Piece.NORMAL,
    }
    ordered = []
    for i in range(pieces):
        if name := SPECIALS.get(i):
            kind = kinds.get(name, Piece.CONTROL)
            # low enough that the string "<eod>" becomes its characters, as with the original vocabulary
            score = -1000.0 if kind == Piece.NORMAL else 0.0
            ordered.append(Piece(piece=name, score=score, type=kind))
        else:
            ordered.append(next(learned))
    del model.pieces[:]
    model.pieces.extend(ordered)
    t = model.trainer_spec
    t.vocab_size, t.unk_id, t.bos_id, t.eos_id, t.pad_id = pieces, 0, 1, 2, 5
    for field in ("input", "model_prefix", "self_test_sample_size"):  # no traces of the training machine
        t.ClearField(field)
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / "chinese_vocab.model").write_bytes(model.SerializeToString())
    vocab = {p.piece: i for i, p in enumerate(model.pieces)}
    (out_dir / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="folder of UTF-8 .txt files")
    parser.add_argument("out", type=Path, help="folder to write chinese_vocab.model and vocab.json to")
    parser.add_argument("--pieces", type=int, default=8000)
    args = parser.parse_args()
    train(args.text, args.out, args.pieces)
