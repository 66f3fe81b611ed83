"""Settings of the service. Every limit of its load is one of them; 0 means no limit only where the text says so."""

from __future__ import annotations

from dataclasses import dataclass, fields

from cpm_gen.config.option import option
from cpm_gen.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Where the service listens, whom it serves and what it withstands."""

    host: str = option("127.0.0.1", "address to listen on; beyond loopback needs --keys or --insecure")
    port: int = option(8000, "port to listen on; 0: any free one, which the ready line tells")
    keys: str | None = option(
        None, "file of hashed API keys (--new-key makes one); CPM_GEN_API_KEYS may hold keys, too"
    )
    insecure: bool = option(False, "listen beyond loopback without keys")
    cors_origin: tuple[str, ...] = option((), "web origin whose pages may call the service; may be given several times")
    allowed_host: tuple[str, ...] = option(
        (),
        "Host header to answer to, besides loopback names; may be given several times (default: none without keys, else any)",
    )
    access_log: bool = option(True, "one line on standard error for each request, without its text")
    log_prompts: bool = option(False, "write prompts into the log")

    database: str | None = option(
        None,
        "where works are kept: a file (SQLite), or a URL as SQLAlchemy knows them (default: works.db in the user's data folder)",
    )
    max_works: int = option(1000, "most works that are kept per key")
    max_work_tokens: int = option(0, "most tokens of a work's text; 0: no limit")
    work_places: int | None = option(
        None, "most texts of works in the batch at once, at most the batch; others wait (default: half of it)"
    )
    work_turn: float = option(60.0, "seconds after which a text of a work lets another one that waits go first")

    queue: int = option(256, "most samples that wait for a place in the batch")
    connections: int = option(1024, "most requests that are open at once, those to /health aside")
    max_body: int = option(2**21, "most bytes of a request's body")
    max_prompts: int = option(16, "most prompts of a request")
    max_samples: int = option(8, "most samples of a prompt (n)")
    max_prompt_chars: int = option(200_000, "most characters of a prompt")
    max_text_tokens: int = option(16_384, "most tokens to write for a sample, and most to score")
    max_stop: int = option(16, "most stop strings")
    max_stop_chars: int = option(256, "most characters of a stop string")
    min_window_hop: int = option(
        1, "smallest window hop a request may ask for; below 16 every step costs a whole window"
    )
    key_streams: int = option(
        16,
        "most requests at once per key that write, follow a work, score or tokenize; a line of the key file may say otherwise",
    )
    key_rate: int = option(0, "most requests per minute and key; 0: no limit; a line of the key file may say otherwise")

    request_timeout: float = option(
        600.0, "most seconds that a generation, a scoring or a tokenization may take, waiting included"
    )
    body_timeout: float = option(30.0, "most seconds for a request's head to arrive, and for its body")
    send_timeout: float = option(60.0, "most seconds that a client may leave its answer unread")
    tokenize_timeout: float = option(20.0, "most seconds for a text to become tokens")
    tokenize_queue: int = option(256, "most texts that wait to become tokens, short and long ones apart")
    keep_alive: float = option(15.0, "seconds of silence after which a stream gets a comment line")
    drain_timeout: float = option(30.0, "seconds that running requests get to finish after SIGTERM")
    probe_after: float = option(
        10.0, "seconds without a step after which readiness runs the network to see that it answers"
    )
    stuck_after: float = option(120.0, "seconds that a step may take before the engine counts as stuck")
    restart_workers: bool = option(False, "load the model again after a rank died or the engine was stuck")

    def __post_init__(self) -> None:
        """Check ranges; raises ConfigError."""
        if not 0 <= self.port < 65536:
            raise ConfigError(f"port must be from 0 to 65535, not {self.port}")
        for f in fields(self):
            value = getattr(self, f.name)
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or f.name in ("port", "queue", "key_rate", "max_work_tokens")
            ):
                continue
            if not 0 < value < float("inf"):
                raise ConfigError(f"{f.name} must be above 0, not {value}")
        if min(self.queue, self.key_rate, self.max_work_tokens) < 0:
            raise ConfigError("queue, key_rate and max_work_tokens must not be negative")
