"""Files of other projects: the names of their tensors and the logits of their networks."""

import hashlib
import json
import os
import re
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_model import Reference, recipe_state
from torch import Tensor
from torch.nn import functional as F

from configs.files import WriteError
from configs.load import ConfigError, load
from tin.models.imagenet import FILES
from tin.models.network import TIN
from tin.models.tensor_names import from_reference, our_name, to_reference
from tin.models.weights import ImportReport, export_reference, import_file, initialize

State = dict[str, Tensor]


def table(shared: Path, name: str) -> dict[str, Any]:
    """Return a table of shared/reference/state_dicts."""
    return json.loads((shared / "reference" / "state_dicts" / name).read_text())


def statuses(report: ImportReport) -> dict[str, str]:
    """Return the status of each tensor by our name, or by the file's name if we have none."""
    return {row.ours or row.theirs: row.status for row in report.rows}


def meta_model(**settings: Any) -> TIN:
    """Return a network whose tensors have shapes but no values."""
    with torch.device("meta"):
        return TIN(**{"num_classes": 174, **settings})


def shapes(state: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in state.items()}


def resnet50_logits(state: State, x: Tensor, prefix: str, conv1: str, shift_div: int = 0) -> Tensor:
    """Return the logits of a ResNet-50, computed from the tensors of another project.

    Args:
        state: tensors by the names of TSM or torchvision.
        x: clips ``(B, T, 3, H, W)``.
        prefix: the prefix of conv1, layer1 and so on.
        conv1: name of the first convolution of a block.
        shift_div: shifts 1/shift_div of the channels one frame earlier and as many one frame
            later; 0 shifts none.
    """
    B, T = x.shape[:2]

    def norm(name: str, y: Tensor) -> Tensor:
        mean = state[f"{name}.running_mean"]
        variance = state[f"{name}.running_var"]
        return F.batch_norm(y, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"])

    def shifted(y: Tensor) -> Tensor:
        if not shift_div:
            return y
        fold = y.shape[1] // shift_div
        clip = y.unflatten(0, (B, T))
        out = clip.clone()
        out[:, :, : 2 * fold] = 0
        out[:, :-1, :fold] = clip[:, 1:, :fold]
        out[:, 1:, fold : 2 * fold] = clip[:, :-1, fold : 2 * fold]
        return out.flatten(0, 1)

    y = F.conv2d(x.flatten(0, 1), state[f"{prefix}conv1.weight"], stride=2, padding=3)
    y = F.max_pool2d(F.relu(norm(f"{prefix}bn1", y)), 3, 2, 1)
    for layer, num_blocks in enumerate((3, 4, 6, 3), start=1):
        for index in range(num_blocks):
            name = f"{prefix}layer{layer}.{index}"
            stride = 2 if layer > 1 and index == 0 else 1
            z = F.conv2d(shifted(y), state[f"{name}.{conv1}.weight"])
            z = F.relu(norm(f"{name}.bn1", z))
            z = F.conv2d(z, state[f"{name}.conv2.weight"], stride=stride, padding=1)
            z = F.relu(norm(f"{name}.bn2", z))
            z = norm(f"{name}.bn3", F.conv2d(z, state[f"{name}.conv3.weight"]))
            if index == 0:
                y = F.conv2d(y, state[f"{name}.downsample.0.weight"], stride=stride)
                y = norm(f"{name}.downsample.1", y)
            y = F.relu(z + y)
    head = "new_fc" if "new_fc.weight" in state else "fc"
    logits = F.linear(y.mean((2, 3)), state[f"{head}.weight"], state[f"{head}.bias"])
    return logits.unflatten(0, (B, T)).mean(1)


# Each file format of a TIN network: files with the recipe's weights give the original's logits.


@pytest.fixture(scope="module")
def tin_case(shared: Path) -> tuple[Reference, State]:
    """Return a reference case and its tensors by the original's names."""
    case = Reference(shared, "resnet50_t8_64x64")
    return case, recipe_state(case.empty_model(), case.facts["weight_seed"])


def to_tin(state: State, shared: Path) -> dict[str, Any]:
    state = {f"module.{name}": value for name, value in state.items()}
    return {"epoch": 40, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}},
            "best_prec1": torch.tensor(45.5)}  # fmt: skip


def to_xtemporal(state: State, shared: Path) -> dict[str, Any]:
    return {"model": state, "step": 100, "optimizer": {"state": {}}}


