"""Rules that no linter checks: the direction of imports, restricted libraries, short modules."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {
    "": ["configs", "preprocess", "pipeline", "tin", "launch"],
    "configs": [
        "errors explain progress settings node",
        "data_schema files small_files train_schema predict_schema",
        "digests schema yaml_files",
        "load",
        "cluster",
    ],
    "preprocess": [
        "tars",
        "csv_files tables",
        "decode quarantine shards workers",
        "copies integrity",
        "motions shard_rows videos",
        "graded_motions",
        "annotations frame_folders",
        "flow",
        "shard_plan",
        "convert summary verify",
        "dry_run",
    ],
    "preprocess.annotations": [
        "label_file",
        "labels",
        "files class_folders",
        "formats",
        "read",
        "mirror",
    ],
    "pipeline": [
        "random_numbers crops decoded frames labels store",
        "balance",
        "cutting folds plan threads",
        "batches graph",
        "loader",
    ],
    "tin": ["op", "models", "runs ranks", "evaluation", "training", "deploy bench reports"],
    "tin.op": ["cuda_toolkit trust", "build", "interlace", "nets selftest"],
    "tin.models": [
        "clip_input dropout grouped_norm imagenet modality norm temporal tensor_files time_blocks",
        "causal mobilenet resnet size",
        "network",
        "tensor_names",
        "weights",
    ],
    "tin.runs": [
        "commit fit",
        "csv_rows environment",
        "folder",
        "checkpoint living rank_notes settings",
        "best",
        "averaging restore",
        "foreign",
    ],
    "tin.ranks": [
        "distributed",
        "dataset_check signals node_check step_times watchdog",
        "gpu_health",
    ],
    "tin.evaluation": [
        "array_files averages metrics opposites precise_bn summary_line",
        "scores",
        "description",
        "evaluate predict fuse",
    ],
    "tin.training": [
        "average board device_random early_stop randaugment running_sums pass_graph optim loaders"
        " bad_frames",
        "any_ranks",
        "augment recorder state attempt",
        "finite skipping slow_ranks rows",
        "step",
        "trainer",
    ],
    "tin.reports": [
        "libraries recorded statistics strips tables",
        "attempts curves goodput intervals measured",
        "classes seeds",
        "folds",
        "comparisons dataset_page details",
        "page",
        "contents",
        "results",
    ],
    "tin.deploy": [
        "clips model_card parts part_files preprocess rgb_frames scorer video_lists",
        "sources",
        "predictions timeline stream export",
    ],
    "tin.bench": [
        "timing two_shifts diagnosis input_parts",
        "advice alone scale timed_step architectures cases",
        "on_dataset doctor steps",
    ],
    "launch": [
        "errors record reasons find table_values usage run_states",
        "slurm_query local",
        "status live_jobs check",
        "logs wait diagnosis_bars",
        "jobs",
        "submission",
        "output",
        "commands",
        "cli",
    ],
    "launch.jobs": ["srun_log give_up staging", "stages", "job requeue", "rank"],
    "launch.submission": [
        "sweep snapshot estimate sbatch steps again",
        "executor run_files checks",
        "plan",
    ],
    "launch.commands": [
        "arguments ending examples",
        "data deploy doctor training results tools cluster",
    ],
}
"""The modules and packages inside each package, from the lowest floor to the highest.

Each string is one floor. A module may import from its own floor and from lower floors, as long as
the imports have no cycle.
"""
MODULES = [path for package in FLOORS[""] for path in sorted((ROOT / package).rglob("*.py"))]
PACKAGES = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in MODULES}


def imports(path: Path) -> Iterator[str]:
    """Yield the full names of all modules that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dotted(path: Path) -> str:
    """Return the name of a module or package as imports spell it."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_point_down(path):
    name = dotted(path)
    for package, floors in FLOORS.items():
        prefix = f"{package}." if package else ""
        if not name.startswith(prefix) or name == package:
            continue
        floor_of = {child: number for number, floor in enumerate(floors) for child in floor.split()}
        child = name.removeprefix(prefix).split(".")[0]
        if child.startswith("__"):
            continue
        for used in imports(path):
            other = used.removeprefix(prefix).split(".")[0]
            if used.startswith(prefix) and other in floor_of:
                assert floor_of[other] <= floor_of[child], f"{name} imports {used}, which is higher"


@pytest.mark.parametrize("package", sorted(FLOORS))
def test_every_module_has_a_floor(package):
    folder = ROOT / package.replace(".", "/")
    if not package:
        return
    found = {path.stem for path in folder.glob("*.py")} | {
        path.parent.name for path in folder.glob("*/__init__.py")
    }
    listed = " ".join(FLOORS[package]).split()
    assert sorted(listed) == sorted(name for name in found if not name.startswith("__"))


def test_imports_have_no_cycle():
    names = {dotted(path): path for path in MODULES}
    used = {
        name: {other for other in imports(path) if other in names} for name, path in names.items()
    }
    finished: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in finished:
            for other in used[name]:
                visit(other, (*trail, name))
            finished.add(name)

    for name in names:
        visit(name, ())


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_dali_submitit_and_torch_are_imported_only_where_allowed(path):
    place = str(path.relative_to(ROOT))
    used = {name.split(".")[0] for name in imports(path)}
    assert "nvidia" not in used or place == "pipeline/graph.py"
    assert "submitit" not in used or place.startswith("launch/")
    if place.startswith(("preprocess/", "configs/")):
        assert "torch" not in used


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_modules_are_short(path):
    assert len(path.read_text().splitlines()) < 300


def test_the_cuda_folder_is_not_a_package():
    # torch needs the installed package `cuda`, which an __init__.py here would hide
    assert not list((ROOT / "cuda").rglob("__init__.py"))
