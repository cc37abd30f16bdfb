"""Actions only from our own pages: their forms carry a token that other sites cannot know.

What a browser says of the sender (`Sec-Fetch-Site`, `Origin`) is checked for the whole app (`al_backend.http.browser`).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
import time
from pathlib import Path

from flask import Request

from al_backend.errors import BackendError
from al_backend.settings import Settings

FIELD = "csrf_token"
_VALID_SECONDS = 12 * 3600
_SECRET_FILE = "dashboard-secret"


class Forbidden(BackendError):
    """A request that did not come from one of our pages; nothing was done."""


class Csrf:
    """Makes and checks tokens; every process of one server knows the same secret.

    With a password the secret is derived from it, so that servers on several machines agree. Without one it is a file
    in the data folder that only its owner can read.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept: bytes | None = None

    def token(self) -> str:
        """For the forms of a page; good for twelve hours."""
        return self._signed(int(time.time()))

    def check(self, request: Request) -> None:
        """Let a request pass that one of our pages sent.

        Raises:
            Forbidden: the token is missing, wrong or too old.
        """
        given = request.form.get(FIELD, "")
        made, _, _ = given.partition(".")
        if (
            not made.isdigit()
            or len(made) > 12
            or not hmac.compare_digest(given.encode(), self._signed(int(made)).encode())
        ):
            raise Forbidden("The form has no valid token. Open the page again and use its buttons.")
        if not 0 <= time.time() - int(made) <= _VALID_SECONDS:
            raise Forbidden("The page was open for too long. Open it again and repeat what you wanted to do.")

    def _signed(self, moment: int) -> str:
        digest = hmac.new(self._secret(), f"dashboard {moment}".encode(), hashlib.sha256).hexdigest()
        return f"{moment}.{digest}"

    def _secret(self) -> bytes:
        if self._kept is None:
            password = self._settings.basic_auth_pass
            if password is not None and password.get_secret_value():
                self._kept = hmac.new(password.get_secret_value().encode(), b"al-backend csrf", hashlib.sha256).digest()
            else:
                self._kept = _secret_of(self._settings.data_dir)
        return self._kept


def _secret_of(folder: Path) -> bytes:
    """The secret that the processes of this machine share, made by the first of them."""
    path = folder / _SECRET_FILE
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        handle, name = tempfile.mkstemp(dir=folder, prefix=f".{_SECRET_FILE}")  # readable by its owner alone
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(name, path)
        except FileExistsError:
            pass  # another process was first, and its secret is the one
        finally:
            os.unlink(name)
    return path.read_bytes()
