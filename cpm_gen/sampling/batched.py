"""Sampling on the device that holds the logits: :func:`cpm_gen.sampling.sample.sample` for many rows at once, in torch.

Nothing here synchronises with the device. What the host knows (the uniform numbers, temperatures, filters, the ids that penalties and bans
touch) is copied to it through pinned memory; one token for each row comes back.

Weights are whole numbers, so that their sums are the same in any order: a row's token depends neither on how a device adds nor on
the other rows. They are 2**-47 apart for a vocabulary below 2**15, which moves the edge of a token's share by less than 1e-9.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cpm_gen.errors import NumericsError
from cpm_gen.sampling.penalties import Indices
from cpm_gen.sampling.sample import BANNED, FAILURES, INFINITE, NAN, Draw

_NO_PAIR = (np.empty(0, dtype=np.intp), np.empty(0))


def send(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copy the array to the device without synchronising: torch keeps the pinned copy until it has been read."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def choose(logits: Tensor, draws: Sequence[Draw]) -> list[int | NumericsError]:
    """The result of ``Draw.choose`` for each row of raw logits ``[rows, V]``, or its error. Synchronises with the device once."""
    tokens = sample(logits, draws).tolist() if draws else []
    return [token if token >= 0 else NumericsError(FAILURES[token]) for token in tokens]


@torch.inference_mode()
def sample(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """The next token of each row of raw logits ``[rows, V]``, or a key of ``sample.FAILURES``: int64 ``[rows]``."""
    device = logits.device
    nan = logits.isnan().any(1)
    values = _restricted(_penalised(logits, draws), logits, draws)
    best = values.argmax(1)  # the lowest id among equals
    top = values.gather(1, best[:, None])
    tokens = best
    drawn = [row for row, draw in enumerate(draws) if draw.params.temperature != 0]
    if drawn:
        at = send(np.array(drawn), device)
        tokens = best.index_copy(0, at, _drawn(values[at], top[at], [draws[row] for row in drawn]))
    top = top[:, 0]
    tokens = tokens.where(top.isfinite(), torch.where(top == -torch.inf, BANNED, INFINITE))
    return tokens.where(~nan, NAN)


def _penalised(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """:func:`cpm_gen.sampling.sample.penalise`, in float64 ``[rows, V]``: only the ids in question change."""
    size = logits.shape[1]
    values = logits.double()
    flat = values.view(-1)
    edits = [draw.edits(size) for draw in draws]

    def together(parts: list[Indices]) -> Tensor:
        return send(np.concatenate([row * size + ids for row, ids in enumerate(parts)]), logits.device)

    if any(len(e.repeated) for e in edits):
        at = together([e.repeated for e in edits])
        counts = [len(e.repeated) for e in edits]
        penalty = send(np.repeat([float(d.params.repetition_penalty) for d in draws], counts), logits.device)
        flat[at] = torch.where(flat[at] > 0, flat[at] / penalty, flat[at] * penalty)
    for place in range(max((len(e.subtracted) for e in edits), default=0)):
        pairs = [e.subtracted[place] if place < len(e.subtracted) else _NO_PAIR for e in edits]
        flat[together([ids for ids, _ in pairs])] -= send(np.concatenate([a for _, a in pairs]), logits.device)
    if any(len(e.banned) for e in edits):
        # an index with a number assigned to it would copy that to the device first, and wait
        flat.index_fill_(0, together([e.banned for e in edits]), -torch.inf)
    return values


def _restricted(values: Tensor, logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """The penalised logits ``[rows, V]``, minus infinity for ids that a draw does not allow."""
    rows = [row for row, draw in enumerate(draws) if draw.allowed is not None]
    if not rows:
        return values
    kept = np.zeros((len(rows), logits.shape[1]), dtype=np.bool_)
    for place, row in enumerate(rows):
        kept[place, draws[row].allowed] = True
    at, keep = send(np.array(rows), logits.device), send(kept, logits.device)
    limited = values[at].where(keep, -torch.inf)
    raw = logits[at].double().where(keep, -torch.inf)
    limited = torch.where((limited == -torch.inf).all(1, keepdim=True), raw, limited)
    if any(draws[row].bias is not None for row in rows):
        added = np.zeros(kept.shape)
        for place, row in enumerate(rows):
            if (bias := draws[row].bias) is not None:
                added[place, draws[row].allowed] = bias
        limited += send(added, logits.device)
    return values.index_copy(0, at, limited)


def _drawn(values: Tensor, top: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Draw one token from each row of penalised logits ``[rows, V]``. top: the greatest logit of each row, ``[rows, 1]``."""
    size = values.shape[1]
    numbers = [(d.params.temperature, d.params.min_p, d.uniform()) for d in draws]
    temperature, min_p, u = send(np.array(numbers).T.copy(), values.device)[:, :, None]
    shares = ((values - top) / temperature).exp()  # of the best one's weight
    weights = (shares * float(1 << 62 - size.bit_length())).round().long()
    filtered = [row for row, d in enumerate(draws) if d.params.top_k > 0 or 0 < d.params.top_p < 1]
    if filtered:
        at = send(np.array(filtered), values.device)
        weights.index_copy_(0, at, _filtered(values[at], weights[at], [draws[row] for row in filtered]))
    weights = weights.where(shares >= min_p, 0)
    ends = weights.cumsum(1)
    total = ends[:, -1:]
    goal = (u * total).long().clamp(max=total - 1)
    return torch.searchsorted(ends, goal, right=True)[:, 0]


def _filtered(values: Tensor, weights: Tensor, draws: Sequence[Draw]) -> Tensor:
    """The weights ``[rows, V]``, with those that top-k and then top-p drop set to 0."""
    size = values.shape[1]
    kept = [(d.params.top_k if 0 < d.params.top_k < size else size) - 1 for d in draws]
    mass = [d.params.top_p if 0 < d.params.top_p < 1 else 1.0 for d in draws]
    last = send(np.array(kept), values.device)[:, None]
    top_p = send(np.array(mass, dtype=np.float64), values.device)[:, None]
    ordered, order = values.sort(dim=1, descending=True, stable=True)  # equal ones in the order of their ids
    heaviest = weights.gather(1, order).where(ordered >= ordered.gather(1, last), 0)
    before = heaviest.cumsum(1) - heaviest
    goal = (top_p * heaviest.sum(1, keepdim=True)).ceil().long()
    heaviest = heaviest.where((before < goal) | (top_p == 1), 0)
    return torch.zeros_like(weights).scatter_(1, order, heaviest)
