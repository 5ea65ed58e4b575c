"""While prosody is measured, linear algebra has one thread: results do not depend on how many the machine has."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from edge_emotion.prosody import measure_prosody, measures
from tests.prosody.synthetic_voices import voice


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture
def two_threads() -> Iterator[None]:
    with threadpool_limits(2, user_api="blas"):
        if blas_threads() != {2}:
            pytest.skip("this NumPy's linear algebra has no threads to limit")
        yield


@pytest.mark.usefixtures("two_threads")
def test_one_thread_within_and_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    track_pitch = measures.track_pitch
    monkeypatch.setattr(measures, "track_pitch", lambda samples: seen.append(blas_threads()) or track_pitch(samples))
    measure_prosody(voice(140.0, 0.5))
    assert seen == [{1}]
    assert blas_threads() == {2}


@pytest.mark.usefixtures("two_threads")
def test_as_before_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: np.ndarray) -> None:
        raise ValueError("inside")

    monkeypatch.setattr(measures, "track_pitch", fail)
    with pytest.raises(ValueError, match="inside"):
        measure_prosody(voice(140.0, 0.5))
    assert blas_threads() == {2}


def test_several_callers_get_the_values_of_one() -> None:
    voices = [voice(f0_hz, 1.0) for f0_hz in (90.0, 140.0, 210.0, 300.0)]
    alone = [measure_prosody(samples).to_dict() for samples in voices]
    with ThreadPoolExecutor(4) as pool:
        together = [prosody.to_dict() for prosody in pool.map(measure_prosody, voices)]
    assert together == alone
