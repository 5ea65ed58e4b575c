"""The bundle: a folder with `manifest.json` and model files; the only contract from export to runtimes.

Nothing in it is trusted before it is checked: the manifest is read strictly, file names may not leave the folder, and
every listed file is compared with its size and SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_emotion.errors import BundleError
from edge_emotion.manifest import (
    SCHEMA_VERSION,
    Calibration,
    EncoderSpec,
    EncoderVariant,
    FileEntry,
    LlmSpec,
    LlmVariant,
    Manifest,
    bullets,
)

__all__ = [
    "BUNDLES_FOLDER",
    "MANIFEST_NAME",
    "SCHEMA_VERSION",
    "Bundle",
    "Calibration",
    "EncoderSpec",
    "EncoderVariant",
    "FileEntry",
    "LlmSpec",
    "LlmVariant",
    "Manifest",
    "load_bundle",
    "sha256_of",
    "verify_files",
    "write_manifest",
]

MANIFEST_NAME = "manifest.json"
BUNDLES_FOLDER = Path(__file__).parent / "bundles"
MAX_MANIFEST_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest as `write_manifest` writes it; identifies all files, since it holds their hashes."""
        return hashlib.sha256(self.manifest.to_json().encode()).hexdigest()

    def encoder_path(self, precision: str | None = None) -> Path:
        """File of the audio encoder with this precision, or of the preferred variant.

        Raises:
            BundleError: The bundle has no such variant; names those it has.
        """
        files = {variant.precision: variant.file for variant in self.manifest.encoder.variants}
        return self.path / self._choose("encoder precision", files, precision)

    def llm_path(self, quantisation: str | None = None) -> Path:
        """File of the language model with this quantisation, the first for this runtime, or the preferred variant.

        Raises:
            BundleError: The bundle has no such variant; names those it has.
        """
        files = {variant.quantisation: variant.file for variant in self.manifest.llm.variants}
        for variant in self.manifest.llm.variants:
            files.setdefault(variant.runtime, variant.file)
        return self.path / self._choose("language model", files, quantisation)

    def files_of(self, file: str) -> list[str]:
        """A variant's file and, where its weights lie apart because of their size, that of the weights."""
        return [name for name in (file, file + ".data") if name == file or name in self.manifest.files]

    def llm_variant(self, quantisation: str | None = None) -> LlmVariant:
        """The variant whose file `llm_path` gives.

        Raises:
            BundleError: The bundle has no such variant; names those it has.
        """
        return self.llm_variant_of(self.llm_path(quantisation).relative_to(self.path).as_posix())

    def llm_variant_of(self, file: str) -> LlmVariant:
        """The variant whose file this is."""
        return next(variant for variant in self.manifest.llm.variants if variant.file == file)

    def _choose(self, what: str, files: Mapping[str, str], wanted: str | None) -> str:
        if wanted is None:
            return next(iter(files.values()))
        if wanted not in files:
            raise BundleError(f"bundle {self.manifest.name!r} has no {what} {wanted!r}; it has: {', '.join(files)}")
        return files[wanted]


def load_bundle(name_or_path: str | os.PathLike[str] = "nano", verify: bool = True) -> Bundle:
    """Opens a bundle.

    Args:
        name_or_path: Name of a bundle that comes with the package (`nano`), or a folder (write `./nano` for a folder
            of that name).
        verify: Compare the SHA-256 of every file. Paths and sizes are always checked. Where only some files will be
            used, give False and call `verify_files` with their names.

    Raises:
        BundleError: Says which file is wrong and what to do.
    """
    folder = _bundle_folder(name_or_path)
    manifest = _load_manifest(folder / MANIFEST_NAME)
    verify_files(folder, manifest, hashes=verify)
    return Bundle(folder, manifest)


def verify_files(
    folder: str | os.PathLike[str], manifest: Manifest, names: Iterable[str] | None = None, hashes: bool = True
) -> None:
    """Compares files with the manifest: each is a plain file inside the folder with the right size and SHA-256.

    Args:
        folder: The bundle's folder.
        manifest: Its manifest.
        names: Files to check, relative to the folder; all by default.
        hashes: False checks paths and sizes only, without reading the files.

    Raises:
        BundleError: Lists every file that differs.
    """
    root = Path(folder).resolve()
    problems = []
    for name in manifest.files if names is None else names:
        entry = manifest.files.get(name)
        problem = _file_problem(root, name, entry, hashes) if entry else "is not listed in the manifest"
        if problem:
            problems.append(f"{name} {problem}")
    if problems:
        raise BundleError(
            f"bundle {folder} does not match its manifest:\n{bullets(problems)}\n"
            "Get the bundle again from where it came (a built-in one: reinstall edge-emotion), or export it again."
        )