def to_mmaction2(state: State, shared: Path) -> dict[str, Any]:
    mapping = table(shared, "mmaction2_tin_r50.json")["mapping_mmaction2_to_tin"]
    state = {theirs: state[ours] for theirs, ours in mapping.items()}
    return {"meta": {"epoch": 40, "mmaction_version": "0.24.1"}, "state_dict": state}


@pytest.mark.parametrize("form", [to_tin, to_xtemporal, to_mmaction2])
def test_logits_of_an_imported_tin_file_equal_the_original(
    tin_case: tuple[Reference, State],
    shared: Path,
    tmp_path: Path,
    form: Callable[[State, Path], dict[str, Any]],
):
    case, state = tin_case
    torch.save(form(state, shared), tmp_path / "foreign.pth")
    model = case.empty_model()
    report = import_file(tmp_path / "foreign.pth", model)
    assert report.failed == ()
    assert set(statuses(report).values()) <= {"loaded", "renamed"}
    assert len(report.rows) == len(model.state_dict()) == 448
    model.eval()
    with torch.no_grad():
        logits = model(case.x)
    np.testing.assert_allclose(logits, case.arrays["eval/logits"], rtol=1e-4, atol=1e-4)


# The file formats of TSM and TSN networks: the expected logits are computed from the tensors.


def drawn(temporal: str) -> State:
    """Return the recipe's tensors for TSM (shift) or TSN (none), by the original's names."""
    return recipe_state(TIN(7, "resnet50", temporal, num_segments=4, shift_div=8), seed=5)


def mmaction2_name(name: str) -> str:
    """Return MMAction2's name of a tensor of TSM or TSN."""
    name = name.replace("base_model.", "backbone.").replace("new_fc.", "cls_head.fc_cls.")
    name = re.sub(r"\bconv(\d)\.(net\.)?weight", r"conv\1.conv.\2weight", name)
    name = re.sub(r"\bbn(\d)\.", r"conv\1.bn.", name)
    return name.replace("downsample.0.", "downsample.conv.").replace(
        "downsample.1.", "downsample.bn."
    )


@pytest.mark.parametrize("zoo", ["original", "mmaction2"])
@pytest.mark.parametrize("temporal, conv1, shift_div", [("shift", "conv1.net", 8),
                                                        ("none", "conv1", 0)])  # fmt: skip
def test_logits_of_an_imported_tsm_or_tsn_file_equal_a_direct_computation(
    tmp_path: Path, temporal: str, conv1: str, shift_div: int, zoo: str
):
    state = drawn(temporal)
    x = torch.randn(2, 4, 3, 32, 32)
    expected = resnet50_logits(state, x, "base_model.", conv1, shift_div)
    if zoo == "original":
        content = {"state_dict": {f"module.{name}": value for name, value in state.items()}}
    else:
        content = {"state_dict": {mmaction2_name(name): value for name, value in state.items()}}
    torch.save(content, tmp_path / "foreign.pth")
    model = TIN(7, "resnet50", temporal, num_segments=4, shift_div=8)
    report = import_file(tmp_path / "foreign.pth", model)
    assert report.failed == ()
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


def test_features_of_an_imported_torchvision_file_equal_a_direct_computation(tmp_path: Path):
    state = {name.removeprefix("base_model.").replace("new_fc", "fc"): value
             for name, value in drawn("none").items()}  # fmt: skip
    x = torch.randn(1, 2, 3, 32, 32)
    expected = resnet50_logits(state, x, "", "conv1")
    torch.save(state, tmp_path / "resnet50.pth")
    model = TIN(7, "resnet50", "none", num_segments=2)
    report = import_file(tmp_path / "resnet50.pth", model)
    assert report.failed == ()
    left = {row.theirs: row.note for row in report.rows if row.status == "left out"}
    assert left == dict.fromkeys(["fc.weight", "fc.bias"], "the classifier of ImageNet")
    model.fc.load_state_dict({"weight": state["fc.weight"], "bias": state["fc.bias"]})
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


# The names and shapes of all tensors of a network.


