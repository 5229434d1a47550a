"""A model of the speed on many GPUs, computed from the speed of one and from the network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tin.bench.diagnosis import Diagnosis

H100 = (620.0, 900.0)
"""Clips per second that an H100 trains of a ResNet-50 with 8 frames of 224 pixels in bfloat16: not
measured here, but between twice the figures of an A100 and those of MLPerf."""
BUCKET_BYTES = 25 * 2**20
"""DDP sums gradients in buckets of this size, each as soon as its gradients are there."""
BACKWARD = 2 / 3
"""Fraction of a step that the backward pass takes: it has twice the multiply-adds."""
KINETICS = 240_000
"""Training videos of Kinetics-400, rounded."""


@dataclass(frozen=True)
class Machine:
    """What a prediction needs to know; every field can be measured."""

    clips_per_s: float
    """Clips that one GPU trains per second, without other ranks."""
    clips: int
    """Clips of a step on each GPU."""
    network_gbit_s: float = 100.0
    """10^9 bits per second between two nodes."""
    node_gb_s: float = 300.0
    """10^9 bytes per second between two GPUs of a node."""
    gpus_per_node: int = 8
    hop_us: float = 15.0
    """Latency of a message between two nodes, in microseconds."""
    gradient_mb: float = 96.0
    """10^6 bytes of gradients: those of a ResNet-50 in float32."""
    clip_reads: float = 8.0
    """Frames that are read for a clip."""
    clip_mb: float = 0.142
    """10^6 bytes that are read for a clip."""
    videos: int = KINETICS


@dataclass(frozen=True)
class Prediction:
    """The speed of a number of GPUs."""

    gpus: int
    all_reduce_s: float
    """Seconds of the all-reduce of a step, of which the backward pass hides a part."""
    efficiency: float
    """Speed as a fraction of that of as many GPUs without an all-reduce."""
    clips_per_s: float
    steps: int
    """Steps of an epoch."""
    reads_per_s: float
    gb_per_s: float
    """10^9 bytes that all GPUs read per second."""


def measured_machine(found: Diagnosis, network_gbit_s: float) -> Machine:
    """Return a machine whose GPU, gradients and clips are those of a measured run.

    The speed is that of a rank without the all-reduce, and without waiting for data.
    """
    times = found.times
    facts = found.conditions
    step_s = times.step - times.wait - times.exposed
    return Machine(
        facts.clips / step_s,
        facts.clips,
        network_gbit_s=network_gbit_s,
        gradient_mb=facts.gradient_mb,
        clip_reads=facts.clip_reads,
        clip_mb=facts.clip_mb,
        videos=facts.steps * facts.clips * facts.ranks,
    )


def predict(machine: Machine, gpus: int) -> Prediction:
    """Return the speed of `gpus` GPUs, each with `machine.clips` clips a step."""
    step_s = machine.clips / machine.clips_per_s
    reduce_s = all_reduce_s(machine, gpus)
    efficiency = step_s / overlapped_step_s(machine, step_s, reduce_s)
    rate = gpus * machine.clips_per_s * efficiency
    return Prediction(
        gpus=gpus,
        all_reduce_s=reduce_s,
        efficiency=efficiency,
        clips_per_s=rate,
        steps=machine.videos // (gpus * machine.clips),
        reads_per_s=rate * machine.clip_reads,
        gb_per_s=rate * machine.clip_mb / 1e3,
    )


def all_reduce_s(machine: Machine, gpus: int) -> float:
    """Return the seconds of an all-reduce in rings: within each node, then between the nodes.

    A ring of n members sends 2 (n - 1) / n times the gradients over each link (Patarasuk and Yuan,
    2009). Each bucket takes 2 log2(N) messages between N nodes.
    """
    num_bytes = 1e6 * machine.gradient_mb
    inside = min(gpus, machine.gpus_per_node)
    nodes = math.ceil(gpus / machine.gpus_per_node)
    seconds = 2 * (inside - 1) / inside * num_bytes / (1e9 * machine.node_gb_s)
    if nodes > 1:
        seconds += 2 * (nodes - 1) / nodes * num_bytes / (1e9 * machine.network_gbit_s / 8)
        seconds += num_buckets(machine) * 2 * math.log2(nodes) * machine.hop_us / 1e6
    return seconds


def num_buckets(machine: Machine) -> int:
    """Return how many buckets the gradients fill."""
    return math.ceil(1e6 * machine.gradient_mb / BUCKET_BYTES)


def overlapped_step_s(machine: Machine, step_s: float, reduce_s: float) -> float:
    """Return the seconds of a step whose backward pass hides the all-reduce.

    The last bucket cannot be hidden, because the backward pass ends before it starts.
    """
    last_s = reduce_s / num_buckets(machine)
    return step_s + max(last_s, reduce_s - BACKWARD * step_s)


def two_ranks_step_s(one: Diagnosis, all_reduce: float) -> float:
    """Return the seconds of a step on two ranks with a CPU core each.

    The all-reduce of gloo computes on the cores of the ranks, so the backward pass hides nothing
    of it.

    Args:
        one: a run with one rank on one core, with as many clips a step as each of the two ranks.
        all_reduce: seconds of the all-reduce of its gradients between the two ranks, alone.
    """
    return one.times.step + all_reduce


def table(machines: Sequence[Machine], gpus: Sequence[int]) -> list[str]:
    """Return the lines of a table in Markdown: a row for each number of GPUs and machine."""
    names = [
        "GPUs", "clips/s of one", "clips a step", "steps of an epoch", "all-reduce", "efficiency",
        "clips/s", "reads/s", "GB/s",
    ]  # fmt: skip
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for number in gpus:
        for machine in machines:
            found = predict(machine, number)
            cells = [
                str(number),
                f"{machine.clips_per_s:g}",
                str(number * machine.clips),
                str(found.steps),
                f"{1e3 * found.all_reduce_s:.1f} ms",
                f"{found.efficiency:.2f}",
                f"{found.clips_per_s:,.0f}",
                f"{found.reads_per_s:,.0f}",
                f"{found.gb_per_s:.1f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines
