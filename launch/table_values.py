"""Values in the table of `tin status`, read from files that may be damaged."""

from collections.abc import Mapping, Sequence


def number_in(row: Mapping[str, str], name: str) -> float:
    """Return a number of a row of steps.csv; 0 if the file is damaged there."""
    try:
        return float(row.get(name) or 0)
    except ValueError:
        return 0.0


def metrics_in(rows: Sequence[Mapping[str, str]]) -> tuple[str, str]:
    """Return the newest and the highest metric of rows of metrics.csv, as text for a table."""
    # The rows of an epoch begin with the training split.
    tests = [row for row in rows if row["split"] != rows[0]["split"]]
    found = [float(row["top1"] or row["map_class"] or "nan") for row in tests]
    if not found:
        return "", ""
    return f"{100 * found[-1]:.1f} %", f"{100 * max(found):.1f} %"


def age(seconds: float) -> str:
    """Return a time in its largest unit, for example `3 h`."""
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
