"""`tin bench data` and `tin bench train` measure a dataset."""

from synthetic_dataset import SETTINGS, write_dataset

from tin.bench.on_dataset import bench_data, bench_train


def test_loader_and_training_are_timed(tmp_path):
    dataset = tmp_path / "dataset"
    write_dataset(dataset, [6] * 8)
    small = [*SETTINGS, "model.arch=resnet18", "run.tensorboard=false", "run.check_node=false"]
    small.append("data.test_split=train")
    (row,) = (row.facts for row in bench_data(dataset, 0, small).rows)
    assert row["batch"] == 4 and row["clips_per_s"] > 0 and row["batches"] >= 20
    rows = [row.facts for row in bench_train(dataset, small).rows]
    assert [row["temporal"] for row in rows] == ["none", "shift", "interlace"]
    assert all(row["clips_per_s"] > 0 and 0 <= row["data_wait"] <= 1 for row in rows)
