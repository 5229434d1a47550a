"""Stateless random numbers: each is a pure function of (seed, stream, epoch, clip).

The mixing function is the one of SplitMix64: Steele, Lea and Flood, Fast Splittable Pseudorandom
Number Generators, OOPSLA 2014, figure 16.
"""

import numpy as np

# A stream says what a number is drawn for. Numbers of different streams are independent.
ORDER = 0
SHARDS = 1
FRAMES = 2
CROPS = 3
FLIPS = 4
BALANCE = 5

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, the increment of SplitMix64
_ROUNDS = 8  # an even number, so that both halves end in the range in which they started


def uniforms(seed: int, stream: int, epoch: int, clips: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` numbers in [0, 1) for each of ``clips`` ``(B,)``, shape ``(B, count)``."""
    rows = _mix(key(seed, stream, epoch) + np.asarray(clips).astype(np.uint64) * _GOLDEN)
    counter = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    # The upper 53 bits of the 64 fill the mantissa of a float64.
    return (_mix(rows[:, None] + counter) >> np.uint64(11)) * 2.0**-53


def key(*numbers: int) -> np.ndarray:
    """Return one 64-bit key of several integers, shape ``(1,)``."""
    result = np.zeros(1, np.uint64)
    for number in numbers:
        result = _mix((result ^ np.uint64(number % 2**64)) + _GOLDEN)
    return result


def derived_keys(base: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return an independent 64-bit key for each of `numbers`, derived from the key `base`."""
    return _mix(base + numbers.astype(np.uint64) * _GOLDEN)


def shuffled(positions: np.ndarray, sizes: np.ndarray | int, keys: np.ndarray) -> np.ndarray:
    """Return the elements at ``positions`` of a keyed shuffle of ``0 ... size-1``, as int64.

    The shuffle is a bijection for every size and key, and it needs no memory in proportion to the
    size. ``positions`` (each below its size), ``sizes`` and ``keys`` broadcast, so that one call
    can evaluate shuffles of several sizes.

    Source: the generalized Feistel network with cycle walking of Black and Rogaway, Ciphers with
    Arbitrary Finite Domains, CT-RSA 2002, sections 3 and 4.
    """
    positions, sizes = np.broadcast_arrays(
        np.asarray(positions).astype(np.uint64), np.asarray(sizes).astype(np.uint64)
    )
    # Cover 0 ... size-1 with the smallest grid of about equal sides. The Feistel network is a
    # bijection of the cells of that grid.
    width = np.ceil(np.sqrt(sizes)).astype(np.uint64)
    height = (sizes + width - np.uint64(1)) // width
    result = _feistel(positions, width, height, keys)
    # Some cells lie beyond the last element. Walk on from such a cell until the walk comes back
    # into the range: two different positions never meet, so the result is a bijection of the range.
    while (outside := result >= sizes).any():
        result = np.where(outside, _feistel(result, width, height, keys), result)
    return result.astype(np.int64)


def _feistel(
    values: np.ndarray, width: np.ndarray, height: np.ndarray, keys: np.ndarray
) -> np.ndarray:
    """Permute the cells ``0 ... width*height-1`` of a grid by a keyed Feistel network."""
    # Split each cell into its column (below width) and its row (below height).
    left = values % width
    right = values // width
    for number in range(_ROUNDS):
        # A round adds a keyed hash of the right half to the left half, modulo the range of the
        # left half. The right half is kept, so the round can be undone whatever the hash is.
        modulus = height if number % 2 else width
        turn = _mix(_mix(keys + np.uint64(number)) + right * _GOLDEN) % modulus
        turned = (left + turn) % modulus
        # Exchange the halves, so that the next round changes the other one.
        left = right
        right = turned
    return right * width + left


def _mix(values: np.ndarray) -> np.ndarray:
    """Scramble 64-bit integers bijectively; the three steps are those of SplitMix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
