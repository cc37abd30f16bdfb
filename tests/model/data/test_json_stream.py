from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data import json_stream
from model.data.json_stream import iterate_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def expected(document: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(key, item) for key, value in document.items() for item in (value if isinstance(value, list) else [value])]


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.text(), VALUES, max_size=4), st.integers(1, 9), st.sampled_from([None, 0, 3]))
def test_any_document_in_pieces_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any], chunk: int, indent: int | None
) -> None:
    path = tmp_path_factory.mktemp("json") / "x.json"
    path.write_text(json.dumps(document, indent=indent, ensure_ascii=False), "utf-8", errors="surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "CHUNK", chunk)
        try:
            found = list(iterate_object(path))
        except UnicodeDecodeError:
            assert any("\ud800" <= character <= "\udfff" for character in json.dumps(document, ensure_ascii=False))
        else:
            assert found == expected(document)


def test_a_number_is_not_cut_by_the_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.json").write_text('{"a": [123456789, 12], "b": 345, "c": 1.5e+7}')
    for chunk in range(1, 12):
        monkeypatch.setattr(json_stream, "CHUNK", chunk)
        found = list(iterate_object(tmp_path / "x.json"))
        assert found == [("a", 123456789), ("a", 12), ("b", 345), ("c", 1.5e7)]


def test_only_a_little_is_held(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"a": [{"id": n, "text": "x" * 1000} for n in range(5000)]}))
    with path.open() as file:
        reader = json_stream._Reader(file)
        largest = max(len(reader._text) for _ in reader.members())
    assert largest <= 2 * json_stream.CHUNK < path.stat().st_size / 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1', "expected ',' or '}' at character 7"),
        ('{"a" 1}', "expected ':' at character 5"),
        ('{"a": [1 2]}', "expected ',' or ']' at character 9"),
        ('{"a": [1,]}', "Expecting value at character 9"),
        ("{1: 2}", "expected a member's name"),
        ('[{"a": 1}]', "expected '{' at character 0"),
        ('{"a": 1} {', "expected the end at character 9"),
        ('{"a": tru}', "Expecting value at character 6"),
    ],
)
def test_broken_documents_say_where(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=re.escape(reason)):
        list(iterate_object(tmp_path / "x.json"))


def test_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": []}')
    assert list(iterate_object(tmp_path / "x.json")) == []
