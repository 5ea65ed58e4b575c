from __future__ import annotations

import contextlib
import io
import os
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_emotion import audio as audio_module
from edge_emotion.audio import SAMPLE_RATE_HZ, Audio, from_samples, load_audio
from edge_emotion.errors import AudioError


def tone(duration_s: float = 1.0, rate_hz: int = 16000, amplitude: float = 0.3) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * 440.0 * np.arange(round(duration_s * rate_hz)) / rate_hz)


def encoded(samples: np.ndarray, rate_hz: int = 16000, file_format: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=file_format, subtype=subtype)
    return buffer.getvalue()


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def assert_sound(audio: Audio) -> None:
    assert audio.samples.dtype == np.float32
    assert audio.samples.ndim == 1
    assert len(audio.samples) >= 1
    assert np.isfinite(audio.samples).all()
    assert audio.duration_s == len(audio.samples) / SAMPLE_RATE_HZ


@pytest.mark.parametrize(
    ("file_format", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 0.01),
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-6),
        ("WAV", "FLOAT", 1e-6),
        ("WAV", "DOUBLE", 1e-6),
        ("WAV", "ULAW", 0.02),
        ("WAVEX", "PCM_16", 1e-4),
        ("RF64", "PCM_16", 1e-4),
        ("AIFF", "PCM_16", 1e-4),
        ("AU", "PCM_16", 1e-4),
        ("CAF", "PCM_16", 1e-4),
        ("FLAC", "PCM_16", 1e-4),
        ("FLAC", "PCM_24", 1e-6),
        ("OGG", "VORBIS", 0.1),
        ("OGG", "OPUS", 0.1),
        ("MP3", "MPEG_LAYER_III", 0.1),
    ],
)
def test_formats_give_the_same_sound(file_format: str, subtype: str, tolerance: float) -> None:
    voice = tone(3.0)
    audio = load_audio(encoded(voice, 16000, file_format, subtype))
    assert_sound(audio)
    assert audio.warnings == ()
    assert len(audio.samples) == len(voice)
    # The middle, since a lossy codec fades in and out.
    assert np.max(np.abs(audio.samples - voice)[4000:-4000]) <= tolerance


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000, 192000])
def test_rates_are_resampled(rate_hz: int) -> None:
    audio = load_audio(encoded(tone(2.0, rate_hz), rate_hz, "WAV", "FLOAT"))
    assert_sound(audio)
    assert (audio.source_rate_hz, audio.source_channels) == (rate_hz, 1)
    assert audio.duration_s == 2.0
    assert np.max(np.abs(audio.samples - tone(2.0))[800:-800]) < 2e-3
    assert any("sounds above" in warning for warning in audio.warnings) == (rate_hz < 16000)


def test_six_channels_at_96_khz_are_averaged() -> None:
    channels = np.stack([tone(1.0, 96000)] * 3 + [np.zeros(96000)] * 3, axis=1)
    audio = load_audio(encoded(channels, 96000))
    assert (audio.source_rate_hz, audio.source_channels) == (96000, 6)
    assert rms(audio.samples) == pytest.approx(rms(tone()) / 2, rel=1e-2)
    assert audio.warnings == ()


def test_channels_that_cancel_are_said() -> None:
    audio = load_audio(encoded(np.stack([tone(), -tone()], axis=1)))
    assert any("cancel each other" in warning for warning in audio.warnings)
    assert load_audio(encoded(np.random.default_rng(0).normal(0, 0.1, (16000, 6)))).warnings == ()


@pytest.mark.parametrize(
    "samples",
    [np.zeros(160), np.zeros(48000), tone(3.0), np.random.default_rng(0).normal(0, 0.1, 48000), np.full(1, 0.5)],
    ids=["10 ms", "silence", "tone", "noise", "one sample"],
)
def test_unusual_but_readable(samples: np.ndarray) -> None:
    audio = load_audio(encoded(samples))
    assert_sound(audio)
    assert len(audio.samples) == len(samples)
    assert audio.warnings == ()


def test_no_samples() -> None:
    for file_format in ("WAV", "AIFF"):
        with pytest.raises(AudioError, match=r"holds no samples \(0 s\)"):
            load_audio(encoded(np.zeros(0), 16000, file_format))
    with pytest.raises(AudioError, match="empty"):
        load_audio(b"")


