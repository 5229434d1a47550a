"""The details of a run: mistakes with the frames that the model saw, and learned offsets."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from synthetic_dataset import color, write_dataset
from written_runs import write_diagnosis, write_run

from tin.evaluation.scores import Scores, save
from tin.reports.curves import offset_curves, run_curves
from tin.reports.details import FRAME_SIDE, details_of
from tin.reports.measured import measure
from tin.reports.recorded import read_csv
from tin.reports.results import load_runs, write_report


@pytest.mark.parametrize("options", ["", "+average=logits"])
def test_a_mistake_shows_the_middle_frames_of_its_segments(tmp_path, options):
    dataset = write_dataset(tmp_path / "data", [8, 8, 8], sizes=((24, 24),))
    run_dir = write_run(
        tmp_path / "run",
        f"data.dataset={dataset}",
        f"data.test_split={'val' if options else 'train'}",  # the name of the test decides
        "clip.num_segments=4",
        "clip.crop=24",
        "clip.resize=24",
    )
    views = np.full((3, 1, 3), 0.1, np.float32)
    views[:, 0, 0] = 0.8  # only the first video is of class 0
    folder = run_dir / "tests" / f"train-1x1-24{options}"
    keys = ["video0", "video1", "video2"]
    save(folder, Scores(keys, np.arange(3), views, ("left", "right", "still")), {})
    found = details_of(run_dir, measure(folder), [])
    assert sorted(one.mistake.key for one in found.mistakes) == ["video1", "video2"]
    shown = next(one for one in found.mistakes if one.mistake.key == "video1")
    head, _, text = shown.strip.partition(",")
    assert head == "data:image/jpeg;base64"
    strip = np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(int)
    assert strip.shape == (FRAME_SIDE, 4 * FRAME_SIDE, 3)
    # The four parts of eight frames have the middle frames 1, 3, 5 and 7; their left half is
    # colored, and JPEG changes it a little.
    for place, frame in enumerate((1, 3, 5, 7)):
        pixel = strip[FRAME_SIDE // 2, place * FRAME_SIDE + FRAME_SIDE // 4]
        np.testing.assert_allclose(pixel, color(1, frame), atol=12)


def test_without_the_dataset_mistakes_have_no_frames(tmp_path):
    run_dir = write_run(tmp_path / "run")
    views = np.full((1, 1, 2), 0.1, np.float32)
    views[0, 0, 1] = 0.9
    folder = run_dir / "tests" / "val-1x1-224"
    save(folder, Scores(["a"], np.array([0]), views, ("x", "y")), {})
    (shown,) = details_of(run_dir, measure(folder), []).mistakes
    assert (shown.mistake.key, shown.strip) == ("a", "")


def test_curves_are_thinned_with_their_ends_and_mark_restarts(tmp_path):
    run_dir = write_run(tmp_path / "run")
    steps = read_csv(run_dir / "steps.csv")
    environments = [{"started": 1_700_000_000}, {"started": 1_700_000_150.0}]
    found = run_curves(read_csv(run_dir / "metrics.csv"), steps, environments, num_runs=10_000)
    assert len(found["steps"]["step"]) == 30  # the fewest points of a curve
    assert (found["steps"]["step"][0], found["steps"]["step"][-1]) == (0, 29)
    assert found["epochs"]["val"]["top1"] == [0.25, 0.75, 0.5]
    assert found["restarts"] == [14]  # a step each 10 s; the second attempt began after 150 s


def test_offsets_are_curves_by_block(tmp_path):
    path = tmp_path / "offsets.csv"
    path.write_text(
        "step,block,offset_1,offset_2,spread_1,spread_2,gain_1,gain_2\n"
        "1,layer1.0,1,-1,0,0,0.5,0.5\n1,layer2.0,2,-2,0,0,0.5,0.5\n3,layer1.0,1.5,-1,0,0,1,1\n"
    )
    found = offset_curves(read_csv(path))
    assert list(found) == ["layer1.0", "layer2.0"]
    assert found["layer1.0"]["step"] == [1, 3]
    assert found["layer1.0"]["offset_1"] == [1, 1.5]
    assert offset_curves(read_csv(tmp_path / "none.csv")) == {}


def test_a_report_shows_what_the_doctor_has_measured(tmp_path):
    run_dir = write_run(tmp_path / "run")
    assert details_of(run_dir, None, []).diagnosis is None
    found = write_diagnosis(run_dir)
    assert details_of(run_dir, None, []).diagnosis == found
    page = write_report(load_runs([run_dir]), tmp_path / "out").read_text()
    assert "bounds this run" in page and "a machine" in page
    (run_dir / "doctor.json").write_text("damaged")
    assert details_of(run_dir, None, []).diagnosis is None
