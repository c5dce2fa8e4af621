"""Damages recordings at random and normalizes them: always rows or a reason, never a crash, a hang or too much memory.

`python -m benchmarks.fuzz` prints the count of each outcome; `--cases` and `--seed` choose what is tried.
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

from benchmarks.report import CORPUS, peak_memory_mb
from resources.errors import RecordingError, RejectedRecordingError
from resources.media import isolation
from resources.media.normalizing import NormalizedVideo
from resources.settings import VideoSettings

SETTINGS = VideoSettings(stall_s=20, max_memory_mb=1500, max_pixels=16_000_000)
_MAX_FILE_BYTES = 200_000
_SMALL_FILES = ("recordings/**/*", "awkward/*", "broken/*")


@dataclass
class FuzzReport:
    """What became of the damaged recordings.

    Attributes:
        outcomes: How often each happened: ok, damaged, refused, crashed codec.
        faults: What must not happen, a sentence each.
        peak_mb: Largest memory of the media process.
        slowest_s: Longest time that one recording took.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    peak_mb: float = 0.0
    slowest_s: float = 0.0


def _flipped(piece: bytes, draw: random.Random) -> bytes:
    bits = int.from_bytes(piece)
    for _ in range(draw.choice([1, 10, 200])):
        bits ^= 1 << draw.randrange(8 * len(piece))
    return bits.to_bytes(len(piece))


_DAMAGES: tuple[Callable[[bytes, bytes, random.Random], bytes], ...] = (
    lambda piece, other, draw: _flipped(piece, draw),
    lambda piece, other, draw: _flipped(piece, draw),
    lambda piece, other, draw: b"",
    lambda piece, other, draw: piece + piece,
    lambda piece, other, draw: draw.randbytes(len(piece)),
    lambda piece, other, draw: other,
    # A length or a size that claims the world.
    lambda piece, other, draw: draw.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4)]) + piece[4:],
)


def damaged(content: bytes, draw: random.Random) -> bytes:
    """A copy with bytes flipped, cut out, cut off, doubled, overwritten or put elsewhere; often several of these."""
    for _ in range(draw.choice([1, 1, 2, 4])):
        if len(content) < 16:
            break
        start = draw.randrange(len(content))
        # Headers lie at both ends: half of the damage goes there.
        if draw.random() < 0.5:
            start = draw.choice([start % 512, len(content) - 1 - start % 4096]) % len(content)
        end = min(start + draw.choice([1, 4, 32, 500, 5000]), len(content))
        elsewhere = draw.randrange(len(content))
        changed = draw.choice(_DAMAGES)(content[start:end], content[elsewhere : elsewhere + end - start], draw)
        rest = content[end:] if draw.random() < 0.9 else b""
        content = content[:start] + changed + rest
    return content


def fuzz(sources: Sequence[Path], case_count: int, folder: Path, seed: int = 0) -> FuzzReport:
    """Normalize damaged copies of recordings.

    Args:
        sources: Whole recordings, small ones.
        case_count: How many copies.
        folder: Where they are written, one at a time.
        seed: Chooses the damage.
    """
    report = FuzzReport()
    for number in range(case_count):
        draw = random.Random(f"{seed}-{number}")
        source = draw.choice(sources)
        file = folder / f"damaged{source.suffix}"
        file.write_bytes(damaged(source.read_bytes(), draw))
        started = time.monotonic()
        try:
            isolation.probe_isolated(file, SETTINGS)
            video = isolation.normalize_isolated(file, folder / "out.mp4", SETTINGS)
        except RejectedRecordingError as error:
            report.outcomes["codec crashed" if "crashed" in str(error) else "refused"] += 1
            told = str(error)
        except RecordingError as error:
            report.outcomes["failed"] += 1
            told = str(error)
        else:
            report.outcomes["ok" if video.ledger.is_clean else "partial"] += 1
            told = "rows"
            report.faults += [f"case {seed}-{number} of {source.name}: {fault}" for fault in _faults(video)]
        if not told or "Unexpected" in told:
            report.faults.append(f"case {seed}-{number} of {source.name} gives no reason but: {told!r}")
        report.slowest_s = max(report.slowest_s, time.monotonic() - started)
        report.peak_mb = max(report.peak_mb, _media_process_mb())
    return report


def _faults(video: NormalizedVideo) -> Iterator[str]:
    ledger = video.ledger
    explained = ledger.decoded_count + ledger.corrupt_count + ledger.discarded_count + ledger.hidden_count
    if ledger.packet_count + ledger.extra_count != explained:
        yield f"the ledger does not add up: {ledger}"
    emitted = len(video.frames) - video.duplicated_count
    if emitted + video.decimated_count != ledger.decoded_count:
        yield f"{ledger.decoded_count} frames decoded, {emitted} emitted, {video.decimated_count} decimated"
    times_s = video.frames.time_s
    if any(later <= earlier for earlier, later in itertools.pairwise(times_s)):
        yield "times do not ascend"


def _media_process_mb() -> float:
    return max((peak_memory_mb(child.pid) for child in psutil.Process().children()), default=0.0)


def main() -> int:
    """Fuzz the small files of the corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    found = (file for pattern in _SMALL_FILES for file in CORPUS.glob(pattern))
    folders = ("recordings", "awkward", "broken", "junction")
    sources = sorted(
        f for f in found if f.parent.name in folders and f.is_file() and f.stat().st_size < _MAX_FILE_BYTES
    )
    if not sources:
        print(f"There is no corpus of recordings at {CORPUS}: set CV_ASSETS_CORPUS.")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        report = fuzz(sources, chosen.cases, Path(folder), chosen.seed)
    print(f"{chosen.cases} damaged copies of {len(sources)} recordings in {time.monotonic() - started:.0f} s")
    print(", ".join(f"{name}: {count}" for name, count in report.outcomes.most_common()))
    print(f"media process: at most {report.peak_mb:.0f} MB; slowest recording: {report.slowest_s:.1f} s")
    print("\n".join(report.faults) or "no fault")
    return bool(report.faults)


if __name__ == "__main__":
    sys.exit(main())
