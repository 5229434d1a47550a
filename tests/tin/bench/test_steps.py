"""`tin bench steps` times training steps in each form of the pass, for every kind of input."""

import pytest

from tin.bench.steps import bench_steps

SMALL = ("model.arch=resnet18", "clip.num_segments=2", "clip.crop=32", "clip.resize=32")


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("clip.modality=diff", "clip.frames_per_segment=3"),
        ("clip.modality=flow", "clip.frames_per_segment=5"),
    ],
    ids=["rgb", "diff", "flow"],
)
def test_steps_are_timed_for_each_module(settings):
    report = bench_steps([2], ["none", "graphs"], 0, (*SMALL, *settings))
    rows = [row.facts for row in report.rows]
    found = [(row["clips"], row["compile"], row["temporal"]) for row in rows]
    modules = ("none", "shift", "interlace")
    assert found == [(2, form, name) for form in ("none", "graphs") for name in modules]
    assert all(row["wall_ms"] > 0 and row["clips_per_s"] > 0 for row in rows)
