"""What a token costs, in things that can be counted: passes, rows, bytes of weights, allocations. Times belong to benchmarks."""

import tracemalloc
from pathlib import Path

import pytest
import torch

import cpm_gen
from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.config.options import SamplingParams
from cpm_gen.engine.sequence import Request
from cpm_gen.llm import LLM
from cpm_gen.networks.native import library
from cpm_gen.networks.native.model import NativeModel
from cpm_gen.parallel.group import TensorParallel
from tests.random_networks import SMALL, random_checkpoint

MIDDLE = ModelSize(layers=2, hidden=128, heads=2, vocabulary=640, positions=64)


def load(folder: Path, **options: object) -> LLM:
    return cpm_gen.load(random_checkpoint(folder / "network", SMALL), batch=1, window_hop=7, **options)  # type: ignore[arg-type]


def greedy(llm: LLM, prompt: int, tokens: int) -> Request:
    ids = tuple(range(prompt))
    return Request(ids, llm.window, None, SamplingParams(temperature=0.0), 0, max_new_tokens=tokens)


def test_a_token_is_one_pass_and_a_slide_adds_rows_but_no_pass(tmp_path: Path) -> None:
    with load(tmp_path) as llm:
        llm.engine.token_engine.add(greedy(llm, 4, 100))
        while llm.engine.token_engine.busy:
            llm.engine.token_engine.step()
        counts = llm.engine.scheduler.counts
        assert llm.engine.token_engine.spent.steps == 100
        assert (counts.prompt, counts.decoded) == (4, 99)
        assert (counts.slides, counts.at_once, counts.slides_at_once) == (13, 0, 0)
        # the 16th token moves a window of 15 by 7: of the 9 that stay 8 are encoded beside decoding, the newest is decoded
        assert counts.ahead == 13 * 8


@pytest.mark.parametrize(("form", "size"), [("float32", 4), ("bfloat16", 2), ("int8", 1)])
def test_a_token_reads_every_weight_once(form: str, size: int, tmp_path: Path) -> None:
    model = NativeModel(MIDDLE, TensorParallel(), form=form, threads=1)
    matrices = 0
    for name in tensor_table.names(MIDDLE.layers):
        shape = tensor_table.whole_shape(
            name, vocabulary=MIDDLE.vocabulary, positions=MIDDLE.positions, hidden=MIDDLE.hidden
        )
        if len(shape) == 2 and name != "position_embeddings.weight":
            matrices += shape[0] * shape[1]
    assert model.weight_bytes == matrices * size  # all sizes are whole tiles, so no padding


def test_keys_and_values_take_what_their_format_needs() -> None:
    for form, size in (("float32", 4), ("bfloat16", 2), ("int8", 2)):
        cache = NativeModel(MIDDLE, TensorParallel(), form=form, threads=1).make_cache(3)
        needed = MIDDLE.layers * 2 * 3 * MIDDLE.positions * MIDDLE.hidden * size
        assert needed <= cache.bytes <= max(needed, 1 << 21)  # one huge page at least


def test_a_step_allocates_no_more_than_its_rows(tmp_path: Path) -> None:
    library.load_library()
    with load(tmp_path) as llm:
        llm.engine.token_engine.add(greedy(llm, 4, 60))
        for _ in range(20):
            llm.engine.token_engine.step()
        tracemalloc.start()
        for _ in range(30):
            llm.engine.token_engine.step()
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert kept < 30_000  # the text itself, and what Python caches
    assert peak - kept < 20_000  # at any moment: a few rows of a vocabulary of 120


def test_a_step_on_the_native_kernels_leaves_torchs_threads_asleep(tmp_path: Path) -> None:
    """They spin on for milliseconds after their work, in the way of the kernels' own."""
    if library.missing():
        pytest.skip("no native kernels here")
    network = random_checkpoint(tmp_path / "network", SMALL)
    with cpm_gen.load(network, batch=8, kernels="native") as llm:
        for _ in range(8):
            llm.engine.token_engine.add(greedy(llm, 4, 9))
        llm.engine.token_engine.step()
        with torch.autograd.profiler.profile() as torchs:
            llm.engine.token_engine.step()
    ran = {event.name.removeprefix("aten::") for event in torchs.function_events}
    views = {"empty", "unbind", "select", "as_strided", "detach", "alias", "to", "resolve_conj", "resolve_neg"}
    assert ran <= views  # nothing that touches what is in them


def test_loading_holds_one_copy_of_the_weights(tmp_path: Path) -> None:
    """Packing goes from the mapped file to its place; nothing of a whole tensor's size is allocated by Python between."""
    checkpoint = open_checkpoint(random_checkpoint(tmp_path / "network", MIDDLE))
    model = NativeModel(MIDDLE, TensorParallel(), form="float32", threads=1)
    tracemalloc.start()
    model.load(checkpoint)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MIDDLE.vocabulary * MIDDLE.hidden * 4 / 2