def test_names_and_shapes_equal_the_lists_of_the_original(shared: Path):
    lists = table(shared, "tin_reference.json")
    model = meta_model()
    found = shapes(to_reference(model))
    assert found == lists["resnet50_tin_t8"]
    assert len(found) == 448
    assert from_reference(to_reference(model)).keys() == model.state_dict().keys()

    frames16 = shapes(to_reference(meta_model(num_segments=16)))
    different = lists["resnet50_tin_t16_only_differences"]
    assert {name for name in found if found[name] != frames16[name]} == set(different)
    assert {name: frames16[name] for name in different} == different

    plain = shapes(to_reference(meta_model(dropout=0.0)))
    different = lists["resnet50_tin_t8_dropout0_only_differences"]
    assert {name: plain[name] for name in set(plain) - set(found)} == different["added"]
    assert set(found) - set(plain) == set(different["removed"])

    small_list = lists["resnet18_tin_t8"]
    classes = small_list["new_fc.weight"][0]
    assert shapes(to_reference(meta_model(arch="resnet18", num_classes=classes))) == small_list


def test_names_and_shapes_equal_the_list_of_tsm(shared: Path):
    expected = table(shared, "tsm_reference_r50_shift8_blockres.json")["shapes"]
    found = shapes(to_reference(meta_model(temporal="shift", shift_div=8)))
    assert found.keys() == expected.keys()
    assert len(found) == 320
    differing = [name for name in found if found[name] != expected[name]]
    assert set(differing) <= {"new_fc.weight", "new_fc.bias"}


def test_names_and_shapes_of_mmaction2_map_to_ours(shared: Path):
    found = shapes(meta_model().state_dict())
    listed = table(shared, "mmaction2_tin_r50.json")["shapes_mmaction2"]
    assert {our_name(name): shape for name, shape in listed.items()} == found
    for file, key in (("mmaction2_tin_r50.json", "mapping_mmaction2_to_tin"),
                      ("mmaction2_tsm_r50.json", "mapping")):  # fmt: skip
        for theirs, original in table(shared, file)[key].items():
            assert our_name(theirs) == our_name(original)


# The report on every tensor.


def saved(tmp_path: Path, state: Mapping[str, Tensor]) -> Path:
    """Return a file with these tensors."""
    torch.save({"state_dict": state}, tmp_path / "file.pth")
    return tmp_path / "file.pth"


def small(temporal: str = "interlace", num_segments: int = 4, num_classes: int = 3) -> TIN:
    """Return a small network."""
    return TIN(num_classes, "resnet18", temporal, num_segments, shift_div=4)


def test_all_tensors_load_but_the_classifier_of_another_dataset(shared: Path, tmp_path: Path):
    """The original leaves 34 tensors at their initial values, and 146 for a TSM file."""
    original = json.loads((shared / "reference/tables/tune_from_loading.json").read_text())
    # The temporal module and the classes of each file, and how many tensors stay new: the eight
    # of each of 16 temporal modules, unless the file has them.
    files = {"TIN checkpoint, same dataset (name contained in path)": ("interlace", 12, 0),
             "TIN checkpoint, NEW dataset": ("interlace", 10, 0),
             "TSM checkpoint, NEW dataset": ("shift", 10, 16 * 8),
             "plain TSN checkpoint (base_model.* + new_fc), NEW dataset":
                 ("none", 10, 16 * 8)}  # fmt: skip
    assert original.keys() == files.keys()
    for name, (temporal, num_classes, num_new) in files.items():
        state = to_reference(TIN(num_classes, temporal=temporal))
        report = import_file(saved(tmp_path, state), TIN(12))
        found = list(statuses(report).values())
        num_left_out = 0 if num_classes == 12 else 2
        assert report.failed == ()
        assert len(found) == original[name]["n_target"] == 448
        assert found.count("new") == num_new
        assert found.count("left out") == num_left_out
        assert found.count("renamed") == 448 - num_left_out - num_new
        assert found.count("renamed") >= original[name]["n_loaded"]


def test_the_report_lists_every_tensor_of_the_file_and_of_the_model(tmp_path: Path):
    file = small("interlace")
    model = small("conv")
    report = import_file(saved(tmp_path, to_reference(file)), model)
    assert sorted(row.ours for row in report.rows if row.ours) == sorted(model.state_dict())
    assert sorted(row.theirs for row in report.rows if row.theirs) == sorted(to_reference(file))
    assert report.failed == ()
    assert str(report).endswith("122 renamed, 8 new, 64 left out")


def test_a_classifier_with_the_same_number_of_classes_loads(tmp_path: Path):
    file = small(num_classes=3)
    model = small(num_classes=3)
    import_file(saved(tmp_path, to_reference(file)), model)
    assert torch.equal(model.fc.weight, file.fc.weight)


