"""Injects all faults, prints the table, and fails if a result was lost or silently wrong."""

import argparse
import logging
import sys
import time

from fault_damage import damage_kinds
from fault_ranks import rank_kinds
from fault_table import HEAD, line, problems, run_kinds, totals
from fault_writers import writer_kinds


def main() -> int:
    """Run `make faults`; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Only the injections of the tests.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="Only kinds whose name has this text.")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # each fault would log a line
    began = time.monotonic()
    kinds = [
        kind
        for kind in [*writer_kinds(), *damage_kinds(), *rank_kinds()]
        if arguments.only in kind.name
    ]
    rows = []
    print(HEAD)
    for row in run_kinds(kinds, full=not arguments.quick, seed=arguments.seed):
        rows.append(row)
        print(line(row), flush=True)
    print(totals(rows))
    print(f"seed {arguments.seed}, {time.monotonic() - began:.0f} s")
    found = problems(rows)
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
