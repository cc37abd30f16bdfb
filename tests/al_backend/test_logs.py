"""What processes log: one event a line, what it belongs to, and no secret."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from al_backend import logs, masking
from al_backend.errors import ConfigError
from al_backend.logs import bind, bound, configure, from_child
from al_backend.masking import MASK
from al_backend.settings import Settings, load_settings

SECRETS = {
    "label_studio_api_key": "key-5dc1f4",
    "basic_auth_user": "ann",
    "basic_auth_pass": "pass phrase",
    "webhook_secret": "hook-91",
    "redis_url": "redis://:redis%40pw@host:6379/0",
    "model_dir": "s3://user:s3-secret@bucket/models",
}
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def _root_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(masking, "_remembered", masking._Remembered())
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def settings(**changes: Any) -> Settings:
    return load_settings(**changes)


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


@pytest.fixture
def text() -> io.StringIO:
    stream = io.StringIO()
    configure(settings(log_format="text", **SECRETS), stream)
    return stream


@pytest.fixture
def events() -> io.StringIO:
    stream = io.StringIO()
    configure(settings(log_format="json", **SECRETS), stream)
    return stream


def test_a_secret_that_a_process_learns_later_is_masked_too(events: io.StringIO) -> None:
    # As a worker on another machine does, which gets Label Studio's key from Redis.
    masking.remember_secrets(settings(label_studio_api_key="learnt-from-elsewhere"))
    logging.getLogger("a").warning("key learnt-from-elsewhere")
    assert "key ***" in events.getvalue()
    assert "learnt" not in events.getvalue()


def test_text_carries_what_the_event_belongs_to(text: io.StringIO) -> None:
    with bound(project=7, job="train-7"):
        with bound(version="yolov5n-v1-aaaaaa", task=None):
            logging.getLogger("somebody.else").warning("loss %.1f", 0.5)
        logging.getLogger("a").info("after")
    logging.getLogger("a").info("outside")
    first, second, third = lines(text)
    assert first.endswith("WARNING somebody.else: loss 0.5 [project=7 job=train-7 version=yolov5n-v1-aaaaaa]")
    assert second.endswith("INFO a: after [project=7 job=train-7]")
    assert third.endswith("INFO a: outside")


def test_json_is_one_object_a_line_with_a_time_in_utc(events: io.StringIO) -> None:
    with bound(project=7, task=31):
        logging.getLogger("a").error("two\nlines and a \x1b[31mcolour")
        try:
            raise ValueError("broken")
        except ValueError:
            logging.getLogger("a").exception("It failed")
    first, second = map(json.loads, lines(events))
    assert first["message"].split()[:4] == ["two", "lines", "and", "a"]
    assert "\x1b" not in events.getvalue()
    assert {"project": 7, "task": 31, "level": "ERROR", "logger": "a"}.items() <= first.items()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first["time"])
    assert "ValueError: broken" in second["exception"]


def test_nobody_can_begin_a_line_or_steer_the_terminal(text: io.StringIO) -> None:
    logging.getLogger("a").info("name: %s", "x\r\n2026-01-01 ERROR root: forged\x1b[2J")
    (line,) = lines(text)
    assert "\x1b" not in line
    assert "x | 2026-01-01 ERROR root: forged" in line


def _fail_inside() -> None:
    with bound(project=1):
        bind(version="v")
        assert logs.fields() == {"project": 1, "version": "v"}
        raise KeyError


def test_bound_ends_also_after_an_error_and_refuses_what_it_does_not_know() -> None:
    with pytest.raises(KeyError):
        _fail_inside()
    assert logs.fields() == {}
    with pytest.raises(ValueError, match="colour"), bound(colour="red"):
        pass


@pytest.mark.parametrize("kind", ["text", "events"])
def test_no_secret_gets_out(kind: str, request: pytest.FixtureRequest) -> None:
    stream: io.StringIO = request.getfixturevalue(kind)
    given = settings(**SECRETS)
    secret = [SECRETS[name] for name in ("label_studio_api_key", "basic_auth_pass", "webhook_secret")]
    secret += ["redis%40pw", "redis@pw", "s3-secret", JWT, "0123456789abcdef0123456789abcdef01234567"]
    assert given.webhook_bearer == "hook-91"
    for number, value in enumerate(secret):
        with bound(version=value):
            logging.getLogger("a").warning("%d plain: %s", number, value)
    log = logging.getLogger("a")
    log.warning("Authorization: Bearer %s", "other-persons-token-1")
    log.warning("GET http://bob:bobs-password@host/x")
    log.warning('{"access_token": "tokentoken", "password":"p4ssw0rd"}')
    log.warning("headers %s", {"Authorization": "Token 0123456789abcdef0123456789abcdef01234567"})
    try:
        raise RuntimeError(f"no connection to {given.redis_url}")
    except RuntimeError:
        log.exception("failed")
    written = stream.getvalue()
    plain = secret[:6]
    for value in [
        *plain,
        JWT,
        "other-persons-token-1",
        "bobs-password",
        "tokentoken",
        "p4ssw0rd",
        "Token 0123456789abcdef",
    ]:
        assert value not in written, value
    assert written.count(MASK) >= len(plain) + 6


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="LOUD"):
        configure(settings(log_level="LOUD"))
    with pytest.raises(ConfigError, match="log_format"):
        settings(log_format="xml")


def test_requests_of_the_http_client_are_shown_for_debugging_only(text: io.StringIO) -> None:
    logging.getLogger("httpx").info("HTTP Request: GET ...")
    assert lines(text) == []
    configure(settings(log_level="debug"), text)
    logging.getLogger("httpx").info("HTTP Request: GET ...")
    assert len(lines(text)) == 1


def test_lines_of_child_processes() -> None:
    event = json.dumps({"level": "INFO", "message": "m", "project": 7})
    assert from_child("web", "anything", as_json=False, width=5) == "web   | anything"
    assert json.loads(from_child("web", event, as_json=True)) == {
        "level": "INFO", "message": "m", "project": 7, "process": "web",
    }  # fmt: skip
    for line in ("Traceback (most recent call last):", "{no json", "[1]", "", "{1:2}"):
        wrapped = json.loads(from_child("web", line, as_json=True))
        assert (wrapped["message"], wrapped["process"], wrapped["level"]) == (line, "web", "INFO")


def test_warnings_go_the_same_way(text: io.StringIO) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old thing", stacklevel=1)
    assert "old thing" in text.getvalue()