def test_a_tensor_that_the_file_lacks_is_reported(tmp_path: Path):
    state = to_reference(small())
    del state["base_model.layer2.0.conv2.weight"]
    report = import_file(saved(tmp_path, state), small())
    (row,) = report.failed
    assert (row.status, row.ours) == ("new", "backbone.layer2.0.conv2.weight")


def test_a_tensor_that_the_model_lacks_is_reported(tmp_path: Path):
    state = to_reference(small())
    state["base_model.layer2.0.attention.weight"] = torch.zeros(2)
    (row,) = import_file(saved(tmp_path, state), small()).failed
    assert (row.status, row.theirs) == ("left out", "base_model.layer2.0.attention.weight")


def test_an_incomplete_offset_net_is_a_failure(tmp_path: Path):
    state = to_reference(small())
    del state["base_model.layer2.0.conv1.net1.biasnet.net.fc.weight"]
    (row,) = import_file(saved(tmp_path, state), small()).failed
    assert row.ours == "backbone.layer2.0.temporal.offset_net.fc1.weight"


def test_a_file_of_a_different_network_is_a_failure(tmp_path: Path):
    state = to_reference(TIN(3, "resnet34", num_segments=4))
    report = import_file(saved(tmp_path, state), small())
    assert {row.theirs.split(".")[1] for row in report.failed} == {
        "layer1", "layer2", "layer3", "layer4"
    }  # fmt: skip


def test_an_old_file_without_batch_counts_of_batchnorm_loads(tmp_path: Path):
    state = to_reference(small())
    state = {key: value for key, value in state.items() if "num_batches" not in key}
    assert import_file(saved(tmp_path, state), small()).failed == ()


def test_a_different_number_of_frames_is_rejected(tmp_path: Path):
    path = saved(tmp_path, to_reference(small(num_segments=4)))
    report = import_file(path, small(num_segments=8))
    assert {row.status for row in report.failed} == {"rejected"}
    # fc1's weight and bias and fc2's weight depend on the frames, in each of 8 blocks.
    assert len(report.failed) == 3 * 8
    assert report.failed[0].note.startswith("4x4 in the file, 8x8 in the model")
    with pytest.raises(ConfigError, match="24 tensors of .* set model.init_interpolate=true"):
        initialize(small(num_segments=8), load(None, [f"model.init={path}"]))


def test_offset_nets_for_a_different_number_of_frames_can_be_interpolated(tmp_path: Path):
    file = small(num_segments=2)
    model = small(num_segments=4)
    net = file.backbone.layer1[0].temporal.offset_net
    net.fc1.bias.data = torch.tensor([0.0, 4.0])
    net.fc1.weight.data = torch.tensor([[0.0, 8.0], [16.0, 24.0]])
    net.fc2.weight.data = torch.tensor([[0.0, 4.0], [1.0, 1.0]])
    path = saved(tmp_path, to_reference(file))
    config = load(None, [f"model.init={path}", "model.init_interpolate=true"])
    assert initialize(model, config).failed == ()
    net = model.backbone.layer1[0].temporal.offset_net
    # The new frames lie at -1/4, 1/4, 3/4 and 5/4 of the old ones. Outside of the old frames, the
    # nearest old value is used.
    assert net.fc1.bias.tolist() == [0, 1, 3, 4]
    assert net.fc2.weight.tolist() == [[0, 0.5, 1.5, 2], [0.5, 0.5, 0.5, 0.5]]
    row = torch.tensor([0.0, 1, 3, 4])
    torch.testing.assert_close(net.fc1.weight.data, row + 2 * row[:, None])


def test_an_exported_model_is_imported_with_the_same_logits(tmp_path: Path):
    model = small().eval()
    export_reference(model, "resnet18", tmp_path / "out.pth.tar")
    content = torch.load(tmp_path / "out.pth.tar", weights_only=True)
    assert set(content) >= {"epoch", "arch", "state_dict", "best_prec1"}
    assert all(name.startswith("module.") for name in content["state_dict"])
    other = small().eval()
    assert import_file(tmp_path / "out.pth.tar", other).failed == ()
    x = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(x), other(x))


