"""Score and tokenize texts with a service's model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cpm_gen.config.options import StyleName
from cpm_gen.errors import CpmGenError
from cpm_gen.sampling.logprobs import TopCollector
from cpm_gen.serving.api_keys import ApiKey
from cpm_gen.serving.errors import from_library, invalid
from cpm_gen.serving.generation_spec import check_chars
from cpm_gen.serving.results import ScoreResult, TokenizedText
from cpm_gen.serving.service import Service, before
from cpm_gen.text.prompt_styles import detokenizer
from cpm_gen.text.tokenizer import Detokenizer, TextTokenizer


async def score(
    service: Service, given: str | Sequence[int], style: StyleName = "plain", key: ApiKey | None = None
) -> ScoreResult:
    """Log-probability of each token of a text, or of token ids. Raises ServiceError."""
    service.require()
    field = "text" if isinstance(given, str) else "token_ids"
    with (key or service.keys.anonymous).running():
        service.engine.reserve(1)
        try:
            async with before(service.deadline()):
                ids = await _encode(service, given, style, field) if isinstance(given, str) else list(given)
                most = service.options.max_text_tokens
                if len(ids) > most:
                    raise invalid(f"{len(ids):,} tokens; the most here is {most:,}", field, "too_many_tokens")
                logprobs = await score_reserved(service, ids, field)
        finally:
            service.engine.release(1)
    service.metrics.scored_tokens.inc(len(logprobs))
    first: list[float | None] = [None] * min(1, len(ids))
    return ScoreResult(tuple(ids), (*first, *logprobs))


async def score_reserved(
    service: Service, token_ids: Sequence[int], field: str, top: TopCollector | None = None
) -> list[float]:
    """Log-probabilities of all tokens but the first, for a request that has a place in the queue already. Raises ServiceError.

    top: gets the most probable tokens in the place of each scored token.
    """
    try:
        return await service.engine.score(token_ids, top)
    except CpmGenError as error:
        raise from_library(error, field) from None


async def encode(
    service: Service, text: str, style: StyleName | None = None, key: ApiKey | None = None, field: str = "text"
) -> list[int]:
    """Token ids of a text in a prompt style; style None encodes the bare text. Raises ServiceError with ``field``."""
    with (key or service.keys.anonymous).running():
        async with before(service.deadline()):
            return await _encode(service, text, style, field)


async def tokenize(
    service: Service, text: str, style: StyleName | None = None, key: ApiKey | None = None, field: str = "text"
) -> TokenizedText:
    """As :func:`encode`, with the text of each token."""
    with (key or service.keys.anonymous).running():
        async with before(service.deadline()):
            ids = await _encode(service, text, style, field)
            pieces = await asyncio.to_thread(_pieces, service.require().vocabulary.tokenizer, ids)
    return TokenizedText(tuple(ids), pieces)


def _pieces(tokenizer: TextTokenizer, ids: Sequence[int]) -> tuple[str, ...]:
    reader = Detokenizer(tokenizer)
    pieces = [reader.push(i) for i in ids]
    if pieces:
        pieces[-1] += reader.flush()
    return tuple(pieces)


async def _encode(service: Service, text: str, style: StyleName | None, field: str) -> list[int]:
    service.require()
    check_chars(text, service.options, field)
    return await service.tokenizer_pool.encode(text, style, field)


async def detokenize(
    service: Service, token_ids: Sequence[int], style: StyleName = "plain", field: str = "token_ids"
) -> str:
    """The text of token ids. Raises ServiceError with ``field``."""
    check_chars(token_ids, service.options, field)
    reader = detokenizer(style, service.require().vocabulary.tokenizer)
    try:
        return await asyncio.to_thread(lambda: "".join(map(reader.push, token_ids)) + reader.flush())
    except CpmGenError as error:
        raise from_library(error, field) from None
