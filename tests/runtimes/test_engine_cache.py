"""Kept engines: never a damaged or foreign one taken for a good one, never half a file under a whole one's name."""

from __future__ import annotations

import dataclasses
import errno
import multiprocessing
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_emotion.errors import RuntimeUnavailableError
from edge_emotion_runtimes import engine_cache
from edge_emotion_runtimes.engine_cache import (
    MAGIC,
    EngineCache,
    EngineFileError,
    EngineKey,
    default_folder,
    graph_digests,
    read_engine,
)

KEY = EngineKey(("a" * 64,), "10.3.0", "12.6", "12.6", "Orin", "8.7", ((4800, 42400, 80000),), (("tf32", "False"),))
ENGINE = bytes(range(256)) * 16
OTHERS = {
    "onnx_sha256": ("b" * 64,),
    "tensorrt": "10.7.0",
    "cuda": "13.0",
    "driver": "12.8",
    "gpu": "Thor",
    "compute_capability": "11.0",
    "profiles": ((4800, 42400, 80001),),
    "flags": (("tf32", "True"),),
}


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def test_what_was_stored_is_loaded(cache):
    assert cache.load(KEY) is None
    path = cache.store(KEY, ENGINE, {"file": "encoder.fp16.onnx"})
    assert cache.load(KEY) == (ENGINE, {"file": "encoder.fp16.onnx"})
    assert [path] == list(cache.folder.iterdir())


@pytest.mark.parametrize("name", OTHERS)
def test_an_engine_for_anything_else_is_another_file(cache, name):
    assert {field.name for field in dataclasses.fields(EngineKey)} == set(OTHERS)
    other = dataclasses.replace(KEY, **{name: OTHERS[name]})
    cache.store(KEY, ENGINE, {})
    assert cache.load(other) is None


@pytest.mark.parametrize("name", OTHERS)
def test_a_header_that_was_edited_says_for_what_it_is(cache, name):
    """As if the file of another GPU, or of another TensorRT, had been copied over this one."""
    other = dataclasses.replace(KEY, **{name: OTHERS[name]})
    os.replace(cache.store(other, ENGINE, {}), cache.folder / KEY.name)
    with pytest.raises(EngineFileError, match=f"was built for {name}"):
        cache.load(KEY)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_that_is_cut_anywhere_is_damaged(cache, share):
    path = cache.store(KEY, ENGINE, {})
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(EngineFileError, match="damaged"):
        cache.load(KEY)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_a_byte_that_was_flipped_anywhere_is_noticed(cache, share, mask):
    path = cache.store(KEY, ENGINE, {})
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= mask
    path.write_bytes(data)
    try:
        loaded = cache.load(KEY)
    except EngineFileError:
        return
    # Only white space and the notes, which nothing depends on, may change without being noticed.
    assert loaded is not None
    assert loaded[0] == ENGINE


def test_something_longer_and_something_else(cache):
    path = cache.store(KEY, ENGINE, {})
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(EngineFileError, match="longer than it says"):
        cache.load(KEY)
    path.write_bytes(MAGIC + b"\xff\xff\xff\xff" + ENGINE)
    with pytest.raises(EngineFileError, match="damaged"):
        cache.load(KEY)
    path.unlink()
    path.mkdir()
    with pytest.raises(EngineFileError, match="cannot be read"):
        cache.load(KEY)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "disk is full"),
        (errno.EACCES, "permission"),
        (errno.EIO, "nput/output"),
    ],
)
def test_a_disk_that_fails_leaves_nothing_behind(cache, monkeypatch, number, message):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    cache.store(dataclasses.replace(KEY, gpu="Thor"), ENGINE, {})
    before = sorted(cache.folder.iterdir())
    monkeypatch.setattr(engine_cache.os, "fsync", fail)
    with pytest.raises(RuntimeUnavailableError, match=message):
        cache.store(KEY, ENGINE, {})
    assert sorted(cache.folder.iterdir()) == before


def test_a_disk_that_is_really_full(cache):
    """/dev/full answers every write as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    cache.folder.mkdir()
    with pytest.raises(OSError, match="No space"), open("/dev/full", "wb", buffering=0) as full:
        full.write(ENGINE)
    cache.store_timing("nothing", b"")
    assert cache.read_timing("nothing") == b""


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    cache = EngineCache(tmp_path / "file" / "engines")
    with pytest.raises(RuntimeUnavailableError, match="cannot be kept"):
        cache.store(KEY, ENGINE, {})
    with cache.building(KEY):
        pass
    cache.store_timing("t", b"1")
    assert cache.read_timing("t") == b""


def test_old_engines_make_room(cache):
    cache.max_bytes = 3 * len(ENGINE)
    keys = [dataclasses.replace(KEY, gpu=str(number)) for number in range(4)]
    for age, key in enumerate(keys[:2]):
        os.utime(cache.store(key, ENGINE, {}), (age + 1, age + 1))
    assert cache.load(keys[0]) is not None  # used now, so the other one is the older
    cache.store(keys[2], ENGINE, {})
    assert cache.load(keys[1]) is None
    assert cache.load(keys[0]) is not None
    cache.max_bytes = 1
    cache.store(keys[3], ENGINE, {})
    assert [path.name for path in cache.folder.glob("*.engine")] == [keys[3].name]


def build_once(folder: str, counter: str, ready) -> None:
    cache = EngineCache(Path(folder))
    ready.wait()
    with cache.building(KEY):
        if cache.load(KEY) is None:
            with open(counter, "ab") as file:
                file.write(b"x")
            time.sleep(0.2)
            cache.store(KEY, ENGINE, {})
    assert cache.load(KEY) is not None


def test_two_processes_build_one_engine_once(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    counter = tmp_path / "counter"
    workers = [
        context.Process(target=build_once, args=(str(tmp_path / "engines"), str(counter), ready)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    ready.set()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert counter.read_bytes() == b"x"


def hold_and_die(folder: str, holding) -> None:
    with EngineCache(Path(folder)).building(KEY):
        holding.set()
        os._exit(1)


def test_a_process_that_dies_while_building_frees_the_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    holding = context.Event()
    worker = context.Process(target=hold_and_die, args=(str(tmp_path), holding))
    worker.start()
    assert holding.wait(30)
    worker.join(30)
    with EngineCache(tmp_path).building(KEY):
        pass


def test_where_engines_are_kept(monkeypatch):
    monkeypatch.setenv("EDGE_EMOTION_CACHE", "/data/cache")
    assert default_folder() == Path("/data/cache/engines")
    monkeypatch.delenv("EDGE_EMOTION_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/me/.cache")
    assert default_folder() == Path("/home/me/.cache/edge-emotion/engines")


def test_weights_that_lie_apart_belong_to_the_key(tmp_path):
    graph = tmp_path / "encoder.onnx"
    graph.write_bytes(b"graph")
    alone = graph_digests(graph)
    (tmp_path / "encoder.onnx.data").write_bytes(b"weights")
    assert len(alone) == 1
    assert graph_digests(graph)[0] == alone[0]
    assert len(graph_digests(graph)) == 2
    assert graph_digests(graph, ["known"]) == ("known",)


def test_a_missing_file_is_not_damage(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_engine(tmp_path / "absent.engine")
