"""transformers' GPT-2 with a loss that does not hold all logits, and with an attention that is fast for short rows on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from cpm_gen.finetuning.windows import IGNORED

ATTENTION = "cpm_gen_rows"  # its name among transformers' attentions
HELD_LOGITS = 1 << 23  # at once
_SHORT = 256  # tokens of a row up to which two batched products are faster than torch's attention; measured on AVX-512 with AMX


class LanguageModel(GPT2LMHeadModel):  # type: ignore[no-untyped-call]
    """GPT-2 that returns the summed loss when it is given targets."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.lm_head = _Head(config.n_embd, config.vocab_size, bias=False)
        self.tie_weights()

    def forward(self, input_ids: Tensor, targets: Tensor | None = None, **others: Any) -> Any:
        """Transformers' output; with ``targets`` (int64 ``[rows, length]``), the float32 sum of their losses, in nats."""
        if targets is None:
            return super().forward(input_ids=input_ids, **others)
        return self.lm_head(self.transformer(input_ids=input_ids, **others).last_hidden_state, targets)


class _Head(torch.nn.Linear):
    """The head; with targets, it returns their summed loss. A module, so that DeepSpeed gathers its weight for it."""

    def forward(self, input: Tensor, targets: Tensor | None = None) -> Tensor:
        if targets is None:
            return super().forward(input)
        kind = input.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else input.dtype
        loss: Tensor = _SummedLoss.apply(input.flatten(0, 1).to(dtype), self.weight, targets.flatten())  # type: ignore[no-untyped-call]
        return loss


class _SummedLoss(torch.autograd.Function):
    """Cross entropy of ``hidden @ weight.T``, some rows at a time; the gradients are computed while the logits are there.

    Where there are gradients, a loss is at most 87 nats, the logarithm of float32's least number.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        wants_hidden, wants_weight, _ = ctx.needs_input_grad
        head = weight.to(hidden.dtype)
        of_hidden = torch.empty_like(hidden) if wants_hidden else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        rows = max(1, HELD_LOGITS // len(weight))
        with torch.autocast(hidden.device.type, enabled=False):
            for at in range(0, len(hidden), rows):
                some, wanted = hidden[at : at + rows], targets[at : at + rows]
                logits = (some @ head.T).float()
                if not (wants_hidden or wants_weight):
                    total += F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")
                    continue
                counted = (wanted != IGNORED)[:, None]
                places = wanted.clamp(min=0)[:, None]
                shares = torch.softmax(logits, dim=-1)
                given = shares.gather(1, places)
                total -= (given.clamp(min=torch.finfo(torch.float32).tiny).log() * counted).sum()
                gradient = shares.scatter_(1, places, given - 1.0).to(hidden.dtype)
                if of_hidden is not None:
                    of_hidden[at : at + rows] = (gradient @ head) * counted
                if of_weight is not None:
                    of_weight += (gradient.T @ (some * counted)).float()
        ctx.save_for_backward(of_hidden, of_weight)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        of_hidden, of_weight = ctx.saved_tensors
        return (
            None if of_hidden is None else of_hidden * gradient,
            None if of_weight is None else of_weight * gradient,
            None,
        )


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of whole rows ``[rows, heads, length, dimensions]``; returns ``[rows, length, heads, dimensions]``."""
    length = query.shape[2]
    scale = scaling if scaling is not None else query.shape[3] ** -0.5
    if query.dtype != torch.bfloat16 or query.device.type != "cpu" or length > _SHORT:
        done = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout, scale=scale)
        return done.transpose(1, 2), None
    with torch.autocast("cpu", enabled=False):
        q, k, v = (part.flatten(0, 1) for part in (query, key, value))
        later = torch.full((length, length), -torch.inf, dtype=q.dtype).triu(1)
        shares = torch.softmax(torch.baddbmm(later, q, k.transpose(1, 2), alpha=scale), dim=-1)
        done = torch.bmm(F.dropout(shares, dropout), v)
    return done.view(query.shape).transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, lambda *_, **__: None)  # rows have no padding
