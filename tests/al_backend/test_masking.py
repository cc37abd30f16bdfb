"""Secrets in text, in addresses and in logs."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator

import pytest

from al_backend import masking
from al_backend.errors import ConfigError, RegistryError
from al_backend.jobs.queues import connect_to
from al_backend.logs import configure
from al_backend.masking import masked, masked_url, one_line, secrets_of
from al_backend.registry import Registry
from al_backend.registry.remote import open_storage
from al_backend.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process remembers would mask the words of other tests."""
    monkeypatch.setattr(masking, "_remembered", masking._Remembered())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:pw@host:6379/0", "redis://:***@host:6379/0"),
        ("rediss://user:p%40w@host", "rediss://user:***@host"),
        ("redis://:p@ss@host/0", "redis://:***@host/0"),
        ("redis://host/0?password=pw&db=1", "redis://host/0?password=***&db=1"),
        ("unix:///tmp/redis.sock?db=1", "unix:///tmp/redis.sock?db=1"),
        ("s3://KEY:SECRET@bucket/models", "s3://KEY:***@bucket/models"),
        ("simplecache::ftp://ann:pw@host/models", "simplecache::ftp://ann:***@host/models"),
        ("https://x.test/a.jpg?X-Amz-Signature=abc&x=1", "https://x.test/a.jpg?X-Amz-Signature=***&x=1"),
        ("https://x.test/a.jpg?sv=1&sig=a%2Fb", "https://x.test/a.jpg?sv=1&sig=***"),
        ("https://token@host/x", "https://***@host/x"),
        ("/data/models", "/data/models"),
        ("ann@example.org", "ann@example.org"),
        ("", ""),
    ],
)
def test_addresses(url: str, shown: str) -> None:
    assert masked_url(url) == shown


def test_every_secret_of_the_settings_is_known() -> None:
    settings = load_settings(
        label_studio_api_key="a-token-of-label-studio",
        basic_auth_user="ann",
        basic_auth_pass="p/ss word",
        webhook_secret="of the hook",
        redis_url="redis://:redis%2Fpass@host:6379/0?password=inquery",
        model_dir="s3://AKIA:s3secret@bucket/x",
        label_studio_url="http://lsuser:lspass@ls.test",
        public_url="http://token-alone@al.test",
    )
    found = set(secrets_of(settings))
    in_addresses = {"redis%2Fpass", "redis/pass", "s3secret", "inquery", "lspass", "token-alone"}
    assert found == {"a-token-of-label-studio", "p/ss word", "of the hook"} | in_addresses


def test_text_without_them() -> None:
    masking.remember_secrets(
        load_settings(basic_auth_user="ann", basic_auth_pass="secret", webhook_secret="secret-two")
    )
    assert masked("secret-two, then secret") == "***, then ***"
    masking.remember_secrets(load_settings(webhook_secret="the third"))
    assert masked("secret-two and the third") == "*** and ***"
    assert masked("Authorization: Bearer abcdefghijklmnop.qrs") == "Authorization: Bearer ***"
    assert masked("legacy Token authentication is off") != ""


def test_a_secret_too_short_to_be_looked_for_leaves_words_alone() -> None:
    masking.remember_secrets(load_settings(webhook_secret="a"))
    assert masked("a banana") == "a banana"


def test_one_line() -> None:
    assert one_line("a\nb\tc\x1b[2J\r\u2028") == "a\\nb\\tc\\x1b[2J\\r\\u2028"


class Log:
    """What a process of these settings would write to stderr."""

    def __init__(self, settings: Settings) -> None:
        self._stream = io.StringIO()
        configure(settings, self._stream)
        self.logger = logging.getLogger("some.library")

    def lines(self) -> list[str]:
        """Without their time."""
        return [re.sub(r"^\d{4}-\S+ \S+ ", "", line) for line in self._stream.getvalue().splitlines()]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield Log(load_settings(basic_auth_user="ann", basic_auth_pass="a long password"))
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def test_no_logger_shows_a_secret(log: Log) -> None:
    log.logger.warning("GET %s with %s", "http://x:y@host/?token=abc", {"x": "a long password"})
    assert log.lines() == ["WARNING some.library: GET http://x:***@host/?token=*** with {'x': '***'}"]


def test_not_even_in_a_traceback(log: Log) -> None:
    try:
        raise ValueError("a long password is wrong\n2026-01-01 00:00:00 ERROR root: forged\x1b[2J")
    except ValueError:
        log.logger.exception("Failed")
    first, *rest = log.lines()
    assert first == "ERROR some.library: Failed"
    assert "    ValueError: *** is wrong" in rest
    assert all(line.startswith("    ") and "\x1b" not in line for line in rest)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:sec-ret@127.0.0.1:1/0",
        "redis://ann:sec-ret@127.0.0.1:1/0",
        "redis://127.0.0.1:1/0?password=sec-ret",
        "redis://:sec@sec-ret@127.0.0.1:1",
        "redis://:sec-ret@127.0.0.1:port/0",
        "http://:sec-ret@127.0.0.1:1/0",
        "redis://127.0.0.1:1/0?password=sec-ret&socket_timeout=abc",
    ],
)
def test_an_error_about_redis_has_no_password(url: str) -> None:
    with pytest.raises(ConfigError, match="REDIS_URL") as caught:
        connect_to(url)
    assert "sec-ret" not in str(caught.value)


@pytest.mark.parametrize(
    "location",
    [
        "ftp://ann:sec-ret@127.0.0.1:1/models",
        "nothing://ann:sec-ret@host/models",
        "http://ann:sec-ret@127.0.0.1:1/models",
    ],
)
def test_an_error_about_the_registry_has_no_password(location: str) -> None:
    with pytest.raises(RegistryError) as caught:
        Registry(location)
    assert "sec-ret" not in str(caught.value)


def test_a_registry_shows_its_address_without_credentials() -> None:
    storage = open_storage("memory://ann:sec-ret@bucket/models")
    assert storage.location == "memory://ann:***@bucket/models"
    assert "sec-ret" not in repr(Registry("memory://ann:sec-ret@bucket/models"))


def test_an_error_about_settings_has_no_value() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(label_studio_url="ann:sec-ret@host")
    assert "sec-ret" not in str(caught.value)
    assert "sec-ret" not in repr(load_settings(webhook_secret="sec-ret", basic_auth_pass="sec-ret"))
