"""What would make a measured run faster, and by how much at most."""

from collections.abc import Iterator
from dataclasses import replace

from tin.bench.diagnosis import (
    COMPUTE,
    INPUT,
    Advice,
    Diagnosis,
    Part,
    changed,
    gain,
    slowest_input,
)

MIN_GAIN = 1.1
"""Smaller gains are not worth a change."""
LOW_EFFICIENCY = 0.05
"""Below this fraction of a matrix product's speed, a model does not use its device: a ResNet-50 has
0.03 on an H100 with 6 clips a pass, where the host limits it, and 0.1 with 32 clips."""
BEST_EFFICIENCY = 0.25
"""A ResNet reaches about this fraction at most: half of its time is not arithmetic."""
PER_CLIP: tuple[Part, ...] = (*INPUT, "augmentation", "forward", "backward")
"""Parts whose times grow with the clips of a rank."""


def advise(diagnosis: Diagnosis) -> Diagnosis:
    """Return a diagnosis with its advice: each change alone, the largest gain first."""
    found = [
        *_about_input(diagnosis),
        *_about_model(diagnosis),
        *_about_ranks(diagnosis),
        *_about_epochs(diagnosis),
    ]
    worthwhile = [advice for advice in found if advice.gain >= MIN_GAIN]
    worthwhile.sort(key=lambda advice: -advice.gain)
    return replace(diagnosis, advice=tuple(worthwhile))


def _about_input(diagnosis: Diagnosis) -> Iterator[Advice]:
    """Yield advice about the part of the input that a step waits for."""
    times = diagnosis.times
    facts = diagnosis.conditions
    slowest = slowest_input(times)
    if slowest == "read":
        mb_per_s = facts.clips * facts.clip_mb / times.read
        yield Advice(
            "staging",
            f"copy the shards to the node's own disk (`staging` in the cluster file), or raise"
            f" run.readers (now {facts.readers}): {mb_per_s:.1f} MB/s were read",
            gain(times, changed(times, read=0.0), facts),
        )
    elif slowest == "decode" and facts.decode == "cpu" and facts.threads < facts.cpus:
        after = changed(times, decode=times.decode * facts.threads / facts.cpus)
        yield Advice(
            "threads",
            f"set run.threads=0, which decodes with {facts.cpus} threads instead of"
            f" {facts.threads}",
            gain(times, after, facts),
        )
    elif slowest == "decode":
        text = (
            f"give a rank more CPUs (it decodes with all of its {facts.cpus}), or store smaller"
            " frames with shard.short_side"
        )
        if facts.device != "cpu":
            other = "gpu" if facts.decode == "cpu" else "cpu"
            text = f"set run.decode={other} (now {facts.decode}), or {text}"
        yield Advice("decode", text, gain(times, changed(times, decode=0.0), facts))
    else:
        yield Advice(
            "decode",
            f"set run.decode=gpu (now {facts.decode}), which copies compressed frames to the"
            " device instead of pixels",
            gain(times, changed(times, transfer=0.0), facts),
        )


def _about_model(diagnosis: Diagnosis) -> Iterator[Advice]:
    """Yield advice about the arithmetic of a step."""
    times = diagnosis.times
    facts = diagnosis.conditions
    if facts.efficiency < LOW_EFFICIENCY:
        factor = facts.efficiency / BEST_EFFICIENCY
        after = changed(times, forward=times.forward * factor, backward=times.backward * factor)
        reached = f"the model reaches only {100 * facts.efficiency:.2g} % of the speed of a matrix"
        if facts.compile == "none":
            form = "default" if facts.device == "cpu" else "graphs"
            text = f"set train.compile={form}: {reached} product on this device"
            yield Advice("compile", text, gain(times, after, facts))
        text = f"raise the clips of a pass (now {facts.clips // facts.passes}): {reached} product"
        yield Advice("batch", text, gain(times, after, facts))
    if facts.half_gain > 1:
        after = changed(
            times,
            forward=times.forward / facts.half_gain,
            backward=times.backward / facts.half_gain,
        )
        yield Advice(
            "precision",
            f"set train.precision=bfloat16, in which a pass was {facts.half_gain:.1f} times faster",
            gain(times, after, facts),
        )
    yield Advice(
        "augmentation",
        "use fewer random changes of section augment",
        gain(times, changed(times, augmentation=0.0), facts),
    )


def _about_ranks(diagnosis: Diagnosis) -> Iterator[Advice]:
    """Yield advice about the number of ranks and the network between them."""
    times = diagnosis.times
    facts = diagnosis.conditions
    if facts.ranks > 1:
        mb_per_s = facts.gradient_mb / times.all_reduce if times.all_reduce else 0.0
        yield Advice(
            "accumulate",
            f"raise train.accumulate, use fewer ranks, or a faster network: the ranks sum"
            f" {facts.gradient_mb:.0f} MB a step at {mb_per_s:.0f} MB/s",
            gain(times, changed(times, exposed=0.0), facts),
        )
    if diagnosis.bound not in COMPUTE:
        return
    # Each rank has half of the clips; the optimizer has as much to do as before.
    halves = {part: times.of(part) / 2 for part in PER_CLIP}
    yield Advice(
        "ranks",
        f"use twice as many ranks (now {facts.ranks}) with CPUs or a GPU of their own, and"
        " as many clips a step",
        gain(times, changed(times, **halves), facts),
    )


def _about_epochs(diagnosis: Diagnosis) -> Iterator[Advice]:
    """Yield advice about what happens between steps: checkpoints and evaluations."""
    times = diagnosis.times
    facts = diagnosis.conditions
    mb_per_s = facts.checkpoint_mb / times.checkpoint if times.checkpoint else 0.0
    yield Advice(
        "checkpoint",
        f"put the run on a faster disk, or raise run.checkpoint_minutes: a checkpoint of"
        f" {facts.checkpoint_mb:.0f} MB takes {times.checkpoint:.1f} s ({mb_per_s:.0f} MB/s)",
        gain(times, replace(times, checkpoint=0.0), facts),
    )
    yield Advice(
        "evaluation",
        f"raise train.evaluate_every (now {facts.evaluate_every}): an evaluation takes"
        f" {times.evaluation:.0f} s",
        gain(times, replace(times, evaluation=0.0), facts),
    )
