"""The record of a run as JSON, and the model card that is written from it."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers

import cpm_gen
from cpm_gen.finetuning.prepare import Prepared
from cpm_gen.finetuning.setup import Outcome

_VERSION = 1


def record(prepared: Prepared, outcome: Outcome, weights: str) -> dict[str, Any]:
    """What the run was and what came of it, as ``training.json`` holds it. weights: their hash."""
    request, setup = prepared.request, prepared.setup
    config = setup.model.config
    sources = [
        {
            "name": s.source.path.rstrip("/").rsplit("/", 1)[-1],
            "style": s.source.style,
            "documents": s.documents,
            "held_out_documents": s.held_documents,
            "characters": s.characters,
            "tokens": len(s.train),
            "held_out_tokens": len(s.held),
            "share": round(float(share), 4),
        }
        for s, share in zip(prepared.texts.sources, prepared.texts.shares, strict=True)
    ]
    return {
        "version": _VERSION,
        "cpm_gen": cpm_gen.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "based_on": None if request.options.from_nothing else request.model.model or "embedded",
        "layers": config.n_layer,
        "hidden": config.n_embd,
        "heads": config.n_head,
        "vocabulary": config.vocab_size,
        "positions": config.n_positions,
        "parameters": sum(p.numel() for p in setup.model.parameters()),
        "style": request.style,
        "seed": request.seed,
        "recipe": request.options.recipe,
        "learning_rate": setup.learning_rate,
        "batch": request.options.batch,
        "length": setup.windows.length,
        "micro_batch": setup.memory.micro_batch,
        "gradient_checkpointing": setup.memory.checkpointing,
        "threads": torch.get_num_threads(),
        "optimizer": request.options.optimizer,
        "lora": request.options.lora,
        "dropout": request.options.dropout,
        "precision": "float32" if setup.half is None else str(setup.half).removeprefix("torch."),
        "steps": outcome.steps,
        "tokens": outcome.tokens,
        "seconds": round(outcome.seconds, 1),
        "ended_early": outcome.early,
        "best_step": outcome.best,
        "held_out_before": outcome.before and round(outcome.before, 4),
        "held_out_after": outcome.after and round(outcome.after, 4),
        "test_loss": outcome.test and round(outcome.test, 4),
        "weights_sha256": weights,
        "licence": request.options.licence,
        "data": sources,
    }


def card(facts: Mapping[str, Any], samples: Sequence[tuple[str, str]]) -> str:
    """The model card. samples: the command of each, and its text."""
    based = f"Trained further from {facts['based_on']}" if facts["based_on"] else "Trained from nothing"
    how = f", by adapters of rank {facts['lora']} that were merged" if facts["lora"] else ""
    losses = "Nothing was held out."
    if facts["held_out_after"] is not None:
        losses = (
            f"Held-out loss, nats per token: {facts['held_out_before']:.3f} before, **{facts['held_out_after']:.3f}** after "
            f"(step {facts['best_step']:,})."
        )
    if facts["test_loss"] is not None:
        losses += f" Of other texts, measured once: {facts['test_loss']:.3f}."
    lines = [
        "# Model card",
        "",
        f"{based} with `cpm-gen finetune`{how}: {facts['steps']:,} steps, {facts['tokens']:,} tokens, {facts['seconds'] / 60:.1f} minutes.",
        "",
        f"- **Network**: GPT-2 as CPM-1 has it, {facts['parameters']:,} parameters: {facts['layers']} layers, hidden size "
        f"{facts['hidden']}, {facts['heads']} heads, {facts['vocabulary']:,} tokens, {facts['positions']:,} positions.",
        f"- **Licence**: {facts['licence']}",
        f"- **Style**: {facts['style']}",
        f"- **Loss**: {losses} `loss.png` shows its course.",
        f"- **Training**: {facts['optimizer']}, peak learning rate {facts['learning_rate']:.2g}, {facts['batch']} windows of "
        f"{facts['length']:,} tokens a step, {facts['precision']}, seed {facts['seed']}. All figures: `training.json`.",
        "",
        "## Data",
        "",
        "| texts | style | documents | held out | characters | tokens | share |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {s['name']} | {s['style']} | {s['documents']:,} | {s['held_out_documents']:,} | {s['characters']:,} "
            f"| {s['tokens']:,} | {s['share']:.0%} |"
            for s in facts["data"]
        ),
        "",
        "The model can repeat passages of these texts word for word; check what it writes before you publish it.",
        "",
        "## Samples",
    ]
    for command, text in samples:
        lines += ["", f"`{command}`", "", "```text", text.strip("\n"), "```"]
    return "\n".join(lines) + "\n"


def to_text(facts: Mapping[str, Any]) -> str:
    """The record as the text of a JSON file."""
    return json.dumps(facts, ensure_ascii=False, indent=1) + "\n"
