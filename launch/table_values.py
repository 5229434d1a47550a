"""Values in the table of `tin status`, read from files that may be damaged."""

import math
from collections.abc import Mapping, Sequence


def number_in(row: Mapping[str, str], name: str, otherwise: float = 0.0) -> float:
    """Return a finite number of a row of a CSV file; `otherwise` if there is none."""
    try:
        value = float(row.get(name) or otherwise)
    except ValueError:
        return otherwise
    return value if math.isfinite(value) else otherwise


def metrics_in(rows: Sequence[Mapping[str, str]]) -> tuple[str, str]:
    """Return the newest and the highest metric of rows of metrics.csv, as text for a table.

    A metric that is missing, damaged, NaN or infinite is left out.
    """
    # The rows of an epoch begin with the training split.
    tests = [row for row in rows if row.get("split") != rows[0].get("split")]
    names = ["top1" if row.get("top1") else "map_class" for row in tests]
    found = [number_in(row, name, math.nan) for row, name in zip(tests, names, strict=True)]
    known = [metric for metric in found if math.isfinite(metric)]
    newest = f"{100 * found[-1]:.1f} %" if found and math.isfinite(found[-1]) else ""
    return newest, f"{100 * max(known):.1f} %" if known else ""


def age(seconds: float) -> str:
    """Return a time in its largest unit, for example `3 h`."""
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
