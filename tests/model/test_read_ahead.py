from __future__ import annotations

import threading

import pytest

from model.read_ahead import read_ahead


def test_gives_all_in_order() -> None:
    assert list(read_ahead(lambda number: number * 2, range(5))) == [0, 2, 4, 6, 8]
    assert list(read_ahead(str, [])) == []


def test_the_next_is_made_while_the_present_one_is_used_and_none_after_it() -> None:
    made: list[int] = []
    second = threading.Event()

    def make(number: int) -> int:
        made.append(number)
        if number == 1:
            second.set()
        return number

    numbers = read_ahead(make, range(10))
    assert next(numbers) == 0
    assert second.wait(5)
    assert next(numbers) == 1
    numbers.close()
    assert len(made) <= 3


def test_an_error_comes_at_the_turn_of_its_item() -> None:
    def make(number: int) -> int:
        if number == 1:
            raise ValueError("no one")
        return number

    numbers = read_ahead(make, range(3))
    assert next(numbers) == 0
    with pytest.raises(ValueError, match="no one"):
        next(numbers)
