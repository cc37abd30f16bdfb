"""Prepares the next thing while the present one is worked on: files are decoded while a network computes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def read_ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Generator[Made, None, None]:
    """`make(item)` for each item, in order; while the caller works with one, a thread makes the next.

    What `make` raises is raised here when its item has its turn. Nothing is made further ahead than one item, which
    bounds the memory; an iteration that is left early waits for what is being made.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
    try:
        upcoming: Future[Made] | None = None
        for item in items:
            present, upcoming = upcoming, pool.submit(make, item)
            if present is not None:
                yield present.result()
        if upcoming is not None:
            yield upcoming.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
