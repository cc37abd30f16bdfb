"""Every page as a browser gets it, with a seeded project and with everything that may be missing."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from al_backend.http.app import create_app
from al_backend.jobs.queues import Queues
from al_backend.registry import Registry
from al_backend.settings import Settings, load_settings
from tests.al_backend.http.dashboard.seeding import FIRST_TASK, LABEL_CONFIG, LOCKED, Seeded, look, seed_project

pytestmark = pytest.mark.redis

PROJECT_PAGES = ("", "/queue", "/versions", "/health", "/report", "/live")
PAGES = ("", "/jobs", "/live", "/live?jobs=1", *(f"/projects/5{page}" for page in PROJECT_PAGES))


def text(client: FlaskClient, page: str, status: int = 200) -> str:
    answer = client.get(f"/dashboard{page}")
    assert answer.status_code == status, answer.get_data(as_text=True)
    return answer.get_data(as_text=True)


class TestSeeded:
    @pytest.mark.parametrize("page", PAGES)
    def test_every_page_is_there_and_strict(self, client: FlaskClient, seeded: Seeded, page: str) -> None:
        answer = client.get(f"/dashboard{page}")
        assert answer.status_code == 200
        policy = answer.headers["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        body = answer.get_data(as_text=True)
        assert not re.search(r'<[^>]+ (style|on[a-z]+)="', body), "the policy would refuse it"
        if page != "/projects/5/report":
            assert "<style" not in body
        assert not re.search(r'(src|srcset)="(https?:)?//', body), "another host is asked"

    def test_all_projects_in_one_table(self, client: FlaskClient, seeded: Seeded) -> None:
        page = text(client, "")
        active = seeded.versions[-1]
        assert active.metrics is not None
        for part in ("Reef survey, north station", active.name, f"{active.metrics['map50']:.3f}", "not examined"):
            assert part in page

    def test_the_curve_has_every_version(self, client: FlaskClient, seeded: Seeded) -> None:
        page = text(client, "/projects/5")
        for version in seeded.versions:
            assert version.metrics is not None
            state = "refused" if version.number == 3 else "active" if version.number == 5 else "promoted"
            tip = f"{version.name}, {state}: {len(version.labels)} labels, mAP50 {version.metrics['map50']:.3f}"
            assert tip in page
        intervals = seeded.versions[-1].metrics["intervals"]  # type: ignore[index]
        assert f"{intervals['map50'][0]:.3f} to {intervals['map50'][1]:.3f}" in page
        assert "points of mAP50 per 100 labels" in page

    def test_class_balance_counts_labels_and_the_pool(self, client: FlaskClient, seeded: Seeded) -> None:
        page = text(client, "/projects/5")
        published = seeded.here.registry.read_document(5, "published")
        assert published is not None
        summary = seeded.here.registry.read_summary(5, published["ranking"])
        assert summary is not None
        assert summary["unreadable"]["count"] == 2
        for name, boxes in summary["predicted"].items():
            assert re.search(rf'<th scope="row">{name}</th>.*<td class="n">{boxes}</td>', page)

    def test_the_queue_shows_the_published_order_with_reasons(self, client: FlaskClient, seeded: Seeded) -> None:
        registry = seeded.here.registry
        published = registry.read_document(5, "published")
        assert published is not None
        order = registry.read_order(5, published["ranking"])
        assert order is not None
        pages = text(client, "/projects/5/queue"), text(client, "/projects/5/queue?from=24")
        shown = [int(task) for page in pages for task in re.findall(r">Task (\d+)<", page)]
        assert shown == order["task_id"].head(48).to_list()
        for word in (
            "Entropy",
            "Semantic affinity",
            "Category diversity",
            "Overlap ratio",
            "Localization",
            "Diversity",
        ):
            assert f"<dt>{word}</dt>" in pages[0]
        assert pages[0].count('class="boxes"') > 10
        assert LOCKED in pages[0]
        assert f"http://127.0.0.1:9/projects/5/data?task={shown[0]}" in pages[0]

    def test_labelled_images_leave_the_gallery_with_the_next_look(self, client: FlaskClient, seeded: Seeded) -> None:
        first = [int(task) for task in re.findall(r">Task (\d+)<", text(client, "/projects/5/queue"))]
        seeded.label_studio.labelled |= set(first[:3])
        look(seeded, "Reef")
        page = text(client, "/projects/5/queue")
        assert [int(task) for task in re.findall(r">Task (\d+)<", page)][:4] == first[3:7]
        assert "3 of the first ones are labelled since" in page
        assert "17 more new or changed labels" in page

    @pytest.mark.parametrize("start", ["-5", "7", "9999", "x"])
    def test_any_start_is_a_page(self, client: FlaskClient, seeded: Seeded, start: str) -> None:
        assert ">Task " in text(client, f"/projects/5/queue?from={start}")

    def test_an_order_of_an_older_release_is_explained_too(
        self, client: FlaskClient, seeded: Seeded, settings: Settings
    ) -> None:
        before = text(client, "/projects/5/queue")
        folder = Path(settings.model_dir) / "projects" / "5" / "rankings"
        for name in ("head.parquet", "summary.json"):
            for file in folder.glob(f"*/{name}"):
                file.unlink()
        again = create_app(settings, registry=seeded.here.registry, queues=seeded.here.queues).test_client()
        assert text(again, "/projects/5/queue") == before

    def test_versions_say_what_they_are_made_of(self, client: FlaskClient, seeded: Seeded) -> None:
        page = text(client, "/projects/5/versions")
        names = re.findall(r'<h2 class="mono">([^<]+)</h2>', page)
        assert names == [version.name for version in reversed(seeded.versions)]
        assert "base checkpoint" in page
        assert "20.0 kB" in page
        assert page.count(">refused<") == 1
        assert "the label &#39;whale&#39;" in page
        assert page.count("confirm/promote") == 4, "the active version cannot be promoted"

    def test_images_are_small_jpegs_of_the_projects_own_tasks(self, client: FlaskClient, seeded: Seeded) -> None:
        task = FIRST_TASK + 120
        answer = client.get(f"/dashboard/projects/5/images/{task}")
        assert answer.status_code == 200
        assert answer.content_type == "image/jpeg"
        assert "private" in answer.headers["Cache-Control"]
        assert client.get("/dashboard/projects/5/images/1").status_code == 404
        locked = client.get(f"/dashboard/projects/5/images/{max(seeded.label_studio.tasks)}")
        assert locked.status_code == 404
        assert "none is configured" in locked.get_data(as_text=True)

    def test_the_report_needs_nothing_else(self, client: FlaskClient, seeded: Seeded) -> None:
        page = text(client, "/projects/5/report")
        assert page.startswith("<!DOCTYPE html>")
        assert not re.search(r"""(src|href)=["'](?!#)|url\(["']?(?!#)""", page)
        for part in ("Reef survey, north station", "learning-curve-title", seeded.versions[2].name, "<style>"):
            assert part in page

    def test_the_same_numbers_are_drawn_once(self, client: FlaskClient, seeded: Seeded) -> None:
        first, again = text(client, "/projects/5"), text(client, "/projects/5")
        assert first == again


class TestWithout:
    def test_an_empty_registry(self, client: FlaskClient) -> None:
        assert "al-backend connect PROJECT" in text(client, "")
        assert "Nothing waits and nothing runs" in text(client, "/jobs")

    def test_a_project_that_nobody_has_looked_at(self, client: FlaskClient, registry: Registry) -> None:
        registry.register_project(5, label_config=LABEL_CONFIG, overrides={})
        assert "Project 5" in text(client, "")
        for page, sentence in (
            ("", "No measured version yet"),
            ("/queue", "The next look prepares one"),
            ("/versions", "No version yet"),
            ("/health", "Press Examine"),
            ("/live", "Nobody has looked at the project yet"),
            ("/report", "No measured version yet"),
        ):
            assert sentence in text(client, f"/projects/5{page}")

    def test_labels_and_no_version(
        self, client: FlaskClient, settings: Settings, registry: Registry, queues: Queues, tmp_path: Path
    ) -> None:
        seed_project(settings, registry, queues, tmp_path, images=12, steps=())
        page = text(client, "/projects/5")
        assert "14 more labelled images start the first training (6 of 20)" in page
        assert "Rank now" not in page

    def test_a_version_and_no_order(self, client: FlaskClient, seeded: Seeded, registry: Registry) -> None:
        registry.delete_document(5, "published")
        assert "No order is published yet" in text(client, "/projects/5/queue")
        assert "Class balance" in text(client, "/projects/5")

    def test_an_order_whose_files_are_gone(self, client: FlaskClient, seeded: Seeded, registry: Registry) -> None:
        for ranking in registry.rankings(5):
            registry.delete_ranking(5, ranking.id)
        for page in PROJECT_PAGES:
            text(client, f"/projects/5{page}")

    @pytest.mark.parametrize("page", PAGES)
    def test_no_redis(self, seeded: Seeded, settings: Settings, registry: Registry, page: str) -> None:
        alone = load_settings(**(settings.model_dump() | {"redis_url": "redis://127.0.0.1:1/0"}))
        client = create_app(alone, registry=registry).test_client()
        body = text(client, page)
        if page not in ("/projects/5/report",):
            assert "does not answer" in body

    def test_a_labelling_config_that_cannot_be_served(self, client: FlaskClient, registry: Registry) -> None:
        registry.register_project(5, label_config="<View/>", overrides={})
        assert "RectangleLabels" in text(client, "/projects/5")

    def test_a_project_that_is_switched_off(self, client: FlaskClient, registry: Registry) -> None:
        off = LABEL_CONFIG.replace("<RectangleLabels ", '<RectangleLabels model_skip="true" ')
        registry.register_project(5, label_config=off, overrides={})
        assert "neither trains nor predicts here" in text(client, "/projects/5")

    def test_a_failed_training_is_said(self, client: FlaskClient, seeded: Seeded, registry: Registry) -> None:
        registry.write_document(
            5,
            "attempt",
            {"digest": "d", "count": 1, "started_at": "2026-03-08T10:00:00+00:00", "error": "OutOfMemory: x"},
        )
        assert "The last training failed (OutOfMemory: x); it is tried again." in text(client, "/projects/5")
        assert "last training failed" in text(client, "")

    @pytest.mark.parametrize(
        "page", ["/projects/6", "/projects/5/nothing", "/nothing", "/static/nothing.css", "/projects/x"]
    )
    def test_what_does_not_exist_is_a_page_that_says_so(self, client: FlaskClient, seeded: Seeded, page: str) -> None:
        answer = client.get(f"/dashboard{page}")
        assert answer.status_code == 404
        assert "<h1>Not here</h1>" in answer.get_data(as_text=True)

    def test_names_are_text_and_never_markup(
        self, client: FlaskClient, settings: Settings, registry: Registry, queues: Queues, tmp_path: Path
    ) -> None:
        seed_project(settings, registry, queues, tmp_path, images=12, steps=(), title="<script>alert(1)</script>`<b>`")
        for page in ("", "/projects/5", "/projects/5/report"):
            body = text(client, page)
            assert "<script>alert" not in body
            assert "&lt;script&gt;alert" in body


def test_static_files_are_in_the_package_and_kept_by_browsers(client: FlaskClient) -> None:
    folder = resources.files("al_backend.http.dashboard")
    assert (folder / "templates" / "layout.html").is_file()
    for name in ("dashboard.css", "dashboard.js", "icon.svg"):
        assert (folder / "static" / name).is_file()
        address = re.search(rf'"(/dashboard/static/{re.escape(name)}\?v=[0-9a-f]+)"', text(client, ""))
        assert address is not None
        answer = client.get(address[1])
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]


def test_the_password_opens_the_dashboard_too(settings: Settings, registry: Registry, queues: Queues) -> None:
    changed = settings.model_dump() | {"basic_auth_user": "al", "basic_auth_pass": "secret"}
    client = create_app(load_settings(**changed), registry=registry, queues=queues).test_client()
    for page in ("", "/jobs", "/static/dashboard.css"):
        assert client.get(f"/dashboard{page}").status_code == 401
        assert client.get(f"/dashboard{page}", auth=("al", "secret")).status_code == 200
