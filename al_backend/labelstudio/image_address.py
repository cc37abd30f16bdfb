"""What a task's image value means, and which addresses may be asked for it.

A task's data is written by people who need not be trusted with this machine's network or disk. So files of this
machine are never read, other hosts than Label Studio have to be allowed by name, and Label Studio's credentials go to
Label Studio only.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, unquote_to_bytes

import httpx

from al_backend.errors import ImageUnavailable
from al_backend.labelstudio.image_network import is_never_meant, is_private, is_public, literal, plain
from al_backend.labelstudio.transport import Transport

_CLOUD = ("s3://", "gs://", "azure-blob://", "azure_spi://")
_STORAGE = re.compile(r"/(tasks|projects)/\d+/(presign|resolve)/")
_SERVED = re.compile(rf"/data/|/storage-data/|{_STORAGE.pattern}")
_DATA_URI = re.compile(r"^data:[^,;]*(?:;[^,;]*)*?(;base64)?,", re.IGNORECASE)


@dataclass(frozen=True)
class Address:
    """Where an image is.

    Attributes:
        key: under which it is kept; the same for every way to the same file.
        url: to ask; None for a data URI.
        of_label_studio: Label Studio serves it.
        from_storage: it is in a cloud storage, to which Label Studio redirects with a signed link.
    """

    key: str
    url: str | None
    of_label_studio: bool = False
    from_storage: bool = False


def resolve(value: object, task_id: int | None, label_studio: Transport | None) -> Address:
    """The address for a task's value.

    Raises:
        ImageUnavailable: the value is none that is served; the message says which are.
    """
    if not isinstance(value, str) or not value.strip():
        raise ImageUnavailable(f"The task's image is {value!r}, expected an address.")
    value = value.strip()
    lowered = value.lower()
    if lowered.startswith("data:"):
        return Address(key=value, url=None)
    if lowered.startswith(("http://", "https://")):
        path = served_path(_parsed(value), label_studio)
        if path is None:
            return Address(value, value)
        _refuse_traversal(value)
        return Address(value, value, of_label_studio=True, from_storage=_STORAGE.match(path) is not None)
    if lowered.startswith(_CLOUD):
        base = _base(value, label_studio)
        if task_id is None:
            raise ImageUnavailable(f"{_short(value)} is in a cloud storage, which needs the task's id to be resolved.")
        encoded = base64.urlsafe_b64encode(value.encode()).decode()
        url = f"{base}/tasks/{task_id}/presign/?fileuri={encoded}"
        return Address(value, url, of_label_studio=True, from_storage=True)
    path = value if value.startswith("/") else f"/{value}"
    if label_studio is not None:
        path = _without_prefix(path, label_studio)
    if path.startswith("/upload/"):
        path = f"/data{path}"
    if _SERVED.match(path):
        base = _base(value, label_studio)
        _refuse_traversal(path)
        storage = _STORAGE.match(path) is not None
        return Address(base + path, base + path, of_label_studio=True, from_storage=storage)
    raise ImageUnavailable(
        f"The task's image is {_short(value)!r}; read are Label Studio's uploads, local files and cloud storages, "
        "http(s) addresses and data URIs, but no paths of this machine."
    )


def served_path(url: str, label_studio: Transport | None) -> str | None:
    """The path of an address at which Label Studio serves images, None for every other address.

    Only these get our credentials: at another path a task's data could make us do something in our name.
    """
    if label_studio is None or not label_studio.same_origin(url):
        return None
    path = _without_prefix(httpx.URL(url).path, label_studio)
    return path if _SERVED.match(path) else None


def decode_data_uri(value: str, max_bytes: int) -> bytes:
    """The bytes inside a data URI.

    Raises:
        ImageUnavailable: it is malformed, empty or too large.
    """
    value = value.strip()
    match = _DATA_URI.match(value)
    if match is None:
        raise ImageUnavailable(f"The task's image is the malformed data URI {_short(value)!r}.")
    if len(value) > max_bytes * 3 + match.end():  # the longest writing, percent signs, takes three characters a byte
        raise ImageUnavailable(f"The task's data URI has more than {max_bytes / 1e6:.1f} MB (AL_IMAGE_MAX_MB).")
    body = value[match.end() :]
    try:
        content = base64.b64decode(unquote(body), validate=True) if match.group(1) else unquote_to_bytes(body)
    except (binascii.Error, ValueError) as error:
        raise ImageUnavailable(f"The task's data URI is not base64: {error}.") from error
    if not content or len(content) > max_bytes:
        raise ImageUnavailable(
            f"The task's data URI has {len(content) / 1e6:.1f} MB, expected more than 0 and up to "
            f"{max_bytes / 1e6:.1f} MB (AL_IMAGE_MAX_MB)."
        )
    return content


class HostRules:
    """Which hosts images may come from: Label Studio's own address and the configured ones, and where these may be.

    Args:
        allowed: "host" (every port), "host:port", "*.domain" (its subdomains), "*" (all) or a network such as
            "10.0.0.0/8".
        label_studio: its host and port are always allowed; None when there is none.
    """

    def __init__(self, allowed: Sequence[str], label_studio: Transport | None) -> None:
        self._allowed = tuple(entry.strip().lower() for entry in allowed)
        self._own = None if label_studio is None else _host_port(httpx.URL(label_studio.url))
        self._networks = [network for entry in self._allowed if (network := _network(entry)) is not None]

    def is_own(self, url: str) -> bool:
        """Whether `url` is on Label Studio's host and port."""
        return self._own is not None and _host_port(httpx.URL(url)) == self._own

    def check(self, url: str, *, redirected_from: str | None = None) -> None:
        """Pass when `url` may be asked.

        Raises:
            ImageUnavailable: it may not; the message names the setting that allows it.
        """
        parsed = httpx.URL(_parsed(url))
        host, port = _host_port(parsed)
        via = f"{redirected_from} redirects to" if redirected_from else "The task's image is on"
        if parsed.scheme not in ("http", "https") or not host:
            raise ImageUnavailable(f"{via} {parsed.scheme}://{host}, expected http or https.")
        address = literal(host)
        if (
            (host, port) == self._own
            or any(_matches(entry, host, port) for entry in self._allowed)
            or (address is not None and self._in_networks(address))
        ):
            return
        raise ImageUnavailable(
            f"{via} {host}:{port}, from which images are not read; if it is yours, allow it with "
            f"AL_IMAGE_HOSTS='[\"{host}:{port}\"]'."
        )

    def judge(self, host: str, port: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str | None:
        """Why an allowed host must not be asked at the address that its name stands for; None when it may.

        Whoever owns a name decides where it leads. Public addresses are fine; one in a network that the operator has
        listed, too. A name without a dot is of the local network, and `localhost` is this machine, but only where the
        operator wrote that very name.
        """
        host = host.lower().rstrip(".")
        if is_public(address) or self._in_networks(address):
            return None
        if any(entry in (host, f"{host}:{port}") for entry in self._allowed):
            if literal(host) is not None:
                return None
            if plain(address).is_loopback and (host == "localhost" or host.endswith(".localhost")):
                return None
            if is_private(address) and "." not in host:
                return None
        wanted = ", ".join(dict.fromkeys((f'"{host}"', f'"{plain(address)}"')))
        return (
            f"The image's host {host} is at {plain(address)}, which is no public address; "
            "if it is yours, allow that too: "
            f"AL_IMAGE_HOSTS='[{wanted}]'."
        )

    def judge_own(self, host: str, port: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str | None:
        """Likewise for Label Studio and the storages to which it redirects: its administrators set those.

        They may be anywhere but where no image can be, such as a cloud's metadata service.
        """
        if (host.lower().rstrip("."), port) == self._own or not is_never_meant(address) or self._in_networks(address):
            return None
        return f"Label Studio redirects to {host} at {plain(address)}, where no storage can be."

    def _in_networks(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        meant = plain(address)
        return any(meant in network for network in self._networks)


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The network or single address that an entry is, None for names."""
    try:
        return ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return None


def _matches(entry: str, host: str, port: int) -> bool:
    if entry in ("*", host, f"{host}:{port}"):
        return True
    return entry.startswith("*.") and host.endswith(entry[1:])


def _host_port(url: httpx.URL) -> tuple[str, int]:
    return url.host.lower().rstrip("."), url.port or (443 if url.scheme == "https" else 80)


def _parsed(url: str) -> str:
    try:
        return str(httpx.URL(url))
    except httpx.InvalidURL as error:
        raise ImageUnavailable(f"The task's image is no valid address: {error}.") from error


def _base(value: str, label_studio: Transport | None) -> str:
    if label_studio is None:
        raise ImageUnavailable(f"{_short(value)} is served by Label Studio, and none is configured.")
    return label_studio.url


def _without_prefix(path: str, label_studio: Transport) -> str:
    """`path` as Label Studio knows it when it is served below a path of its host."""
    prefix = httpx.URL(label_studio.url).path.rstrip("/")
    return path[len(prefix) :] if prefix and path.startswith(f"{prefix}/") else path


def _refuse_traversal(address: str) -> None:
    """Refuse `..` in any writing: proxies before Label Studio may decode more than once."""
    decoded = address
    for _ in range(3):
        decoded = unquote(decoded)
    if ".." in re.split(r"[/\\?=&]", decoded) or "\\" in decoded or "\0" in decoded:
        raise ImageUnavailable(f"The task's image {_short(address)!r} leaves its folder.")


def _short(value: str) -> str:
    return value if len(value) <= 120 else f"{value[:100]}..."
