"""Images that a real Label Studio serves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from al_backend.demo.server import LabelStudioServer
from al_backend.errors import ImageUnavailable
from al_backend.labelstudio.client import LabelStudio, Project
from al_backend.labelstudio.images import ImageSource
from al_backend.settings import load_settings

pytestmark = pytest.mark.labelstudio

CONFIG = """<View><Image name="image" value="$image"/>
<RectangleLabels name="label" toName="image"><Label value="crab"/></RectangleLabels></View>"""


@pytest.fixture
def client(label_studio: LabelStudioServer) -> LabelStudio:
    return LabelStudio(label_studio.url, label_studio.token)


@pytest.fixture
def project(client: LabelStudio) -> Iterator[Project]:
    project = client.create_project("images", CONFIG)
    yield project
    client.delete_project(project.id)


def picture(path: Path) -> bytes:
    Image.new("RGB", (8, 6), (10, 20, 30)).save(path)
    return path.read_bytes()


def test_uploads_come_back_as_they_were(
    client: LabelStudio, project: Project, label_studio_pat: str, tmp_path: Path
) -> None:
    content = picture(tmp_path / "a shot.png")
    client.upload_images(project.id, [tmp_path / "a shot.png"])
    (task,) = client.open_tasks(project.id)
    for number, key in enumerate((client, LabelStudio(client.url, label_studio_pat))):
        source = ImageSource(key, load_settings(), tmp_path / f"cache {number}")
        assert source.fetch(task.data["image"]).read_bytes() == content
    assert source.fetch(client.url + task.data["image"]).read_bytes() == content


def test_a_wrong_key_gets_no_upload(client: LabelStudio, project: Project, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    client.upload_images(project.id, [tmp_path / "a.png"])
    (task,) = client.open_tasks(project.id)
    stranger = ImageSource(LabelStudio(client.url, "f" * 40), load_settings(), tmp_path / "cache")
    with pytest.raises(ImageUnavailable, match=r"answered 40[13]; the owner of LABEL_STUDIO_API_KEY|asks for a login"):
        stranger.fetch(task.data["image"])


def test_local_files_need_a_storage_that_covers_them(
    client: LabelStudio, project: Project, label_studio_files: Path, tmp_path: Path
) -> None:
    shelf = label_studio_files / "shelf"
    shelf.mkdir(exist_ok=True)
    content = picture(shelf / "a b.png")
    value = "/data/local-files/?d=shelf/a%20b.png"
    source = ImageSource(client, load_settings(), tmp_path / "cache")
    with pytest.raises(ImageUnavailable, match=r"answered 40[34]"):
        source.fetch(value)
    storage = {"project": project.id, "path": str(shelf), "use_blob_urls": True, "title": "shelf"}
    client.request("POST", "/api/storages/localfiles", body=storage)
    assert source.fetch(value).read_bytes() == content


def test_a_cloud_address_without_a_storage(client: LabelStudio, project: Project, tmp_path: Path) -> None:
    client.import_tasks(project.id, [{"data": {"image": "s3://bucket/fish.jpg"}}])
    (task,) = client.open_tasks(project.id)
    assert task.data["image"] == "s3://bucket/fish.jpg"
    source = ImageSource(client, load_settings(), tmp_path / "cache")
    with pytest.raises(ImageUnavailable, match="answered 404; no storage of the project covers it"):
        source.fetch(task.data["image"], task_id=task.id)
