"""Results as JSON: `tin weights import` and `tin list`."""

import json

from typer.testing import CliRunner
from written_runs import write_run

from launch.cli import app
from tin.models.network import TIN
from tin.models.weights import export_reference


def _json(*arguments: object) -> dict:
    """Run a command that succeeds and return the JSON that it prints."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert found.exit_code == 0, found.output + repr(found.exception)
    return json.loads(found.stdout)


def test_import_lists_every_tensor(tmp_path):
    model = TIN(3, "resnet18", "interlace", num_segments=4, shift_div=2)
    path = tmp_path / "tin.pth.tar"
    export_reference(model, "resnet18", path)
    found = _json("weights", "import", path, "--run", tmp_path / "run", "--json")
    assert found["file"] == str(path) and found["run"] == str(tmp_path / "run")
    assert len(found["tensors"]) == len(model.state_dict())
    assert not any(row["failed"] for row in found["tensors"])


def test_list_has_the_runs_of_a_folder(tmp_path):
    write_run(tmp_path / "runs" / "a")
    (row,) = _json("list", tmp_path / "runs", "--json")["runs"]
    assert row["run_dir"] == str(tmp_path / "runs" / "a") and row["state"] == "done"
