"""`make audit`: known weaknesses in what is locked, and whether every locked dependency is a current release.

    python -m tools.audit [--json] [--uv PATH]

For what pyproject.toml names, that is the newest release there is, but for the caps below; for what those ask for in
turn, the newest that they allow. The exit status is 0 when all was answered and the answers are good, 1 when a weakness
is known or a dependency is old, 2 when a question could not be answered, such as without a way to the database of
weaknesses.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PYTHON = "3.13"
"""The newest Python that is supported: the others may be held back by libraries that have left them behind."""

CAPS: Mapping[str, tuple[str, str]] = {
    "torch": ("==2.11.*", "2.11 and torchvision 0.26 are the pair that is tested"),
    "torchvision": ("==0.26.*", "goes with torch 2.11"),
    "label-studio-ml": ("==1.0.9", "the release that the plugin is tested with, beside the project's master"),
    "mkdocs": ("<2", "mkdocs-material does not know mkdocs 2"),
    "opencv-python-headless": ("<4.13", "label-studio-sdk 2.1 asks for 4.12"),
    "numpy": ("<2.3", "opencv 4.12 asks for it"),
}
"""Dependencies that are held below their newest release: the versions that are allowed, and why."""

SERVICES = ("pypi", "osv")
"""Databases of weaknesses, the second for when the first does not answer."""

_TIMEOUT = 300


class Unanswered(Exception):
    """A question that could not be answered from here."""


@dataclass(frozen=True)
class Dependency:
    """One direct dependency.

    Attributes:
        name: as the index writes it.
        locked: the newest version in uv.lock.
        latest: the newest release, within the cap where there is one.
        cap: versions that are allowed, for a dependency that is held back.
        reason: of the cap.
    """

    name: str
    locked: str
    latest: str
    cap: str = ""
    reason: str = ""

    @property
    def current(self) -> bool:
        """Whether no newer release is allowed."""
        return Version(self.locked) >= Version(self.latest)


def direct_requirements(root: Path = ROOT) -> list[Requirement]:
    """What pyproject.toml asks for: itself, its extras and its groups."""
    document = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project = document["project"]
    lists = [project["dependencies"], *project.get("optional-dependencies", {}).values()]
    lists += list(document.get("dependency-groups", {}).values())
    found = {canonicalize_name(one.name): one for part in lists for one in map(Requirement, part)}
    return [found[name] for name in sorted(found)]


def locked_versions(root: Path = ROOT) -> dict[str, str]:
    """Name -> the newest version in uv.lock; for older Pythons it may hold an older one besides."""
    document = tomllib.loads((root / "uv.lock").read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for package in document["package"]:
        name, version = package["name"], package.get("version")
        if version is not None and (name not in found or Version(version) > Version(found[name])):
            found[name] = version
    return found


def latest_versions(requirements: Sequence[Requirement], uv: str) -> dict[str, str]:
    """Name -> the newest release that the package index offers, within the caps.

    Raises:
        Unanswered: the index does not answer, or has no such package.
    """
    lines = [one.name + CAPS.get(canonicalize_name(one.name), ("", ""))[0] for one in requirements]
    command = [uv, "pip", "compile", "--quiet", "--no-deps", "--no-annotate", "--no-header", "--upgrade"]
    command += ["--python-version", PYTHON, "--python-platform", "linux", "-"]
    answer = _run(command, input="\n".join(lines))
    if answer.returncode != 0:
        raise Unanswered(f"The package index could not be asked: {_last_line(answer.stderr)}")
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", answer.stdout, re.M)}


def dependencies(uv: str, root: Path = ROOT) -> list[Dependency]:
    """Every direct dependency with what is locked and what there is.

    Raises:
        Unanswered: see `latest_versions`; or one of them is not in the lock.
    """
    requirements, locked = direct_requirements(root), locked_versions(root)
    names = [canonicalize_name(one.name) for one in requirements]
    missing = [name for name in names if name not in locked]
    if missing:
        raise Unanswered(f"uv.lock has no {', '.join(missing)}; run `uv lock`.")
    latest = latest_versions(requirements, uv)
    return [Dependency(name, locked[name], latest[name], *CAPS.get(name, ("", ""))) for name in names]


def outdated(uv: str, root: Path = ROOT) -> list[dict[str, str]]:
    """What a lock that is made today would have newer: name, locked and latest; uv.lock stays as it is.

    Raises:
        Unanswered: the index does not answer.
    """
    answer = _run([uv, "lock", "--upgrade", "--dry-run", "--color", "never", "--project", str(root)])
    if answer.returncode != 0:
        raise Unanswered(f"Whether uv.lock is current is not known: {_last_line(answer.stderr)}")
    found = re.findall(r"^Update (\S+) (.+) -> (.+)$", answer.stderr, re.M)
    plain = [(name, re.sub(r"\bv", "", before), re.sub(r"\bv", "", after)) for name, before, after in found]
    return [{"name": name, "locked": before, "latest": after} for name, before, after in plain]


def weaknesses(root: Path = ROOT) -> list[dict[str, Any]]:
    """What the databases know of the packages in requirements.txt; each has name, version, id and fixed_in.

    Raises:
        Unanswered: no database answers for all of them.
    """
    reasons = []
    for service in SERVICES:
        try:
            return _weaknesses(root, service)
        except Unanswered as reason:
            reasons.append(f"{service}: {reason}")
    raise Unanswered(f"Nothing is known of weaknesses, because no database answers. {' '.join(reasons)}")


def _weaknesses(root: Path, service: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(root / "requirements.txt"), "--disable-pip"]
    command += ["--require-hashes", "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    answer = _run([*command, "--vulnerability-service", service])
    try:
        found = json.loads(answer.stdout)["dependencies"]
    except (ValueError, KeyError):
        raise Unanswered(f"pip-audit gave no answer: {_last_line(answer.stderr)}") from None
    skipped = [item for item in found if "skip_reason" in item]
    if skipped or not found:
        first = f", the first because: {skipped[0]['skip_reason']}" if skipped else ""
        raise Unanswered(f"pip-audit left out {len(skipped)} of {len(found)} packages{first}.")
    return [
        {"name": item["name"], "version": item["version"], "id": known["id"], "fixed_in": known["fix_versions"]}
        for item in found
        for known in item["vulns"]
    ]


def _run(command: Sequence[str], input: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, input=input, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unanswered(f"{Path(command[0]).name} could not be run: {error}") from error


def _last_line(text: str) -> str:
    return " ".join((text.strip().splitlines() or ["it said nothing"])[-1].split())[:500]


def audit(uv: str, root: Path = ROOT) -> dict[str, Any]:
    """The answers as one document; a question without an answer has a sentence under "unanswered"."""
    questions: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "weaknesses": lambda: weaknesses(root),
        "lock": lambda: outdated(uv, root),
        "dependencies": lambda: [asdict(one) | {"current": one.current} for one in dependencies(uv, root)],
    }
    document: dict[str, Any] = dict.fromkeys(questions) | {"unanswered": []}
    for name, ask in questions.items():
        try:
            document[name] = ask()
        except Unanswered as reason:
            document["unanswered"].append(str(reason))
    return document


def status(document: Mapping[str, Any]) -> int:
    """The exit status for a document of `audit`."""
    if document["weaknesses"] or document["lock"] or any(not one["current"] for one in document["dependencies"] or ()):
        return 1
    return 2 if document["unanswered"] else 0


def show(document: Mapping[str, Any]) -> str:
    """The document as text."""
    lines = []
    for one in document["dependencies"] or ():
        state = "current" if one["current"] else f"OLD, there is {one['latest']}"
        held = f"; held at {one['cap']}: {one['reason']}" if one["cap"] else ""
        lines.append(f"{one['name']:<26}{one['locked']:<14}{state}{held}")
    for one in document["lock"] or ():
        lines.append(f"OLD in uv.lock: {one['name']} {one['locked']}, there is {one['latest']}")
    for found in document["weaknesses"] or ():
        fixed = ", ".join(found["fixed_in"]) or "no release"
        lines.append(f"WEAK {found['name']} {found['version']}: {found['id']}, fixed in {fixed}")
    if document["weaknesses"] == []:
        lines.append("No weakness is known of what requirements.txt installs.")
    return "\n".join([*lines, *(f"NOT ANSWERED {sentence}" for sentence in document["unanswered"])])


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, print the answers, return the exit status."""
    parser = argparse.ArgumentParser(description="Known weaknesses and old releases among the dependencies.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--uv", default=shutil.which("uv") or "uv", help="the uv program")
    given = parser.parse_args(arguments)
    document = audit(given.uv)
    print(json.dumps(document, indent=2) if given.json else show(document))
    return status(document)


if __name__ == "__main__":
    raise SystemExit(main())
