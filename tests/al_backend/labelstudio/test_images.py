"""Downloads from servers that behave and from servers that do not."""

from __future__ import annotations

import base64
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from al_backend.errors import ImageUnavailable
from al_backend.labelstudio import images, silent_hosts
from al_backend.labelstudio.client import LabelStudio
from al_backend.labelstudio.image_address import HostRules
from al_backend.labelstudio.image_cache import ImageCache
from al_backend.labelstudio.images import ImageSource
from al_backend.settings import load_settings

TOKEN = "0123456789abcdef0123456789abcdef01234567"
CONTENT = b"any bytes: whether they are an image is the loader's business"

Answer = Callable[[BaseHTTPRequestHandler], None]


class Site:
    """A web server on loopback: path -> what it does; it notes (path with query, Authorization)."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.calls: list[tuple[str, str | None]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.calls.append((self.path, self.headers.get("Authorization")))
                answer = site.answers.get(urlsplit(self.path).path)
                if answer is None:
                    self.send_error(404)
                else:
                    answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        self.url = f"http://{self.host}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def serve(self, path: str, answer: Answer) -> str:
        self.answers[path] = answer
        return self.url + path


def body(content: bytes = CONTENT, status: int = 200) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def redirect(target: str, status: int = 302) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def endless(pause: float = 0.0) -> Answer:
    """A body without an announced length that does not end."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * (10 if pause else 100_000))
                time.sleep(pause)
        except OSError:
            return  # the client has had enough

    return answer


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture
def label_studio_site() -> Iterator[Site]:
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture
def source(tmp_path: Path, site: Site, label_studio_site: Site) -> ImageSource:
    """Allowed: Label Studio and `site`."""
    return make_source(tmp_path / "cache", label_studio_site, image_hosts=(site.host,))


def make_source(folder: Path, label_studio_site: Site | None, **settings: Any) -> ImageSource:
    # Loading the certificates of the world takes a tenth of a second, and no test here uses TLS.
    client = None if label_studio_site is None else LabelStudio(label_studio_site.url, TOKEN, verify_ssl=False)
    known = {"image_timeout": 5.0, "image_max_mb": 1.0, "verify_ssl": False}
    return ImageSource(client, load_settings(**known | settings), folder)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# -- where images are


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("/data/upload/3/a.png", "/data/upload/3/a.png"),
        ("data/upload/3/a.png", "/data/upload/3/a.png"),
        ("upload/3/a.png", "/data/upload/3/a.png"),
        (" /data/upload/3/a..b.png ", "/data/upload/3/a..b.png"),
        ("/data/local-files/?d=some%20folder/a.png", "/data/local-files/?d=some%20folder/a.png"),
        ("/storage-data/uploaded/?filepath=upload/3/a.png", "/storage-data/uploaded/?filepath=upload/3/a.png"),
        ("/tasks/5/presign/?fileuri=czM6Ly9i", "/tasks/5/presign/?fileuri=czM6Ly9i"),
    ],
)
def test_what_label_studio_serves(source: ImageSource, label_studio_site: Site, value: str, path: str) -> None:
    label_studio_site.serve(urlsplit(path).path, body())
    assert source.fetch(value).read_bytes() == CONTENT
    assert label_studio_site.calls == [(path, f"Token {TOKEN}")]


def test_an_address_below_a_path_of_the_host(tmp_path: Path, label_studio_site: Site) -> None:
    client = LabelStudio(f"{label_studio_site.url}/ls/", TOKEN)
    source = ImageSource(client, load_settings(), tmp_path)
    label_studio_site.serve("/ls/data/upload/1/a.png", body())
    values = ["/data/upload/1/a.png", "/ls/data/upload/1/a.png", f"{label_studio_site.url}/ls/data/upload/1/a.png"]
    assert len({source.fetch(value) for value in values}) == 1
    assert label_studio_site.calls == [("/ls/data/upload/1/a.png", f"Token {TOKEN}")]


