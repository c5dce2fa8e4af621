"""How right a count is, with 95 % intervals, from the answers to a stratified random sample.

What is counted is right or wrong, and a stretch of time has a number of missed objects. The sources of the formulas:

- right events of a stratum: Wilson's score interval (Wilson 1927, J. Am. Stat. Assoc. 22, 209), with the finite
  population correction (Cochran 1977, Sampling Techniques, chapter 2), and modified for one to three wrong or right
  ones (Brown, Cai and DasGupta 2001, Statistical Science 16, 101, section 4.1.1);
- their sum, and the sum of right and missed ones: the method of variance estimates recovery, MOVER (Zou and Donner
  2008, Statistics in Medicine 27, 1693);
- missed objects: the gamma interval of a weighted sum of Poisson counts (Fay and Feuer 1997, Statistics in Medicine 16,
  791), in which a stretch with several misses counts as one event of that weight (compound Poisson);
- recall: MOVER applied to (1 - recall) * right - recall * missed, solved for 0 (Donner and Zou 2012, Statistical
  Methods in Medical Research 21, 347).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2)
_TAIL = (1 - CONFIDENCE) / 2
_TARGET = 0.05
_FEW, _SMALL = 2, 50
_STEPS = 60  # of a bisection: more do not change a double


@dataclass(frozen=True)
class Interval:
    """An estimate between two bounds."""

    estimate: float
    low: float
    high: float

    def scale(self, factor: float) -> "Interval":
        """Multiply all by a factor."""
        return Interval(self.estimate * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Stratum:
    """What was seen of one stratum.

    Attributes:
        size: Number of its items.
        answered: Number of items that were looked at.
        total: Sum of their answers: right events, or missed objects.
        squares: Sum of the squares of their answers.
        hits: Number of their answers that are not 0.
    """

    size: int
    answered: float
    total: float
    squares: float
    hits: float

    @classmethod
    def of(cls, size: int, answers: Sequence[int]) -> "Stratum":
        """Build it from the answers."""
        squares = sum(answer * answer for answer in answers)
        return cls(size, len(answers), sum(answers), squares, sum(answer > 0 for answer in answers))

    @property
    def weight(self) -> float:
        """Number of items for which each that was looked at stands."""
        return self.size / self.answered

    @property
    def correction(self) -> float:
        """Factor of a standard error for the share that was looked at: 0 where that is everything."""
        return math.sqrt(max(self.size - self.answered, 0) / max(self.size - 1, 1))

    def enlarge(self, factor: float) -> "Stratum":
        """Extrapolate to a sample that is larger by a factor, at most the stratum, with the same shares."""
        factor = min(factor, self.size / self.answered)
        values = {name: getattr(self, name) * factor for name in ("answered", "total", "squares", "hits")}
        return replace(self, **values)


@dataclass(frozen=True)
class CountEstimate:
    """How right a count is.

    Attributes:
        counted: What was counted.
        precision: Share of it that is right; None if nothing was counted.
        recall: Share of the true objects that were counted; None if there seem to be none.
        corrected: Number of true objects.
    """

    counted: int
    precision: Interval | None
    recall: Interval | None
    corrected: Interval


def estimate_count(events: Sequence[Stratum], stretches: Sequence[Stratum]) -> CountEstimate:
    """Estimate how right a count is.

    Args:
        events: Strata of counted events.
        stretches: Strata of stretches. All strata have answers.
    """
    counted = sum(stratum.size for stratum in events)
    right, missed = _estimate_right(events), _estimate_missed(stretches)
    return CountEstimate(
        counted,
        right.scale(1 / counted) if counted else None,
        _recall(right, missed),
        _add([right, missed]),
    )


def _estimate_right(strata: Sequence[Stratum]) -> Interval:
    parts = [_clip(_wilson(stratum).scale(stratum.size), stratum.total, _most_right(stratum)) for stratum in strata]
    return _add(parts)


def _most_right(stratum: Stratum) -> float:
    return stratum.size - (stratum.answered - stratum.total)


def _wilson(stratum: Stratum) -> Interval:
    share, count = stratum.total / stratum.answered, stratum.answered
    z = _Z * stratum.correction
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    low = min(middle - half, share - stratum.correction * _below_few(share * count, count))
    high = max(middle + half, share + stratum.correction * _below_few((1 - share) * count, count))
    return Interval(share, low, high)


def _below_few(hits: float, count: float) -> float:
    """How far below the share of a few hits the true share may lie, where the score interval is too narrow."""
    if not 0 < hits <= (_FEW if count <= _SMALL else _FEW + 1):
        return 0.0
    return (hits - _gamma_quantile(hits, 2 * _TAIL)) / count


def _estimate_missed(strata: Sequence[Stratum]) -> Interval:
    total = sum(stratum.weight * stratum.total for stratum in strata)
    variance = sum(stratum.weight**2 * stratum.squares for stratum in strata)
    # One more miss, where it would count most: in the stratum with the fewest answers, and as many as usual at once.
    usual = max(1.0, sum(s.total for s in strata) / max(sum(s.hits for s in strata), 1))
    weight = usual * max((stratum.weight for stratum in strata if stratum.correction), default=0.0)
    low = high = total
    if total:
        low = variance / total * _gamma_quantile(total**2 / variance, _TAIL)
    if weight:
        next_variance, next_total = variance + weight**2, total + weight
        high = next_variance / next_total * _gamma_quantile(next_total**2 / next_variance, 1 - _TAIL)
    sizes = sum(stratum.size for stratum in strata)
    unseen = sizes - sum(stratum.answered for stratum in strata)
    correction = math.sqrt(max(unseen, 0) / max(sizes - 1, 1))
    seen = sum(stratum.total for stratum in strata)
    return _clip(Interval(total, total - correction * (total - low), total + correction * (high - total)), seen)


def _clip(interval: Interval, low: float, high: float = math.inf) -> Interval:
    """Limit the bounds to what the answers alone prove."""
    bounds = max(interval.low, low), min(interval.high, high)
    return Interval(interval.estimate, min(bounds[0], interval.estimate), max(bounds[1], interval.estimate))


def _add(parts: Sequence[Interval]) -> Interval:
    estimate = sum(part.estimate for part in parts)
    below = math.sqrt(sum((part.estimate - part.low) ** 2 for part in parts))
    above = math.sqrt(sum((part.high - part.estimate) ** 2 for part in parts))
    low, high = sum(part.low for part in parts), sum(part.high for part in parts)
    return Interval(estimate, max(estimate - below, low), min(estimate + above, high))


def _recall(right: Interval, missed: Interval) -> Interval | None:
    if not right.estimate + missed.estimate:
        return None

    def bounds(recall: float) -> Interval:
        rest = 1 - recall
        negative = Interval(-missed.estimate, -missed.high, -missed.low)
        return _add([right.scale(rest), negative.scale(recall)])

    low = _bisect(lambda recall: bounds(recall).low > 0)
    high = _bisect(lambda recall: bounds(recall).high > 0)
    estimate = right.estimate / (right.estimate + missed.estimate)
    return Interval(estimate, min(low, estimate), max(high, estimate))


def _bisect(is_below: Callable[[float], bool]) -> float:
    """Find where a condition that holds at 0 ends, at most 1."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return high