def test_nan_infinite_and_absurd_values_are_replaced_and_said() -> None:
    voice = tone()
    voice[[5, 100, 101, 9000]] = [np.nan, np.inf, -np.inf, 1e30]
    audio = load_audio(encoded(voice, 16000, "WAV", "FLOAT"))
    assert_sound(audio)
    assert audio.warnings == ("4 of 16,000 samples are NaN, infinite or absurdly large; they were replaced by 0",)
    assert not audio.samples[[5, 100, 101, 9000]].any()
    assert rms(audio.samples) == pytest.approx(rms(tone()), rel=1e-3)
    everything = from_samples(np.full(50_000, np.nan), 44100)
    assert_sound(everything)
    assert not everything.samples.any()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
def test_clipping_is_said_with_its_share(subtype: str) -> None:
    audio = load_audio(encoded(np.clip(tone(amplitude=1.3), -1, 1), 16000, "WAV", subtype))
    # |sin| > 1 / 1.3 for 44 % of the time.
    assert any(warning.startswith("clipped: 4") for warning in audio.warnings), audio.warnings
    assert load_audio(encoded(tone(amplitude=1.0), 16000, "WAV", subtype)).warnings == ()


def test_float_file_in_int16_units_is_scaled() -> None:
    audio = load_audio(encoded(tone() * 32768, 16000, "WAV", "FLOAT"))
    assert np.max(np.abs(audio.samples)) == 1.0
    assert "9,830 times full scale" in audio.warnings[0]
    assert np.max(np.abs(load_audio(encoded(tone(amplitude=1.5), 16000, "WAV", "FLOAT")).samples)) > 1.4


@pytest.mark.parametrize("file_format", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "FLAC", "MP3"])
def test_truncated_file_says_how_much_is_missing(file_format: str) -> None:
    content = encoded(np.random.default_rng(0).normal(0, 0.1, 48000), 16000, file_format)
    audio = load_audio(content[: len(content) // 2])
    assert_sound(audio)
    assert 0.9 <= audio.duration_s <= 1.6
    assert len(audio.warnings) == 1
    missing_percent = round(100 * (1 - audio.duration_s / 3))
    assert "the header promises 3.00 s" in audio.warnings[0]
    assert f"({missing_percent} % missing)" in audio.warnings[0]


@pytest.mark.parametrize("declared_bytes", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_streamed_wav_of_unknown_length_is_whole(declared_bytes: int) -> None:
    content = bytearray(encoded(tone()))
    content[40:44] = struct.pack("<I", declared_bytes)
    audio = load_audio(bytes(content))
    assert audio.duration_s == 1.0
    assert audio.warnings == ()


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (22, b"\xff\xff"),
        (22, b"\0\0"),
        (24, b"\xff\xff\xff\xff"),
        (24, b"\0\0\0\0"),
        (24, b"\1\0\0\0"),
        (34, b"\x7f\0"),
    ],
    ids=["65535 channels", "0 channels", "4 GHz", "0 Hz", "1 Hz", "127 bits"],
)
def test_absurd_wav_header(offset: int, value: bytes) -> None:
    content = bytearray(encoded(tone()))
    content[offset : offset + len(value)] = value
    with pytest.raises(AudioError, match=r"^bytes"):
        load_audio(bytes(content))


def test_absurd_length_is_refused_before_it_is_decoded() -> None:
    content = bytearray(encoded(tone(), 16000, "FLAC"))
    content[21] |= 0x0F
    with pytest.raises(AudioError, match=r"lasts 1,118.5 h by its header, more than the allowed 2 h; cut it"):
        load_audio(bytes(content))


def test_length_is_bounded_where_no_header_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_module, "MAX_DURATION_S", 2.0)
    assert from_samples(tone(2.0), 16000).duration_s == 2.0
    with pytest.raises(AudioError, match="lasts longer than the allowed"):
        from_samples(tone(2.1), 16000)


def test_ten_minutes_are_read_in_blocks_without_a_seam() -> None:
    audio = from_samples(tone(600.0, 8000), 8000)
    assert audio.duration_s == 600.0
    middle = audio.samples[SAMPLE_RATE_HZ:-SAMPLE_RATE_HZ]
    assert rms(middle) == pytest.approx(0.3 / np.sqrt(2), rel=1e-3)
    assert np.max(np.abs(np.diff(middle))) < 0.3 * 2 * np.pi * 440 / SAMPLE_RATE_HZ * 1.01


@pytest.mark.parametrize(
    ("content", "looks"),
    [
        (b"hello, this is no sound\n" * 50, "it looks like text"),
        (b"\0\0\0\x20ftypM4A " + bytes(200), "it looks like an MP4 or M4A file"),
        (b"\x1aE\xdf\xa3" + bytes(200), "Matroska or WebM"),
        (b"PK\x03\x04" + bytes(200), "ZIP archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (bytes(1000), "unknown|not recognised"),
    ],
)
def test_what_is_no_audio_is_refused_with_a_way_out(tmp_path: Path, content: bytes, looks: str) -> None:
    path = tmp_path / "voice.wav"
    path.write_bytes(content)
    for source in (path, str(path), content):
        with pytest.raises(AudioError, match=f"(?i){looks}") as caught:
            load_audio(source)
        assert "Allowed: WAV, FLAC, OGG (Vorbis, Opus), MP3" in str(caught.value)
        assert "ffmpeg -i INPUT -ac 1 -ar 16000 OUTPUT.wav" in str(caught.value)


def test_headerless_pcm(tmp_path: Path) -> None:
    path = tmp_path / "voice.raw"
    path.write_bytes(bytes(1000))
    with pytest.raises(AudioError, match="raw PCM by its name, which has no header"):
        load_audio(path)


def test_folder_missing_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"is a folder; give the recordings in it"):
        load_audio(tmp_path)
    (tmp_path / "anna_01.wav").write_bytes(encoded(tone()))
    with pytest.raises(AudioError, match=r"ana_01\.wav does not exist; did you mean anna_01\.wav\?"):
        load_audio(tmp_path / "ana_01.wav")
    with pytest.raises(AudioError, match=r"there is no folder .*nowhere either"):
        load_audio(tmp_path / "nowhere" / "anna_01.wav")
    with pytest.raises(AudioError, match="does not exist"):
        load_audio(tmp_path / "anna_01.wav" / "x.wav")
    with pytest.raises(AudioError, match="cannot be read"):
        load_audio("a\0b.wav")
    with pytest.raises(AudioError, match="too long"):
        load_audio("a" * 5000)
    with pytest.raises(AudioError, match="neither a file nor a pipe"):
        load_audio("/dev/zero")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"gr\xfc\xdfe.wav")
    with open(path, "wb") as file:
        file.write(encoded(tone()))
    audio = load_audio(os.fsdecode(path))
    assert audio.duration_s == 1.0
    assert audio.source.encode("utf-8").endswith("gr\ufffd\ufffde.wav".encode())


def test_file_objects_bytes_and_pipes(tmp_path: Path) -> None:
    content = encoded(tone())
    path = tmp_path / "voice.wav"
    path.write_bytes(content)
    expected = load_audio(path)
    assert expected.source == str(path)
    with path.open("rb") as file:
        audios = [load_audio(file), load_audio(io.BytesIO(content)), load_audio(memoryview(content))]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    audios.append(load_audio(pipe))
    writer.join()
    for audio in audios:
        np.testing.assert_array_equal(audio.samples, expected.samples)
    assert [audio.source for audio in audios] == [str(path), "stream", "bytes", str(pipe)]
    with path.open(encoding="latin-1") as text, pytest.raises(AudioError, match="open it in binary mode"):
        load_audio(text)  # type: ignore[arg-type]


def test_stream_larger_than_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_module, "MAX_STREAM_BYTES", 1000)
    with pytest.raises(AudioError, match="give a path"):
        load_audio(io.BytesIO(encoded(tone())))


@pytest.mark.parametrize("source", [3, None, ["a.wav"]])
def test_other_types_are_refused(source: Any) -> None:
    with pytest.raises(AudioError, match="expected a path, bytes or a binary file object, given"):
        load_audio(source)


def test_an_array_is_sent_to_from_samples() -> None:
    with pytest.raises(AudioError, match=r"use from_samples\(samples, sample_rate_hz\)"):
        load_audio(tone())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dtype", "scale", "offset"),
    [("i1", 127, 0), ("u1", 127, 128), ("i2", 32767, 0), ("u2", 32767, 32768), ("i4", 2**31 - 1, 0), ("f8", 1, 0)],
)
def test_arrays_of_each_type_have_the_same_level(dtype: str, scale: int, offset: int) -> None:
    audio = from_samples(np.round(tone() * scale + offset, 0 if scale > 1 else 9).astype(dtype), 16000)
    assert_sound(audio)
    assert rms(audio.samples) == pytest.approx(rms(tone()), rel=0.01)
    assert abs(float(audio.samples.mean())) < 0.01


def test_array_of_two_channels_is_averaged_and_not_changed() -> None:
    stereo = np.stack([tone(), np.zeros(16000)], axis=1)
    before = stereo.copy()
    assert rms(from_samples(stereo, 16000).samples) == pytest.approx(rms(tone()) / 2, rel=1e-3)
    np.testing.assert_array_equal(stereo, before)


@pytest.mark.parametrize(
    ("samples", "rate_hz", "message"),
    [
        (np.zeros(0), 16000, "holds no samples"),
        (np.zeros((0, 2)), 16000, "holds no samples"),
        (np.zeros((5, 0)), 16000, "with 1 to 256 channels"),
        (np.zeros((2, 48000)), 16000, r"given \(2, 48000\) \(transpose it\?\)"),
        (np.zeros((2, 2, 2)), 16000, "expected samples of shape"),
        (np.array(1.0), 16000, "expected samples of shape"),
        (np.zeros(5, np.int64), 16000, "int64 have no known full scale"),
        (np.zeros(5, complex), 16000, "complex128 have no known full scale"),
        (["a"], 16000, "no known full scale"),
        ([[1.0, 2.0], [3.0]], 16000, "not an array"),
        (np.zeros(5), 0, "sample rate must be from 1,000 to 768,000 Hz, given 0"),
        (np.zeros(5), 16000.5, "sample rate must be"),
        (np.zeros(5), float("nan"), "sample rate must be"),
        (np.zeros(5), float("inf"), "sample rate must be"),
        (np.zeros(5), "fast", "sample rate must be"),
    ],
)
def test_arrays_that_cannot_be_analysed(samples: Any, rate_hz: Any, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        from_samples(samples, rate_hz)


def test_impossible_seek_in_memory_raises_nothing() -> None:
    content = audio_module._Content(b"sound")
    content.seek(3)
    for offset in (-1, 2**70):
        assert content.seek(offset) == 3


HEADERS = {name: encoded(tone(0.2), 16000, name) for name in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU")}


@given(st.sampled_from(["", *HEADERS]), st.binary(max_size=400))
@example("", b"RIFF\0\0\0\0WAVE")
@settings(max_examples=150, deadline=None)
def test_random_bytes_give_sound_or_an_audio_error(name: str, noise: bytes) -> None:
    content = HEADERS[name][:60] + noise if name else noise
    with contextlib.suppress(AudioError):
        assert_sound(load_audio(content))


@given(
    st.sampled_from(sorted(HEADERS)),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 3000),
)
@settings(max_examples=200, deadline=None)
def test_damaged_files_give_sound_or_an_audio_error(name: str, changes: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(HEADERS[name])
    for at, value in changes:
        content[at % len(content)] = value
    with contextlib.suppress(AudioError):
        assert_sound(load_audio(bytes(content[: len(content) - cut])))


@given(
    st.integers(1, 20_000),
    st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000]),
    st.integers(1, 4),
    st.sampled_from(["PCM_16", "PCM_24", "FLOAT"]),
    st.floats(0.01, 0.9),
)
@settings(max_examples=60, deadline=None)
def test_valid_wavs_keep_their_length_and_level(
    frames: int, rate_hz: int, channels: int, subtype: str, amplitude: float
) -> None:
    mono = tone(frames / rate_hz, rate_hz, amplitude)
    audio = load_audio(encoded(np.repeat(mono[:, None], channels, axis=1), rate_hz, "WAV", subtype))
    assert_sound(audio)
    assert len(audio.samples) == max(1, round(frames * 16000 / rate_hz))
    assert audio.source_channels == channels
    if frames > rate_hz // 4:
        assert rms(audio.samples) == pytest.approx(rms(mono), rel=0.02, abs=1e-4)
