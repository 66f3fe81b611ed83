"""Write texts for a prompt: ``cpm-gen lyric``, ``novel``, ``generate`` and the interactive session."""

from __future__ import annotations

import _thread
import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from cpm_gen.cli import text_input
from cpm_gen.cli.form import is_file, read_form_file
from cpm_gen.cli.notes import show_note
from cpm_gen.cli.progress import Meter, Status, profile, signals
from cpm_gen.config.options import ModelOptions, check_lengths
from cpm_gen.config.resolve import Settings
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.outputs import Chunk, Completion, by_logprob
from cpm_gen.parallel.launchers import launched
from cpm_gen.runtime.hints import prompt_remarks
from cpm_gen.text.forms.named import is_name
from cpm_gen.text.forms.requested import requested_form
from cpm_gen.text.stories.requested import ends_itself
from cpm_gen.translation import localized

if TYPE_CHECKING:  # imports torch, which takes seconds: only once there is something to write
    from cpm_gen.runtime.text_engine import TextEngine


def with_form_file(settings: Settings, args: argparse.Namespace) -> Settings:
    """The settings with the form of ``--form-file``, checked."""
    text = settings.text
    if args.form_file is not None:
        if text.form is not None:
            raise ConfigError("give the form once: with --form or with --form-file")
        text = dataclasses.replace(text, form=read_form_file(args.form_file))
    elif text.form is not None and is_file(text.form) and not is_name(text.form):
        raise ConfigError(f"--form takes a name or notation; give the file {text.form} with --form-file")
    requested_form(text)
    return dataclasses.replace(settings, text=text)


def with_prompt(settings: Settings, args: argparse.Namespace) -> tuple[Settings, str | None]:
    """The settings and the prompt; unconditional where a form or an outline needs no prompt and none is given.

    None: there is no prompt. Raises ConfigError for one beside ``unconditional``.
    """
    text = settings.text
    if text.unconditional:
        text_input.refuse_prompt(args)
        return settings, None
    if not ends_itself(text.form, text.story):
        return settings, text_input.prompt(args)
    given = text_input.prompt_or_nothing(args)
    return dataclasses.replace(settings, text=dataclasses.replace(text, unconditional=given is None)), given


def follows(settings: Settings, candidates: int = 1) -> bool:
    """On a rank other than 0 of an external launcher: execute rank 0's plans until it ends, then return True.

    candidates: as for :func:`open_model`.
    """
    launch = launched()
    if launch is None or launch.rank == 0:
        return False
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 decides when to end
    for number in signals(
        "SIGTERM", "SIGHUP"
    ):  # the launcher's word: Python's handler would wait for a collective to end
        signal.signal(number, signal.SIG_DFL)
    from cpm_gen.runtime.text_engine import TextEngine

    with TextEngine.load(loading_options(settings, candidates)) as llm:
        llm.follow()
    return True


def loading_options(settings: Settings, candidates: int, *, several: bool = False) -> ModelOptions:
    """The model's settings with as large a batch as the samples and candidates use: slots take memory.

    several: further texts follow, which may have more. Raises ConfigError for candidates that do not fit the batch that was asked for.
    """
    batch = settings.model.batch
    if "batch" in settings.sources and candidates > batch:
        raise ConfigError(
            f"{candidates} candidates need a batch of at least {candidates}, not {batch}; leave batch out"
        )
    used = batch if several else min(batch, settings.text.n * candidates)
    return dataclasses.replace(settings.model, batch=max(candidates, used))


def open_model(settings: Settings, candidates: int = 1, *, several: bool = False) -> TextEngine:
    """Load the model, with a status line on a terminal. If a rank dies, this process ends even if it hangs in a collective.

    candidates: places of the batch that each sample takes; the setting counts only where a command writes with it.
    several: further texts follow, whose settings may change.
    """
    several = several and launched() is None  # the ranks of a launcher load alike
    options = loading_options(settings, candidates, several=several)
    with Status(beside_text=False) as status:
        status.show(localized("loading …"), force=True)
        from cpm_gen.runtime.text_engine import TextEngine

        llm = TextEngine.load(options, on_rank_death=_end_with_rank)
    for note in llm.notes:
        show_note(note)
    return llm


def _end_with_rank(failure: str) -> None:
    """End the process from the watching thread: with clean-up, or without it if rank 0 hangs in a GPU's collective."""
    sys.stderr.write(f"cpm-gen: {localized(failure)}\n")
    sys.stderr.flush()
    _thread.interrupt_main(signal.SIGUSR1)
    time.sleep(5)
    os._exit(1)


