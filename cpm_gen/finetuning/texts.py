"""The texts of a run: where they are, how they are encoded, and which of them are held out.

A source is a file or a folder (:mod:`cpm_gen.text.documents`) in one style. Its documents are encoded as prompts of that style are, so
that the model is trained on what it reads later:

lyric: blank lines separate documents in files of text. Each line ends with the token that ends lines, and one more follows the
    document.
novel: a file is a document. Its blank lines are left out, and the token that ends a text follows it.
plain: a file is a document, encoded as it is. The token that ends a text follows it.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpm_gen.config.arguments import shown
from cpm_gen.config.files import read_yaml
from cpm_gen.config.options import StyleName
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.text.documents import Document, read_documents
from cpm_gen.text.prompt_styles import encode_prompt
from cpm_gen.text.tokenizer import TextTokenizer

Ids = NDArray[np.int32]
Reading = Callable[[int, int], None]  # characters encoded, characters in all

_STYLES = ("lyric", "novel", "plain")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
_WORDS = 12  # characters of a beginning
_SHUFFLE = 0  # seed of the documents' order


@dataclass(frozen=True)
class Source:
    """Texts of one style.

    path: a file or folder. share: of the tokens trained on, in any unit; None: as many as it has. records: whether blank lines separate
    documents in files of text. first_line: stands before each document, such as ``【歌】``.
    """

    path: str
    style: StyleName
    share: float | None = None
    records: bool = False
    first_line: str = ""


@dataclass
class Encoded:
    """The token ids of a source. train: the documents one after the other, in a random order. held: those that are not trained on.

    beginning: the first words of a document that is held out, or of the first one where none is.
    """

    source: Source
    train: Ids
    held: Ids
    documents: int
    held_documents: int
    characters: int
    unknown: int
    beginning: str


@dataclass
class Texts:
    """All sources of a run. unk: the id that is never a target; None: there is none."""

    sources: list[Encoded]
    unk: int | None
    shares: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        given = [s.source.share for s in self.sources]
        sizes = [float(len(s.train)) for s in self.sources]
        shares = np.array([size if share is None else share for share, size in zip(given, sizes, strict=True)])
        self.shares = shares / shares.sum()

    @property
    def tokens(self) -> int:
        """Tokens to train on."""
        return sum(len(s.train) for s in self.sources)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all ids: a run can only go on with the texts that it began with."""
        digest = hashlib.sha256()
        for source in self.sources:
            for ids in (source.train, source.held):
                digest.update(len(ids).to_bytes(8, "little") + ids.tobytes())
        return digest.hexdigest()


def find_sources(data: Sequence[str], style: StyleName, *, records: bool | None) -> list[Source]:
    """The sources that ``--data`` names: files and folders in ``style``, and YAML files that list several.

    records: None: as the style has it. Raises ConfigError for a YAML file that does not read, with what would be right.
    """
    found = []
    for name in data:
        if Path(name).suffix in (".yaml", ".yml"):
            found += _listed(Path(name), style)
        else:
            found.append(Source(name, style, records=style == "lyric" if records is None else records))
    if any(s.share is None for s in found) and any(s.share is not None for s in found):
        raise ConfigError("--data: give all sources a share, or none")
    return found


def _listed(path: Path, style: StyleName) -> list[Source]:
    """The sources of a YAML file ``texts: [{path, style, share, records, first_line}, …]``; paths are relative to it."""
    content = read_yaml(path)
    entries = content.get("texts")
    if set(content) != {"texts"} or not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path}: must hold a list under the key texts, each entry with a path")
    return [_entry(path, number, entry, style) for number, entry in enumerate(entries, start=1)]