def write_manifest(folder: str | os.PathLike[str], manifest: Manifest, force: bool = False) -> Manifest:
    """Writes `manifest.json` with the size and SHA-256 of every file in the folder; hidden files are left out.

    Args:
        folder: Folder that already holds the bundle's files.
        manifest: Everything but `files`, which is found here.
        force: Replace a manifest that is there.

    Returns:
        The manifest as written.

    Raises:
        BundleError: There is a manifest already, the manifest is not valid, or a file may not be in a bundle.
    """
    root = Path(folder).resolve()
    target = root / MANIFEST_NAME
    if not root.is_dir():
        raise BundleError(f"{folder} is not a folder; put the bundle's files into one first")
    if target.exists() and not force:
        raise BundleError(f"{target} is there already; give force to replace it, or choose another folder")
    complete = Manifest.from_dict(replace(manifest, files=_list_files(root)).to_dict())
    temporary = root / f".{MANIFEST_NAME}.{os.getpid()}"
    try:
        temporary.write_text(complete.to_json(), encoding="utf-8")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return complete


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, 64 hex digits."""
    digest = hashlib.sha256()  # hashlib.file_digest needs Python 3.11
    buffer = memoryview(bytearray(2**20))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def _list_files(root: Path) -> dict[str, FileEntry]:
    files = {}
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        name = "/".join(parts)
        if name == MANIFEST_NAME or any(part.startswith(".") for part in parts):
            continue
        if path.is_dir() and not path.is_symlink():
            continue
        real = _plain_file_inside(root, name)
        if isinstance(real, str):
            raise BundleError(f"{name} in {root} {real}; a bundle holds plain files only")
        files[name] = FileEntry(real.stat().st_size, sha256_of(real))
    return files


def _bundle_folder(name_or_path: str | os.PathLike[str]) -> Path:
    text = os.fspath(name_or_path)
    is_name = isinstance(name_or_path, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text)
    for folder in [BUNDLES_FOLDER / text] * bool(is_name) + [Path(text)]:
        with contextlib.suppress(OSError, ValueError):  # too long, not allowed to look, or a null byte
            if folder.is_dir():
                return folder
    names = sorted(path.parent.name for path in BUNDLES_FOLDER.glob(f"*/{MANIFEST_NAME}"))
    raise BundleError(
        f"no bundle {text!r:.200}: give a folder that holds {MANIFEST_NAME}, or the name of a built-in bundle: "
        f"{', '.join(names) or '(none in this installation)'}"
    )


def _load_manifest(path: Path) -> Manifest:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_MANIFEST_BYTES + 1)
        if len(content) > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path} is larger than {MAX_MANIFEST_BYTES:,} bytes: it is no manifest of a bundle")
        data = json.loads(content, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise BundleError(f"{path} is missing: a bundle is a folder with a {MANIFEST_NAME}; export it again") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not valid JSON ({error}); get the bundle again, or export it again") from None
    try:
        return Manifest.from_dict(data)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError("the same name twice: " + ", ".join(repr(key) for key in unique if keys.count(key) > 1))
    return unique


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number in JSON")


def _plain_file_inside(root: Path, name: str) -> Path | str:
    """The real path of a file of the bundle, or what is wrong with it."""
    try:
        path = (root / name).resolve(strict=True)
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "is missing"
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        return f"cannot be read ({error})"
    if not path.is_relative_to(root):
        return "is a link that leaves the bundle's folder (put a copy there, for example with `cp -L`)"
    return path if stat.S_ISREG(mode) else "is not a plain file"


def _file_problem(root: Path, name: str, entry: FileEntry, check_hash: bool) -> str | None:
    path = _plain_file_inside(root, name)
    if isinstance(path, str):
        return path
    try:
        size = path.stat().st_size
        if size != entry.size:
            return f"has {size:,} bytes, the manifest says {entry.size:,}"
        if check_hash and (digest := sha256_of(path)) != entry.sha256:
            return f"was changed: its SHA-256 is {digest[:12]}..., the manifest says {entry.sha256[:12]}..."
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return None
