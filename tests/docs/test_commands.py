"""The commands of the tutorials and of the README run as they are written, in their order, and print what is written."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cpm_gen.checkpoints.locate import EMBEDDED
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.text.cpm_tokenizer import VOCABULARY_FILE
from cpm_gen.text.make_vocabulary import NAMES_FILE
from tests.docs.console import ROOT, Command, Shell, commands, steps
from tests.docs.pages import FOLLOWED, reason
from tests.embedded import LIMIT, VOCABULARY
from tests.huggingface_folders import random_folder
from tests.random_networks import random_checkpoint

pytestmark = pytest.mark.slow

CHARACTERS = "最美的不是下雨天从前有座山里庙，。…"
STAND_INS = {  # what stands for the reader's own folders
    "change_mp.py /path/to/CPM": "change_mp.py other/CPM",  # the line before has resharded the first one
    "FOLDER": "CPM",
    "/path/to/CPM": "CPM",
    "/path/to/mine": "CPM-Generate",
    "/path/to/bpe_3w_new": "CPM",
}
ALPHABET = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that byte-level BPE shows as themselves


def sections(page: str) -> dict[str, str]:
    """The sections of a page that have commands to run, by heading."""
    parts = re.split(r"^## ", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {
        part.partition("\n")[0]: part
        for part in parts
        if any(reason(page, command.words) is None for command in commands(part))
    }


def run(text: str, page: str, shell: Shell) -> None:
    """Run the commands of a page, or of a part of it."""
    with contextlib.closing(shell):
        for step in steps(text):
            if not isinstance(step, Command):
                shell.write(step)
            elif reason(page, step.words) is None:
                shell.run(step)


@pytest.mark.parametrize("page", FOLLOWED)
def test_a_page_can_be_followed(page: str, tmp_path: Path) -> None:
    run((ROOT / page).read_text(encoding="utf-8"), page, Shell(tmp_path))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the checkout, with what the README expects of its reader: models, texts, a story."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("configs", "examples", "scripts", "change_mp.py"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "other").mkdir()
    cpm_gen = [sys.executable, "-m", "cpm_gen"]
    for cpm in (folder / "CPM", folder / "other" / "CPM"):  # like CPM-1, it can be cut for four ranks
        random_checkpoint(cpm, ModelSize(layers=2, hidden=64, heads=8, vocabulary=VOCABULARY, positions=512))
        for name in (VOCABULARY_FILE, NAMES_FILE):
            shutil.copy(EMBEDDED / name, cpm / name)
    for words in (
        ["convert", "embedded", "CPM-Generate", "--to", "hf"],
        ["export", "embedded", "model.onnx", "--format", "onnx"],
    ):
        subprocess.run([*cpm_gen, *words], cwd=folder, check=True, capture_output=True)
    bert_folder(folder / "gpt2-chinese-lyric")
    bert_folder(folder / "model" / "final_model")
    (folder / "cache").mkdir()
    shutil.move(folder / "model" / "final_model" / "vocab.txt", folder / "cache" / "vocab_small.txt")
    byte_level_folder(folder / "Wenzhong-GPT2-110M")
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("话说宋江自从上了梁山，众头领都来拜见，大排筵席，一连吃了数日。" * 3)
    # longer than the window, which eval-window measures past
    texts = ["话说林冲别了柴进，背上包裹，取路投梁山泊来。", "却说鲁智深离了五台山，取路投东京来。"]
    texts = [text * (LIMIT // 16 + 3) for text in texts]
    (folder / "held.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "opening.txt").write_text("话说天下大势，")
    (folder / "story.txt").write_text("[前提]\n林冲被高太尉陷害，逃出东京。\n")
    (folder / "outline.txt").write_text("[第一回 风雪山神庙] 60-80字\n林冲到了草料场。\n")
    (folder / "chapter.txt").write_text("这一夜风雪很大。次日天明，他便起了床。众人都在门外等候。")
    return folder


def bert_folder(folder: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(CHARACTERS)]
    random_folder(folder, vocab_size=len(words), n_positions=64)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")


def byte_level_folder(folder: Path) -> None:
    letters = [chr(byte) for byte in ALPHABET] + [chr(256 + n) for n in range(256 - len(ALPHABET))]
    words = {word: n for n, word in enumerate([*letters, "<|endoftext|>"])}
    random_folder(folder, vocab_size=len(words), n_positions=64, bos_token_id=256)
    (folder / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")


@pytest.mark.parametrize("section", sections("README.md"))
def test_the_commands_of_the_readme_run(section: str, checkout: Path) -> None:
    run(sections("README.md")[section], "README.md", Shell(checkout, STAND_INS))
