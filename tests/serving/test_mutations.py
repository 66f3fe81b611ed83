"""Mutated key files: the keys of a file are taken or refused by an error of ours that shows no key."""

import random
from pathlib import Path
from typing import Any

from cpm_gen.serving.api_keys import ApiKeys
from tests.mutations import check, linux, mutated_text, outcome, run_mutants

COMMENT = "# the keys of the choir's members; cpm-gen serve --new-key NAME makes one\n" * 3
ORIGINAL = f"{COMMENT}me sha256:{'a' * 64} streams=4 rate=10\n# x\nyou sha256:{'b' * 64}\n".encode()
TOKENS = (
    *(b"\n", b"\r\n", b" ", b"#", b"=", b":", b"\x00", b"\x1b[31m", b"\xef\xbb\xbf", b"\xff\xfe", "\u2028".encode()),
    *(
        b" streams=",
        b" rate=",
        b" rate=0",
        b" streams=" + b"9" * 5000,
        b"9" * 30,
        b"-1",
        "٣".encode(),
        b"1.5",
        b"sha256:",
    ),
    f"\nthird sha256:{'C' * 64}".encode(),
)


def run_keys(folder: Path, first: int, count: int) -> dict[str, Any]:
    path = folder / "keys"

    def read() -> str | None:
        keys = ApiKeys(str(path), streams=3, rate=5)
        return None if keys.needed else "a file without keys lets everyone in"

    def attempt(dice: random.Random) -> str:
        path.write_bytes(mutated_text(dice, ORIGINAL, TOKENS))
        return outcome(read)

    return run_mutants(attempt, first, count)


@linux
def test_mutants_of_key_files_are_taken_or_refused(tmp_path: Path) -> None:
    check(__name__, "run_keys", tmp_path, 500)
