"""What the routes of other servers' endpoints have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from cpm_gen.sampling.logprobs import Likelihood
from cpm_gen.server.routes.generate import generation_spec
from cpm_gen.server.schemas.foreign import ForeignText
from cpm_gen.serving.errors import not_found
from cpm_gen.serving.generation_spec import GenerationSpec
from cpm_gen.serving.results import EndReason
from cpm_gen.serving.service import Service
from cpm_gen.text.prompt_styles import detokenizer
from cpm_gen.text.stories.requested import has_outline
from cpm_gen.text.tokenizer import Detokenizer


def check_model(service: Service, model: str | None) -> None:
    """Raises ServiceError (not_found) for a model that is not here. None and "" are the one that is."""
    if model and model not in service.served_names:
        raise not_found(f"the model here is {service.served_names[0]!r}", "model", "model_not_found")


def foreign_spec(
    service: Service,
    body: ForeignText,
    prompts: Sequence[str | list[int]],
    logprobs: int | None = None,
    keep: int | None = None,
) -> GenerationSpec:
    """What a body asks for, as the service takes it. Raises ServiceError while the model is not there.

    keep: how many tokens always stay in the window, unless the body says so itself.
    """
    sampling = body.sampling(service.require().vocabulary.reader.end)
    spec = generation_spec(body, prompts, sampling, body.options(), body.timeout)
    return dataclasses.replace(spec, logprobs=logprobs, keep=keep if spec.keep is None else spec.keep)


def short_reason(reason: EndReason | None) -> Literal["stop", "length"] | None:
    """Why a text ended, in other servers' words; None before its end. Its end token, a stop string, a form and an outline "stop" it."""
    return None if reason is None else "stop" if reason in ("stop", "form", "story") else "length"


def token_text(service: Service, body: ForeignText) -> Callable[[int], str]:
    """The function from a token to its text by itself in the body's style. Ids that only pad the vocabulary have no text."""
    tokenizer = service.engine.require().vocabulary.tokenizer
    alone = detokenizer(body.style, tokenizer, chapters=has_outline(body.story)).alone
    return lambda token: alone(token) if token < tokenizer.size else ""


def reader(service: Service, body: ForeignText) -> Detokenizer:
    """A decoder of a text in the body's style."""
    return service.engine.require().vocabulary.detokenizer(body.style, chapters=has_outline(body.story))


def shown_in(text: str, likelihoods: Iterable[Likelihood], decoder: Detokenizer) -> list[Likelihood]:
    """Those of the tokens that the text shows: not of ``<eod>`` or the stop string that ended it."""
    shown, at = [], 0
    for known in likelihoods:
        if at >= len(text):
            break
        shown.append(known)
        at += len(decoder.push(known.token))
    return shown


def token_probabilities(likelihoods: Iterable[Likelihood], text: Callable[[int], str]) -> list[dict[str, Any]]:
    """Tokens with their log-probabilities and those of the best ones in their place: OpenAI's shape for chats, with llama.cpp's ids."""

    def shown(token: int, logprob: float) -> dict[str, Any]:
        written = text(token)
        return {"id": token, "token": written, "bytes": list(written.encode()), "logprob": logprob}

    return [shown(k.token, k.logprob) | {"top_logprobs": [shown(*best) for best in k.top]} for k in likelihoods]
