"""What the parts of a training run cost, which one bounds it, and the file that stores it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from configs.files import write_text
from configs.small_files import DamagedFileError, read_json

FILE = "doctor.json"
"""Name of the file in a run's folder."""
FORMAT = 1
Part = Literal[
    "read",
    "decode",
    "transfer",
    "augmentation",
    "forward",
    "backward",
    "all-reduce",
    "optimizer",
    "checkpoint",
    "evaluation",
]
PARTS: tuple[Part, ...] = get_args(Part)
INPUT: tuple[Part, ...] = ("read", "decode", "transfer")
"""Parts that run ahead of the training step; they cost time only while the step waits for them."""
COMPUTE: tuple[Part, ...] = ("augmentation", "forward", "backward", "optimizer")
"""Parts of a step that run one after the other."""


@dataclass(frozen=True)
class Times:
    """Seconds of the parts of a run on its slowest rank.

    Times of a step belong to an optimizer step with all of its clips.
    """

    read: float
    """Reading the frames of a step, alone."""
    decode: float
    """Decoding the frames of a step, alone, from memory."""
    transfer: float
    """Copying the batches of a step to the device; 0 on a CPU."""
    augmentation: float
    forward: float
    backward: float
    """The backward pass, without the all-reduce."""
    all_reduce: float
    """Summing the gradients of a step over the ranks, alone; 0 for a single rank."""
    optimizer: float
    checkpoint: float
    """Writing one checkpoint."""
    evaluation: float
    """Evaluating the test split once."""
    step: float
    """An optimizer step of training, with its loader: all parts together."""
    wait: float
    """How long such a step waits for data."""
    exposed: float
    """How much longer a step is with the all-reduce than without it."""

    def of(self, part: Part) -> float:
        """Return the seconds of a part alone."""
        return float(getattr(self, part.replace("-", "_")))


@dataclass(frozen=True)
class Conditions:
    """How a run was measured, and what its settings are."""

    device: str
    hardware: str
    ranks: int
    clips: int
    """Clips of an optimizer step on each rank."""
    measured_clips: int
    """Clips of a measured pass; the times of a pass were scaled from these to `clips`."""
    passes: int
    """Forward and backward passes of an optimizer step."""
    steps: int
    """Optimizer steps of an epoch."""
    threads: int
    cpus: int
    """CPUs that a rank may use."""
    readers: int
    decode: str
    """Where JPEGs are decoded: cpu or gpu."""
    precision: str
    compile: str
    evaluate_every: int
    """Epochs between two evaluations."""
    checkpoint_minutes: float
    checkpoint_steps: int
    checkpoint_mb: float
    clip_mb: float
    """10^6 bytes that are read for a clip."""
    clip_reads: int
    """Frames that are read for a clip."""
    gradient_mb: float
    """10^6 bytes of gradients that the ranks sum in a step."""
    efficiency: float
    """Arithmetic speed of forward and backward pass, as a fraction of a matrix product's speed."""
    half_gain: float
    """How many times faster a pass is in bfloat16; 1 if the run computes in it already."""
    seconds: float
    """How long the measurement took."""


@dataclass(frozen=True)
class Advice:
    """Something that makes the run faster."""

    kind: Literal[
        "staging", "threads", "decode", "augmentation", "compile", "batch", "precision",
        "accumulate", "ranks", "checkpoint", "evaluation",
    ]  # fmt: skip
    text: str
    gain: float
    """The run becomes at most this many times faster."""


