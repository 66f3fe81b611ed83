"""Loops in long texts: repeated 4-grams, stretches of low variety and texts that end in one, by sampling setting.

    python benchmarks/loops.py --human held/classical-prose.jsonl [--style novel] [--tokens 3000] [--seed 0] [--json FILE] [--keep DIR]
    python benchmarks/loops.py --human held/classical-prose.jsonl --only default --set presence_penalty=0.8,top_p=0.9

Ten openings of our own are continued, each with a seed of its own, in one batch. Human texts (``training/held_out.py`` writes those that
the embedded model was not trained on) give the bound of low variety, see :mod:`cpm_gen.evaluation.variety`, and the first row of the
table. "Nats" is the mean log-probability of the text's tokens under the model at temperature 1, without filters and penalties;
"unpunctuated" is the share of characters in runs of more than ``RUN`` without punctuation: penalties by frequency make it rare.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
import unicodedata
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from models import save

import cpm_gen
from cpm_gen.config.files import shipped
from cpm_gen.config.options import SamplingParams, TextOptions
from cpm_gen.config.resolve import resolve
from cpm_gen.evaluation.scorer import ModelScorer
from cpm_gen.evaluation.variety import ends_low, human_bound, variety
from cpm_gen.outputs import Chunk
from cpm_gen.text.documents import read_documents
from cpm_gen.text.tokenizer import Detokenizer

PIECE = 3000  # tokens of a human text, and of the pieces within which 4-grams are compared
RUN = 20  # characters

OPENINGS = {
    "novel": (
        "话说大宋年间，江南有一个卖油的后生，姓陈名安，",
        "那一夜大雪封山，庙里只剩老僧和一个逃难的书生。",
        "次日天明，众头领都到聚义厅上坐定，只见小校来报：",
        "且说张小姐自从父亲去后，终日在绣楼上闷坐，",
        "船到瓜洲，忽然起了大风，船家道：",
        "却说县官升堂，把一干人犯带上来，问道：",
        "老太太见了这块玉，不觉流下泪来，",
        "那妖怪见师徒四人进了洞，心中暗喜，",
        "两军对阵，鼓声大震，一员小将飞马而出，",
        "这一年秋天，他带着一封信，一个人进京去了。",
    ),
    "lyric": (
        "昨夜西楼听雨声，",
        "一叶扁舟过洞庭，白鸥何事不相迎。",
        "杨柳岸，晓风残月，",
        "故人别后无消息，",
        "山中何所有，岭上多白云。",
        "红烛泪，照人归，",
        "塞外秋来风景异，",
        "小桥流水人家，",
        "闻道长安花似锦，春风不度旧时门。",
        "独上高楼望断天涯路，",
    ),
}

# what replaces values of the preset in configs/
_PLAIN = {"temperature": 0.95, "presence_penalty": 0.0, "frequency_penalty": 0.0, "dry_multiplier": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "temperature 0.95, no penalties": _PLAIN,
    "temperature 0.95, frequency 0.1, presence 0.2": {**_PLAIN, "frequency_penalty": 0.1, "presence_penalty": 0.2},
}


@dataclasses.dataclass(frozen=True)
class Row:
    """Figures of the texts of one setting. Shares, and a number of texts; ``nats`` and ``tokens`` per token and in all."""

    name: str
    texts: int
    tokens: int
    repeated_4: float
    distinct_2: float
    low_variety: float | None
    stuck: int
    nats: float
    unpunctuated: float


def write(
    llm: cpm_gen.LLM, prompts: Sequence[Sequence[int]], params: SamplingParams, text: TextOptions, seed: int
) -> list[list[int]]:
    """The token ids written after each prompt; the seed of prompt i is ``seed + i``."""
    requests = [
        dataclasses.replace(request, seed=seed + at)
        for at, request in enumerate(llm.engine.requests(prompts, params, text))
    ]
    written: list[list[int]] = [[] for _ in requests]
    ready: deque[Chunk] = deque()
    streams = llm.engine.begin(requests, text, ready)
    try:
        while ready or not all(stream.done for stream in streams):
            while ready:
                chunk = ready.popleft()
                written[chunk.place] += chunk.token_ids
            if not all(stream.done for stream in streams):
                llm.engine.step()
    finally:
        llm.engine.end(streams)
    return written


def figures(
    name: str, scorer: ModelScorer, texts: Sequence[tuple[Sequence[int], Sequence[int]]], bound: float
) -> tuple[Row, list[str]]:
    """The row of texts given as (prompt, continuation) in token ids, and the continuations as text."""

    def read(ids: Sequence[int]) -> str:
        """The text with a newline for ``<eod>``, whose five characters, where they return often, would look like a loop."""
        pieces = Detokenizer(scorer.engine.vocabulary.tokenizer, eod_text="\n")
        return "".join([*map(pieces.push, ids), pieces.flush()])

    scores: list[float] = []
    for prompt, rest in texts:
        ids = [*prompt, *rest]
        logprobs = [p for part in scorer.score(ids) for p in part][len(prompt) - 1 :]
        scores += [p for p, i in zip(logprobs, ids[len(prompt) :], strict=True) if i not in scorer.unknown]
    found = [read(rest) for _, rest in texts]
    pieces = [read(rest[at : at + PIECE]) for _, rest in texts for at in range(0, len(rest), PIECE)]
    measured = variety(pieces, bound)
    stuck = sum(ends_low(text, bound) for text in found)
    row = Row(
        name,
        len(texts),
        len(scores),
        measured.repeated_4,
        measured.distinct_2,
        measured.low_variety,
        stuck,
        float(np.mean(scores)),
        unpunctuated(found),
    )
    return row, found


def unpunctuated(texts: Sequence[str]) -> float:
    """Share of characters in runs of more than ``RUN`` without punctuation, of the characters that are no punctuation."""
    plain = ["".join(c if unicodedata.category(c)[0] in "LN" else " " for c in t) for t in texts]
    runs = [len(run) for text in plain for run in text.split()]
    return sum(length for length in runs if length > RUN) / sum(runs)


def show(row: Row, seconds: float = 0.0) -> None:
    low = "" if row.low_variety is None else f"{row.low_variety:.1%}"
    cells = [
        row.name,
        f"{row.repeated_4:.1%}",
        low,
        f"{row.stuck}/{row.texts}",
        f"{row.nats:.2f}",
        f"{row.unpunctuated:.1%}",
    ]
    print("| " + " | ".join(cells) + f" | {seconds:.0f} s |", flush=True)


def change(words: str) -> dict[str, Any]:
    """``NAME=VALUE,NAME=VALUE`` as a dictionary."""
    pairs = [pair.partition("=") for pair in words.split(",")]
    return {name.strip(): json.loads(value) for name, _, value in pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--human", type=Path, required=True, help="human texts, as for cpm-gen eval")
    parser.add_argument("--model", metavar="DIR")
    parser.add_argument("--style", choices=tuple(OPENINGS), default="novel")
    parser.add_argument("--tokens", type=int, default=3000, help="tokens to write after each opening")
    parser.add_argument("--texts", type=int, default=10, help="openings, of ten")
    parser.add_argument("--seed", type=int, default=0, help="of the first opening; the others follow")
    parser.add_argument(
        "--openings", choices=("ours", "human"), default="ours", help="human: 32 tokens of each human text"
    )
    parser.add_argument("--only", nargs="*", help="settings to measure (default: all)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE,…", help="one more setting")
    parser.add_argument("--window-limit", type=int)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write the texts to this folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as a JSON list")
    args = parser.parse_args()

    preset = resolve(files=[shipped(f"{args.style}.yaml")])
    settings = {name: SETTINGS[name] for name in (SETTINGS if args.only is None else args.only)}
    settings |= {words: change(words) for words in args.set}
    text = dataclasses.replace(preset.text, max_new_tokens=args.tokens, ignore_eos=True, seed=args.seed)
    options = {"window_limit": args.window_limit} if args.window_limit else {}
    boundary = preset.model.window_boundary
    with cpm_gen.load(args.model, batch=args.texts, threads=1, window_boundary=boundary, **options) as llm:
        scorer = ModelScorer(llm.engine, style=text.style)
        human = [scorer.encode(d.text) for d in read_documents(args.human, records=False)]
        human = joined(human, PIECE) if args.style == "lyric" else [ids[:PIECE] for ids in human]
        bound = human_bound([llm.tokenizer.decode(ids) for ids in human])
        if bound is None:
            raise SystemExit("the human texts are shorter than a stretch")
        print(f"{len(human)} human texts; low variety: fewer than {bound:.1%} distinct bigrams in 200 characters\n")
        print(
            "| setting | repeated 4-grams | low variety | stuck | nats a token | unpunctuated | |\n|---"
            + "|---" * 6
            + "|"
        )
        rows, _ = figures("human", scorer, [(ids[:1], ids[1:]) for ids in human], bound)
        found = [rows]
        show(rows)
        ours = [scorer.encode(opening) for opening in OPENINGS[args.style]]
        prompts = (ours if args.openings == "ours" else [ids[:32] for ids in human])[: args.texts]
        for name, changes in settings.items():
            began = time.monotonic()
            params = dataclasses.replace(preset.sampling, **changes)
            written = write(llm, prompts, params, text, args.seed)
            row, texts = figures(name, scorer, list(zip(prompts, written, strict=True)), bound)
            found.append(row)
            show(row, time.monotonic() - began)
            if args.keep:
                args.keep.mkdir(parents=True, exist_ok=True)
                for at, one in enumerate(texts):
                    (args.keep / f"{name}-{at}.txt").write_text(one, encoding="utf-8")
    save([dataclasses.asdict(row) for row in found], args.json)


def joined(texts: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    """Short texts one after the other, cut into texts of ``length`` tokens; one shorter text if there are fewer."""
    ids = [i for text in texts for i in text]
    return [ids[at : at + length] for at in range(0, len(ids) - length + 1, length)] or [ids]


if __name__ == "__main__":
    main()
