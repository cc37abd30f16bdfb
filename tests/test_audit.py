"""`make audit` answers two questions, and never pretends to have an answer."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tools import audit
from tools.audit import (
    CAPS,
    Dependency,
    Unanswered,
    direct_requirements,
    locked_versions,
    main,
    outdated,
    show,
    status,
    weaknesses,
)

GOOD: dict[str, object] = {"weaknesses": [], "dependencies": [], "lock": [], "unanswered": []}
HASH = "sha256:4d6c8a86cb4d5e7a2e9e0e2ea0b6b2c0a8e4c4b0c5b9a5bbd0a54f8e1d4f5a01"


def answering(monkeypatch: pytest.MonkeyPatch, *answers: tuple[int, str, str]) -> list[Sequence[str]]:
    """Programs answer with (status, stdout, stderr), one after the other; returns what was run."""
    waiting = list(answers)
    calls: list[Sequence[str]] = []

    def run(command: Sequence[str], input: str | None = None) -> subprocess.CompletedProcess[str]:
        calls.append([*command, input or ""])
        code, out, err = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return subprocess.CompletedProcess(command, code, out, err)

    monkeypatch.setattr(audit, "_run", run)
    return calls


def report(*dependencies: dict[str, object]) -> str:
    return json.dumps({"dependencies": list(dependencies), "fixes": []})


@pytest.mark.slow
def test_a_database_out_of_reach_is_said_and_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the real pip-audit, which finds nobody at the end of its line."""
    (tmp_path / "requirements.txt").write_text(f"flask==3.1.3 --hash={HASH}\n", encoding="utf-8")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Unanswered, match="no database answers") as reason:
        weaknesses(tmp_path)
    document = {**GOOD, "weaknesses": None, "unanswered": [str(reason.value)]}
    assert status(document) == 2
    assert "NOT ANSWERED Nothing is known of weaknesses" in show(document)
    assert "No weakness is known" not in show(document)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "not json",
        report(),
        report({"name": "flask", "skip_reason": "Dependency not found on PyPI"}),
        report({"name": "a", "version": "1", "vulns": []}, {"name": "flask", "skip_reason": "not found"}),
    ],
)
def test_half_an_answer_is_none(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    calls = answering(monkeypatch, (0, said, "connection refused"))
    with pytest.raises(Unanswered):
        weaknesses()
    assert [command[-2] for command in calls] == ["pypi", "osv"]


def test_the_second_database_may_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    weak: dict[str, object] = {"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
    answering(monkeypatch, (1, "", "refused"), (1, report(weak, {"name": "b", "version": "1", "vulns": []}), ""))
    assert weaknesses() == [{"name": "a", "version": "1", "id": "CVE-1", "fixed_in": ["2"]}]


def test_what_is_asked_for_is_locked() -> None:
    locked = locked_versions()
    names = {canonicalize_name(one.name) for one in direct_requirements()}
    assert {"flask", "rq", "torch", "s3fs", "pytest", "mkdocs-material"} <= names
    assert {name for name in ("flask", "rq", "torch") if name not in locked} == set()


def test_an_old_dependency_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    locked = locked_versions()
    names = {canonicalize_name(one.name) for one in direct_requirements()} & set(locked)
    monkeypatch.setattr(audit, "locked_versions", lambda root: dict.fromkeys(names, "1.0") | locked)
    monkeypatch.setattr(
        audit, "direct_requirements", lambda root: [one for one in direct_requirements() if one.name in names]
    )
    newest = "\n".join(f"{name}=={'99' if name == 'flask' else locked[name]}" for name in sorted(names))
    fine = report({"name": "a", "version": "1", "vulns": []})
    calls = answering(monkeypatch, (0, fine, ""), (0, newest, ""))

    assert main(["--json", "--uv", "our-uv"]) == 1

    document = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in document["dependencies"] if not one["current"]] == ["flask"]
    assert calls[-1][0] == "our-uv"
    assert "torch==2.11.*" in calls[-1][-1].splitlines()
    assert "flask" in calls[-1][-1].splitlines(), "the newest of all, whatever is asked for today"


def test_a_release_behind_is_found_in_what_others_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said = (
        "Resolved 3 packages in 5ms\nUpdate certifi v2025.11.12 -> v2026.10.18\nUpdate numpy v2.1.0, v2.2.5 -> v2.2.6\n"
    )
    calls = answering(monkeypatch, (0, "", f"{said}Add brotli v1.2.0\n"), (2, "", "error: no route"))
    old = outdated("our-uv")
    assert old == [
        {"name": "certifi", "locked": "2025.11.12", "latest": "2026.10.18"},
        {"name": "numpy", "locked": "2.1.0, 2.2.5", "latest": "2.2.6"},
    ]
    assert calls[0][0] == "our-uv"
    assert "--dry-run" in calls[0], "a question, that leaves uv.lock alone"
    document = GOOD | {"lock": old}
    assert status(document) == 1
    assert "OLD in uv.lock: certifi 2025.11.12, there is 2026.10.18" in show(document)
    with pytest.raises(Unanswered, match="no route"):
        outdated("our-uv")


def test_an_index_out_of_reach_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        audit, "locked_versions", lambda root: {canonicalize_name(r.name): "1" for r in direct_requirements()}
    )
    answering(monkeypatch, (0, report({"name": "a", "version": "1", "vulns": []}), ""), (2, "", "error: no route"))
    assert main(["--uv", "uv"]) == 2
    assert "The package index could not be asked: error: no route" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0),
        ({"weaknesses": [{"name": "a", "version": "1", "id": "x", "fixed_in": []}]}, 1),
        ({"dependencies": [{"name": "a", "locked": "1", "latest": "2", "cap": "", "current": False}]}, 1),
        ({"weaknesses": None, "unanswered": ["x"]}, 2),
        ({"lock": None, "unanswered": ["x"]}, 2),
    ],
)
def test_the_exit_status(changes: dict[str, object], expected: int) -> None:
    assert status(GOOD | changes) == expected


def test_every_cap_is_of_a_dependency_and_says_why() -> None:
    asked = {canonicalize_name(one.name): one for one in direct_requirements()}
    for name, (cap, reason) in CAPS.items():
        assert name in asked
        assert cap
        assert reason
        held = Dependency(name, "1", "1", cap, reason)
        assert held.current


def test_what_pyproject_holds_back_is_a_cap() -> None:
    """A bound of ours that nobody has given a reason for would go unnoticed: the newest release is asked for."""
    for one in direct_requirements():
        if any(part.operator in ("==", "<", "<=", "~=") for part in one.specifier):
            assert canonicalize_name(one.name) in CAPS, one