@pytest.mark.parametrize("scheme", ["s3", "gs", "azure-blob"])
def test_cloud_storages_go_through_label_studio(
    source: ImageSource, label_studio_site: Site, scheme: str, tmp_path: Path
) -> None:
    cloud = Site()  # not among the allowed hosts: Label Studio's administrators have set it
    cloud.serve("/bucket/fish.jpg", body())
    label_studio_site.serve("/tasks/7/presign/", redirect(f"{cloud.url}/bucket/fish.jpg?signature=secret", 303))
    value = f"{scheme}://bucket/fish.jpg"
    path = source.fetch(value, task_id=7)
    assert path.read_bytes() == CONTENT
    assert path.suffix == ".jpg"
    asked = parse_qs(urlsplit(label_studio_site.calls[0][0]).query)["fileuri"][0]
    assert base64.urlsafe_b64decode(asked).decode() == value
    assert cloud.calls == [("/bucket/fish.jpg?signature=secret", None)]
    assert source.fetch(value, task_id=8) == path
    with pytest.raises(ImageUnavailable, match="needs the task's id"):
        source.fetch(f"{scheme}://bucket/other.jpg")
    cloud.server.shutdown()
    cloud.server.server_close()


def test_a_storage_without_the_file_says_so(source: ImageSource) -> None:
    with pytest.raises(ImageUnavailable, match=r"answered 404; no storage of the project covers it\.$"):
        source.fetch("s3://bucket/none.jpg", task_id=7)


@pytest.mark.parametrize(
    "value",
    [
        f"data:image/png;base64,{base64.b64encode(CONTENT).decode()}",
        "data:,any%20bytes",
        "DATA:image/x;a=b;base64,AAAA",
    ],
)
def test_data_uris(source: ImageSource, value: str) -> None:
    first = source.fetch(value)
    assert first.read_bytes() in (CONTENT, b"any bytes", b"\0\0\0")
    assert source.fetch(value) == first


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "expected an address"),
        (None, "expected an address"),
        (["a.png"], "expected an address"),
        ("file:///etc/passwd", "no paths of this machine"),
        ("/etc/passwd", "no paths of this machine"),
        ("etc/passwd", "no paths of this machine"),
        ("C:\\images\\a.png", "no paths of this machine"),
        ("//evil.test/data/a.png", "no paths of this machine"),
        ("ftp://x.test/a.png", "no paths of this machine"),
        ("/api/users", "no paths of this machine"),
        ("/tasks/5/", "no paths of this machine"),
        ("/data/upload/../../api/users", "leaves its folder"),
        ("/data/%2e%2e/api", "leaves its folder"),
        ("/data/%252e%252e/api", "leaves its folder"),
        ("/data/..\\x", "leaves its folder"),
        ("/data/local-files/?d=../secret.png", "leaves its folder"),
        ("/data/local-files/?d=a/%2e%2e/b.png", "leaves its folder"),
        ("http://", "no valid address|expected http"),
        ("http://[::1", "no valid address"),
        ("data:image/png;base64", "malformed data URI"),
        ("data:image/png;base64,???", "not base64"),
        ("data:,", "expected more than 0"),
        ("data:," + "x" * 1_000_001, "up to 1.0 MB"),
        ("data:," + "x" * 4_000_000, "more than 1.0 MB"),
    ],
)
def test_values_that_are_refused(source: ImageSource, label_studio_site: Site, value: Any, reason: str) -> None:
    with pytest.raises(ImageUnavailable, match=reason) as error:
        source.fetch(value, task_id=1)
    assert str(error.value).endswith(".")
    assert len(str(error.value)) < 400
    assert label_studio_site.calls == []


@pytest.mark.parametrize("value", ["/data/upload/1/a.png", "s3://bucket/a.png"])
def test_without_label_studio_its_images_cannot_be_had(tmp_path: Path, value: str) -> None:
    with pytest.raises(ImageUnavailable, match="served by Label Studio, and none is configured"):
        make_source(tmp_path, None).fetch(value, task_id=1)