@dataclass(frozen=True)
class Diagnosis:
    """The times of a run, and what follows from them."""

    times: Times
    conditions: Conditions
    shares: dict[Part, float]
    """Fraction of the run's time that each part costs; the sum is 1."""
    bound: Part
    """The part that costs most."""
    advice: tuple[Advice, ...] = ()
    """What would help, the largest gain first."""

    def save(self, path: Path) -> None:
        """Write the diagnosis as JSON."""
        write_text(path, json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")


def diagnose(times: Times, conditions: Conditions) -> Diagnosis:
    """Return which part bounds a run with these times."""
    costs = epoch_costs(times, conditions)
    total = sum(costs.values())
    shares = {part: cost / total for part, cost in costs.items()}
    bound = max(PARTS, key=lambda part: shares[part])
    return Diagnosis(times, conditions, shares, bound)


def slowest_input(times: Times) -> Part:
    """Return the part of the input that a step waits for, if it waits."""
    return max(INPUT, key=times.of)


def epoch_costs(times: Times, conditions: Conditions) -> dict[Part, float]:
    """Return how many seconds of a mean epoch each part costs; what is hidden costs nothing."""
    costs: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
    # A step consists of waiting for data, of the all-reduce as far as the backward pass does not
    # hide it, and of computing. The parts of computing share it as they do alone.
    costs[slowest_input(times)] = times.wait
    costs["all-reduce"] = min(times.exposed, times.step - times.wait)
    computing = max(times.step - times.wait - costs["all-reduce"], 0.0)
    alone = sum(times.of(part) for part in COMPUTE)
    for part in COMPUTE:
        costs[part] = computing * times.of(part) / alone if alone else 0.0
    costs = {part: seconds * conditions.steps for part, seconds in costs.items()}
    costs["evaluation"] = times.evaluation / conditions.evaluate_every
    training = sum(costs.values())
    costs["checkpoint"] = times.checkpoint * num_checkpoints(training, conditions)
    return costs


def num_checkpoints(epoch_s: float, conditions: Conditions) -> float:
    """Return the checkpoints of a mean epoch: one at its end, those inside of it, and the best."""
    count = 1 + 1 / conditions.evaluate_every
    if conditions.checkpoint_steps:
        count += (conditions.steps - 1) // conditions.checkpoint_steps
    if conditions.checkpoint_minutes:
        count += epoch_s // (60 * conditions.checkpoint_minutes)
    return count


def changed(times: Times, **seconds: float) -> Times:
    """Return the times of a run in which parts take other times, with the step that follows.

    A step waits as long as the slowest part of the input takes longer than the rest of the step.
    Where it waits although the input is faster, both compete for the same CPUs; this wait changes
    in proportion to the input.
    """
    after = replace(times, **seconds)
    computing_s = times.step - times.wait
    alone_s = sum(times.of(part) for part in COMPUTE)
    factor = sum(after.of(part) for part in COMPUTE) / alone_s if alone_s else 1.0
    exposed_s = min(times.exposed, computing_s)
    after_computing_s = (computing_s - exposed_s) * factor + min(after.exposed, exposed_s)
    # Compare how much longer the input takes than the rest of the step, before and after.
    input_s = max(times.of(part) for part in INPUT)
    after_input_s = max(after.of(part) for part in INPUT)
    longer_s = input_s - computing_s
    after_longer_s = max(after_input_s - after_computing_s, 0.0)
    if longer_s > 0:
        wait = times.wait * after_longer_s / longer_s
    else:
        wait = after_longer_s + (times.wait * after_input_s / input_s if input_s else 0.0)
    return replace(after, wait=wait, step=wait + after_computing_s)


def gain(times: Times, after: Times, conditions: Conditions) -> float:
    """Return how many times faster an epoch becomes with other times."""
    before_s = sum(epoch_costs(times, conditions).values())
    return before_s / max(sum(epoch_costs(after, conditions).values()), 1e-9)


def load(path: Path) -> Diagnosis:
    """Return the diagnosis that `save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: the file is damaged, or of a newer format.
    """
    values = read_json(path)
    if values.get("format") != FORMAT:
        raise DamagedFileError(
            f"{path}: format {values.get('format')} is not {FORMAT}, which this version reads; run"
            " `tin doctor` again"
        )
    try:
        return _parsed(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedFileError(f"{path}: damaged ({error}); run `tin doctor` again") from None


def _parsed(values: Mapping[str, Any]) -> Diagnosis:
    """Return the diagnosis of the values of a JSON file."""
    times = Times(**{name: float(value) for name, value in values["times"].items()})
    return Diagnosis(
        times=times,
        conditions=Conditions(**values["conditions"]),
        shares={part: float(values["shares"][part]) for part in PARTS},
        bound=values["bound"],
        advice=tuple(Advice(**item) for item in values["advice"]),
    )
