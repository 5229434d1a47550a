"""Annotation files of public datasets: true to the real ones in form, with invented videos."""

import json
from pathlib import Path

import pytest
from synthetic_dataset import jpeg
from synthetic_videos import gray_frames, shard_config, write_clip

from configs.schema import ShardSettings
from preprocess.annotations.files import read_json
from preprocess.annotations.labels import AnnotationError
from preprocess.annotations.mirror import left_right
from preprocess.annotations.read import Annotations, read_annotations
from preprocess.convert import ShardResult, shard
from preprocess.shards import open_split, read_info


def write(folder: Path, **files: str) -> Path:
    """Write text files by name."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def read(folder: Path, form: str, **settings) -> Annotations:
    """Read the annotation files in a folder, which is also the source unless one is given."""
    source = settings.pop("source", folder)
    return read_annotations(
        ShardSettings(source=str(source), annotations=str(folder), format=form, **settings)
    )


def rows(found: Annotations) -> list[tuple]:
    """Return split, path, labels and key of each video."""
    return [(video.split, video.path, video.labels, video.key) for video in found.videos]


def sthv1(folder: Path, name: str = "something-something-v1") -> Path:
    """Write the annotation files of Something-Something v1."""
    return write(
        folder,
        **{
            f"{name}-labels.csv": "Holding something\nTurning something upside down\n"
            "Approaching something with your camera\n",
            f"{name}-train.csv": "100218;Turning something upside down\n24413;Holding something\n",
            f"{name}-validation.csv": "74225;Holding something\n",
            f"{name}-test.csv": "105723\n68762\n",
        },
    )


def test_something_something_v1(tmp_path):
    found = read(sthv1(tmp_path / "csv"), "sthv1")
    assert found.classes == (  # in the order of TIN's and TSM's scripts
        "Approaching something with your camera",
        "Holding something",
        "Turning something upside down",
    )
    assert rows(found) == [
        ("train", "100218", ("Turning something upside down",), "100218"),
        ("train", "24413", ("Holding something",), "24413"),
        ("val", "74225", ("Holding something",), "74225"),
        ("test", "105723", (), "105723"),
        ("test", "68762", (), "68762"),
    ]


def test_something_something_v1_is_sharded_from_its_folders_of_frames(tmp_path):
    source = tmp_path / "20bn-something-something-v1"
    for name in ("100218", "24413", "74225", "105723", "68762"):
        (source / name).mkdir(parents=True)
        for number, frame in enumerate(gray_frames(3), 1):
            (source / name / f"{number:05d}.jpg").write_bytes(jpeg(frame))
    config = shard_config(
        source, "shard.format=sthv1", f"shard.annotations={sthv1(tmp_path / 'csv')}"
    )
    assert shard(config, tmp_path / "sthv1") == ShardResult(5, 0)
    info = read_info(tmp_path / "sthv1")
    assert info.splits == {"test": 2, "train": 2, "val": 1} and len(info.classes) == 3
    test = open_split(tmp_path / "sthv1", "test")
    assert sorted(test.keys()) == ["105723", "68762"] and len(test.labels) == 0


def test_mirror_images_of_jester_swap_left_and_right(tmp_path):
    write(
        tmp_path,
        **{
            "jester-v1-labels.csv": "Swiping Left\nSwiping Right\nDrumming Fingers\n",
            "jester-v1-train.csv": "34870;Drumming Fingers\n56557;Swiping Left\n"
            "129112;Swiping Right\n",
            "jester-v1-validation.csv": "9223;Swiping Right\n",
            "jester-v1-test.csv": "5106\n",
        },
    )
    found = read(tmp_path, "jester")
    assert found.classes == ("Drumming Fingers", "Swiping Left", "Swiping Right")
    assert [video.split for video in found.videos] == ["train", "train", "train", "val", "test"]
    assert left_right(found.classes) == (0, 2, 1)


def sthv2(folder: Path) -> Path:
    """Write the annotation files of Something-Something v2."""
    template = "Holding [something] next to [something]"
    return write(
        folder,
        **{
            "something-something-v2-labels.json": json.dumps(
                {"Moving something up": "0", "Holding something next to something": "1"}
            ),
            "something-something-v2-train.json": json.dumps(
                [
                    {"id": "78687", "label": "holding potato next to bottle", "template": template,
                     "placeholders": ["potato", "bottle"]},
                    {"id": "42326", "label": "moving pen up", "template": "Moving [something] up",
                     "placeholders": ["pen"]},
                ]
            ),
            "something-something-v2-validation.json": json.dumps(
                [{"id": "74225", "label": "moving cup up", "template": "Moving [something] up"}]
            ),
            "something-something-v2-test.json": json.dumps([{"id": "1420"}]),
        },
    )  # fmt: skip


def test_something_something_v2(tmp_path):
    found = read(sthv2(tmp_path / "json"), "sthv2")
    assert found.classes == ("Moving something up", "Holding something next to something")
    assert rows(found) == [
        ("train", "78687.webm", ("Holding something next to something",), "78687"),
        ("train", "42326.webm", ("Moving something up",), "42326"),
        ("val", "74225.webm", ("Moving something up",), "74225"),
        ("test", "1420.webm", (), "1420"),
    ]


def test_something_something_v2_is_sharded_from_webm(tmp_path):
    for name in ("78687", "42326", "74225", "1420"):
        write_clip(tmp_path / "webm" / f"{name}.webm", gray_frames(3), codec="libvpx-vp9")
    config = shard_config(
        tmp_path / "webm", "shard.format=sthv2", f"shard.annotations={sthv2(tmp_path / 'json')}"
    )
    assert shard(config, tmp_path / "sthv2") == ShardResult(4, 0)
    labels = open_split(tmp_path / "sthv2", "val").labels
    assert labels.tolist() == [0]  # the number in labels.json, not alphabetical


KINETICS = {
    "kinetics_train.csv": "label,youtube_id,time_start,time_end,split,is_cc\n"
    "abseiling,-3B32lodo2M,59,69,train,0\n"
    '"air drumming",_dbcJuKJQNs,40,50,train,0\n'
    "abseiling,0347ZoDXyP0,95,105,train,1\n",
    "kinetics_validate.csv": "label,youtube_id,time_start,time_end,split\n"
    "air drumming,--nQbRBEz2s,104,114,validate\n",
    "kinetics_test.csv": "youtube_id,time_start,time_end,split\n---QUuC4vJs,84.0,94.0,test\n",
}


def test_kinetics_in_class_folders_or_flat(tmp_path):
    source = tmp_path / "videos"
    for name in (
        "train/abseiling/-3B32lodo2M_000059_000069.mp4",
        "train/air_drumming/_dbcJuKJQNs_000040_000050.mkv",
        "--nQbRBEz2s_000104_000114.mp4",
    ):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    found = read(write(tmp_path / "csv", **KINETICS), "kinetics", source=source)
    assert found.classes == ("abseiling", "air drumming")
    assert {video.path: (video.split, video.labels) for video in found.videos} == {
        "train/abseiling/-3B32lodo2M_000059_000069.mp4": ("train", ("abseiling",)),
        "train/air_drumming/_dbcJuKJQNs_000040_000050.mkv": ("train", ("air drumming",)),
        "0347ZoDXyP0_000095_000105.mp4": ("train", ("abseiling",)),  # missing
        "--nQbRBEz2s_000104_000114.mp4": ("val", ("air drumming",)),
        "---QUuC4vJs_000084_000094.mp4": ("test", ()),  # missing
    }
    one_file = read_annotations(
        ShardSettings(
            source=str(source),
            format="kinetics",
            annotations=str(tmp_path / "csv" / "kinetics_train.csv"),
        )
    )
    assert len(one_file.videos) == 3


def test_missing_videos_of_kinetics_are_counted_but_are_not_failures(tmp_path):
    write_clip(tmp_path / "v" / "-3B32lodo2M_000059_000069.mp4", gray_frames(3))
    write_clip(tmp_path / "v" / "_dbcJuKJQNs_000040_000050.mp4", gray_frames(3))
    (tmp_path / "v" / "--nQbRBEz2s_000104_000114.mp4").touch()  # exists, but is damaged
    folder = write(tmp_path / "csv", **KINETICS)
    config = shard_config(
        tmp_path / "v", "shard.format=kinetics", f"shard.annotations={folder}", "run.threads=1"
    )
    result = shard(config, tmp_path / "k400")
    assert result == ShardResult(num_videos=2, num_quarantined=1, num_missing=2)
    assert str(result) == "2 videos, 1 in quarantine, 2 missing"
    listed = (tmp_path / "k400" / "quarantine.csv").read_text()
    assert "0347ZoDXyP0_000095_000105,0347ZoDXyP0_000095_000105.mp4,file missing" in listed
    assert ShardResult(100, 0, num_missing=90).too_many_bad is False


def test_a_path_out_of_the_source_folder_is_an_error(tmp_path):
    text = "label,youtube_id,time_start,time_end,split\nrun,../x,1,2,train\nrun,y,1,2,train\n"
    (tmp_path / "y_000001_000002.mp4").touch()
    with pytest.raises(AnnotationError, match=r"a\.csv:2: path .* leads out of the source folder"):
        read(write(tmp_path, **{"a.csv": text}), "kinetics")


def test_ucf101_has_three_train_and_test_lists(tmp_path):
    write(
        tmp_path,
        **{
            "classInd.txt": "1 ApplyEyeMakeup\n2 Hammering\n3 HammerThrow\n",
            "trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n"
            "HammerThrow/v_HammerThrow_g08_c02.avi 3\r\n",
            "testlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\r\n",
            "trainlist02.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1\n",
            "testlist02.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi\n",
        },
    )
    found = read(tmp_path, "ucf101")
    # in the order of classInd.txt, which is not alphabetical
    assert found.classes == ("ApplyEyeMakeup", "Hammering", "HammerThrow")
    assert [(split, key) for split, _, _, key in rows(found)] == [
        ("train", "v_ApplyEyeMakeup_g08_c01"),
        ("train", "v_HammerThrow_g08_c02"),
        ("val", "v_ApplyEyeMakeup_g01_c01"),
    ]
    assert found.videos[1].path == "HammerThrow/v_HammerThrow_g08_c02.avi"
    assert found.videos[1].labels == ("HammerThrow",)
    second = read(tmp_path, "ucf101", fold=2)
    assert [video.split for video in second.videos] == ["train", "val"]
    assert second.videos[0].key == "v_ApplyEyeMakeup_g01_c01"
    with pytest.raises(AnnotationError, match=r"trainlist03\.txt: .*No such file"):
        read(tmp_path, "ucf101", fold=3)


def test_hmdb51_has_a_file_for_each_class_and_fold(tmp_path):
    wheel = "(Rad)Schlag_die_Bank!_cartwheel_f_cm_np1_le_med_0.avi"
    write(
        tmp_path,
        **{
            "brush_hair_test_split1.txt": "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 \n"
            "Haarek_mmen_brush_hair_h_cm_np1_fr_goo_0.avi 2 \n"
            "brush_hair_h_nm_np1_fr_med_26.avi 0 \n",
            "cartwheel_test_split1.txt": f"{wheel} 1 \n",
            "cartwheel_test_split2.txt": f"{wheel} 2 \n",
        },
    )
    found = read(tmp_path, "hmdb51")
    assert found.classes == ("brush_hair", "cartwheel")
    assert [(split, path, labels[0]) for split, path, labels, _ in rows(found)] == [
        ("train", "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "brush_hair"),
        ("val", "brush_hair/Haarek_mmen_brush_hair_h_cm_np1_fr_goo_0.avi", "brush_hair"),
        ("train", f"cartwheel/{wheel}", "cartwheel"),
    ]
    assert len(read(tmp_path, "hmdb51", fold=2).videos) == 1


def test_moments_in_time(tmp_path):
    write(
        tmp_path,
        **{
            "moments_categories.txt": "clapping,0\nadult+female+singing,1\nblocking,2\n",
            "trainingSet.csv": "blocking/getty-karate-video-id635808620_4.mp4,blocking,3,0\n",
            "validationSet.csv": "clapping/yt-5of6ffo6-Bw_205.mp4,clapping,2,1\n",
        },
    )
    found = read(tmp_path, "mit")
    assert found.classes == ("clapping", "adult+female+singing", "blocking")
    assert [row[:3] for row in rows(found)] == [
        ("train", "training/blocking/getty-karate-video-id635808620_4.mp4", ("blocking",)),
        ("val", "validation/clapping/yt-5of6ffo6-Bw_205.mp4", ("clapping",)),
    ]


def test_multi_moments_in_time_has_several_of_313_classes(tmp_path):
    names = [f"class+{number}" for number in range(313)]
    write(
        tmp_path,
        **{
            "moments_categories.txt": "".join(f"{n},{i}\n" for i, n in enumerate(names)),
            "trainingSet.csv": "adult+female+singing/0-3-6_5.mp4,3,17,312\nb/yt-zxQ_56.mp4,0\n",
            "validationSet.csv": "adult+female+singing/yt-zxQfALnTdfc_56.mp4,17,3\n",
        },
    )
    found = read(tmp_path, "mmit", multi_label=True)
    assert len(found.classes) == 313 and found.classes[312] == "class+312"
    assert [video.labels for video in found.videos] == [
        ("class+3", "class+17", "class+312"),
        ("class+0",),
        ("class+17", "class+3"),
    ]
    with pytest.raises(AnnotationError, match=r"has 3 labels; set shard\.multi_label=true"):
        read(tmp_path, "mmit")


def test_lists_of_tin_with_frames_and_videos(tmp_path):
    write(
        tmp_path,
        **{
            "category.txt": "run\nhit\nwave\n",
            "train_videofolder.txt": "something/v1/img/100218 42 2\nclips/a b.avi 103 0\n",
            "val_videofolder.txt": "something/v1/img/7 30 1\n",
            "test_videofolder.txt": "something/v1/img/8 30 0\nsomething/v1/img/9 31 0\n",
        },
    )
    found = read(tmp_path, "lists")
    assert found.classes == ("run", "hit", "wave")  # in the order of the file
    assert [row[:3] for row in rows(found)] == [
        ("train", "something/v1/img/100218", ("wave",)),
        ("train", "clips/a b.avi", ("run",)),
        ("val", "something/v1/img/7", ("hit",)),
        ("test", "something/v1/img/8", ()),  # the scripts write 0 for an unknown label
        ("test", "something/v1/img/9", ()),
    ]


def test_lists_of_tin_with_several_labels_and_no_names(tmp_path):
    write(
        tmp_path,
        **{"train_videofolder.txt": "a 90 3,11\nb 90 0\n", "val_videofolder.txt": "c 90 2\n"},
    )
    found = read(tmp_path, "lists", multi_label=True)
    assert found.classes == tuple(str(number) for number in range(12))  # 2 comes before 10
    assert [video.labels for video in found.videos] == [("3", "11"), ("0",), ("2",)]


@pytest.mark.parametrize(
    ("form", "files", "message"),
    [
        ("sthv3", {}, "'sthv3' is unknown; the formats are direction, hmdb51, jester, kinetics"),
        ("sthv1", {}, r"expected exactly one file \*train\.csv, found none"),
        ("sthv2", {"labels.json": "[]"}, r"labels\.json: expected a dict, found a list"),
        ("sthv2", {"labels.json": '{"a": "0", "b": "2"}'}, "numbered from 0 on without gaps"),
        ("sthv2", {"labels.json": "{"}, r"labels\.json: .*line 1"),
        ("kinetics", {}, "contains no CSV files of Kinetics"),
        ("kinetics", {"a.csv": "label,time_start\n"}, r"a\.csv: column split is missing"),
        (
            "kinetics",
            {"a.csv": "label,youtube_id,time_start,time_end,split\nrun,x,a,b,train\n"},
            r"a\.csv:2: expected label,youtube_id,.*, found \['run', 'x', 'a', 'b', 'train'\]",
        ),
        (
            "kinetics",
            {"a.csv": "label,youtube_id,time_start,time_end,split\nrun,x,1,2,train\n"},
            r"contains none of the 1 videos of .*, for example x_000001_000002\.mp4",
        ),
        ("hmdb51", {}, r"contains no files \*_test_split1\.txt"),
        ("hmdb51", {"run_test_split1.txt": "a.avi 3\n"}, r"split1\.txt:1: flag is '3', expected"),
        (
            "mmit",
            {"moments_categories.txt": "a,0\n", "trainingSet.csv": "a.mp4,1\n"},
            r"trainingSet\.csv:1: class number is '1', expected 0 to 0",
        ),
        (
            "mmit",
            {"moments_categories.txt": "a,0\n", "trainingSet.csv": "a.mp4," + "9" * 5000},
            r"trainingSet\.csv:1: class number is '9{20}', expected 0 to 0",
        ),
        (
            "ucf101",
            {"trainlist01.txt": ".\n"},
            r"trainlist01\.txt:1: expected the path of a video, found '\.'",
        ),
        ("lists", {}, r"contains no list \*train\*\.txt"),
        ("lists", {"train.txt": "a b 1\n"}, r"train\.txt:1: expected path frames .* 'a b 1'"),
        ("lists", {"train.txt": "/etc/passwd 3 1\n"}, r"train\.txt:1: path .* leads out of"),
        ("lists", {"a_train.txt": "", "b_train.txt": ""}, r"found a_train\.txt, b_train\.txt"),
        (
            "ucf101",
            {"classInd.txt": "1 A\n", "trainlist01.txt": "B/v.avi 1\n", "testlist01.txt": ""},
            r"B/v\.avi: label 'B' of split train is not in the list of classes",
        ),
    ],
)
def test_an_error_names_the_file_and_the_line(tmp_path, form, files, message):
    with pytest.raises(AnnotationError, match=message):
        read(write(tmp_path, **files), form)


def test_annotations_may_be_in_the_source_folder(tmp_path):
    folder = str(sthv1(tmp_path / "csv"))
    assert len(read_annotations(ShardSettings(source=folder, format="sthv1")).videos) == 5
    with pytest.raises(AnnotationError, match=r"shard\.annotations .*none does not exist"):
        read(tmp_path / "none", "sthv1", source=tmp_path)


@pytest.mark.parametrize("text", ["[" + "9" * 5000 + "]", "[" * 100_000])
def test_json_that_python_cannot_hold_is_named(tmp_path, text):
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(AnnotationError, match=r"train\.json"):
        read_json(tmp_path / "train.json", list)
