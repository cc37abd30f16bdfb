"""The image behind a task: where it is, whether we may go there, and its bytes on disk.

The SDK's downloader has no size limit and no timeout, follows any address, and reuses half-written files; see
`image_address.py` for what is allowed here.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from al_backend.errors import ImageUnavailable, LabelStudioError
from al_backend.labelstudio.image_address import Address, HostRules, decode_data_uri, resolve, served_path
from al_backend.labelstudio.image_cache import ImageCache
from al_backend.labelstudio.image_network import Deadline, Judge, JudgedTransport
from al_backend.labelstudio.silent_hosts import HostIsSilent, SilentHosts
from al_backend.labelstudio.transport import NoToken, Transport

if TYPE_CHECKING:
    from al_backend.settings import Settings

logger = logging.getLogger(__name__)

_MAX_REDIRECTS = 5
_TRIES = 3
_HEALTH_SECONDS = 5.0
_BACKOFF_SECONDS = 0.3
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}


class _Passing(Exception):
    """A failure that may be over at the next try; its text ends up in the reason."""


class ImageSource:
    """Images of tasks as files on this machine; safe to share between threads.

    Args:
        label_studio: whose uploads and storages are meant, and whose key is used for them; None when there is none.
        settings: `image_hosts`, `image_max_mb`, `image_timeout`, `cache_mb`, `verify_ssl`.
        cache_folder: where downloaded files are kept.
    """

    def __init__(self, label_studio: Transport | None, settings: Settings, cache_folder: Path) -> None:
        self._label_studio = label_studio
        self._rules = HostRules(settings.image_hosts, label_studio)
        self._max_bytes = int(settings.image_max_mb * 1_000_000)
        self._timeout = settings.image_timeout
        self._cache = ImageCache(Path(cache_folder), settings.cache_mb * 1_000_000)
        self._deadline = Deadline()
        self._silent = SilentHosts()
        context = httpx.create_ssl_context(verify=settings.verify_ssl)
        self._listed = self._client(context, self._rules.judge)
        self._own = self._client(context, self._rules.judge_own)

    def close(self) -> None:
        """Close the connections; the object cannot be used afterwards."""
        self._listed.close()
        self._own.close()

    def _client(self, context: ssl.SSLContext, judge: Judge) -> httpx.Client:
        """Over a network of its own: a connection that one judge let pass is not for the other's requests."""
        return httpx.Client(
            timeout=self._timeout,
            transport=JudgedTransport(judge, self._deadline, context),
            headers={"Accept-Encoding": "identity", "User-Agent": "al-backend"},
        )

    def fetch(self, value: str, *, task_id: int | None = None) -> Path:
        """The file of one image, downloaded when it is not kept yet. Whether it is an image is not looked at.

        Args:
            value: what the task's data says.
            task_id: needed for cloud storage addresses, which Label Studio resolves per task.

        Raises:
            ImageUnavailable: it cannot be had; the message is a sentence about why.
        """
        address = resolve(value, task_id, self._label_studio)
        kept = self._cache.find(address.key)
        if kept is not None:
            return kept
        if address.url is None:
            return self._store_data_uri(value, address)
        self._rules.check(address.url)
        reason, answered = "", False
        deadline = time.monotonic() + self._timeout
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_BACKOFF_SECONDS * attempt)
            try:
                with self._deadline.within(deadline):
                    return self._download(address, deadline)
            except HostIsSilent as silence:
                raise ImageUnavailable(f"{_shown(address.url)} was not asked for: {silence}", passing=True) from silence
            except _Passing as failure:
                reason, answered = str(failure), True
            except httpx.TimeoutException:
                reason, answered = self._too_slow(address), False
            except httpx.HTTPError as error:
                reason, answered = f"{_shown(address.url)} cannot be read: {str(error) or type(error).__name__}.", False
            if time.monotonic() >= deadline:
                break
        raise ImageUnavailable(reason, passing=not self._is_last_word(address), lost=answered)

    def _is_last_word(self, address: Address) -> bool:
        """Whether waiting is of no use: Label Studio is well, and answers 500 for uploads that it does not know."""
        url = str(address.url)
        if self._label_studio is None or served_path(url, self._label_studio) is None:
            return False
        try:
            with self._deadline.within(time.monotonic() + _HEALTH_SECONDS):
                return self._own.get(f"{self._label_studio.url}/health").status_code == 200
        except httpx.HTTPError:
            return False

    def fetch_many(self, items: Iterable[tuple[int, str]], *, threads: int = 8) -> dict[int, Path | ImageUnavailable]:
        """The files of many tasks, as (task id, value); one that cannot be had has its reason instead of a path."""
        pairs = list(items)
        with ThreadPoolExecutor(max_workers=max(1, threads), thread_name_prefix="images") as pool:
            results = pool.map(lambda pair: self._fetch_or_reason(*pair), pairs)
            return {task_id: result for (task_id, _), result in zip(pairs, results, strict=True)}

    def _fetch_or_reason(self, task_id: int, value: str) -> Path | ImageUnavailable:
        try:
            return self.fetch(value, task_id=task_id)
        except ImageUnavailable as reason:
            return reason
        except Exception as error:  # One image must not cost the others their place in the queue.
            logger.exception("The image of task %d cannot be had", task_id)
            # A full disk, too many open files: of this machine, and not of the image.
            passing = isinstance(error, OSError)
            return ImageUnavailable(f"The image cannot be had: {type(error).__name__}: {error}.", passing=passing)

    def _store_data_uri(self, value: str, address: Address) -> Path:
        content = decode_data_uri(value, self._max_bytes)
        with self._cache.writing(address.key) as (file, path):
            file.write(content)
        return path

    def _download(self, address: Address, deadline: float) -> Path:
        """Follow redirects by hand, because every hop needs the check and credentials must not travel with it."""
        url = httpx.URL(str(address.url))
        trusted = self._rules.is_own(str(url))
        for _ in range(_MAX_REDIRECTS + 1):
            ours = served_path(str(url), self._label_studio) is not None
            auth = self._label_studio.auth if ours and self._label_studio is not None else None
            client = self._own if trusted else self._listed
            request = client.build_request("GET", url)
            try:
                with self._silent.asking(url):
                    response = client.send(request, auth=auth, stream=True, follow_redirects=False)
            except NoToken as error:
                raise _Passing(str(error)) from error
            except LabelStudioError as error:  # the personal access token is refused
                raise ImageUnavailable(str(error)) from error
            try:
                if not response.has_redirect_location:
                    return self._keep(response, address, deadline)
                target = url.join(response.headers["location"])
            finally:
                response.close()
            if ours and target.path.startswith("/user/login"):
                raise ImageUnavailable("Label Studio asks for a login for its images; check LABEL_STUDIO_API_KEY.")
            # Where Label Studio sends us for a storage was set by its administrators, not by a task's data.
            trusted = ours and address.from_storage
            if not trusted:
                trusted = self._rules.is_own(str(target))
                self._rules.check(str(target), redirected_from=_shown(str(url)))
            elif target.scheme not in ("http", "https"):
                raise ImageUnavailable(f"Label Studio redirects to {_shown(str(target))}, which is not http or https.")
            url = target
        raise ImageUnavailable(f"{_shown(str(address.url))} redirects more than {_MAX_REDIRECTS} times.")

    def _keep(self, response: httpx.Response, address: Address, deadline: float) -> Path:
        where = _shown(str(address.url))
        if response.status_code in _PASSING_STATUS:
            raise _Passing(f"{where} answered {response.status_code}.")
        if response.status_code != 200:
            hint = _hint(response.status_code, address)
            raise ImageUnavailable(
                f"{where} answered {response.status_code}{hint}.", lost=response.status_code in (404, 410)
            )
        encoding = response.headers.get("content-encoding", "identity")
        if encoding.strip().lower() != "identity":
            # It was not asked for, and a few compressed bytes could unpack to gigabytes.
            raise ImageUnavailable(f"{where} is sent compressed ({encoding[:20]!r}), which is not read.")
        announced = response.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > self._max_bytes:
            raise ImageUnavailable(self._too_large(where, f"{int(announced) / 1e6:.1f} MB"))
        size = 0
        with self._cache.writing(address.key) as (file, path):
            # As they come: whole pieces of a fixed size would keep the deadline waiting for a server that drips.
            for piece in response.iter_raw():
                size += len(piece)
                if size > self._max_bytes:
                    raise ImageUnavailable(self._too_large(where, f"more than {self._max_bytes / 1e6:.1f} MB"))
                if time.monotonic() > deadline:
                    raise ImageUnavailable(self._too_slow(address))
                file.write(piece)
            if size == 0:
                raise ImageUnavailable(f"{where} is an empty file.")
        return path

    def _too_large(self, where: str, size: str) -> str:
        return f"{where} has {size}; images of up to {self._max_bytes / 1e6:.1f} MB are read (AL_IMAGE_MAX_MB)."

    def _too_slow(self, address: Address) -> str:
        return f"{_shown(str(address.url))} took more than {self._timeout:g} s (AL_IMAGE_TIMEOUT)."


def _shown(url: str) -> str:
    """An address without its query, user and password: signed links are secrets."""
    parsed = httpx.URL(url)
    query = "?" + parsed.query.decode() if parsed.path.endswith("/data/local-files/") else ""
    return f"{parsed.copy_with(userinfo=b'', query=None, fragment=None)}{query}"


def _hint(status: int, address: Address) -> str:
    if not address.of_label_studio:
        return ""
    if status in (401, 403):
        return "; the owner of LABEL_STUDIO_API_KEY may not read it, or local files are not served"
    if status == 404 and address.from_storage:
        return "; no storage of the project covers it"
    return ""
