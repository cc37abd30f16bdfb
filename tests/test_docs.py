"""The documentation against the code: nothing missing from the references, nothing named that does not exist."""

from __future__ import annotations

import ast
import configparser
import importlib
import importlib.util
import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from al_backend.cli import app
from al_backend.commands_table import commands_page
from al_backend.http.app import create_app
from al_backend.jobs.queues import Queues
from al_backend.labelstudio.labeling_config import parse_labeling_config
from al_backend.metrics import DEFINITIONS
from al_backend.registry import Registry
from al_backend.routes_table import documented_app, routes_page
from al_backend.settings import Settings, load_settings
from al_backend.settings_table import variables
from examples import compare_strategies
from tests.documentation import (
    PAGES,
    ROOT,
    Block,
    CommandLine,
    anchors,
    blocks,
    command_lines,
    inline_code,
    name_of,
    text_of,
)

GROUP: Any = get_command(app)
VARIABLES = {name for field_name, field in Settings.model_fields.items() for name in variables(field_name, field)}
OTHER_PROGRAMS = {"cd", "curl", "git", "label-studio", "pip", "source"}
"""Programs of others: that they are there and take these words is not ours to check."""
COMPOSE_VARIABLES = set(re.findall(r"\$\{([A-Z_]+)", text_of("docker-compose.yml")))
LABEL_STUDIO_VARIABLES = {
    "SSRF_PROTECTION_ENABLED",
    "ML_BLOCK_LOCAL_IP",
    "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED",
    "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT",
}
FOLDERS = ("al_backend", "benchmarks", "deploy", "docs", "examples", "model", "tests")
TOP_FILES = re.compile(
    r"(?:README\.md|LICENSE|Makefile|Dockerfile|pyproject\.toml|\.ci/run|\.env\.example|docker-compose[\w.]*\.yml)"
)


# The references are complete


def test_the_commands_page_is_current() -> None:
    assert text_of("docs/commands.md") == commands_page(), "write it anew: make reference"


def test_the_routes_page_is_current() -> None:
    assert text_of("docs/routes.md") == routes_page(), "write it anew: make reference"


def test_every_setting_is_in_the_reference() -> None:
    page = text_of("docs/settings.md")
    assert VARIABLES
    assert not [name for name in VARIABLES if f"`{name}`" not in page]


def test_every_command_and_option_is_in_the_reference() -> None:
    page = text_of("docs/commands.md")
    for name, command in GROUP.commands.items():
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert section, name
        options = [option for item in command.params for option in (*item.opts, *item.secondary_opts)]
        missing = [option for option in options if option.startswith("--") and f"`{option}`" not in section]
        assert set(missing) <= {"--help"}, name


def test_every_route_is_in_the_reference_with_who_may_ask() -> None:
    page = text_of("docs/routes.md")
    rows = {
        match[1]: match[2] for match in re.finditer(r"^\| `(/[^`]*)` \| [A-Z, ]+ \| ([a-z ]+) \|", page, re.MULTILINE)
    }
    assert set(rows) == {rule.rule for rule in documented_app().url_map.iter_rules()}
    assert rows["/health"] == "everybody"
    assert rows["/predict"] == "password"
    assert rows["/webhook"] == "password or webhook secret"


@pytest.mark.redis
def test_every_metric_that_a_server_shows_is_in_the_reference(queues: Queues, tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    client = create_app(load_settings(model_dir=str(tmp_path)), registry=registry, queues=queues).test_client()
    client.get("/health")
    shown = dict(re.findall(r"^# TYPE (al_\w+) (\w+)$", client.get("/metrics").text, re.MULTILINE))
    assert len(shown) > 5
    page = text_of("docs/routes.md")
    for name, kind in shown.items():
        if not name.endswith("_created"):  # when a counter began, which Prometheus adds by itself
            assert re.search(rf"^\| `{name}(?:_bucket|_count|_total)?`.* \| {kind} \|", page, re.MULTILINE), name


def test_every_metric_that_is_defined_is_in_the_reference() -> None:
    page = text_of("docs/routes.md")
    assert DEFINITIONS
    assert not [name for metric in DEFINITIONS.values() for name in metric.samples if f"`{name}`" not in page]


# What the pages name exists


@pytest.mark.parametrize("page", [name_of(path) for path in PAGES])
def test_links_and_anchors_lead_somewhere(page: str) -> None:
    here = ROOT / page
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text_of(page)):
        path = (here.parent / target).resolve() if target else here
        assert path.exists(), target
        # The headings of the page about model/ are made from docstrings; the build checks those.
        if anchor and path.suffix == ".md" and path.name != "model.md":
            assert anchor in anchors(path), f"{target}#{anchor}"


def test_files_that_are_named_exist() -> None:
    for page, code in inline_code():
        path = code.split(" ")[0].rstrip("/")
        ours = path.split("/")[0] in FOLDERS and re.fullmatch(r"[\w./-]+", path) and "/" in path
        if ours or TOP_FILES.fullmatch(path):
            assert (ROOT / path).exists(), f"{page} names {path}"


def test_modules_and_names_that_are_named_exist() -> None:
    named = {(page, code) for page, code in inline_code() if re.fullmatch(r"(?:model|al_backend)(?:\.\w+)+", code)}
    assert named
    for page, name in sorted(named):
        assert _resolves(name), f"{page} names {name}"


