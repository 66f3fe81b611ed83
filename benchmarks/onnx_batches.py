"""Loss and throughput of exported ONNX files of fixed shapes, by batch size: the table of the guides for Ascend devices.

    python benchmarks/onnx_batches.py --data TEXT [--model DIR] [--length 512] [--rows 64] [--batches 1 4 8 16 32 64] [--json FILE]

For each batch size a file is exported (``cpm-gen export --format onnx --batch N --length L``) and run in onnxruntime over the first
``--rows`` rows of ``--length`` consecutive tokens of the text. Loss is the mean cross-entropy of each token after those before it in
its row, in nats; throughput is rows (samples) a second, without the time of tokenizing, loading and a first pass.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from models import save

from cpm_gen.checkpoints.locate import model_folder, open_checkpoint
from cpm_gen.config.options import ModelOptions
from cpm_gen.networks.onnx.export import export_onnx
from cpm_gen.networks.onnx.model import open_session
from cpm_gen.text.find_tokenizer import find_tokenizer


def cross_entropy(logits: np.ndarray, ids: np.ndarray) -> float:
    """The sum over all tokens but the first of each row, in nats."""
    total = 0.0
    for row, targets in zip(logits, ids, strict=True):
        scores = torch.from_numpy(row[:-1]).float().log_softmax(1)
        total -= float(scores.gather(1, torch.from_numpy(targets[1:, None])).sum())
    return total


def measure(file: Path, rows: np.ndarray, batch: int, threads: int) -> tuple[float, float]:
    """Mean loss, and rows a second."""
    session = open_session(file, threads)
    session.run(["logits"], {"input_ids": rows[:batch]})
    seconds, loss = 0.0, 0.0
    for at in range(0, len(rows), batch):
        ids = rows[at : at + batch]
        began = time.perf_counter()
        (logits,) = session.run(["logits"], {"input_ids": ids})
        seconds += time.perf_counter() - began
        loss += cross_entropy(logits, ids)
    return loss / (len(rows) * (rows.shape[1] - 1)), len(rows) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="UTF-8 text")
    parser.add_argument("--model", metavar="DIR")
    parser.add_argument("--tokenizer", metavar="DIR")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8, 16, 32, 64])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as a JSON list")
    args = parser.parse_args()
    if any(args.rows % batch for batch in args.batches):
        parser.error("--rows must be a multiple of each batch size")
    tokenizer = find_tokenizer(ModelOptions(model=args.model, tokenizer=args.tokenizer))
    needed = args.rows * args.length
    ids = tokenizer.encode(args.data.read_text(encoding="utf-8")[: 8 * needed])[:needed]
    if len(ids) < needed:
        parser.error(f"the text has {len(ids):,} tokens, {needed:,} are needed")
    rows = np.array(ids, np.int64).reshape(args.rows, args.length)
    checkpoint = open_checkpoint(model_folder(args.model))
    found = []
    print("| batch | loss | samples a second |\n|---|---|---|")
    for batch in args.batches:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            export_onnx(checkpoint, file, batch=batch, length=args.length)
            loss, rate = measure(file, rows, batch, args.threads)
        print(f"| {batch} | {loss:.4f} | {rate:.2f} |", flush=True)
        found.append({"batch": batch, "length": args.length, "loss": loss, "samples_per_second": rate})
    save(found, args.json)


if __name__ == "__main__":
    main()
