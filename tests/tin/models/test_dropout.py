"""Dropout with given masks, and the memory in which a CUDA graph finds them."""

import torch

from tin.models.dropout import KeyedDropout


def test_a_mask_selects_the_features_of_each_clip_and_the_others_are_scaled():
    dropout = KeyedDropout(0.75)
    x = torch.ones(4, 3)  # two clips of two frames with three features
    # The mask may be for more frames than the network has after a temporal pool.
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[0, [0, 5, 8]] = True
    mask[1, 3] = True
    dropout.keep(mask)
    wanted = torch.tensor([[4.0, 0, 0], [0, 0, 4], [0, 0, 0], [4, 0, 0]])
    assert torch.equal(dropout(x), wanted)
    assert torch.equal(dropout.eval()(x), x)


def test_masks_of_one_shape_take_turns_in_the_same_memory():
    dropout = KeyedDropout(0.5)
    full = torch.ones(2, 4, dtype=torch.bool)
    dropout.keep(full.clone())
    place = dropout._kept.data_ptr()
    dropout.keep(torch.ones(1, 4, dtype=torch.bool))  # a pass with fewer clips
    dropout.keep(~full)
    assert dropout._kept.data_ptr() == place
    assert not dropout(torch.ones(2, 4)).any()


def test_without_a_mask_it_draws_from_the_generator_like_torch():
    x = torch.ones(8, 16)
    torch.manual_seed(3)
    wanted = torch.nn.Dropout(0.5)(x)
    torch.manual_seed(3)
    assert torch.equal(KeyedDropout(0.5)(x), wanted)
