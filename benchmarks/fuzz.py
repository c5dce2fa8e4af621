"""Damages recordings at random and normalizes them: always rows or a reason, never a crash, a hang or too much memory.

`python -m benchmarks.fuzz` prints how often each outcome occurred; `--cases` and `--seed` choose the damage.
"""

import argparse
import itertools
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.report import CORPUS, read_peak_memory_mb
from resources.config.media_config import VideoSettings
from resources.errors import RecordingError, RejectedRecordingError
from resources.media import isolation
from resources.media.normalized_file import NormalizedVideo

SETTINGS = VideoSettings(stall_s=20, max_memory_mb=1500, max_pixels=16_000_000)
_MAX_FILE_BYTES = 200_000
_SMALL_FILES = ("recordings/**/*", "awkward/*", "broken/*")


@dataclass
class FuzzReport:
    """Outcomes of the damaged recordings.

    Attributes:
        outcomes: How often each occurred: ok, partial, failed, rejected, codec crashed.
        faults: Sentences about results that break a rule.
        peak_mb: Largest memory of the media process.
        max_elapsed_s: Longest time that one recording took.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    peak_mb: float = 0.0
    max_elapsed_s: float = 0.0


def _flip_bits(piece: bytes, rng: random.Random) -> bytes:
    bits = int.from_bytes(piece)
    for _ in range(rng.choice([1, 10, 200])):
        bits ^= 1 << rng.randrange(8 * len(piece))
    return bits.to_bytes(len(piece))


_DAMAGES: tuple[Callable[[bytes, bytes, random.Random], bytes], ...] = (
    lambda piece, other, rng: _flip_bits(piece, rng),
    lambda piece, other, rng: _flip_bits(piece, rng),
    lambda piece, other, rng: b"",
    lambda piece, other, rng: piece + piece,
    lambda piece, other, rng: rng.randbytes(len(piece)),
    lambda piece, other, rng: other,
    # A length or a size that is far too large, or 0.
    lambda piece, other, rng: rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4)]) + piece[4:],
)
"""Each replaces a piece of a file; `other` is a piece of equal length from elsewhere in the file."""


def damage(content: bytes, rng: random.Random) -> bytes:
    """Return a copy with bytes flipped, deleted, doubled, overwritten, moved or truncated, often several of these."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        if len(content) < 16:
            break
        start = rng.randrange(len(content))
        # Headers are at both ends of a file: half of the damage is there.
        if rng.random() < 0.5:
            start = rng.choice([start % 512, len(content) - 1 - start % 4096]) % len(content)
        end = min(start + rng.choice([1, 4, 32, 500, 5000]), len(content))
        other_start = rng.randrange(len(content))
        other = content[other_start : other_start + end - start]
        replacement = rng.choice(_DAMAGES)(content[start:end], other, rng)
        tail = content[end:] if rng.random() < 0.9 else b""
        content = content[:start] + replacement + tail
    return content


def fuzz(sources: Sequence[Path], case_count: int, folder: Path, seed: int = 0) -> FuzzReport:
    """Normalize damaged copies of recordings.

    Args:
        sources: Undamaged recordings, small ones.
        case_count: How many copies.
        folder: Where they are written, one at a time.
        seed: Chooses the damage.
    """
    report = FuzzReport()
    for number in range(case_count):
        rng = random.Random(f"{seed}-{number}")
        source = rng.choice(sources)
        file = folder / f"damaged{source.suffix}"
        file.write_bytes(damage(source.read_bytes(), rng))
        started_s = time.monotonic()
        try:
            isolation.probe_in_subprocess(file, SETTINGS)
            video = isolation.normalize_in_subprocess(file, folder / "out.mp4", SETTINGS)
        except RejectedRecordingError as error:
            report.outcomes["codec crashed" if "crashed" in str(error) else "rejected"] += 1
            reason = str(error)
        except RecordingError as error:
            report.outcomes["failed"] += 1
            reason = str(error)
        else:
            report.outcomes["ok" if video.ledger.is_clean else "partial"] += 1
            reason = "rows"
            report.faults += [f"case {seed}-{number} of {source.name}: {fault}" for fault in _find_faults(video)]
        if not reason or "Unexpected" in reason:
            report.faults.append(f"case {seed}-{number} of {source.name} gives no reason but: {reason!r}")
        report.max_elapsed_s = max(report.max_elapsed_s, time.monotonic() - started_s)
        report.peak_mb = max(report.peak_mb, _media_process_peak_mb())
    return report


def _find_faults(video: NormalizedVideo) -> Iterator[str]:
    ledger = video.ledger
    accounted_count = ledger.decoded_count + ledger.corrupt_count + ledger.discarded_count + ledger.hidden_count
    if ledger.packet_count + ledger.extra_count != accounted_count:
        yield f"the ledger does not add up: {ledger}"
    emitted_count = len(video.frames) - video.duplicated_count
    if emitted_count + video.decimated_count != ledger.decoded_count:
        yield f"{ledger.decoded_count} frames decoded, {emitted_count} emitted, {video.decimated_count} decimated"
    times_s = video.frames.time_s
    if any(later <= earlier for earlier, later in itertools.pairwise(times_s)):
        yield "times do not ascend"


def _media_process_peak_mb() -> float:
    return max((read_peak_memory_mb(child.pid) for child in psutil.Process().children()), default=0.0)


def main() -> int:
    """Fuzz the small files of the corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    files = (file for pattern in _SMALL_FILES for file in CORPUS.glob(pattern))
    folders = ("recordings", "awkward", "broken", "junction")
    sources = sorted(
        file
        for file in files
        if file.parent.name in folders and file.is_file() and file.stat().st_size < _MAX_FILE_BYTES
    )
    if not sources:
        print(f"There is no corpus of recordings at {CORPUS}: set CV_ASSETS_CORPUS.")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        started_s = time.monotonic()
        report = fuzz(sources, options.cases, Path(folder), options.seed)
    print(f"{options.cases} damaged copies of {len(sources)} recordings in {time.monotonic() - started_s:.0f} s")
    print(", ".join(f"{name}: {count}" for name, count in report.outcomes.most_common()))
    print(f"media process: at most {report.peak_mb:.0f} MB; slowest recording: {report.max_elapsed_s:.1f} s")
    print("\n".join(report.faults) or "no fault")
    return bool(report.faults)


if __name__ == "__main__":
    sys.exit(main())
