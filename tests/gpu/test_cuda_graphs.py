"""The network in fixed buffers against the oracle: on the CPU, and on a GPU with its graphs where there is one."""

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.config.options import SamplingParams
from cpm_gen.engine.engine import Engine
from cpm_gen.engine.model_runner import ModelRunner
from cpm_gen.engine.scheduler import CachedScheduler, RecomputeScheduler
from cpm_gen.engine.sequence import Request, Sequence
from cpm_gen.engine.window import Window
from cpm_gen.networks.cuda_graphs import model
from cpm_gen.networks.cuda_graphs.layer_ops import RowOps, TorchOps
from cpm_gen.networks.cuda_graphs.model import GraphedModel
from cpm_gen.networks.interface import Segment
from cpm_gen.networks.torch.load_weights import load_into
from cpm_gen.networks.torch.model import TorchModel
from cpm_gen.parallel.group import TensorParallel
from cpm_gen.sampling.ranking import Sentences
from tests.huggingface_folders import ODD, random_folder
from tests.random_networks import SMALL, random_checkpoint

LONG = ModelSize(
    layers=2, hidden=48, heads=3, vocabulary=120, positions=600
)  # more positions than rows fit into a pass


def load(
    folder: Path, size: ModelSize, device: str = "cpu", dtype: torch.dtype = torch.float32, quantized: bool = False
) -> TorchModel:
    checkpoint = open_checkpoint(folder)
    model = TorchModel(size, TensorParallel(), dtype=dtype, device=torch.device(device), quantized=quantized)
    load_into(model, checkpoint, rank=0, degree=1)
    return model


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchModel]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load(random_checkpoint(tmp_path_factory.mktemp("small")), SMALL)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> TorchModel:
    return load(random_checkpoint(tmp_path_factory.mktemp("long"), LONG), LONG)


def requests(count: int, keep: int = 0, seed: int = 1) -> list[Request]:
    """Prompts shorter and longer than the window, greedy and sampled in every way, of many lengths."""
    dice = random.Random(seed)
    kinds = (
        SamplingParams(temperature=0.0),
        SamplingParams(),
        SamplingParams(temperature=0.8, top_k=7, repetition_penalty=1.2),
        SamplingParams(top_p=0.9, min_p=0.02, no_repeat_ngram=3, banned_ids=(3, 4)),
    )
    return [
        Request(
            prompt=tuple(dice.randrange(SMALL.vocabulary) for _ in range(dice.randint(1, 30))),
            window=Window(SMALL.positions - 1, 5, "token", keep),
            ends=None,
            params=kinds[n % len(kinds)],
            seed=dice.getrandbits(63),
            sample_index=n % 3,
            max_new_tokens=dice.randint(1, 48),
            recompute=n % 7 == 5,
            logprobs=2 if n % 5 == 3 else None,
        )
        for n in range(count)
    ]


def write(engine: Engine, wanted: list[Request]) -> list[Sequence]:
    sequences = [engine.add(request) for request in wanted]
    while engine.busy:
        engine.step()
    return sequences


def oracle(model: TorchModel, wanted: list[Request]) -> list[list[int]]:
    runner = ModelRunner(model, 0)
    return [write(Engine(runner, RecomputeScheduler(), batch=1), [request])[0].new_tokens for request in wanted]


