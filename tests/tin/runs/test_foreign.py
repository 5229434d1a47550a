"""A checkpoint of another project as a run, and back."""

import re

import pytest
import torch

from configs.load import ConfigError
from tin.models.network import TIN
from tin.models.weights import export_reference, to_reference
from tin.runs import checkpoint
from tin.runs.folder import Run
from tin.runs.foreign import export_run, import_run, settings_of
from tin.runs.restore import config_of, restore


@pytest.fixture
def file(tmp_path):
    model = TIN(3, "resnet18", "interlace", num_segments=4, shift_div=2).eval()
    export_reference(model, "resnet18", tmp_path / "tin.pth.tar")
    return model, tmp_path / "tin.pth.tar"


def told(state):
    return dict(setting.split("=") for setting in settings_of(state))


def meta_state(*args, **settings):
    with torch.device("meta"):
        return to_reference(TIN(*args, **settings))


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_tensors_tell_their_network(arch):
    found = told(meta_state(3, arch, num_segments=16, shift_div=4))
    assert found == {
        "model.arch": arch,
        "model.temporal": "interlace",
        "model.shift_div": "4",
        "clip.num_segments": "16",
        "clip.frames_per_segment": "1",
    }


def test_tensors_tell_tsm_from_tsn():
    tsm = meta_state(3, "resnet50", "shift", shift_div=8)
    assert told(tsm)["model.temporal"] == "shift"
    assert told(tsm)["model.shift_div"] == "8"
    mmaction2 = {re.sub(r"conv1\.net\.", "conv1.conv.net.", name): tsm[name] for name in tsm}
    assert told(mmaction2)["model.temporal"] == "shift"
    assert told(meta_state(3, "resnet50", "none"))["model.temporal"] == "none"


def test_an_imported_file_is_a_run_that_gives_the_same_scores(file, tmp_path):
    model, path = file
    report = import_run(path, tmp_path / "run")
    assert report.failed == ()
    assert len(report.lines()) == len(report.rows) == len(model.state_dict())
    state = checkpoint.load(checkpoint.best(Run(tmp_path / "run")))
    config = Run(tmp_path / "run").config()
    assert config == config_of(state)
    assert (config.model.arch, config.clip.num_segments) == ("resnet18", 4)
    assert state["classes"] == ["0", "1", "2"]
    x = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(restore(state, config)(x), model(x))


def test_without_a_folder_there_is_only_the_account(file, tmp_path):
    _, path = file
    before = set(tmp_path.rglob("*"))
    assert import_run(path).failed == ()
    assert set(tmp_path.rglob("*")) == before


def test_settings_come_last_and_a_misfit_makes_no_run(file, tmp_path):
    _, path = file
    report = import_run(path, tmp_path / "run", ["clip.num_segments=8"])
    assert report.failed
    assert any(line.endswith("FAILED") and "refused" in line for line in report.lines())
    assert not (tmp_path / "run").exists()


def test_a_run_is_never_written_over(file, tmp_path):
    _, path = file
    import_run(path, tmp_path / "run")
    with pytest.raises(ConfigError, match="is a run already"):
        import_run(path, tmp_path / "run")


def test_a_torchvision_file_becomes_no_run(tmp_path):
    network = TIN(1000, "resnet18", "none")
    state = {name.removeprefix("backbone."): value for name, value in network.state_dict().items()}
    torch.save(state, tmp_path / "resnet18.pth")
    assert import_run(tmp_path / "resnet18.pth").failed == ()
    with pytest.raises(ConfigError, match="no classifier of its own"):
        import_run(tmp_path / "resnet18.pth", tmp_path / "run")


def test_a_network_of_other_layers_is_refused(file, tmp_path):
    model, _ = file
    state = to_reference(model)
    state = {name: value for name, value in state.items() if "layer2.1." not in name}
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(ConfigError, match=r"a network of \(2, 1, 2, 2\) blocks is none of"):
        import_run(tmp_path / "odd.pth")


def test_a_run_goes_back_to_the_format_of_the_original(file, tmp_path):
    model, path = file
    import_run(path, tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "back.pth.tar")
    old, new = (torch.load(name, weights_only=True) for name in (path, tmp_path / "back.pth.tar"))
    assert old["state_dict"].keys() == new["state_dict"].keys()
    assert all(
        torch.equal(value, new["state_dict"][key]) for key, value in old["state_dict"].items()
    )
