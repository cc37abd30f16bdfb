"""Connections for image downloads: to addresses that were looked at, and never for longer than agreed.

A host's name says little: its owner may let it stand for 127.0.0.1 or for a cloud's metadata service, and for another
address at the second asking than at the first. So names are resolved here, every answer is judged, and the connection
goes to the very address that passed.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from al_backend.errors import ImageUnavailable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Judge = Callable[[str, int, Address], str | None]
"""Why a connection to (host, port, address) is refused; None when it is not."""

_METADATA = ipaddress.ip_address("fd00:ec2::254")  # the one metadata service outside the link-local addresses
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 one carries (mapped, compatible, 6to4, Teredo, NAT64), else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    number = int(address)
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or 1 < number < 1 << 32:
        return ipaddress.IPv4Address(number & 0xFFFFFFFF)
    return address


def literal(host: str) -> Address | None:
    """The address that `host` is, None for a name."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Whether anyone on the internet could be there."""
    address = plain(address)
    return address.is_global and not (address.is_multicast or address.is_reserved or address == _METADATA)


def is_private(address: Address) -> bool:
    """Whether it is of a local network: neither public, nor this machine, nor of those with a special meaning."""
    address = plain(address)
    special = (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address.is_reserved
        or address == _METADATA
    )
    return address.is_private and not special


def is_never_meant(address: Address) -> bool:
    """Whether no image can be there, whoever sends us: link-local (cloud metadata), unspecified, multicast."""
    address = plain(address)
    return address.is_link_local or address.is_unspecified or address.is_multicast or address == _METADATA


class Deadline:
    """When the download that a thread works on has to be over; every wait on the network ends then."""

    def __init__(self) -> None:
        self._here = threading.local()

    @contextmanager
    def within(self, moment: float) -> Iterator[None]:
        """Bound the waits of this thread by `moment`, of the monotonic clock, while the block runs."""
        self._here.moment = moment
        try:
            yield
        finally:
            del self._here.moment

    def left(self, timeout: float | None, error: type[Exception]) -> float | None:
        """Seconds that a wait of `timeout` may still take; raises `error` when there are none."""
        moment: float | None = getattr(self._here, "moment", None)
        if moment is None:
            return timeout
        seconds = moment - time.monotonic()
        if seconds <= 0:
            raise error("the time for this image is over")
        return seconds if timeout is None else min(seconds, timeout)


class JudgedNetwork(httpcore.NetworkBackend):
    """Connects to addresses that the judge lets pass.

    Args:
        judge: of every address.
        deadline: of the downloads.
    """

    def __init__(self, judge: Judge, deadline: Deadline) -> None:
        self._judge = judge
        self._deadline = deadline
        self._network = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Resolve, judge, connect.

        Raises:
            ImageUnavailable: no address of the host is allowed.
        """
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in self._allowed(host, port):
            try:
                stream = self._network.connect_tcp(
                    address, port, self._deadline.left(timeout, httpcore.ConnectTimeout), local_address, socket_options
                )
            except httpcore.ConnectError as error:
                failure = error
                continue
            return _BoundedStream(stream, self._deadline)
        raise failure

    def _allowed(self, host: str, port: int) -> Sequence[str]:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved ({error})") from error
        answers = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        verdicts = [(answer, self._judge(host, port, ipaddress.ip_address(answer))) for answer in answers]
        passed = [answer for answer, refusal in verdicts if refusal is None]
        refusals = [refusal for _, refusal in verdicts if refusal is not None]
        if refusals and not passed:
            raise ImageUnavailable(refusals[0])
        return passed


class _BoundedStream(httpcore.NetworkStream):
    """A stream whose waits end with the deadline, so that a server that drips bytes gains nothing."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        seconds = self._deadline.left(timeout, httpcore.ConnectTimeout)
        return _BoundedStream(self._stream.start_tls(ssl_context, server_hostname, seconds), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class JudgedTransport(httpx.BaseTransport):
    """httpx over a `JudgedNetwork`; httpx itself has no place to put one.

    Where the environment names a proxy (`HTTPS_PROXY`, `NO_PROXY`), names are resolved by that one, and it decides
    which addresses can be reached; only addresses that stand in the URL itself are judged here.

    Args:
        judge: of every address.
        deadline: of the downloads.
        context: for TLS; certificates are checked against the host's name, whatever address it has.
    """

    def __init__(self, judge: Judge, deadline: Deadline, context: ssl.SSLContext) -> None:
        self._judge = judge
        self._pool = httpcore.ConnectionPool(
            ssl_context=context, max_connections=32, network_backend=JudgedNetwork(judge, deadline)
        )
        named = getproxies()
        proxies = {scheme: named.get(scheme) or named.get("all") for scheme in ("http", "https")}
        self._proxies = {
            scheme: httpx.HTTPTransport(verify=context, proxy=proxy) for scheme, proxy in proxies.items() if proxy
        }

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; the body of the answer is read later, in the same terms."""
        url = request.url
        proxy = self._proxies.get(url.scheme)
        if proxy is not None and not proxy_bypass(url.host):
            self._judge_literal(url)
            return proxy.handle_request(request)
        asked = httpcore.Request(
            method=request.method,
            url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _as_httpx():
            answer = self._pool.handle_request(asked)
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer), extensions=answer.extensions)

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()
        for proxy in self._proxies.values():
            proxy.close()

    def _judge_literal(self, url: httpx.URL) -> None:
        address = literal(url.host)
        refusal = None if address is None else self._judge(url.host, url.port or 0, address)
        if refusal is not None:
            raise ImageUnavailable(refusal)


class _Body(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx():
            yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


@contextmanager
def _as_httpx() -> Iterator[None]:
    try:
        yield
    except httpcore.TimeoutException as error:
        raise httpx.ReadTimeout(str(error)) from error
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError, httpcore.UnsupportedProtocol) as error:
        raise httpx.TransportError(str(error) or type(error).__name__) from error
