"""``eval-window``: how well a model predicts and writes past its window."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from cpm_gen.cli.notes import show_note
from cpm_gen.cli.parser import install_hint
from cpm_gen.cli.progress import Remaining, Status
from cpm_gen.cli.tables import number, table, with_interval
from cpm_gen.cli.write import Interrupt, check_output, follows, open_model
from cpm_gen.config.resolve import Settings
from cpm_gen.errors import ConfigError
from cpm_gen.evaluation.measure_windows import WindowPlan, measure_windows
from cpm_gen.evaluation.stale_cache import check_stale
from cpm_gen.evaluation.window_report import EDGE, WindowReport, columns
from cpm_gen.parallel.launchers import launched
from cpm_gen.text.documents import read_documents
from cpm_gen.translation import localized


def evaluate_windows(args: argparse.Namespace, settings: Settings) -> int:
    """Perplexity by position, by method; and the variety of written text."""
    if args.stale and launched() is not None:
        raise ConfigError("the stale cache runs on one rank: give --no-stale under a launcher")
    if follows(settings):
        return 0
    if args.stale:
        check_stale(settings.model)
    check_output(args.json, "--json")
    check_output(args.plot, "--plot")
    if args.plot is not None:
        _check_plot(Path(args.plot))
    plan = WindowPlan(
        length=args.length,
        texts=args.texts,
        hops=args.hop,
        keep=args.keep,
        every=args.every,
        generate=args.generate,
        stale=args.stale,
        sampling=settings.sampling,
        text=settings.text,
    )
    documents = read_documents(args.data, records=args.records)
    together = args.texts if args.generate else 1  # texts that are written side by side
    settings = dataclasses.replace(settings, text=dataclasses.replace(settings.text, n=together))
    with Interrupt() as interrupt, open_model(settings) as engine, Status(beside_text=False) as status:
        progress = _Progress(status)
        report = measure_windows(engine, documents, plan, progress=progress.show, stop=lambda: interrupt.asked)
    if report.interrupted:
        show_note("interrupted; the methods that were finished until then are shown")
    sys.stdout.write(_tables(report))
    sys.stdout.flush()  # a file that cannot be written must not cost the figures
    if args.json is not None:
        content = {"data": args.data, **report.to_json()}
        Path(args.json).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if args.plot is not None and report.methods:
        from cpm_gen.evaluation.plot import save_plot

        save_plot(report, Path(args.plot))
    return interrupt.status


class _Progress:
    """The status line of the method that runs."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._what: str | None = None

    def show(self, what: str, done: int, of: int) -> None:
        if what != self._what:
            self._what, self._remaining = what, Remaining(self._status, what, of)
        self._remaining.show(done, done)


def _check_plot(path: Path) -> None:
    """Check before anything is measured that the plot can be drawn; raises ConfigError or InputError."""
    try:
        from cpm_gen.evaluation.plot import check_format
    except ModuleNotFoundError as error:
        raise install_hint(error.name, "plot", "--plot") from None
    check_format(path)


def _tables(report: WindowReport) -> str:
    """The tables in Markdown."""
    names = [name for name, _, _ in columns(report.length)]
    past = localized(f"past {report.window_limit:,}")
    parts = [
        localized(f"Perplexity by position (tokens), {report.texts} texts of {report.length:,} tokens:") + "\n\n",
        table(
            [
                [localized("method"), *names, past, localized("against hop 1")],
                *(
                    [
                        localized(m.name),
                        *(number(m.by_position.get(n), ",.1f") for n in names),
                        number(m.past, ",.1f"),
                        with_interval(m.against_hop_1, "+.2%"),
                    ]
                    for m in report.methods
                ),
            ]
        ),
    ]
    around = [m for m in report.methods if m.after_slide is not None or m.mid_window is not None]
    if around:
        head = ["method", f"{EDGE} after a slide", "against hop 1", f"{EDGE} mid-window", "against hop 1"]
        head = [localized(cell) for cell in head]
        rows = [
            [
                localized(m.name),
                number(m.after_slide, ",.1f"),
                with_interval(m.after_slide_against_hop_1, "+.2%"),
                number(m.mid_window, ",.1f"),
                with_interval(m.mid_window_against_hop_1, "+.2%"),
            ]
            for m in around
        ]
        parts += ["\n" + localized("Around slides:") + "\n\n", table([head, *rows])]
    for title, field in _VARIETY:
        if report.generated:
            rows = [
                [localized(n), *(number(getattr(by.get(c), field, None), ".1%") for c in names)]
                for n, by in report.generated
            ]
            heading = localized(f"{title}, by position:")
            parts += [f"\n{heading}\n\n", table([[localized("text"), *names], *rows])]
    return "".join(parts)


_VARIETY: Sequence[tuple[str, str]] = (
    ("Distinct characters", "distinct_1"),
    ("Distinct bigrams", "distinct_2"),
    ("Repeated 4-grams", "repeated_4"),
    ("Stretches of low variety", "low_variety"),
)
