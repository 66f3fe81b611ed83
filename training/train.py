"""Train the embedded model: a small network of CPM-1's architecture on verse and prose, saved as mp_rank shards.

    python training/train.py TEXT_DIR VOCAB_DIR OUT_DIR --minutes 95

``TEXT_DIR`` holds ``lyric/*.txt`` (one record per poem, blank line between records) and ``novel/*.txt`` (one file per book,
blank line between chapters). The learning rate rises, stays and falls over ``--minutes``, so a busy machine trains fewer tokens
but always finishes the schedule; with ``--steps`` the schedule follows the number of steps. The network here is deliberately
independent of ``cpm_gen``: a test that both give the same loss checks both.

Method: Muon (Jordan et al. 2024, as in ``torch.optim``) for the matrices inside the layers, AdamW for the rest. Sequences have
half the length of the position table at random offsets, so that every position is trained, and the whole length at the end. Unknown
characters are never a target, so the model does not write ``<unk>``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sentencepiece as spm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

EOD, UNK, NEWLINE = 7, 0, 3
SHARES = {"tang": 0.20, "ci": 0.33, "prose": 0.47}  # of the tokens trained on
HELD_OUT_EVERY = 200  # one record in 200 is never trained on


class Block(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.input_layernorm = nn.LayerNorm(hidden)
        self.attention = nn.ModuleDict(
            {"query_key_value": nn.Linear(hidden, 3 * hidden), "dense": nn.Linear(hidden, hidden)}
        )
        self.post_attention_layernorm = nn.LayerNorm(hidden)
        self.mlp = nn.ModuleDict(
            {"dense_h_to_4h": nn.Linear(hidden, 4 * hidden), "dense_4h_to_h": nn.Linear(4 * hidden, hidden)}
        )

    def forward(self, x: Tensor) -> Tensor:  # [batch, length, hidden]
        b, t, h = x.shape
        q, k, v = self.attention["query_key_value"](self.input_layernorm(x)).chunk(3, dim=-1)
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in (q, k, v))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention["dense"](a.transpose(1, 2).reshape(b, t, h))
        y = F.gelu(self.mlp["dense_h_to_4h"](self.post_attention_layernorm(x)), approximate="tanh")
        return x + self.mlp["dense_4h_to_h"](y)


class Network(nn.Module):
    """Parameter names are the checkpoint's names."""

    def __init__(self, layers: int, hidden: int, heads: int, vocabulary: int, positions: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, hidden)
        self.position_embeddings = nn.Embedding(positions, hidden)
        self.transformer = nn.Module()
        self.transformer.layers = nn.ModuleList(Block(hidden, heads) for _ in range(layers))
        self.transformer.final_layernorm = nn.LayerNorm(hidden)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                residual = name.endswith(("attention.dense.weight", "dense_4h_to_h.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers) if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, ids: Tensor, targets: Tensor, offset: Tensor, reduction: str = "mean") -> Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device) + offset
        x = self.word_embeddings(ids) + self.position_embeddings(positions)
        for layer in self.transformer.layers:
            x = layer(x)
        logits = F.linear(self.transformer.final_layernorm(x), self.word_embeddings.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=UNK, reduction=reduction)


def records(text_dir: Path) -> Iterator[tuple[str, bool, str]]:
    """(kind, whether it is held out, text) of each poem and chapter."""
    seen = dict.fromkeys(SHARES, 0)
    for path in sorted(text_dir.rglob("*.txt")):
        lyric = path.parent.name == "lyric"
        kind = ("tang" if path.stem == "tangshi" else "ci") if lyric else "prose"
        found = [r.strip("\n") for r in path.read_text(encoding="utf-8").replace("\r\n", "\n").split("\n\n")]
        for record in (r for r in found if r.strip()):
            seen[kind] += 1
            yield kind, seen[kind] % HELD_OUT_EVERY == 0, record


def encode(
    text_dir: Path, tokenizer: spm.SentencePieceProcessor
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Token streams (uint16) for training and for held-out loss, by kind.

    A poem consists of lines ending in ``<eod>``, with one more ``<eod>`` after the poem (the lyric style). A chapter is its text with
    newlines as ``▃`` and an ``<eod>`` at its end. This vocabulary drops the spaces that join jieba's words, so jieba cannot
    change the ids and is not used here.
    """
    train: dict[str, list[np.ndarray]] = {kind: [] for kind in SHARES}
    held: dict[str, list[np.ndarray]] = {kind: [] for kind in SHARES}
    for kind, is_held, record in records(text_dir):
        lines = [line.strip().replace(" ", "▂") for line in record.split("\n") if line.strip()]
        encoded = tokenizer.encode(lines if kind != "prose" else "▃".join(lines))
        ids = [i for piece in encoded for i in [*piece, EOD]] if kind != "prose" else encoded
        (held if is_held else train)[kind].append(np.array([*ids, EOD], dtype=np.uint16))
    shuffle = np.random.default_rng(0).permutation

    def join(parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([parts[i] for i in shuffle(len(parts))]) if parts else np.zeros(0, np.uint16)

    return {k: join(v) for k, v in train.items()}, {k: join(v) for k, v in held.items()}


class Sampler:
    """Random windows that begin at a line or a sentence, as prompts do."""

    def __init__(self, streams: dict[str, np.ndarray], stops: list[int], seed: int) -> None:
        self.streams = streams
        self.starts = {k: np.flatnonzero(np.isin(s, stops)) + 1 for k, s in streams.items()}
        self.rng = np.random.default_rng(seed)
        self.kinds, shares = zip(*((k, SHARES[k]) for k in streams if len(streams[k]) > 4096), strict=True)
        self.shares = np.array(shares) / sum(shares)

    def batch(self, size: int, length: int) -> tuple[Tensor, Tensor]:
        rows = []
        for kind in self.rng.choice(len(self.kinds), size=size, p=self.shares):
            stream, starts = self.streams[self.kinds[kind]], self.starts[self.kinds[kind]]
            at = min(int(self.rng.choice(starts)), len(stream) - length - 1)
            rows.append(stream[at : at + length + 1].astype(np.int64))
        block = torch.from_numpy(np.stack(rows))
        return block[:, :-1], block[:, 1:]


def held_out_loss(
    network: nn.Module, streams: dict[str, np.ndarray], length: int, limit: int = 60_000
) -> dict[str, float]:
    """Nats per token by kind, in consecutive windows of ``length``; unknown characters are not counted."""
    losses = {}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for kind, stream in streams.items():
            total, count = 0.0, 0
            for at in range(0, min(limit, len(stream)) - length - 1, length):
                block = torch.from_numpy(stream[at : at + length + 1].astype(np.int64))[None]
                total += float(network(block[:, :-1], block[:, 1:], torch.tensor(0), reduction="sum"))
                count += int((block[:, 1:] != UNK).sum())
            losses[kind] = total / max(count, 1)
    return losses


def save(network: Network, out: Path, degree: int, iteration: int, card: dict[str, object]) -> None:
    """Write the checkpoint in CPM's layout, in fp16, sliced for ``degree`` ranks by ``cpm_gen``'s tensor table."""
    from cpm_gen.checkpoints.formats.megatron import save_checkpoint

    state = {name: p.detach().half().contiguous() for name, p in network.named_parameters()}
    save_checkpoint(out, state, degree=degree, iteration=iteration)
    (out / "training.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("vocab", type=Path)
    parser.add_argument("out", type=Path)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=95.0)
    length.add_argument(
        "--steps", type=int, help="train this number of steps, however long they take; such a run is repeatable"
    )
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--positions", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16, help="sequences of half the position table per step")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--degree", type=int, default=1, help="ranks to write the shards for")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.steps is not None and args.steps < 1:
        parser.error(f"--steps must be at least 1, not {args.steps}")

    torch.manual_seed(args.seed)
    tokenizer = spm.SentencePieceProcessor(model_file=str(args.vocab / "chinese_vocab.model"))
    cache = args.out.with_suffix(".tokens.npz")
    if cache.exists():
        data = np.load(cache)
        train, held = ({k: data[f"{part}_{k}"] for k in SHARES} for part in ("train", "held"))
    else:
        train, held = encode(args.text, tokenizer)
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, **{f"train_{k}": v for k, v in train.items()}, **{f"held_{k}": v for k, v in held.items()})
    sizes = {k: len(v) for k, v in train.items()}
    print("tokens to train on:", sizes, "held out:", {k: len(v) for k, v in held.items()}, flush=True)

    network = Network(args.layers, args.hidden, args.heads, len(tokenizer), args.positions)
    parameters = sum(p.numel() for p in network.parameters())
    matrices = [p for n, p in network.named_parameters() if p.ndim == 2 and "transformer" in n]
    tables = [p for n, p in network.named_parameters() if p.ndim == 2 and "transformer" not in n]
    vectors = [p for p in network.parameters() if p.ndim == 1]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=args.lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [{"params": tables, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}],
            lr=args.lr, betas=(0.9, 0.95), fused=True,
        ),
    ]  # fmt: skip
    compiled = torch.compile(network, dynamic=False)
    stops = [EOD, NEWLINE, *tokenizer.piece_to_id(["。", "？", "！", "。”"])]
    sampler = Sampler(train, stops, args.seed)

    half = args.positions // 2
    started, step, trained, average = time.monotonic(), 0, 0, math.nan
    report = 50

    def ran() -> float:
        """Progress of the training, from 0 to 1."""
        return step / args.steps if args.steps else (time.monotonic() - started) / (args.minutes * 60)

    while (progress := ran()) < 1:
        # warm-up over 100 steps, flat, then linear to zero over the last 55 %
        lr = args.lr * min(1.0, (step + 1) / 100, max(0.0, (1 - progress) / 0.55))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
        whole = progress > 0.85
        length, rows = (args.positions, args.batch // 2) if whole else (half, args.batch)
        offset = 0 if whole or step % 2 else int(sampler.rng.integers(1, half + 1))
        ids, targets = sampler.batch(rows, length)
        with torch.autocast("cpu", torch.bfloat16):
            loss = compiled(ids, targets, torch.tensor(offset))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, trained = step + 1, trained + ids.numel()
        average = loss.item() if math.isnan(average) else 0.98 * average + 0.02 * loss.item()
        if step % report == 0:
            rate = trained / (time.monotonic() - started)
            print(
                f"step {step}  {progress:6.1%}  lr {lr:.2e}  loss {average:.3f}  {rate:,.0f} tokens/s  {trained:,} tokens",
                flush=True,
            )
        if step % 2000 == 0:
            print("held out:", held_out_loss(network, held, half), flush=True)
            torch.save(network.state_dict(), args.out.with_suffix(".partial.pt"))
    minutes = round((time.monotonic() - started) / 60, 1)
    card: dict[str, object] = {
        "layers": args.layers, "hidden": args.hidden, "heads": args.heads, "vocabulary": len(tokenizer), "positions": args.positions,
        "parameters": parameters, "steps": step, "tokens_trained": trained, "minutes": minutes, "corpus_tokens": sizes,
        "shares": SHARES, "held_out": HELD_OUT_EVERY, "learning_rate": args.lr, "seed": args.seed, "torch": torch.__version__,
        "held_out_nats_per_token": {k: round(v, 4) for k, v in held_out_loss(network, held, args.positions).items()},
    }  # fmt: skip
    torch.save(network.state_dict(), args.out.with_suffix(".final.pt"))
    print(json.dumps(card, ensure_ascii=False), flush=True)
    save(network, args.out, args.degree, step, card)


if __name__ == "__main__":
    main()
