"""``cpm-gen finetune``: a model from a person's own texts."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cpm_gen.checkpoints.publish import check_target
from cpm_gen.cli.notes import show_note
from cpm_gen.cli.parser import install_hint
from cpm_gen.cli.progress import Remaining, Status, duration
from cpm_gen.cli.write import Interrupt
from cpm_gen.config.arguments import path_argument
from cpm_gen.config.files import shipped
from cpm_gen.config.finetune_options import NAMES, check_together, finetune_options
from cpm_gen.config.options import ModelOptions
from cpm_gen.config.resolve import resolve
from cpm_gen.errors import ConfigError, InputError, out_of_memory
from cpm_gen.finetuning import missing_package
from cpm_gen.translation import localized

if TYPE_CHECKING:  # imports transformers, which takes seconds
    from cpm_gen.finetuning.prepare import Prepared, Request
    from cpm_gen.finetuning.run_folder import RunFolder
    from cpm_gen.finetuning.setup import Outcome, Step

_MODEL = ("model", "tokenizer", "heads", "start_token", "end_token")
_FREE = ("to", "tensor_parallel", "output_dtype", "licence", "save_every")  # may change when a run goes on
_SAMPLES = 3
_SAMPLE_TOKENS = {"lyric": 100, "novel": 200, "plain": 200}
_LAST = ("latest_checkpointed_iteration.txt", "config.json")  # what makes a folder a model is moved last


def finetune(args: argparse.Namespace) -> int:
    """Run the command. Raises what :func:`cpm_gen.finetuning.prepare.prepare` raises, and InputError for a target that cannot be used."""
    if (missing := missing_package()) is not None:
        raise install_hint(missing, "train", "cpm-gen finetune")
    from cpm_gen.finetuning.prepare import prepare
    from cpm_gen.finetuning.run_folder import RunFolder

    folder = RunFolder(path_argument(args.output, "the folder to write"), replace=args.force and not args.resume)
    request = _requested(args, folder)
    first = int(os.environ.get("RANK", "0")) == 0
    if first and not args.resume:
        _check_target(folder, request, force=args.force)
    with Status(beside_text=False) as status:
        reading = Remaining(status, localized("reading the texts"), 1)
        prepared = prepare(request, folder, resume=args.resume, reading=reading.of)
        status.clear()
        if first:
            for note in prepared.notes:
                show_note(note)
            _say_what(prepared)
        with Interrupt() as interrupt:  # before, there is nothing to save
            outcome = _train(prepared, status, interrupt)
        status.clear()
        if outcome.stopped:
            if first:
                again = f"cpm-gen finetune --resume --output {args.output}"
                said = f"stopped after step {outcome.steps:,}, which is saved; {again} goes on"
                sys.stderr.write(localized(said) + "\n")
            return interrupt.status
        if not first:
            return 0
        status.show(localized("writing the model …"), force=True)
        facts = _finish(prepared, outcome, folder)
    _report(facts, folder, as_json=args.json)
    return 0


def _requested(args: argparse.Namespace, folder: RunFolder) -> Request:
    """What the flags ask for; with ``--resume``, what the run was begun with."""
    from cpm_gen.finetuning.prepare import Request

    flags = {name: value for name in (*_MODEL, "style", "seed") if (value := getattr(args, name, None)) is not None}
    given = {name: getattr(args, name) for name in NAMES if getattr(args, name, None) is not None}
    if args.resume:
        return _begun(Request.from_json(folder.settings()), given, flags, args)
    if not args.data:
        raise ConfigError("--data is missing: the file or folder of texts to train on; it may be given several times")
    resolved = resolve(environment=os.environ, flags=flags)
    model = ModelOptions(**{name: getattr(resolved.model, name) for name in _MODEL})
    style = resolved.text.style if "style" in resolved.sources else "lyric"
    seed = 0 if resolved.text.seed is None else resolved.text.seed
    return Request(model, style, tuple(args.data), args.records, seed, finetune_options(given, style))


def _begun(begun: Request, given: Mapping[str, Any], flags: Mapping[str, Any], args: argparse.Namespace) -> Request:
    """The run that goes on. Raises ConfigError for a flag that says something else than it was begun with."""
    asked = finetune_options(given, begun.style)
    changes = {}
    for name in given:
        before, now = getattr(begun.options, name), getattr(asked, name)
        if name in _FREE:
            changes[name] = now
        elif before != now:
            _differs(name, before, now)
    content = begun.to_json()
    for name, value in flags.items():
        before = content["model"][name] if name in _MODEL else content[name]
        asked_for: Any = int(value) if name in ("seed", "heads") else value
        if name in ("model", "tokenizer") and asked_for != "embedded":
            asked_for = str(Path(asked_for).absolute())
        if before != asked_for and not (name == "model" and before is None and asked_for == "embedded"):
            _differs(name, before, asked_for)
    if args.data and [str(Path(name).absolute()) for name in args.data] != content["data"]:
        raise ConfigError("--resume: --data names other texts than the run was begun with; leave it out")
    options = dataclasses.replace(begun.options, **changes)
    check_together(options)
    return dataclasses.replace(begun, options=options)


def _differs(name: str, before: Any, now: Any) -> None:
    flag = f"--{name.replace('_', '-')}"
    raise ConfigError(f"--resume: the run was begun with {flag} {before}, not {now}; leave {flag} out to continue it")


def _check_target(folder: RunFolder, request: Request, *, force: bool) -> None:
    """Check that the folder can be written, and that it holds nothing that the run reads."""
    target = folder.path
    empty = target.is_dir() and not any(target.iterdir())
    if folder.begun and not force:
        raise InputError(f"{target}: holds a run that has not ended; --resume continues it, --force starts again")
    check_target(target, _read_paths(request), force=force or empty)
    if not target.absolute().parent.is_dir():
        raise InputError(f"{target}: there is no folder {target.absolute().parent}")


def _read_paths(request: Request) -> list[Path]:
    """The files and folders that a run reads."""
    from cpm_gen.finetuning.texts import find_sources

    options, model = request.options, request.model
    named = [*request.data, *(s.path for s in find_sources(request.data, request.style, records=request.records))]
    if options.from_nothing is None:
        named.append(str(model.model or "embedded"))
    elif Path(options.from_nothing).is_file():  # else the name of a size
        named.append(options.from_nothing)
    named += [str(name) for name in (model.tokenizer, options.deepspeed) if name is not None]
    return [Path(name) for name in named if name != "embedded"]


def _say_what(prepared: Prepared) -> None:
    """A line of what is trained on what."""
    setup, texts = prepared.setup, prepared.texts
    documents = sum(s.documents for s in texts.sources)
    held = sum(s.held_documents for s in texts.sources)
    kept = f", {held:,} of them held out" if held else ""
    trained = sum(p.numel() for p in setup.model.parameters() if p.requires_grad)
    said = f"{documents:,} texts{kept}; {texts.tokens:,} tokens to train {trained:,} parameters on"
    sys.stderr.write(localized(said + (" in bfloat16" if setup.half is not None else "")) + "\n")
    if setup.resume_from is not None:
        sys.stderr.write(localized(f"going on after step {setup.resume_from:,}") + "\n")


def _train(prepared: Prepared, status: Status, interrupt: Interrupt) -> Outcome:
    from cpm_gen.finetuning.trainer import leave_ranks, run

    folder = prepared.setup.folder
    with _Log(folder, prepared, status) as log:
        try:
            outcome = run(prepared.setup, log.report, lambda: interrupt.asked)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            memory = prepared.setup.memory
            raise InputError(
                f"not enough memory for {memory.micro_batch} windows at once; give a smaller --micro-batch"
                f"{'' if memory.checkpointing else ', --gradient-checkpointing'} or --lora 16, and start again with --force"
            ) from None
    leave_ranks()  # every rank: a process that ends while the group's threads run may abort
    return outcome


class _Log:
    """Shows a run's progress, and writes it to ``training.jsonl``."""

    def __init__(self, folder: RunFolder, prepared: Prepared, status: Status) -> None:
        from cpm_gen.finetuning.run_folder import LOG

        self._path = folder.path / LOG
        self._writes = int(os.environ.get("RANK", "0")) == 0
        self._status, self._setup = status, prepared.setup
        self._held: float | None = None
        self._began: tuple[float, float, int] | None = None  # clock, share and tokens when this process began

    def __enter__(self) -> _Log:
        self._file = self._path.open("a", encoding="utf-8") if self._writes else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()

    def report(self, step: Step) -> None:
        """Take in what a step did."""
        now = time.monotonic()
        if self._began is None:
            self._began = (now, step.progress, step.tokens)
        if step.held_out is not None:
            self._measured(step)
        elif self._file:
            entry = {"step": step.step, "loss": step.loss, "tokens": step.tokens, "seconds": round(step.seconds, 1)}
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        self._show(step, now)

    def _measured(self, step: Step) -> None:
        self._held = step.held_out
        if self._file:
            entry = {"step": step.step, "held_out": step.held_out, "sample": step.sample}
            self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            self._file.flush()
            self._status.clear()
            sys.stderr.write(localized(f"step {step.step:,}: held-out loss {step.held_out:.3f}") + "\n")
            if step.sample:
                sys.stderr.write(f"    {step.sample}\n")

    def _show(self, step: Step, now: float) -> None:
        assert self._began is not None
        clock, share, tokens = self._began
        elapsed = now - clock
        steps = self._setup.progress.steps
        said = localized(f"step {step.step:,} of {steps:,}" if steps else f"step {step.step:,}")
        parts = [said, f"{step.progress:.0%}"]
        if step.loss is not None:
            parts.append(localized(f"loss {step.loss:.3f}"))
        if self._held is not None:
            parts.append(localized(f"held out {self._held:.3f}"))
        if elapsed > 0 and step.tokens > tokens:
            parts.append(localized(f"{(step.tokens - tokens) / elapsed:,.0f} tokens/s"))
        if elapsed > 0 and step.progress > share:
            left = elapsed * (1 - step.progress) / (step.progress - share)
            parts.append(localized(f"{duration(left)} left"))
        self._status.show(" · ".join(parts))


