"""``eval`` and ``eval-window``: how well a model predicts text, and how well past its window."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence

from cpm_gen.cli.progress import Status, duration
from cpm_gen.cli.write import Interrupt, follows, open_model
from cpm_gen.config.resolve import Settings
from cpm_gen.engine.window import Window
from cpm_gen.errors import ConfigError, TokenizerError
from cpm_gen.evaluation.documents import Document, read_documents
from cpm_gen.evaluation.perplexity import Difference, Evaluation, Figure, difference
from cpm_gen.evaluation.perplexity import evaluate as score_documents
from cpm_gen.evaluation.scorer import ModelScorer
from cpm_gen.parallel.launchers import launched

_LABELS = {
    "loss_per_token": "loss, nats per token",
    "perplexity_per_token": "perplexity per token",
    "loss_per_character": "loss, nats per character",
    "perplexity_per_character": "perplexity per character",
    "bits_per_character": "bits per character",
}


class Remaining:
    """A status line with the share that is done and the time left. whole: the amount of work, in any unit."""

    def __init__(self, status: Status, what: str, whole: int) -> None:
        self._status, self._what, self._whole = status, what, max(1, whole)
        self._began = time.monotonic()

    def show(self, done: int, tokens: int | None = None) -> None:
        """Show that ``done`` of the work is done, and with ``tokens`` the speed."""
        elapsed = max(time.monotonic() - self._began, 1e-6)
        parts = [self._what, f"{done / self._whole:.0%}"]
        if tokens is not None:
            parts.append(f"{tokens / elapsed:,.0f} tokens/s")
        if done:
            parts.append(f"{duration(elapsed * (self._whole - done) / done)} left")
        self._status.show(" · ".join(parts))


def evaluate(args: argparse.Namespace, settings: Settings) -> int:
    """Perplexity of a model on documents, or of two."""
    if args.against is not None and launched() is not None:
        raise ConfigError("--against loads two models in turn, which a launcher's ranks cannot; use --tensor-parallel")
    if follows(settings):
        return 0
    documents = read_documents(args.data, records=args.records)
    other = None if args.against is None else _other(settings, args.against)
    with Interrupt() as interrupt:
        first = _evaluate(settings, args.stride, documents, interrupt)
        second = None
        if other is not None and not interrupt.asked:
            second = _evaluate(other, args.stride, documents, interrupt)
    compared = None if second is None else difference(first, second)
    for line in _remarks(first):
        sys.stderr.write(f"note: {line}\n")
    if args.json:
        report = {"data": args.data, **first.to_json()}
        if second is not None:
            report["against"] = {**second.to_json(), "difference": compared and compared.to_json()}
        sys.stdout.write(json.dumps(report, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(_table(first, second, compared))
    return interrupt.status


def _other(settings: Settings, model: str) -> Settings:
    """The settings of the model to compare with: the same, with its own tokenizer if one lies with the model, else the first's."""
    from cpm_gen.checkpoints.locate import model_folder
    from cpm_gen.text.find_tokenizer import find_tokenizer

    options = dataclasses.replace(settings.model, model=model, tokenizer=None)
    try:
        find_tokenizer(options)
    except TokenizerError:
        first = settings.model.tokenizer or str(model_folder(settings.model.model))
        options = dataclasses.replace(options, tokenizer=first)
    return dataclasses.replace(settings, model=options)


def _evaluate(
    settings: Settings, stride: int | None, documents: Sequence[Document], interrupt: Interrupt
) -> Evaluation:
    with open_model(settings) as engine, Status(beside_text=False) as status:
        scorer = ModelScorer(engine, style=settings.text.style, window=_window(engine.window, stride))
        remaining = Remaining(status, scorer.name, sum(len(d.text) for d in documents))
        return score_documents(
            scorer,
            documents,
            seed=settings.text.seed or 0,
            progress=remaining.show,
            stop=lambda: interrupt.asked,
        )


def _window(window: Window, stride: int | None) -> Window:
    most = window.limit - window.keep
    if stride is not None and not 1 <= stride <= most:
        raise ConfigError(f"--stride must be from 1 to {most}, the tokens of the window that move, not {stride}")
    return window if stride is None else dataclasses.replace(window, hop=stride)


def _remarks(evaluation: Evaluation) -> list[str]:
    found = []
    if short := evaluation.short:
        more = f" and {len(short) - 1} more" if len(short) > 1 else ""
        found.append(f"{short[0]}{more}: fewer than two tokens, not scored")
    if evaluation.unknown:
        share = evaluation.unknown / (evaluation.tokens + evaluation.unknown)
        found.append(f"{evaluation.unknown:,} tokens ({share:.1%}) are unknown characters, which are not scored")
    if len(evaluation.documents) == 1:
        found.append(
            "one document gives no confidence interval; --records makes documents of what blank lines separate"
        )
    if evaluation.interrupted:
        found.append("interrupted; the figures are of what was scored until then")
    return found


def _table(first: Evaluation, second: Evaluation | None, compared: Difference | None) -> str:
    models = [first] + ([second] if second else [])
    rows = [["", *(m.model for m in models)]]
    rows.append(["documents", *(f"{len(m.documents):,}" for m in models)])
    rows.append(["tokens", *(f"{m.tokens:,}" for m in models)])
    rows.append(["characters", *(f"{m.characters:,.0f}" for m in models)])
    figures = [m.figures() for m in models]
    rows += [[label, *(_shown(f[name]) for f in figures)] for name, label in _LABELS.items()]
    rows.append(["tokens per second", *(f"{m.tokens_per_second:,.0f}" for m in models)])
    lines = table(rows)
    if second is not None:
        lines += "\n" + _verdict(compared)
    return lines


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table that reads well in a terminal and in Markdown; the first row is the heading."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(c + " " * (w - _width(c)) for c, w in zip(r, widths, strict=True)) + " |" for r in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines) + "\n"


def _width(text: str) -> int:
    return sum(2 if ord(c) >= 0x1100 and not 0x2000 <= ord(c) < 0x2E80 else 1 for c in text)


def _shown(figure: Figure) -> str:
    ends = figure.interval
    return f"{figure.value:.4g}" + (f" ({ends[0]:.4g} to {ends[1]:.4g})" if ends else "")


def _verdict(compared: Difference | None) -> str:
    if compared is None:
        return "No document was scored whole by both models.\n"
    parts = [f"{_signed(compared.per_character)} nats per character"]
    if compared.per_token:
        parts.append(f"{_signed(compared.per_token)} nats per token")
    verdict = {
        "this": "the first is better",
        "other": "the second is better",
        None: "no clear difference" if compared.per_character.interval else "one document: no confidence",
    }[compared.better]
    return f"First less second, {compared.documents:,} documents: {', '.join(parts)}: {verdict}.\n"


def _signed(figure: Figure) -> str:
    ends = figure.interval
    return f"{figure.value:+.4f}" + (f" ({ends[0]:+.4f} to {ends[1]:+.4f})" if ends else "")