# -- hosts and credentials


def test_other_hosts_get_no_credentials(source: ImageSource, site: Site) -> None:
    assert source.fetch(site.serve("/a.png", body())).read_bytes() == CONTENT
    assert site.calls == [("/a.png", None)]


def test_label_studios_other_paths_get_no_credentials(source: ImageSource, label_studio_site: Site) -> None:
    source.fetch(label_studio_site.serve("/api/projects/1/next/", body()))
    assert label_studio_site.calls == [("/api/projects/1/next/", None)]


def test_a_host_that_is_not_allowed(tmp_path: Path, site: Site, label_studio_site: Site) -> None:
    source = make_source(tmp_path, label_studio_site)
    with pytest.raises(
        ImageUnavailable, match=rf"The task's image is on {site.host}, .*AL_IMAGE_HOSTS='\[\"{site.host}\"\]'"
    ):
        source.fetch(site.serve("/a.png", body()))
    assert site.calls == []


def test_every_redirect_is_checked(tmp_path: Path, site: Site, label_studio_site: Site) -> None:
    foreign = Site()
    source = make_source(tmp_path, label_studio_site, image_hosts=(site.host,))
    foreign.serve("/a.png", body())
    site.serve("/there", redirect(f"{foreign.url}/a.png"))
    with pytest.raises(ImageUnavailable, match=rf"{site.url}/here redirects to {foreign.host}"):
        source.fetch(site.serve("/here", redirect(f"{foreign.url}/a.png?secret=1")))
    with pytest.raises(ImageUnavailable, match=rf"{site.url}/there redirects to {foreign.host}"):
        source.fetch(site.serve("/first", redirect("/there")))
    with pytest.raises(ImageUnavailable, match="redirects to file://"):
        source.fetch(site.serve("/file", redirect("file:///etc/passwd")))
    label_studio_site.serve("/data/upload/1/a.png", redirect(f"{foreign.url}/a.png"))
    with pytest.raises(ImageUnavailable, match=rf"redirects to {foreign.host}"):
        source.fetch("/data/upload/1/a.png")
    assert foreign.calls == []
    foreign.server.shutdown()
    foreign.server.server_close()


def test_redirects_within_the_rules_are_followed_without_credentials(
    source: ImageSource, site: Site, label_studio_site: Site
) -> None:
    site.serve("/a.png", body())
    label_studio_site.serve("/data/upload/1/a.png", redirect(f"{site.url}/a.png"))
    assert source.fetch("/data/upload/1/a.png").read_bytes() == CONTENT
    assert label_studio_site.calls == [("/data/upload/1/a.png", f"Token {TOKEN}")]
    assert site.calls == [("/a.png", None)]


def test_a_circle_of_redirects_ends(source: ImageSource, site: Site) -> None:
    with pytest.raises(ImageUnavailable, match="redirects more than 5 times"):
        source.fetch(site.serve("/round", redirect("/round")))


def test_a_login_page_is_not_an_image(source: ImageSource, label_studio_site: Site) -> None:
    label_studio_site.serve("/data/upload/1/a.png", redirect("/user/login/?next=/data/upload/1/a.png"))
    with pytest.raises(ImageUnavailable, match=r"asks for a login .*LABEL_STUDIO_API_KEY"):
        source.fetch("/data/upload/1/a.png")


@pytest.mark.parametrize(
    ("allowed", "url", "passes"),
    [
        (("img.test",), "http://img.test/a", True),
        (("img.test",), "https://IMG.test:8443/a", True),
        (("img.test:80",), "http://img.test/a", True),
        (("img.test:80",), "https://img.test/a", False),
        (("*.test",), "http://a.b.test/", True),
        (("*.test",), "http://test/", False),
        (("*.test",), "http://eviltest/", False),
        (("img.test",), "http://img.test.evil/", False),
        (("img.test",), "http://img.test@evil.test/", False),
        (("*",), "http://10.0.0.1/", True),
        ((), "http://ls.test:8080/x", True),
        ((), "http://ls.test/x", False),
        ((), "https://ls.test:8080/x", True),
    ],
)
def test_host_rules(allowed: tuple[str, ...], url: str, passes: bool) -> None:
    rules = HostRules(allowed, LabelStudio("http://ls.test:8080", TOKEN, verify_ssl=False))
    if passes:
        rules.check(url)
    else:
        with pytest.raises(ImageUnavailable, match="AL_IMAGE_HOSTS"):
            rules.check(url)


