"""Texts in forms: violations, finished texts, likelihood, rhyme words by their first reading, cost of a token.

    python benchmarks/form.py [--forms 300] [--seeds 10] [--model DIR] [--vocabulary DIR] [--candidates 8] [--texts DIR]
        [--rows violations,nats,…] [--json FILE]

Violations are found by ``tests/verse.py``, which reads plain text with the readings of pypinyin and knows no mask. ``--vocabulary`` is a
folder with a vocabulary of 30,000 tokens (CPM's): a network of random weights writes with it, and the cost of a token is measured on it.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from models import random_checkpoint, save

import cpm_gen
from cpm_gen.text.forms.form import Form
from cpm_gen.text.forms.lexicon import Lexicon
from cpm_gen.text.forms.masks import FormMasks
from cpm_gen.text.forms.named import OPENINGS, named, names

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests import verse

WIDE = str.maketrans(",!?;:.", "，！？；：。")  # CPM's vocabulary has half-width signs
HAN = re.compile(r"[\u3400-\u9fff]+")

SETTINGS: dict[str, Any] = {"style": "lyric", "temperature": 0.95, "top_k": 50, "top_p": 0.95}
REGULATED = ["五绝", "七绝", "五律", "七律"]
Row = dict[str, Any]


def some_forms(count: int) -> list[str]:
    """Names with variants: regulated verse in all openings, then 词牌 drawn evenly among all their patterns."""
    found = [f"{name} {opening}" for name in REGULATED for opening in OPENINGS]
    others = [f"{n} {v}" for n, most in names().items() if n not in REGULATED for v in range(1, most + 1)]
    return (found + random.Random(1).sample(others, len(others)))[:count]


def _texts(llm: cpm_gen.LLM, name: str, seeds: int, **settings: Any) -> list[cpm_gen.Completion]:
    return llm.generate_many([""], n=seeds, form=name, **SETTINGS, **settings)


def violations(llm: cpm_gen.LLM, forms: list[str], seeds: int, what: str) -> list[Row]:
    """Texts of each form, checked."""
    texts = finished = 0
    found: list[str] = []
    for at, name in enumerate(forms):
        form = named(name)
        for completion in _texts(llm, name, seeds, seed=at):
            texts += 1
            finished += completion.finish_reason == "form"
            faults = verse.violations(form, completion.text.translate(WIDE))
            if faults:
                found.append(name)
                sys.stderr.write(f"{name}: {faults}\n{completion.text}\n\n")
    detail = f"{len(forms)} forms, {seeds} seeds each, {what}"
    return [
        {"row": "violations", "detail": detail, "value": f"{len(found)} of {texts:,}"},
        {"row": "finished", "detail": detail, "value": f"{finished:,} of {texts:,}"},
    ]


def nats(llm: cpm_gen.LLM, poems: int, candidates: int, known: set[str]) -> list[Row]:
    """Log-probability of the texts under the free model: a character, a character without line ends, and a token.

    The first counts signs and line ends as characters, too, as the goals do.

    known: lines of seven characters of the training text; how many of the texts' are among them.
    """
    rows = []
    start = llm.engine.vocabulary.start_ids()
    what = "one candidate" if candidates == 1 else f"{candidates} candidates"
    sevens: list[str] = []
    for name in ("五绝", "七律", "浣溪沙"):
        total = characters = ends = tokens = 0.0
        texts = _texts(llm, name, poems, seed=7, candidates=candidates)
        for completion in texts:
            scores = llm.score([*start, *completion.token_ids])[len(start) :]
            total += sum(s for s in scores if s is not None)
            tokens += len(completion.token_ids)
            characters += len(completion.text)
            ends += completion.text.count("\n")
            sevens += [line for line in HAN.findall(completion.text) if len(line) == 7]
        words = Counter(
            w for t in texts for line in HAN.findall(t.text) for w in {line[i : i + 2] for i in range(len(line) - 1)}
        )
        common = ", ".join(f"{w} {n}" for w, n in words.most_common(3))
        value = f"{total / characters:.2f} ({total / (characters - ends):.2f}; {total / tokens:.2f})"
        rows.append(
            {
                "row": "nats a character (without line ends; a token)",
                "detail": f"{name}, {poems} texts, {what}",
                "value": value,
            }
        )
        rows.append(
            {"row": "commonest pairs of characters", "detail": f"{name}, {poems} texts, {what}", "value": common}
        )
    if known:
        copied = [line for line in sevens if line in known]
        value = f"{len(copied)} of {len(sevens)} ({100 * len(copied) / len(sevens):.1f} %)"
        rows.append({"row": "lines of seven characters copied from the training text", "detail": what, "value": value})
    return rows


def known_lines(folder: Path) -> set[str]:
    """The lines and clauses of seven characters in a folder of texts."""
    return {
        line
        for path in folder.rglob("*.txt")
        for line in HAN.findall(path.read_text(encoding="utf-8"))
        if len(line) == 7
    }


def speed(llm: cpm_gen.LLM, candidates: int, texts: int = 4, turns: int = 6) -> list[Row]:
    """Seconds of one text, with one candidate and with several, in turns; the shortest of each, since a machine is shared."""
    rows = []
    for name in ("五绝", "七律", "浣溪沙"):
        total = {1: 0.0, candidates: 0.0}
        for seed in range(texts):
            seconds: dict[int, list[float]] = {count: [] for count in total}
            for _ in range(turns):
                for count, found in seconds.items():
                    began = time.perf_counter()
                    _texts(llm, name, 1, seed=seed, candidates=count)
                    found.append(time.perf_counter() - began)
            for count, found in seconds.items():
                total[count] += min(found)
        one, several = (1e3 * seconds / texts for seconds in total.values())
        detail = f"{name}, {texts} texts, the shortest of {turns} turns"
        value = f"{several / one:.2f} times ({one:.0f} and {several:.0f} ms)"
        rows.append({"row": f"time of {candidates} candidates by that of one", "detail": detail, "value": value})
    return rows


def first_readings(llm: cpm_gen.LLM, words: int) -> list[Row]:
    """Rhyme words that, by the first reading of a dictionary, are of no group that most words of their label have."""
    rows = []
    for book in ("中华通韵", "十三辙"):
        outside: list[str] = []
        seen = seed = 0
        while seen < words:
            name = ("七律 平起入韵", "五律 仄起入韵", "浣溪沙", "五排 20")[seed % 4]
            for completion in _texts(llm, name, 8, seed=seed, rhyme_book=book):
                for rhymes in _rhyme_words(named(name), completion.text).values():
                    groups = [{g for _, g in verse.sounds(c, verse.first_reading(c), book) if g} for c in rhymes]
                    common = Counter(g for found in groups for g in found).most_common(1)
                    own = common[0][0] if common else ""
                    outside += [c for c, found in zip(rhymes, groups, strict=True) if own not in found]
                    seen += len(rhymes)
            seed += 1
        value = f"{len(outside)} of {seen:,}" + f" ({''.join(sorted(set(outside)))})" * bool(outside)
        rows.append({"row": "rhyme words whose first reading lies outside the class", "detail": book, "value": value})
    return rows


def _rhyme_words(form: Form, text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line, own in zip(text.split("\n"), form.lines(), strict=True):
        at = 0
        for part in own.parts:
            at += len(part.slots)
            if part.label:
                found.setdefault(part.label, []).append(line[at - 1])
            at += len(part.end.replace("+", ""))
    return found


def _best(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """The shortest CPU time of five calls, in microseconds, and the result."""
    times = []
    for _ in range(5):
        began = time.thread_time()
        result = function(*arguments)
        times.append(time.thread_time() - began)
    return min(times) * 1e6, result


def cost(llm: cpm_gen.LLM, what: str) -> list[Row]:
    """CPU time of a token and row: the mask, the allowed logits, the next state; then all masks of a 词 and their size."""
    size = llm.size.vocabulary
    lexicon = Lexicon(llm.tokenizer, True, size)
    logits = np.random.default_rng(0).normal(size=size).astype(np.float32)
    rows = []
    for name in ("五绝", "七律", "浣溪沙", "念奴娇"):
        FormMasks(named(name), lexicon)  # the tones and rhymes of the vocabulary are there
        masks = FormMasks(named(name), lexicon)
        first = 0.0
        times: list[float] = []
        for seed in range(10):
            draw, state = random.Random(seed), masks.begin()
            while not masks.finished(state):
                before = time.thread_time()
                masks.allowed(state)
                first += (time.thread_time() - before) * (seed == 0) * 1e3
                looked, ids = _best(masks.allowed, state)
                taken, _ = _best(logits.take, ids)
                moved, state = _best(masks.advance, state, int(draw.choice(ids)))
                times.append(looked + taken + moved)
        mean, median = sum(times) / len(times), sorted(times)[len(times) // 2]
        detail = f"{name}, {size:,} tokens, {what}"
        rows.append({"row": "a token and row", "detail": detail, "value": f"{mean:.1f} µs (median {median:.1f})"})
        value = f"{first:.0f} ms, {masks.kept_bytes / 2**20:.1f} MiB"
        rows.append({"row": "masks of the first text; kept after ten", "detail": detail, "value": value})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--model", metavar="DIR")
    parser.add_argument("--vocabulary", type=Path, metavar="DIR", help="a vocabulary for random weights and the cost")
    parser.add_argument("--random-forms", type=int, default=50, help="forms that random weights write")
    parser.add_argument("--rows", default="violations,nats,speed,readings,random,cost")
    parser.add_argument("--candidates", type=int, default=1, help="for each clause, of the rows nats and speed")
    parser.add_argument(
        "--texts", type=Path, metavar="DIR", help="the training text, for lines that are copied from it"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as a JSON list")
    args = parser.parse_args()
    wanted, rows = set(args.rows.split(",")), list[Row]()
    with cpm_gen.load(model=args.model, batch=max(8, args.candidates)) as llm:
        if "violations" in wanted:
            rows += violations(
                llm, some_forms(args.forms), args.seeds, "embedded model" if not args.model else args.model
            )
        if "nats" in wanted:
            rows += nats(llm, 32, args.candidates, known_lines(args.texts) if args.texts else set())
        if "speed" in wanted and args.candidates > 1:
            rows += speed(llm, args.candidates)
        if "readings" in wanted:
            rows += first_readings(llm, 1000)
    if args.vocabulary is not None and wanted & {"random", "cost"}:
        with tempfile.TemporaryDirectory() as folder:
            random_checkpoint(Path(folder), "shallow")
            for name in ("vocab.json", "chinese_vocab.model"):
                shutil.copy(args.vocabulary / name, folder)
            with cpm_gen.load(model=folder) as llm:
                if "random" in wanted:
                    rows += violations(
                        llm,
                        some_forms(10_000)[:: 2300 // args.random_forms][: args.random_forms],
                        1,
                        "random weights, 30,000 tokens",
                    )
                if "cost" in wanted:
                    rows += cost(llm, "CPU time, best of five")
    print("| | | |\n|---|---|---|")
    for row in rows:
        print(f"| {row['row']} | {row['detail']} | {row['value']} |")
    save(rows, args.json)


if __name__ == "__main__":
    main()
