"""Small models in the forms that people own, against what transformers computes with them; and folders that must be refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cpm_gen
from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.config.options import SamplingParams
from cpm_gen.engine.sequence import Request
from cpm_gen.errors import CheckpointError
from cpm_gen.llm import LLM
from cpm_gen.networks.interface import Segment
from tests.reference_data import arrays

NAMES = (
    "cpm-small-hub",
    "gelu-small",
    "gpt2-chinese-2019",
    "openai-small",
    "scaled-small",
    "sharded-small",
    "uer-small",
)
ON_THE_TOKENIZER = ("vocab-too-big", "vocab-not-utf8")  # these fail when the tokenizer is loaded
BROKEN = (
    *("missing-tensor", "transposed", "wrong-shape", "config-more-layers", "config-fewer-layers", "config-heads"),
    *("config-vocabulary", "config-activation", "config-cross-attention", "not-gpt2", "bert", "no-config", "bad-json"),
    *(
        "truncated-safetensors",
        "index-names-missing-file",
        "lfs-pointer",
        "tensorflow-only",
        "empty-folder",
        "evil-zip",
    ),
)


@pytest.fixture
def folders(reference: Path) -> Path:
    if not (reference / "hf").is_dir():
        pytest.skip("no Hugging Face folders in the reference data")
    return reference / "hf"


def expected(folders: Path, name: str) -> Any:
    return json.loads((folders / "ok" / f"{name}.expected.json").read_text())


def greedy(llm: LLM, prompt: list[int], count: int) -> list[int]:
    request = Request(tuple(prompt), llm.window, None, SamplingParams(temperature=0.0), 0, max_new_tokens=count)
    written = llm.engine.token_engine.add(request)
    while llm.engine.token_engine.busy:
        llm.engine.token_engine.step()
    return list(written.tokens[len(prompt) :])


def check(folders: Path, name: str, **options: Any) -> None:
    """Logits, log-probabilities and greedy text inside and past the window are those of transformers."""
    said = expected(folders, name)
    recorded = arrays(folders / "ok" / f"{name}.logits.npz")
    with cpm_gen.load(folders / "ok" / name, window_hop=1, dtype="float32", **options) as llm:
        size = llm.size
        assert (size.layers, size.hidden, size.heads) == (said["layers"], said["hidden"], said["heads"])
        assert (size.positions, size.vocabulary) == (said["positions"], said["vocabulary"])
        assert llm.window.limit == said["greedy_beyond_hop1_limit"]
        for ids, want in zip(recorded["ids"].tolist(), recorded["logits"], strict=True):
            segments = [Segment(ids[: n + 1]) for n in range(len(ids))]
            got = llm.engine.loaded.runner.next_logits(segments).numpy()
            assert np.abs(got - want).max() < 1e-4
        assert llm.score(said["input_ids"][0])[1:] == pytest.approx(said["score_of_first_row"][1:], abs=1e-4)
        assert greedy(llm, said["greedy_prompt"], len(said["greedy"])) == said["greedy"]
        assert greedy(llm, said["greedy_beyond_prompt"], len(said["greedy_beyond"])) == said["greedy_beyond"]


@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_computes_what_transformers_computes(folders: Path, name: str, kernels: str) -> None:
    check(folders, name, kernels=kernels)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kernels"), [("uer-small", "native"), ("scaled-small", "native"), ("gelu-small", "torch")]
)
def test_two_ranks_compute_what_transformers_computes(folders: Path, name: str, kernels: str) -> None:
    check(folders, name, kernels=kernels, tensor_parallel=2)


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize("name", NAMES)
def test_every_folder_on_two_ranks(folders: Path, name: str, kernels: str) -> None:
    check(folders, name, kernels=kernels, tensor_parallel=2)


def test_16_bit_weights_stay_16_bits(folders: Path) -> None:
    checkpoint = open_checkpoint(folders / "ok" / "sharded-small")
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {torch.float16}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_one_line_with_the_right_words(
    folders: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    monkeypatch.setenv("CPM_CANARY", str(canary))
    folder = tmp_path if name == "empty-folder" else folders / "broken" / name
    words = json.loads((folders / "broken" / "why.json").read_text())[name]["message_must_name"]
    with pytest.raises(CheckpointError) as caught:
        cpm_gen.load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert not canary.exists()


def test_no_folder_is_left_out(folders: Path) -> None:
    assert {*BROKEN, *ON_THE_TOKENIZER} >= json.loads((folders / "broken" / "why.json").read_text()).keys()
    assert set(NAMES) >= json.loads((folders / "ok" / "index.json").read_text())["folders"].keys()
