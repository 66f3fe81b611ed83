"""Mutated vocabularies: each encodes and decodes, or is refused by an error of ours."""

import random
from pathlib import Path
from typing import Any

from cpm_gen.checkpoints.locate import EMBEDDED
from cpm_gen.text.cpm_tokenizer import VOCABULARY_FILE, Tokenizer
from tests.mutations import BINARY, check, linux, mutated, outcome, run_mutants

TEXTS = ("春江潮水连海平，海上明月共潮生。", "abc ABC １２３\n  「x」…… <eod>", "\x00\x7f\u3000𠀀😀")


def run_vocabularies(folder: Path, first: int, count: int) -> dict[str, Any]:
    original = (EMBEDDED / VOCABULARY_FILE).read_bytes()
    path = folder / VOCABULARY_FILE
    Tokenizer(EMBEDDED).encode("春")  # jieba's dictionary is no part of a mutant's time

    def read() -> str | None:
        tokenizer = Tokenizer(folder)
        for text in TEXTS:
            ids = tokenizer.encode(text)
            if not all(0 <= i < tokenizer.size for i in ids):
                return f"ids out of range: {ids}"
            tokenizer.decode(ids).encode()
            tokenizer.remarks(text, as_text=True)
        tokenizer.boundary_ids("sentence")  # reads every piece
        return None

    def attempt(dice: random.Random) -> str:
        content = bytearray(original)
        where = dice.choice(("whole", "head", "tail"))  # pieces, most of them; special pieces; settings and normalizer
        start, end = {"whole": (0, len(content)), "head": (0, 300), "tail": (len(content) - 400, len(content))}[where]
        content[start:end] = mutated(dice, content[start:end], BINARY)
        path.write_bytes(content)
        return outcome(read)

    return run_mutants(attempt, first, count)


@linux
def test_mutants_of_a_vocabulary_encode_or_are_refused(tmp_path: Path) -> None:
    check(__name__, "run_vocabularies", tmp_path, 300)
