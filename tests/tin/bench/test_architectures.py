"""The table of networks: parameters, multiply-adds and latency."""

import pytest

from configs.load import ConfigError
from tin.bench import architectures


def test_networks_are_counted_and_timed_with_each_temporal_module(monkeypatch):
    monkeypatch.setattr(architectures, "CROP", 32)
    report = architectures.bench_architectures(["mobilenetv2", "resnet18"], seconds=0)
    counted = {
        (row.facts["arch"], row.facts["temporal"]): row.facts["parameters"]
        for row in report.rows
        if "temporal" in row.facts
    }
    assert len(counted) == 2 * 3
    assert counted["mobilenetv2", "shift"] == counted["mobilenetv2", "none"] == 2_736_272
    # Nine parameters for each interlaced channel and 93 for each of ten blocks.
    channels = (24, 32, 32, 64, 64, 64, 96, 96, 160, 160)
    more = sum(9 * (C // 2) + 93 for C in channels)
    assert counted["mobilenetv2", "interlace"] == 2_736_272 + more
    timed = [row for row in report.rows if row.ways]
    assert [row.facts["arch"] for row in timed] == ["mobilenetv2", "resnet18"]
    assert all(list(row.ways) == ["none", "shift", "interlace"] for row in timed)
    assert "GFLOPs" in str(report)


def test_an_unknown_network_is_rejected():
    with pytest.raises(ConfigError, match="--arch resnet19: this network does not exist"):
        architectures.bench_architectures(["resnet19"], seconds=0)
