"""Texts of made-up words, a vocabulary of them and a small network over it."""

import random
from pathlib import Path

import pytest

from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.text.cpm_tokenizer import Tokenizer
from cpm_gen.text.make_vocabulary import make_vocabulary
from tests.cli.conftest import run as run
from tests.random_networks import random_checkpoint

PIECES = 400
_RNG = random.Random(0)
_CHARACTERS = [chr(0x4E00 + 7 * i) for i in range(150)]
_WORDS = ["".join(_RNG.sample(_CHARACTERS, 2)) for _ in range(200)]
_WEIGHTS = [1 / (rank + 5) for rank in range(len(_WORDS))]


def line(rng: random.Random) -> str:
    return "".join(rng.choices(_WORDS, _WEIGHTS, k=4)) + "。"


def song(seed: int, lines: int = 6) -> str:
    rng = random.Random(seed)
    return "\n".join(line(rng) for _ in range(lines))


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("google.protobuf")
    folder = tmp_path_factory.mktemp("vocabulary")
    make_vocabulary([song(seed) for seed in range(400)], folder, PIECES)
    return folder


@pytest.fixture(scope="session")
def tokenizer(vocabulary: Path) -> Tokenizer:
    return Tokenizer(vocabulary)


@pytest.fixture(scope="session")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty songs, a file each."""
    folder = tmp_path_factory.mktemp("songs")
    for number in range(20):
        (folder / f"{number:02}.txt").write_text(song(number) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> Path:
    """A random network of two layers with the vocabulary beside it."""
    folder = tmp_path_factory.mktemp("model")
    random_checkpoint(folder, ModelSize(layers=2, hidden=32, heads=4, vocabulary=PIECES, positions=32))
    for path in vocabulary.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder
