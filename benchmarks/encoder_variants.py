"""What the encoder's precision costs: each variant of a bundle, and those made for TensorRT, against fp32.

The int8 ranges come from every eighth EmoDB clip of the speakers that training heard; the figures are of the speakers
that it never heard, and of EmoGator's vocal bursts, which are a harder test: nothing was calibrated on such sounds.
Quality of inference is the share of clips whose head answers no worse than that of fp32: right, or wrong where fp32 is.
Runs on the processor, which computes int8 as int8 and float16 as float32 of rounded weights.

    python benchmarks/encoder_variants.py --data DIR -o benchmarks/results/encoder_variants.json
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import check_output, deliver, provenance, run, table_of, with_progress

from edge_emotion.audio import load_audio
from edge_emotion.bundle import Bundle, load_bundle
from edge_emotion.metrics import unweighted_average_recall
from edge_emotion_export.parity import cosine_min
from edge_emotion_export.tensorrt_variants import add_tensorrt_encoders
from edge_emotion_runtimes.interfaces import EncoderOutput
from edge_emotion_runtimes.onnx_encoder import OnnxEncoder
from edge_emotion_train.corpora import Clip, read_corpus, split_by_speaker

TEST_SPEAKERS = ("emodb_15", "emodb_16")
FEWEST_SAMPLES, LONGEST_S = 4800, 30.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds emodb/ and, for more, emogator/")
    parser.add_argument("--bundle", default="nano", help="name of a built-in bundle, or a bundle's folder")
    parser.add_argument("--bursts", type=int, default=100, help="clips of EmoGator (default: 100)")
    parser.add_argument("-o", "--output", type=Path, help="also write the JSON document here")
    parser.add_argument("--force", action="store_true", help="replace the output file")
    parser.add_argument("--json", action="store_true", help="print the JSON document only, without the table")
    options = parser.parse_args()
    check_output(options.output, options.force)
    shipped = load_bundle(options.bundle)
    heard, held_out = split_by_speaker(read_corpus("emodb", options.data / "emodb"), TEST_SPEAKERS)
    sets = {"EmoDB, speakers 15 and 16": held_out}
    if (options.data / "emogator").is_dir():
        bursts = read_corpus("emogator", options.data / "emogator")
        sets["EmoGator, vocal bursts"] = bursts[:: max(1, len(bursts) // options.bursts)][: options.bursts]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "bundle"
        calibrated = [clip.path for clip in heard[::8]]
        add_tensorrt_encoders(shipped.path, folder, calibrated, keep_failing=True)
        bundle = load_bundle(folder)
        rows = measure(bundle, {title: sounds(clips, bundle) for title, clips in sets.items()})
    document = provenance(shipped) | {"calibration_clips": (len(calibrated) + 1) // 2, "variants": rows}
    deliver(document, {}, table(rows), options.output, options.json)
    return 0


def sounds(clips: Sequence[Clip], bundle: Bundle) -> list[tuple[str | None, np.ndarray]]:
    """Emotion and samples of clips that are long enough; None for an emotion that the bundle does not know."""
    loaded = ((clip.emotion, load_audio(clip.path).samples[: round(LONGEST_S * 16000)]) for clip in clips)
    known = bundle.manifest.labels
    return [(emotion if emotion in known else None, x) for emotion, x in loaded if len(x) >= FEWEST_SAMPLES]


def measure(bundle: Bundle, sets: dict[str, list[tuple[str | None, np.ndarray]]]) -> list[dict[str, Any]]:
    """One row for each variant and set; fp32 is the reference."""
    precisions = [variant.precision for variant in bundle.manifest.encoder.variants]
    files = {variant.precision: bundle.path / variant.file for variant in bundle.manifest.encoder.variants}
    rows, reference = [], dict[str, list[EncoderOutput]]()
    for precision in ["fp32", *(name for name in precisions if name != "fp32")]:
        with OnnxEncoder(files[precision], threads=1) as encoder:
            for title, clips in sets.items():
                started = time.perf_counter()
                found = [encoder.encode(samples) for _, samples in with_progress(clips, f"{precision}, {title}")]
                seconds = time.perf_counter() - started
                reference.setdefault(title, found)
                rows.append(
                    {"precision": precision, "mb": round(files[precision].stat().st_size / 1e6, 1), "set": title}
                    | compare(reference[title], found, [emotion for emotion, _ in clips], bundle.manifest.labels)
                    | {"ms_per_s": round(1000 * seconds / sum(len(x) / 16000 for _, x in clips), 2)}
                )
    return rows


def compare(
    reference: Sequence[EncoderOutput],
    found: Sequence[EncoderOutput],
    emotions: Sequence[str | None],
    labels: Sequence[str],
) -> dict[str, Any]:
    """Figures of one variant on one set."""
    cosines = [cosine_min(ours.embeddings, theirs.embeddings) for ours, theirs in zip(reference, found, strict=True)]
    answers, references = (
        [labels[int(np.argmax(one.emotion_logits))] for one in outputs] for outputs in (found, reference)
    )
    figures: dict[str, Any] = {
        "clips": len(found),
        "cosine_min": round(min(cosines), 4),
        "cosine_median": round(float(np.median(cosines)), 4),
        "label_agreement": round(float(np.mean([a == b for a, b in zip(answers, references, strict=True)])), 4),
    }
    known = [(e, a, b) for e, a, b in zip(emotions, answers, references, strict=True) if e is not None]
    truth, ours, theirs = zip(*known, strict=True)
    figures["quality_of_inference"] = round(float(np.mean([a == e or b != e for e, a, b in known])), 4)
    figures["uar"] = round(unweighted_average_recall(truth, ours), 4)
    figures["uar_fp32"] = round(unweighted_average_recall(truth, theirs), 4)
    return figures


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Columns of the figures, one line for each variant and set."""
    columns = (
        "mb",
        "clips",
        "cosine_min",
        "cosine_median",
        "label_agreement",
        "quality_of_inference",
        "uar",
        "ms_per_s",
    )
    lines = [(row["set"], row["precision"], *(str(row[name]) for name in columns)) for row in rows]
    heads = ("MB", "clips", "lowest cosine", "median", "same label", "no worse", "UAR", "ms per s of sound")
    return table_of(sorted(lines, key=lambda line: line[0]), ("set", "precision", *heads))


if __name__ == "__main__":
    run(main)