def test_an_export_that_fails_keeps_the_old_file_and_names_the_reason(tmp_path: Path):
    path = tmp_path / "out.pth.tar"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(WriteError, match=rf"cannot write {path}: File too large"):
            export_reference(small(), "resnet18", path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_of_an_exported_classifier_depends_on_dropout():
    """As in the original, which adds a new layer for the classifier only after dropout."""
    model = TIN(3, "resnet18", "none", dropout=0.0)
    assert "base_model.fc.weight" in to_reference(model)
    assert "new_fc.weight" in to_reference(TIN(3, "resnet18", "none", dropout=0.5))


def test_a_temporal_convolution_cannot_be_exported():
    with pytest.raises(ValueError, match=r"temporal\.conv.*the original does not have this"):
        to_reference(small("conv"))


def test_a_checkpoint_of_ours_initializes_a_model_with_its_moving_average(tmp_path: Path):
    trained = small()
    average = small()
    torch.save({"format": 1, "model": trained.state_dict(), "ema": average.state_dict()},
               tmp_path / "best.pt")  # fmt: skip
    model = small()
    report = initialize(model, load(None, [f"model.init={tmp_path / 'best.pt'}"]))
    assert set(statuses(report).values()) == {"loaded"}
    assert torch.equal(model.fc.weight, average.fc.weight)
    torch.save({"format": 1, "model": trained.state_dict(), "ema": None}, tmp_path / "best.pt")
    import_file(tmp_path / "best.pt", model)
    assert torch.equal(model.fc.weight, trained.fc.weight)


# Files that are rejected.


class _Bomb:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_never_executed(tmp_path: Path):
    state = to_reference(small())
    torch.save({"state_dict": state, "meta": _Bomb(tmp_path / "ran")}, tmp_path / "file.pth")
    with pytest.raises(ConfigError, match=r"file\.pth: cannot be read as plain tensors"):
        import_file(tmp_path / "file.pth", small())
    assert not (tmp_path / "ran").exists()


def test_files_without_a_network_are_rejected(tmp_path: Path):
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="does not contain a residual network"):
        import_file(tmp_path / "other.pth", small())
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ConfigError, match="does not contain a residual network"):
        import_file(tmp_path / "list.pth", small())
    for content in ("not found", ""):
        (tmp_path / "text.pth").write_text(content)
        with pytest.raises(ConfigError, match=r"cannot be read as plain tensors \(\w+Error"):
            import_file(tmp_path / "text.pth", small())
    with pytest.raises(ConfigError, match=r"absent\.pth: this file does not exist"):
        import_file(tmp_path / "absent.pth", small())


def test_a_missing_file_of_initial_weights_is_rejected_with_advice():
    config = load("tin_r50_8f_ucf101")  # the user has to name the file of this recipe
    absent = r"8f_kinetics400\.pth\.tar: this file does not exist\. Name a checkpoint"
    with pytest.raises(ConfigError, match=absent):
        initialize(small(), config)


def test_two_tensors_with_the_same_meaning_are_rejected(tmp_path: Path):
    state = to_reference(small())
    state["module.base_model.conv1.weight"] = state["base_model.conv1.weight"]
    with pytest.raises(
        ConfigError, match=r"2 tensors .* the same meaning, backbone\.conv1\.weight"
    ):
        import_file(saved(tmp_path, state), small())


# Initial weights.


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "site.yaml").write_text(f"cache: {tmp_path / 'cache'}\n")
    monkeypatch.setenv("TIN_SITE", str(tmp_path / "site.yaml"))
    return tmp_path / "cache"


def test_init_none_loads_no_weights():
    assert initialize(small(), load(None, ["model.init=none"])) is None


def test_imagenet_weights_are_found_in_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch):
    network = TIN(1000, "resnet18", "none")
    state = {name.removeprefix("backbone."): value for name, value in network.state_dict().items()}
    torch.save(state, cache.parent / "file.pth")
    digest = hashlib.sha256((cache.parent / "file.pth").read_bytes()).hexdigest()
    monkeypatch.setitem(FILES, "resnet18", f"resnet18-{digest[:8]}.pth")
    path = cache / "weights" / FILES["resnet18"]
    path.parent.mkdir(parents=True)
    (cache.parent / "file.pth").rename(path)
    model = small()
    report = initialize(model, load(None, ["model.arch=resnet18"]))
    assert torch.equal(model.backbone.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    new = {name for name, status in statuses(report).items() if status == "new"}
    assert all(".temporal." in name for name in new)
    assert len(new) == 8 * 8


def test_missing_imagenet_weights_name_the_command_that_fetches_them(cache: Path):
    with pytest.raises(ConfigError, match="Run `tin weights fetch resnet18` on a machine with a"):
        initialize(small(), load(None, ["model.arch=resnet18"]))
