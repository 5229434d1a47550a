"""The model of many GPUs: arithmetic by hand, and the table of docs/cluster.md."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch import cli
from tin.bench.scale import Machine, all_reduce_s, overlapped_step_s, predict

PAGE = Path(__file__).resolve().parents[3] / "docs" / "cluster.md"


def test_a_ring_within_a_node_sends_twice_seven_eighths_of_the_gradients():
    machine = Machine(600, 16, gradient_mb=80, node_gb_s=100)
    assert all_reduce_s(machine, 8) == pytest.approx(2 * 7 / 8 * 0.080 / 100)
    assert all_reduce_s(machine, 1) == 0


def test_between_nodes_come_their_ring_and_the_latency_of_each_bucket():
    machine = Machine(600, 16, gradient_mb=80, node_gb_s=100, network_gbit_s=80, hop_us=10)
    # 80 MB fill four buckets of 26.2 MB; four nodes take 2 log2(4) messages for each.
    expected = 2 * 7 / 8 * 0.080 / 100 + 2 * 3 / 4 * 0.080 / 10 + 4 * 4 * 10e-6
    assert all_reduce_s(machine, 32) == pytest.approx(expected)


def test_the_backward_pass_hides_all_but_the_last_bucket():
    machine = Machine(600, 16, gradient_mb=100)  # four buckets
    assert overlapped_step_s(machine, 0.3, 0.04) == pytest.approx(0.3 + 0.01)
    # The backward pass takes 0.2 s, so 0.1 s of 0.3 s remain.
    assert overlapped_step_s(machine, 0.3, 0.3) == pytest.approx(0.3 + 0.1)


def test_reads_follow_from_the_speed():
    found = predict(Machine(500, 10, clip_mb=0.2, videos=10_000), 1)
    assert (found.efficiency, found.clips_per_s, found.steps) == (1, 500, 1000)
    assert (found.reads_per_s, found.gb_per_s) == (4000, pytest.approx(0.1))


@pytest.mark.parametrize(
    "arguments",
    ["--clips 32", "--clips 32 --rate 357", "--clips 6", "--clips 32 --network 10"],
)
def test_the_tables_of_the_page_are_those_of_the_command(arguments):
    result = CliRunner().invoke(cli.app, ["bench", "scale", *arguments.split()])
    assert result.exit_code == 0, result.output
    rows = [line for line in result.stdout.splitlines() if line.startswith("|")]
    assert len(rows) >= 2 + 3
    page = PAGE.read_text(encoding="utf-8")
    assert f"`tin bench scale {arguments}`" in page
    assert "\n".join(rows) in page


def test_a_measured_run_takes_the_place_of_the_assumptions(tmp_path):
    missing = CliRunner().invoke(cli.app, ["bench", "scale", "--measured", str(tmp_path / "no")])
    assert missing.exit_code != 0
