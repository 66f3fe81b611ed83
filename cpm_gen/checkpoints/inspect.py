"""What a checkpoint is and what it needs, as ``cpm-gen inspect`` prints it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from cpm_gen.checkpoints.attention_heads import known_or_configured_heads, resolve_heads
from cpm_gen.checkpoints.checkpoint import Checkpoint, verify_replicas
from cpm_gen.checkpoints.checksums import verify_checksums
from cpm_gen.config.model_sizes import RankNumbers

DEGREES = (1, 2, 4, 8)  # whose memory is shown whether they are possible or not
MOST = 10  # ranks up to which the memory of every possible degree is shown


def describe(checkpoint: Checkpoint, heads: int | None = None, *, verify: bool = False) -> dict[str, Any]:
    """Sizes, degree, dtype, parameters, iteration, and bytes needed per rank at several degrees.

    ``memory`` counts one rank's weights and one window of KV cache, in float32, in a 16-bit format, and in int8 with a 16-bit KV
    cache; None for a degree at which the checkpoint cannot be cut. Of an ONNX file, which is run as it is, ``network`` and
    ``parameters`` are None and ``memory`` is empty. verify: read all weights and compare them with the checksums in the files, as a
    load does. Raises CheckpointError if replicated tensors differ, checksums differ or ``heads`` is impossible.
    """
    verify_replicas(checkpoint)
    if verify:
        verify_checksums(checkpoint.checksums)
    sources = dict(checkpoint.sources)
    if heads is not None:
        sources["heads"] = "as given"
    if heads is not None or known_or_configured_heads(checkpoint) is not None:
        heads = resolve_heads(checkpoint, heads)
    names = list(checkpoint.tensors)
    variant = checkpoint.variant
    possible = (
        [1] if checkpoint.is_onnx else checkpoint.possible_degrees(heads)
    )  # an ONNX file holds the network as a whole
    memory: dict[str, Any] = {}
    shown = {*DEGREES, *(degree for degree in possible if degree <= MOST)}
    for degree in () if checkpoint.is_onnx else sorted(shown):
        if degree not in possible:
            memory[str(degree)] = None
            continue
        memory[str(degree)] = {
            kind: {"weights_bytes": weights, "window_bytes": window}
            for kind, (weights, window) in rank_numbers(checkpoint, degree).memory().items()
        }
    return {
        "path": str(checkpoint.folder),
        "format": checkpoint.format,
        "iteration": checkpoint.iteration,
        "degree": checkpoint.degree,
        "dtype": str(checkpoint.dtype).removeprefix("torch."),
        "layers": checkpoint.layers,
        "hidden": checkpoint.hidden,
        "heads": heads,
        "vocabulary": checkpoint.vocabulary,
        "positions": checkpoint.positions,
        "network": None
        if checkpoint.is_onnx
        else dataclasses.asdict(variant) | {"inner": variant.inner_size(checkpoint.hidden)},
        "sources": sources,
        "parameters": None if checkpoint.is_onnx else sum(math.prod(checkpoint.shape(name)) for name in names),
        "possible_degrees": possible,
        "memory": memory,
        "dropped": checkpoint.notes,
        "checksums": {"stored": len(checkpoint.checksums), "verified": verify and bool(checkpoint.checksums)},
    }


def rank_numbers(checkpoint: Checkpoint, degree: int) -> RankNumbers:
    """What each rank of ``degree`` holds; not for an ONNX file."""
    shapes = {name: checkpoint.slice_shape(name, degree) for name in checkpoint.tensors}
    # rows of positions are added as they are; all other matrices are multiplied with, and int8 is for these
    matrices = [s for name, s in shapes.items() if len(s) == 2 and name != "position_embeddings.weight"]
    weights = sum(map(math.prod, matrices))
    return RankNumbers(
        matrices=weights,
        rows=sum(rows for rows, _ in matrices),
        others=sum(map(math.prod, shapes.values())) - weights,
        window=2 * checkpoint.layers * checkpoint.positions * checkpoint.hidden // degree,
    )
