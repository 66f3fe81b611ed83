"""A tiny model of CPM's kind for stored texts: random weights of a fixed seed, and a vocabulary of its own.

What is stored as the output of this model does not change with an edition of the embedded model. To write the model to a folder:
``python -m tests.tiny_model FOLDER``.
"""

import struct
import sys
from pathlib import Path

from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.text.cpm_tokenizer import VOCABULARY_FILE
from tests.random_networks import random_checkpoint

# the beginning of the Thousand Character Classic, where no character comes twice, and what prompts of tests need besides
CHARACTERS = (
    "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜金生丽水玉出昆冈剑号巨阙珠称夜光果珍李柰菜重芥姜"
    "海咸河淡鳞潜羽翔龙师火帝鸟官人皇始制文字乃服衣裳推位让国有虞陶唐吊民伐罪周发殷汤坐朝问道垂拱平章爱育黎首臣伏戎羌遐迩一体率宾归王"
    "明几时话说下大势从前座山后呢春风又绿江南岸长"
)
WORDS = ["明月", "天下", "大势", "从前", "后来", "春风", "江南"]
SIGNS = "，。！？：；、“”…《》"
SPECIALS = {0: "<unk>", 1: "<s>", 2: "</s>", 3: "▃", 4: "<sep>", 5: "<pad>", 6: "<mask>", 7: "<eod>", 8: "▁", 10: "▂"}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # types of pieces
UNIGRAM = 1  # type of a model


def pieces() -> list[str]:
    """The pieces by their ids; the special ones have the ids of CPM-1."""
    learned = iter([*SIGNS, *CHARACTERS, *WORDS])
    count = len(SPECIALS) + len(SIGNS) + len(CHARACTERS) + len(WORDS)
    return [SPECIALS.get(i) or next(learned) for i in range(count)]


TINY = ModelSize(layers=2, hidden=64, heads=4, vocabulary=len(pieces()), positions=128)


def tiny_model(folder: Path) -> Path:
    """Write the checkpoint and its vocabulary to ``folder``."""
    random_checkpoint(folder, TINY, seed=1)
    (folder / VOCABULARY_FILE).write_bytes(vocabulary())
    return folder


def vocabulary() -> bytes:
    """The vocabulary as a SentencePiece model: a protocol buffer, written here by hand, as protobuf is an optional package."""
    kinds = {"<unk>": UNKNOWN, "▃": USER_DEFINED, "▂": USER_DEFINED, "<eod>": NORMAL, "▁": NORMAL}
    content = b""
    for i, piece in enumerate(pieces()):
        kind = kinds.get(piece, CONTROL) if i in SPECIALS else NORMAL
        # the string "<eod>" in a text is its characters, and a word is likelier than its characters
        score = -1000.0 if piece == "<eod>" else -8.0 if len(piece) == 1 else -10.0
        content += _bytes(1, _bytes(1, piece.encode()) + _float(2, score) + _number(3, kind))
    content += _bytes(2, _number(3, UNIGRAM) + _number(4, len(pieces())) + _number(40, 0))
    content += _bytes(3, _bytes(1, b"identity") + _number(3, 0) + _number(4, 0))  # no space is added, and none dropped
    return content


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


if __name__ == "__main__":
    tiny_model(Path(sys.argv[1]))
