"""CPM-1's network in torch: GPT-2 with pre-LN, learned positions and a head tied to the word embedding; and its variants.

Module names are checkpoint names, so the keys of ``state_dict()`` are the names in :data:`cpm_gen.checkpoints.tensor_table.TABLE`.

Tokens of several sequences run in one flat batch: a :class:`Segment` gives the sequence's slot, positions and cached prefix.
Only attention uses segments; everything else works on ``[tokens, hidden]``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cpm_gen.config.model_sizes import CPM_1, ModelSize, NetworkVariant
from cpm_gen.networks.interface import Segment, score_targets
from cpm_gen.networks.torch.kv_cache import KVCache
from cpm_gen.networks.torch.layers import (
    ColumnParallelLinear,
    Place,
    PositionEmbedding,
    RowParallelLinear,
    VocabularyParallelEmbedding,
    layer_norm,
)
from cpm_gen.parallel.group import TensorParallel
from cpm_gen.sampling.logprobs import TopCollector

_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class Attention(nn.Module):
    """Causal multi-head attention over this rank's heads."""

    def __init__(self, size: ModelSize, place: Place, layer: int, divisor: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads = size.heads // place.group.size
        self.head_dim = size.hidden // size.heads
        self.divisor = divisor  # of the scores; queries are divided instead
        self.query_key_value = ColumnParallelLinear(size.hidden, 3 * size.hidden, place)
        self.dense = RowParallelLinear(size.hidden, size.hidden, place)

    def forward(self, x: Tensor, segments: Sequence[Segment], cache: KVCache | None) -> Tensor:
        # [tokens, hidden] -> q, k, v of [heads, tokens, head_dim]
        q, k, v = self.query_key_value(x).view(len(x), 3, self.heads, self.head_dim).permute(1, 2, 0, 3)
        if self.divisor > 1:
            q = q / self.divisor
        mixed = []
        at = 0
        for segment in segments:
            n = len(segment.ids)
            keys, values = k[:, at : at + n], v[:, at : at + n]
            if segment.slot is not None:
                assert cache is not None
                keys, values = cache.extend(self.layer, segment.slot, segment.start, keys, values)
            mixed.append(attend(q[:, at : at + n], keys, values))
            at += n
        y: Tensor = self.dense(torch.cat(mixed))
        return y


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``[heads, n, d]`` queries at the end of ``[heads, m, d]`` keys and values -> ``[n, heads * d]``."""
    n, m = q.shape[1], k.shape[1]
    mask = None
    if 1 < n < m:  # the queries are at positions m - n .. m - 1
        mask = torch.ones(n, m, dtype=torch.bool, device=q.device).tril(m - n)
    y = F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask, is_causal=1 < n == m)
    return y[0].transpose(0, 1).reshape(n, -1)


class MLP(nn.Module):
    """``h -> 4h -> h`` with GELU, in CPM-1 in its tanh form."""

    def __init__(self, size: ModelSize, variant: NetworkVariant, place: Place) -> None:
        super().__init__()
        inner = variant.inner_size(size.hidden)
        self.dense_h_to_4h = ColumnParallelLinear(size.hidden, inner, place)
        self.dense_4h_to_h = RowParallelLinear(inner, size.hidden, place)
        self.approximate = "tanh" if variant.gelu == "tanh" else "none"

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(x), approximate=self.approximate))
        return y


class Layer(nn.Module):
    """One transformer layer."""

    def __init__(self, size: ModelSize, variant: NetworkVariant, place: Place, layer: int) -> None:
        super().__init__()
        self.input_layernorm = layer_norm(size.hidden, place, variant.epsilon)
        self.attention = Attention(size, place, layer, variant.score_divisor(layer))
        self.post_attention_layernorm = layer_norm(size.hidden, place, variant.epsilon)
        self.mlp = MLP(size, variant, place)

    def forward(self, x: Tensor, segments: Sequence[Segment], cache: KVCache | None) -> Tensor:
        x = x + self.attention(self.input_layernorm(x), segments, cache)
        y: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return y


class Transformer(nn.Module):
    """The layers and the last norm."""

    def __init__(self, size: ModelSize, variant: NetworkVariant, place: Place) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(size, variant, place, n) for n in range(size.layers))
        self.final_layernorm = layer_norm(size.hidden, place, variant.epsilon)

    def forward(self, x: Tensor, segments: Sequence[Segment], cache: KVCache | None) -> Tensor:
        for layer in self.layers:
            x = layer(x, segments, cache)
        y: Tensor = self.final_layernorm(x)
        return y


class TorchModel(nn.Module):
    """A rank's part of the network. Parameters are uninitialised until loaded. quantized: matrices are int8."""

    logit_kernels = None

    def __init__(
        self,
        size: ModelSize,
        group: TensorParallel,
        variant: NetworkVariant = CPM_1,
        *,
        dtype: torch.dtype,
        device: torch.device,
        quantized: bool = False,
    ) -> None:
        super().__init__()
        self.size = size
        self.group = group
        self.dtype = dtype
        self.device = device
        self.samples = device.type == "cuda"
        place = Place(group, dtype, device, quantized)
        self.word_embeddings = VocabularyParallelEmbedding(size.vocabulary, size.hidden, place)
        self.position_embeddings = PositionEmbedding(size.positions, size.hidden, place)
        self.transformer = Transformer(size, variant, place)
        if not variant.tied_head:
            self.lm_head = VocabularyParallelEmbedding(size.vocabulary, size.hidden, place)
        self.requires_grad_(False).eval()

    @property
    def output_head(self) -> VocabularyParallelEmbedding:
        """The matrix of the output head."""
        matrix = self.lm_head if hasattr(self, "lm_head") else self.word_embeddings
        assert isinstance(matrix, VocabularyParallelEmbedding)
        return matrix

    def make_cache(self, slots: int) -> KVCache:
        """A cache of ``slots`` full windows for this rank's heads."""
        size = self.size
        return KVCache(
            layers=size.layers,
            slots=slots,
            heads=size.heads // self.group.size,
            positions=size.positions,
            head_dim=size.hidden // size.heads,
            dtype=self.dtype,
            device=self.device,
        )

    @torch.inference_mode()
    def copy_slot(self, cache: KVCache, source: int, target: int, tokens: int) -> None:
        """See :meth:`cpm_gen.networks.interface.Network.copy_slot`."""
        cache.copy(source, target, tokens)

    def profile(self) -> dict[str, float]:
        """Empty: torch does not measure its parts."""
        return {}

    @torch.inference_mode()
    def hidden(self, segments: Sequence[Segment], cache: KVCache | None) -> Tensor:
        """Final hidden states ``[tokens, hidden]`` of all tokens of all segments, in order."""
        ids = torch.tensor([i for s in segments for i in s.ids], device=self.device)
        positions = torch.cat([torch.arange(s.start, s.start + len(s.ids)) for s in segments]).to(self.device)
        x = self.word_embeddings(ids) + self.position_embeddings(positions)
        # without cuDNN's attention, torch's first choice on recent GPUs: it makes a new plan for each key length, so each token
        gpu = self.device.type == "cuda"
        with sdpa_kernel(_ATTENTION) if gpu else contextlib.nullcontext():
            x = self.transformer(x, segments, cache)
        assert isinstance(x, Tensor)
        return x

    @torch.inference_mode()
    def next_logits(self, segments: Sequence[Segment], cache: KVCache | None) -> Tensor:
        """Logits ``[wanted, vocabulary]`` (fp32) after the last token of each segment that wants them, the same on all ranks."""
        x = self.hidden(segments, cache)
        if not any(s.logits for s in segments):
            return x.new_empty((0, self.size.vocabulary), dtype=torch.float32)
        ends = torch.tensor([len(s.ids) for s in segments]).cumsum(0) - 1
        ends = ends[torch.tensor([s.logits for s in segments])]
        return self.output_head.head(x[ends.to(self.device)])

    @torch.inference_mode()
    def score(
        self, segment: Segment, targets: Sequence[int], cache: KVCache | None, top: TopCollector | None = None
    ) -> Tensor:
        """Natural log-probabilities ``[targets]``, float32 (see :meth:`cpm_gen.networks.interface.Network.score`)."""
        hidden = self.hidden([segment], cache)[len(segment.ids) - len(targets) :]
        return score_targets(hidden, targets, self.output_head.head, top)
