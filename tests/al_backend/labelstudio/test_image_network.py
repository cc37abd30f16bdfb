"""Where image downloads may connect to, whatever names, redirects and servers say."""

from __future__ import annotations

import gzip
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from al_backend.errors import ImageUnavailable
from al_backend.labelstudio.client import LabelStudio
from al_backend.labelstudio.image_address import HostRules
from al_backend.labelstudio.image_network import is_never_meant, is_private, is_public, plain
from al_backend.labelstudio.images import ImageSource
from al_backend.settings import load_settings

CONTENT = b"an image"
TOKEN = "0123456789abcdef0123456789abcdef01234567"


class Site:
    """A server on loopback; `answer` may be replaced, `calls` are (Host header, path, Authorization)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str | None, str, str | None]] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = plain_answer
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.calls.append((self.headers.get("Host"), self.path, self.headers.get("Authorization")))
                site.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = int(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


def plain_answer(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    handler.wfile.write(CONTENT)


def redirect(target: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


Names = dict[str, list[str]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """The internet's names: what each resolves to. With several lists, one after the other."""
    known: Names = {}
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in known:
            return real(host, port, *args, **kwargs)
        answers = known[name]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [entry for address in found.split() for entry in real(address, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return known


def make_source(folder: Path, *, label_studio: str | None = None, **settings: Any) -> ImageSource:
    client = None if label_studio is None else LabelStudio(label_studio, TOKEN, verify_ssl=False)
    known = {"image_timeout": 3.0, "image_max_mb": 1.0, "verify_ssl": False}
    return ImageSource(client, load_settings(**known | settings), folder)


# -- names that lead inwards


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "0177.0.0.1",
        "0",
        "0.0.0.0",
        "localhost",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "224.0.0.1",
        "255.255.255.255",
        "198.18.0.1",
    ],
)
def test_all_hosts_means_all_public_ones(tmp_path: Path, site: Site, host: str) -> None:
    source = make_source(tmp_path, image_hosts=("*",))
    # The reason counts, too: most of these places do not answer, which would look like a refusal.
    with pytest.raises(ImageUnavailable, match=r"which is no public address|is no valid address"):
        source.fetch(f"http://{host}:{site.port}/a.png")
    assert site.calls == []


@pytest.mark.parametrize("answer", ["127.0.0.1", "::ffff:127.0.0.1", "127.0.0.1 127.0.0.2"])
@pytest.mark.parametrize("allowed", ["img.example.org", "*.example.org", "*"])
def test_a_name_that_leads_to_this_machine(tmp_path: Path, site: Site, names: Names, allowed: str, answer: str) -> None:
    names["img.example.org"] = [answer]
    source = make_source(tmp_path, image_hosts=(allowed,))
    with pytest.raises(ImageUnavailable, match=r"img\.example\.org is at 127\.0\.0\.1, which is no public address"):
        source.fetch(f"http://img.example.org:{site.port}/a.png")
    assert site.calls == []


def test_a_name_that_means_something_else_at_the_second_asking(tmp_path: Path, site: Site, names: Names) -> None:
    """DNS rebinding: what was judged is what is connected to, because nobody asks twice."""
    names["img.example.org"] = ["127.0.0.1", "127.0.0.9"]  # nothing listens at the second one
    source = make_source(tmp_path, image_hosts=("img.example.org", "127.0.0.1"))
    assert source.fetch(f"http://img.example.org:{site.port}/a.png").read_bytes() == CONTENT
    assert names["img.example.org"] == ["127.0.0.9"], "asked once"
    # Of a new connection the new answer is judged.
    again = make_source(tmp_path / "again", image_hosts=("img.example.org", "127.0.0.1"))
    with pytest.raises(ImageUnavailable, match=r"is at 127\.0\.0\.9, which is no public address"):
        again.fetch(f"http://img.example.org:{site.port}/b.png")
    assert len(site.calls) == 1


def test_of_several_addresses_only_the_public_ones_are_tried(tmp_path: Path, site: Site, names: Names) -> None:
    names["img.example.org"] = ["127.0.0.1 8.8.8.8"]
    source = make_source(tmp_path, image_hosts=("img.example.org", "8.8.8.8"), image_timeout=0.3)
    with pytest.raises(ImageUnavailable):
        source.fetch(f"http://img.example.org:{site.port}/a.png")
    assert site.calls == []


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", ("127.0.0.1",)),
        ("127.0.0.1", ("127.0.0.0/8",)),
        ("localhost", ("localhost",)),
        ("img.example.org", ("img.example.org", "127.0.0.1")),
        ("img.example.org", ("*.example.org", "127.0.0.0/8")),
    ],
)
def test_what_the_operator_wrote_down_is_meant(
    tmp_path: Path, site: Site, names: Names, host: str, allowed: tuple[str, ...]
) -> None:
    names["img.example.org"] = ["127.0.0.1"]
    names["localhost"] = ["127.0.0.1"]
    source = make_source(tmp_path, image_hosts=allowed)
    assert source.fetch(f"http://{host}:{site.port}/a.png").read_bytes() == CONTENT
    assert site.calls == [(f"{host}:{site.port}", "/a.png", None)]


