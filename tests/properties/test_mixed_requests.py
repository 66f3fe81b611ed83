"""What a request writes does not depend on its neighbours: 64 of all kinds at once, then each alone."""

from pathlib import Path

import numpy as np
import pytest

import cpm_gen
from cpm_gen.config.options import SamplingParams
from cpm_gen.engine.sequence import Request
from cpm_gen.llm import LLM
from tests.random_networks import SMALL, random_checkpoint

KINDS = (
    SamplingParams(temperature=0.0),
    SamplingParams(),
    SamplingParams(temperature=0.8, top_k=7, repetition_penalty=1.2),
    SamplingParams(top_p=0.9, min_p=0.02, no_repeat_ngram=3),
    SamplingParams(top_k=9, dry_multiplier=2, dry_allowed_length=1),
)


def requests(llm: LLM) -> list[Request]:
    """Prompts shorter and longer than the window of 15, texts that end before it moves and after many moves."""
    rng = np.random.default_rng(5)
    return [
        Request(
            prompt=tuple(rng.integers(0, SMALL.vocabulary, rng.integers(1, 30)).tolist()),
            window=llm.window,
            ends=None,
            params=KINDS[i % len(KINDS)],
            seed=int(rng.integers(0, 2**63)),
            sample_index=i % 3,
            max_new_tokens=int(rng.integers(1, 48)),
        )
        for i in range(64)
    ]


def written(llm: LLM, batch: list[Request]) -> list[list[int]]:
    sequences = [llm.engine.token_engine.add(request) for request in batch]
    while llm.engine.token_engine.busy:
        llm.engine.token_engine.step()
    assert all(s.finish_reason == "length" for s in sequences)
    return [s.new_tokens for s in sequences]


@pytest.mark.parametrize(
    ("kernels", "degree", "precision"),
    [
        ("native", 1, {}),
        pytest.param("native", 2, {}, marks=pytest.mark.slow),
        ("torch", 1, {}),
        ("native", 1, {"quantize": "int8", "kv_cache": "int8"}),
    ],
)
def test_together_as_alone(kernels: str, degree: int, precision: dict[str, str], tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "network")
    with cpm_gen.load(folder, kernels=kernels, tensor_parallel=degree, batch=12, window_hop=5, **precision) as llm:
        batch = requests(llm)
        together = written(llm, batch)
        counts = llm.engine.scheduler.counts
        assert counts.slides > 50
        assert counts.ahead > counts.at_once  # most next windows were encoded beside decoding
        assert together == [written(llm, [request])[0] for request in batch]
        assert len({tuple(tokens) for tokens in together}) > 50
