"""transformers' GPT-2 with a loss that does not hold all logits, and with an attention that is fast for short rows on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import GPT2LMHeadModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from cpm_gen.finetuning.windows import IGNORED

ATTENTION = "cpm_gen_rows"  # its name among transformers' attentions
HELD_LOGITS = 1 << 23  # at once
_SHORT = 256  # tokens of a row up to which two batched products are faster than torch's attention; measured on AVX-512 with AMX


class LanguageModel(GPT2LMHeadModel):  # type: ignore[no-untyped-call]
    """GPT-2 that returns the summed loss when it is given targets."""

    def forward(self, input_ids: Tensor, targets: Tensor | None = None, **others: Any) -> Any:
        """Transformers' output; with ``targets`` (int64 ``[rows, length]``), the float32 sum of their losses, in nats.

        The logits of some tokens are held at a time; the backward pass computes them again.
        """
        if targets is None:
            return super().forward(input_ids=input_ids, **others)
        hidden = self.transformer(input_ids=input_ids, **others).last_hidden_state.flatten(0, 1)
        tokens = max(1, HELD_LOGITS // self.lm_head.out_features)
        parts = zip(torch.split(hidden, tokens), torch.split(targets.flatten(), tokens), strict=True)
        return torch.stack([
            checkpoint(self._loss, some, wanted, use_reentrant=False, preserve_rng_state=False)
            for some, wanted in parts
        ]).sum()  # fmt: skip

    def _loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.lm_head(hidden).float(), targets, ignore_index=IGNORED, reduction="sum")


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
