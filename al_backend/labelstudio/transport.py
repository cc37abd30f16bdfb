"""Requests to Label Studio: authorization, timeouts, retries of reads, and errors as sentences.

Plain HTTP instead of the SDK: the SDK repeats writes on its own (an import of predictions that is repeated makes
duplicates), lacks half of the endpoints that are needed here, and takes seconds to import.
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import httpx

from al_backend.errors import ConfigError, LabelStudioError

_READ_TRIES = 3
_BACKOFF_SECONDS = 0.5
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
_REFRESH_EARLY_SECONDS = 30.0
_DETAIL_LENGTH = 500
_KEY_HELP = "check LABEL_STUDIO_API_KEY (Account & Settings, Personal Access Token, in Label Studio)"


class NoToken(LabelStudioError):
    """No access token was to be had for a passing reason, so the request itself was never sent."""


class TokenAuth(httpx.Auth):
    """Authorization with a legacy token, or with a personal access token that is exchanged every few minutes.

    A personal access token is only good for getting an access token, which lives 300 seconds. It is fetched before it
    runs out, by our monotonic clock, because the clocks of the two machines may differ.

    Raises:
        ConfigError: the key is an access token, which would stop working within minutes.
    """

    def __init__(self, url: str, api_key: str) -> None:
        self._refresh_url = f"{url}/api/token/refresh/"
        self._key = api_key
        kind = _claims(api_key).get("token_type")
        if kind == "access":
            raise ConfigError(
                "LABEL_STUDIO_API_KEY holds a short-lived access token; use the personal access token it was made from."
            )
        self.exchanges = kind is not None
        self._lock = threading.Lock()
        self._access: str | None = None
        self._good_until = 0.0

    def secrets(self) -> list[str]:
        """What must never appear in a message."""
        return [self._key, *([self._access] if self._access else [])]

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Put the header on `request`; with an access token that is refused, get a new one and try once more."""
        if not self.exchanges:
            request.headers["Authorization"] = f"Token {self._key}"
            yield request
            return
        token = yield from self._access_token(None)
        request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        if response.status_code == 401:
            token = yield from self._access_token(token)
            request.headers["Authorization"] = f"Bearer {token}"
            yield request

    def _access_token(self, refused: str | None) -> Generator[httpx.Request, httpx.Response, str]:
        with self._lock:
            if self._access is not None and self._access != refused and time.monotonic() < self._good_until:
                return self._access
            response = yield httpx.Request("POST", self._refresh_url, json={"refresh": self._key})
            response.read()
            if response.status_code in _PASSING_STATUS:
                raise NoToken(
                    f"Label Studio could not exchange the personal access token: it answered {response.status_code} "
                    f"({_detail(response)}).",
                    status=response.status_code,
                )
            if response.status_code != 200:
                raise LabelStudioError(
                    f"Label Studio refused the personal access token with {response.status_code} "
                    f"({_detail(response)}); {_KEY_HELP}.",
                    status=response.status_code,
                )
            self._access = str(response.json()["access"])
            claims = _claims(self._access)
            lifetime = float(claims.get("exp", 0)) - float(claims.get("iat", 0))
            self._good_until = time.monotonic() + max(lifetime - _REFRESH_EARLY_SECONDS, lifetime / 2)
            return self._access


