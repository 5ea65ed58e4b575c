"""TensorRT's Python bindings; the only module that imports them. Releases 10.3 to 11.4, names that all of them have."""

from __future__ import annotations

import functools
import logging
import platform
import re
from types import ModuleType
from typing import Any

from edge_emotion.errors import RuntimeUnavailableError

LOGGER = logging.getLogger("edge_emotion.tensorrt")
OLDEST, NEWEST = (10, 3), (11, 99)
_KEPT_MESSAGES = 8


@functools.cache
def library() -> ModuleType:
    """The tensorrt module.

    Raises:
        RuntimeUnavailableError: It is not installed, its libraries are missing or of another version, or it is a
            release that this was not written for.
    """
    try:
        import tensorrt  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise RuntimeUnavailableError(_explain(str(error))) from error
    except Exception as error:  # a placeholder package raises whatever it likes
        raise RuntimeUnavailableError(f"tensorrt cannot be imported ({error}): {_install_line()}") from error
    check_release(str(getattr(tensorrt, "__version__", "")))
    return tensorrt


def _explain(message: str) -> str:
    """What a failed import means."""
    missing = re.search(r"(lib[\w-]+)\.so(?:\.(\d+))?", message)
    if missing:
        wanted = f"TensorRT {missing[2]}" if missing[2] else "TensorRT"
        if missing[1].startswith(("libcuda", "libcudart", "libcublas", "libcudnn")):
            return (
                f"tensorrt needs {missing[0]}, which is not here: install CUDA and its driver, then {_install_line()}"
            )
        return (
            f"tensorrt's Python bindings are here, its library {missing[0]} is not: the bindings are of {wanted}, and "
            f"no such libraries are installed. Remove the bindings (pip uninstall tensorrt), then {_install_line()}"
        )
    return f"tensorrt cannot be imported ({message}): {_install_line()}"


def _install_line() -> str:
    if platform.machine() == "aarch64":
        return (
            "sudo apt install python3-libnvinfer, and make the virtual environment with --system-site-packages "
            "(JetPack brings TensorRT; it is not on PyPI for Jetson)"
        )
    return "pip install tensorrt-cu12 (CUDA 12) or tensorrt-cu13 (CUDA 13)"


def check_release(version: str) -> tuple[int, int]:
    """Major and minor number of a version.

    Raises:
        RuntimeUnavailableError: It is not between 10.3 and 11.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    release = (int(found[1]), int(found[2])) if found else (0, 0)
    if not OLDEST <= release <= NEWEST:
        raise RuntimeUnavailableError(
            f"TensorRT {version or 'of unknown version'} is here; 10.3 to 11.x are needed (JetPack 6.1 or later): "
            f"{_install_line()}"
        )
    return release


def is_installed() -> bool:
    """Whether `library` would return it."""
    try:
        library()
    except RuntimeUnavailableError:
        return False
    return True


def create_logger(tensorrt: ModuleType) -> Any:
    """A logger that passes on what TensorRT says, and keeps its last warnings and errors in `messages`.

    A compiled class is derived from, so it is made when the module is known.
    """

    class Log(tensorrt.ILogger):
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            kinds = tensorrt.ILogger.Severity
            serious = severity in (kinds.INTERNAL_ERROR, kinds.ERROR)
            if serious or severity == kinds.WARNING:
                self.messages = [*self.messages, msg.strip()][-_KEPT_MESSAGES:]
            LOGGER.log(logging.INFO if serious else logging.DEBUG, "%s", msg)

        def recent(self) -> str:
            """The last messages, and forgets them."""
            kept, self.messages = self.messages, []
            return "; ".join(kept) or "it gave no reason"

    return Log()
