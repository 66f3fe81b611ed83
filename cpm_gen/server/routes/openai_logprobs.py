"""Texts as OpenAI's completions show them: with the prompt before them (``echo``), and with log-probabilities of tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from cpm_gen.sampling.logprobs import TopCollector
from cpm_gen.server.routes.foreign import reader, token_text
from cpm_gen.server.schemas.openai import CompletionBody, Logprobs
from cpm_gen.serving.errors import invalid
from cpm_gen.serving.job import Job
from cpm_gen.serving.results import TextUpdate
from cpm_gen.serving.scoring import score_reserved
from cpm_gen.serving.service import Service
from cpm_gen.text.tokenizer import Detokenizer


@dataclass
class CompletionPiece:
    """A piece of a completion, with the log-probabilities of its tokens if the body asked for them."""

    text: str
    logprobs: Logprobs | None = None


def _empty() -> Logprobs:
    return Logprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])


def _extend(all: Logprobs, more: Logprobs) -> None:
    all.tokens += more.tokens
    all.token_logprobs += more.token_logprobs
    all.top_logprobs += more.top_logprobs
    all.text_offset += more.text_offset


@dataclass
class CompletionText:
    """One of a completion's texts while it is generated.

    count: the number of most probable tokens to show at each position; None shows no log-probabilities.
    surface: the text of a token by itself. reader: decodes the text's tokens, for offsets. end: the token that ends texts; where it
    ended this one it is shown as "", since programs that score texts count the tokens.
    """

    count: int | None
    surface: Callable[[int], str]
    reader: Detokenizer
    end: int | None
    prompt: CompletionPiece | None = None
    _text: str = ""
    _offset: int = 0  # where the next token begins
    _all: Logprobs = field(default_factory=_empty)

    def echo(self, prompt: CompletionPiece) -> None:
        """Begin the text with its prompt."""
        self.prompt = prompt
        self._text = prompt.text
        self._offset = len(prompt.text)
        if prompt.logprobs is not None:
            _extend(self._all, prompt.logprobs)

    def add(self, update: TextUpdate) -> CompletionPiece:
        """Append an update; return it as a piece."""
        self._text += update.text
        if self.count is None:
            return CompletionPiece(update.text)
        more = _empty()
        last = len(update.likelihoods) - 1 if update.finish_reason == "stop" else None
        for at, known in enumerate(update.likelihoods):
            piece = "" if at == last and known.token == self.end else self.surface(known.token)
            more.tokens.append(piece)
            more.token_logprobs.append(known.logprob)
            more.top_logprobs.append(by_text(known.top, self.surface))
            more.text_offset.append(self._offset)
            self._offset += len(self.reader.push(known.token))
        _extend(self._all, more)
        return CompletionPiece(update.text, more)

    def whole(self) -> CompletionPiece:
        """The whole text, without the tokens behind the beginning of a stop string."""
        if self.count is None:
            return CompletionPiece(self._text)
        kept = sum(
            offset < len(self._text) or not self._all.tokens[i] for i, offset in enumerate(self._all.text_offset)
        )
        return CompletionPiece(self._text, Logprobs(**{k: v[:kept] for k, v in self._all.model_dump().items()}))


def by_text(best: Iterable[tuple[int, float]], surface: Callable[[int], str]) -> dict[str, float]:
    """Log-probabilities by text, as OpenAI shows them. Of several tokens with the same text only the most probable is shown."""
    shown: dict[str, float] = {}
    for token, logprob in best:
        shown.setdefault(surface(token), logprob)
    return shown


def _decoded(service: Service, body: CompletionBody, ids: Sequence[int]) -> tuple[str, list[int]]:
    """The text of a prompt's tokens, and where each of them begins."""
    decoder, size = reader(service, body), service.engine.require().vocabulary.tokenizer.size
    text, offsets = "", []
    for i in ids:
        offsets.append(len(text))
        text += decoder.push(i) if i < size else ""
    return text + decoder.flush(), offsets


async def prompt_pieces(service: Service, job: Job, body: CompletionBody) -> list[CompletionPiece]:
    """The prompt of each of the job's texts, for ``echo``.

    A prompt given as text is repeated unchanged. With logprobs, and for token ids, it is the joined text of its tokens, so that the
    offsets match. Raises ServiceError.
    """
    most = service.options.max_text_tokens
    if body.logprobs is not None and (longest := max(len(r.prompt) for r in job.requests)) > most:
        raise invalid(
            f"{longest:,} tokens; the most whose probabilities are told is {most:,}", "prompt", "too_many_tokens"
        )
    pieces: list[CompletionPiece] = []
    for prompt, request in zip(body.prompts(), job.requests[:: job.text.n], strict=True):
        if body.logprobs is not None:
            top = TopCollector(body.logprobs)
            scores = await score_reserved(service, request.prompt, "prompt", top)
            piece = await asyncio.to_thread(_scored, service, body, request.prompt, scores, top)
        elif isinstance(prompt, str):
            piece = CompletionPiece(prompt)
        else:
            text, _ = await asyncio.to_thread(_decoded, service, body, request.prompt)
            piece = CompletionPiece(text)
        pieces += [piece] * job.text.n
    return pieces


def _scored(
    service: Service, body: CompletionBody, ids: Sequence[int], scores: Sequence[float], top: TopCollector
) -> CompletionPiece:
    """A prompt with its log-probabilities. scores, top: of all tokens but the first."""
    read = token_text(service, body)
    text, offsets = _decoded(service, body, ids)
    known = Logprobs(
        tokens=[read(i) for i in ids],
        token_logprobs=[None, *scores],
        top_logprobs=[None, *(by_text(best, read) for best in top.found)],
        text_offset=offsets,
    )
    return CompletionPiece(text, known)
