"""Files of other projects: their tensors by name, and the logits of the networks they hold."""

import json
import os
import re

import numpy as np
import pytest
import torch
from reference_model import Reference, recipe_state
from torch.nn import functional as F

from configs.load import ConfigError, load
from tin.models.network import TIN
from tin.models.weights import (
    export_reference,
    from_reference,
    import_file,
    initialize,
    our_name,
    to_reference,
)


def table(shared, name):
    return json.loads((shared / "reference" / "state_dicts" / name).read_text())


def statuses(report):
    return {row.ours or row.theirs: row.status for row in report.rows}


def meta_model(**settings):
    with torch.device("meta"):
        return TIN(**{"num_classes": 174, **settings})


def shapes(state):
    return {name: list(value.shape) for name, value in state.items()}


def resnet50_logits(state, x, prefix, conv1, shift_div=0):
    """Return the logits of a ResNet-50 straight from the tensors of another project.

    Args:
        state: tensors by the names of TSM or torchvision.
        x: clips ``(B, T, 3, H, W)``.
        prefix: what stands before conv1 and layer1.
        conv1: name of the first convolution of a block.
        shift_div: one of so many channels goes a frame back, as many a frame forth; 0: none.
    """
    B, T = x.shape[:2]

    def norm(name, y):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(y, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])

    def shifted(y):
        if not shift_div:
            return y
        fold = y.shape[1] // shift_div
        clip, out = y.unflatten(0, (B, T)), y.unflatten(0, (B, T)).clone()
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


# Every format whose network is TIN: the recipe's weights, the original's logits.


@pytest.fixture(scope="module")
def tin_case(shared):
    case = Reference(shared, "resnet50_t8_64x64")
    return case, recipe_state(case.empty_model(), case.facts["weight_seed"])


def to_tin(state, shared):
    state = {f"module.{name}": value for name, value in state.items()}
    return {"epoch": 40, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}},
            "best_prec1": torch.tensor(45.5)}  # fmt: skip


def to_xtemporal(state, shared):
    return {"model": state, "step": 100, "optimizer": {"state": {}}}


def to_mmaction2(state, shared):
    mapping = table(shared, "mmaction2_tin_r50.json")["mapping_mmaction2_to_tin"]
    state = {theirs: state[ours] for theirs, ours in mapping.items()}
    return {"meta": {"epoch": 40, "mmaction_version": "0.24.1"}, "state_dict": state}


@pytest.mark.parametrize("form", [to_tin, to_xtemporal, to_mmaction2])
def test_logits_of_an_imported_tin_file_equal_the_original(tin_case, shared, tmp_path, form):
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


# The formats of TSM and TSN networks: logits straight from the tensors, by their own names.


def drawn(temporal, arch="resnet50"):
    """Return the recipe's tensors by the names of TSM or of the original without a module."""
    return recipe_state(TIN(7, arch, temporal, num_segments=4, shift_div=8), seed=5)


def mmaction2_name(name):
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
def test_logits_of_an_imported_tsm_or_tsn_file(tmp_path, temporal, conv1, shift_div, zoo):
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


def test_features_of_an_imported_torchvision_file(tmp_path):
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


# Names and shapes of whole lists.


def test_names_and_shapes_equal_the_lists_of_the_original(shared):
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


def test_names_and_shapes_equal_the_list_of_tsm(shared):
    expected = table(shared, "tsm_reference_r50_shift8_blockres.json")["shapes"]
    found = shapes(to_reference(meta_model(temporal="shift", shift_div=8)))
    assert found.keys() == expected.keys()
    assert len(found) == 320
    differing = [name for name in found if found[name] != expected[name]]
    assert set(differing) <= {"new_fc.weight", "new_fc.bias"}


def test_names_and_shapes_of_mmaction2_equal_its_lists(shared):
    found = shapes(meta_model().state_dict())
    listed = table(shared, "mmaction2_tin_r50.json")["shapes_mmaction2"]
    assert {our_name(name): shape for name, shape in listed.items()} == found
    for file, key in (("mmaction2_tin_r50.json", "mapping_mmaction2_to_tin"),
                      ("mmaction2_tsm_r50.json", "mapping")):  # fmt: skip
        for theirs, original in table(shared, file)[key].items():
            assert our_name(theirs) == our_name(original)


# The account.


def saved(tmp_path, state):
    torch.save({"state_dict": state}, tmp_path / "file.pth")
    return tmp_path / "file.pth"


def small(temporal="interlace", num_segments=4, classes=3, shift_div=4):
    return TIN(classes, "resnet18", temporal, num_segments, shift_div)


