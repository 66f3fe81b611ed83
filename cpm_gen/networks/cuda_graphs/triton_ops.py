"""The operations of a layer as few Triton kernels: a decode step is bound by reading weights, and each kernel launch is a gap in it.

Eight kernels a layer: norm, query-key-value (keys and values are written to the cache), attention in pieces, merging the pieces,
dense, norm, ``h -> 4h`` with GELU, ``4h -> h``. Partial sums over ranges of inputs are kept until the next norm adds them in a
fixed order.

The order in which a row's numbers are summed depends on its own context only: other rows of the batch change tiles, never a sum.
This requires that the matrix unit sums alike for any number of columns; ``tests/gpu/test_triton_ops.py`` checks it on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cpm_gen.networks.cuda_graphs.layer_ops import TILE, Rows

OUTPUTS = 64  # outputs of a matrix that one program computes
PARTS = 4  # ranges of inputs in a branch's sum
PIECE = 256  # positions that one program attends to
KEYS = 64  # positions loaded at a time


@triton.jit(do_not_specialize=["rows"])
def _linear(
    x, weight, scale, bias, out, store, slots, positions, rows,
    INPUTS: tl.constexpr, TOTAL: tl.constexpr, RANGE: tl.constexpr, WHAT: tl.constexpr,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, POSITIONS: tl.constexpr, SLOTS: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INNER: tl.constexpr, QUANTIZED: tl.constexpr,
):  # fmt: skip
    """Some outputs of some rows. Weights are the matrix unit's rows, so few rows of x waste little of it.

    Quantized ones are whole numbers up to 127, which any format holds exactly; their scale comes after the sum.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    o = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    part = tl.program_id(2)
    total = tl.zeros((OUTPUTS, ROWS), tl.float32)
    for at in range(0, RANGE, INNER):
        i = part * RANGE + at + tl.arange(0, INNER)
        w = tl.load(
            weight + o[:, None] * INPUTS + i[None, :], mask=(o < TOTAL)[:, None] & (i < INPUTS)[None, :], other=0.0
        )
        v = tl.load(
            x + row[None, :] * INPUTS + i[:, None], mask=(row < rows)[None, :] & (i < INPUTS)[:, None], other=0.0
        )
        total = tl.dot(w.to(v.dtype), v, total, input_precision="ieee")
    if QUANTIZED:
        total *= tl.load(scale + o, mask=o < TOTAL, other=0.0)[:, None]
    there = (o < TOTAL)[:, None] & (row < rows)[None, :]
    if WHAT == "part":
        tl.store(out + (part * rows + row[None, :]) * TOTAL + o[:, None], total, mask=there)
    elif WHAT == "logits":
        tl.store(out + row[None, :] * TOTAL + o[:, None], total, mask=there)
    else:
        y = total + tl.load(bias + o, mask=o < TOTAL, other=0.0).to(tl.float32)[:, None]
        if WHAT == "gelu":  # x * sigmoid(2 z) is the tanh form
            y = y * tl.sigmoid(1.5957691216057308 * (y + 0.044715 * y * y * y))
            tl.store(out + row[None, :] * TOTAL + o[:, None], y, mask=there)
        elif WHAT == "gelu_erf":
            y = 0.5 * y * (1 + tl.erf(y * 0.7071067811865476))
            tl.store(out + row[None, :] * TOTAL + o[:, None], y, mask=there)
        else:
            hidden: tl.constexpr = HEADS * HEAD_DIM
            query = (o < hidden)[:, None]
            tl.store(out + row[None, :] * hidden + o[:, None], y, mask=there & query)
            slot = tl.load(slots + row, mask=row < rows, other=0)
            position = tl.load(positions + row, mask=row < rows, other=0)
            head = (o // hidden - 1).to(tl.int64) * SLOTS * HEADS + (o % hidden) // HEAD_DIM
            place = (head[:, None] + slot[None, :] * HEADS) * POSITIONS + position[None, :]
            tl.store(store + place * HEAD_DIM + (o % HEAD_DIM)[:, None], y, mask=there & (o >= hidden)[:, None])


@triton.jit(do_not_specialize=["rows"])
def _add_norm(
    x, parts, bias, weight, shift, out, normed, rows, eps,
    HIDDEN: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    there = i < HIDDEN
    v = tl.load(x + row * HIDDEN + i, mask=there, other=0.0).to(tl.float32)
    if PARTS:
        branch = tl.load(bias + i, mask=there, other=0.0).to(tl.float32)
        for part in tl.static_range(PARTS):
            branch += tl.load(parts + (part * rows + row) * HIDDEN + i, mask=there, other=0.0)
        kept = (v + branch).to(out.dtype.element_ty)
        tl.store(out + row * HIDDEN + i, kept, mask=there)
        v = kept.to(tl.float32)
    mean = tl.sum(v, 0) / HIDDEN
    centred = tl.where(there, v - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 0) / HIDDEN + eps)
    w = tl.load(weight + i, mask=there, other=0.0).to(tl.float32)
    b = tl.load(shift + i, mask=there, other=0.0).to(tl.float32)
    tl.store(normed + row * HIDDEN + i, centred * scale * w + b, mask=there)


@triton.jit
def _attend(
    q, store, slots, positions, firsts, counts, sums, tops, totals, scale,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, POSITIONS: tl.constexpr, SLOTS: tl.constexpr, PIECES: tl.constexpr,
    TILE: tl.constexpr, PIECE: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """A tile of rows over a piece of its slot's positions: weighted values, their weights' sum, and what these are relative to."""
    tile, head, piece = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    count = tl.load(counts + tile)
    first = tl.load(firsts + tile)
    t = tl.arange(0, TILE)
    d = tl.arange(0, DIM)
    row = first + t
    position = tl.load(positions + row, mask=t < count, other=-1)
    last = tl.max(position, 0)
    begin = piece * PIECE
    if begin <= last:
        slot = tl.load(slots + first)
        keys = store + (slot * HEADS + head) * POSITIONS * HEAD_DIM
        values = keys + SLOTS * HEADS * POSITIONS * HEAD_DIM
        wanted = (t < count)[:, None] & (d < HEAD_DIM)[None, :]
        query = tl.load(q + (row[:, None] * HEADS + head) * HEAD_DIM + d[None, :], mask=wanted, other=0.0)
        top = tl.full((TILE,), float("-inf"), tl.float32)
        total = tl.zeros((TILE,), tl.float32)
        mixed = tl.zeros((TILE, DIM), tl.float32)
        for at in range(begin, tl.minimum(begin + PIECE, last + 1), KEYS):
            k = at + tl.arange(0, KEYS)
            near = k <= last
            key = tl.load(
                keys + k[None, :] * HEAD_DIM + d[:, None], mask=near[None, :] & (d < HEAD_DIM)[:, None], other=0.0
            )
            scores = tl.dot(query, key, input_precision="ieee") * scale
            scores = tl.where(k[None, :] <= position[:, None], scores, float("-inf"))
            higher = tl.maximum(top, tl.max(scores, 1))
            base = tl.where(higher == float("-inf"), 0.0, higher)  # a row that sees nothing here
            weights = tl.exp(scores - base[:, None])
            shrink = tl.exp(top - base)
            value = tl.load(
                values + k[:, None] * HEAD_DIM + d[None, :], mask=near[:, None] & (d < HEAD_DIM)[None, :], other=0.0
            )
            mixed = mixed * shrink[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
            total = total * shrink + tl.sum(weights, 1)
            top = higher
        to = (row * HEADS + head) * PIECES + piece
        tl.store(sums + to[:, None] * HEAD_DIM + d[None, :], mixed, mask=wanted)
        tl.store(tops + to, top, mask=t < count)
        tl.store(totals + to, total, mask=t < count)


@triton.jit
def _merge(
    sums, tops, totals, positions, out,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PIECES: tl.constexpr, PIECE: tl.constexpr, SPAN: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Merge the pieces of a row up to its own position."""
    row, head = tl.program_id(0), tl.program_id(1)
    piece = tl.arange(0, SPAN)
    d = tl.arange(0, DIM)
    seen = piece * PIECE <= tl.load(positions + row)
    at = (row * HEADS + head) * PIECES + piece
    top = tl.load(tops + at, mask=seen, other=float("-inf"))
    weight = tl.exp(top - tl.max(top, 0))
    total = tl.sum(weight * tl.load(totals + at, mask=seen, other=0.0), 0)
    mixed = tl.load(sums + at[:, None] * HEAD_DIM + d[None, :], mask=seen[:, None] & (d < HEAD_DIM)[None, :], other=0.0)
    result = tl.sum(weight[:, None] * mixed, 0) / total
    tl.store(out + (row * HEADS + head) * HEAD_DIM + d, result, mask=d < HEAD_DIM)


def _launch(
    x: Tensor,
    matrix: Any,
    out: Tensor,
    what: str,
    *,
    bias: Tensor | None = None,
    parts: int = 1,
    store: Tensor | None = None,
    rows: Rows | None = None,
) -> Tensor:
    count, inputs = x.shape
    weight, scale = matrix.weight, matrix.scale
    outputs = len(weight)
    tile = next(n for n in (16, 32, 64, 128) if n >= count or n == 128)
    inner = 128 if x.dtype.itemsize == 2 else 32
    _, slots, heads, positions, head_dim = (1, 1, 1, 1, 1) if store is None else store.shape
    _linear[triton.cdiv(count, tile), triton.cdiv(outputs, OUTPUTS), parts](
        x, weight, scale, bias, out, store, rows.slots if rows else None, rows.positions if rows else None, count,
        INPUTS=inputs, TOTAL=outputs, RANGE=triton.cdiv(inputs, inner * parts) * inner, WHAT=what,
        HEADS=heads, HEAD_DIM=head_dim, POSITIONS=positions, SLOTS=slots,
        ROWS=tile, OUTPUTS=OUTPUTS, INNER=inner, QUANTIZED=scale is not None, num_warps=4, num_stages=4 if tile <= 32 else 3,
    )  # fmt: skip
    return out


class TritonOps:
    """:class:`cpm_gen.networks.cuda_graphs.layer_ops.RowOps` on a GPU."""

    def branch(self, x: Tensor, linear: Any) -> Any:
        """Sums over ranges of inputs, and the bias; see :class:`cpm_gen.networks.cuda_graphs.layer_ops.RowOps`, here and below."""
        parts = x.new_empty(PARTS, len(x), len(linear.weight), dtype=torch.float32)
        return _launch(x, linear, parts, "part", parts=PARTS), linear.bias

    def add_norm(self, x: Tensor, branch: Any, norm: Any) -> tuple[Tensor, Tensor]:
        count, hidden = x.shape
        parts, bias = branch or (None, None)
        out, normed = x if branch is None else torch.empty_like(x), torch.empty_like(x)
        _add_norm[count,](
            x, parts, bias, norm.weight, norm.bias, out, normed, count, norm.eps,
            HIDDEN=hidden, PARTS=0 if branch is None else PARTS, BLOCK=triton.next_power_of_2(hidden), num_warps=8,
        )  # fmt: skip
        return out, normed

    def project(self, x: Tensor, linear: Any, store: Tensor, rows: Rows) -> Tensor:
        q = x.new_empty(len(x), store.shape[2], store.shape[4])
        return _launch(x, linear, q, "qkv", bias=linear.bias, store=store, rows=rows)

    def attend(self, q: Tensor, store: Tensor, rows: Rows) -> Tensor:
        count, heads, head_dim = q.shape
        _, slots, _, positions, _ = store.shape
        pieces = triton.cdiv(positions, PIECE)
        sums = q.new_empty(count, heads, pieces, head_dim, dtype=torch.float32)
        tops, totals = q.new_empty(2, count, heads, pieces, dtype=torch.float32)
        dim = triton.next_power_of_2(max(16, head_dim))
        _attend[len(rows.firsts), heads, pieces](
            q, store, rows.slots, rows.positions, rows.firsts, rows.counts, sums, tops, totals, head_dim**-0.5,
            HEADS=heads, HEAD_DIM=head_dim, POSITIONS=positions, SLOTS=slots, PIECES=pieces,
            TILE=TILE, PIECE=PIECE, KEYS=KEYS, DIM=dim, num_warps=4, num_stages=2,
        )  # fmt: skip
        out = q.new_empty(count, heads * head_dim)
        _merge[count, heads](
            sums, tops, totals, rows.positions, out,
            HEADS=heads, HEAD_DIM=head_dim, PIECES=pieces, PIECE=PIECE, SPAN=triton.next_power_of_2(pieces), DIM=dim,
            num_warps=1,
        )  # fmt: skip
        return out

    def gelu(self, x: Tensor, linear: Any, form: str = "tanh") -> Tensor:
        what = "gelu" if form == "tanh" else "gelu_erf"
        return _launch(x, linear, x.new_empty(len(x), len(linear.weight)), what, bias=linear.bias)

    def head(self, x: Tensor, embedding: Any) -> Tensor:
        return _launch(x, embedding, x.new_empty(len(x), len(embedding.weight), dtype=torch.float32), "logits")
