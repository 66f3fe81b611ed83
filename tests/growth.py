"""How the time of reading a text grows with its length."""

import contextlib
import time
from collections.abc import Callable

from cpm_gen.errors import CpmGenError

LONGEST = 1.0  # seconds of CPU for the longest text that is taken, many times what it needs
SHORT = 0.1  # for short texts; and below this no growth is measured


def _seconds(read: Callable[[str], object], text: str) -> float:
    began = time.thread_time()
    with contextlib.suppress(CpmGenError):
        read(text)
    return time.thread_time() - began


def reads_in_time(read: Callable[[str], object], before: str, repeated: str, after: str, longest: int) -> None:
    """Check that ``before``, ``repeated`` again and again and ``after`` are read in a time that grows as the text does.

    The length grows in small steps, so the test fails at a short text if the time is exponential.
    """
    most = (longest - len(before) - len(after)) // len(repeated)
    count = 8.0
    while count < most:
        text = before + repeated * int(count) + after
        seconds = _seconds(read, text)
        assert seconds < max(SHORT, LONGEST * len(text) / longest), (
            f"{seconds:.2f} s for {text[:60]!r}, {len(text):,} in all"
        )
        count *= 1.3
    half, whole = (_seconds(read, before + repeated * count + after) for count in (most // 2, most))
    assert whole < LONGEST, f"{whole:.2f} s for {before!r} {repeated!r} {after!r}"
    if whole > SHORT:
        assert whole < 3 * half, f"{half:.2f} s for half, {whole:.2f} s for all of {before!r} {repeated!r} {after!r}"