def _finish(prepared: Prepared, outcome: Outcome, folder: RunFolder) -> dict[str, Any]:
    """Write the model, its card and the picture of its loss; the folder has a model when all of it is there."""
    import cpm_gen
    from cpm_gen.finetuning.card import card, record, to_text
    from cpm_gen.finetuning.gpt2 import weights_hash
    from cpm_gen.finetuning.loss_plot import read_log, save_loss_plot
    from cpm_gen.finetuning.run_folder import LOG
    from cpm_gen.runtime.finetuned import write_model

    whole, written = folder.checkpoints / "whole", folder.checkpoints / "written"
    for left in (whole, written):
        shutil.rmtree(left, ignore_errors=True)
    model: Any = prepared.setup.model
    if prepared.request.options.lora is not None:
        model = model.merge_and_unload()
    facts = record(prepared, outcome, weights_hash(model))
    write_model(prepared, model, whole, written, iteration=str(max(outcome.best, 1)))
    samples = []
    model.to("cpu")  # the samples are written with the model as a person will load it
    with cpm_gen.load(written) as llm:
        for seed in range(1, _SAMPLES + 1):
            samples.append(_sample(llm, prepared, folder.path.name, seed))
    (written / "MODEL_CARD.md").write_text(card(facts, samples), encoding="utf-8")
    (written / "training.json").write_text(to_text(facts), encoding="utf-8")
    save_loss_plot(read_log(folder.path / LOG), written / "loss.png")
    for path in sorted(written.iterdir(), key=lambda path: path.name in _LAST):
        target = folder.path / path.name
        if target.is_dir():  # a kill came here
            shutil.rmtree(target)
        path.replace(target)
    folder.clear()
    return facts


