"""The start of jieba: silent, and right with any state of its cache."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cpm_gen
from cpm_gen.checkpoints.locate import EMBEDDED
from cpm_gen.text.cpm_tokenizer import VOCABULARY_FILE, Tokenizer

PROGRAM = (
    "import sys, warnings; from cpm_gen.text.cpm_tokenizer import Tokenizer; warnings.simplefilter('always'); "
    "print(Tokenizer(sys.argv[1]).encode('我来到北京'))"
)


def encode(tmp_path: Path, **environment: str) -> None:
    """Encode in a new process with every warning shown, and check what it prints."""
    environment = os.environ | {"PYTHONPATH": str(Path(cpm_gen.__file__).parents[1]), "PYTHONUTF8": "1"} | environment
    environment.pop("PYTHONWARNINGS", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(EMBEDDED)], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stderr == ""
    assert done.stdout == f"{Tokenizer(EMBEDDED).encode('我来到北京')}\n"


@pytest.mark.parametrize("found", [None, b"", b"i\1\0\0\0", b"\0"])
def test_a_cache_is_made_where_there_is_none_that_can_be_read(tmp_path, found):
    """With bytecode to compile: jieba's has invalid escapes."""
    cache = tmp_path / "cpm-gen" / "jieba.cache"
    if found is not None:
        cache.parent.mkdir()
        cache.write_bytes(found)
    compiled = {} if found is not None else {"PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode")}
    encode(tmp_path, XDG_CACHE_HOME=str(tmp_path), **compiled)
    assert cache.stat().st_size > 1_000_000


def test_a_cache_that_was_made_is_used(tmp_path):
    encode(tmp_path, XDG_CACHE_HOME=str(tmp_path))
    made = (tmp_path / "cpm-gen" / "jieba.cache").stat()
    encode(tmp_path, XDG_CACHE_HOME=str(tmp_path))
    assert (tmp_path / "cpm-gen" / "jieba.cache").stat().st_ino == made.st_ino


def test_a_folder_that_takes_no_cache_does_not_matter(tmp_path):
    """A file where a folder should be: not even root can write there."""
    encode(tmp_path, HOME=os.devnull, XDG_CACHE_HOME=str(EMBEDDED / VOCABULARY_FILE))
