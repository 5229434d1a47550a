"""Annotations: what is read, and errors that name file and line."""

import pytest
from synthetic_videos import write_labels

from configs.schema import ShardSettings
from preprocess.annotations.labels import AnnotationError, Video, default_key, read_labels
from preprocess.annotations.mirror import left_right
from preprocess.annotations.read import (
    Annotations,
    forwards_and_backwards,
    hold_out,
    read_annotations,
)


def read(tmp_path, text: str, **settings) -> Annotations:
    """Read the text of a labels CSV."""
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    labels = str(tmp_path / "labels.csv")
    return read_annotations(ShardSettings(source=str(tmp_path), labels=labels, **settings))


def videos(groups: str, label: str = "a") -> list[Video]:
    """Return a video for each letter; the letter is its group."""
    return [
        Video(f"{label}{i}.mp4", (label,), "", f"{label}{i}", group)
        for i, group in enumerate(groups)
    ]


def test_a_labels_csv(tmp_path):
    found = read(
        tmp_path,
        "\ufeffpath,labels,split,key,group,reverse\n"
        "x/1 a.mp4,hit,train,,g1,\n"
        './x//2.mp4,"run, fast",train,two,,true\n'
        "3.mp4,hit,val,,,false\n",
    )
    assert found.classes == ("hit", "run, fast")
    assert found.videos == (
        Video("x/1 a.mp4", ("hit",), "train", "x_1_a", "g1"),
        Video("x/2.mp4", ("run, fast",), "train", "two", "", True),
        Video("3.mp4", ("hit",), "val", "3"),
    )


def test_a_video_may_have_several_labels_or_none_if_the_setting_allows_it(tmp_path):
    text = "path,labels,split\n1.mp4,b;a;b,train\n2.mp4,,train\n"
    found = read(tmp_path, text, multi_label=True)
    assert [video.labels for video in found.videos] == [("b", "a"), ()]
    with pytest.raises(AnnotationError, match=r"1\.mp4 has 2 labels; set shard\.multi_label=true"):
        read(tmp_path, text)


def test_a_whole_split_may_have_no_labels(tmp_path):
    found = read(tmp_path, "path,labels,split\n1.mp4,a,train\n2.mp4,,test\n3.mp4,,test\n")
    assert [video.labels for video in found.videos] == [("a",), (), ()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,split\n", r"column labels is missing .* must be path,labels\[,split\]"),
        ("path,labels,split,gruop\n", r"unknown column 'gruop'; did you mean group\? The"),
        ("", "column path is missing"),
        ("path,labels,split\n", "the annotations contain no videos"),
        ("path,labels,split\n1.mp4,a,train\n2.mp4,a\n", r"labels\.csv:3: .*more or fewer fields"),
        ("path,labels,split\n1.mp4,a,train,x\n", r"labels\.csv:2: .*more or fewer fields"),
        ("path,labels,split\n../1.mp4,a,train\n", r"csv:2: path '../1\.mp4' leads out of"),
        ("path,labels,split\na/../../b,a,train\n", r"csv:2: path .* leads out of the source"),
        ("path,labels,split\n/etc/passwd,a,train\n", r"csv:2: path '/etc/passwd' leads out"),
        ("path,labels,split\n.,a,train\n", r"csv:2: expected the path of a video, found '\.'"),
        ("path,labels,split\n1.mp4,a,my/split\n", r"csv:2: split 'my/split' contains other"),
        ("path,labels,split,reverse\n1.mp4,a,train,yes\n", "reverse is 'yes', expected true"),
        ("path,labels,split,key\n1.mp4,a,train,a.b\n", r"1\.mp4: key 'a\.b' must have 1 to 90"),
        (
            "path,labels,split,key\n1.mp4,a,train,k\n2.mp4,a,train,k\n",
            r"split train: 1\.mp4 and 2\.mp4 have the same key, k; give each its own in column key",
        ),
        (
            "path,labels,split\n1.mp4,a,train\n2.mp4,b,val\n",
            r"2\.mp4: label 'b' of split val is not in the labels of split train",
        ),
        (
            "path,labels,split\n1.mp4,a,train\n2.mp4,,train\n",
            r"2\.mp4 has no label, but other videos of split train have one",
        ),
    ],
)
def test_an_error_names_the_line_or_the_video(tmp_path, text, message):
    with pytest.raises(AnnotationError, match=message):
        read(tmp_path, text)


def test_errors_name_a_missing_labels_file_and_a_missing_source(tmp_path):
    with pytest.raises(AnnotationError, match=r"none\.csv: .*No such file"):
        read_labels(tmp_path / "none.csv", tmp_path)
    with pytest.raises(AnnotationError, match="none' is not a folder"):
        read_annotations(ShardSettings(source=str(tmp_path / "none")))


def test_two_splits_may_have_the_same_key(tmp_path):
    text = "path,labels,split,key\n1.mp4,a,train,k\n2.mp4,a,val,k\n"
    assert len(read(tmp_path, text).videos) == 2


