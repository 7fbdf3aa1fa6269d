"""Without keys, the store is open to this machine alone."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from stackserve.auth.bind import check_bind, is_loopback
from stackserve.errors import ConfigError
from stackserve.server_settings import AuthSettings
from tests.auth.conftest import User

HERE = ["127.0.0.1", "127.8.8.8", "::1", "localhost"]
ELSEWHERE = ["0.0.0.0", "::", "", "192.0.2.1", "example.org", "127.0.0.1.example.org"]


@pytest.mark.parametrize("host", HERE)
def test_this_machine_alone_reaches_a_loopback_address(host: str) -> None:
    assert is_loopback(host)
    check_bind(host, AuthSettings(), store_open=True)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_an_open_store_is_not_offered_to_everybody(host: str) -> None:
    with pytest.raises(ConfigError, match=r"server.auth.mode is none, and .* is not a loopback"):
        check_bind(host, AuthSettings(), store_open=True)


def test_a_file_may_be_served_behind_a_proxy_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        check_bind("0.0.0.0", AuthSettings(), store_open=False)
    assert "0.0.0.0 is not a loopback address: everybody who reaches it" in caplog.text


def test_with_keys_every_address_will_do(
    user: User, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_bind("0.0.0.0", user.settings(tmp_path), store_open=True)
    assert not caplog.records
