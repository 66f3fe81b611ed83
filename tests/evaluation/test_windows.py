"""Scores of windows and of the stale cache equal plain computations; the report's figures follow from the scores."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from cpm_gen.config.options import SamplingParams, TextOptions
from cpm_gen.engine.window import Window
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.evaluation.measure_windows import WindowPlan, measure_windows
from cpm_gen.evaluation.scorer import ModelScorer
from cpm_gen.evaluation.stale_cache import score_stale, write_stale
from cpm_gen.evaluation.variety import distinct, ends_low, human_bound, variety
from cpm_gen.evaluation.window_report import columns, report_methods
from cpm_gen.evaluation.windows import Method, Scores, long_texts, methods, score_windows
from cpm_gen.networks.torch.model import TorchModel
from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.text.documents import Document
from tests.embedded import VOCABULARY
from tests.evaluation.conftest import TEXT
from tests.evaluation.test_perplexity import logprob

LIMIT = 12


@pytest.fixture
def ids(engine: TextEngine) -> list[int]:
    return engine.vocabulary.encode(TEXT)[:36]


def stale_logprobs(network: TorchModel, ids: Sequence[int], limit: int) -> list[float]:
    """The stale cache without a cache: attention to the last ``limit`` tokens by a mask, every position from ``limit - 1`` on the last.

    Written from the formulas of GPT-2 over the parameters alone.
    """
    p = {name: value.double() for name, value in network.named_parameters()}
    n, heads, f = len(ids), network.size.heads, torch.nn.functional
    at = torch.arange(n)
    x = p["word_embeddings.weight"][torch.tensor(ids)] + p["position_embeddings.weight"][at.clamp(max=limit - 1)]
    seen = (at[None] <= at[:, None]) & (at[None] > at[:, None] - limit)

    def linear(y: torch.Tensor, name: str) -> torch.Tensor:
        return y @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(y: torch.Tensor, name: str) -> torch.Tensor:
        return f.layer_norm(y, y.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], 1e-5)

    for layer in range(network.size.layers):
        name = f"transformer.layers.{layer}"
        q, k, v = linear(norm(x, f"{name}.input_layernorm"), f"{name}.attention.query_key_value").chunk(3, dim=-1)
        q, k, v = (y.view(n, heads, -1).transpose(0, 1) for y in (q, k, v))
        weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).masked_fill(~seen, -math.inf).softmax(-1)
        x = x + linear((weights @ v).transpose(0, 1).reshape(n, -1), f"{name}.attention.dense")
        hidden = f.gelu(
            linear(norm(x, f"{name}.post_attention_layernorm"), f"{name}.mlp.dense_h_to_4h"), approximate="tanh"
        )
        x = x + linear(hidden, f"{name}.mlp.dense_4h_to_h")
    logits = norm(x, "transformer.final_layernorm") @ p["word_embeddings.weight"].T
    logprobs = torch.log_softmax(logits, dim=-1)
    return [float(logprobs[t - 1, ids[t]]) for t in range(1, n)]


def test_a_hop_of_1_shows_every_token_the_fullest_window(
    engine: TextEngine, network: TorchModel, ids: list[int]
) -> None:
    every = 5
    method = Method("hop 1", Window(LIMIT, 1))
    found = score_windows(ModelScorer(engine), [ids], method, every=every)
    whole = score_windows(ModelScorer(engine), [ids], method)
    assert found is not None
    assert whole is not None
    expected = [-logprob(network, ids[max(0, t - LIMIT) : t], ids[t]) for t in range(1, len(ids))]
    assert whole.nats[0, 1:] == pytest.approx(expected, abs=1e-3)
    scored = [*range(1, LIMIT + 1), *range(LIMIT + 1, len(ids), every)]
    assert np.flatnonzero(~np.isnan(found.nats[0])).tolist() == scored
    assert found.nats[0, scored] == pytest.approx([expected[t - 1] for t in scored], abs=1e-3)


@pytest.mark.parametrize(("hop", "keep"), [(5, 0), (4, 3)])
def test_a_hop_scores_each_token_with_its_window(
    engine: TextEngine, network: TorchModel, ids: list[int], hop: int, keep: int
) -> None:
    found = score_windows(ModelScorer(engine), [ids], Method("m", Window(LIMIT, hop, keep=keep)))
    assert found is not None
    start, since = keep, -1
    for t in range(1, len(ids)):
        since += since >= 0
        while keep + t - start > LIMIT:
            start, since = start + hop, 0
        context = ids[:t] if t <= keep else ids[:keep] + ids[start:t]
        assert found.nats[0, t] == pytest.approx(-logprob(network, context, ids[t]), abs=1e-3)
        assert found.since_slide[0, t] == since


def test_the_stale_cache_equals_a_mask_over_the_whole_text(network: TorchModel, ids: list[int]) -> None:
    found = score_stale(network, [ids, ids[::-1]], LIMIT)
    assert found is not None
    for text, scores in zip((ids, ids[::-1]), found, strict=True):
        assert scores == pytest.approx(stale_logprobs(network, text, LIMIT), abs=1e-3)
    # inside the window it is right, past it it is not
    right = [logprob(network, ids[max(0, t - LIMIT) : t], ids[t]) for t in range(1, len(ids))]
    assert found[0][:LIMIT] == pytest.approx(right[:LIMIT], abs=1e-3)
    assert max(abs(a - b) for a, b in zip(found[0][LIMIT:], right[LIMIT:], strict=True)) > 0.1


def test_writing_with_the_stale_cache_follows_its_own_scores(
    engine: TextEngine, network: TorchModel, ids: list[int]
) -> None:
    greedy, text = SamplingParams(temperature=0), TextOptions(max_new_tokens=1, seed=1)
    requests = engine.requests([ids[:5], ids[5:8]], greedy, text)
    written = write_stale(network, requests, LIMIT, 20)
    assert written is not None
    for request, new in zip(requests, written, strict=True):
        assert len(new) == 20
        whole = [*request.prompt, *new]
        scores = score_stale(network, [whole], LIMIT)
        assert scores is not None
        # no token beats the chosen one; banned <unk> would
        for t in range(len(request.prompt), len(whole)):
            rival = [*whole[:t], whole[t] + 1 if whole[t] + 1 < VOCABULARY else 1]
            other = score_stale(network, [rival], LIMIT)
            assert other is not None
            assert scores[0][t - 1] >= other[0][-1]
    inside = engine.run([list(requests[0].prompt)], greedy, TextOptions(max_new_tokens=LIMIT - 5, seed=1))
    assert [i for chunk in inside for i in chunk.token_ids] == written[0][: LIMIT - 5]


def test_the_methods_are_those_that_fit_the_window() -> None:
    assert [m.name for m in methods(Window(511, 255), None, None)] == [
        "hop 1", "hop 64", "hop 128", "hop 255", "keep 63, hop 255", "stale cache",
    ]  # fmt: skip
    assert [m.name for m in methods(Window(1023, 511), None, 0)][-2:] == ["hop 511", "stale cache"]
    assert [m.name for m in methods(Window(511, 100, keep=20), [1], None, stale=False)] == ["hop 1", "keep 20, hop 100"]
    with pytest.raises(ConfigError, match="hop must be from 1 to 511"):
        methods(Window(511, 255), [512], None)
    with pytest.raises(ConfigError, match="keep must be from 0 to 510"):
        methods(Window(511, 255), None, 511)


def test_texts_are_documents_joined_and_cut(engine: TextEngine) -> None:
    scorer = ModelScorer(engine)
    documents = [Document("a", "春江潮水连海平"), Document("b", " "), Document("c", "海上明月共潮生")]
    first, second = (engine.vocabulary.encode(documents[n].text) for n in (0, 2))
    joined = [*first, 7, *second, 7]
    assert long_texts(scorer, documents, 5, 2, 3) == [joined[:5], joined[5:10]]
    assert long_texts(scorer, documents, 1000, 2, 3) == [joined]
    with pytest.raises(InputError, match="the window moves first"):
        long_texts(scorer, documents, 1000, 2, 100)


def scores(name: str, window: Window | None, nats: np.ndarray) -> Scores:
    since = np.full(nats.shape, -1)
    if window is not None:
        past = np.arange(nats.shape[1]) - window.limit - 1
        since[:, past >= 0] = past[past >= 0] % window.hop
    return Scores(Method(name, window), nats, since)


def test_the_report_compares_the_tokens_that_all_methods_scored() -> None:
    limit, hop, length = 100, 80, 1500
    one = np.full((2, length), 2.0)
    one[:, 0] = one[:, limit + 2 :: 2] = math.nan
    other = np.full((2, length), 2.0)
    other[:, limit + 1 :] += 0.1
    wide = scores("hop 80", Window(limit, hop), other)
    after = (wide.since_slide >= 0) & (wide.since_slide < 32)
    other[after] += 0.3
    (first, second), compared = report_methods([scores("hop 1", Window(limit, 1), one), wide], limit, 0)
    assert compared == 2 * len(range(limit + 1, length, 2))
    assert first.past == pytest.approx(math.exp(2))
    assert first.against_hop_1 is None
    assert second.by_position.keys() == {"0-1k", "1-2k"}
    assert second.after_slide == pytest.approx(math.exp(2.4))
    assert second.mid_window == pytest.approx(math.exp(2.1))
    assert second.after_slide_against_hop_1 is not None
    assert second.after_slide_against_hop_1.value == pytest.approx(math.expm1(0.4))
    assert second.mid_window_against_hop_1 is not None
    assert second.mid_window_against_hop_1.value == pytest.approx(math.expm1(0.1))
    assert second.against_hop_1 is not None
    low, high = second.against_hop_1.interval or (0, 0)
    assert low < second.against_hop_1.value < high


def test_a_report_of_a_hopeless_model_holds_no_number_that_json_does_not_have() -> None:
    one, other = np.full((2, 1500), 2.0), np.full((2, 1500), 2000.0)
    hopeless = scores("hop 80", Window(100, 80), other)
    (_, found), _ = report_methods([scores("hop 1", Window(100, 1), one), hopeless], 100, 0)
    assert found.past is None
    assert set(found.by_position.values()) == {None}
    assert found.against_hop_1 is not None
    assert found.against_hop_1.to_json() == {"value": None, "interval": (None, None)}


def test_columns_end_with_all_from_8_000_on() -> None:
    assert columns(1500) == [("0-1k", 0, 1000), ("1-2k", 1000, 1500)]
    assert columns(10_000)[-1] == ("8k+", 8000, 10_000)
    assert [name for name, _, _ in columns(8000)][-1] == "7-8k"


def test_variety_tells_loops_from_human_text() -> None:
    human = ["".join(chr(0x4E00 + (i * i * 7 + i) % 997) for i in range(600))]
    loop = ["五十两十四两" * 100]
    bound = human_bound(human)
    assert bound is not None
    assert distinct("abab", 2) == pytest.approx(2 / 3)
    found = variety(loop, bound)
    assert found.low_variety == 1.0
    assert found.repeated_4 > 0.9
    assert variety(human, bound).low_variety == pytest.approx(0, abs=0.15)
    assert variety(loop, None).low_variety is None


def test_a_text_is_stuck_if_its_end_has_low_variety() -> None:
    human = "".join(chr(0x4E00 + (i * i * 7 + i) % 997) for i in range(600))
    loop = "五十两十四两" * 100
    bound = human_bound([human])
    assert bound is not None
    assert ends_low(human + loop, bound)
    assert not ends_low(loop + human, bound)
    assert not ends_low(loop[:199], bound)  # shorter than a stretch


def test_everything_together_on_a_small_window(engine: TextEngine) -> None:
    plan = WindowPlan(length=40, texts=2, hops=[1, 6], keep=2, every=3, generate=20, text=TextOptions(seed=3))
    small = engine.window
    engine.window = Window(LIMIT, 6)
    try:
        seen: list[str] = []
        report = measure_windows(
            engine, [Document("d", TEXT * 3)], plan, progress=lambda what, done, of: seen.append(what)
        )
        again = measure_windows(engine, [Document("d", TEXT * 3)], plan)
    finally:
        engine.window = small
    assert report == again
    assert [m.name for m in report.methods] == ["hop 1", "hop 6", "keep 2, hop 6", "stale cache"]
    assert {"hop 1", "hop 6", "hop 6, writing", "stale cache", "stale cache, writing"} <= set(seen)
    content = report.to_json()
    assert content["methods"][1]["against_hop_1"]["interval"] is not None
    assert [g["name"] for g in content["generated"]] == ["human", "hop 6", "keep 2, hop 6", "stale cache"]
    assert not report.interrupted


def test_variety_counts_the_token_of_a_lines_end_as_a_newline(engine: TextEngine) -> None:
    plan = WindowPlan(length=520, texts=1, hops=[6], stale=False, generate=1, text=TextOptions(style="lyric", seed=3))
    small = engine.window
    engine.window = Window(LIMIT, 6)
    try:
        report = measure_windows(engine, [Document("d", "春\n" * 300)], plan)
    finally:
        engine.window = small
    generated = {found["name"]: found["by_position"] for found in report.to_json()["generated"]}
    assert generated["human"]["0-1k"]["distinct_1"] == pytest.approx(2 / 520)
