"""Texts as OpenAI's completions show them: with the prompt before them (``echo``), with each token's log-probability."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cpm_gen.errors import CpmGenError
from cpm_gen.outputs import Chunk
from cpm_gen.server.schemas.openai import CompletionBody, Logprobs
from cpm_gen.serving.errors import from_library, invalid
from cpm_gen.serving.job import Job
from cpm_gen.serving.service import Service
from cpm_gen.text.prompt_styles import detokenizer


@dataclass
class Piece:
    """A piece of text and what is known of its tokens."""

    text: str
    logprobs: Logprobs | None = None


def _none() -> Logprobs:
    return Logprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])


def _extend(all: Logprobs, more: Logprobs) -> None:
    all.tokens += more.tokens
    all.token_logprobs += more.token_logprobs
    all.top_logprobs += more.top_logprobs
    all.text_offset += more.text_offset


@dataclass
class Text:
    """One of a completion's texts while it grows.

    count: of best tokens to tell; None tells no log-probabilities. read: how a token reads.
    """

    count: int | None
    read: Callable[[int], str]
    prompt: Piece | None = None
    _text: str = ""
    _offset: int = 0  # where the next token begins
    _all: Logprobs = field(default_factory=_none)

    def echo(self, prompt: Piece) -> None:
        """Begin with the prompt."""
        self.prompt = prompt
        self._text = prompt.text
        self._offset = len(prompt.text)
        if prompt.logprobs is not None:
            _extend(self._all, prompt.logprobs)

    def take_prompt(self) -> Piece:
        """The prompt, as the first piece."""
        assert self.prompt is not None
        return self.prompt

    def take(self, chunk: Chunk) -> Piece:
        """What a chunk adds."""
        self._text += chunk.text
        if self.count is None:
            return Piece(chunk.text)
        more = _none()
        for known in chunk.likelihoods:
            piece = self.read(known.token)
            more.tokens.append(piece)
            more.token_logprobs.append(known.logprob)
            more.top_logprobs.append(self._top(known.top))
            more.text_offset.append(self._offset)
            self._offset += len(piece)
        _extend(self._all, more)
        return Piece(chunk.text, more)

    def _top(self, best: tuple[tuple[int, float], ...]) -> dict[str, float]:
        """By text, as OpenAI has it; of tokens that read the same the best stands for all."""
        top: dict[str, float] = {}
        for token, logprob in best:
            top.setdefault(self.read(token), logprob)
        return top

    def whole(self) -> Piece:
        """All of it; tokens behind a stop string's beginning are not of the text."""
        if self.count is None:
            return Piece(self._text)
        kept = sum(
            offset < len(self._text) or not self._all.tokens[i] for i, offset in enumerate(self._all.text_offset)
        )
        return Piece(self._text, Logprobs(**{k: v[:kept] for k, v in self._all.model_dump().items()}))


def reader(service: Service, body: CompletionBody) -> Callable[[int], str]:
    """How tokens read in the style that was asked for; rows that pad the vocabulary have no text."""
    tokenizer = service.engine.require().tokenizer
    push = detokenizer(body.style, tokenizer).push
    return lambda token: push(token) if token < tokenizer.size else ""


async def prompt_texts(service: Service, job: Job, body: CompletionBody) -> list[Piece]:
    """What ``echo`` puts before each of the job's texts: the prompt as it was given.

    With logprobs, and for token ids, it is the prompt as its tokens read, so that they join to it.
    """
    read = reader(service, body)
    most = service.options.max_text_tokens
    if body.logprobs is not None and (longest := max(len(r.prompt) for r in job.requests)) > most:
        raise invalid(
            f"{longest:,} tokens; the most whose probabilities are told is {most:,}", "prompt", "too_many_tokens"
        )
    pieces: list[Piece] = []
    for prompt, request in zip(body.prompts(), job.requests[:: job.text.n], strict=True):
        tokens = [read(i) for i in request.prompt]
        if body.logprobs is None:
            piece = Piece(prompt if isinstance(prompt, str) else "".join(tokens))
        else:
            try:
                scores = await service.engine.score(request.prompt)
            except CpmGenError as error:
                raise from_library(error, "prompt") from None
            offsets, at = [], 0
            for token in tokens:
                offsets.append(at)
                at += len(token)
            known = Logprobs(
                tokens=tokens,
                token_logprobs=[None, *scores],
                top_logprobs=[None] * len(tokens),
                text_offset=offsets,
            )
            piece = Piece("".join(tokens), known)
        pieces += [piece] * job.text.n
    return pieces
