"""Speed and memory of training: ``cpm-gen finetune``'s trainer beside a plain script with transformers' Trainer, in turns.

    python benchmarks/finetune.py --data FOLDER [--model DIR] [--steps N] [--rounds N] [--precision float32|bfloat16] [--json FILE]

Both train the same weights on the same token ids, in windows of the network's positions with AdamW, as many windows a step. The plain
script cuts the ids into consecutive blocks and gives them as inputs and labels, as transformers' example ``run_clm.py`` does. Each run
is a process of its own. The speed is that of the median step after the first ones. In our runs that is a step of half windows, as in the
first 85 % of a training. Whole windows and the measurement of held-out texts are not timed. The memory is the peak of the process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WARM = 3  # steps that are not counted


def plain(args: argparse.Namespace, folder: Path) -> list[float]:
    """Seconds of each step of the plain script."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    from cpm_gen.checkpoints.locate import model_folder, open_checkpoint
    from cpm_gen.config.options import ModelOptions
    from cpm_gen.finetuning.gpt2 import load_network
    from cpm_gen.finetuning.texts import encode_sources, find_sources
    from cpm_gen.text.find_tokenizer import find_tokenizer

    tokenizer = find_tokenizer(ModelOptions(model=args.model))
    loaded = load_network(open_checkpoint(model_folder(args.model)), None, 0.1)
    usual = {"activation_function": "gelu_new", "attn_implementation": "sdpa"}  # as transformers opens such a model
    network = GPT2LMHeadModel(GPT2Config(**{**loaded.config.to_dict(), **usual}))
    network.load_state_dict(loaded.state_dict())
    texts = encode_sources(find_sources([args.data], "lyric", records=None), tokenizer, 0.05)
    ids = texts.sources[0].train.tolist()
    n = int(network.config.n_positions)
    blocks = [ids[at : at + n] for at in range(0, len(ids) - n, n)]
    if not blocks:
        sys.exit(f"{args.data}: {len(ids):,} tokens, but a window has {n:,}; give more text")
    data = [{"input_ids": torch.tensor(b), "labels": torch.tensor(b)} for b in blocks]
    while len(data) < args.batch * args.steps:
        data += data
    times = [time.perf_counter()]

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    arguments = TrainingArguments(
        output_dir=str(folder), use_cpu=True, per_device_train_batch_size=args.batch, max_steps=args.steps,
        learning_rate=3e-4, bf16=args.precision == "bfloat16", report_to=[], disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    Trainer(model=network, args=arguments, train_dataset=data, callbacks=[Clock()]).train()
    return [b - a for a, b in itertools.pairwise(times)]


def ours(args: argparse.Namespace, folder: Path) -> list[float]:
    """Seconds of each step of ``cpm-gen finetune``'s trainer."""
    from cpm_gen.config.finetune_options import finetune_options
    from cpm_gen.config.options import ModelOptions
    from cpm_gen.finetuning.prepare import Request, prepare
    from cpm_gen.finetuning.run_folder import RunFolder
    from cpm_gen.finetuning.setup import Step
    from cpm_gen.finetuning.trainer import run

    given = {"steps": args.steps, "batch": args.batch, "precision": args.precision, "patience": 0}
    options = finetune_options({**given, "micro_batch": args.batch, "held_out": 0.05}, "lyric")
    request = Request(ModelOptions(model=args.model), "lyric", (args.data,), None, 0, options)
    times = [time.perf_counter()]

    def report(step: Step) -> None:
        if step.held_out is None:
            times.append(time.perf_counter())

    prepared = prepare(request, RunFolder(folder), resume=False)
    setup = prepared.setup
    setup.held.clear()  # no measurements between the steps, as the plain script has none
    run(setup, report)
    return [b - a for a, b in itertools.pairwise(times)]


def child(args: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        seconds = (ours if args.child == "ours" else plain)(args, Path(folder))
    from cpm_gen.checkpoints.locate import model_folder, open_checkpoint

    tokens = args.batch * open_checkpoint(model_folder(args.model)).positions
    rate = tokens / statistics.median(seconds[WARM:])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"tokens_per_second": rate, "bytes": memory}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=["ours", "plain"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    found: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
    for turn in range(args.rounds):
        for name in ("ours", "plain") if turn % 2 == 0 else ("plain", "ours"):
            words = [sys.executable, __file__, *sys.argv[1:], "--child", name]
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr.rstrip() or f"{name}: failed")
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{name}: {found[name][-1]['tokens_per_second']:,.0f} tokens/s", file=sys.stderr)
    rows = []
    print("| trainer | tokens/s (median; least to most) | memory |\n|---|---|---|")
    for name, label in (("ours", "cpm-gen finetune"), ("plain", "plain Trainer script")):
        rates = [run["tokens_per_second"] for run in found[name]]
        memory = max(run["bytes"] for run in found[name])
        rows.append({"trainer": label, "precision": args.precision, "tokens_per_second": rates, "bytes": memory})
        print(
            f"| {label} | {statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | {memory / 1e9:.2f} GB |"
        )
    ratios = [
        a["tokens_per_second"] / b["tokens_per_second"] for a, b in zip(found["ours"], found["plain"], strict=True)
    ]
    print(f"\nratio, round by round: {', '.join(f'{r:.2f}' for r in ratios)}")
    if args.json:
        args.json.write_text(json.dumps({"model": args.model, "rows": rows, "ratios": ratios}, indent=1) + "\n")


if __name__ == "__main__":
    main()
