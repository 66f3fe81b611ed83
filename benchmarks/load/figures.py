"""Statistics of the results."""

from __future__ import annotations

from collections import Counter
from typing import Any

from models import percentile

from load.loops import Outcome

_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

HEADER = """
| lengths | load | requests | tokens/s | TTFT p50 / p95 / p99 (ms) | ITL (ms) | tokens an event | whole text (s) | failures |
|---|---|---|---|---|---|---|---|---|"""


def row(outcomes: list[Outcome], seconds: float, *, allow_429: bool) -> dict[str, Any]:
    """The row of a level. Times come from complete responses only; tokens from every event received."""
    whole = [o for o in outcomes if o.failure is None]
    gaps = [gap for o in whole for gap in o.gaps]
    codes = Counter(o.failure for o in outcomes if o.failure is not None)
    refused = sum(n for code, n in codes.items() if code.startswith("429 ")) if allow_429 else 0
    return {
        "requests": len(outcomes),
        "seconds": round(seconds, 2),
        "tokens": sum(o.tokens for o in outcomes),
        "tokens_per_second": round(sum(o.tokens for o in outcomes) / seconds, 2),
        **_percentiles("ttft", "ms", [1e3 * (o.first - o.due) for o in whole if o.first is not None]),
        **_percentiles("itl", "ms", [1e3 * gap for gap in gaps]),
        "tokens_per_event": round(sum(o.tokens for o in whole) / max(1, len(whole) + len(gaps)), 3),
        **_percentiles("whole", "s", [o.ended - o.due for o in whole]),
        "codes": dict(codes),
        "refused": refused,
        "failures": sum(codes.values()) - refused,
    }


def _percentiles(name: str, unit: str, values: list[float]) -> dict[str, float | None]:
    return {
        f"{name}_{key}_{unit}": round(percentile(values, share), 3) if values else None
        for key, share in _SHARES.items()
    }


def line(r: dict[str, Any]) -> str:
    """One line of the table under HEADER."""

    def three(name: str, unit: str, digits: int) -> str:
        values = [r[f"{name}_{key}_{unit}"] for key in _SHARES]
        return " / ".join("–" if v is None else f"{v:,.{digits}f}" for v in values)

    codes = ", ".join(f"{n} × {code}" for code, n in r["codes"].items()) or "0"
    return (
        f"| {r['lengths']} | {r['load']} | {r['requests']} | {r['tokens_per_second']:,.0f} | {three('ttft', 'ms', 0)} | "
        f"{three('itl', 'ms', 1)} | {r['tokens_per_event']:.2f} | {three('whole', 's', 1)} | {codes} |"
    )
