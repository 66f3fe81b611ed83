"""Triton's kernels against the plain ones: each in Triton's interpreter, where Triton is installed; in graphs on a GPU."""

import os
from pathlib import Path

import pytest
import torch

from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.config.options import SamplingParams
from cpm_gen.engine.engine import Engine
from cpm_gen.engine.model_runner import ModelRunner
from cpm_gen.engine.scheduler import CachedScheduler
from cpm_gen.networks.cuda_graphs.layer_ops import Rows, TorchOps
from cpm_gen.networks.cuda_graphs.model import GraphedModel
from cpm_gen.networks.interface import Segment
from cpm_gen.networks.torch.layers import ColumnParallelLinear, Matrix, Place, VocabularyParallelEmbedding
from cpm_gen.parallel.group import TensorParallel
from cpm_gen.sampling import batched
from cpm_gen.sampling.sample import Draw
from tests.gpu.test_cuda_graphs import LONG, check_logits, check_texts, load, requests, write
from tests.random_networks import SMALL, load_runner, random_checkpoint

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are defined
pytest.importorskip("triton", reason="needs Triton, which comes with torch for GPUs")

from cpm_gen.networks.cuda_graphs.triton_ops import TritonOps  # noqa: E402

DEVICE = "cuda" if CUDA else "cpu"
DTYPES = [torch.float32, torch.float16, torch.bfloat16] if CUDA else [torch.float32]
needs_gpu = pytest.mark.skipif(not CUDA, reason="needs a GPU, and --gpu")
# the interpreter runs on numpy, which tells of the infinities that masks are made of
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    # what only a GPU's runs say: that looking for synchronisation is a prototype, that Triton's next default differs
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

SLOTS, HEADS, HEAD_DIM, POSITIONS = 3, 3, 20, 600  # heads of no power of 2, three pieces of positions
HIDDEN = HEADS * HEAD_DIM


def some(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))).to(DEVICE, dtype)


def place(dtype: torch.dtype, quantized: bool) -> Place:
    return Place(TensorParallel(), dtype, torch.device(DEVICE), quantized)


def fill(matrix: Matrix) -> None:
    values = some(*matrix.weight.shape, dtype=torch.float32, scale=matrix.weight.shape[1] ** -0.5)
    if matrix.scale is None:
        matrix.weight.copy_(values)
    else:
        matrix.quantize(values)


def linear(inputs: int, outputs: int, dtype: torch.dtype, quantized: bool = False) -> ColumnParallelLinear:
    made = ColumnParallelLinear(inputs, outputs, place(dtype, quantized))
    fill(made)
    made.bias.copy_(some(outputs, dtype=dtype))
    return made


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    assert got.dtype == want.dtype and got.shape == want.shape
    bound = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[want.dtype]
    torch.testing.assert_close(got, want, atol=bound, rtol=bound)


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 21, 130])
def test_every_step_of_a_layer(count: int, dtype: torch.dtype, quantized: bool) -> None:
    plain, kernels = TorchOps(), TritonOps()
    x = some(count, HIDDEN, dtype=dtype)
    norm = torch.nn.LayerNorm(HIDDEN, device=DEVICE, dtype=dtype).requires_grad_(False)
    norm.weight.copy_(some(HIDDEN, dtype=dtype))
    wide, back = linear(HIDDEN, 4 * HIDDEN, dtype, quantized), linear(4 * HIDDEN, HIDDEN, dtype, quantized)
    y = plain.gelu(x, wide)
    close(kernels.gelu(x, wide), y)
    close(kernels.gelu(x, wide, "none"), plain.gelu(x, wide, "none"))
    for got, want in zip(kernels.add_norm(x, None, norm), plain.add_norm(x, None, norm), strict=True):
        close(got, want)
    both = [ops.add_norm(x, ops.branch(y, back), norm) for ops in (kernels, plain)]
    for got, want in zip(*both, strict=True):
        close(got, want)
    words = VocabularyParallelEmbedding(131, HIDDEN, place(dtype, quantized))
    fill(words)
    weight = words.weight.double() * (1 if words.scale is None else words.scale.double()[:, None])
    got, want = kernels.head(x, words), (x.double() @ weight.T).float()
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)  # sums of products are exact but for fp32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("runs", [[(0, 599, 1)], [(2, 0, 1), (0, 250, 20), (1, 511, 2)], [(1, 585, 15), (0, 0, 9)]])
def test_attention(runs: list[tuple[int, int, int]], dtype: torch.dtype) -> None:
    """Runs of so many rows from a position on in a slot, across the edges of pieces; what is beyond them is NaN."""
    slots = [slot for slot, _, count in runs for _ in range(count)]
    positions = [start + n for _, start, count in runs for n in range(count)]
    tiles, at = [], 0
    for _, _, count in runs:
        tiles += [(at + n, min(16, count - n)) for n in range(0, count, 16)]
        at += count
    tiles.append((0, 0))
    numbers = [torch.tensor(n, device=DEVICE) for n in (slots, positions, *zip(*tiles, strict=True))]
    rows = Rows(*numbers)
    before = some(2, SLOTS, HEADS, POSITIONS, HEAD_DIM, dtype=dtype)
    for slot, start, _ in runs:
        before[:, slot, :, start:] = torch.nan
    made = linear(HIDDEN, 3 * HIDDEN, dtype)
    x = some(at, HIDDEN, dtype=dtype)
    results = []
    for ops in (TritonOps(), TorchOps()):
        store = before.clone()
        q = ops.project(x, made, store, rows)
        results.append((q, ops.attend(q, store, rows), store.nan_to_num(-9)))
    for got, want in zip(*results, strict=True):
        close(got, want)


