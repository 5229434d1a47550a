"""What `tin bench` measures: the right things, on any machine, into a table and JSON."""

import json
import time

import pytest
import tiny
import torch

from tin import bench, timing
from tin.blocks import TemporalInterlace
from tin.interlace import interlace_reference

CPU = torch.device("cpu")


@pytest.mark.parametrize("shift", [bench.gathered, bench.interlaced])
def test_two_shifts_do_what_interlacing_does(shift):
    x, grad = torch.randn(2, 2 * 4, 12, 3, 2).unbind()
    offset = torch.tensor([[0.5, -1.3, 2.0, -9.0], [0.0, 1.7, -0.2, 3.1]])
    leaves = [t.requires_grad_() for t in (x, offset, torch.rand(2, 4, 4))]
    want = interlace_reference(*leaves, 8)
    found = bench.two_shifts(*leaves, 8, shift)
    torch.testing.assert_close(found, want)
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves, grad), torch.autograd.grad(want, leaves, grad)
    )


def test_the_plain_module_is_the_module_without_the_operator():
    ours, plain = TemporalInterlace(16, 4), bench.PlainInterlace(16, 4)
    plain.load_state_dict(ours.state_dict())
    x, grad = torch.randn(2, 8, 16, 3, 3).unbind()
    found = [
        (y := module(leaf), *torch.autograd.grad(y, [leaf, *module.parameters()], grad))
        for module, leaf in ((ours, x.clone().requires_grad_()), (plain, x.requires_grad_()))
    ]
    torch.testing.assert_close(*found)


def test_calls_take_turns_and_ratios_are_those_of_a_round():
    order = []
    calls = {
        "short": lambda: (order.append("short"), time.sleep(0.002)),
        "long": lambda: (order.append("long"), time.sleep(0.008)),
    }
    found = timing.in_turns(calls, CPU, seconds=0)
    assert order == ["short", "long"] * (1 + timing.MIN_ROUNDS)  # the first round is not timed
    assert found["short"].ratio == 1 and found["short"].rounds == timing.MIN_ROUNDS
    assert 2 <= found["short"].p10 <= found["short"].median <= found["short"].p90
    assert found["long"].ratio == pytest.approx(4, rel=0.5)


def test_the_operator_is_timed_and_written_as_json(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "STAGES", ((16, 4), (32, 2)))
    report = bench.bench_op(seconds=0, clips=(1,))
    report.save(tmp_path / "op.json")
    written = json.loads((tmp_path / "op.json").read_text())
    assert len(written["rows"]) == 2 * 2 * 2 * 2  # types, layouts, stages, passes
    assert written["environment"]["versions"]["torch"]
    row = written["rows"][0]
    assert (row["shape"], row["pass"], row["layout"]) == ("16x4x4", "forward", "contiguous")
    ways = ["copy", "interlace", "definition", "two shifts", "two shifts by our kernel"]
    assert list(row["ways"]) == ways
    assert all(times["p10"] <= times["median"] <= times["p90"] for times in row["ways"].values())
    assert str(report).count("geometric mean") == 2 * 2 * 2
    assert "16x4x4" in str(report).splitlines()[1]


def test_the_model_is_timed_with_each_temporal_module(monkeypatch):
    for name, value in {"CROP": 32, "ARCH": "resnet18"}.items():
        monkeypatch.setattr(bench, name, value)
    report = bench.bench_model(seconds=0, compiled=False)
    ways = ("none", "shift", "interlace", bench.PLAIN)
    assert {tuple(row["ways"]) for row in report.rows} == {ways}
    assert {row["what"] for row in report.rows} == {"latency", "throughput", "training step"}


class _Small(torch.nn.Module):
    def __init__(self, num_classes, arch, temporal, *_, dropout):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, num_classes + len(temporal), 1)  # no two are the same

    def forward(self, clips):
        return self.conv(clips.flatten(0, 1)).mean((2, 3)).unflatten(0, clips.shape[:2]).mean(1)


def test_a_model_is_compiled_for_each_measurement(monkeypatch):
    """Dynamo compiles a forward eight times, then leaves it alone: the time would be eager's."""
    graphs, compile_with = [], torch.compile

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    layouts = {"contiguous": torch.contiguous_format}
    for name, value in {"CROP": 8, "TIN": _Small, "LAYOUTS": layouts}.items():
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(torch, "compile", lambda *a, **k: compile_with(*a, **k, backend=backend))
    report = bench.bench_model(seconds=0, compiled=True)
    assert [row["form"] for row in report.rows] == ["eager"] * 3 + ["compiled"] * 3
    assert len(graphs) == sum(len(row["ways"]) for row in report.rows[3:])


def test_loader_and_training_are_timed(tmp_path):
    dataset = tmp_path / "dataset"
    tiny.write_dataset(dataset, [6] * 8)
    small = [*tiny.SETTINGS, "model.arch=resnet18", "run.tensorboard=false", "run.check_node=false"]
    small.append("data.test_split=train")
    (row,) = bench.bench_data(dataset, seconds=0, settings=small).rows
    assert row["batch"] == 4 and row["clips_per_s"] > 0 and row["batches"] >= 20
    rows = bench.bench_train(dataset, settings=small).rows
    assert [row["temporal"] for row in rows] == ["none", "shift", "interlace"]
    assert all(row["clips_per_s"] > 0 and 0 <= row["data_wait"] <= 1 for row in rows)
