"""BatchNorm over groups of clips: each group by its own statistics, running ones once a step."""

import torch
from torch import nn

from tin.models.grouped_norm import GroupedBatchNorm, group_norms


def test_each_group_is_normalized_by_its_own_mean_and_biased_variance():
    x = torch.randn(6, 3, 4, 5, dtype=torch.float64)
    norm = GroupedBatchNorm(nn.BatchNorm2d(3).double(), 2)
    y = norm(x)
    for rows in (slice(0, 3), slice(3, 6)):
        part = x[rows]
        mean = part.mean((0, 2, 3), keepdim=True)
        variance = part.var((0, 2, 3), unbiased=False, keepdim=True)
        torch.testing.assert_close(y[rows], (part - mean) / (variance + norm.eps).sqrt())


def test_passes_sum_the_statistics_of_their_groups_and_leave_the_running_ones():
    one = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    two = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    norm = GroupedBatchNorm(nn.BatchNorm2d(3).double(), 2)
    norm(one)
    norm(two)
    assert torch.equal(norm.running_mean, torch.zeros(3).double())
    groups = [one[:2], one[2:], two[:2], two[2:]]
    mean = sum(group.mean((0, 2, 3)) for group in groups)
    variance = sum(group.var((0, 2, 3), unbiased=True) for group in groups)
    torch.testing.assert_close(norm.mean_sum, mean)
    torch.testing.assert_close(norm.variance_sum, variance)
    norm.update(mean / 4, variance / 4)
    torch.testing.assert_close(norm.running_mean, 0.1 * mean / 4)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * variance / 4)
    assert norm.num_batches_tracked == 1
    assert not norm.mean_sum.any()
    assert not norm.variance_sum.any()


def test_an_evaluation_uses_the_running_statistics_of_a_plain_batchnorm():
    plain = nn.BatchNorm2d(3)
    plain.running_mean.normal_()
    model = nn.Sequential(plain)
    names = list(model.state_dict())
    group_norms(model, 2)
    assert isinstance(model[0], GroupedBatchNorm)
    assert list(model.state_dict()) == names
    x = torch.randn(3, 3, 2, 2)  # not a multiple of two groups
    torch.testing.assert_close(model.eval()(x), plain.eval()(x))


def test_the_gradient_is_that_of_each_group():
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    norm = GroupedBatchNorm(nn.BatchNorm2d(2).double(), 2)
    assert torch.autograd.gradcheck(norm, (x,))