class Interrupt:
    """Ctrl-C, SIGTERM or SIGHUP stops after the current token; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self.status = 0

    def __enter__(self) -> Interrupt:
        self._before = {
            number: signal.signal(number, self._handle) for number in signals("SIGINT", "SIGTERM", "SIGHUP")
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, __: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self.status = 128 + number


def check_output(path: str | None, flag: str = "--output") -> None:
    """Check that the file of a flag can be written, before the model is loaded; raises InputError."""
    if path is None:
        return
    if not path:
        raise InputError(f"{flag}: the file's name is empty")
    target, folder = Path(path), Path(path).absolute().parent
    if target.is_dir():
        raise InputError(f"{path}: is a folder; {flag} takes a file")
    if not folder.is_dir():
        raise InputError(f"{path}: there is no folder {folder}")
    if not os.access(target if target.exists() else folder, os.W_OK):
        raise InputError(f"{path}: cannot be written: Permission denied")


@contextlib.contextmanager
def open_output(path: str | None) -> Iterator[TextIO]:
    """Standard output, or a file that is flushed after each token; raises InputError."""
    if path is None:
        yield sys.stdout
        return
    try:
        with Path(path).open("w", encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


def write(
    llm: TextEngine, text: str | None, settings: Settings, *, as_json: bool, output: str | None, profiled: bool = False
) -> int:
    """Write the samples of one prompt (None for unconditional texts) to standard output or a file; returns the exit status.

    profiled: say at the end, on standard error, where the time of the steps went.
    """
    options = settings.text
    if options.unconditional and text is not None:
        raise InputError("an unconditional text has no prompt; set unconditional to false for this one")
    prompt = llm.vocabulary.start_ids() if text is None else llm.vocabulary.encode(text, options.style)
    check_lengths(settings.sampling, options)
    for remark in prompt_remarks(llm, text or "", prompt, options):
        show_note(remark)
    samples = Samples(options.n, as_json=as_json, ranked=options.rank)
    most = None if options.max_new_tokens is None else options.max_new_tokens * options.n
    if ends_itself(options.form, options.story):
        most = None
    meter = Meter(most, llm.vocabulary.visible(prompt, llm.window_beside(options)))
    with Interrupt() as interrupt:
        chunks = llm.run([prompt], settings.sampling, options, stop=lambda: interrupt.asked)
        first = next(chunks)  # before the file is opened: what cannot begin overwrites nothing
        with open_output(output) as out, Status(beside_text=output is None) as status:
            try:
                for chunk in itertools.chain([first], chunks):
                    samples.take(chunk, out)
                    meter.count((chunk.prompt, chunk.index), len(chunk.token_ids), chunk.slides, llm.slots)
                    status.show(meter.line)
            except BrokenPipeError:
                raise
            except BaseException:  # an error, or a second Ctrl-C
                samples.rest(out)
                raise
            samples.end(out)
            status.summary(meter.total() + " · " + localized(f"seed {samples.seed}"))
    if profiled:
        sys.stderr.write(profile(*llm.profile()))
    return interrupt.status


class Samples:
    """Orders interleaved samples: the first unfinished one is shown as it is written, later ones are buffered.

    ranked: all are shown at the end, best first.
    """

    def __init__(self, n: int, *, as_json: bool, ranked: bool = False) -> None:
        self._ranked = ranked and n > 1
        self._n = n
        self._json = as_json
        self._waiting = [""] * n
        self._done: list[Completion | None] = [None] * n
        self._at = 0
        self._begun = False
        self._line_open = False
        self.seed: int | None = None

    def take(self, chunk: Chunk, out: TextIO) -> None:
        """Show or buffer a chunk."""
        self._waiting[chunk.index] += chunk.text
        self._done[chunk.index] = chunk.completion
        if chunk.completion:
            self.seed = chunk.completion.seed
        if self._ranked or chunk.index != self._at:
            return
        self._show(out)
        while self._done[self._at] is not None and self._at < self._n - 1:
            self._at += 1
            self._begun = False
            self._show(out)
        out.flush()

    def _show(self, out: TextIO) -> None:
        completion = self._done[self._at]
        if self._json:
            if completion is not None:
                out.write(to_json(completion) + "\n")
            return
        if not self._begun and self._n > 1:
            self._end_line(out)
            out.write(f"── {self._at + 1}/{self._n} ──\n")
        self._begun = True
        text, self._waiting[self._at] = self._waiting[self._at], ""
        if text:
            out.write(text)
            self._line_open = not text.endswith("\n")

    def rest(self, out: TextIO) -> None:
        """Write the finished samples that wait for an unfinished one before them."""
        for at in range(self._at + 1, 0 if self._ranked else len(self._done)):
            if self._done[at] is not None:
                self._at = at
                self._begun = False
                self._show(out)
        self.end(out)

    def _show_best_first(self, out: TextIO) -> None:
        self._ranked = False
        for place, completion in enumerate(sorted((c for c in self._done if c is not None), key=by_logprob), 1):
            if self._json:
                out.write(to_json(completion) + "\n")
                continue
            score = "" if completion.logprob is None else f" · {completion.logprob:.3f}"
            self._end_line(out)
            out.write(f"── {place}/{self._n}{score} ──\n{completion.text}")
            self._line_open = not completion.text.endswith("\n")

    def _end_line(self, out: TextIO) -> None:
        if self._line_open:
            out.write("\n")
        self._line_open = False

    def end(self, out: TextIO) -> None:
        """Write a final newline, so that the shell's prompt begins on its own line."""
        if self._ranked:
            self._show_best_first(out)
        self._end_line(out)
        out.flush()


def to_json(completion: Completion) -> str:
    """A completion as one line."""
    return json.dumps(dataclasses.asdict(completion), ensure_ascii=False)
