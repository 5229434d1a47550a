"""The training loop: optimizer, augmentation on the training device, state and progress."""