def _sample(llm: Any, prepared: Prepared, name: str, seed: int) -> tuple[str, str]:
    """A command that writes a sample, and what it writes."""
    style = prepared.request.style
    prompt, count = prepared.setup.prompt, _SAMPLE_TOKENS[style]
    settings: dict[str, Any] = {}
    if style != "plain":
        settings = dataclasses.asdict(resolve(files=[shipped(f"{style}.yaml")]).sampling)
    done = llm.generate(prompt, style=style, seed=seed, max_new_tokens=count, **settings)
    command = "generate" if style == "plain" else style
    return f"cpm-gen {command} {prompt} --model {name} --seed {seed} --max-new-tokens {count}", done.text


def _report(facts: Mapping[str, Any], folder: RunFolder, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"output": str(folder.path), **facts}, ensure_ascii=False) + "\n")
        return
    losses = ""
    if facts["held_out_after"] is not None:
        losses = f"; held-out loss {facts['held_out_before']:.3f} -> {facts['held_out_after']:.3f}"
    early = " (ended early: the held-out loss did not fall any more)" if facts["ended_early"] else ""
    done = f"{folder.path}: {facts['steps']:,} steps, {facts['tokens']:,} tokens in {duration(facts['seconds'])}"
    sys.stdout.write(localized(done + losses + early) + "\n")
