"""``cpm-gen batch``: a text for each line of a file."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import os
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from cpm_gen.batch.lines import Line, LineReader
from cpm_gen.batch.output_file import OutputFile, Written
from cpm_gen.batch.replicas import Replicas
from cpm_gen.batch.run import HELD, Workers, run_batch
from cpm_gen.cli.notes import show_note
from cpm_gen.cli.parser import install_hint
from cpm_gen.cli.progress import Status, duration
from cpm_gen.cli.write import Interrupt, check_output, follows, loading_options, open_model
from cpm_gen.config.options import check_lengths
from cpm_gen.config.resolve import Settings
from cpm_gen.config.text_files import UTF_16
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.parallel.launchers import launched
from cpm_gen.text.forms.requested import requested_form
from cpm_gen.text.stories.requested import requested_story
from cpm_gen.translation import localized

if TYPE_CHECKING:
    from cpm_gen.batch.ray_data import RayData

_NAMED = 20  # errors of lines that are printed
_MOST_REPLICAS = 1024
_EVERY = 60.0  # seconds between two lines of progress where there is no terminal


def batch(args: argparse.Namespace, settings: Settings) -> int:
    """Write a text for each line of IN to OUT, after what OUT holds; returns the exit status."""
    if args.replicas is not None and not 1 <= args.replicas <= _MOST_REPLICAS:
        raise ConfigError(f"--replicas must be from 1 to {_MOST_REPLICAS}, not {args.replicas}")
    if (args.ray or args.replicas) and launched() is not None:
        raise ConfigError(
            "--replicas and --ray start processes, which a launcher's ranks cannot; use --tensor-parallel"
        )
    if follows(_whole_batch(settings), settings.text.candidates):
        return 0
    _check(settings)
    with _open_input(args.input) as source:
        check_output(args.output, "OUT")
        _check_two_files(source, args)
        with contextlib.closing(OutputFile(Path(args.output))) as output, Status(beside_text=False) as status:
            reader = LineReader(source, output.written)
            report = _Report(status, args, output.written, _count(source))
            lines = iter(reader)
            first = next(lines, None)
            if not reader.read:
                raise InputError(f"{_name(args.input)}: holds nothing; it should have a JSON object a line")
            report.resume()
            # the other ranks of a launcher have loaded the model, and follow this one to its end
            if first is not None or launched() is not None:
                rest = itertools.chain([] if first is None else [first], lines)
                if stopped := _run(args, settings, rest, output, report):
                    return stopped
            report.end()
            return int(output.written.errors > 0)


def _run(
    args: argparse.Namespace, settings: Settings, lines: Iterator[Line], output: OutputFile, report: _Report
) -> int:
    """Write the lines; returns 0, or the exit status of the signal that stopped it."""
    with _workers(args, settings) as workers:
        report.begin()
        with Interrupt() as interrupt:
            try:
                run_batch(
                    lines,
                    workers,
                    output,
                    in_order=args.in_order,
                    most=sys.maxsize if args.ray else HELD,  # Ray takes all lines before it begins
                    report=report.show,
                    stop=lambda: interrupt.asked,
                )
            except BaseException:
                report.stopped()
                raise
            if interrupt.asked:
                report.stopped()
            return interrupt.status


@contextlib.contextmanager
def _workers(args: argparse.Namespace, settings: Settings) -> Iterator[Workers]:
    """Load the model, in this process or in each of the replicas."""
    candidates, whole = settings.text.candidates, _whole_batch(settings)
    if not args.ray and args.replicas in (None, 1):
        with open_model(whole, candidates) as engine:
            from cpm_gen.batch.writer import Writer  # imports torch, which takes seconds

            yield Writer(engine, settings)
        return
    settings = dataclasses.replace(settings, model=loading_options(whole, candidates))
    with Status(beside_text=False) as status:
        status.show(localized("loading …"), force=True)
        workers = _ray(settings, args.replicas) if args.ray else Replicas(settings, args.replicas)
    with contextlib.closing(workers):
        for note in workers.notes:
            show_note(note)
        yield workers


def _ray(settings: Settings, workers: int | None) -> RayData:
    try:
        from cpm_gen.batch.ray_data import RayData
    except ImportError as error:
        raise install_hint(error.name, "ray", "--ray") from None
    return RayData(settings, workers)


def _whole_batch(settings: Settings) -> Settings:
    """The settings to load the model with: all places of the batch are used, not only those of one line's samples."""
    text = dataclasses.replace(settings.text, n=max(settings.text.n, settings.model.batch))
    return dataclasses.replace(settings, text=text)


