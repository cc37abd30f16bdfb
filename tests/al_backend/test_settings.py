"""What a person may write into the environment, and what they are told when it is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest

from al_backend.errors import ConfigError
from al_backend.extra_params import parse_extra_params
from al_backend.settings import LearningSettings, load_settings
from model.acquisition.strategy import strategy_names
from model.names import STRATEGIES


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("images.example.org", ("images.example.org",)),
        (" a.example.org:8080, b.example.org ,", ("a.example.org:8080", "b.example.org")),
        ('["a.example.org", "10.0.0.0/8"]', ("a.example.org", "10.0.0.0/8")),
        ("*", ("*",)),
        ("", ()),
        ("[]", ()),
    ],
)
def test_image_hosts_as_people_write_them(text: str, hosts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AL_IMAGE_HOSTS", text)
    assert load_settings().image_hosts == hosts


@pytest.mark.parametrize("text", ["1,-1,0,0.5", "[1, -1, 0, 0.5]"])
def test_weights_as_people_write_them(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AL_HUALE_WEIGHTS", text)
    assert load_settings().huale_weights == (1, -1, 0, 0.5)
    assert parse_extra_params({"huale_weights": text}, LearningSettings()) == {"huale_weights": text}


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("AL_IMAGE_HOSTS", '["images.example.org', "AL_IMAGE_HOSTS: found .*expected names with commas"),
        ("AL_HUALE_WEIGHTS", "1,2,3", "AL_HUALE_WEIGHTS"),
        ("AL_HUALE_WEIGHTS", "high", "AL_HUALE_WEIGHTS"),
        ("AL_STRATEGY", "hualee", "AL_STRATEGY: found 'hualee', expected one of: .*huale, ppal"),
        ("AL_DETECTOR", "yolo11n", "AL_DETECTOR: found 'yolo11n', expected one of: yolov5n.*or the path of"),
        ("AL_BUDGET", "many", "AL_BUDGET"),
        ("PORT", "http", "PORT"),
    ],
)
def test_what_is_wrong_is_one_sentence_that_names_the_variable(
    variable: str, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError, match=said):
        load_settings()


@pytest.mark.parametrize("detector", ["ssd300_vgg16", "/weights/mine.pt", "yolo11n.yaml"])
def test_detectors_that_are_taken(detector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AL_DETECTOR", detector)
    assert load_settings().detector == detector


@pytest.mark.parametrize(("name", "value"), [("strategy", "hualee"), ("detector", "yolov5"), ("AL_STRATEGY", "")])
def test_a_project_is_told_at_once_as_well(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=r"Extra params of the model connection: .* expected one of: "):
        parse_extra_params({name: value}, LearningSettings())


def test_the_strategies_are_those_that_there_are() -> None:
    assert strategy_names() == STRATEGIES


def test_settings_need_nothing_heavy() -> None:
    heavy = ["torch", "numpy", "polars", "ultralytics"]
    code = f"import sys, al_backend.settings; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
