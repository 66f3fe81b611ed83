"""``inspect``, ``reshard``, ``tokenize`` and ``score``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from typing import Any

from cpm_gen.cli import text_input
from cpm_gen.cli.notes import show_note
from cpm_gen.config.json_lines import json_lines
from cpm_gen.config.resolve import Settings
from cpm_gen.errors import ConfigError, InputError, TokenizerError
from cpm_gen.translation import localized


def inspect(args: argparse.Namespace, settings: Settings) -> int:
    """Print what a checkpoint is and what it needs."""
    from cpm_gen.checkpoints.inspect import describe
    from cpm_gen.checkpoints.locate import model_folder, open_checkpoint
    from cpm_gen.cli.inspect_table import row, to_text
    from cpm_gen.text.describe_tokenizer import describe_tokenizer
    from cpm_gen.text.describe_tokenizer import to_text as tokenizer_text
    from cpm_gen.text.find_tokenizer import NoVocabulary, fitting_tokenizer

    model = settings.model if args.dir is None else dataclasses.replace(settings.model, model=args.dir)
    checkpoint = open_checkpoint(model_folder(model.model))
    description = describe(checkpoint, settings.model.heads, verify=args.verify)
    about, line, failure = None, "none; ids only, unless --tokenizer names one", None
    try:
        about = describe_tokenizer(fitting_tokenizer(model, checkpoint.vocabulary), checkpoint.vocabulary)
        line = tokenizer_text(about)
    except NoVocabulary:
        pass
    except TokenizerError as error:  # the checkpoint itself is in order
        line, failure = "cannot be used", error
    if args.json:
        sys.stdout.write(json.dumps(description | {"tokenizer": about}, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(to_text(description) + "\n" + row(localized("tokenizer"), localized(line)))
    if failure is not None:
        raise failure
    return 0


def reshard(args: argparse.Namespace, settings: Settings) -> int:
    """Write a checkpoint for another degree, with a progress bar on a terminal."""
    from cpm_gen.cli.progress import progress_bars
    from cpm_gen.runtime.reshard import reshard as run

    if args.degree < 1:
        raise ConfigError(f"MPSIZE must be at least 1, not {args.degree}")
    with progress_bars() as progress:
        target = run(
            args.dir, args.degree, args.output, heads=settings.model.heads, force=args.force, progress=progress
        )
    sys.stdout.write(f"{target}\n")
    return 0


def _field(content: dict[str, Any], name: str, number: int) -> Any:
    value = content.get(name)
    if name == "text" and isinstance(value, str):
        return value
    if name == "ids" and isinstance(value, list) and all(type(i) is int for i in value):
        return value
    kind = "a string" if name == "text" else "a list of whole numbers"
    raise InputError(f'standard input, line {number}: needs "{name}", {kind}')


def _each_line(field: str, work: Callable[[Any], dict[str, Any]]) -> None:
    for number, content in json_lines(sys.stdin.buffer, "standard input"):
        value = _field(content, field, number)
        try:
            result = work(value)
        except InputError as error:
            raise InputError(f"standard input, line {number}: {error}") from None
        sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
        sys.stdout.flush()


def _one_text(args: argparse.Namespace) -> str:
    text = text_input.prompt(args)
    if text is None:
        raise InputError(
            "no text: give it as an argument, with --prompt-file or on standard input; or use --json-lines"
        )
    return text


def _no_other_input(args: argparse.Namespace) -> None:
    if text_input.given(args):
        raise ConfigError("--json-lines reads standard input; leave the text out")


def tokenize(args: argparse.Namespace, settings: Settings) -> int:
    """Text to ids or, with --decode, ids to text."""
    from cpm_gen.text.describe_tokenizer import describe_tokenizer, to_text
    from cpm_gen.text.find_tokenizer import find_tokenizer

    tokenizer = find_tokenizer(settings.model)
    if args.about:
        sys.stdout.write(localized(to_text(describe_tokenizer(tokenizer))) + "\n")
        return 0
    encode = tokenizer.encode_with_specials if settings.model.special_pieces else tokenizer.encode
    if args.json_lines:
        _no_other_input(args)
        if args.decode:
            _each_line("ids", lambda ids: {"text": tokenizer.decode(ids)})
        else:
            _each_line("text", lambda text: {"ids": encode(text)})
        return 0
    text = _one_text(args)
    if args.decode:
        try:
            ids = [int(word) for word in text.replace(",", " ").strip(" []\n").split()]
        except ValueError:
            raise InputError("--decode takes token ids: whole numbers, separated by spaces or commas") from None
        sys.stdout.write(tokenizer.decode(ids) + "\n")
    else:
        for remark in tokenizer.remarks(text, as_text=not settings.model.special_pieces):
            show_note(remark)
        sys.stdout.write(" ".join(map(str, encode(text))) + "\n")
    return 0


def score(args: argparse.Namespace, settings: Settings) -> int:
    """Log-probabilities of ids (--json-lines) or of a text."""
    from cpm_gen.cli.write import follows, open_model
    from cpm_gen.sampling.logprobs import perplexity

    if follows(settings):
        return 0
    if args.json_lines:
        _no_other_input(args)
        with open_model(settings) as llm:
            _each_line("ids", lambda ids: {"logprobs": llm.score(ids)})
        return 0
    text = _one_text(args)
    with open_model(settings) as llm:
        ids = llm.vocabulary.encode(text)
        logprobs = llm.score(ids)
    content = {"ids": ids, "logprobs": logprobs, "perplexity": perplexity(logprobs)}
    sys.stdout.write(json.dumps(content) + "\n")
    return 0
