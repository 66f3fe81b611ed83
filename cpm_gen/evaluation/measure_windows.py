"""``cpm-gen eval-window`` from end to end: texts, every method's scores, texts that the model writes, the report."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cpm_gen.config.options import SamplingParams, StyleName, TextOptions
from cpm_gen.errors import ConfigError
from cpm_gen.evaluation.scorer import ModelScorer
from cpm_gen.evaluation.stale_cache import check_stale, score_stale, torch_network, write_stale
from cpm_gen.evaluation.variety import Variety, human_bound, variety
from cpm_gen.evaluation.window_report import BIN, WindowReport, columns, report_methods
from cpm_gen.evaluation.windows import Method, Progress, Scores, long_texts, methods, score_windows, without_unknown
from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.text.documents import Document

PROMPT = 32  # tokens of each text that the model continues


@dataclass(frozen=True)
class WindowPlan:
    """What to measure.

    length, texts: tokens of a text, and most texts. hops, keep: see :func:`cpm_gen.evaluation.windows.methods`. every: past the window a
    hop of 1 scores one token of every ``every``. generate: tokens that the model writes after the beginning of each text; 0: none.
    stale: whether the original's stale cache is measured. sampling, text: how the model writes; ``text.seed`` also draws the intervals.
    """

    length: int = 10_000
    texts: int = 4
    hops: Sequence[int] | None = None
    keep: int | None = None
    every: int = 4
    generate: int = 0
    stale: bool = True
    sampling: SamplingParams = field(default_factory=SamplingParams)
    text: TextOptions = field(default_factory=TextOptions)

    def __post_init__(self) -> None:
        """Check the numbers; raises ConfigError."""
        for name in ("length", "texts", "every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.generate < 0:
            raise ConfigError(f"generate must be at least 0, not {self.generate}")


def measure_windows(
    engine: TextEngine,
    documents: Sequence[Document],
    plan: WindowPlan,
    *,
    progress: Progress = lambda name, done, of: None,
    stop: Callable[[], bool] = lambda: False,
) -> WindowReport:
    """Measure a loaded model. For the stale cache it is loaded a second time, in torch.

    progress: (what is measured, tokens done, of). stop: asked after each pass; True ends with the methods that are finished. Raises
    InputError for texts that do not fill the window, ConfigError for a plan that the window does not allow or a stale cache of an ONNX
    file.
    """
    if plan.stale:
        check_stale(engine.options)
    scorer = ModelScorer(engine, style=plan.text.style)
    ways = methods(engine.window, plan.hops, plan.keep, stale=plan.stale)
    texts = long_texts(scorer, documents, plan.length, plan.texts, engine.window.limit + 2)
    measurement = _Measurement(scorer, plan, texts, progress, stop)
    # a hop of 1 takes longest, so it comes last
    for way in sorted(ways, key=lambda w: w.window is not None and w.window.hop == 1):
        if way.window is None:
            measurement.stale(way)
        else:
            measurement.moving(way, writes=way.window.hop == engine.window.hop or way.window.keep > 0)
        if stop():
            break
    scores = [measurement.scores[way.name] for way in ways if way.name in measurement.scores]
    seed = plan.text.seed or 0
    reports, compared = report_methods(scores, engine.window.limit, seed) if scores else ((), 0)
    return WindowReport(
        model=scorer.name,
        texts=len(texts),
        length=len(texts[0]),
        window_limit=engine.window.limit,
        tokens_compared=compared,
        seed=seed,
        methods=reports,
        generated=_varieties(engine, plan.text.style, measurement.written),
        interrupted=stop(),
    )


class _Measurement:
    """Collects scores, and texts that the model writes, by the name of the method."""

    def __init__(
        self,
        scorer: ModelScorer,
        plan: WindowPlan,
        texts: Sequence[Sequence[int]],
        progress: Progress,
        stop: Callable[[], bool],
    ) -> None:
        self._scorer, self._plan, self._texts = scorer, plan, texts
        self._progress, self._stop = progress, stop
        self._prompts = [ids[: min(PROMPT, scorer.engine.window.limit)] for ids in texts]
        self._options = dataclasses.replace(
            plan.text, max_new_tokens=max(1, plan.generate), n=1, seed=plan.text.seed or 0, stop=(), ignore_eos=True
        )
        self.scores: dict[str, Scores] = {}
        self.written: dict[str, Sequence[Sequence[int]]] = {"human": texts} if plan.generate else {}

    def moving(self, way: Method, *, writes: bool) -> None:
        """A window that moves."""
        assert way.window is not None
        every = self._plan.every if way.window.hop == 1 else 1
        found = score_windows(self._scorer, self._texts, way, every=every, progress=self._progress, stop=self._stop)
        if found is not None:
            self.scores[way.name] = found
        if writes and self._plan.generate and not self._stop():
            self._write(way)

    def _write(self, way: Method) -> None:
        written: list[list[int]] = [[] for _ in self._prompts]
        engine, count = self._scorer.engine, self._plan.generate
        chunks = engine.run(self._prompts, self._plan.sampling, self._options, self._stop, way.window)
        for chunk in chunks:
            written[chunk.prompt] += chunk.token_ids
            self._progress(f"{way.name}, writing", sum(map(len, written)), count * len(written))
        if not self._stop():
            self.written[way.name] = written

    def stale(self, way: Method) -> None:
        """The original's cache."""
        engine, limit, texts = self._scorer.engine, self._scorer.engine.window.limit, self._texts
        whole = len(texts) * len(texts[0])
        with torch_network(engine.options) as network:
            logprobs = score_stale(
                network, texts, limit, lambda done: self._progress(way.name, done, whole), self._stop
            )
            if logprobs is None:
                return
            nats = np.full((len(texts), len(texts[0])), np.nan)
            nats[:, 1:] = -np.array(logprobs)
            scores = Scores(way, nats, np.full(nats.shape, -1))
            self.scores[way.name] = without_unknown(scores, texts, self._scorer.unknown)
            if not self._plan.generate:
                return
            requests = engine.requests(self._prompts, self._plan.sampling, self._options)
            count = self._plan.generate
            whole, name = count * len(texts), f"{way.name}, writing"
            written = write_stale(
                network, requests, limit, count, lambda done: self._progress(name, done, whole), self._stop
            )
            if written is not None:
                self.written[way.name] = written


def _varieties(
    engine: TextEngine, style: StyleName, written: dict[str, Sequence[Sequence[int]]]
) -> tuple[tuple[str, dict[str, Variety]], ...]:
    if not written:
        return ()

    decode = functools.partial(engine.vocabulary.decode, style=style)
    bound = human_bound([decode(ids) for ids in written["human"]])
    found = []
    for name, texts in written.items():
        by_position = {}
        for column, first, end in columns(max(map(len, texts))):
            places = [(at, min(at + BIN, end)) for at in range(first, end, BIN)]
            pieces = [decode(ids[a:b]) for ids in texts for a, b in places if len(ids[a:b]) > BIN // 2]
            if pieces:
                by_position[column] = variety(pieces, bound)
        found.append((name, by_position))
    return tuple(found)
