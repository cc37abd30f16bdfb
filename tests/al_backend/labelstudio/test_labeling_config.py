"""Labelling configs that are served, and why others are not."""

from __future__ import annotations

import pytest

from al_backend.errors import LabelConfigError
from al_backend.labelstudio.codec import from_annotation
from al_backend.labelstudio.labeling_config import parse_labeling_config

IMAGE = '<Image name="image" value="$picture"/>'


def rectangles(children: str = '<Label value="crab"/><Label value="eel"/>', **attributes: str) -> str:
    extra = " ".join(f'{name}="{value}"' for name, value in attributes.items())
    return f'<RectangleLabels name="box" toName="image" {extra}>{children}</RectangleLabels>'


def test_reads_names_key_and_labels_in_order() -> None:
    config = parse_labeling_config(f"<View><Header value='Fish'/>{rectangles()}{IMAGE}</View>")
    assert (config.from_name, config.to_name, config.data_key) == ("box", "image", "picture")
    assert config.labels == ("crab", "eel")
    assert config.score_threshold is None
    assert not config.skip


def test_reads_the_attributes_of_the_yolo_example() -> None:
    children = '<Label value="Fish" predicted_values="trout, Pike,"/><Label value="eel"/>'
    config = parse_labeling_config(f"<View>{IMAGE}{rectangles(children, model_score_threshold='0.4')}</View>")
    assert config.predicted_values == {"Fish": ("trout", "Pike")}
    assert config.score_threshold == 0.4
    assert [config.label_of(name) for name in ("eel", "PIKE", "trout", "Eel", "crab")] == [
        "eel",
        "Fish",
        "Fish",
        None,
        None,
    ]


def test_a_label_of_that_name_wins_over_predicted_values() -> None:
    children = '<Label value="fish" predicted_values="eel"/><Label value="eel"/>'
    assert parse_labeling_config(f"<View>{IMAGE}{rectangles(children)}</View>").label_of("eel") == "eel"


def test_nested_repeated_and_aliased_labels() -> None:
    children = '<View><Label value="a"/></View><Label value="a"/><Label value="Long name" alias="b"/><Label value=" "/>'
    assert parse_labeling_config(f"<View>{IMAGE}{rectangles(children)}</View>").labels == ("a", "b")


def test_a_label_keeps_the_spaces_with_which_label_studio_stores_it() -> None:
    children = """<Label value="Fish "/><Label value="Fish"/><Label value=" Red  crab" alias="rc "/>
        <Label value="a\tb"/><Label alias="" value=" eel"/><Label value=""/><Label/>"""
    config = parse_labeling_config(f"<View>{IMAGE}{rectangles(children)}</View>")
    # What label_studio_sdk's parse_config makes of it, with which Label Studio checks predictions.
    assert config.labels == ("Fish ", "Fish", "rc ", "a b", " eel")
    value = {"x": 10, "y": 10, "width": 10, "height": 10, "rectanglelabels": ["Fish "]}
    region = {"type": "rectanglelabels", "from_name": "box", "value": value}
    assert from_annotation([region], config, (100, 100)) == ([("Fish ", (10.0, 10.0, 20.0, 20.0))], [])


def test_a_control_that_asks_for_predictions_is_preferred_to_a_skipped_one() -> None:
    skipped = rectangles(model_skip="true")
    second = '<RectangleLabels name="second" toName="image"><Label value="x"/></RectangleLabels>'
    assert parse_labeling_config(f"<View>{IMAGE}{skipped}</View>").skip
    config = parse_labeling_config(f"<View>{IMAGE}{skipped}{second}</View>")
    assert config.from_name == "second"
    assert not config.skip


def test_one_of_several_targets_may_be_an_image() -> None:
    control = '<RectangleLabels name="box" toName="text,image"><Label value="x"/></RectangleLabels>'
    assert parse_labeling_config(f"<View>{IMAGE}{control}<Text name='text' value='$t'/></View>").to_name == "image"


@pytest.mark.parametrize(
    ("xml", "found"),
    [
        ("", "no XML"),
        ("<View>", "no XML"),
        ("<View/>", "no tags inside its root"),
        (f"<View>{IMAGE}<Choices name='c' toName='image'/></View>", "only 1 <Choices>, 1 <Image>"),
        (f"<View>{rectangles()}</View>", r"points to \['image'\], which is no <Image>"),
        (f"<View>{IMAGE}<RectangleLabels name='b'><Label value='x'/></RectangleLabels></View>", "points to nothing"),
        (f"<View>{rectangles()}<Video name='image' value='$v'/></View>", "which is no <Image>"),
        (f"<View>{rectangles()}<Image name='image' valueList='$all'/></View>", 'has value=""'),
        (f"<View>{IMAGE}{rectangles('')}</View>", "no fixed <Label"),
        (f"<View>{IMAGE}{rectangles(value='$labels')}</View>", "no fixed <Label"),
        (
            f"<View>{IMAGE}{rectangles(model_score_threshold='half')}</View>",
            'model_score_threshold="half"',
        ),
        (f"<View>{IMAGE}{rectangles(model_score_threshold='1.5')}</View>", "number from 0 to 1"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><View>&a;</View>', "entities"),
    ],
)
def test_refusals_say_what_was_found(xml: str, found: str) -> None:
    with pytest.raises(LabelConfigError, match=found):
        parse_labeling_config(xml)


def test_a_refusal_says_what_is_needed() -> None:
    with pytest.raises(LabelConfigError, match=r"this backend needs a <RectangleLabels .* value=\"\$\.\.\"/>\.$"):
        parse_labeling_config("<View/>")


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in zip("abcdefgh", "bcdefghi", strict=True))
    + "]><View>&i;</View>"
)


@pytest.mark.parametrize(
    "xml",
    [
        BOMB,
        '<?xml version="1.0" encoding="utf-16"?>' + BOMB,
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><View>&a;</View>',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd"><View/>',
        "<View>&xxe;</View>",
        "<View>" * 100_000,
        "<View>" * 60_000 + "</View>" * 60_000,
        '<View a="' + "x" * 2_000_000 + '"/>',
        "<View " + " ".join(f'a{number}="1"' for number in range(50_000)) + "/>",
    ],
)
@pytest.mark.timeout(60)  # what unfolds takes for ever
def test_xml_that_attacks_is_refused_at_once(xml: str) -> None:
    with pytest.raises(LabelConfigError) as refused:
        parse_labeling_config(xml)
    assert len(str(refused.value)) < 1000
    assert "root:" not in str(refused.value)


def test_a_config_with_very_many_labels_is_short_enough() -> None:
    labels = "".join(f'<Label value="species number {number}" background="#a0a0a0"/>' for number in range(5000))
    rectangle = f'<RectangleLabels name="r" toName="i">{labels}</RectangleLabels>'
    config = parse_labeling_config(f'<View><Image name="i" value="$image"/>{rectangle}</View>')
    assert len(config.labels) == 5000