@needs_gpu
@pytest.mark.parametrize("quantized", [False, True])
def test_logits_and_texts_are_the_oracles(tmp_path: Path, quantized: bool) -> None:
    long = load(random_checkpoint(tmp_path / "long", LONG), LONG, DEVICE, quantized=quantized)
    check_logits(long, TritonOps(), 1e-4)
    small = load(random_checkpoint(tmp_path / "small"), SMALL, DEVICE, quantized=quantized)
    for batch in (1, 4, 8):
        check_texts(small, TritonOps(), batch, keep=3, count=20)
    check_texts(small, TorchOps(), 4, keep=0, count=10)


@needs_gpu
def test_a_gpu_gets_graphs_from_settings(tmp_path: Path) -> None:
    folder, device = random_checkpoint(tmp_path), f"cuda:{torch.cuda.current_device()}"
    texts = []
    for kernels in ("graphs", "torch", "auto"):
        runner = load_runner(folder, slots=6, kernels=kernels, device=device)
        assert isinstance(runner.network, GraphedModel) == (kernels == "graphs")
        texts.append([s.new_tokens for s in write(Engine(runner, CachedScheduler(4, 6, 16), batch=4), requests(12))])
    assert texts[0] == texts[1] == texts[2]


@needs_gpu
def test_a_step_waits_for_the_device_only_to_read_its_tokens(tmp_path: Path) -> None:
    runner = ModelRunner(GraphedModel(load(random_checkpoint(tmp_path), SMALL, DEVICE), TritonOps()), 4)
    params = SamplingParams(top_k=9, top_p=0.9, repetition_penalty=1.1, frequency_penalty=0.1, banned_ids=(3,))
    draws = [Draw(params, (5, 6, 5), (5,), {7}, seed=1, sample_index=0, step=step) for step in range(2)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        tokens = batched.sample(runner.next_logits([Segment([5, 6, 5], 0, 0), Segment([1], 0, 3)]), draws)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(0 <= token < SMALL.vocabulary for token in tokens.tolist())


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_near_as_torchs(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = random_checkpoint(tmp_path, LONG)
    model, exact = load(folder, LONG, DEVICE, dtype), load(folder, LONG, DEVICE)
    segments = [Segment([(7 * n) % 120 for n in range(length)], 0, slot) for slot, length in enumerate((3, 40, 570))]
    whole = [Segment(s.ids) for s in segments]
    want = exact.next_logits(whole, None)
    got = ModelRunner(GraphedModel(model, TritonOps()), 3).next_logits(segments)
    error, torchs = ((x - want).std() / want.std() for x in (got, model.next_logits(whole, None)))
    assert error < 1.5 * torchs + 1e-3


@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_torchs_network_continues_what_its_cache_holds(tmp_path: Path, dtype: torch.dtype) -> None:
    """The path without graphs, a token at a time; with the attention that plans nothing for each length."""
    model = load(random_checkpoint(tmp_path, LONG), LONG, DEVICE, dtype)
    runner, ids = ModelRunner(model, 1), [(7 * n) % 120 for n in range(80)]
    runner.next_logits([Segment(ids[:40], 0, 0)])
    for at in range(40, 80):
        got = runner.next_logits([Segment(ids[at : at + 1], at, 0)])
    want = model.next_logits([Segment(ids)], None)
    assert (got - want).std() / want.std() < {torch.float32: 1e-5, torch.float16: 0.01, torch.bfloat16: 0.08}[dtype]


@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rows_bits_depend_on_its_own_context_only(tmp_path: Path, dtype: torch.dtype) -> None:
    """Alone, in chunks, with any number of others: in every pass that a graph was made for."""
    size = ModelSize(layers=2, hidden=192, heads=3, vocabulary=240, positions=600)
    model = load(random_checkpoint(tmp_path, size), size, DEVICE, dtype)
    ids = [(11 * n) % 240 for n in range(600)]
    runner = ModelRunner(GraphedModel(model, TritonOps()), 140)
    alone = runner.next_logits([Segment(ids[:300], 0, 0)])
    at = 0
    for count, others in ((1, 0), (30, 3), (40, 20), (100, 90), (128, 0), (1, 127)):
        company = [Segment([slot % 240], 0, slot) for slot in range(2, 2 + others)]
        got = runner.next_logits([*company, Segment(ids[at : at + count], at, 1)])
        at += count
    assert at == 300
    assert torch.equal(got[-1], alone[0])
    for others in (0, 1, 7, 30, 64, 127):
        company = [Segment([slot % 240], 0, slot) for slot in range(2, 2 + others)]
        assert torch.equal(runner.next_logits([Segment([ids[299]], 299, 1), *company])[0], alone[0]), others
