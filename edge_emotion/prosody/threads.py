"""Linear algebra on one thread while prosody is measured."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

_one_at_a_time = threading.Lock()


@contextmanager
def one_thread_for_numpy() -> Iterator[None]:
    """Within it, NumPy's linear algebra computes on one thread; afterwards as before.

    The products of the measures are too small to share: two threads take three times the processor time of one, on a
    busy machine they wait for each other eight times as long as one computes, and their sums have other last bits. The
    limit holds for the whole process, so blocks in several threads take turns. A caller that limits threads itself,
    from another thread, keeps its own limit.
    """
    with _one_at_a_time, _thread_pools().limit(limits=1, user_api="blas"):
        yield


@functools.cache
def _thread_pools() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
