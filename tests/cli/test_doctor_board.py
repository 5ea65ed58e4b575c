"""What `doctor` says of boards made of files, with libraries compiled here: right ones, crashing ones, hanging ones."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from edge_emotion import gpu_libraries
from edge_emotion.board import read_board
from edge_emotion.board_checks import Finding, check_llama_cpp, check_machine
from edge_emotion.cli import doctor
from edge_emotion.cli.app import run
from edge_emotion.isolated import Answer, ask
from tests.boards import ORIN_NANO, write_board

FOLDER = "usr/lib/aarch64-linux-gnu"
GOOD = {
    "libcuda.so.1": """
#include <string.h>
int cuInit(int flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGetName(char *name, int size, int index) { strncpy(name, "Orin", size); return 0; }
int cuDeviceTotalMem_v2(unsigned long *bytes, int index) { *bytes = 7990000000UL; return 0; }
int cuDeviceGetAttribute(int *value, int what, int index) { *value = what == 75 ? 8 : 7; return 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
""",
    "libcudart.so.12": "int cudaRuntimeGetVersion(int *version) { *version = 12060; return 0; }",
    "libcudnn.so.9": "unsigned long cudnnGetVersion(void) { return 90300; }",
    "libnvinfer.so.10": "int getInferLibVersion(void) { return 100300; }",
}


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory):
    """Compiles C into a library of that name below a root."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler: fake libraries cannot be made")

    def make(root: Path, name: str, code: str) -> None:
        source = tmp_path_factory.mktemp("code") / "library.c"
        source.write_text(code)
        target = root / FOLDER / name
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", str(target), str(source)], check=True)

    return make


@pytest.fixture(autouse=True)
def _no_tensorrt_for_python(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Answer(problem="ModuleNotFoundError: No module named 'tensorrt'")
    monkeypatch.setattr(gpu_libraries, "python_tensorrt", lambda: missing)


def check(root: Path) -> dict[str, Finding]:
    return {finding.name: finding for finding in check_machine(read_board(root), root)}


def test_a_board_with_everything(tmp_path: Path, compiled) -> None:
    root = write_board(tmp_path)
    for name, code in GOOD.items():
        compiled(root, name, code)
    found = check(root)
    assert found["JetPack"].details["JetPack"] == "6.2.1"
    assert found["NVIDIA driver"].details["GPUs"] == ["Orin (compute capability 8.7)"]
    versions = {name: found[name].details["version"] for name in ("CUDA", "cuDNN", "TensorRT")}
    assert versions == {"CUDA": "12.6", "cuDNN": "9.3.0", "TensorRT": "10.3.0"}
    assert all(found[name].works for name in versions)
    assert gpu_libraries.this_device(root).name == "this orin-nano-8g"
    assert found["cuda-python"].works or found["cuda-python"].mend == "pip install 'cuda-python>=12.6,<13'"


def test_a_bare_board_gets_exact_lines(tmp_path: Path) -> None:
    found = check(write_board(tmp_path))
    assert found["NVIDIA driver"].mend == "sudo apt update && sudo apt install nvidia-jetpack"
    assert found["TensorRT"].mend == "sudo apt update && sudo apt install tensorrt python3-libnvinfer"
    assert found["power mode"].mend == "sudo nvpmodel -m 2"
    assert found["clocks"].mend == "sudo jetson_clocks"
    assert "set-default multi-user.target" in (found["desktop"].mend or "")
    assert "fallocate -l 8G" in (found["swap"].mend or "")
    assert all(finding.works or finding.optional for finding in found.values())


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("#include <stdlib.h>\n__attribute__((constructor)) void start(void) { abort(); }", "SIGABRT"),
        ("#include <unistd.h>\n__attribute__((constructor)) void start(void) { sleep(60); }", "more than"),
        ("int other;", "getInferLibVersion"),
    ],
)
def test_a_library_that_crashes_hangs_or_is_another(tmp_path: Path, compiled, code: str, says: str) -> None:
    compiled(tmp_path, "libnvinfer.so.10", code)
    start = time.monotonic()
    found = gpu_libraries.find("TensorRT", tmp_path, timeout_s=1.5)
    assert says in (found.answer.problem or "")
    assert found.version is None
    assert time.monotonic() - start < 10


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    root = write_board(tmp_path)
    (root / FOLDER).mkdir(parents=True)
    (root / FOLDER / "libnvinfer.so.10").write_bytes(b"\x7fELF" + bytes(100))
    finding = check(root)["TensorRT"]
    assert not finding.works
    assert "libnvinfer.so.10" in (finding.problem or "")