def check_texts(model: TorchModel, ops: RowOps, batch: int, keep: int, count: int) -> None:
    wanted = requests(count, keep)
    decoder = CachedScheduler(batch, batch + batch // 2, budget=16)
    engine = Engine(ModelRunner(GraphedModel(model, ops), decoder.slots), decoder, batch=batch)
    sequences = write(engine, wanted)
    assert [s.new_tokens for s in sequences] == oracle(model, wanted)
    assert decoder.counts.slides > 5
    for sequence in sequences:
        if sequence.request.logprobs is not None:
            assert len(sequence.likelihoods) == sequence.step
            assert [found.token for found in sequence.likelihoods] == sequence.new_tokens


@pytest.mark.parametrize("batch", range(1, 9))
def test_texts_are_the_oracles(small: TorchModel, batch: int) -> None:
    check_texts(small, TorchOps(), batch, keep=3 * (batch % 2), count=10)


def test_texts_of_a_quantized_network_are_its_oracles(tmp_path: Path) -> None:
    check_texts(load(random_checkpoint(tmp_path), SMALL, quantized=True), TorchOps(), 4, keep=3, count=10)


def test_leaving_in_the_middle_disturbs_nobody(small: TorchModel) -> None:
    wanted = requests(12, seed=2)
    engine = Engine(ModelRunner(GraphedModel(small, TorchOps()), 6), CachedScheduler(4, 6, budget=9), batch=4)
    sequences = [engine.add(request) for request in wanted]
    dice, steps = random.Random(3), 0
    while engine.busy:
        engine.step()
        steps += 1
        if steps % 9 == 0:
            engine.cancel(dice.choice(sequences))
    cancelled = [s.finish_reason == "cancelled" for s in sequences]
    assert 2 < sum(cancelled) < 9
    for sequence, expected in zip(sequences, oracle(small, wanted), strict=True):
        assert sequence.new_tokens == expected[: sequence.step]


def test_candidates_for_a_sentence_are_the_oracles(small: TorchModel) -> None:
    sentences = Sentences(lambda ids: "".join(chr(0x4E00 + i) for i in ids), frozenset(range(0, 120, 9)))
    wanted = [
        dataclasses.replace(r, candidates=count, sentences=sentences)
        for r, count in zip(requests(4), (3, 1, 4, 2), strict=True)
    ]
    runner = ModelRunner(GraphedModel(small, TorchOps()), 16)
    written = write(Engine(runner, CachedScheduler(10, 16, 40), batch=10), wanted)
    plain = write(Engine(ModelRunner(small, 0), RecomputeScheduler(), batch=10), wanted)
    assert [s.tokens for s in written] == [s.tokens for s in plain]


def check_logits(model: TorchModel, ops: RowOps, bound: float) -> None:
    """Chunks of any length in any company, passes that are cut, rows that fill up: the logits of the whole context."""
    dice = random.Random(4)
    ids = [[dice.randrange(model.size.vocabulary) for _ in range(600)] for _ in range(3)]
    runner = ModelRunner(GraphedModel(model, ops), 5)
    slots = dice.sample(range(5), 3)
    at = [0, 0, 0]
    for counts in ([1, 1, 1], [1, 16, 17], [550, 1, 40], [3, 0, 500], [1, 1, 42], [44, 1, 0], [0, 530, 0]):
        segments = [
            Segment(ids[n][at[n] : at[n] + count], at[n], slots[n], logits=count != 40)
            for n, count in enumerate(counts)
            if count
        ]
        segments.insert(1, Segment(ids[0][:9]))  # without a slot
        at = [a + count for a, count in zip(at, counts, strict=True)]
        whole = [Segment(ids[n][: at[n]]) for n, count in enumerate(counts) if count not in (0, 40)]
        whole.insert(1, segments[1])
        got, want = runner.next_logits(segments), model.next_logits(whole, None)
        assert got.dtype == torch.float32
        assert float((got - want).abs().max() / want.std()) < bound


def test_logits_of_any_chunks_are_those_of_the_whole_context(long: TorchModel) -> None:
    check_logits(long, TorchOps(), 1e-4)


def test_a_network_that_differs_from_cpm_1_in_everything(tmp_path: Path) -> None:
    random_folder(tmp_path, **{**ODD, "n_positions": 600})
    checkpoint = open_checkpoint(tmp_path)
    model = TorchModel(
        checkpoint.size(4), TensorParallel(), checkpoint.variant, dtype=torch.float32, device=torch.device("cpu")
    )
    load_into(model, checkpoint, rank=0, degree=1)
    check_logits(model, TorchOps(), 1e-4)


def test_a_step_that_wants_no_logits(small: TorchModel) -> None:
    runner = ModelRunner(GraphedModel(small, TorchOps()), 2)
    assert runner.next_logits([Segment([1, 2, 3], 0, 1, logits=False)]).shape == (0, 120)
    assert torch.allclose(
        runner.next_logits([Segment([4], 3, 1)]), small.next_logits([Segment([1, 2, 3, 4])], None), atol=1e-5
    )


def test_what_lies_in_unused_places_is_never_seen(small: TorchModel) -> None:
    """Not even NaN, which a sequence before may have left; rows that fill up write to the slot of nobody."""
    model = GraphedModel(small, TorchOps())
    runner = ModelRunner(model, 3)
    with torch.inference_mode():
        runner.cache.store.fill_(torch.nan)
    segments = [Segment([1, 2, 3], 0, 1), Segment([5, 6], 0, 0)]  # 5 rows in a pass of 8
    want = small.next_logits([Segment(s.ids) for s in segments], None)
    torch.testing.assert_close(runner.next_logits(segments), want, atol=1e-4, rtol=1e-4)
    assert runner.cache.store[:, :, 2].isnan().all(), "the unused slot is as it was"
    assert not runner.cache.store[:, :, 3, :, 0].isnan().any()
    assert runner.cache.store[:, :, 3, :, 1:].isnan().all()


def test_a_slot_comes_once_in_a_step(small: TorchModel) -> None:
    runner = ModelRunner(GraphedModel(small, TorchOps()), 1)
    with pytest.raises(AssertionError, match="twice"):
        runner.next_logits([Segment([1], 0, 0), Segment([1], 0, 0), Segment([1], 0, 0)] * 8)


def test_scores_are_the_oracles(small: TorchModel) -> None:
    segment, targets = Segment([1, 2, 3, 4, 5]), [3, 4, 5, 6]
    model = GraphedModel(small, TorchOps())
    assert torch.equal(model.score(segment, targets, None), small.score(segment, targets, None))


def test_passes_hold_what_fits() -> None:
    assert list(model.ROWS) == sorted(set(model.ROWS))
    segments = [Segment(range(100), 0, 0), Segment(range(1000), 0, 1), Segment(range(3), 0, 2)]
    passes = list(model.passes(segments))
    assert [sum(end - begin for _, begin, end in stretches) for stretches in passes] == [512, 512, 79]
    assert [(s.slot, begin, end) for stretches in passes for s, begin, end in stretches] == [
        (0, 0, 100), (1, 0, 412), (1, 412, 924), (1, 924, 1000), (2, 0, 3)
    ]  # fmt: skip
