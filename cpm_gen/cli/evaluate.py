"""``eval`` and ``eval-window``: how well a model predicts text, and how well past its window."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

from cpm_gen.checkpoints.formats.onnx_file import is_onnx
from cpm_gen.checkpoints.locate import model_folder
from cpm_gen.cli.notes import show_note
from cpm_gen.cli.progress import Remaining, Status
from cpm_gen.cli.tables import table, with_interval
from cpm_gen.cli.write import Interrupt, follows, open_model
from cpm_gen.config.options import ModelOptions
from cpm_gen.config.resolve import Settings
from cpm_gen.engine.window import Window
from cpm_gen.errors import ConfigError
from cpm_gen.evaluation.perplexity import Difference, Evaluation, difference
from cpm_gen.evaluation.perplexity import evaluate as score_documents
from cpm_gen.evaluation.scorer import ModelScorer
from cpm_gen.parallel.launchers import launched
from cpm_gen.runtime.plan import Machine, plan_load
from cpm_gen.text.documents import Document, read_documents
from cpm_gen.text.find_tokenizer import NoVocabulary, find_tokenizer, fitting_tokenizer
from cpm_gen.translation import localized

# chosen when such a file is exported, or by onnxruntime
_FIXED_IN_ONNX = ("kernels", "dtype", "quantize", "kv_cache", "tensor_parallel", "device")
_LABELS = {
    "loss_per_token": "loss, nats per token",
    "perplexity_per_token": "perplexity per token",
    "loss_per_character": "loss, nats per character",
    "perplexity_per_character": "perplexity per character",
    "bits_per_character": "bits per character",
}


def evaluate(args: argparse.Namespace, settings: Settings) -> int:
    """Perplexity of a model on documents, or of two."""
    if args.against is not None and launched() is not None:
        raise ConfigError("--against loads two models in turn, which a launcher's ranks cannot; use --tensor-parallel")
    if follows(settings):
        return 0
    documents = read_documents(args.data, records=args.records)
    other = None if args.against is None else _other(settings, args.against)
    for each in (settings, other):  # before the first is measured, which can take hours
        if each is not None:
            _check(each, args.stride)
    with Interrupt() as interrupt:
        first = _evaluate(settings, args.stride, documents, interrupt)
        second = None
        if other is not None and not interrupt.asked:
            second = _evaluate(other, args.stride, documents, interrupt)
    compared = None if second is None else difference(first, second)
    for line in _remarks(first):
        show_note(line)
    if args.json:
        report = {"data": args.data, **first.to_json()}
        if second is not None:
            report["against"] = {**second.to_json(), "difference": compared and compared.to_json()}
        sys.stdout.write(json.dumps(report, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(_table(first, second, compared))
    return interrupt.status


def _other(settings: Settings, model: str) -> Settings:
    """The settings of the model to compare with: the same, as far as they fit its kind of file.

    Its own tokenizer is taken if one lies with the model, else the first's.
    """
    options = dataclasses.replace(settings.model, model=model, tokenizer=None)
    if is_onnx(model_folder(model)):
        usual = ModelOptions()
        options = dataclasses.replace(options, **{name: getattr(usual, name) for name in _FIXED_IN_ONNX})
    elif options.kernels == "onnx":
        options = dataclasses.replace(options, kernels="auto")
    try:
        find_tokenizer(options)
    except NoVocabulary:
        first = settings.model.tokenizer or str(model_folder(settings.model.model))
        options = dataclasses.replace(options, tokenizer=first)
    return dataclasses.replace(settings, model=options)


def _check(settings: Settings, stride: int | None) -> None:
    """Raise what would be raised when this model is loaded and measured; reads headers and the vocabulary."""
    plan = plan_load(settings.model, Machine.detect())
    _window(plan.window, stride)
    fitting_tokenizer(settings.model, plan.size.vocabulary)


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
        names = short[0] + (f" and {len(short) - 1} more" if len(short) > 1 else "")
        found.append(f"{names}: fewer than two tokens, not scored")
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
    rows.append([localized("documents"), *(f"{len(m.documents):,}" for m in models)])
    rows.append([localized("tokens"), *(f"{m.tokens:,}" for m in models)])
    rows.append([localized("characters"), *(f"{m.characters:,.0f}" for m in models)])
    figures = [m.figures() for m in models]
    rows += [[localized(label), *(with_interval(f[name], ".4g") for f in figures)] for name, label in _LABELS.items()]
    rows.append([localized("tokens per second"), *(f"{m.tokens_per_second:,.0f}" for m in models)])
    lines = table(rows)
    if second is not None:
        lines += "\n" + _verdict(compared)
    return lines


def _verdict(compared: Difference | None) -> str:
    if compared is None:
        return localized("No document was scored whole by both models.") + "\n"
    parts = [f"{with_interval(compared.per_character, '+.4f')} nats per character"]
    if compared.per_token:
        parts.append(f"{with_interval(compared.per_token, '+.4f')} nats per token")
    verdict = {
        "this": "the first is better",
        "other": "the second is better",
        None: "no clear difference" if compared.per_character.interval else "one document: no confidence",
    }[compared.better]
    return localized(f"First less second, {compared.documents:,} documents: {', '.join(parts)}: {verdict}.") + "\n"