@pytest.mark.parametrize(("number", "problem"), [(8601, "wanted"), (100100, "too old")])
def test_another_tensorrt(tmp_path: Path, compiled, number: int, problem: str) -> None:
    root = write_board(tmp_path)
    name = "libnvinfer.so.8" if number < 10000 else "libnvinfer.so.10"
    compiled(root, name, f"int getInferLibVersion(void) {{ return {number}; }}")
    assert problem in (check(root)["TensorRT"].problem or "")


def test_bindings_that_a_virtual_environment_does_not_see(tmp_path: Path) -> None:
    root = write_board(tmp_path)
    (root / "usr/lib/python3.10/dist-packages/tensorrt").mkdir(parents=True)
    finding = check(root)["TensorRT for Python"]
    assert "does not see it" in (finding.problem or "")
    assert (finding.mend or "").startswith("echo /usr/lib/python3.10/dist-packages > ")


@pytest.mark.parametrize(("release", "supported"), [("R35 (release), REVISION: 4.1", False),
                                                    ("R36 (release), REVISION: 3.0", False),
                                                    ("R39 (release), REVISION: 2.0", True)])  # fmt: skip
def test_jetpacks(tmp_path: Path, release: str, supported: bool) -> None:
    root = write_board(tmp_path, ORIN_NANO | {"etc/nv_tegra_release": f"# {release}, GCID: 0\n"})
    assert check(root)["JetPack"].works is supported


def test_a_container_without_the_runtime(tmp_path: Path) -> None:
    files = {name: text for name, text in ORIN_NANO.items() if name != "etc/nv_tegra_release"} | {".dockerenv": ""}
    found = check(write_board(tmp_path, files))
    assert "--runtime nvidia" in (found["JetPack"].mend or "")
    assert "--runtime nvidia" in (found["NVIDIA driver"].mend or "")


@pytest.mark.parametrize(
    ("details", "problem"),
    [
        ({"gpu offload": False, "system": ""}, "processor only"),
        ({"gpu offload": True, "system": "CUDA : ARCHS = 860 | NO_VMM = 1 |"}, "no code for this GPU"),
        ({"gpu offload": True, "system": "CUDA : ARCHS = 870 | USE_GRAPHS = 1 |"}, "32 GiB of addresses"),
        ({"gpu offload": True, "system": "CUDA : ARCHS = 870 | NO_VMM = 1 |"}, None),
    ],
)
def test_llama_cpp_built_for_another_machine(tmp_path: Path, details: dict, problem: str | None) -> None:
    board = read_board(write_board(tmp_path))
    finding = check_llama_cpp(board, details, has_gpu=True)
    if problem is None:
        assert finding is None
        return
    assert finding is not None
    assert problem in (finding.problem or "")
    assert "-DCMAKE_CUDA_ARCHITECTURES=87 -DGGML_CUDA_NO_VMM=ON" in (finding.mend or "")


def test_hot(tmp_path: Path) -> None:
    board = dataclasses.replace(read_board(write_board(tmp_path)), temperatures_c={"gpu-thermal": 96.0})
    found = {finding.name: finding for finding in check_machine(board, tmp_path)}
    assert "96 degrees" in (found["temperature"].problem or "")


def test_the_command_on_a_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "ROOT", write_board(tmp_path))
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "sudo nvpmodel -m 2" in out
    assert "wanted: MAXN_SUPER" in out
    assert run(["doctor", "--json"]) == 0
    assert {"JetPack", "TensorRT"} <= {item["name"] for item in json.loads(capsys.readouterr().out)["board"]}


def test_two_packages_of_onnxruntime(tmp_path: Path) -> None:
    details = {"providers": ["CPUExecutionProvider"], "distributions": ["onnxruntime", "onnxruntime-gpu"]}
    packages = [Finding("onnxruntime", True, details)]
    (finding,) = doctor._check_gpu_packages(read_board(tmp_path), packages, has_gpu=False)
    assert "overwrite" in (finding.problem or "")
    assert finding.mend == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"


def test_a_provider_that_is_listed_and_does_not_run(tmp_path: Path) -> None:
    """The installed onnxruntime has no CUDA, as a GPU package on a machine without a GPU: a session tells."""
    finding = doctor._prove_provider("CUDAExecutionProvider", read_board(tmp_path))
    assert not finding.works
    assert "CPUExecutionProvider" in (finding.problem or "")


def test_asking() -> None:
    assert ask("x = 1", "{'x': x}").value == {"x": 1}
    assert ask("import os; os._exit(0)", "1").problem == "it gave no answer"
    assert "ZeroDivisionError" in (ask("1 / 0", "1").problem or "")
