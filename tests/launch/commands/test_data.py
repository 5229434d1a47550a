"""The commands shard and data, as a user types them."""

import json

import pytest
import typer
from synthetic_videos import gray_frames, noise_frames, write_clip
from typer.testing import CliRunner

from launch.commands.data import add_to
from preprocess.shards import read_info

app = typer.Typer()
add_to(app)


def _tin(*arguments: object) -> str:
    """Run a command that succeeds and return what it prints."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert found.exit_code == 0, found.output + repr(found.exception)
    return found.stdout


def _error(*arguments: object) -> str:
    """Run a command that fails and return its message."""
    return str(CliRunner().invoke(app, [str(argument) for argument in arguments]).exception)


@pytest.fixture
def source(tmp_path):
    """Return a folder of two classes of three videos."""
    for number in range(6):
        write_clip(tmp_path / "s" / "ab"[number % 2] / f"{number}.mp4", noise_frames(3, 48))
    return tmp_path / "s"


def test_shard_ends_with_a_summary_and_the_next_command(source, tmp_path):
    lines = _tin("shard", source, tmp_path / "d").splitlines()
    assert lines[0].split() == ["class", "train", "val"]
    assert [line.split() for line in lines[1:3]] == [["a", "2", "1"], ["b", "2", "1"]]
    assert lines[-1] == f"next: tin train clips --run runs/first data.dataset={tmp_path / 'd'}"


def test_the_next_command_names_the_split_to_test_on(source, tmp_path):
    (source / "train").mkdir()
    (source / "a").rename(source / "train" / "a")
    (source / "b").rename(source / "train" / "b")
    write_clip(source / "validation" / "a" / "7.mp4", noise_frames(3, 48))
    assert _tin("shard", source, tmp_path / "d").strip().endswith("data.test_split=validation")


def test_shard_takes_the_section_shard_of_a_recipe(source, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("shard: {held_out: 0.5, short_side: 40}\noptim: {lr: 0.1}\n")
    _tin("shard", source, tmp_path / "d", "--recipe", recipe)
    info = read_info(tmp_path / "d")
    assert info.short_side == 40
    assert info.splits == {"train": 2, "val": 4}  # half of three videos of each class is 2


def test_shards_among_their_sources_are_rejected(source, tmp_path):
    for dataset in (source, source / "shards"):
        message = _error("shard", source, dataset)
        assert message.startswith(f"the dataset {dataset} lies in the folder of the videos")
        assert message.endswith(f"Name a folder outside, for example {tmp_path / 's-shards'}")
    (tmp_path / "labels.csv").write_text("path,label\na/0.mp4,a\n")
    _tin("shard", source, source / "shards", "--labels", tmp_path / "labels.csv")


def test_parts_without_a_part_are_rejected(source, tmp_path):
    message = _error("shard", source, tmp_path / "d", "--parts", 3)
    assert message.startswith("--parts 3 needs --part I, the number of the part to write, from 0")


def test_settings_of_other_sections_are_rejected(source, tmp_path):
    message = _error("shard", source, tmp_path / "d", "train.epochs=3")
    assert message.startswith("train.epochs=3: `tin shard` does not use settings of section train")


def test_a_dataset_without_a_usable_video_ends_with_3(tmp_path):
    (tmp_path / "s" / "a").mkdir(parents=True)
    (tmp_path / "s" / "a" / "1.mp4").touch()
    found = CliRunner().invoke(app, ["shard", str(tmp_path / "s"), str(tmp_path / "d")])
    assert found.exit_code == 3
    assert "d: not one of 1 videos could be used, so there is nothing to train on" in found.stderr


def test_shard_verify_and_merge_name_the_next_command(tmp_path):
    write_clip(tmp_path / "s" / "a" / "0.mp4", gray_frames(3))
    write_clip(tmp_path / "s" / "b" / "1.mp4", gray_frames(4))
    shards = tmp_path / "d"
    found = json.loads(_tin("shard", tmp_path / "s", shards, "--json", "shard.held_out=0"))
    assert (found["videos"], found["quarantined"], found["splits"]) == (2, 0, {"train": 2})
    assert found["classes"] == {"a": {"train": 1}, "b": {"train": 1}}
    assert found["digest"] and any("only split" in text for text in found["warnings"])
    expected = f"next: tin train clips --run runs/first data.dataset={shards} data.test_split=train"
    for command in ("verify", "merge"):
        assert _tin("data", command, shards).splitlines()[-1] == expected
    assert json.loads(_tin("data", "merge", shards, "--json"))["videos"] == 2


def test_show_writes_a_page(tmp_path):
    for name in ("a/0", "b/1"):
        write_clip(tmp_path / "s" / f"{name}.mp4", gray_frames(8))
    _tin("shard", tmp_path / "s", tmp_path / "d", "shard.held_out=0")
    page = tmp_path / "page.html"
    assert _tin("data", "show", tmp_path / "d", "--out", page).strip() == str(page)
    assert page.read_text().count('alt="frames of') == 2 * 3
