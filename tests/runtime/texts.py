"""Writes texts to their end, step by step."""

from collections import deque
from collections.abc import Sequence

from cpm_gen import LLM
from cpm_gen.config.options import TextOptions
from cpm_gen.engine.sequence import Request
from cpm_gen.outputs import Chunk


def chunks_of(llm: LLM, requests: Sequence[Request], text: TextOptions) -> list[list[Chunk]]:
    """The chunks of each request; all are in the batch together."""
    ready: deque[Chunk] = deque()
    streams = llm.engine.begin(requests, text, ready)
    while not all(stream.done for stream in streams):
        llm.engine.step()
    llm.engine.end(streams)
    return [[chunk for chunk in ready if chunk.place == place] for place in range(len(requests))]
