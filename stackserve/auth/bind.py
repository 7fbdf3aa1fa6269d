"""Whether an address may be listened on without asking who calls."""

from __future__ import annotations

import ipaddress
import logging

from stackserve.errors import ConfigError
from stackserve.server_settings import AuthSettings

logger = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address. Other names than localhost may mean anything."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_bind(host: str, auth: AuthSettings, *, store_open: bool) -> None:
    """Raises ConfigError when others than this machine could change the store unasked.

    Without the store there is nothing to change, and a proxy may ask who calls: that is only logged.
    """
    if auth.mode != "none" or is_loopback(host):
        return
    problem = f"server.auth.mode is none, and {host or 'every address'} is not a loopback address"
    if store_open:
        raise ConfigError(
            f"{problem}; with the store open everybody who reaches it could change what is served: "
            "set server.auth.mode to oci or bearer, or server.host to 127.0.0.1"
        )
    logger.warning("%s: everybody who reaches it may use its models", problem)
