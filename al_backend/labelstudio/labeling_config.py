"""What a project's labelling config says about boxes: tag names, labels, and how a detector's classes map to them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from al_backend.errors import LabelConfigError

_NEEDED = (
    'this backend needs a <RectangleLabels name=".." toName=".."> with <Label value=".."/> children, whose toName is '
    'the name of an <Image name=".." value="$.."/>'
)


LONGEST = 1_000_000
"""Characters; a thousand labels take about 100,000."""


@dataclass(frozen=True)
class LabelingConfig:
    """The `RectangleLabels` on an `Image` that this backend serves.

    Attributes:
        from_name: name of the `RectangleLabels` tag.
        to_name: name of the `Image` tag.
        data_key: key of the image in a task's data, without the dollar sign.
        labels: what annotators can choose, in the config's order, without duplicates; the detector's classes.
        predicted_values: label -> names that a detector trained elsewhere may use for it.
        score_threshold: least confidence of a pre-annotated box, None when the config does not say.
        skip: the config asks for no predictions (`model_skip`).
    """

    from_name: str
    to_name: str
    data_key: str
    labels: tuple[str, ...]
    predicted_values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    score_threshold: float | None = None
    skip: bool = False

    def shown_from(self, setting: float) -> float:
        """Least confidence of a pre-annotated box: the config's own, else what the setting says."""
        return setting if self.score_threshold is None else self.score_threshold

    def label_of(self, name: str) -> str | None:
        """The label for a detector's class name, None when the config has none for it.

        A label of that name wins over one that lists it in `predicted_values`, where case is ignored, as in Label
        Studio's own YOLO backend.
        """
        if name in self.labels:
            return name
        wanted = name.casefold()
        for label, values in self.predicted_values.items():
            if any(value.casefold() == wanted for value in values):
                return label
        return None


SKIPPED = "The labelling config has `model_skip`: this backend neither trains nor predicts here."
"""For people, where `LabelingConfig.skip` is true."""


def parse_labeling_config(xml: str) -> LabelingConfig:
    """The first usable `RectangleLabels`-`Image` pair; one without `model_skip` is preferred.

    Raises:
        LabelConfigError: the text is not XML or holds no such pair; the message says what was found and what is needed.
    """
    root = _parse(xml)
    images = {tag.get("name"): tag for tag in root.iter("Image") if tag.get("name")}
    problems: list[str] = []
    skipped: LabelingConfig | None = None
    for control in root.iter("RectangleLabels"):
        try:
            config = _read_pair(control, images)
        except LabelConfigError as error:
            problems.append(str(error))
            continue
        if not config.skip:
            return config
        skipped = skipped or config
    if skipped is not None:
        return skipped
    found = "; ".join(problems) or f"the labelling config has {_tags(root)}"
    raise LabelConfigError(f"{found[0].upper()}{found[1:]}; {_NEEDED}.")


def _parse(xml: str) -> ET.Element:
    if len(xml) > LONGEST:
        raise LabelConfigError(
            f"The labelling config has {len(xml):,} characters, more than the {LONGEST:,} that are read."
        )
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise LabelConfigError("The labelling config declares a document type or entities; remove them.")
    try:
        return ET.fromstring(xml)
    except ET.ParseError as error:
        start = xml.strip()[:60]
        raise LabelConfigError(f"The labelling config is no XML ({error}); it starts with {start!r}.") from error


def _read_pair(control: ET.Element, images: Mapping[str | None, ET.Element]) -> LabelingConfig:
    name = control.get("name")
    if not name or "{{" in name:
        raise LabelConfigError(f"a <RectangleLabels> has the name {name!r}, expected a fixed one")
    targets = [target.strip() for target in (control.get("toName") or "").split(",") if target.strip()]
    target = next((target for target in targets if target in images), None)
    if target is None:
        raise LabelConfigError(f'<RectangleLabels name="{name}"> points to {targets or "nothing"}, which is no <Image>')
    data_key = images[target].get("value") or ""
    if not data_key.startswith("$") or len(data_key) < 2:
        raise LabelConfigError(f'<Image name="{target}"> has value="{data_key}", expected one such as value="$image"')
    # With its spaces: Label Studio stores "Fish " in the regions, and drops predictions that say "Fish".
    children = [(tag, tag.get("alias") or tag.get("value") or "") for tag in control.iter("Label")]
    children = [(tag, label) for tag, label in children if label.strip()]
    labels = tuple(dict.fromkeys(label for _, label in children))
    if not labels or (control.get("value") or "").startswith("$"):
        raise LabelConfigError(f'<RectangleLabels name="{name}"> has no fixed <Label value=".."/> children')
    predicted = {label: _names(tag.get("predicted_values")) for tag, label in children}
    return LabelingConfig(
        from_name=name,
        to_name=target,
        data_key=data_key[1:],
        labels=labels,
        predicted_values={label: names for label, names in predicted.items() if names},
        score_threshold=_threshold(control.get("model_score_threshold"), name),
        skip=(control.get("model_skip") or "").strip().lower() in ("true", "1", "yes"),
    )


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _threshold(text: str | None, name: str) -> float | None:
    if text is None or not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise LabelConfigError(
            f'<RectangleLabels name="{name}"> has model_score_threshold="{text}", expected a number from 0 to 1'
        )
    return value


def _tags(root: ET.Element) -> str:
    counts = Counter(str(tag.tag) for tag in root.iter() if tag is not root)
    if not counts:
        return "no tags inside its root"
    return "only " + ", ".join(f"{count} <{tag}>" for tag, count in sorted(counts.items()))