def test_all_but_the_classifier_of_another_dataset_loads(shared, tmp_path):
    """Where the original leaves 34 tensors at their start, and 146 of a TSM file."""
    original = json.loads((shared / "reference/tables/tune_from_loading.json").read_text())
    names = {"TIN checkpoint, same dataset (name contained in path)": ("interlace", 12, 0),
             "TIN checkpoint, NEW dataset": ("interlace", 10, 0),
             "TSM checkpoint, NEW dataset": ("shift", 10, 16 * 8),
             "plain TSN checkpoint (base_model.* + new_fc), NEW dataset":
                 ("none", 10, 16 * 8)}  # fmt: skip
    assert original.keys() == names.keys()
    for name, (temporal, classes, num_new) in names.items():
        state = to_reference(TIN(classes, temporal=temporal))
        report = import_file(saved(tmp_path, state), TIN(12))
        found = list(statuses(report).values())
        num_left_out = 0 if classes == 12 else 2
        assert report.failed == ()
        assert len(found) == original[name]["n_target"] == 448
        assert found.count("new") == num_new
        assert found.count("left out") == num_left_out
        assert found.count("renamed") == 448 - num_left_out - num_new
        assert found.count("renamed") >= original[name]["n_loaded"]


def test_the_report_accounts_for_every_tensor_of_both_sides(tmp_path):
    file, model = small("interlace"), small("conv")
    report = import_file(saved(tmp_path, to_reference(file)), model)
    assert sorted(row.ours for row in report.rows if row.ours) == sorted(model.state_dict())
    assert sorted(row.theirs for row in report.rows if row.theirs) == sorted(to_reference(file))
    assert report.failed == ()
    assert str(report).endswith("122 renamed, 8 new, 64 left out")


def test_a_classifier_of_as_many_classes_loads(tmp_path):
    file, model = small(classes=3), small(classes=3)
    import_file(saved(tmp_path, to_reference(file)), model)
    assert torch.equal(model.fc.weight, file.fc.weight)


def test_a_tensor_that_is_missing_is_named(tmp_path):
    state = to_reference(small())
    del state["base_model.layer2.0.conv2.weight"]
    report = import_file(saved(tmp_path, state), small())
    (row,) = report.failed
    assert (row.status, row.ours) == ("new", "backbone.layer2.0.conv2.weight")


def test_a_tensor_without_a_place_is_named(tmp_path):
    state = to_reference(small())
    state["base_model.layer2.0.attention.weight"] = torch.zeros(2)
    (row,) = import_file(saved(tmp_path, state), small()).failed
    assert (row.status, row.theirs) == ("left out", "base_model.layer2.0.attention.weight")


def test_half_an_offset_net_is_a_failure(tmp_path):
    state = to_reference(small())
    del state["base_model.layer2.0.conv1.net1.biasnet.net.fc.weight"]
    (row,) = import_file(saved(tmp_path, state), small()).failed
    assert row.ours == "backbone.layer2.0.temporal.offset_net.fc1.weight"


def test_another_network_fails(tmp_path):
    state = to_reference(TIN(3, "resnet34", num_segments=4))
    report = import_file(saved(tmp_path, state), small())
    assert {row.theirs.split(".")[1] for row in report.failed} == {
        "layer1", "layer2", "layer3", "layer4"
    }  # fmt: skip


def test_an_old_file_without_counts_of_batches_loads(tmp_path):
    state = to_reference(small())
    state = {key: value for key, value in state.items() if "num_batches" not in key}
    assert import_file(saved(tmp_path, state), small()).failed == ()


def test_another_number_of_frames_is_refused(tmp_path):
    path = saved(tmp_path, to_reference(small(num_segments=4)))
    report = import_file(path, small(num_segments=8))
    assert {row.status for row in report.failed} == {"refused"}
    assert len(report.failed) == 3 * 8  # fc1's weight and bias, fc2's weight, of 8 blocks
    assert report.failed[0].note.startswith("4x4 in the file, 8x8 in the model")
    with pytest.raises(ConfigError, match="24 tensors .* set model.init_interpolate=true"):
        initialize(small(num_segments=8), load(None, [f"model.init={path}"]))


def test_offset_nets_of_another_number_of_frames_are_interpolated_when_asked(tmp_path):
    file, model = small(num_segments=2), small(num_segments=4)
    net = file.backbone.layer1[0].temporal.offset_net
    net.fc1.bias.data = torch.tensor([0.0, 4.0])
    net.fc1.weight.data = torch.tensor([[0.0, 8.0], [16.0, 24.0]])
    net.fc2.weight.data = torch.tensor([[0.0, 4.0], [1.0, 1.0]])
    path = saved(tmp_path, to_reference(file))
    config = load(None, [f"model.init={path}", "model.init_interpolate=true"])
    assert initialize(model, config).failed == ()
    net = model.backbone.layer1[0].temporal.offset_net
    # new frames lie at -1/4, 1/4, 3/4 and 5/4 of the old; past the ends the end holds
    assert net.fc1.bias.tolist() == [0, 1, 3, 4]
    assert net.fc2.weight.tolist() == [[0, 0.5, 1.5, 2], [0.5, 0.5, 0.5, 0.5]]
    row = torch.tensor([0.0, 1, 3, 4])
    torch.testing.assert_close(net.fc1.weight.data, row + 2 * row[:, None])


