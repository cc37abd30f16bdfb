"""Every setting of the product in one place. Nothing else reads the environment."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from al_backend.errors import ConfigError
from model.names import STRATEGIES, architectures, is_detector, measure_threshold

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.ya?ml)?")


class LearningSettings(BaseModel):
    """What is learnt and how the queue is ordered; a project may override each through LS's "extra params"."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    detector: str = Field("yolov5n", description=f"Detector: {', '.join(architectures())}; or the path of a file.")
    strategy: str = Field("uncertainty", description=f"Strategy that ranks the pool: {', '.join(STRATEGIES)}.")
    uncertainty: Literal["least_confidence", "margin", "entropy"] = Field(
        "entropy", description="Uncertainty of one detection."
    )
    aggregation: Literal["sum", "mean", "max"] = Field(
        "max", description="How an image's uncertainties become one informativeness."
    )
    class_weights: bool = Field(True, description="Weigh detections by the inverse frequency of their class.")
    empty_policy: Literal["first", "last"] = Field(
        "last", description="Where images without detections go; the published methods disagree."
    )
    retrieval: float | None = Field(
        None,
        ge=1,
        description="Candidates as a multiple of the budget; unset: the strategy's own (HUALE and PPAL 4, CALD 1.2).",
    )
    huale_entropy: Literal["max", "mean", "sum"] = Field(
        "max", description="How the entropies of an image's boxes become the one by which `huale` retrieves."
    )
    huale_weights: Annotated[tuple[float, float, float, float], NoDecode] = Field(
        (1.0, 1.0, 1.0, 1.0),
        description="Of Semantic Affinity, Category Diversity, Overlap Ratio, Localization Confidence; "
        "negative turns the sign, 0 leaves out.",
    )
    huale_category: Literal["spread", "disagreement"] = Field(
        "spread",
        description="Category Diversity: over how many classes the boxes spread, or how differently in the two views.",
    )
    cald_beta: float = Field(1.3, ge=0, le=2, description="The most informative value of `cald`'s consistency.")
    vae_alpha: float = Field(0.5, ge=0, description="Weight of the novelty in `al_vae`; 0: no autoencoder is trained.")
    vae_beta: float = Field(0.5, ge=0, description="Weight of the detection loss in `al_vae`; not both 0.")
    vae_regions: Literal["objects", "image"] = Field(
        "objects", description="What `al_vae`'s autoencoder looks at: objects, or whole images as in its source."
    )
    vae_iterations: int = Field(1000, ge=1, description="Optimizer steps of the autoencoder's training.")
    diversity: bool = Field(
        False,
        description="Of the most informative images, take first those that differ from each other and the labelled.",
    )
    exploration: float = Field(
        0.05, ge=0, le=1, description="Share of the budget that is drawn at random, with `AL_DIVERSITY`."
    )
    empty_quota: float = Field(
        0.05, ge=0, le=1, description="Share of the budget for images without detections, with `AL_DIVERSITY`."
    )
    near_duplicate: float = Field(
        0.5,
        ge=0,
        description="Distance, as a share of the pool's spread, within which one image is enough, with `AL_DIVERSITY`.",
    )
    budget: int = Field(20, ge=1, description="Images a person labels per cycle.")
    cold_start: bool = Field(
        True, description="Order the queue before the first training, by what the images look like."
    )
    min_labels: int = Field(20, ge=2, description="Labelled images before the first training.")
    train_every: int = Field(20, ge=1, description="New or changed labelled images that start the next training.")
    stop_gain: float = Field(
        0.005, ge=0, description="mAP50 per 100 labels; when the last cycles clearly brought less, `status` says so."
    )
    train_mode: Literal["fine_tune", "from_scratch"] = Field(
        "fine_tune", description="Start from the active version, or from the base checkpoint every time."
    )
    iterations: int = Field(
        600, ge=1, description="Optimizer steps of one training; more where one pass over the labels takes more."
    )
    losses: Literal["library", "huale"] = Field(
        "library", description="The network library's own losses, or HUALE's (emphasis, EIoU, uncertainty)."
    )
    batch_size: int = Field(16, ge=1, description="Images per training step.")
    image_size: int = Field(640, ge=64, description="Pixels of the longer side that the detector sees.")
    validation_share: float = Field(0.2, gt=0, lt=1, description="Share of tasks held out, chosen by task id.")
    gate_drop: float = Field(
        0.01,
        ge=0,
        le=1,
        description="mAP50 that a new version may lose beyond chance and still be promoted; 1 promotes all.",
    )
    pool_size: int = Field(0, ge=0, description="Rank a random subset of the pool of this size; 0 ranks all.")
    score_threshold: float = Field(0.25, ge=0, le=1, description="Least confidence of a pre-annotated box.")
    box_overlap: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Of boxes with one label that overlap more (IoU), the most confident is pre-annotated; 1: all.",
    )
    measure_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Least confidence of a box that strategies see; unset: 0.1, with SSD 0.2.",
    )
    seed: int = Field(0, ge=0, description="Seed of everything random in training and ranking.")

    @field_validator("strategy")
    @classmethod
    def _known_strategy(cls, value: str) -> str:
        if value not in STRATEGIES:
            raise ValueError(f"found {value[:100]!r}, expected one of: {', '.join(STRATEGIES)}")
        return value

    @field_validator("detector")
    @classmethod
    def _known_detector(cls, value: str) -> str:
        if not is_detector(value):
            raise ValueError(
                f"found {value[:100]!r}, expected one of: {', '.join(architectures())}; or the path of an Ultralytics "
                ".yaml or .pt file"
            )
        return value

    @field_validator("huale_weights", mode="before")
    @classmethod
    def _weights_as_text(cls, value: Any) -> Any:
        return _listed(value)

    def measured_from(self, detector: str) -> float:
        """Least confidence of a box that strategies see where a `detector` found it, in [0, 1]."""
        return measure_threshold(detector) if self.measure_threshold is None else self.measure_threshold

    def overridden(self, overrides: Mapping[str, Any]) -> LearningSettings:
        """These settings with a project's overrides (`{"strategy": "random"}`, case and an `AL_` prefix ignored).

        Raises:
            ConfigError: an override names no setting or has a wrong value.
        """
        plain = {str(key).lower().removeprefix("al_"): value for key, value in overrides.items()}
        detector = plain.get("detector")
        if isinstance(detector, str) and detector != self.detector and not _PLAIN_NAME.fullmatch(detector):
            raise ConfigError(
                f"Extra params of the model connection: detector is {detector[:100]!r}; a project may name an "
                "architecture, but only AL_DETECTOR may name a file."
            )
        try:
            return self.replaced(plain)
        except ConfigError as error:
            raise ConfigError(f"Extra params of the model connection: {error}") from error

    def replaced(self, values: Mapping[str, Any]) -> LearningSettings:
        """These settings with other values, from somebody who may name files.

        Raises:
            ConfigError: a name is not one of a setting, or its value is wrong.
        """
        try:
            return LearningSettings.model_validate(self.model_dump() | dict(values))
        except ValidationError as error:
            raise ConfigError(_explain(error)) from error


