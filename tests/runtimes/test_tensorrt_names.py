"""Every name of TensorRT and CUDA that is used is one of the real bindings, in each release from 10.3 to 11.4.

`tensorrt_names/names.json` was read from those bindings themselves (`tensorrt_names/collect.py`).
"""

from __future__ import annotations

import ast
import enum
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from edge_emotion_runtimes import cuda_api, tensorrt_api, tensorrt_builder, tensorrt_encoder, tensorrt_execution

from .fake_gpu import CudaRuntime, Gpu, cudaError_t
from .fake_tensorrt import make_tensorrt

LISTED = json.loads((Path(__file__).parent / "tensorrt_names" / "names.json").read_text())
TENSORRT, CUDA = LISTED["tensorrt"]["names"], LISTED["cuda"]["names"]
# What TensorRT 11 took away; none of it may be used on 10 either.
REMOVED = {name.rsplit(".", 1)[-1] for name, (lacking, _) in TENSORRT.items() if lacking and "11.4" in lacking}
USERS = (tensorrt_api, tensorrt_builder, tensorrt_encoder, tensorrt_execution)


def faked() -> dict[str, Any]:
    """Public names of the fake tensorrt, with what stands behind them."""
    module = make_tensorrt(Gpu(), CudaRuntime(Gpu()))
    names: dict[str, Any] = {}
    for kind in (value for name, value in vars(module).items() if inspect.isclass(value)):
        names[kind.__name__] = kind
        members = kind.__members__ if issubclass(kind, enum.Enum) else vars(kind)
        names |= {f"{kind.__name__}.{name}": value for name, value in members.items() if not name.startswith("_")}
    severity = module.ILogger.Severity
    return names | {f"ILogger.Severity.{name}": value for name, value in severity.__members__.items()}


def test_the_list_spans_what_is_supported():
    assert LISTED["tensorrt"]["releases"] == ["10.3", "10.7", "10.13", "10.16", "11.0", "11.4"]
    assert LISTED["cuda"]["releases"] == ["12.6", "12.9", "13.4"]
    assert {"FP16", "INT8", "int8_calibrator", "EXPLICIT_BATCH", "platform_has_fast_fp16"} <= REMOVED


@pytest.mark.parametrize("name", sorted(faked()))
def test_a_name_of_the_fake_is_real_in_every_release(name):
    lacking, parameters = TENSORRT[name]
    assert lacking is None
    value = faked()[name]
    if inspect.isfunction(value) and parameters:
        given = ", ".join(inspect.signature(value).parameters)
        # What follows has defaults.
        assert given == parameters or parameters.startswith(given + ", ")


@pytest.mark.parametrize(
    "name", sorted({name for name in dir(CudaRuntime) if name.startswith("cuda")} - {"cudaError_t"})
)
def test_a_name_of_cuda_is_real_in_every_release(name):
    lacking, parameters = CUDA[name]
    assert lacking is None
    value = vars(CudaRuntime)[name]
    if isinstance(value, enum.EnumMeta):
        assert all(CUDA[f"{name}.{member}"][0] is None for member in value.__members__)
    if inspect.isfunction(value):
        count = len(inspect.signature(value).parameters) - 1
        # An enumeration stands in the list without the name of its parameter.
        assert count == len([part for part in parameters.split(", ") if part])


def test_the_errors_of_cuda_that_are_explained_exist():
    assert not [name for name in cudaError_t.__members__ if CUDA[f"cudaError_t.{name}"][0]]
    assert not [name for name in cuda_api._REMEDIES if f"cudaError_t.{name}" not in CUDA]


def test_cuda_is_where_it_is_looked_for():
    assert CUDA["cuda.bindings.runtime"][0] == ["12.6"]
    assert CUDA["cuda.cudart"][0] == ["13.4"]


@pytest.mark.parametrize("module", USERS, ids=lambda module: module.__name__.rsplit(".", 1)[-1])
def test_nothing_that_was_removed_is_used(module):
    tree = ast.parse(Path(module.__file__).read_text())
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    only_removed = REMOVED - {name.rsplit(".", 1)[-1] for name, (lacking, _) in TENSORRT.items() if not lacking}
    assert not attributes & only_removed


def test_only_names_of_the_fake_are_asked_of_the_module():
    """What is read from the module itself, as `tensorrt.Builder`: all of it was checked above."""
    allowed = {name.split(".")[0] for name in faked()} | {"__version__"}
    for module in USERS:
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id not in ("tensorrt", "trt") or node.attr in allowed, node.attr
