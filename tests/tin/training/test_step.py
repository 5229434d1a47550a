"""Steps with a NaN loss or gradient: the run stops before a checkpoint, or skips them."""

import pandas as pd
import pytest
import torch
from short_runs import train_run, weights

from tin.runs import checkpoint
from tin.runs.folder import Run
from tin.training import step, trainer
from tin.training.finite import NonFiniteError


def test_a_nan_loss_stops_the_run_and_no_checkpoint_holds_it(dataset, tmp_path):
    settings = [f"data.dataset={dataset}", "optim.lr=1e30", "optim.clip_norm=0"]
    with pytest.raises(NonFiniteError, match="lower optim.lr, or with train.nan=skip") as caught:
        train_run(tmp_path, *settings, "run.checkpoint_steps=1")
    assert caught.value.is_final
    assert isinstance(caught.value, FloatingPointError)
    path = checkpoint.newest(Run(tmp_path))
    assert path is None or checkpoint.load(path)["global_step"] < 3


def test_a_nan_gradient_stops_the_run_before_a_checkpoint_holds_it(dataset, tmp_path, monkeypatch):
    real = step.loss
    calls = []

    def broken(logits, targets, config):
        calls.append(None)
        zero = (0 * logits).sum().sqrt()  # its derivative is NaN
        return real(logits, targets, config) + (zero if len(calls) == 3 else 0)

    monkeypatch.setattr(step, "loss", broken)
    with pytest.raises(NonFiniteError, match="gradient is NaN or infinite in epoch 1, step 3"):
        train_run(tmp_path, f"data.dataset={dataset}", "run.checkpoint_steps=1", "run.log_steps=9")
    assert checkpoint.newest(Run(tmp_path)).name == "step-00000002-a01.pt"
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())


def test_steps_with_nan_are_skipped_and_counted_if_asked(dataset, tmp_path, monkeypatch):
    real = step.loss
    is_broken = [True, False, False, True] + [False] * 20

    def broken(logits, targets, config):
        value = real(logits, targets, config)
        return value * float("nan") if is_broken.pop(0) else value

    monkeypatch.setattr(step, "loss", broken)
    train_run(tmp_path, f"data.dataset={dataset}", "train.nan=skip", "train.epochs=1")
    assert pd.read_csv(tmp_path / "steps.csv").skipped.tolist() == [1, 2, 2]
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())


@pytest.mark.parametrize("bn_clips", [0, 2])
def test_a_skipped_step_changes_neither_weights_momentum_average_nor_statistics(
    dataset, tmp_path, monkeypatch, bn_clips
):
    # Only the first of six steps is skipped, and it would change all of them.
    real_step = trainer.train_step
    real_loss = step.loss
    skipping = [True] + [False] * 5
    before_and_after = []

    def values(state):
        momentum = [s["momentum_buffer"] for s in state.optimizer.state.values()]
        models = [*state.model.state_dict().values(), *state.ema.state_dict().values()]
        return [value.clone() for value in [*models, *momentum]]

    def recorded_step(state, batches):
        before = values(state)
        norm = real_step(state, batches)
        before_and_after.append((before, values(state), float(norm)))
        skipping.pop(0)
        return norm

    def loss(logits, *rest):
        return real_loss(logits, *rest) * (float("nan") if skipping[0] else 1)

    monkeypatch.setattr(trainer, "train_step", recorded_step)
    monkeypatch.setattr(step, "loss", loss)
    settings = ["train.nan=skip", "train.ema=0.9", "train.epochs=1", "train.evaluate_every=1"]
    settings.append(f"train.bn_clips={bn_clips}")
    train_run(tmp_path, f"data.dataset={dataset}", *settings)
    unchanged = [
        [torch.equal(*pair) for pair in zip(before, after, strict=True)]
        for before, after, _ in before_and_after
    ]
    assert all(unchanged[0])
    assert not any(all(same) for same in unchanged[1:])
    assert before_and_after[0][2] == 0
    assert all(norm > 0 for *_, norm in before_and_after[1:])
