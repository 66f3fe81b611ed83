"""A vocabulary made from texts has CPM-1's convention, and is the same each time."""

import json
import random
from pathlib import Path

import pytest
import sentencepiece

from cpm_gen.errors import ConfigError, InputError
from cpm_gen.text.cpm_tokenizer import VOCABULARY_FILE, Tokenizer
from cpm_gen.text.make_vocabulary import make_vocabulary

pytest.importorskip("google.protobuf")
RNG = random.Random(0)
WORDS = ["".join(RNG.sample([chr(0x4E00 + 7 * i) for i in range(240)], 2)) for _ in range(300)]
LINES = ["".join(RNG.choices(WORDS, [1 / (rank + 5) for rank in range(300)], k=4)) + "。\n" for _ in range(1500)]
TEXTS = ["".join(LINES[:700]), "".join(LINES[700:])]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary")
    make_vocabulary(TEXTS, folder, 520)
    return folder


def test_special_pieces_have_the_ids_of_cpm_1(made: Path) -> None:
    names = json.loads((made / "vocab.json").read_text(encoding="utf-8"))
    wanted = ["<unk>", "<s>", "</s>", "▃", "<sep>", "<pad>", "<mask>", "<eod>", "▁"]
    assert [names[name] for name in wanted] == list(range(9))
    assert names["▂"] == 10
    assert len(names) == 520


def test_it_reads_and_writes_texts(made: Path) -> None:
    tokenizer = Tokenizer(made)
    text = LINES[3] + WORDS[0] + " " + WORDS[1]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk not in ids
    assert tokenizer.size == 520
    assert tokenizer.eod == 7
    assert tokenizer.eod not in tokenizer.encode("<eod>")


def test_spaces_between_words_take_no_tokens(made: Path) -> None:
    model = sentencepiece.SentencePieceProcessor(model_file=str(made / VOCABULARY_FILE))
    assert model.encode(f"{WORDS[0]} {WORDS[1]}") == model.encode(WORDS[0] + WORDS[1])


def test_the_same_texts_give_the_same_file_without_paths(made: Path, tmp_path: Path) -> None:
    make_vocabulary(reversed(TEXTS), tmp_path, 520)
    content = (tmp_path / VOCABULARY_FILE).read_bytes()
    assert content == (made / VOCABULARY_FILE).read_bytes()
    assert b".tsv" not in content
    assert b"corpus" not in content


def test_texts_may_hold_the_characters_of_special_pieces(made: Path, tmp_path: Path) -> None:
    marked = [f"{'▁▂▃'[at % 3]}{line[:2]}▁{line[2:5]}▂▃{line[5:]}" for at, line in enumerate(LINES)]
    make_vocabulary([*marked, "▂▃\n"], tmp_path, 520)
    assert (tmp_path / VOCABULARY_FILE).read_bytes() == (made / VOCABULARY_FILE).read_bytes()


@pytest.mark.parametrize(
    ("texts", "pieces", "error", "says"),
    [
        (["春\n夏\n秋\n冬\n"], 4000, InputError, r"too few different words for 4,000 pieces; .* at most \d+ pieces"),
        (
            [chr(0x4E00 + i) + "\n" for i in range(2000)],
            300,
            InputError,
            r"too many for 300 pieces; take at least 2,\d+",
        ),
        ([" \n\n"], 520, InputError, "empty"),
        (TEXTS, 255, ConfigError, "from 256 to 100,000, not 255"),
        (TEXTS, 100_001, ConfigError, "not 100,001"),
    ],
)
def test_what_gives_no_vocabulary_says_what_to_do(
    tmp_path: Path, texts: list[str], pieces: int, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        make_vocabulary(texts, tmp_path, pieces)
    assert not list(tmp_path.iterdir())
