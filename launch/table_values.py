"""Values in the table of `tin status`, read from files that may be damaged."""

import math
from collections.abc import Mapping


def number_in(row: Mapping[str, str], name: str) -> float:
    """Return a number of a row of a CSV file; 0 if the file is damaged there."""
    try:
        value = float(row.get(name) or 0)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def age(seconds: float) -> str:
    """Return a time in its largest unit, for example `3 h`."""
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
