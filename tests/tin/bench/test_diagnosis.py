"""What follows from measured times: shares, the part that bounds a run, and gains, by hand."""

from dataclasses import replace

import pytest

from configs.small_files import DamagedFileError
from tin.bench.advice import advise
from tin.bench.diagnosis import (
    Conditions,
    Times,
    changed,
    diagnose,
    epoch_costs,
    gain,
    load,
    num_checkpoints,
)
from tin.bench.scale import measured_machine, two_ranks_step_s

TIMES = Times(
    read=0.1, decode=0.2, transfer=0.0, augmentation=0.0, forward=0.3, backward=0.6, all_reduce=0.2,
    optimizer=0.1, checkpoint=2.0, evaluation=40.0, step=1.1, wait=0.0, exposed=0.1,
)  # fmt: skip
CONDITIONS = Conditions(
    device="cpu", hardware="2 CPUs", ranks=2, clips=8, measured_clips=8, passes=1, steps=100,
    threads=1, cpus=4, readers=16, decode="cpu", precision="float32", compile="none",
    evaluate_every=2, checkpoint_minutes=0.0, checkpoint_steps=0, checkpoint_mb=100.0, clip_mb=0.1,
    clip_reads=8, gradient_mb=50.0, efficiency=0.3, half_gain=1.0, seconds=60.0,
)  # fmt: skip


def test_an_epoch_consists_of_steps_checkpoints_and_evaluations():
    costs = epoch_costs(TIMES, CONDITIONS)
    # A step of 1.1 s waits 0.1 s for the all-reduce; the parts of 1.0 s of computing keep it.
    expected = {"forward": 30, "backward": 60, "optimizer": 10, "all-reduce": 10}
    assert {name: costs[name] for name in expected} == pytest.approx(expected)
    # Reading and decoding are hidden, an evaluation comes every second epoch, and a mean epoch
    # writes a checkpoint and every second time the best one.
    assert costs["read"] == costs["decode"] == 0
    assert costs["evaluation"] == pytest.approx(20)
    assert costs["checkpoint"] == pytest.approx(2 * 1.5)
    found = diagnose(TIMES, CONDITIONS)
    assert found.bound == "backward"
    assert found.shares["backward"] == pytest.approx(60 / 133)


def test_checkpoints_within_an_epoch_count():
    every = replace(CONDITIONS, checkpoint_steps=25, evaluate_every=1)
    assert num_checkpoints(0.0, every) == 2 + 3  # after 25, 50 and 75 steps, the end, and the best
    minutes = replace(CONDITIONS, checkpoint_minutes=10, evaluate_every=1)
    assert num_checkpoints(3599.0, minutes) == 2 + 5


def test_the_slowest_part_of_the_input_gets_the_wait():
    waiting = replace(TIMES, decode=3.0, step=3.1, wait=2.0)
    found = diagnose(waiting, CONDITIONS)
    assert found.bound == "decode"
    # Four threads decode in 0.75 s, which a step of 1.1 s hides.
    faster = changed(waiting, decode=0.75)
    assert (faster.wait, faster.step) == (0, pytest.approx(1.1))
    # Without decoding, reading would still be faster than the step.
    assert changed(waiting, decode=0.0).wait == 0
    # With two threads the step waits for the rest: 1.5 - 1.1 of formerly 3.0 - 1.1 s.
    assert changed(waiting, decode=1.5).wait == pytest.approx(2.0 * 0.4 / 1.9)
    advised = advise(found)
    assert advised.advice[0].kind == "threads"
    assert advised.advice[0].gain == pytest.approx((310 + 23) / (110 + 23))


def test_a_faster_model_waits_for_data_that_was_hidden():
    faster = changed(TIMES, forward=0.0, backward=0.0)
    # The step takes 0.1 s of the optimizer and 0.1 s of the all-reduce; decoding takes 0.2 s.
    assert (faster.wait, faster.step) == (pytest.approx(0.0), pytest.approx(0.2))
    slower_input = replace(TIMES, decode=0.7)
    assert changed(slower_input, forward=0.0, backward=0.0).wait == pytest.approx(0.5)


def test_the_gain_of_a_change_compares_epochs():
    assert gain(TIMES, TIMES, CONDITIONS) == 1
    assert gain(TIMES, replace(TIMES, evaluation=0.0), CONDITIONS) == pytest.approx(133 / 113)
    advice = {one.kind: one for one in advise(diagnose(TIMES, CONDITIONS)).advice}
    # The gain of 133 / 123 without the all-reduce is less than a tenth, and is not listed.
    assert set(advice) == {"ranks", "evaluation"}
    assert advice["evaluation"].gain == pytest.approx(133 / 113)
    # With twice the ranks, forward and backward pass take half.
    assert advice["ranks"].gain == pytest.approx(133 / (133 - 45))


def test_an_inefficient_model_is_compiled_or_gets_more_clips():
    slow = diagnose(TIMES, replace(CONDITIONS, efficiency=0.02, half_gain=1.5))
    kinds = {one.kind for one in advise(slow).advice}
    assert {"compile", "batch", "precision"} <= kinds


def test_a_diagnosis_is_written_and_read(tmp_path):
    found = advise(diagnose(TIMES, CONDITIONS))
    path = tmp_path / "doctor.json"
    found.save(path)
    assert load(path) == found
    path.write_text('{"format": 1, "times": {}}')
    with pytest.raises(DamagedFileError, match="run `tin doctor` again"):
        load(path)
    path.write_text('{"format": 2}')
    with pytest.raises(DamagedFileError, match="format 2 is not 1"):
        load(path)


def test_a_measured_run_takes_the_place_of_assumptions():
    found = diagnose(TIMES, CONDITIONS)
    machine = measured_machine(found, network_gbit_s=10)
    # 8 clips in a step of 1.1 s, of which 0.1 s are the all-reduce.
    assert machine.clips_per_s == pytest.approx(8)
    assert (machine.clips, machine.gradient_mb, machine.clip_reads) == (8, 50, 8)
    assert machine.videos == 100 * 8 * 2
    assert two_ranks_step_s(found, 0.25) == pytest.approx(1.1 + 0.25)
