"""One optimizer step: forward and backward passes, gradient clipping and the update.

The host never waits for the device here: it only starts work, and no decision depends on a value
that the device computes. tests/tin/training/test_no_wait.py checks this without a GPU.
"""

import torch
from torch import Tensor

from pipeline.batches import Batch
from tin.training.any_ranks import dropout_mask
from tin.training.augment import augment
from tin.training.optim import learning_rate, loss, set_learning_rate, weighted_loss
from tin.training.skipping import SkippedStep
from tin.training.state import TrainingState


def train_step(state: TrainingState, batches: list[Batch]) -> Tensor:
    """Train on the batches of one optimizer step, a pass for each, and update the weights.

    Returns:
        The norm of the gradient before clipping, on the device. It is 0 if the gradient was not
        finite and the step was skipped, because `train.nan` is `skip`: such a step changes neither
        weights, momentum and moving average, nor the statistics of BatchNorm.
    """
    config = state.config
    step = state.global_step
    # Temporal modules of a user's own, and dropout of runs that an earlier version began, draw from
    # the global generator: seed it by step and rank, so that a resumed run draws the same numbers.
    torch.manual_seed(hash((config.train.seed, step, state.world.rank)))
    set_learning_rate(state.optimizer, learning_rate(config, step, state.num_steps))
    skips = SkippedStep(state.model) if config.train.nan == "skip" else None
    # Accumulate the gradients of all passes; the ranks sum theirs during the last one.
    for index, batch in enumerate(batches):
        with state.gradient_sync(index == len(batches) - 1):
            _pass(state, batch, step * len(batches) + index, len(batches))
    if state.graph:
        state.graph.average_gradients(state.world)
    parameters = [p for p in state.model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if config.optim.clip_norm:
        torch.nn.utils.clip_grads_with_norm_(parameters, config.optim.clip_norm, norm)
    if skips:
        norm = skips.update(state, norm)
    else:
        state.update()
    state.zero_grad()
    return norm


def _pass(state: TrainingState, batch: Batch, number: int, num_passes: int) -> None:
    """Run one forward and backward pass, and add its loss and hits to the running sums."""
    config = state.config
    num_classes = len(state.info.classes)
    draws = batch.clips if batch.draws is None else batch.draws
    x, targets = augment(batch.x, batch.labels, draws, config, state.epoch, num_classes, number)
    if config.model.dropout and state.keyed_dropout:
        num_clips = len(batch.clips)
        mask = dropout_mask(state.model, config, state.world, num_clips, number)
        state.model.dropout.keep(mask)
    half = state.precision == "bfloat16"

    def forward_backward(x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(state.world.device.type, torch.bfloat16, enabled=half):
            logits = state.replica(x)
        if state.class_weights is None:
            value = loss(logits, targets, config)
        else:
            value = weighted_loss(logits, targets, config, state.class_weights)
        (value / num_passes).backward()
        return value.detach(), logits.detach()

    if state.graph:
        # The graph runs no Python code, so it cannot record the offsets of the modules.
        every = config.run.offset_steps
        eager = every > 0 and state.global_step % every == 0
        value, logits = state.graph.run(forward_backward, x, targets, eager=eager)
    else:
        value, logits = forward_backward(x, targets)
    # A skipped step must not make the mean loss of the epoch NaN.
    seen = value.nan_to_num() if config.train.nan == "skip" else value
    state.sums.add(seen, logits, batch.labels)