def count_more(events: Sequence[Stratum], stretches: Sequence[Stratum]) -> int:
    """How many more items to look at until the half width of the interval of the true number is 5 % of it.

    Args:
        events: Strata of counted events.
        stretches: Strata of stretches. All strata have answers, and the shares of these are assumed for all items.
    """

    def half_width(factor: float) -> tuple[float, float]:
        enlarged = [[stratum.enlarge(factor) for stratum in strata] for strata in (events, stretches)]
        total = _add([_estimate_right(enlarged[0]), _estimate_missed(enlarged[1])])
        return (total.high - total.low) / 2, total.estimate

    strata = [*events, *stretches]
    largest = max(stratum.size / stratum.answered for stratum in strata)

    def is_too_wide(share: float) -> bool:
        width, estimate = half_width(1 + share * (largest - 1))
        return width > _TARGET * estimate

    if not is_too_wide(0.0):
        return 0
    factor = 1 + _bisect(is_too_wide) * (largest - 1)
    return math.ceil(sum(stratum.enlarge(factor).answered - stratum.answered for stratum in strata) - 1e-6)


def _gamma_quantile(shape: float, share: float) -> float:
    """Quantile of the gamma distribution of scale 1, by bisection of the series of its distribution function."""
    most = shape + 12 * math.sqrt(shape) + 40
    return most * _bisect(lambda part: _gamma_share(shape, most * part) < share)


def _gamma_share(shape: float, value: float) -> float:
    """Distribution function of the gamma distribution (Abramowitz and Stegun 1964, 6.5.29)."""
    if value <= 0:
        return 0.0
    term = total = 1.0
    divisor = shape
    while term > 1e-14 * total:
        divisor += 1
        term *= value / divisor
        total += term
    return total * math.exp(shape * math.log(value) - value - math.lgamma(shape + 1))
