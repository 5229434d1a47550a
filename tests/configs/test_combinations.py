"""Settings that are valid one by one and impossible together."""

import pytest

from configs.load import ConfigError, load


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "test.sampling=twice clip.sampling=dense",
            "test.sampling twice takes a frame of each segment .* clip.sampling is dense",
        ),
        ("test.sampling=twice test.clips=3", "twice has 2 clips, but test.clips is 3"),
    ],
)
def test_impossible_combinations_are_rejected_in_words(settings, message):
    with pytest.raises(ConfigError, match=message):
        load(None, settings.split())
