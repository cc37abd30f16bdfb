"""Whether Label Studio answers, asked at most every few seconds and never while a request waits for long."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import httpx

from al_backend.masking import masked_url
from al_backend.settings import Settings

_FRESH_SECONDS = 10.0
_TIMEOUT = 1.5


@dataclass(frozen=True, slots=True)
class Reachability:
    """What was seen at the last look."""

    ok: bool
    sentence: str


class LabelStudioProbe:
    """Looks at Label Studio's `/health`, which needs no token.

    One thread looks at a time; meanwhile the others get the last answer, however old.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.label_studio_url
        self._verify = settings.verify_ssl
        self._last: Reachability | None = None
        self._looked_at = float("-inf")
        self._guard = threading.Lock()

    def look(self) -> Reachability:
        """The present or a recent answer; takes 1.5 s at most."""
        if self._last is not None and time.monotonic() - self._looked_at < _FRESH_SECONDS:
            return self._last
        # The first look has to be waited for, there is nothing else to say.
        if not self._guard.acquire(blocking=self._last is None):
            return self._last or Reachability(False, "Label Studio has not been asked yet.")
        try:
            if self._last is None or time.monotonic() - self._looked_at >= _FRESH_SECONDS:
                self._last = self._ask()
                self._looked_at = time.monotonic()
            return self._last
        finally:
            self._guard.release()

    def _ask(self) -> Reachability:
        try:
            answer = httpx.get(f"{self._url}/health", timeout=_TIMEOUT, verify=self._verify)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            return Reachability(
                False,
                f"Label Studio at {masked_url(self._url)} does not answer ({reason}); "
                "start it, or set LABEL_STUDIO_URL.",
            )
        if answer.status_code != 200:
            return Reachability(
                False, f"{masked_url(self._url)}/health answers {answer.status_code}, not 200; check LABEL_STUDIO_URL."
            )
        return Reachability(True, f"Label Studio answers at {masked_url(self._url)}.")
