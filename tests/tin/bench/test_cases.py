"""`tin bench` measures what it claims on any machine, and writes tables and JSON."""

import functools
import json
from types import SimpleNamespace

import pytest
import torch

from tin.bench import cases, timing, two_shifts
from tin.models.temporal import TemporalInterlace
from tin.op.interlace import interlace_reference

CPU = torch.device("cpu")


@pytest.mark.parametrize("shift", [two_shifts.gathered, two_shifts.interlaced])
def test_two_shifts_equal_interlacing(shift):
    x, grad = torch.randn(2, 2 * 4, 12, 3, 2).unbind()
    offset = torch.tensor([[0.5, -1.3, 2.0, -9.0], [0.0, 1.7, -0.2, 3.1]])
    leaves = [t.requires_grad_() for t in (x, offset, torch.rand(2, 4, 4))]
    want = interlace_reference(*leaves, 8)
    found = two_shifts.two_shifts(*leaves, 8, shift)
    torch.testing.assert_close(found, want)
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves, grad), torch.autograd.grad(want, leaves, grad)
    )


def test_the_plain_module_equals_the_module_with_the_operator():
    ours = TemporalInterlace(16, 4)
    plain = two_shifts.PlainInterlace(16, 4)
    plain.load_state_dict(ours.state_dict())
    x, grad = torch.randn(2, 8, 16, 3, 3).unbind()
    found = []
    for module in (ours, plain):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        found.append((y, *torch.autograd.grad(y, [leaf, *module.parameters()], grad)))
    torch.testing.assert_close(found[1], found[0])


def test_calls_take_turns_and_ratios_are_taken_within_a_round(monkeypatch):
    order = []
    now = [0.0]

    def take(name: str, seconds: float):
        order.append(name)
        now[0] += seconds * len(order)  # a machine that gets slower and slower

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    calls = {"short": lambda: take("short", 0.002), "long": lambda: take("long", 0.008)}
    found = timing.in_turns(calls, CPU, seconds=0)
    assert order == ["short", "long"] * (1 + timing.MIN_ROUNDS)  # the first round is not timed
    assert found["short"].ratio == 1 and found["short"].rounds == timing.MIN_ROUNDS
    assert found["short"].median == pytest.approx(2 * 7)  # ms of the third round of five
    assert 2 * 3 <= found["short"].p10 <= 2 * 7 <= found["short"].p90 <= 2 * 11
    assert found["long"].ratio == pytest.approx(4 * 8 / 7)


def test_times_of_the_operator_are_written_as_json(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "STAGES", ((16, 4), (32, 2)))
    report = cases.bench_op(seconds=0, clips=(1,))
    report.save(tmp_path / "op.json")
    written = json.loads((tmp_path / "op.json").read_text())
    assert len(written["rows"]) == 2 * 2 * 2 * 2  # dtypes, layouts, stages, passes
    assert written["environment"]["versions"]["torch"]
    row = written["rows"][0]
    assert (row["shape"], row["pass"], row["layout"]) == ("16x4x4", "forward", "contiguous")
    ways = ["copy", "interlace", "definition", "two shifts", "two shifts by our kernel"]
    assert list(row["ways"]) == ways
    assert all(times["p10"] <= times["median"] <= times["p90"] for times in row["ways"].values())
    assert str(report).count("geometric mean") == 2 * 2 * 2
    assert "16x4x4" in str(report).splitlines()[1]


def test_the_model_is_counted_and_timed_with_each_temporal_module(monkeypatch):
    small = ((16, 4),) * len(cases.STAGES)
    for name, value in {"CROP": 32, "ARCH": "resnet18", "STAGES": small}.items():
        monkeypatch.setattr(cases, name, value)
    report = cases.bench_model(seconds=0, compiled=False)
    names = ("none", "shift", "interlace", "conv", cases.PLAIN)
    facts = [row.facts for row in report.rows]
    counts = {row["temporal"]: row for row in facts if "temporal" in row}
    assert tuple(counts) == names
    more = {name: row["parameters"] - counts["none"]["parameters"] for name, row in counts.items()}
    folds = [16, 16, 16, 32, 32, 64, 64, 128]
    assert more["interlace"] == more[cases.PLAIN] == sum(9 * fold + 93 for fold in folds)
    assert (more["shift"], more["conv"]) == (0, sum(5 * fold**2 for fold in folds))
    timed = {row.facts["what"]: tuple(row.ways) for row in report.rows if "what" in row.facts}
    assert timed.pop("temporal modules alone") == ("conv", "interlace", cases.PLAIN)
    assert timed == dict.fromkeys(("latency", "throughput", "training step"), names)
    starts = [line.split()[0] for line in str(report).splitlines()]
    # "temporal" starts two rows of modules alone and one header, "what" the headers of two tables.
    assert [starts.count(name) for name in ("temporal", "what")] == [2 + 1, 2]


class _Small(torch.nn.Module):
    def __init__(self, num_classes, arch, temporal, *_, dropout):
        super().__init__()
        more = cases.WAYS.index(temporal)  # so that no two models are alike
        self.conv = torch.nn.Conv2d(3, num_classes + more, 1)

    def forward(self, clips):
        return self.conv(clips.flatten(0, 1)).mean((2, 3)).unflatten(0, clips.shape[:2]).mean(1)


def test_a_model_is_compiled_for_each_measurement(monkeypatch):
    """Dynamo compiles a forward at most eight times; later times would be those of eager mode."""
    graphs = []
    original_compile = torch.compile

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    layouts = {"channels_last": torch.channels_last}
    for name, value in {"CROP": 8, "TIN": _Small, "LAYOUTS": layouts}.items():
        monkeypatch.setattr(cases, name, value)
    with_backend = functools.partial(original_compile, backend=backend)
    monkeypatch.setattr(torch, "compile", with_backend)
    report = cases.bench_model(seconds=0, compiled=True)
    rows = [row for row in report.rows if "form" in row.facts]
    assert [row.facts["form"] for row in rows] == ["eager"] * 3 + ["compiled"] * 3
    assert len(graphs) == sum(len(row.ways) for row in rows[3:])
