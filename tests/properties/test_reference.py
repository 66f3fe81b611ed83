"""The original code's recorded results: logits, and greedy texts from both decoders at degrees 1, 2 and 4."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import cpm_gen
from cpm_gen.llm import LLM
from cpm_gen.networks.interface import Segment
from tests.reference_data import arrays

WINDOWS = {
    "plain": {"window_hop": 1, "window_boundary": "token"},
    "dynamic": {"window_hop": 1, "window_boundary": "eod"},
}


@pytest.fixture(
    scope="module", params=[1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4))], ids=lambda p: f"degree{p}"
)
def degree(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module", params=["cached", "recompute"])
def decoder(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=list(WINDOWS))
def window(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def llm(reference: Path, degree: int, decoder: str, window: str) -> Iterator[LLM]:
    with cpm_gen.load(
        reference / "original" / "tinyA",
        tokenizer=reference / "vocab",
        heads=8,
        decoder=decoder,
        tensor_parallel=degree,
        **WINDOWS[window],
    ) as llm:
        yield llm


def test_greedy_texts_are_the_originals_token_for_token(llm: LLM, reference: Path, window: str) -> None:
    runs = json.loads((reference / "original" / "generate.json").read_text(encoding="utf-8"))
    runs = [r for r in runs if (r["script"] == "lyric_dynamic") == (window == "dynamic")]
    assert runs
    if llm.options.tensor_parallel == 4:  # four processes on two cores: one text past the window is enough
        runs = runs[:1]
    for run in runs:
        style = "lyric" if run["script"].startswith("lyric") else "novel"
        completion = llm.generate(
            run["prompt"], style=style, temperature=0, max_new_tokens=run["total_length"] - len(run["context_ids"])
        )
        assert list(completion.prompt_token_ids) == run["context_ids"], run["name"]
        assert list(completion.token_ids) == run["new_ids"], run["name"]
        shown = run["result_txt"].split("CPM:\n")[1]
        for marker in (f"[{run['positions']}]", f"[{run['total_length']}]"):
            shown = shown.replace(marker, "", 1)
        assert completion.text.startswith(shown[:40])


def test_logits_are_the_originals(llm: LLM, reference: Path) -> None:
    recorded = arrays(reference / "original" / "logits.npz")
    for i in range(sum(k.startswith("ids_") for k in recorded)):
        ids = recorded[f"ids_{i}"].tolist()
        (logits,) = llm.engine.loaded.runner.next_logits([Segment(ids)])
        np.testing.assert_allclose(logits.numpy(), recorded[f"last_logits_{i}"], atol=1e-4, rtol=0)


def test_scores_are_the_originals(llm: LLM, reference: Path) -> None:
    recorded = arrays(reference / "original" / "logits.npz")
    for i in range(sum(k.startswith("ids_") for k in recorded)):
        ids = recorded[f"ids_{i}"].tolist()
        scores = llm.score(ids)
        assert scores[0] is None
        assert len(scores) == len(ids)
        best, logits = recorded[f"top8_ids_{i}"], recorded[f"top8_logits_{i}"]
        for row, token in enumerate(ids[1:]):  # rows whose true token is among the recorded eight
            for column in np.flatnonzero(best[row] == token):
                expected = logits[row, column] - recorded[f"logsumexp_{i}"][row]
                assert scores[row + 1] == pytest.approx(expected, abs=1e-4)
    # every column of a last row, through score(): append each of the eight best
    ids = recorded["ids_4"].tolist()
    for token, logit in zip(recorded["top8_ids_4"][-1], recorded["top8_logits_4"][-1], strict=True):
        expected = logit - recorded["logsumexp_4"][-1]
        assert llm.score([*ids, int(token)])[-1] == pytest.approx(expected, abs=1e-4)


def test_every_segment_of_a_batch_gets_its_own_logits(llm: LLM, reference: Path) -> None:
    recorded = arrays(reference / "original" / "logits.npz")
    count = sum(k.startswith("ids_") for k in recorded)
    logits = llm.engine.loaded.runner.next_logits([Segment(recorded[f"ids_{i}"].tolist()) for i in range(count)])
    expected = torch.from_numpy(np.stack([recorded[f"last_logits_{i}"] for i in range(count)]))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