# -- servers that misbehave


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_refusals_name_the_status_and_hide_the_query(source: ImageSource, site: Site, status: int) -> None:
    url = site.serve("/a.png", body(status=status))
    with pytest.raises(ImageUnavailable, match=rf"^{url} answered {status}\.$"):
        source.fetch(f"{url}?signature=secret")
    assert len(site.calls) == 1


def test_label_studios_refusal_has_a_hint(source: ImageSource, label_studio_site: Site) -> None:
    label_studio_site.serve("/data/local-files/", body(status=403))
    with pytest.raises(ImageUnavailable, match=r"local-files/\?d=a\.png answered 403; .*LABEL_STUDIO_API_KEY"):
        source.fetch("/data/local-files/?d=a.png")


def test_a_server_that_recovers(source: ImageSource, site: Site) -> None:
    answers = [body(status=503), body()]
    url = site.serve("/a.png", lambda handler: answers.pop(0)(handler))
    assert source.fetch(url).read_bytes() == CONTENT


def test_a_server_that_stays_overloaded(source: ImageSource, site: Site) -> None:
    url = site.serve("/a.png", body(status=503))
    with pytest.raises(ImageUnavailable, match="answered 503"):
        source.fetch(url)
    assert len(site.calls) == 3


@pytest.mark.parametrize(("health", "passing"), [(200, False), (500, True), (404, True)])
def test_500_for_an_upload_is_a_last_word_while_label_studio_is_well(
    source: ImageSource, label_studio_site: Site, health: int, passing: bool
) -> None:
    # It answers so for uploads that it does not know; to wait for one would hold up every ranking.
    label_studio_site.serve("/data/upload/3/gone.png", body(status=500))
    label_studio_site.serve("/health", body(status=health))
    with pytest.raises(ImageUnavailable, match="answered 500") as caught:
        source.fetch("/data/upload/3/gone.png")
    assert caught.value.passing is passing


def test_another_servers_trouble_may_pass(source: ImageSource, site: Site, label_studio_site: Site) -> None:
    label_studio_site.serve("/health", body())
    with pytest.raises(ImageUnavailable) as caught:
        source.fetch(site.serve("/a.png", body(status=503)))
    assert caught.value.passing


def test_an_announced_size_over_the_limit_is_not_read(source: ImageSource, site: Site, tmp_path: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "123456789")
        handler.end_headers()

    with pytest.raises(ImageUnavailable, match=r"has 123\.5 MB; images of up to 1\.0 MB are read \(AL_IMAGE_MAX_MB\)"):
        source.fetch(site.serve("/a.png", answer))
    assert files_in(tmp_path) == []


def test_an_endless_body_is_cut(source: ImageSource, site: Site, tmp_path: Path) -> None:
    with pytest.raises(ImageUnavailable, match=r"has more than 1\.0 MB"):
        source.fetch(site.serve("/a.png", endless()))
    assert files_in(tmp_path) == []


def test_a_dripping_body_is_given_up(tmp_path: Path, site: Site) -> None:
    source = make_source(tmp_path, None, image_hosts=("127.0.0.1",), image_timeout=0.5)
    started = time.monotonic()
    with pytest.raises(ImageUnavailable, match=r"took more than 0\.5 s"):
        source.fetch(site.serve("/a.png", endless(pause=0.05)))
    assert time.monotonic() - started < 5
    assert files_in(tmp_path) == []


