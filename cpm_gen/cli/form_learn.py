"""``cpm-gen form learn``: make a vocabulary's table of bigrams, from texts or from what a model predicts."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cpm_gen.checkpoints.locate import model_folder
from cpm_gen.checkpoints.publish import new_files
from cpm_gen.cli.main import settings
from cpm_gen.cli.progress import Status
from cpm_gen.cli.write import Interrupt, open_model
from cpm_gen.config.options import SamplingParams, TextOptions
from cpm_gen.config.resolve import Settings
from cpm_gen.config.text_files import read_file
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.outputs import Chunk
from cpm_gen.text.find_tokenizer import find_tokenizer
from cpm_gen.text.forms import bigrams
from cpm_gen.text.prompt_styles import encode_prompt
from cpm_gen.text.tokenizer import TextTokenizer
from cpm_gen.translation import localized

_TOP = 20  # predicted tokens that count, in the place of each token of a sample
_LENGTH = 256  # tokens of a sample


def learn(args: argparse.Namespace) -> int:
    """Run the command. Raises ConfigError for arguments that do not go together, InputError for texts that cannot be read."""
    resolved = settings(args)
    if args.from_model == bool(args.texts):
        raise ConfigError("give texts to learn from, or --from-model; one of them")
    if args.tokens < 1:
        raise ConfigError(f"--tokens must be at least 1, not {args.tokens}")
    folder = model_folder(resolved.model.model)
    target = Path(args.output or (folder.parent if folder.is_file() else folder) / bigrams.FILE)
    if not target.parent.is_dir():
        raise InputError(f"{target}: there is no folder {target.parent}")
    if args.from_model:
        table, tokenizer, tokens = _from_model(resolved, args.tokens)
    else:
        tokenizer = find_tokenizer(resolved.model)
        table, tokens = _from_texts(args.texts, tokenizer)
    with new_files(target, needed=0) as folder:  # a table that was there stays until the new one is whole
        size = bigrams.save(table, folder / target.name, tokenizer, tokens)
    said = f"{target}: {len(table.after):,} pairs of {tokens:,} tokens, {size:,} bytes"
    sys.stderr.write(localized(said) + "\n")
    return 0


def _from_texts(names: list[str], tokenizer: TextTokenizer) -> tuple[bigrams.Bigrams, int]:
    counter = bigrams.PairCounter(tokenizer.size)
    with Status(beside_text=False) as status:
        for name in _files(names):
            for record in read_file(name, "TEXT").split("\n\n"):
                if record.strip():
                    counter.add_text(encode_prompt("lyric", record, tokenizer))
            status.show(localized(f"{name}: {counter.tokens:,} tokens"))
    return counter.bigrams(), counter.tokens


def _files(names: list[str]) -> Iterator[str]:
    """The files named, and those in folders, in the order of their names."""
    for name in names:
        if not (name and Path(name).is_dir()):
            yield name
            continue
        found = sorted(Path(name).rglob("*.txt"))
        if not found:
            raise InputError(f"{name}: the folder has no .txt files")
        yield from map(str, found)


def _from_model(resolved: Settings, tokens: int) -> tuple[bigrams.Bigrams, TextTokenizer, int]:
    """Sample texts from nothing, and count what the model predicts at each of their places, by its probability."""
    text = TextOptions(style="lyric", seed=0, n=-(-tokens // _LENGTH), max_new_tokens=_LENGTH, ignore_eos=True)
    with (
        open_model(dataclasses.replace(resolved, text=text)) as llm,
        Interrupt() as interrupt,
        Status(beside_text=False) as status,
    ):
        counter = bigrams.PairCounter(llm.size.vocabulary)
        start = llm.vocabulary.start_ids()
        requests = llm.requests([start], SamplingParams(), text, logprobs=_TOP)
        ready: deque[Chunk] = deque()
        streams = llm.begin(requests, text, ready)
        last = dict.fromkeys(range(len(streams)), start[-1])
        while not all(stream.done for stream in streams):
            if interrupt.asked:
                raise KeyboardInterrupt
            llm.step()
            while ready:
                chunk = ready.popleft()
                for found in chunk.likelihoods:
                    ids, logs = zip(*found.top, strict=True)
                    counter.add(np.full(len(ids), last[chunk.place]), ids, np.exp(logs))
                    last[chunk.place] = found.token
                    counter.tokens += 1
            status.show(localized(f"{counter.tokens:,} of {text.n * _LENGTH:,} tokens"))
        llm.end(streams)
        # the model's probabilities are smooth already; pairs that it hardly predicts are noise
        return counter.bigrams(least=0.05, discount=0.0), llm.vocabulary.tokenizer, counter.tokens
