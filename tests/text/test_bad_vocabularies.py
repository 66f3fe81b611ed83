"""Vocabularies that cannot be read: one error each, which names the file."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cpm_gen.config.options import ModelOptions
from cpm_gen.errors import TokenizerError
from cpm_gen.text.find_tokenizer import find_tokenizer, fitting_tokenizer, open_tokenizer
from tests.text.vocabularies import bert, byte_level, models_folder

pytest.importorskip("tokenizers")

GBK = "[UNK]\n床\n前\n".encode("gbk")


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    """Make a folder with one file."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder

    return make


def broken(name: str, change: Callable[[bytes], bytes], *, whole: bool = False) -> Callable[[Path], Path]:
    """Make a byte-level folder with one file changed."""

    def make(folder: Path) -> Path:
        file = byte_level(folder, whole=whole) / name
        file.write_bytes(change(file.read_bytes()))
        return folder

    return make


def beside(name: str, content: object) -> Callable[[Path], Path]:
    """Make a BERT folder with a JSON file beside the vocabulary."""
    return lambda folder: bert(folder, files={name: content})


BAD: list[tuple[Callable[[Path], Path], str, str]] = [
    (written("vocab.txt", GBK), "vocab.txt", "not UTF-8 at byte 6"),
    (written("vocab.txt", "[UNK]\n床\n前\n".encode("utf-16")), "vocab.txt", "UTF-16; save it as UTF-8"),
    (written("tokenizer.json", "{}".encode("utf-16")), "tokenizer.json", "UTF-16; save it as UTF-8"),
    (written("vocab.txt", "[UNK]\r\n床\r\n".encode()), "vocab.txt", "CR LF"),
    (written("vocab.txt", b""), "vocab.txt", "the file is empty"),
    (written("vocab.txt", b"\n"), "vocab.txt", "no piece"),
    (written("vocab.txt", b"<!DOCTYPE html>"), "vocab.txt", "a web page .*, not the vocabulary"),
    (written("tokenizer.json", b"<!DOCTYPE html>"), "tokenizer.json", "a web page .*, not JSON"),
    (written("vocab.txt", "床\n前\n".encode()), "vocab.txt", r"no line \[UNK\]"),
    (written("vocab.txt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "vocab.txt", "LFS"),
    (written("tokenizer.json", b"{}"), "tokenizer.json", "no 'model'"),
    (written("tokenizer.json", b'{"model": {"type": "Nothing"}}'), "tokenizer.json", "not a vocabulary"),
    (written("tokenizer.json", b'{"version": "1.0", "model": {"type": "BPE", "vo'), "tokenizer.json", "not JSON"),
    (written("tokenizer.json", b"[" * 100_000), "tokenizer.json", "not JSON"),
    (written("tokenizer.json", GBK), "tokenizer.json", "not UTF-8"),
    (broken("tokenizer.json", lambda c: c[: len(c) // 2], whole=True), "tokenizer.json", "cut off"),
    (broken("vocab.json", lambda c: c[:-9]), "vocab.json", "cut off"),
    (broken("vocab.json", lambda c: b"{}"), "vocab.json", "no piece"),
    (broken("vocab.json", lambda c: c.replace(b":7,", b":-7,")), "vocab.json", "whole number"),
    (broken("vocab.json", lambda c: c.replace(b":7,", b":999999999999,")), "vocab.json", "whole number"),
    (broken("merges.txt", lambda c: c.replace(b"\n", b"\r\n")), "merges.txt", "CR LF"),
    (broken("merges.txt", lambda c: c + b"x y z\n"), "merges.txt", "two pieces"),
    (broken("merges.txt", lambda c: c + "床 前\n".encode()), "merges.txt", "does not have"),
    (
        broken("tokenizer.json", lambda c: re.sub(rb'"!": ?\d+', b'"!": 4000000000', c), whole=True),
        "tokenizer.json",
        "ids up to 4,000,000,000",
    ),
    (beside("tokenizer_config.json", ["list"]), "tokenizer_config.json", "object"),
    (beside("tokenizer_config.json", {"sep_token": 5}), "tokenizer_config.json", "sep_token"),
    (beside("special_tokens_map.json", {"cls_token": {}}), "special_tokens_map.json", "cls_token"),
    (beside("added_tokens.json", {"[NEW]": "5"}), "added_tokens.json", "whole number"),
    (beside("added_tokens.json", {"[NEW]": 3}), "", r"'\[NEW\]' has id 3"),
    (beside("tokenizer_config.json", {"added_tokens_decoder": {"x": {}}}), "tokenizer_config.json", "ids"),
]


@pytest.mark.parametrize(("make", "file", "says"), BAD)
def test_a_bad_vocabulary_is_one_error_that_names_the_file(
    tmp_path: Path, make: Callable[[Path], Path], file: str, says: str
) -> None:
    with pytest.raises(TokenizerError, match=says) as caught:
        open_tokenizer(make(tmp_path))
    assert str(tmp_path / file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_that_a_file_cannot_encode_is_an_error_that_names_it(tmp_path: Path) -> None:
    content = {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "?"}, "added_tokens": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = open_tokenizer(tmp_path)
    assert tokenizer.encode("a") == [0]
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: cannot encode"):
        tokenizer.encode("b")


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json", "vocab.json", "chinese_vocab.model"])
def test_a_vocabulary_is_read_to_a_bound_and_must_be_a_file(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(2**26 + 1)
    (tmp_path / "merges.txt").touch()
    with pytest.raises(TokenizerError, match="too many for a vocabulary") as caught:
        open_tokenizer(tmp_path)
    assert name in str(caught.value)


def test_what_was_checked_is_what_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    open_file = Path.open

    def count(path: Path, *args: Any, **options: Any) -> Any:
        opened.append(path.name)
        return open_file(path, *args, **options)

    monkeypatch.setattr(Path, "open", count)
    assert open_tokenizer(byte_level(tmp_path, whole=True)).size > 256
    assert opened.count("tokenizer.json") == 1


@pytest.mark.parametrize("name", ["notes.md", "weights.bin"])
def test_a_file_of_another_kind_is_refused_with_the_names_that_are_taken(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(TokenizerError, match=r"tokenizer\.json, vocab\.json with merges\.txt"):
        open_tokenizer(tmp_path / name)


def test_a_folder_without_a_vocabulary_is_refused_with_the_names_that_are_taken(tmp_path: Path) -> None:
    for opened in (lambda: open_tokenizer(tmp_path), lambda: find_tokenizer(ModelOptions(model=str(tmp_path)))):
        with pytest.raises(TokenizerError, match=r"chinese_vocab\.model.*vocab\.txt") as caught:
            opened()
        assert str(tmp_path) in str(caught.value)


def test_a_vocabulary_that_does_not_fit_the_network_names_both_sizes(tmp_path: Path) -> None:
    options = ModelOptions(model=str(bert(tmp_path)))
    size = find_tokenizer(options).size
    assert fitting_tokenizer(options, size + 64).without_text(size + 2) == [size, size + 1]
    for rows in (size - 1, size + 5000):
        with pytest.raises(TokenizerError, match=f"vocab.txt: {size} pieces.* {rows}"):
            fitting_tokenizer(options, rows)


@pytest.mark.parametrize(("name", "words"), [("vocab-not-utf8", "vocab.txt"), ("vocab-too-big", "vocab")])
def test_recorded_bad_vocabularies_are_refused(name: str, words: str) -> None:
    folder = models_folder() / "broken" / name
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    with pytest.raises(TokenizerError, match=words):
        fitting_tokenizer(ModelOptions(model=str(folder)), rows)


# which vocabulary is taken


def test_the_first_kind_that_a_folder_has_is_taken(tmp_path: Path) -> None:
    from cpm_gen.checkpoints.locate import EMBEDDED

    def kind() -> str:
        return find_tokenizer(ModelOptions(model=str(tmp_path))).kind

    bert(tmp_path)
    assert kind() == "BERT"
    (tmp_path / "vocab.json").write_text("{}")  # alone it is none
    assert kind() == "BERT"
    byte_level(tmp_path)
    assert kind() == "byte-level BPE"
    byte_level(tmp_path, whole=True)
    assert kind() == "tokenizer.json"
    (tmp_path / "spiece.model").write_bytes((EMBEDDED / "chinese_vocab.model").read_bytes())
    assert kind() == "CPM"


def test_a_vocabulary_is_found_beside_a_model_in_one_file(tmp_path: Path) -> None:
    (bert(tmp_path) / "model.onnx").touch()
    assert find_tokenizer(ModelOptions(model=str(tmp_path / "model.onnx"))).kind == "BERT"


def test_a_file_of_any_kind_may_be_named_itself(tmp_path: Path) -> None:
    folder = bert(byte_level(tmp_path))
    byte_level(tmp_path, whole=True)
    (folder / "vocab.txt").rename(folder / "vocab_small.txt")
    kinds = {name: open_tokenizer(folder / name).kind for name in ("vocab_small.txt", "vocab.json", "tokenizer.json")}
    assert list(kinds.values()) == ["BERT", "byte-level BPE", "tokenizer.json"]


def test_without_the_library_one_line_says_how_to_install_it(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['tokenizers'] = None\n"
        "from cpm_gen.cli.main import main; sys.exit(main(['tokenize', 'x', '--tokenizer', sys.argv[1]]))"
    )
    words = [sys.executable, "-c", program, str(bert(tmp_path))]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "vocab.txt" in done.stderr
    assert "pip install -c constraints.txt -e '.[hf]'" in done.stderr


def test_cpms_own_vocabulary_needs_no_library(tmp_path: Path) -> None:
    program = "import sys; sys.modules['tokenizers'] = None\nfrom cpm_gen.cli.main import main; sys.exit(main(['tokenize', '春']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, "")
