"""The rest of a text as a job of the engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from cpm_gen.errors import ConfigError, InputError, TokenizerError
from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.serving.job import Job
from cpm_gen.works.errors import UnreadableWork
from cpm_gen.works.live import LiveText, LiveWork
from cpm_gen.works.storage.records import TextPiece


def job_of(llm: TextEngine, live: LiveWork, text: LiveText, pieces: Sequence[TextPiece]) -> Job:
    """The rest of a text, of which ``pieces`` are stored, as a job; raises UnreadableWork."""
    spec, current = live.spec, text.current
    if spec is None:
        raise live.problem or UnreadableWork("the work cannot be read")
    written = text.written(pieces, llm.size.vocabulary)
    try:
        options, window = spec.text(current.max_tokens), spec.window_of(llm.window.limit)
        requests = llm.requests(
            [current.prompt_ids],
            spec.sampling(),
            options,
            window=window,
            recompute=spec.decoder == "recompute",
            end_token=spec.end_token,
        )
        request = dataclasses.replace(requests[current.sample], written=written)
    except (ConfigError, InputError, TokenizerError) as error:
        raise UnreadableWork(str(error), "parameters") from None
    options = dataclasses.replace(options, n=1)
    return Job(f"{live.id}.{current.place}", [request], options, shown=current.chars)
