"""Errors of edge-emotion. Each message says what was given, what is allowed, and what to do."""

from __future__ import annotations


class EdgeEmotionError(Exception):
    """Base of every error that a user can cause or mend; the command line prints it without a traceback."""


class AudioError(EdgeEmotionError):
    """A recording that cannot be read or holds nothing to analyse."""


class BundleError(EdgeEmotionError):
    """A bundle that is incomplete, changed, too new, or points outside its folder."""


class RuntimeUnavailableError(EdgeEmotionError):
    """A runtime or device that was asked for cannot run on this machine."""


class LanguageModelError(EdgeEmotionError):
    """Input that a language-model runtime must refuse, because the C library underneath would end the process."""


class ConfigError(EdgeEmotionError):
    """A configuration with unknown keys or impossible values; lists all of them at once."""


class CorpusError(EdgeEmotionError):
    """A corpus folder that does not look as its reader expects."""


class LabellingError(EdgeEmotionError):
    """A step of the data engine that cannot run or go on; what is done is kept."""


class ExportError(EdgeEmotionError):
    """An artefact that failed its parity gate or would overwrite another."""
