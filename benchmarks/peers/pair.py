"""Two engines side by side: the same work in turns, over several rounds, with memory bandwidth measured around each."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from bandwidth import Memory
from models import bytes_per_step, percentile

from cpm_gen.config.model_sizes import ModelSize
from peers.client import Peer


@dataclass(frozen=True)
class Work:
    """``kind`` is "decode" (up to ``tokens`` tokens or ``seconds`` seconds) or "prefill" (one prompt)."""

    kind: str
    prompts: list[list[int]]
    tokens: int = 1
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return "decode" if self.kind == "decode" else f"prefill {len(self.prompts[0])}"

    def run(self, peer: Peer) -> dict[str, Any]:
        """Run it once on an engine."""
        if self.kind == "prefill":
            done = peer.measure("prefill", ids=self.prompts[0])
            return {"first": done["seconds"], "times": [], "peak_rss_mb": done["peak_rss_mb"]}
        return peer.measure("decode", prompts=self.prompts, tokens=self.tokens, seconds=self.seconds)

    def warm(self, peer: Peer) -> None:
        """Warm up: a short run, not measured."""
        if self.kind == "prefill":
            self.run(peer)
        else:
            peer.measure("decode", prompts=self.prompts, tokens=min(8, self.tokens), seconds=self.seconds)

    def rate(self, done: dict[str, Any]) -> float:
        """Tokens per second: of the prompt, or of the decode steps after the first tokens."""
        if self.kind == "prefill":
            return len(self.prompts[0]) / done["first"]
        return len(self.prompts) * len(done["times"]) / sum(done["times"])


def works(size: ModelSize, batches: list[int], prefills: list[int], tokens: int, seconds: float) -> list[Work]:
    """Decoding after prompts of 32 tokens at each batch size, and prefill of one prompt of each length."""

    def prompt(length: int, seed: int) -> list[int]:
        return [(7919 * i + 104_729 * seed) % (size.vocabulary - 16) + 11 for i in range(length)]

    return [
        *(Work("decode", [prompt(32, n) for n in range(batch)], tokens, seconds) for batch in batches),
        *(Work("prefill", [prompt(length, 0)]) for length in prefills),
    ]


def compare(
    peers: list[Peer], work: Work, rounds: int, memory: Memory
) -> tuple[list[list[dict[str, Any]]], list[float]]:
    """Results of each engine in each round, and memory bandwidth in each round, in bytes per second."""
    for peer in peers:
        work.warm(peer)
    done: list[list[dict[str, Any]]] = [[] for _ in peers]
    bandwidths = []
    for number in range(rounds):
        before = memory.bandwidth()
        order = range(len(peers)) if number % 2 == 0 else reversed(range(len(peers)))
        for at in order:
            done[at].append(work.run(peers[at]))
        bandwidths.append((before + memory.bandwidth()) / 2)
    return done, bandwidths


def row(work: Work, size: ModelSize, dtype: str, done: list[dict[str, Any]], bandwidths: list[float]) -> dict[str, Any]:
    """The row of one engine: medians over its rounds."""
    rates = [work.rate(d) for d in done]
    result: dict[str, Any] = {
        "work": work.name,
        "batch": len(work.prompts),
        "tokens_per_second": round(statistics.median(rates), 3),
        "roofline_fraction": None,
        "bandwidth_gb_s": round(statistics.median(bandwidths) / 1e9, 2),
        "peak_rss_mb": round(max(d["peak_rss_mb"] for d in done)),
        "ttft_ms": round(1e3 * statistics.median(d["first"] for d in done), 3),
        "itl_p50_ms": None,
        "itl_p99_ms": None,
    }
    if work.kind == "decode":
        fractions = []
        for d, bandwidth in zip(done, bandwidths, strict=True):
            length = len(work.prompts[0]) + 1 + len(d["times"]) / 2
            least = bytes_per_step(size, dtype, len(work.prompts), length) / bandwidth
            fractions.append(least * len(d["times"]) / sum(d["times"]))
        times = [t for d in done for t in d["times"]]
        result["roofline_fraction"] = round(statistics.median(fractions), 4)
        result["itl_p50_ms"] = round(1e3 * percentile(times, 0.5), 3)
        result["itl_p99_ms"] = round(1e3 * percentile(times, 0.99), 3)
    return result


def ratio(work: Work, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> float:
    """Speed of cpm-gen over the peer's: the median over rounds."""
    return round(statistics.median(work.rate(a) / work.rate(b) for a, b in zip(ours, theirs, strict=True)), 3)