class Transport:
    """One connection pool to one Label Studio; safe to share between threads.

    Args:
        url: where Label Studio answers; a path behind the host is kept, one slash at the end is not.
        api_key: legacy token or personal access token; which one it is shows in its form.
        timeout: seconds for connecting and for each wait for data.
        verify_ssl: whether certificates are checked.
    """

    def __init__(self, url: str, api_key: str, *, timeout: float = 60, verify_ssl: bool = True) -> None:
        self.url = url.rstrip("/")
        self.auth = TokenAuth(self.url, api_key)
        self.timeout = timeout
        self._http = httpx.Client(
            auth=self.auth,
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
            verify=verify_ssl,
            limits=httpx.Limits(max_connections=16, max_keepalive_connections=8),
        )

    def close(self) -> None:
        """Close the connections; the object cannot be used afterwards."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        files: Sequence[tuple[str, Any]] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Send one request and return the decoded JSON answer, None when it is empty.

        Reads are repeated when the connection fails or Label Studio is overloaded; writes never are.

        Raises:
            LabelStudioError: there was no answer (status None) or another than 2xx.
        """
        tries = _READ_TRIES if method == "GET" else 1
        headers = {} if body is None else {"Content-Type": "application/json"}
        content = None if body is None else json.dumps(body, allow_nan=False).encode()
        for attempt in range(_READ_TRIES):
            last = attempt >= tries - 1
            try:
                response = self._http.request(
                    method,
                    self.url + path,
                    params=params,
                    content=content,
                    files=files,
                    headers=headers,
                    timeout=httpx.USE_CLIENT_DEFAULT if timeout is None else timeout,
                )
            except NoToken:
                if attempt == _READ_TRIES - 1:
                    raise
            except httpx.TransportError as error:
                if last or isinstance(error, httpx.ReadTimeout):
                    raise LabelStudioError(self._masked(self._no_answer(method, path, error))) from error
            else:
                if response.is_success:
                    return self._decoded(method, path, response)
                if last or response.status_code not in _PASSING_STATUS:
                    message = self._masked(self._refusal(method, path, response))
                    raise LabelStudioError(message, status=response.status_code)
            time.sleep(_BACKOFF_SECONDS * 2**attempt)
        raise AssertionError("unreachable: the last try returns or raises")

    def same_origin(self, url: str) -> bool:
        """Whether `url` has Label Studio's scheme, host and port: only then may our credentials go there."""
        ours, theirs = httpx.URL(self.url), httpx.URL(url)
        return (ours.scheme, ours.host, _port(ours)) == (theirs.scheme, theirs.host, _port(theirs))

    def _decoded(self, method: str, path: str, response: httpx.Response) -> Any:
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise LabelStudioError(
                f"{self._where()} answered {method} {path} with something that is not JSON "
                f"({response.headers.get('content-type', 'no content type')}); is LABEL_STUDIO_URL Label Studio's own?",
                status=response.status_code,
            ) from error

    def _no_answer(self, method: str, path: str, error: httpx.TransportError) -> str:
        reason = str(error) or type(error).__name__
        return (
            f"{self._where()} did not answer {method} {path}: {reason}. Is it running, and is LABEL_STUDIO_URL right?"
        )

    def _refusal(self, method: str, path: str, response: httpx.Response) -> str:
        status = response.status_code
        if 300 <= status < 400:
            target = httpx.URL(self.url).join(response.headers.get("location", ""))
            return (
                f"{self._where()} redirects {method} {path} to {target.scheme}://{target.host}{target.path}; "
                "set LABEL_STUDIO_URL to the address it redirects to."
            )
        help_ = f"; {_KEY_HELP}" if status == 401 else ""
        return f"{self._where()} refused {method} {path} with {status}: {_detail(response)}{help_}."

    def _where(self) -> str:
        url = httpx.URL(self.url)
        return f"Label Studio at {url.copy_with(username=None, password=None)}"

    def _masked(self, message: str) -> str:
        for secret in self.auth.secrets():
            message = message.replace(secret, "***")
        return message


def _claims(token: str) -> dict[str, Any]:
    """The claims of a JWT, empty for anything else; the signature is Label Studio's business."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _detail(response: httpx.Response) -> str:
    """Label Studio's own words about a refusal, on one line."""
    try:
        answer = response.json()
    except ValueError:
        text = "an HTML page" if "html" in response.headers.get("content-type", "") else response.text
        return " ".join(text.split())[:_DETAIL_LENGTH].rstrip(".") or "no reason given"
    if isinstance(answer, dict):
        parts = [answer.get("detail"), answer.get("validation_errors") or answer.get("non_field_errors")]
        found = [part if isinstance(part, str) else json.dumps(part) for part in parts if part]
        if found:
            return " ".join(" ".join(found).split())[:_DETAIL_LENGTH].rstrip(".")
    return json.dumps(answer)[:_DETAIL_LENGTH]


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)
