"""Requests to a server, several at a time."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import TypeVar

from xtuner.errors import ConfigError

T = TypeVar("T")


def in_threads(asked: Sequence[Callable[[], T]], concurrency: int, write: Callable[[T], None]) -> None:
    """Call all of `asked`, `concurrency` at a time, and `write` what each returns when it does.

    After a ConfigError no more are begun; what is under way is paid for: it is waited for and written.
    """
    failure: ConfigError | None = None
    pool = concurrent.futures.ThreadPoolExecutor(concurrency)
    try:
        futures = [pool.submit(one) for one in asked]
        for future in concurrent.futures.as_completed(futures):
            if future.cancelled():
                continue
            try:
                found = future.result()
            except ConfigError as error:
                failure = failure or error
                for other in futures:
                    other.cancel()
            else:
                write(found)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if failure is not None:
        raise failure
