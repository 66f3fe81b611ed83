"""Whether other machines can reach the service."""

from __future__ import annotations

from cpm_gen.config.serve_options import ServeOptions
from cpm_gen.errors import ConfigError
from cpm_gen.serving.api_keys import ApiKeys


def check_exposure(options: ServeOptions, keys: ApiKeys) -> None:
    """Raises ConfigError for an address that other machines can reach, unless there are API keys or ``--insecure`` is given."""
    if not is_loopback(options.host) and not keys.needed and not options.insecure:
        raise ConfigError(
            f"host {options.host} is reachable from other machines and there are no API keys; "
            "give --keys FILE (cpm-gen serve --new-key NAME makes one), or --insecure to let everybody in"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host name or address."""
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
