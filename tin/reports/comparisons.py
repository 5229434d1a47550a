"""Paired tests: between the best rows of a report, and between any two models."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tin.evaluation.scores import SCORES, ScoresError
from tin.reports.measured import Measured, common_groups, measure
from tin.reports.recorded import find_runs, tests_of
from tin.reports.seeds import SeedGroup
from tin.reports.statistics import Difference, compare, holm, smallest_difference
from tin.runs.folder import Run

MAX_COMPARED = 8
"""Rows of a test set that are compared with each other."""


@dataclass(frozen=True)
class Comparison:
    """A paired test of two models, with p corrected for the tests shown beside it."""

    first: str
    second: str
    found: Difference
    corrected_p: float


@dataclass(frozen=True)
class TestSet:
    """The models that were tested on the same videos."""

    name: str
    metric: str
    num_videos: int
    num_groups: int | None
    """Number of groups of videos that are resampled; None if single videos are."""
    num_models: int
    smallest: float | None
    """Smallest difference that a paired test can show; None with a single model."""
    comparisons: list[Comparison]
    """Of each pair of the best models, the best pair first."""


def test_sets(groups: Sequence[SeedGroup]) -> list[TestSet]:
    """Return the comparisons of the best models on each set of test videos, largest set first."""
    by_videos: dict[tuple[str, str], list[SeedGroup]] = {}
    for group in groups:
        first = group.tests[0]
        by_videos.setdefault((first.videos, first.metric), []).append(group)
    found = [_test_set(members) for members in by_videos.values()]
    return sorted(found, key=lambda one: -one.num_models)


def compare_paths(first: Path, second: Path) -> tuple[str, Difference]:
    """Return the name of the test and the paired test of two models.

    Args:
        first: a run, a folder of runs that differ in the seed, or a folder below ``RUN/tests``.
        second: the same of the other model.

    Raises:
        ScoresError: a test is missing or damaged, or the two have no test of the same videos.
    """
    tests = [_tests_at(first), _tests_at(second)]
    common = [name for name in tests[0] if name in tests[1]]
    if not common and all(len(found) == 1 for found in tests):
        common = [""]  # one test each: the names may differ, for example in the number of views
    if not common:
        names = [", ".join(found) or "none" for found in tests]
        raise ScoresError(
            f"cannot compare {first} and {second}: they have no test in common ({first} has"
            f" {names[0]}; {second} has {names[1]}). Run `tin test` with the same views, or give"
            " the folders of two tests"
        )
    name = common[-1]
    sides = [found[name] if name else next(iter(found.values())) for found in tests]
    measured = [[measure(folder) for folder in folders] for folders in sides]
    every = [*measured[0], *measured[1]]
    for test in every:
        if test.videos != every[0].videos:
            raise ScoresError(
                f"cannot compare {test.folder} with {every[0].folder}: they have other videos;"
                " test both models on the same split"
            )
    metric = every[0].metric
    first_values, second_values = (_values(side, metric) for side in measured)
    found = compare(first_values, second_values, common_groups(every))
    return f"{metric}, test {name or 'of each'}", found


def _test_set(members: list[SeedGroup]) -> TestSet:
    best = sorted(members, key=lambda group: -group.score)[:MAX_COMPARED]
    pairs = list(itertools.combinations(best, 2))
    groups = common_groups([test for member in members for test in member.tests])
    found = [compare(one.values, other.values, groups) for one, other in pairs]
    corrected = holm([one.p for one in found])
    # The smallest difference follows from how much the videos of a typical pair of models differ.
    spreads = [smallest_difference(one.values[0] - other.values[0], groups) for one, other in pairs]
    test = best[0].tests[0]
    return TestSet(
        name=test.folder.name,
        metric=test.metric,
        num_videos=len(test.predicted),
        num_groups=None if groups is None else len(np.unique(groups)),
        num_models=len(members),
        smallest=float(np.median(spreads)) if spreads else None,
        comparisons=[
            Comparison(one.name, other.name, difference, p)
            for (one, other), difference, p in zip(pairs, found, corrected, strict=True)
        ],
    )


def _tests_at(path: Path) -> dict[str, list[Path]]:
    """Return the test folders at a path by the name of the test, only those that all runs have."""
    if (path / SCORES).exists():
        return {path.name: [path]}
    by_run = [
        {folder.name: folder for folder in tests_of(Run(run_dir)) if (folder / SCORES).exists()}
        for run_dir in find_runs([path])
    ]
    names = [name for name in by_run[0] if all(name in tests for tests in by_run)]
    return {name: [tests[name] for tests in by_run] for name in names}


def _values(tests: Sequence[Measured], metric: str) -> np.ndarray:
    return np.stack([test.values[metric] for test in tests])