def _entry(path: Path, number: int, entry: Any, style: StyleName) -> Source:
    where = f"{path}, entry {number}"
    known = ("path", "style", "share", "records", "first_line")
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise ConfigError(f"{where}: must be a mapping with a path")
    if unknown := [name for name in entry if name not in known]:
        raise ConfigError(f"{where}: {shown(unknown[0])} is no key; known are {', '.join(known)}")
    own = entry.get("style", style)
    share, records, first = entry.get("share"), entry.get("records", own == "lyric"), entry.get("first_line", "")
    if own not in _STYLES:
        raise ConfigError(f"{where}: style must be {' or '.join(_STYLES)}, not {shown(own)}")
    if share is not None and (type(share) not in (int, float) or not 0 < share < math.inf):
        raise ConfigError(f"{where}: share must be a number above 0, not {shown(share)}")
    if type(records) is not bool or not isinstance(first, str):
        raise ConfigError(f"{where}: records must be true or false, and first_line text")
    return Source(str(path.parent / entry["path"]), own, share and float(share), records, first)


def encode_sources(
    sources: Sequence[Source], tokenizer: TextTokenizer, held_out: float, progress: Reading = lambda done, of: None
) -> Texts:
    """Read and encode the sources. held_out: share of the documents that is held out.

    Of a source with a single document, that share of its end is held out. Raises InputError for texts that cannot be read or are empty.
    """
    read = [read_documents(s.path, records=s.records) for s in sources]
    whole = sum(len(d.text) for documents in read for d in documents)
    done = 0
    encoded = []
    for source, documents in zip(sources, read, strict=True):
        streams = []
        for document in documents:
            if document.text.strip():
                streams.append(np.array(encode_document(source, document, tokenizer), dtype=np.int32))
            done += len(document.text)
            progress(done, whole)
        if not streams:
            raise InputError(f"{source.path}: holds no text")
        encoded.append(_encoded(source, documents, streams, tokenizer, held_out))
    return Texts(encoded, tokenizer.unk)


def encode_document(source: Source, document: Document, tokenizer: TextTokenizer) -> list[int]:
    """The token ids of a document with what ends it. Raises InputError, naming the document."""
    text = f"{source.first_line}\n{document.text}" if source.first_line else document.text
    if source.style == "novel":
        text = _BLANK_LINES.sub("\n", text)
    try:
        ids = encode_prompt(source.style, text, tokenizer)
    except InputError as error:
        raise InputError(f"{document.name}: {error}") from None
    return ids + text_end(tokenizer)


def text_end(tokenizer: TextTokenizer) -> list[int]:
    """The ids that separate two documents: the token that ends texts, or where there is none a newline."""
    end = tokenizer.end if tokenizer.end is not None else tokenizer.line_end
    return tokenizer.encode("\n") if end is None else [end]


def _encoded(
    source: Source, documents: Sequence[Document], streams: list[Ids], tokenizer: TextTokenizer, held_out: float
) -> Encoded:
    unknown = sum(int((s == tokenizer.unk).sum()) for s in streams) if tokenizer.unk is not None else 0
    texts = [d.text for d in documents if d.text.strip()]
    characters = sum(len(d.text) for d in documents)
    if len(streams) == 1:
        (only,) = streams
        at = len(only) - int(len(only) * held_out)
        return Encoded(source, only[:at], only[at:], 1, 0, characters, unknown, beginning(source, texts[0]))
    share = Fraction(str(held_out))  # exact: 0.005 is one document in 200
    held = {n for n in range(len(streams)) if int((n + 1) * share) != int(n * share)}
    if held_out and not held:
        held = {len(streams) - 1}
    order = np.random.default_rng(_SHUFFLE).permutation(len(streams))
    train = [streams[n] for n in order if n not in held]
    kept = [streams[n] for n in sorted(held)]
    begins = beginning(source, texts[min(held, default=0)])
    return Encoded(source, _join(train), _join(kept), len(streams), len(held), characters, unknown, begins)


def beginning(source: Source, text: str) -> str:
    """The first words of a document that is not blank."""
    return source.first_line or text.strip().split("\n")[0].strip()[:_WORDS]


def _join(streams: Iterable[Ids]) -> Ids:
    return np.concatenate([np.zeros(0, np.int32), *streams])