def test_variables_that_are_named_exist() -> None:
    ours = re.compile(r"(AL|BASIC_AUTH|WEBHOOK|REDIS|MODEL)_[A-Z0-9_]+")
    for page, code in inline_code():
        name = code.split("=")[0]
        if ours.fullmatch(name) and not name.startswith("AL_TEST_"):
            assert name in VARIABLES | COMPOSE_VARIABLES, f"{page} names {name}"


def test_pages_of_the_dashboard_that_are_named_exist() -> None:
    addresses = documented_app().url_map.bind("localhost")
    named = {code for _, code in inline_code() if re.fullmatch(r"/dashboard[\w/-]*", code)}
    assert len(named) > 3
    for path in named:
        endpoint, _ = addresses.match(path, method="GET")
        assert not endpoint.endswith("nothing_here"), path


# What the pages tell people to type


@pytest.mark.parametrize("line", list(command_lines()), ids=str)
def test_a_command_of_a_block_is_one_that_exists(line: CommandLine) -> None:
    ours = {name for name in line.environment if not name.startswith("AL_TEST_")}
    assert ours <= VARIABLES | LABEL_STUDIO_VARIABLES, line
    if line.words[0] == "export":
        return
    program, *arguments = line.words
    if program == "al-backend":
        _parse(arguments)
    elif program == "python":
        _check_python(arguments)
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE)
        wanted = [word for word in arguments if "=" not in word]
        assert wanted
        assert set(wanted) <= set(targets)
        for word in arguments:
            assert f"$({word.partition('=')[0]})" in text_of("Makefile") or "=" not in word, word
    elif program == "docker":
        for option, file in itertools.pairwise(arguments):
            assert option != "-f" or (ROOT / file).exists(), file
        if "exec" in arguments:
            _parse(arguments[arguments.index("al-backend") + 1 :])
    else:
        assert program in OTHER_PROGRAMS, f"{line}: is this a program that a reader has?"


def test_commands_in_running_text_exist() -> None:
    for page, code in inline_code():
        words = code.split(" ")
        if words[0] != "al-backend" or len(words) == 1 or not re.fullmatch(r"[a-z]+", words[1]):
            continue
        assert words[1] in GROUP.commands, f"{page}: {code}"
        known = {option for item in GROUP.commands[words[1]].params for option in (*item.opts, *item.secondary_opts)}
        assert set(re.findall(r"--[a-z-]+", code)) <= known, f"{page}: {code}"


def test_the_pictures_for_trying_are_drawn_as_the_page_says(tmp_path: Path) -> None:
    (line,) = (line for line in command_lines() if "write_reef" in line.words[-1])
    few = line.words[-1].replace(", 60,", ", 2,")
    assert few != line.words[-1]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", few], cwd=tmp_path, env=environment, check=True, timeout=120)
    assert len(list((tmp_path / "data" / "reef").glob("*.jpg"))) == 2


@pytest.mark.parametrize("block", list(blocks("python")), ids=lambda block: block.page)
def test_python_of_the_pages_imports_what_there_is(block: Block) -> None:
    _check_imports(block.body)


@pytest.mark.parametrize("block", list(blocks("xml")), ids=lambda block: block.page)
def test_labelling_configs_of_the_pages_are_served(block: Block) -> None:
    assert parse_labeling_config(block.body).labels


@pytest.mark.parametrize("block", list(blocks("ini")), ids=lambda block: block.page)
def test_the_service_runs_a_command_that_exists(block: Block) -> None:
    unit = configparser.ConfigParser()
    unit.read_string(block.body)
    program, *arguments = unit["Service"]["ExecStart"].split()
    assert program.endswith("/al-backend")
    _parse(arguments)


def test_the_map_of_the_house_names_rooms_that_exist() -> None:
    (block,) = (block for block in blocks("text") if block.page == "docs/contributing.md")
    folder = ""
    for line in block.body.splitlines():
        name = line.split()[0]
        if not line.startswith("  "):
            folder = name
            assert (ROOT / name).is_dir(), name
        elif not line.startswith("   "):
            assert (ROOT / folder / name).exists(), f"{folder}{name}"


def _parse(arguments: list[str]) -> None:
    """Parse a command line as the program would; typer ends the process where it cannot."""
    name, *rest = arguments
    assert name in GROUP.commands, name
    try:
        GROUP.commands[name].make_context(name, rest)
    except Exception as error:  # typer's errors of use are of classes that moved between its releases
        pytest.fail(f"al-backend {' '.join(arguments)}: {getattr(error, 'message', error)}")


def _check_python(arguments: list[str]) -> None:
    if arguments[0] == "-c":
        _check_imports(arguments[1])
    elif arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1]) is not None, arguments[1]
    else:
        assert (ROOT / arguments[0]).is_file(), arguments[0]
        if arguments[0].endswith("compare_strategies.py"):
            compare_strategies.parser().parse_args(arguments[1:])


def _check_imports(source: str) -> None:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert not [alias.name for alias in node.names if not hasattr(module, alias.name)], node.module
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)


def _resolves(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        try:
            found: Any = importlib.import_module(module) if importlib.util.find_spec(module) else None
        except ModuleNotFoundError:
            continue
        if found is not None:
            for part in parts[length:]:
                if not hasattr(found, part) and part not in getattr(found, "__annotations__", {}):
                    return False
                found = getattr(found, part, None)
            return True
    return False
