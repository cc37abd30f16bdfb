"""What protects the browsers of people who use this backend, and this backend from web pages in their browsers."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Flask, Response, request

from al_backend.http.errors import error_response
from al_backend.settings import Settings

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""On every answer, unless its view has set that header: JSON needs nothing from anywhere, and is nobody's to keep."""

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_OWN_SITE = ("same-origin", "none")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PORTS = {"http": 80, "https": 443}


def install_headers(app: Flask) -> None:
    """Put `HEADERS` on every answer of the app, errors included."""

    def add(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    app.after_request(add)


def install_origin_check(app: Flask, settings: Settings) -> None:
    """Refuse what a web page of somebody else's makes a browser send.

    A browser adds the password that it knows to any request to us, so a page could start trainings or disconnect
    projects in the name of whoever looks at it. Label Studio and programs say nothing of an origin and pass.
    """

    def check() -> Response | None:
        if request.method in _SAFE_METHODS or _from_here(settings):
            return None
        return error_response(403, "This request comes from a web page of another site, which may not use the backend.")

    app.before_request(check)


def install_host_check(app: Flask, settings: Settings) -> None:
    """Let only this machine's own names reach an open backend that listens on this machine alone.

    A web page can have its own name resolved to 127.0.0.1, after which the browser takes us for that page's server.
    A password stops it, because the browser knows none for that name; without one the name has to.
    """
    if settings.auth_required or settings.host not in _LOOPBACK:
        return
    public = _place(settings.own_url)

    def check() -> Response | None:
        asked = _place(f"{request.scheme}://{request.host}")
        name = None if asked is None else asked[0]
        if name is not None and (name in _LOOPBACK or name.endswith(".localhost") or (public and name == public[0])):
            return None
        return error_response(
            403,
            "An open backend on this machine answers to localhost and to AL_PUBLIC_URL's host only; "
            "set that, or BASIC_AUTH_USER and BASIC_AUTH_PASS.",
        )

    app.before_request(check)


def _from_here(settings: Settings) -> bool:
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in _OWN_SITE
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    # Without Sec-Fetch-Site, which browsers leave out on plain HTTP, the origin has to be the address that was asked,
    # or the one under which a proxy shows us.
    asked = f"{request.scheme}://{request.host}"
    return _place(origin) in {_place(asked), _place(settings.own_url)} - {None}


def _place(url: str) -> tuple[str, int] | None:
    """Host and port; None for `null` and for what is no address."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    return None if not parts.hostname or port is None else (parts.hostname.lower(), port)
