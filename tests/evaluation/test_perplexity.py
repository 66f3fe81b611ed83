"""Losses equal a plain computation over each window; intervals and differences behave as intervals do."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from cpm_gen.engine.window import Window
from cpm_gen.errors import InputError
from cpm_gen.evaluation.confidence import bootstrap
from cpm_gen.evaluation.perplexity import difference, evaluate
from cpm_gen.evaluation.scorer import ModelScorer
from cpm_gen.networks.interface import Segment
from cpm_gen.networks.torch.model import TorchModel
from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.text.documents import Document
from tests.evaluation.conftest import TEXT


class FakeScorer:
    """A token a character; the loss of a token is its id, that of characters below the unknown one."""

    name = "fake"
    unknown = frozenset({0})

    def __init__(self, factor: float = 1.0) -> None:
        self._factor = factor

    def encode(self, text: str) -> list[int]:
        return [0 if c == "?" else ord(c) % 7 + 1 for c in text]

    def first_characters(self, ids: Sequence[int]) -> int:
        return 1

    def score(self, ids: Sequence[int]) -> Iterator[list[float]]:
        for at in range(1, len(ids), 3):
            yield [-self._factor * i for i in ids[at : at + 3]]

    def score_after(self, context: Sequence[int], targets: Sequence[int]) -> list[float]:
        return [-self._factor * i for i in targets]


class OneCharacterShort(FakeScorer):
    """Texts of two characters, of which the first token holds both."""

    unknown = frozenset()

    def first_characters(self, ids: Sequence[int]) -> int:
        return 2


def documents(*texts: str) -> list[Document]:
    return [Document(f"d{n}", text) for n, text in enumerate(texts)]


def logprob(network: TorchModel, context: Sequence[int], target: int) -> float:
    logits = network.next_logits([Segment(context)], None)[0]
    return float(torch.log_softmax(logits.double(), dim=0)[target])


def test_a_short_document_is_scored_as_the_network_predicts_each_token(engine: TextEngine, network: TorchModel) -> None:
    ids = engine.vocabulary.encode(TEXT)
    expected = -sum(logprob(network, ids[:t], ids[t]) for t in range(1, len(ids)))
    (found,) = evaluate(ModelScorer(engine), documents(TEXT)).documents
    assert (found.tokens, found.unknown, found.complete) == (len(ids) - 1, 0, True)
    assert found.nats == pytest.approx(expected, abs=1e-3)
    assert found.characters == len(TEXT) - len(engine.vocabulary.tokenizer.decode(ids[:1]))


def test_a_stride_scores_the_first_window_whole_and_then_the_new_tokens(
    engine: TextEngine, network: TorchModel
) -> None:
    limit, stride = 12, 5
    ids = engine.vocabulary.encode(TEXT)[:36]
    # the plain way: whole windows at 0, stride, 2 * stride, …; each scores what no earlier one did
    expected, scored = 0.0, 1
    for begin in range(0, len(ids), stride):
        for t in range(scored, min(begin + limit + 1, len(ids))):
            expected -= logprob(network, ids[begin:t], ids[t])
        scored = max(scored, begin + limit + 1)
    scorer = ModelScorer(engine, window=Window(limit, stride))
    assert -sum(p for part in scorer.score(ids) for p in part) == pytest.approx(expected, abs=1e-3)


def test_figures_follow_from_the_sums() -> None:
    found = evaluate(FakeScorer(), documents("abcd", "bcdefg", "ab?c"))
    ids = [FakeScorer().encode(d.text) for d in documents("abcd", "bcdefg", "ab?c")]
    nats = sum(i for each in ids for i in each[1:])
    assert (found.tokens, found.unknown, found.characters) == (10, 1, 10)
    figures = found.figures()
    assert figures["loss_per_token"].value == pytest.approx(nats / 10)
    assert figures["perplexity_per_character"].value == pytest.approx(math.exp(nats / 10))
    assert figures["bits_per_character"].value == pytest.approx(nats / 10 / math.log(2))
    low, high = figures["loss_per_token"].interval or (0, 0)
    assert low <= nats / 10 <= high
    assert low < high


def test_the_seed_determines_the_interval_and_one_document_has_none() -> None:
    texts = documents(*("abcdefg"[n % 5 :] * 3 for n in range(9)))
    first, again, other = (evaluate(FakeScorer(), texts, seed=s).to_json() for s in (1, 1, 2))
    first["seconds"] = again["seconds"] = first["tokens_per_second"] = again["tokens_per_second"] = 0
    assert first == again
    assert first["loss_per_token"]["interval"] != other["loss_per_token"]["interval"]
    assert evaluate(FakeScorer(), documents("abcdef")).figures()["loss_per_token"].interval is None


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(5)
    held = 0
    for trial in range(200):
        lengths = random.integers(5, 50, size=40).astype(float)
        nats = lengths * random.gamma(4.0, 0.5, size=40)  # mean 2 a token
        ((low, high),) = bootstrap(np.stack([lengths, nats], 1), lambda s: s[:, 1:] / s[:, :1], trial) or [(0, 0)]
        held += low <= 2.0 <= high
    assert 170 <= held <= 200  # 95 % of 200 is 190; with 40 documents the bootstrap is a little short


def test_two_models_are_compared_on_pairs_of_documents() -> None:
    texts = documents(*("abcdefg"[n % 5 :] * (n + 1) for n in range(12)))
    one, other = evaluate(FakeScorer(), texts), evaluate(FakeScorer(1.02), texts)
    found = difference(one, other)
    assert found is not None
    assert found.better == "this"
    assert found.documents == 12
    mean = one.figures()["loss_per_token"].value
    assert found.per_token is not None
    assert found.per_token.value == pytest.approx(-0.02 * mean)
    # documents differ far more than the models do: only pairs show the difference
    low, high = found.per_token.interval or (0, 0)
    own = one.figures()["loss_per_token"].interval or (0, 0)
    assert high - low < (own[1] - own[0]) / 10
    same = difference(one, one)
    assert same is not None
    assert same.better is None


def test_what_is_finished_counts_after_an_interruption() -> None:
    asked = iter([False, False, True])
    texts = documents("abcd", "abcdefghijk", "zzz")
    found = evaluate(FakeScorer(), texts, stop=lambda: next(asked))
    assert found.interrupted
    assert [(d.name, d.tokens, d.complete) for d in found.documents] == [("d0", 3, True), ("d1", 6, False)]
    assert found.documents[1].characters == pytest.approx(10 * 6 / 10)
    whole = evaluate(FakeScorer(), texts)
    compared = difference(found, whole)
    assert compared is not None
    assert compared.documents == 1


def test_what_no_float_holds_is_no_figure() -> None:
    texts = documents("abcd", "bcdefg", "gfe")
    figures = evaluate(FakeScorer(1000.0), texts).figures()
    assert figures["loss_per_token"].value == pytest.approx(3500)  # e to that is above 1e308
    assert figures["perplexity_per_token"].value is None
    assert figures["perplexity_per_token"].interval == (None, None)
    nothing = documents("a?", "b?", "c?")  # no character is left once the unknown ones are taken off
    found = evaluate(OneCharacterShort(), nothing)
    assert found.characters == 0
    assert found.figures()["loss_per_character"].to_json() == {"value": None, "interval": (None, None)}
    compared = difference(found, found)
    assert compared is not None
    assert compared.per_character.value is None
    assert compared.better is None


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[int, int]] = []
    evaluate(FakeScorer(), documents("abcd", "abcdefgh"), progress=lambda *done: seen.append(done))
    assert seen == sorted(seen)
    assert seen[-1] == (12, 10)


def test_documents_without_two_tokens_are_named() -> None:
    found = evaluate(FakeScorer(), documents("a", " ", "abc"))
    assert found.short == ("d0", "d1")
    with pytest.raises(InputError, match=r"d0 \(and 1 more\): fewer than two tokens"):
        evaluate(FakeScorer(), documents("a", ""))
    with pytest.raises(InputError, match="no document"):
        evaluate(FakeScorer(), [])
    with pytest.raises(InputError, match="knows none"):
        evaluate(FakeScorer(), documents("a???"))


def test_text_that_is_not_unicode_names_its_document(engine: TextEngine) -> None:
    with pytest.raises(InputError, match="d0: the text holds a lone surrogate"):
        evaluate(ModelScorer(engine), documents("从\ud800前"))
