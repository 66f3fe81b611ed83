"""Settings of the service. Every limit of its load is one of them; 0 means no limit only where the text says so."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cpm_gen.config.declare import settings_group
from cpm_gen.config.options import PathText

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
LONGEST_LEASE = 300.0  # seconds
Texts = Annotated[tuple[Annotated[str, Field(strict=True)], ...], Field(strict=False)]


@settings_group
class ServeOptions:
    """Address, access and limits of the service."""

    host: PathText = Field(
        default="127.0.0.1", description="address to listen on; beyond loopback needs --keys or --insecure"
    )
    port: int = Field(
        default=8000, ge=0, le=65_535, description="port to listen on; 0: any free one, the ready line names it"
    )
    keys: PathText | None = Field(
        default=None, description="file of hashed API keys (--new-key makes one); CPM_GEN_API_KEYS may hold keys, too"
    )
    insecure: bool = Field(default=False, description="listen beyond loopback without keys")
    cors_origin: Texts = Field(
        default=(), description="web origin whose pages may use the service; may be given several times"
    )
    allowed_host: Texts = Field(
        default=(),
        description="Host header to answer to, besides loopback names; may be given several times (default: none without keys, else any)",
    )
    served_model_name: Texts = Field(
        default=(),
        description="name of the model under /v1; may be given several times: the first is shown, all are taken (default: its folder's)",
    )
    open_metrics: bool = Field(
        default=False,
        description="answer /metrics without a key and for any Host header, as a scraper in a cluster needs it",
    )
    access_log: bool = Field(default=True, description="one line on standard error for each request, without its text")
    log_prompts: bool = Field(default=False, description="write prompts into the log")
    log_level: LogLevel = Field(
        default="info", description="least important log lines that are written; a request's line is info"
    )
    log_format: LogFormat = Field(default="text", description="form of log lines; json: one object on each line")

    database: PathText | None = Field(
        default=None,
        description="where works are kept: a file (SQLite) or a URL in SQLAlchemy's form (default: works.db in the user's data folder)",
    )
    max_works: int = Field(default=1000, ge=1, description="most works that are kept per key")
    max_work_tokens: int = Field(default=0, ge=0, description="most tokens of a work's text; 0: no limit")
    work_places: int | None = Field(
        default=None,
        ge=1,
        description="places of the batch for works, one for each text or candidate, at most the batch; others wait (default: half of it)",
    )
    work_turn: float = Field(
        default=60.0, gt=0, description="seconds after which a work's text gives its place to one that waits"
    )

    work_lease: float = Field(
        default=15.0,
        ge=1,
        le=LONGEST_LEASE,
        description="seconds after which another service on the same PostgreSQL takes over the works of one that does not answer",
    )

    queue: int = Field(default=256, ge=0, description="most samples that wait for a place in the batch")
    connections: int = Field(
        default=1024, ge=1, description="most requests that are open at once, those to /health aside"
    )
    max_body: int = Field(default=2**21, ge=1, description="most bytes of a request's body")
    max_prompts: int = Field(default=16, ge=1, description="most prompts of a request")
    max_samples: int = Field(default=8, ge=1, description="most samples of a prompt (n)")
    max_prompt_chars: int = Field(default=200_000, ge=1, description="most characters of a prompt")
    max_text_tokens: int = Field(
        default=16_384, ge=1, description="most tokens to write for a sample, and most to score"
    )
    max_stop: int = Field(default=16, ge=1, description="most stop strings")
    max_stop_chars: int = Field(default=256, ge=1, description="most characters of a stop string")
    min_window_hop: int = Field(
        default=1,
        ge=1,
        description="smallest window hop a request may ask for; below 16 every step costs a whole window",
    )
    key_streams: int = Field(
        default=16,
        ge=1,
        description="most requests at once per key that write, follow a work, score or tokenize; a line of the key file may say otherwise",
    )
    key_rate: int = Field(
        default=0,
        ge=0,
        description="most requests per minute and key; 0: no limit; a line of the key file may say otherwise",
    )

    request_timeout: float = Field(
        default=600.0,
        gt=0,
        description="most seconds that a generation, a scoring or a tokenization may take, waiting included",
    )
    body_timeout: float = Field(
        default=30.0, gt=0, description="most seconds for a request's head to arrive, and for its body"
    )
    send_timeout: float = Field(
        default=60.0, gt=0, description="most seconds that a client may leave its answer unread"
    )
    tokenize_timeout: float = Field(default=20.0, gt=0, description="most seconds for a text to become tokens")
    tokenize_queue: int = Field(
        default=256, ge=1, description="most texts that wait to become tokens, short and long ones apart"
    )
    keep_alive: float = Field(
        default=15.0, gt=0, description="seconds of silence after which a stream gets a comment line"
    )
    drain_timeout: float = Field(
        default=30.0, gt=0, description="seconds that running requests get to finish after SIGTERM"
    )
    probe_after: float = Field(
        default=10.0,
        gt=0,
        description="seconds without a step after which the readiness check runs the network",
    )
    stuck_after: float = Field(
        default=120.0, gt=0, description="seconds that a step may take before the engine counts as stuck"
    )
    restart_workers: bool = Field(
        default=False, description="load the model again after a rank died or the engine was stuck"
    )