@pytest.mark.parametrize(
    ("host", "address", "allowed", "passes"),
    [
        ("minio", "172.18.0.5", ("minio",), True),  # a name of the local network
        ("minio", "172.18.0.5", ("*",), False),
        ("minio", "169.254.169.254", ("minio",), False),
        ("minio", "127.0.0.1", ("minio",), False),
        ("nas.example.org", "10.1.2.3", ("nas.example.org",), False),
        ("nas.example.org", "10.1.2.3", ("nas.example.org", "10.0.0.0/8"), True),
        ("nas.example.org", "10.1.2.3", ("nas.example.org:8443", "10.1.2.3"), True),
        ("nas.example.org", "::ffff:10.1.2.3", ("nas.example.org", "10.0.0.0/8"), True),
        ("img.example.org", "93.184.215.14", ("img.example.org",), True),
        ("img.example.org", "2606:2800:21f:cb07::1", ("img.example.org",), True),
        ("10.1.2.3", "10.1.2.3", ("10.1.2.3:8080",), True),
        ("ls.example.org", "10.1.2.3", ("ls.example.org",), False),  # as an image host, not as Label Studio
    ],
)
def test_the_judgement(host: str, address: str, allowed: tuple[str, ...], passes: bool) -> None:
    refusal = HostRules(allowed, None).judge(host, 8080, ipaddress.ip_address(address))
    assert (refusal is None) is passes
    assert passes or "AL_IMAGE_HOSTS" in str(refusal)


# -- what stands in an address besides a name


@pytest.mark.parametrize(
    "url",
    [
        "http://img.example.org@127.0.0.1:{port}/a.png",
        "http://img.example.org:80@127.0.0.1:{port}/a.png",
        "http://127.0.0.1:{port}#@img.example.org/a.png",
        "http://127.0.0.1:{port}\\@img.example.org/a.png",
        "http://127.0.0.1:{port}/@img.example.org/a.png",
        "http://img.example.org\t@127.0.0.1:{port}/a.png",
        "http://127.0.0.1%2f@img.example.org:{port}/a.png",
        "http:127.0.0.1:{port}/a.png",
        "http:///127.0.0.1:{port}/a.png",
        "//127.0.0.1:{port}/a.png",
        "ftp://img.example.org/a.png",
        "gopher://127.0.0.1:{port}/a.png",
        "file://127.0.0.1/etc/passwd",
        "unix:///run/docker.sock",
        "http+unix://%2frun%2fdocker.sock/a.png",
        "jar:http://127.0.0.1:{port}/a.png",
    ],
)
def test_tricks_with_the_address(tmp_path: Path, site: Site, names: Names, url: str) -> None:
    names["img.example.org"] = ["127.0.0.1"]
    source = make_source(tmp_path, image_hosts=("img.example.org",))
    with pytest.raises(ImageUnavailable):
        source.fetch(url.format(port=site.port))
    assert site.calls == []


@pytest.mark.parametrize("port", [22, 6379, 9090])
def test_another_port_of_an_allowed_place_is_another_place(tmp_path: Path, port: int) -> None:
    source = make_source(tmp_path, image_hosts=("127.0.0.1:8080",))
    with pytest.raises(ImageUnavailable, match=rf"127\.0\.0\.1:{port}, from which images are not read"):
        source.fetch(f"http://127.0.0.1:{port}/a.png")


# -- redirects


@pytest.mark.parametrize(
    "target",
    ["http://inside.example.org:{port}/b.png", "http://169.254.169.254/latest/meta-data", "http://[::1]:{port}/b.png"],
)
def test_a_redirect_is_resolved_and_judged_like_the_first_address(
    tmp_path: Path, site: Site, names: Names, target: str
) -> None:
    names["inside.example.org"] = ["127.0.0.1"]
    site.answer = redirect(target.format(port=site.port))
    source = make_source(tmp_path, image_hosts=(f"127.0.0.1:{site.port}", "*"))
    with pytest.raises(ImageUnavailable, match="no public address"):
        source.fetch(f"http://127.0.0.1:{site.port}/a.png")
    assert [path for _, path, _ in site.calls] == ["/a.png"]


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/latest", "http://[fd00:ec2::254]/latest", "http://0.0.0.0/x"]
)
def test_not_even_label_studio_sends_us_to_a_metadata_service(tmp_path: Path, site: Site, target: str) -> None:
    """A project's members may set its storages, and with them where Label Studio redirects to."""
    site.answer = redirect(target)
    source = make_source(tmp_path, label_studio=f"http://127.0.0.1:{site.port}")
    with pytest.raises(ImageUnavailable, match="where no storage can be"):
        source.fetch("s3://bucket/a.png", task_id=1)


