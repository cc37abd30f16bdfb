"""Secrets in text, in addresses and in logs."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterator

import pytest

from al_backend import masking
from al_backend.errors import ConfigError, RegistryError
from al_backend.jobs.queues import connect_to
from al_backend.masking import masked, masked_url, one_line, protect_logs, secrets_of
from al_backend.registry import Registry
from al_backend.registry.remote import open_storage
from al_backend.settings import load_settings


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a process remembers would mask the words of other tests."""
    monkeypatch.setattr(masking, "_remembered", masking._Remembered())
    factory = logging.getLogRecordFactory()
    logging.setLogRecordFactory(logging.LogRecord)
    yield
    logging.setLogRecordFactory(factory)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:pw@host:6379/0", "redis://***@host:6379/0"),
        ("rediss://user:p%40w@host", "rediss://***@host"),
        ("redis://:p@ss@host/0", "redis://***@host/0"),
        ("redis://host/0?password=pw&db=1", "redis://host/0?password=***&db=1"),
        ("unix:///tmp/redis.sock?db=1", "unix:///tmp/redis.sock?db=1"),
        ("s3://KEY:SECRET@bucket/models", "s3://***@bucket/models"),
        ("simplecache::ftp://ann:pw@host/models", "simplecache::ftp://***@host/models"),
        ("https://x.test/a.jpg?X-Amz-Signature=abc&x=1", "https://x.test/a.jpg?X-Amz-Signature=***&x=1"),
        ("https://x.test/a.jpg?sv=1&sig=a%2Fb", "https://x.test/a.jpg?sv=1&sig=***"),
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
        redis_url="redis://:redis%2Fpass@host:6379/0",
        model_dir="s3://AKIA:s3secret@bucket/x?endpoint_secret=inquery",
        label_studio_url="http://lsuser:lspass@ls.test",
        public_url="http://token-alone@al.test",
    )
    found = secrets_of(settings)
    basic = base64.b64encode(b"ann:p/ss word").decode()
    written = {"a-token-of-label-studio", "p/ss word", "p%2Fss%20word", "of the hook", "of%20the%20hook", basic}
    in_addresses = {"redis%2Fpass", "redis/pass", "s3secret", "inquery", "lspass", "token-alone"}
    assert written | in_addresses <= found
    assert "AKIA" not in found
    assert "ann" not in found


def test_the_derived_webhook_secret_is_one() -> None:
    settings = load_settings(basic_auth_user="ann", basic_auth_pass="a long password")
    assert settings.webhook_bearer in secrets_of(settings)


def test_text_without_them() -> None:
    masking.remember_secrets(
        load_settings(basic_auth_user="ann", basic_auth_pass="secret", webhook_secret="secret-two")
    )
    assert masked("secret-two, then secret") == "***, then ***"
    assert masked("Authorization: Bearer abcdefghijklmnop.qrs") == "Authorization: Bearer ***"
    assert masked("Token 0123456789abcdef0123456789abcdef01234567!") == "Token ***!"
    assert masked("legacy Token authentication is off") == "legacy Token authentication is off"


def test_a_secret_too_short_to_be_looked_for_leaves_words_alone() -> None:
    masking.remember_secrets(load_settings(webhook_secret="a"))
    assert masked("a banana") == "a banana"


def test_one_line() -> None:
    assert one_line("a\nb\tc\x1b[2J\r\u2028") == "a\\nb\\tc\\x1b[2J\\r\\u2028"


class Log:
    """A logger whose lines can be read, through a handler and a format of its own."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.logger = logging.Logger("some.library")
        handler = logging.StreamHandler(self._stream)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        self.logger.addHandler(handler)

    def lines(self) -> list[str]:
        return self._stream.getvalue().splitlines()


@pytest.fixture
def log() -> Log:
    protect_logs(load_settings(basic_auth_user="ann", basic_auth_pass="a long password"))
    return Log()


def test_no_logger_shows_a_secret(log: Log) -> None:
    log.logger.warning("GET %s with %s", "http://x:y@host/?token=abc", {"pass": "a long password"})
    assert log.lines() == ["WARNING some.library: GET http://***@host/?token=*** with {'pass': '***'}"]


def test_not_even_in_a_traceback(log: Log) -> None:
    try:
        raise ValueError("a long password is wrong")
    except ValueError:
        log.logger.exception("Failed")
    assert log.lines()[0] == "ERROR some.library: Failed"
    assert log.lines()[-1] == "ValueError: *** is wrong"


def test_nobody_forges_a_line(log: Log) -> None:
    log.logger.warning("Event %s", "A\nERROR root: forged\r\nB\x1b[1A\x00")
    assert log.lines() == [
        "WARNING some.library: Event A",
        "    ERROR root: forged",
        "    B\\x1b[1A\\x00",
    ]


def test_a_logging_mistake_ends_nothing(log: Log) -> None:
    log.logger.warning("%d images of %s", "many")
    assert log.lines() == ["WARNING some.library: %d images of %s (its arguments do not fit)"]


def test_a_second_call_adds_to_the_first(log: Log) -> None:
    factory = logging.getLogRecordFactory()
    protect_logs(load_settings(webhook_secret="of the hook"))
    assert logging.getLogRecordFactory() is factory
    log.logger.warning("a long password of the hook")
    assert log.lines() == ["WARNING some.library: *** ***"]


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
    assert storage.location == "memory://***@bucket/models"
    assert "sec-ret" not in repr(Registry("memory://ann:sec-ret@bucket/models"))


def test_an_error_about_settings_has_no_value() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(label_studio_url="ann:sec-ret@host")
    assert "sec-ret" not in str(caught.value)
    assert "sec-ret" not in repr(load_settings(webhook_secret="sec-ret", basic_auth_pass="sec-ret"))