def test_a_silent_server_is_given_up(tmp_path: Path, site: Site) -> None:
    source = make_source(tmp_path, None, image_hosts=("127.0.0.1",), image_timeout=0.5)
    quiet = threading.Event()

    def silent(handler: BaseHTTPRequestHandler) -> None:
        quiet.wait(5)

    started = time.monotonic()
    with pytest.raises(ImageUnavailable, match="took more than"):
        source.fetch(site.serve("/a.png", silent))
    assert time.monotonic() - started < 5
    quiet.set()


def test_a_redirect_to_nowhere_is_a_reason_and_not_an_error(source: ImageSource, site: Site) -> None:
    bad = site.serve("/bad.png", body(status=302))
    good = site.serve("/good.png", body())
    found = source.fetch_many([(1, bad), (2, good)])
    assert isinstance(found[1], ImageUnavailable)
    assert "answered 302" in str(found[1])
    assert isinstance(found[2], Path)


def test_whatever_happens_to_one_image_the_others_are_had(
    source: ImageSource, site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = source.fetch

    def fetch(value: str, *, task_id: int | None = None) -> Path:
        if task_id == 1:
            raise KeyError("location")
        if task_id == 2:
            raise OSError(28, "No space left on device")
        return whole(value, task_id=task_id)

    monkeypatch.setattr(source, "fetch", fetch)
    url = site.serve("/good.png", body())
    found = source.fetch_many([(number, url) for number in (1, 2, 3)])
    odd, full = found[1], found[2]
    assert isinstance(odd, ImageUnavailable)
    assert (str(odd), odd.passing) == ("The image cannot be had: KeyError: 'location'.", False)
    assert isinstance(full, ImageUnavailable)
    assert full.passing
    assert "No space left" in str(full)
    assert isinstance(found[3], Path)
    assert "Traceback" in caplog.text


@pytest.fixture
def dead_host() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_dead_host_costs_a_shard_no_more_than_a_few_time_limits(tmp_path: Path, site: Site, dead_host: str) -> None:
    source = make_source(tmp_path, None, image_hosts=(dead_host, site.host), image_timeout=0.5)
    lost = [(number, f"http://{dead_host}/{number}.png") for number in range(60)]
    good = [(100 + number, site.serve(f"/{number}.png", body())) for number in range(5)]
    started = time.monotonic()
    found = source.fetch_many([*lost, *good], threads=4)
    assert time.monotonic() - started < 4, "one after the other they take 7.5 s"
    reasons = [found[number] for number, _ in lost]
    assert all(isinstance(reason, ImageUnavailable) and reason.passing for reason in reasons)
    spared = [str(reason) for reason in reasons if "was not asked for" in str(reason)]
    assert len(spared) >= 50
    assert f"{dead_host} did not answer" in spared[0]
    assert all(isinstance(found[number], Path) for number, _ in good)


def test_a_host_that_answers_again_is_asked_for_all_its_images(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(tmp_path, None, image_hosts=(site.host,), image_timeout=0.4)
    quiet = threading.Event()
    url = site.serve("/a.png", lambda handler: (quiet.wait(1), body()(handler))[1])
    monkeypatch.setattr(silent_hosts, "LIMIT", 1)
    with pytest.raises(ImageUnavailable, match="took more than"):
        source.fetch(url)
    quiet.set()
    with pytest.raises(ImageUnavailable, match=r"was not asked for: .* did not answer 1 requests in a row") as told:
        source.fetch(url)
    assert told.value.passing
    moment = time.monotonic() + silent_hosts.PAUSE
    monkeypatch.setattr(silent_hosts.time, "monotonic", lambda: moment)
    monkeypatch.setattr(images.time, "monotonic", lambda: moment)
    assert source.fetch(url).read_bytes() == CONTENT
    assert source.fetch(site.serve("/b.png", body())).read_bytes() == CONTENT


def test_a_body_that_breaks_off_is_not_kept(source: ImageSource, site: Site, tmp_path: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"half")

    with pytest.raises(ImageUnavailable, match="cannot be read"):
        source.fetch(site.serve("/a.png", answer))
    assert files_in(tmp_path) == []


def test_an_empty_body(source: ImageSource, site: Site) -> None:
    with pytest.raises(ImageUnavailable, match="is an empty file"):
        source.fetch(site.serve("/a.png", body(b"")))


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    source = make_source(tmp_path, None, image_hosts=("127.0.0.1",))
    with pytest.raises(ImageUnavailable, match=r"http://127\.0\.0\.1:9/a\.png cannot be read"):
        source.fetch("http://127.0.0.1:9/a.png")


# -- the cache, and many at once


def test_a_kept_file_is_not_asked_for_again(source: ImageSource, site: Site) -> None:
    url = site.serve("/a.png", body())
    assert source.fetch(url) == source.fetch(url)
    assert len(site.calls) == 1


def test_many_at_once_with_reasons_for_the_others(source: ImageSource, site: Site) -> None:
    items = [(number, site.serve(f"/{number}.png", body(str(number).encode()))) for number in range(20)]
    found = source.fetch_many([*items, (98, "/etc/passwd"), (99, f"{site.url}/none.png")], threads=4)
    assert list(found) == [*range(20), 98, 99]
    for number in range(20):
        path = found[number]
        assert isinstance(path, Path)
        assert path.read_text() == str(number)
    assert isinstance(found[98], ImageUnavailable)
    assert isinstance(found[99], ImageUnavailable)
    assert "404" in str(found[99])
    assert source.fetch_many([]) == {}


def test_one_file_asked_for_by_many_threads_is_whole(source: ImageSource, site: Site, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    url = site.serve("/a.png", body(content))
    found = source.fetch_many([(number, url) for number in range(16)], threads=16)
    assert {path.read_bytes() for path in found.values() if isinstance(path, Path)} == {content}
    assert len(files_in(tmp_path)) == 1


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path, 1000)
    now = time.time()
    for number in range(12):
        with cache.writing(f"http://x.test/{number}") as (file, path):
            file.write(b"x" * 100)
        # all older than what counts as in use, and the first the most recently used one
        os.utime(path, (now - 1000 + number, now - (400 if number == 0 else 1000 - number)))
    kept = [number for number in range(12) if cache.find(f"http://x.test/{number}")]
    assert kept[0] == 0
    assert 1 not in kept
    assert kept[-1] == 11
    assert sum(path.stat().st_size for path in files_in(tmp_path)) <= 1000


def test_files_in_use_stay_beyond_the_limit(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path, 0)
    for number in range(3):
        with cache.writing(str(number)) as (file, _):
            file.write(b"x" * 100)
    assert all(cache.find(str(number)) for number in range(3))


def test_leftovers_of_a_crash_are_removed(tmp_path: Path) -> None:
    old, fresh = tmp_path / "ab" / "old.part", tmp_path / "ab" / "fresh.part"
    old.parent.mkdir()
    for path in (old, fresh):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    with ImageCache(tmp_path, 10).writing("a") as (file, _):
        file.write(b"x")
    assert not old.exists()
    assert fresh.exists()


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path, 1000)

    def fail() -> None:
        with cache.writing("a") as (file, _):
            file.write(b"x")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert files_in(tmp_path) == []
    assert cache.find("a") is None


@pytest.mark.parametrize(
    ("address", "suffix"),
    [
        ("http://x/a.JPG?sig=1.png", ".jpg"),
        ("http://x/data/local-files/?d=b/a.jpeg", ".jpeg"),
        ("http://x/a.php", ""),
        ("data:,x", ""),
        ("http://x/", ""),
    ],
)
def test_the_suffix_is_kept(tmp_path: Path, address: str, suffix: str) -> None:
    with ImageCache(tmp_path, 1000).writing(address) as (file, path):
        file.write(b"x")
    assert path.suffix == suffix
