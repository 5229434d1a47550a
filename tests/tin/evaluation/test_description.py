"""The name of a test's folder says what was measured, and can be read again."""

import pytest

from configs.load import load
from tin.evaluation.description import folder_name, parsed_name


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ((), "val-1x1-224"),
        (("data.test_split=train-clean", "test.clips=2", "test.crops=3"), "train-clean-2x3-224"),
        (("test.average=logits",), "val-1x1-224+average=logits"),
        (
            ("test.checkpoint=last", "test.last_checkpoints=3", "test.precise_bn=20"),
            "val-1x1-224+checkpoint=last+last_checkpoints=3+precise_bn=20",
        ),
    ],
)
def test_a_name_tells_split_views_crop_and_options(settings, name):
    config = load(None, settings)
    assert folder_name(config, load(None, ())) == name
    parsed = parsed_name(name)
    views = f"{config.test.clips}x{config.test.crops}"
    assert parsed[:3] == (config.data.test_split, views, config.test_crop)
    again = load(None, [*settings[:1], *(f"test.{option}" for option in parsed.options)])
    assert again.test.average == config.test.average
    assert again.test.precise_bn == config.test.precise_bn


@pytest.mark.parametrize("name", ["odd", "val-1x1", "val-1x1-big", ""])
def test_another_name_is_not_that_of_a_test(name):
    assert parsed_name(name) is None
