"""Intervals, paired tests and their power, in NumPy. N videos, S seeds, R resamples.

All random numbers come from a fixed seed, so the same files give the same numbers.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
PERMUTATIONS = 9999
LEVEL = 0.95  # of all intervals
SEED = 20200207
CHUNK = 256  # resamples or permutations in one product of matrices
Z_TEST = 1.959964  # two-sided test at 5 %
Z_POWER = 0.841621  # power of 80 %


@dataclass(frozen=True)
class Estimate:
    """A mean over videos and seeds with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """The difference of two means over the same videos."""

    difference: float
    """Mean of the first minus mean of the second."""
    low: float
    high: float
    p: float
    """Probability of a difference at least as large if there is none, two-sided."""
    num_videos: int
    num_seeds: tuple[int, int]
    num_groups: int | None = None
    """Number of groups of videos that are resampled; None if single videos are."""

    @property
    def covers_seeds(self) -> bool:
        """Whether interval and p cover the spread over seeds; that needs two seeds on each side."""
        return min(self.num_seeds) > 1


def is_single_group(groups: np.ndarray | None) -> bool:
    """Return whether all videos are of one group, of which no interval can be computed."""
    return groups is not None and len(np.unique(groups)) < 2


def resample_counts(num_videos: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Return how often each of R resamples draws each video, uint8 ``(R, N)``.

    Args:
        num_videos: N.
        groups: ``(N,)`` group of each video; whole groups are drawn with replacement. None draws
            single videos.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 6.
    """
    return _counts(num_videos, None if groups is None else _dense(groups).tobytes())


def bootstrap_means(
    values: np.ndarray, counts: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Return the weighted mean of ``values`` ``(N, M)`` in each resample, ``(R, M)``.

    ``weights`` ``(N, M)`` are 1 where a video counts and 0 where it does not. A resample in which
    no video counts has the mean NaN.
    """
    weights = np.ones(values.shape, np.float32) if weights is None else weights.astype(np.float32)
    weighted = values.astype(np.float32) * weights
    both = np.concatenate([weighted, weights], axis=1)
    sums = np.concatenate(
        [
            part.astype(np.float32) @ both
            for part in np.split(counts, range(CHUNK, RESAMPLES, CHUNK))
        ]
    ).astype(np.float64)
    num_columns = values.shape[1]
    with np.errstate(invalid="ignore"):
        return sums[:, :num_columns] / sums[:, num_columns:]


def percentile_interval(replicates: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of bootstrap replicates ``(R,)``; NaN if there are none."""
    known = replicates[~np.isnan(replicates)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def estimate(values: np.ndarray, groups: np.ndarray | None = None) -> Estimate:
    """Return the mean of ``values`` ``(S, N)`` over seeds and videos, with its interval.

    With one seed, the interval is the percentile interval over resampled videos. With several, it
    is Student's, with a standard error over seeds and resampled videos.
    """
    mean = float(values.mean())
    if is_single_group(groups):
        return Estimate(mean, math.nan, math.nan)
    if len(values) == 1:
        replicates = bootstrap_means(values.T, resample_counts(values.shape[1], groups))
        return Estimate(mean, *percentile_interval(replicates[:, 0]))
    error, freedom = _standard_error([values], groups)
    margin = t_quantile((1 + LEVEL) / 2, freedom) * error
    return Estimate(mean, mean - margin, mean + margin)


def compare(first: np.ndarray, second: np.ndarray, groups: np.ndarray | None = None) -> Difference:
    """Compare two models, or two groups of seeds, on the same videos.

    With one seed on a side, videos alone are resampled: the interval is the percentile interval of
    the bootstrap, and p comes from a permutation test that exchanges the two models on random
    videos. The result then holds for these trained models. With two or more seeds on both sides,
    the standard error covers seeds and videos, and interval and p are Student's with Welch's
    degrees of freedom: a permutation of three seeds against three cannot reach a p below 0.1.

    Args:
        first: ``(S, N)`` values of each video by seed, for example 1 where the model is right.
        second: the same of the other model, ``(S', N)``.
        groups: ``(N,)`` group of each video, or None. Groups stay together. With a single group,
            the interval is NaN and p is 1.
    """
    num_videos = first.shape[1]
    differences = first.mean(axis=0, dtype=np.float64) - second.mean(axis=0, dtype=np.float64)
    difference = float(differences.mean())
    num_seeds = (len(first), len(second))
    num_groups = None if groups is None else len(np.unique(groups))
    if is_single_group(groups):
        return Difference(difference, math.nan, math.nan, 1.0, num_videos, num_seeds, num_groups)
    if min(num_seeds) > 1:
        error, freedom = _standard_error([first, second], groups)
        margin = t_quantile((1 + LEVEL) / 2, freedom) * error
        p = t_tail(abs(difference) / error, freedom) if error else float(difference == 0)
        return Difference(
            difference,
            difference - margin,
            difference + margin,
            p,
            num_videos,
            num_seeds,
            num_groups,
        )
    replicates = bootstrap_means(differences[:, None], resample_counts(num_videos, groups))
    low, high = percentile_interval(replicates[:, 0])
    p = permutation_p(differences, groups)
    return Difference(difference, low, high, p, num_videos, num_seeds, num_groups)


def permutation_p(differences: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Return the two-sided p of a mean of paired differences ``(N,)`` that is 0 by hypothesis.

    The sign of each difference, or of all differences of a group, is random under the hypothesis.
    The observed signs count as one permutation, so p is never 0.

    Source: Phipson and Smyth, 2010, Permutation P-values should never be zero.
    """
    sums = differences if groups is None else np.bincount(_dense(groups), weights=differences)
    sums = sums[sums != 0]
    observed = abs(sums.sum())
    rng = np.random.default_rng(SEED)
    larger = 0
    for first in range(0, PERMUTATIONS, CHUNK):
        shape = (min(CHUNK, PERMUTATIONS - first), len(sums))
        signs = 2.0 * rng.integers(0, 2, shape, dtype=np.int8) - 1
        # The tolerance keeps equal sums equal, whatever the order of their terms.
        larger += int((np.abs(signs @ sums) >= observed - 1e-9).sum())
    return (larger + 1) / (PERMUTATIONS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p corrected for the number of comparisons.

    Source: Holm, 1979, A simple sequentially rejective multiple test procedure.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def smallest_difference(differences: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Return the true difference that a paired test at 5 % finds with a probability of 80 %.

    Args:
        differences: ``(N,)`` differences of two typical models on the test's videos; their spread
            matters, not their mean.
        groups: ``(N,)`` group of each video, or None.
    """
    centered = differences - differences.mean()
    sums = centered if groups is None else np.bincount(_dense(groups), weights=centered)
    error = math.sqrt(float((sums**2).sum())) / len(differences)
    return (Z_TEST + Z_POWER) * error


def t_tail(t: float, freedom: float) -> float:
    """Return the probability that the absolute value of Student's t exceeds ``t``."""
    angles, density = _t_density(math.atan(t / math.sqrt(freedom)), freedom)
    return min(1.0, 2 * float(np.trapezoid(density, angles)))


def t_quantile(probability: float, freedom: float) -> float:
    """Return the value that Student's t stays below with a probability above one half."""
    angles, density = _t_density(0.0, freedom)
    steps = np.diff(angles) * (density[1:] + density[:-1]) / 2
    below = 0.5 + np.append(0.0, np.cumsum(steps))
    return math.sqrt(freedom) * math.tan(float(np.interp(probability, below, angles)))


def _t_density(start: float, freedom: float) -> tuple[np.ndarray, np.ndarray]:
    """Return angles from ``start`` on, and the density of t = sqrt(freedom) * tan(angle) there."""
    # The density is a power of the cosine, which falls to 0 within a few times 1 / sqrt(freedom).
    angles = np.linspace(start, min(math.pi / 2, start + 40 / math.sqrt(freedom)), 20001)
    log_factor = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    factor = math.exp(log_factor) / math.sqrt(math.pi)
    return angles, factor * np.cos(angles) ** (freedom - 1)


@functools.lru_cache(maxsize=4)  # the tests of a report share their videos
def _counts(num_videos: int, groups: bytes | None) -> np.ndarray:
    rng = np.random.default_rng(SEED)
    members = np.arange(num_videos) if groups is None else np.frombuffer(groups, np.int64)
    num_groups = int(members.max(initial=-1)) + 1
    counts = np.zeros((RESAMPLES, num_videos), np.uint8)
    for row in counts:
        drawn = np.bincount(rng.integers(0, max(num_groups, 1), num_groups), minlength=num_groups)
        row[:] = drawn[members]
    return counts


def _dense(groups: np.ndarray) -> np.ndarray:
    """Return the groups numbered from 0, int64 ``(N,)``."""
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _standard_error(sides: Sequence[np.ndarray], groups: np.ndarray | None) -> tuple[float, float]:
    """Return the standard error over seeds and videos, and its degrees of freedom.

    Videos are resampled, and all sides share the resamples. The variance over seeds is that of
    drawing S seeds of a side again, in the limit of many resamples: the sample variance divided by
    S. What is random in one video and one seed at once would count in both parts, so it is
    subtracted once. The degrees of freedom are those of Welch and Satterthwaite.

    Source: two-way random effects, Owen, 2007, The pigeonhole bootstrap, arXiv:0712.1111.
    """
    num_videos = sides[0].shape[1]
    counts = resample_counts(num_videos, groups)
    total = np.zeros(len(counts))
    parts = []
    for sign, values in zip((1, -1), sides, strict=False):
        S = len(values)
        by_video = values.mean(axis=0, dtype=np.float64)
        by_seed = values.mean(axis=1, dtype=np.float64)
        total += sign * bootstrap_means(by_video[:, None], counts)[:, 0]
        parts.append((float(by_seed.var(ddof=1)) / S, S - 1))
        residuals = values - by_video - by_seed[:, None] + by_seed.mean()
        if groups is not None:
            members = _dense(groups)
            residuals = np.stack([np.bincount(members, weights=row) for row in residuals])
        both = float((residuals**2).sum()) / ((S - 1) * S * num_videos**2)
        parts.append((-both, 0))
    num_drawn = num_videos if groups is None else len(np.unique(groups))
    parts.append((float(total.var(ddof=1)), num_drawn - 1))
    largest = max(part for part, _ in parts)
    variance = max(sum(part for part, _ in parts), largest)
    scale = sum(part**2 / freedom for part, freedom in parts if freedom)
    freedom = variance**2 / scale if scale else 1.0
    return math.sqrt(variance), max(freedom, 1.0)
