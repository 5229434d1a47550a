"""The entry point of `tin`: it makes sure that the packages of tin-video are its own.

`configs`, `pipeline` and `launch` are names that a user's own folders may have. If such a folder is
on PYTHONPATH, Python imports it instead. This module has a name of its own, and it imports nothing
of tin-video before it has compared the places.
"""

import importlib.util
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parent
PACKAGES = ("configs", "preprocess", "pipeline", "tin", "launch")
USAGE = 2  # configs.errors.USAGE


def main() -> None:
    """Run the command line, unless files of the user hide a package of tin-video."""
    problem = hidden_package()
    if problem:
        sys.stderr.write(f"tin: {problem}\n")
        sys.exit(USAGE)
    from launch.cli import main as run

    run()


def hidden_package() -> str:
    """Return which file hides which package, and what to do; empty if none does.

    The folder `cuda` may be hidden: `tin.op.build` looks for its sources beside the package `tin`.
    """
    for name in PACKAGES:
        expected = HOME / name / "__init__.py"
        spec = importlib.util.find_spec(name)
        if spec is None:
            return f"the package {name} is missing in {HOME}: install tin-video again"
        # A folder without __init__.py has no file of its own.
        places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
        found = Path(places[0]).resolve() if places else None
        if found and found != expected and expected.exists():
            folder = found.parent if found.name != "__init__.py" else found.parent.parent
            return (
                f"{found} hides the package {name} of tin-video, which is {expected.parent}."
                f" Rename it, or remove {folder} from PYTHONPATH. Start ranks with `torchrun"
                " --no-python tin train ...`, which does not add the current folder"
            )
    return ""
