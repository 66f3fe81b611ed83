"""Candidates in lines of a fixed length, whose rows meet in the middle of each, against a plain reference that shares no state."""

import dataclasses
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from cpm_gen.engine.engine import Engine
from cpm_gen.engine.model_runner import ModelRunner
from cpm_gen.engine.scheduler import CachedScheduler, RecomputeScheduler
from cpm_gen.engine.sequence import Request
from cpm_gen.engine.window import Window
from cpm_gen.sampling.ranking import EARLIER, PRIOR, SAMENESS, Sentences
from tests.engine.test_candidates import DRY, WINDOWS, draw, request, runner, sentences, write

__all__ = ["runner"]  # the fixture


class Lines:
    """Lines of six characters: every third token is two of them, the others one. A state is the number of characters."""

    reason: Literal["form"] = "form"
    length, lines = 6, 8

    @staticmethod
    def width(token: int) -> int:
        return 2 if token % 3 == 0 else 1

    def begin(self) -> int:
        return 0

    def advance(self, state: int, token: int) -> int:
        return state + self.width(token)

    def allowed(self, state: int) -> NDArray[np.intp]:
        return np.array([i for i in range(120) if self.width(i) <= self.line_left(state)], dtype=np.intp)

    def bias(self, state: int, allowed: NDArray[np.intp]) -> None:
        return None

    def line_ends(self, state: int) -> bool:
        return state > 0 and state % self.length == 0

    def forbidden(self, state: int) -> frozenset[int]:
        return frozenset()

    def line_left(self, state: int) -> int:
        return self.length - state % self.length

    def finished(self, state: int) -> bool:
        return state == self.length * self.lines


LINES = Lines()
WORDS = Sentences(lambda ids: "".join(chr(0x4E00 + i % 60) * Lines.width(i) for i in ids), frozenset())


def lines(**changes: object) -> Request:
    """A request for lines of six characters."""
    own: dict[str, object] = {"constraint": LINES, "sentences": WORDS, "max_new_tokens": None, "candidates": 5}
    return request(**own | changes)


def write_to(
    runner: ModelRunner, wanted: Request, row: list[int], logprob: float, candidate: int, least: int
) -> tuple[list[int], float]:
    """Write a row until its line has ``least`` characters; returns the row and its log-probability."""
    row, begin = list(row), sum(map(Lines.width, wanted.written))
    while sum(map(Lines.width, row[len(wanted.prompt) :])) - begin < least:
        state = sum(map(Lines.width, row[len(wanted.prompt) :]))
        token, chance = draw(runner, wanted, row, candidate, LINES.allowed(state))
        logprob += chance
        row.append(token)
    return row, logprob


def lines_by_a_plain_loop(runner: ModelRunner, wanted: Request) -> list[int]:
    """The generated ids, where in the middle of a line half of the rows, those behind, go on from the others in their order."""
    tokens: list[int] = list(wanted.prompt)
    for _ in range(LINES.lines):
        now = dataclasses.replace(wanted, written=tuple(tokens[len(wanted.prompt) :]))
        before = {i % 60 for i in tokens[-EARLIER:]}

        def same(row: list[int], before: set[int] = before, begin: int = len(tokens)) -> float:
            widths = [(i, Lines.width(i)) for i in row[begin:]]
            return sum(w for i, w in widths if i % 60 in before) / sum(w for _, w in widths)

        def count(row: list[int], begin: int = len(tokens)) -> int:
            return sum(map(Lines.width, row[begin:]))

        rows = [write_to(runner, now, tokens, 0.0, candidate, 3) for candidate in range(wanted.candidates)]
        mean = sum(p for _, p in rows) / sum(count(row) for row, _ in rows)
        score = [round((p + mean * (6 - count(row))) / (6 + PRIOR) - SAMENESS * same(row), 3) for row, p in rows]
        order = sorted(range(len(rows)), key=lambda at: -score[at])
        ahead = len(rows) - len(rows) // 2
        behind = [at for at in order[ahead:] if at]
        parent = {at: order[place] for place, at in enumerate(behind)}
        rows = [rows[parent.get(at, at)] for at in range(len(rows))]
        rows = [write_to(runner, now, row, p, candidate, 6) for candidate, (row, p) in enumerate(rows)]
        score = [round(p / (6 + PRIOR) - SAMENESS * same(row), 3) for row, p in rows]
        tokens = rows[int(np.argmax(score))][0]
    return tokens[len(wanted.prompt) :]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_in_the_middle_of_a_line_rows_that_are_behind_go_on_from_those_ahead(
    runner: ModelRunner, window: Window
) -> None:
    wanted = lines(window=window)
    [text] = write(runner, [wanted])
    assert text.new_tokens == lines_by_a_plain_loop(runner, wanted)
    assert (text.finish_reason, text.slides > 1) == ("form", True)
    assert write(runner, [dataclasses.replace(wanted, complete=True)])[0].tokens == text.tokens


def test_lines_are_the_same_alone_together_recomputed_and_resumed(runner: ModelRunner) -> None:
    wanted = [lines(sample_index=at, candidates=count, params=DRY) for at, count in enumerate((5, 2, 1, 4))]
    together = [text.new_tokens for text in write(runner, wanted)]
    assert [write(runner, [one])[0].new_tokens for one in wanted] == together
    assert [write(runner, [one], CachedScheduler(5, 5, 1))[0].new_tokens for one in wanted] == together
    assert [t.new_tokens for t in write(runner, wanted, RecomputeScheduler())] == together
    _, cuts = sentences(runner, wanted[3])
    assert len(cuts) == LINES.lines
    for cut in cuts[:-1]:
        [resumed] = write(runner, [dataclasses.replace(wanted[3], written=tuple(together[3][:cut]))])
        assert resumed.new_tokens == together[3]


def test_candidate_0_goes_on_from_itself_in_the_middle_of_a_line(runner: ModelRunner) -> None:
    for index in range(6):
        [plain] = write(runner, [lines(candidates=1, sample_index=index)])
        engine = Engine(runner, CachedScheduler(5, 5, 40), batch=5)
        text = engine.add(lines(sample_index=index, complete=True))
        while not engine.step():
            pass
        assert text.choice is not None
        first = text.choice.candidates[0].token_ids
        assert list(first) == plain.new_tokens[: len(first)]


def test_a_text_leaves_in_the_middle_of_a_line_and_frees_its_slots(runner: ModelRunner) -> None:
    for steps in range(1, 9):
        scheduler = CachedScheduler(5, 8, 40)
        engine = Engine(runner, scheduler, batch=5)
        text = engine.add(lines())
        for _ in range(steps):
            engine.step()
        engine.cancel(text)
        assert (sorted(scheduler.free_slots), text.rows, text.meet) == (list(range(8)), [], None)


def test_log_probabilities_are_those_of_the_kept_candidates(runner: ModelRunner) -> None:
    [text] = write(runner, [lines(logprobs=0, scored=True)])
    assert [entry.token for entry in text.likelihoods] == text.new_tokens
    assert sum(entry.logprob for entry in text.likelihoods) == pytest.approx(text.logprob, abs=1e-3)
