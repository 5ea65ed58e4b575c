"""Writes names.json: which names each release of TensorRT's and CUDA's own Python bindings has, and their parameters.

The bindings are compiled modules that load without a GPU once nine functions of the library they are linked to exist; a
C compiler makes those up here. So the names are read from the classes themselves, not from a manual.

    pip download --no-deps -d wheels tensorrt-cu12-bindings==10.3.0    # and so on, cuda-python==12.6.0, cuda-bindings
    python collect.py wheels/*.whl
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

TARGET = Path(__file__).with_name("names.json")
LINKED = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
    "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip
CLASSES = (
    "Builder", "BuilderFlag", "DataType", "Dims", "ErrorCode", "HardwareCompatibilityLevel", "IBuilderConfig",
    "ICudaEngine", "IExecutionContext", "IHostMemory", "ILogger", "ILogger.Severity", "INetworkDefinition",
    "IOptimizationProfile", "ITensor", "ITimingCache", "Logger", "MemoryPoolType", "NetworkDefinitionCreationFlag",
    "OnnxParser", "OnnxParserFlag", "ParserError", "ProfilingVerbosity", "Runtime", "TensorIOMode", "TensorLocation",
)  # fmt: skip
CUDA_MODULES = ("cuda.bindings.runtime", "cuda.cudart")
CUDA_NAMES = re.compile(r"cuda(Device|Driver|Event|Free|Get|Graph|Host|Malloc|Mem|Runtime|Set|Stream)[A-Za-z]*")
CUDA_TYPES = ("cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode", "cudaDeviceProp")


def main(wheels: list[str]) -> None:
    found: dict[str, dict[str, str]] = {}
    for wheel in map(Path, wheels):
        package, version = wheel.name.split("-")[:2]
        collect = collect_cuda if package.startswith("cuda") else collect_tensorrt
        # One process per release: two of them define the same C++ types.
        code = f"import sys, json; sys.path.insert(0, {str(Path(__file__).parent)!r}); import collect; "
        code += f"print(json.dumps(collect.{collect.__name__}({str(wheel.resolve())!r})))"
        done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
        release = ("cuda " if package.startswith("cuda") else "tensorrt ") + ".".join(version.split(".")[:2])
        found[release] = json.loads(done.stdout.splitlines()[-1])
        sys.stderr.write(f"{release}: {len(found[release])} names\n")
    TARGET.write_text(to_json(found), encoding="utf-8")


def to_json(found: dict[str, dict[str, str]]) -> str:
    """`{library: {releases, names: {name: [releases that lack it, or null; parameters of the newest]}}}`."""
    document = {}
    for library in sorted({release.split()[0] for release in found}):
        of_library = {key.split()[1]: names for key, names in found.items() if key.split()[0] == library}
        releases = sorted(of_library, key=lambda release: [int(part) for part in release.split(".")])
        names = {}
        for name in sorted(set().union(*of_library.values())):
            lacking = [release for release in releases if name not in of_library[release]]
            newest = next(release for release in reversed(releases) if name in of_library[release])
            names[name] = [lacking or None, of_library[newest][name]]
        document[library] = {"releases": releases, "names": names}
    return _indented(document)


def _indented(document: dict) -> str:
    """One line for each name."""
    parts = []
    for library, content in document.items():
        names = ",\n".join(f"  {json.dumps(name)}: {json.dumps(facts)}" for name, facts in content["names"].items())
        releases = json.dumps(content["releases"])
        parts.append(f'{json.dumps(library)}: {{\n "releases": {releases},\n "names": {{\n{names}}}}}')
    return "{" + ",\n".join(parts) + "}\n"


def collect_tensorrt(wheel: str) -> dict[str, str]:
    """Names of one release, with the parameters of functions: `Builder.create_network` -> `self, flags`."""
    folder = Path(tempfile.mkdtemp())
    with zipfile.ZipFile(wheel) as archive:
        library = Path(archive.extract("tensorrt_bindings/tensorrt.so", folder))
    source = folder / "linked.c"
    source.write_text("\n".join(f"int {name}(void) {{ return 0; }}" for name in LINKED))
    header = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    for name in re.findall(r"\[(libnv[^\]]+)\]", header):
        made = folder / name
        subprocess.run(["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", "-o", made, source], check=True)
        ctypes.CDLL(str(made), mode=ctypes.RTLD_GLOBAL)
    spec = importlib.util.spec_from_file_location("tensorrt", library)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = {name: "" for name in dir(module) if not name.startswith("_")}
    for name in CLASSES:
        kind = module
        for part in name.split("."):
            kind = getattr(kind, part, None)
        names |= {f"{name}.{member}": _parameters(kind, member) for member in dir(kind) if not member.startswith("_")}
        names[f"{name}.__init__"] = _parameters(kind, "__init__")
    return names


def _parameters(kind: object, member: str) -> str:
    """From the first line of the documentation: that is where a compiled function's parameters are."""
    documented = getattr(getattr(kind, member, None), "__doc__", None) or ""
    signatures = re.findall(rf"^\s*(?:\d+\. )?{member}\((self[^)]*)\)", documented, re.MULTILINE)
    signature = re.sub(r"<[^>]*>", "", signatures[0]) if signatures else ""
    # Types and defaults hold commas and brackets; parameter names stand before a colon.
    return ", ".join(["self", *re.findall(r"(\w+): ", signature)[1:]]) if signature else ""


def collect_cuda(wheel: str) -> dict[str, str]:
    """Names of the runtime API under both of the places where they were."""
    folder = tempfile.mkdtemp()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    sys.path.insert(0, folder)
    names: dict[str, str] = {}
    for place in CUDA_MODULES:
        try:
            module = importlib.import_module(place)
        except ImportError:
            continue
        names[place] = ""
        for name in filter(CUDA_NAMES.fullmatch, dir(module)):
            documented = getattr(getattr(module, name), "__doc__", None) or ""
            given = re.match(rf"{name}\(([^)]*)\)", documented)
            names[name] = ", ".join(re.findall(r"(\w+)(?=,|$)", given[1])) if given else ""
        for kind in CUDA_TYPES:
            members = getattr(module, kind)
            listed = getattr(members, "__members__", None) or dir(members)
            names |= {f"{kind}.{name}": "" for name in listed if not name.startswith("_")}
    return names


if __name__ == "__main__":
    main(sys.argv[1:])
