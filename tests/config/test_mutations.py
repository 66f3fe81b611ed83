"""Mutated YAML settings: the values of a file are taken or refused by an error of ours."""

import random
from pathlib import Path
from typing import Any

from cpm_gen.config.files import shipped
from cpm_gen.config.resolve import resolve
from tests.mutations import check, linux, mutated_text, outcome, run_mutants

SOURCES = ("lyric.yaml", "novel.yaml", "original.yaml", "cpm-large.yaml")
TOKENS = (
    *(
        b"[",
        b"{",
        b"}",
        b"]",
        b"&a ",
        b"*a",
        b"<<: ",
        b": ",
        b"\n- ",
        b"|\n",
        b">\n",
        b"%",
        b"? ",
        b"\x00",
        b"'",
        b'"',
        b"#",
    ),
    *(b"!!int ", b"!!float ", b"!!timestamp ", b"!!binary ", b"!!set ", b"!!python/name:os.system ", b"2001-99-99"),
    *(b"9" * 50, b"9" * 5000, b"0x" + b"f" * 5000, b".inf", b".nan", b"~", b"-", b"1:59:59", b"1e999", b"yes", b"null"),
    *(b"[" * 3000, b"{a: " * 400, b"\xef\xbb\xbf", b"\xff\xfe", b"\r\n", "，".encode(), b"\xed\xa0\x80", b'"\\ud800"'),
    *(b"\nstop: ", b"\nbanned_ids: ", b"\nsize: ", b"\nmodel: ", b"\ntemperature: ", b"\nseed: ", b"\nlogit_bias: "),
    *(
        b"\nseed: 0x" + b"f" * 5000,
        b"\nbatch: -0x" + b"f" * 5000,
        b"\nmodel: !!timestamp x",
        b"\nthreads: !!int x",
        b"\n",
    ),
    b"&a [x, x, x, x, x, x, x, x, x]\nstop: &b [*a, *a, *a, *a, *a, *a]\nseed: [*b, *b, *b, *b, *b, *b]\n",
)


def run_settings(folder: Path, first: int, count: int) -> dict[str, Any]:
    originals = [shipped(name).read_bytes() for name in SOURCES]
    path = folder / "settings.yaml"

    def read() -> None:
        settings = resolve(files=[path])
        for name, value, _ in settings.items():
            assert len(repr(value)) < 10_000, name

    def attempt(dice: random.Random) -> str:
        path.write_bytes(mutated_text(dice, dice.choice(originals), TOKENS))
        return outcome(read)

    return run_mutants(attempt, first, count)


@linux
def test_mutants_of_settings_are_taken_or_refused(tmp_path: Path) -> None:
    check(__name__, "run_settings", tmp_path, 500)
