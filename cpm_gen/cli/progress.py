"""Progress on standard error, if it is a terminal: the status line while a text is written, the bars of work on files.

If the text goes to the same terminal, the status has the last row and the rows above are the scrolling region (DECSTBM), so that text
and status do not mix.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from cpm_gen.cli.wide_text import cut, pad
from cpm_gen.translation import localized

if TYPE_CHECKING:
    from cpm_gen.checkpoints.publish import Progress


def signals(*names: str) -> list[signal.Signals]:
    """The named signals that this system has and that are not ignored (``nohup`` has some ignored)."""
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [n for n in numbers if n == signal.SIGINT or signal.getsignal(n) is not signal.SIG_IGN]


def duration(seconds: float) -> str:
    """``75`` -> ``1:15``, ``3700`` -> ``1:01:40``."""
    minutes, s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}" if hours else f"{minutes}:{s:02d}"


class Status:
    """A line that is overwritten. Does nothing if standard error is no terminal."""

    _EVERY = 0.2  # seconds between two updates

    def __init__(self, *, beside_text: bool) -> None:
        self._err: TextIO = sys.stderr
        self._live = sys.stderr.isatty()
        self._pinned = self._live and beside_text and sys.stdout.isatty()
        self._rows = 0
        self._next = 0.0

    def __enter__(self) -> Status:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def show(self, line: str | Callable[[], str], *, force: bool = False) -> None:
        """Show ``line``, or what it computes, at most five times a second unless ``force`` is given."""
        now = time.monotonic()
        if not self._live or (now < self._next and not force):
            return
        self._next = now + self._EVERY
        columns, rows = shutil.get_terminal_size()
        text = cut(line if isinstance(line, str) else line(), columns - 1)
        if not self._pinned:
            self._err.write(f"\r\x1b[K{text}")
        else:
            sys.stdout.flush()
            if rows != self._rows:
                # room for the row, then region, back to where the text was
                self._err.write(f"\n\x1b[A\x1b7\x1b[1;{rows - 1}r\x1b8")
                self._rows = rows
            self._err.write(f"\x1b7\x1b[{rows};1H\x1b[2m{text}\x1b[0m\x1b[K\x1b8")
        self._err.flush()

    def clear(self) -> None:
        """Remove the line."""
        if not self._live:
            return
        if self._pinned and self._rows:
            sys.stdout.flush()
            self._err.write(f"\x1b7\x1b[r\x1b[{self._rows};1H\x1b[K\x1b8")
            self._rows = 0
        elif not self._pinned:
            self._err.write("\r\x1b[K")
        self._err.flush()

    def summary(self, text: str) -> None:
        """Write a last line that stays."""
        if self._live:
            self.clear()
            self._err.write(f"\x1b[2m{text}\x1b[0m\n")
            self._err.flush()


class Remaining:
    """A status line with the share that is done and the time left. whole: the amount of work, in any unit."""

    def __init__(self, status: Status, what: str, whole: int) -> None:
        self._status, self._what, self._whole = status, what, max(1, whole)
        self._began = time.monotonic()

    def of(self, done: int, whole: int) -> None:
        """Show that ``done`` of ``whole`` is done."""
        self._whole = max(1, whole)
        self.show(done)

    def show(self, done: int, tokens: int | None = None) -> None:
        """Show that ``done`` of the work is done, and with ``tokens`` the speed."""
        self._status.show(lambda: self._line(done, tokens))

    def _line(self, done: int, tokens: int | None) -> str:
        elapsed = max(time.monotonic() - self._began, 1e-6)
        parts = [self._what, f"{done / self._whole:.0%}"]
        if tokens is not None:
            parts.append(localized(f"{tokens / elapsed:,.0f} tokens/s"))
        if done:
            parts.append(localized(f"{duration(elapsed * (self._whole - done) / done)} left"))
        return " · ".join(parts)


class Meter:
    """Counts tokens and describes progress. prompt: tokens of the prompt, which are prefilled first."""

    def __init__(self, most: int | None, prompt: int) -> None:
        self._most = most
        self._prompt = prompt
        self._asked = time.monotonic()
        self._slots: tuple[int, int] | None = None
        self._tokens = 0
        self._slides: dict[tuple[int, int], int] = {}
        self._began: float | None = None

    def count(self, key: tuple[int, int], tokens: int, slides: int, slots: tuple[int, int] | None) -> None:
        """Count a chunk of sample ``key`` and the KV slots in use."""
        self._slots = slots
        if self._began is None:
            self._began = time.monotonic()
        else:
            self._tokens += tokens
        self._slides[key] = slides

    @property
    def _rate(self) -> float | None:
        elapsed = time.monotonic() - self._began if self._began else 0.0
        return self._tokens / elapsed if self._tokens and elapsed > 0 else None

    def line(self) -> str:
        """Tokens, speed, time left, window moves."""
        tokens = self._tokens + (self._began is not None)
        written = f"{tokens:,}" + (f"/{self._most:,}" if self._most else "")
        parts = [localized(f"{written} tokens")]
        if (rate := self._rate) is not None:
            parts.append(localized(f"{rate:.1f} tokens/s"))
            if self._most:
                parts.append(localized(f"{duration(max(0, self._most - tokens) / rate)} left"))
        return " · ".join(parts + self._moves() + self._held())

    def total(self) -> str:
        """The summary when all is written, with the speed of the prefill."""
        written = self._tokens + (self._began is not None)
        parts = [localized(f"{written:,} tokens")]
        if (rate := self._rate) is not None:
            parts.append(localized(f"{rate:.1f} tokens/s"))
        return " · ".join(parts + self._moves() + self._read())

    def _read(self) -> list[str]:
        if self._began is None or self._began <= self._asked:
            return []
        waited = self._began - self._asked
        return [localized(f"prompt read in {waited:.2f} s ({self._prompt / waited:,.0f} tokens/s)")]

    def _held(self) -> list[str]:
        return [localized(f"{self._slots[0]} of {self._slots[1]} KV slots")] if self._slots else []

    def _moves(self) -> list[str]:
        moved = sum(self._slides.values())
        return [localized(f"window moved {moved}×")] if moved else []


def profile(steps: int, seconds: dict[str, float]) -> str:
    """The time of the steps by its parts, as lines."""
    total = sum(seconds.values())
    if not steps or not total:
        return localized("no steps were run") + "\n"
    lines = [localized(f"{total:.2f} s in {steps:,} steps of {total / steps * 1e3:.2f} ms")]
    for name, part in sorted(seconds.items(), key=lambda item: -item[1]):
        share = localized(f"{part / steps * 1e3:8.3f} ms a step")
        lines.append(f"  {pad(localized(name), 20)} {part / total:6.1%}  {share}")
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def progress_bars() -> Iterator[Progress]:
    """A function that shows a bar for each kind of work, on a terminal."""
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def progress(what: str, done: int, of: int) -> None:
        if what not in bars:
            bars[what] = tqdm(total=of, desc=localized(what), unit=localized("tensor"), disable=None)
        bars[what].update(done - bars[what].n)

    try:
        yield progress
    finally:
        for bar in bars.values():
            bar.close()
