"""Labels files as people have them: encodings, separators, names of columns."""

import os

import pytest

from preprocess.annotations.labels import AnnotationError, Video, read_labels

PLAIN = "path,labels,split\nrün/1.mp4,läuft,train\n"
EXPECTED = [Video("rün/1.mp4", ("läuft",), "train", "r_n_1")]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"]
)
def test_text_is_read_in_its_encoding(tmp_path, encoding):
    (tmp_path / "l.csv").write_bytes(PLAIN.encode(encoding))
    assert read_labels(tmp_path / "l.csv", tmp_path) == EXPECTED


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_fields_are_separated_by_comma_semicolon_or_tab(tmp_path, separator, line_end):
    text = PLAIN.replace(",", separator).replace("\n", line_end)
    (tmp_path / "l.csv").write_bytes(text.encode())
    assert read_labels(tmp_path / "l.csv", tmp_path) == EXPECTED


def test_several_labels_in_a_file_with_semicolons_are_quoted(tmp_path):
    (tmp_path / "l.csv").write_text('path;labels\n1.mp4;"a;b"\n')
    assert read_labels(tmp_path / "l.csv", tmp_path)[0].labels == ("a", "b")


@pytest.mark.parametrize("path", ["path", "file", "File"])
@pytest.mark.parametrize("label", ["labels", "label", "class"])
def test_other_names_of_columns(tmp_path, path, label):
    (tmp_path / "l.csv").write_text(f"{path}, {label}\n1.mp4,a\n")
    assert read_labels(tmp_path / "l.csv", tmp_path) == [Video("1.mp4", ("a",), "", "1")]


def test_other_columns_are_ignored_and_one_line_names_them(tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "l.csv").write_text("file,label,fps,group,source_path\n1.mp4,a,30,g,x\n")
    assert read_labels(tmp_path / "l.csv", tmp_path) == [Video("1.mp4", ("a",), "", "1", "g")]
    assert caplog.messages == ["l.csv: ignored columns: fps, source_path"]


def test_absolute_paths_inside_the_source_are_relative_to_it(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "videos")
    (tmp_path / "videos").mkdir()
    labels = tmp_path / "l.csv"
    labels.write_text(f"path,labels\n{tmp_path}/videos/a/1.mp4,a\n")
    for source in (tmp_path / "videos", tmp_path / "link"):
        assert read_labels(labels, source)[0].path == "a/1.mp4"
    with pytest.raises(AnnotationError, match="leads out of the source folder"):
        read_labels(labels, tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "filename,label\n",
            r"l\.csv: column path is missing \(it may also be called file\); the first line must"
            r" be path,labels\[,split\]\[,key\]\[,group\]\[,reverse\], found filename, label",
        ),
        ("path,file,label\n", r"columns 'path' and 'file' both mean path; rename one"),
        ("path,label,splits\n", r"unknown column 'splits'; did you mean split\?"),
        ("path\tlabel\n1.mp4\n", r"l\.csv:2: found 1 fields, but the first line has 2"),
        ("path,label" + "," * 50_000, r"l\.csv: 50002 columns, expected at most 1000"),
        ('path,label\n"1.mp4,a\n', r"l\.csv:2: unexpected end of data"),
    ],
)
def test_errors_name_line_and_column(tmp_path, text, message):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(AnnotationError, match=message):
        read_labels(tmp_path / "l.csv", tmp_path)


def test_a_fifo_in_place_of_labels_is_named_and_never_blocks(tmp_path):
    os.mkfifo(tmp_path / "l.csv")
    with pytest.raises(AnnotationError, match=r"^[^:]*l\.csv: is not a regular file"):
        read_labels(tmp_path / "l.csv", tmp_path)
