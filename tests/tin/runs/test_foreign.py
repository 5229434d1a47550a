"""Checkpoints of other projects become runs, and runs become checkpoints of the original."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from configs.load import ConfigError
from tin.models.network import TIN
from tin.models.tensor_names import to_reference
from tin.models.weights import export_reference
from tin.runs import checkpoint
from tin.runs.folder import Run
from tin.runs.foreign import export_run, import_run, settings_of
from tin.runs.restore import config_of, restore


@pytest.fixture
def file(tmp_path: Path) -> tuple[TIN, Path]:
    """Return a model and a checkpoint of it in the original's format."""
    model = TIN(3, "resnet18", "interlace", num_segments=4, shift_div=2).eval()
    export_reference(model, "resnet18", tmp_path / "tin.pth.tar")
    return model, tmp_path / "tin.pth.tar"


def implied(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Return the settings that the tensors of a checkpoint imply, by their names."""
    return {key: value for key, _, value in (text.partition("=") for text in settings_of(tensors))}


def meta_state(arch: str, temporal: str, shift_div: int = 4) -> dict[str, Tensor]:
    """Return the tensors of a network of 16 frames, without their values."""
    with torch.device("meta"):
        return to_reference(TIN(3, arch, temporal, num_segments=16, shift_div=shift_div))


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_tensors_imply_the_settings_of_their_network(arch: str):
    assert implied(meta_state(arch, "interlace")) == {
        "model.arch": arch,
        "model.temporal": "interlace",
        "model.shift_div": "4",
        "clip.num_segments": "16",
        "clip.frames_per_segment": "1",
    }


def test_tensor_names_distinguish_tsm_from_tsn():
    tsm = meta_state("resnet50", "shift", shift_div=8)
    assert implied(tsm)["model.temporal"] == "shift"
    assert implied(tsm)["model.shift_div"] == "8"
    mmaction2 = {re.sub(r"conv1\.net\.", "conv1.conv.net.", name): tsm[name] for name in tsm}
    assert implied(mmaction2)["model.temporal"] == "shift"
    assert implied(meta_state("resnet50", "none"))["model.temporal"] == "none"


def test_an_imported_file_becomes_a_run_with_the_same_scores(
    file: tuple[TIN, Path], tmp_path: Path
):
    model, path = file
    report = import_run(path, tmp_path / "run")
    assert report.failed == ()
    assert len(report.lines()) == len(report.rows) == len(model.state_dict())
    run = Run(tmp_path / "run")
    best = checkpoint.best(run)
    assert best is not None
    state = checkpoint.load(best)
    config = run.config()
    assert config == config_of(state)
    assert (config.model.arch, config.clip.num_segments) == ("resnet18", 4)
    assert state["classes"] == ["0", "1", "2"]
    x = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(restore(state, config)(x), model(x))


def test_without_a_run_folder_an_import_only_reports(file: tuple[TIN, Path], tmp_path: Path):
    _, path = file
    before = set(tmp_path.rglob("*"))
    assert import_run(path).failed == ()
    assert set(tmp_path.rglob("*")) == before


def test_settings_that_do_not_fit_the_file_make_no_run(file: tuple[TIN, Path], tmp_path: Path):
    _, path = file
    report = import_run(path, tmp_path / "run", ["clip.num_segments=8"])
    assert report.failed
    assert any(line.endswith("FAILED") and "rejected" in line for line in report.lines())
    assert not (tmp_path / "run").exists()


def test_an_import_never_overwrites_a_run(file: tuple[TIN, Path], tmp_path: Path):
    _, path = file
    import_run(path, tmp_path / "run")
    with pytest.raises(ConfigError, match="already contains a run; name another folder"):
        import_run(path, tmp_path / "run")


def test_a_torchvision_file_cannot_become_a_run(tmp_path: Path):
    network = TIN(1000, "resnet18", "none")
    state = {name.removeprefix("backbone."): value for name, value in network.state_dict().items()}
    torch.save(state, tmp_path / "resnet18.pth")
    assert import_run(tmp_path / "resnet18.pth").failed == ()
    with pytest.raises(ConfigError, match="has no trained classifier"):
        import_run(tmp_path / "resnet18.pth", tmp_path / "run")


def test_a_network_with_other_numbers_of_blocks_is_rejected(file: tuple[TIN, Path], tmp_path: Path):
    model, _ = file
    state = to_reference(model)
    state = {name: value for name, value in state.items() if "layer2.1." not in name}
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(ConfigError, match=r"with \(2, 1, 2, 2\) blocks .* is not one of resnet18"):
        import_run(tmp_path / "odd.pth")


def test_an_exported_run_has_the_same_tensors_in_the_format_of_the_original(
    file: tuple[TIN, Path], tmp_path: Path
):
    _, path = file
    import_run(path, tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "back.pth.tar")
    old = torch.load(path, weights_only=True)["state_dict"]
    new = torch.load(tmp_path / "back.pth.tar", weights_only=True)["state_dict"]
    assert old.keys() == new.keys()
    assert all(torch.equal(value, new[key]) for key, value in old.items())


def test_an_import_that_was_killed_half_way_can_be_repeated(
    file: tuple[TIN, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write = Run.write

    def killed(self: Run, name: str, text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        import_run(file[1], tmp_path / "run")
    monkeypatch.setattr(Run, "write", write)
    assert not import_run(file[1], tmp_path / "run").failed
    assert Run(tmp_path / "run").exists()


def test_export_and_import_keep_crop_segments_and_size(file: tuple[TIN, Path], tmp_path: Path):
    _, path = file
    given = ["clip.crop=96", "clip.resize=112", "clip.sampling=dense", "clip.stride=3"]
    import_run(path, tmp_path / "run", given)
    export_run(tmp_path / "run", tmp_path / "back.pth.tar")
    for source in (tmp_path / "back.pth.tar", tmp_path / "run" / "checkpoints" / "best.pt"):
        again = tmp_path / f"again-{source.name}"
        import_run(source, again)
        assert Run(again).config().clip == Run(tmp_path / "run").config().clip
    # Settings on the command line are applied last.
    import_run(tmp_path / "back.pth.tar", tmp_path / "other", ["clip.crop=64"])
    assert Run(tmp_path / "other").config().clip.crop == 64