def test_what_is_exported_comes_back_the_same(tmp_path):
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


def test_a_model_without_dropout_is_exported_with_the_classifier_that_the_original_expects():
    model = TIN(3, "resnet18", "none", dropout=0.0)
    assert "base_model.fc.weight" in to_reference(model)
    assert "new_fc.weight" in to_reference(TIN(3, "resnet18", "none", dropout=0.5))


def test_a_temporal_convolution_cannot_be_exported():
    with pytest.raises(ValueError, match=r"temporal\.conv.*the original has no such"):
        to_reference(small("conv"))


def test_our_own_checkpoint_initializes_with_its_moving_average(tmp_path):
    trained, average = small(), small()
    torch.save({"format": 1, "model": trained.state_dict(), "ema": average.state_dict()},
               tmp_path / "best.pt")  # fmt: skip
    model = small()
    report = initialize(model, load(None, [f"model.init={tmp_path / 'best.pt'}"]))
    assert set(statuses(report).values()) == {"loaded"}
    assert torch.equal(model.fc.weight, average.fc.weight)
    torch.save({"format": 1, "model": trained.state_dict(), "ema": None}, tmp_path / "best.pt")
    import_file(tmp_path / "best.pt", model)
    assert torch.equal(model.fc.weight, trained.fc.weight)


# Files that are not what they should be.


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_of_a_file_is_run(tmp_path):
    state = to_reference(small())
    torch.save({"state_dict": state, "meta": _Bomb(tmp_path / "ran")}, tmp_path / "file.pth")
    with pytest.raises(ConfigError, match=r"file\.pth: cannot be read as plain tensors"):
        import_file(tmp_path / "file.pth", small())
    assert not (tmp_path / "ran").exists()


def test_files_that_hold_no_network_are_refused(tmp_path):
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="holds no residual network"):
        import_file(tmp_path / "other.pth", small())
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ConfigError, match="holds no residual network"):
        import_file(tmp_path / "list.pth", small())
    for content in ("not found", ""):
        (tmp_path / "text.pth").write_text(content)
        with pytest.raises(ConfigError, match=r"cannot be read as plain tensors \(\w+Error"):
            import_file(tmp_path / "text.pth", small())
    with pytest.raises(ConfigError, match=r"absent\.pth: no such file"):
        import_file(tmp_path / "absent.pth", small())


def test_a_start_that_is_no_file_is_refused_with_what_to_do():
    config = load("tin_r50_8f_ucf101")  # its file is the user's to name
    with pytest.raises(ConfigError, match=r"8f_kinetics400\.pth\.tar: no such file; name a check"):
        initialize(small(), config)


def test_two_tensors_of_one_name_are_refused(tmp_path):
    state = to_reference(small())
    state["module.base_model.conv1.weight"] = state["base_model.conv1.weight"]
    with pytest.raises(ConfigError, match=r"2 of its tensors are backbone\.conv1\.weight"):
        import_file(saved(tmp_path, state), small())


# Starting weights.


@pytest.fixture
def cache(tmp_path, monkeypatch):
    (tmp_path / "site.yaml").write_text(f"cache: {tmp_path / 'cache'}\n")
    monkeypatch.setenv("TIN_SITE", str(tmp_path / "site.yaml"))
    return tmp_path / "cache"


def test_no_starting_weights_are_loaded_where_none_are_wanted():
    assert initialize(small(), load(None, ["model.init=none"])) is None


def test_imagenet_weights_are_found_in_the_cache(cache):
    network = TIN(1000, "resnet18", "none")
    state = {name.removeprefix("backbone."): value for name, value in network.state_dict().items()}
    path = cache / "weights" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    model = small()
    report = initialize(model, load(None, ["model.arch=resnet18"]))
    assert torch.equal(model.backbone.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    new = {name for name, status in statuses(report).items() if status == "new"}
    assert all(".temporal." in name for name in new)
    assert len(new) == 8 * 8


def test_absent_imagenet_weights_name_the_command_that_fetches_them(cache):
    with pytest.raises(ConfigError, match="run `tin weights fetch resnet18` where there is a net"):
        initialize(small(), load(None, ["model.arch=resnet18"]))