def test_a_folder_per_class(tmp_path):
    for name in ("run/b.mp4", "run/a.AVI", "run/note.txt", "hit/c.mkv", ".hidden/d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "hit" / "frames").mkdir()
    found = read_annotations(ShardSettings(source=str(tmp_path)))
    assert [video.path for video in found.videos] == [
        "hit/c.mkv",
        "hit/frames",
        "run/a.AVI",
        "run/b.mp4",
    ]
    assert found.classes == ("hit", "run")
    # Of two videos of a class, one is held out.
    assert [video.split for video in found.videos].count("val") == 2


def test_a_folder_per_split_and_class(tmp_path):
    for name in ("train/run/a.mp4", "train/hit/b.mp4", "val/run/c.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = read_annotations(ShardSettings(source=str(tmp_path)))
    assert [(video.split, video.labels[0]) for video in found.videos] == [
        ("train", "hit"),
        ("train", "run"),
        ("val", "run"),
    ]


def test_an_empty_source_folder_is_an_error(tmp_path):
    message = r"no videos in folders of classes \(CLASS/VIDEO\.mp4\)"
    with pytest.raises(AnnotationError, match=message):
        read_annotations(ShardSettings(source=str(tmp_path)))


def test_groups_stay_together_and_each_class_has_held_out_videos():
    found = hold_out(videos("aabbccdd") + videos("xxyy", "b"), ShardSettings(held_out=0.25, seed=3))
    for label, groups, held in (("a", "abcd", 1), ("b", "xy", 1)):
        splits = {
            group: {v.split for v in found if v.labels == (label,) and v.group == group}
            for group in groups
        }
        assert all(len(names) == 1 for names in splits.values())
        assert sum(names == {"val"} for names in splits.values()) == held


def test_a_class_of_one_group_stays_in_train():
    found = hold_out(videos("aaaa") + videos("ab", "b"), ShardSettings(held_out=0.5))
    assert {video.split for video in found if video.labels == ("a",)} == {"train"}
    assert sorted(video.split for video in found if video.labels == ("b",)) == ["train", "val"]


def test_a_video_without_a_group_is_its_own_group():
    ungrouped = [Video(f"{i}.mp4", ("a",), "", str(i)) for i in range(10)]
    found = hold_out(ungrouped, ShardSettings(held_out=0.3))
    assert sum(video.split == "val" for video in found) == 3


def test_a_fifth_is_held_out_by_default_and_nothing_with_0(caplog):
    caplog.set_level("INFO")
    found = hold_out(videos("aabbccddee"), ShardSettings())
    assert sum(video.split == "val" for video in found) == 2  # one of five groups
    assert caplog.messages == [
        "no split is given: 2 of 10 videos are held out as split val, a fifth of the groups of each"
        " class. To choose, set shard.held_out=0.3, or add a column split to the labels."
    ]
    nothing = hold_out(videos("abcd"), ShardSettings(held_out=0))
    assert {video.split for video in nothing} == {"train"}


def test_nothing_is_held_out_by_default_if_a_video_has_a_split_and_given_splits_stay():
    given = [Video("a.mp4", ("a",), "test", "a"), *videos("abcd", "b")]
    assert {video.split for video in hold_out(given, ShardSettings())} == {"test", "train"}
    assert hold_out(given, ShardSettings(held_out=0.5))[0].split == "test"


def test_a_group_that_several_classes_have_is_in_one_split():
    people = "abcdefghij"
    found = hold_out(videos(people) + videos(people, "b") + videos("ab", "c"), ShardSettings())
    splits = {group: {v.split for v in found if v.group == group} for group in people}
    assert all(len(names) == 1 for names in splits.values())
    for label in ("a", "b", "c"):
        of_class = [video.split for video in found if video.labels == (label,)]
        assert {"train", "val"} == set(of_class)


def test_groups_stay_together_across_labels_if_videos_have_several():
    many = [
        Video(f"{i}.mp4", labels, "", str(i), "ab"[i % 2])
        for i, labels in enumerate([("x",), ("y",), ("x", "y"), ()] * 3)
    ]
    found = hold_out(many, ShardSettings(held_out=0.5, multi_label=True))
    assert len({(video.group, video.split) for video in found}) == 2


def test_both_directions_of_a_video_are_in_the_same_split(tmp_path):
    rows = [{"path": f"{i}.mp4", "labels": "abc"[i % 3], "split": ""} for i in range(12)]
    write_labels(tmp_path / "labels.csv", rows)
    settings = ShardSettings(
        source=str(tmp_path),
        labels=str(tmp_path / "labels.csv"),
        format="direction",
        held_out=0.25,
    )
    found = read_annotations(settings)
    assert found.classes == ("backwards", "forwards") and len(found.videos) == 24
    for forwards, backwards in zip(found.videos[::2], found.videos[1::2], strict=True):
        assert (forwards.path, forwards.split) == (backwards.path, backwards.split)
        assert (forwards.labels, forwards.reverse) == (("forwards",), False)
        assert (backwards.labels, backwards.reverse) == (("backwards",), True)
    assert sum(video.split == "val" for video in found.videos) == 6
    twice = list(forwards_and_backwards([Video("a", ("x",), "train", "k", reverse=True)]))
    assert [video.reverse for video in twice] == [True, False]


def test_an_unknown_format_is_an_error(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.mp4").touch()
    with pytest.raises(AnnotationError, match=r"shard\.format 'sthv9' is unknown"):
        read_annotations(ShardSettings(source=str(tmp_path), format="sthv9"))


def test_default_keys_are_valid_and_distinct():
    assert default_key("a/b c.d.mp4") == "a_b_c_d"
    long = [default_key(f"{'x' * 200}/{i}.mp4") for i in range(2)]
    assert long[0] != long[1] and all(len(key) == 80 for key in long)


def test_left_and_right_trade_places_in_class_names():
    names = (
        "Swiping Left",
        "Swiping Right",
        "Pushing [something] from left to right",
        "Pushing [something] from right to left",
        "Turning Hand Clockwise",
        "Turning Hand Counterclockwise",
        "clockwise",
        "counter-clockwise",
        "Doing other things",
        "Right hook",
    )
    assert left_right(names) == (1, 0, 3, 2, 5, 4, 7, 6, 8, 9)


def test_two_classes_with_the_same_mirror_image_are_an_error():
    message = "classes 'left' and 'Left' have the same mirror image, 'right'; rename one of them"
    with pytest.raises(AnnotationError, match=message):
        left_right(("left", "Left", "right"))