class Settings(LearningSettings, BaseSettings):
    """Environment of the whole process; see `docs/settings.md` for the table."""

    model_config = SettingsConfigDict(env_prefix="AL_", populate_by_name=True, extra="ignore", frozen=True)

    label_studio_url: str = Field(
        "http://localhost:8080",
        validation_alias=AliasChoices("LABEL_STUDIO_URL", "LABEL_STUDIO_HOST"),
        description="Where Label Studio answers, with http:// or https://.",
    )
    label_studio_public_url: str | None = Field(
        None, description="Where people reach Label Studio, for links of the dashboard; LABEL_STUDIO_URL when unset."
    )
    label_studio_api_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("LABEL_STUDIO_API_KEY", "LABEL_STUDIO_ACCESS_TOKEN"),
        description="Personal access token or legacy token.",
    )
    redis_url: str | None = Field(
        None, validation_alias=AliasChoices("REDIS_URL"), description="None starts the embedded Redis."
    )
    model_dir: str = Field(
        "data", validation_alias=AliasChoices("MODEL_DIR"), description="Registry location, a path or any fsspec URL."
    )
    device: str = Field("auto", validation_alias=AliasChoices("DEVICE"), description="auto, cpu, cuda, cuda:1, ...")
    train_devices: str = Field(
        "", description="Devices that share every training, such as `cuda:0,cuda:1`; empty trains on `DEVICE` alone."
    )
    host: str = Field("127.0.0.1", description="Address the web server binds; 0.0.0.0 lets other machines in.")
    port: int = Field(
        9090, ge=1, le=65535, validation_alias=AliasChoices("PORT"), description="Port of the web server."
    )
    workers: int = Field(1, ge=1, validation_alias=AliasChoices("WORKERS"), description="Web server processes.")
    threads: int = Field(8, ge=1, validation_alias=AliasChoices("THREADS"), description="Threads per web process.")
    log_level: str = Field("INFO", validation_alias=AliasChoices("LOG_LEVEL"), description="DEBUG to ERROR.")
    log_format: Literal["text", "json"] = Field(
        "text", validation_alias=AliasChoices("LOG_FORMAT"), description="For people, or one JSON object a line."
    )
    basic_auth_user: str | None = Field(None, validation_alias=AliasChoices("BASIC_AUTH_USER"), description="User.")
    basic_auth_pass: SecretStr | None = Field(
        None, validation_alias=AliasChoices("BASIC_AUTH_PASS"), description="Password."
    )
    webhook_secret: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("WEBHOOK_SECRET"),
        description="Bearer secret of /webhook; derived from the password when only that is set.",
    )
    public_url: str | None = Field(
        None, description="URL under which Label Studio reaches this backend; http://localhost:PORT when unset."
    )
    data_dir: Path = Field(Path("data"), description="Local folder for the embedded Redis, caches and logs.")
    reconcile_every: float = Field(30.0, gt=0, description="Seconds between two looks at the truth in Label Studio.")
    train_timeout: int = Field(86_400, ge=60, description="Seconds after which a training is stopped.")
    publish_chunk: int = Field(500, ge=1, le=500, description="Predictions per import request.")
    publish_pause: float = Field(0.2, ge=0, description="Seconds between two writes, so that annotators keep going.")
    publish_rate: float = Field(
        500.0, gt=0, description="Predictions per second that all processes together write into Label Studio at most."
    )
    keep_versions: int = Field(
        10,
        ge=0,
        description="Newest versions whose weights are kept, beside the active, the previous, the best; 0 keeps all.",
    )
    share_settings: bool = Field(
        True,
        description="Put these settings and the key of Label Studio into Redis, for workers on other machines.",
    )
    weights_cache_mb: float = Field(
        2048.0, ge=0, description="Size of the local copies of versions when `MODEL_DIR` is remote."
    )
    image_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Hosts besides Label Studio that images may come from; `*` allows all that are public, a network "
        "such as 10.0.0.0/8 what is in it.",
    )
    image_max_mb: float = Field(50.0, gt=0, description="Largest image file that is downloaded.")
    image_timeout: float = Field(20.0, gt=0, description="Seconds for one image download.")
    cache_mb: float = Field(4096.0, ge=0, description="Size of the image cache on disk.")
    verify_ssl: bool = Field(True, validation_alias=AliasChoices("VERIFY_SSL"), description="Check TLS certificates.")

    @field_validator("image_hosts", mode="before")
    @classmethod
    def _hosts_as_text(cls, value: Any) -> Any:
        return _listed(value)

    @field_validator("model_dir")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("MODEL_DIR is empty; name a folder or an fsspec URL such as s3://bucket/models")
        return value

    @field_validator("label_studio_url")
    @classmethod
    def _with_scheme(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("LABEL_STUDIO_URL has no scheme; write it with http:// or https://")
        return value.rstrip("/")

    @property
    def learning(self) -> LearningSettings:
        """The learning settings alone, before a project's overrides."""
        return LearningSettings(**{name: getattr(self, name) for name in LearningSettings.model_fields})

    @property
    def training_devices(self) -> tuple[str, ...]:
        """Devices of one training, at least one."""
        return tuple(filter(None, (name.strip() for name in self.train_devices.split(",")))) or (self.device,)

    @property
    def auth_required(self) -> bool:
        """Whether requests have to carry basic auth."""
        return bool(self.basic_auth_user and self.basic_auth_pass)

    @property
    def webhook_bearer(self) -> str | None:
        """The secret that `/webhook` accepts, None when the backend is open.

        Label Studio puts no basic auth on webhooks, so a password alone implies a secret of its own, the same in
        every process that knows the password.
        """
        if self.webhook_secret:
            return self.webhook_secret.get_secret_value()
        if self.auth_required and self.basic_auth_pass:
            key = self.basic_auth_pass.get_secret_value()
            return _derived(key)
        return None

    @property
    def own_url(self) -> str:
        """URL under which Label Studio reaches this backend."""
        return (self.public_url or f"http://localhost:{self.port}").rstrip("/")


@lru_cache(maxsize=8)
def _derived(password: str) -> str:
    """Slow on purpose: members of a Label Studio project can read it, and must not guess the password from it."""
    return hashlib.pbkdf2_hmac("sha256", password.encode(), b"al-backend webhook", 300_000).hex()


def load_settings(**overrides: Any) -> Settings:
    """The settings of this process: arguments before environment before defaults.

    Raises:
        ConfigError: a value is malformed; the message names the variable.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise ConfigError(_explain(error, variables=True)) from error
    except SettingsError as error:
        raise ConfigError(f"The environment cannot be read: {error}.") from error


def _listed(value: Any) -> Any:
    """A list as a person writes it into an environment variable: with commas, or as JSON."""
    if not isinstance(value, str):
        return value
    if not value.strip().startswith("["):
        return [part.strip() for part in value.split(",") if part.strip()]
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError(f"found {value[:100]!r}, expected names with commas between them, or a JSON list") from None


def _explain(error: ValidationError, *, variables: bool = False) -> str:
    """One sentence per wrong value; secrets never appear because inputs are left out."""
    problems = []
    for item in error.errors():
        where = ".".join(map(str, item["loc"])) or "settings"
        field = Settings.model_fields.get(str(item["loc"][0])) if item["loc"] else None
        if variables and field is not None and field.validation_alias is None:
            where = f"AL_{where.upper()}"
        reason = item["ctx"]["error"] if item["type"] == "value_error" else item["msg"]
        problems.append(f"{where}: {reason}")
    known = ", ".join(LearningSettings.model_fields)
    hint = f" (known: {known})" if any(item["type"] == "extra_forbidden" for item in error.errors()) else ""
    return "; ".join(problems) + hint