def test_a_storage_may_be_anywhere_else_but_sends_nobody_on(tmp_path: Path, site: Site) -> None:
    storage = Site()
    try:
        site.answer = redirect(f"http://127.0.0.1:{storage.port}/bucket/a.png?X-Amz-Signature=x")
        source = make_source(tmp_path, label_studio=f"http://127.0.0.1:{site.port}")
        assert source.fetch("s3://bucket/a.png", task_id=1).read_bytes() == CONTENT
        storage.answer = redirect("http://127.0.0.1:9/b.png")
        with pytest.raises(ImageUnavailable, match="redirects to 127"):
            source.fetch("s3://bucket/b.png", task_id=1)
        assert [auth for _, _, auth in storage.calls] == [None, None]
    finally:
        storage.server.shutdown()
        storage.server.server_close()


# -- proxies


def test_a_proxy_of_the_environment_is_used_but_not_for_addresses_inside(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{site.port}")
    monkeypatch.setenv("no_proxy", "")
    source = make_source(tmp_path, image_hosts=("*",))
    assert source.fetch("http://img.example.org/a.png").read_bytes() == CONTENT
    assert site.calls == [("img.example.org", "http://img.example.org/a.png", None)]
    with pytest.raises(ImageUnavailable, match="no public address"):
        source.fetch("http://169.254.169.254/latest")
    assert len(site.calls) == 1


# -- servers that take time or unpack


def drip(pieces: bytes, pause: float) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        try:
            for piece in pieces:
                handler.wfile.write(bytes([piece]))
                handler.wfile.flush()
                time.sleep(pause)
        except OSError:
            return  # the client has had enough

    return answer


def test_headers_that_drip_in_are_given_up(tmp_path: Path, site: Site) -> None:
    """Every byte comes in time for a limit per wait; the whole has a limit, too."""
    site.answer = drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000, 0.05)
    source = make_source(tmp_path, image_hosts=("127.0.0.1",), image_timeout=0.5)
    began = time.monotonic()
    with pytest.raises(ImageUnavailable, match=r"took more than 0\.5 s"):
        source.fetch(f"http://127.0.0.1:{site.port}/a.png")
    assert time.monotonic() - began < 3


def test_a_chain_of_slow_redirects_is_given_up(tmp_path: Path, site: Site) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.3)
        redirect("/again")(handler)

    site.answer = answer
    source = make_source(tmp_path, image_hosts=("127.0.0.1",), image_timeout=0.5)
    began = time.monotonic()
    with pytest.raises(ImageUnavailable, match=r"took more than 0\.5 s"):
        source.fetch(f"http://127.0.0.1:{site.port}/a.png")
    assert time.monotonic() - began < 3
    assert len(site.calls) <= 3


def test_a_compressed_body_is_not_unpacked(tmp_path: Path, site: Site) -> None:
    """Asked for as it is; unpacked, the 100 kB would be 100 MB before anybody counts."""
    bomb = gzip.compress(b"\0" * 20_000_000)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        assert handler.headers["Accept-Encoding"] == "identity"
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", str(len(bomb)))
        handler.end_headers()
        handler.wfile.write(bomb)

    site.answer = answer
    source = make_source(tmp_path, image_hosts=("127.0.0.1",))
    with pytest.raises(ImageUnavailable, match="sent compressed"):
        source.fetch(f"http://127.0.0.1:{site.port}/a.png")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_endless_headers_are_cut(tmp_path: Path, site: Site) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        try:
            while True:
                handler.wfile.write(b"X-More: " + b"x" * 10_000 + b"\r\n")
        except OSError:
            return

    site.answer = answer
    source = make_source(tmp_path, image_hosts=("127.0.0.1",))
    with pytest.raises(ImageUnavailable):
        source.fetch(f"http://127.0.0.1:{site.port}/a.png")


# -- addresses


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::10.0.0.1", "10.0.0.1"),
        ("64:ff9b::a00:1", "10.0.0.1"),
        ("2002:a00:1::1", "10.0.0.1"),
        ("::1", "::1"),
        ("::", "::"),
        ("2606:2800::1", "2606:2800::1"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_addresses_inside_addresses(address: str, meant: str) -> None:
    assert plain(ipaddress.ip_address(address)) == ipaddress.ip_address(meant)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("8.8.8.8", "public"),
        ("2606:2800::1", "public"),
        ("10.0.0.1", "private"),
        ("fd12::1", "private"),
        ("192.168.0.1", "private"),
        ("127.0.0.1", ""),
        ("::1", ""),
        ("169.254.169.254", "never"),
        ("fe80::1", "never"),
        ("fd00:ec2::254", "never"),
        ("0.0.0.0", "never"),
        ("::", "never"),
        ("224.0.0.1", "never"),
        ("::ffff:169.254.169.254", "never"),
        ("255.255.255.255", ""),
    ],
)
def test_kinds_of_addresses(address: str, kind: str) -> None:
    found = ipaddress.ip_address(address)
    assert (is_public(found), is_private(found), is_never_meant(found)) == (
        kind == "public",
        kind == "private",
        kind == "never",
    )