def _check(settings: Settings) -> None:
    """Raise what is wrong with the settings of all lines."""
    check_lengths(settings.sampling, settings.text)
    requested_form(settings.text)
    requested_story(settings.text)


def _name(path: str) -> str:
    return "standard input" if path == "-" else path


@contextlib.contextmanager
def _open_input(path: str) -> Iterator[BinaryIO]:
    """The file of the lines, or standard input; raises InputError."""
    if not path:
        raise InputError("IN: the file's name is empty")
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        file = Path(path).open("rb")  # noqa: SIM115
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; IN is a file of JSON lines") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    with file:
        if file.peek(2).startswith(UTF_16):
            raise InputError(f"{path}: UTF-16, which PowerShell's > and Notepad's \"Unicode\" write; save it as UTF-8")
        yield file


def _check_two_files(source: BinaryIO, args: argparse.Namespace) -> None:
    """Raise InputError if the results would be written to the file of the lines."""
    output = Path(args.output)
    if output.exists() and _file(source) is not None and os.path.samestat(os.fstat(source.fileno()), output.stat()):
        raise InputError(f"{args.output}: is IN, too; give another file for the results")


def _file(source: BinaryIO) -> int | None:
    """The length of a regular file; None for a pipe."""
    try:
        found = os.fstat(source.fileno())
    except (OSError, ValueError):  # of a stream without a file
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _count(source: BinaryIO) -> int | None:
    """The number of lines of a regular file, which is read from its beginning afterwards; None for a pipe."""
    if _file(source) is None or source.tell():
        return None
    lines, end = 0, b""
    while part := source.read(1 << 20):
        lines, end = lines + part.count(b"\n"), part
    source.seek(0)
    return lines + (not end.endswith(b"\n") and bool(end))


class _Report:
    """Shows progress, and names the lines that give no text."""

    def __init__(self, status: Status, args: argparse.Namespace, written: Written, total: int | None) -> None:
        self._status = status
        self._input, self._output = _name(args.input), args.output
        self._written = written
        self._total = total
        self._before = 0
        self._tokens = 0
        self._errors = 0
        self._began = self._said = time.monotonic()

    def resume(self) -> None:
        """Say what an earlier run wrote."""
        self._before, errors = len(self._written), self._written.errors
        if not self._before:
            return
        more = f"; {errors:,} of them are errors: delete their lines there to try them again" if errors else ""
        self._note(f"{self._output} holds {self._before:,} results already{more}")

    def begin(self) -> None:
        """The model is loaded."""
        self._began = self._said = time.monotonic()
        self._status.show(self._line(), force=True)

    def show(self, result: Mapping[str, Any]) -> None:
        """Count a result that was written."""
        for sample in result.get("samples", (result,)):
            self._tokens += len(sample.get("token_ids", ()))
        if "error" in result:
            self._errors += 1
            if self._errors <= _NAMED:
                self._note(f"{self._input}, {result['error']}")
            if self._errors == _NAMED:
                self._note(f"errors of further lines stand in {self._output} only")
        self._status.show(self._line)
        if not sys.stderr.isatty() and time.monotonic() - self._said >= _EVERY:
            self._said = time.monotonic()
            self._note(self._line())

    def end(self) -> None:
        """All lines have a result."""
        self._status.summary(self._line())
        if errors := self._written.errors:
            self._note(f"{errors:,} of {len(self._written):,} lines gave no text; {self._output} says why")

    def stopped(self) -> None:
        """The run ends before that."""
        self._note(f"stopped; {self._output} holds {self._lines()}, and the same command goes on from there")

    def _note(self, text: str) -> None:
        self._status.clear()
        show_note(text)

    def _lines(self) -> str:
        written = len(self._written)
        return localized(f"{written:,} of {self._total:,} lines" if self._total else f"{written:,} lines")

    def _line(self) -> str:
        """Lines, failures, speed, time left."""
        done = len(self._written) - self._before
        elapsed = max(time.monotonic() - self._began, 1e-6)
        parts = [self._lines()]
        if self._written.errors:
            parts.append(localized(f"{self._written.errors:,} failed"))
        parts.append(localized(f"{self._tokens / elapsed:,.0f} tokens/s"))
        left = 0 if self._total is None else self._total - len(self._written)
        if left > 0 and done:
            parts.append(localized(f"{duration(elapsed * left / done)} left"))
        return " · ".join(parts)
