"""Random numbers without a state: each is a pure function of (seed, epoch, clip).

The mixing function is SplitMix64's: Steele, Lea and Flood, Fast Splittable Pseudorandom Number
Generators, OOPSLA 2014, figure 16.
"""

import numpy as np

ORDER, SHARDS, FRAMES, CROPS, FLIPS = range(5)  # streams: what a number is drawn for
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 8  # even, so that both halves end where they began


def uniforms(seed: int, stream: int, epoch: int, clips: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` numbers in [0, 1) for each of ``clips`` ``(B,)``, shape ``(B, count)``."""
    rows = _mix(key(seed, stream, epoch) + np.asarray(clips).astype(np.uint64) * _GOLDEN)
    counter = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    return (_mix(rows[:, None] + counter) >> np.uint64(11)) * 2.0**-53


def key(*numbers: int) -> np.ndarray:
    """Return one 64-bit key of several whole numbers, shape ``(1,)``."""
    result = np.zeros(1, np.uint64)
    for number in numbers:
        result = _mix((result ^ np.uint64(number % 2**64)) + _GOLDEN)
    return result


def shuffled(positions: np.ndarray, sizes: np.ndarray | int, keys: np.ndarray) -> np.ndarray:
    """Return what stands at ``positions`` of a keyed shuffle of ``0 ... size-1``, as int64.

    A bijection for every size and key, without memory in proportion to the size. ``positions``
    (each below its size), ``sizes`` and ``keys`` broadcast, so that shuffles of several sizes
    can be asked at once.

    Source: the generalized Feistel network with cycle walking of Black and Rogaway, Ciphers with
    Arbitrary Finite Domains, CT-RSA 2002, sections 3 and 4.
    """
    positions, sizes = np.broadcast_arrays(
        np.asarray(positions).astype(np.uint64), np.asarray(sizes).astype(np.uint64)
    )
    width = np.ceil(np.sqrt(sizes)).astype(np.uint64)
    height = (sizes + width - np.uint64(1)) // width
    result = _feistel(positions, width, height, keys)
    while (outside := result >= sizes).any():
        result = np.where(outside, _feistel(result, width, height, keys), result)
    return result.astype(np.int64)


def _feistel(
    values: np.ndarray, width: np.ndarray, height: np.ndarray, keys: np.ndarray
) -> np.ndarray:
    left, right = values % width, values // width
    for number in range(_ROUNDS):
        modulus = height if number % 2 else width
        turn = _mix(_mix(keys + np.uint64(number)) + right * _GOLDEN) % modulus
        left, right = right, (left + turn) % modulus
    return right * width + left


def _mix(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
