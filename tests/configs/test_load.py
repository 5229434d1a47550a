"""Loading of settings: strict, with errors that name file, key, what was found and expected."""

from pathlib import Path

import pytest

from configs.load import (
    RECIPES,
    STAGED,
    ConfigError,
    Site,
    cache_path,
    dataset_path,
    differences,
    dump,
    load,
    load_site,
    parse,
    read_yaml,
    run_path,
)
from configs.schema import Config
from configs.settings import Settings


def test_defaults_are_the_recipe_of_the_paper():
    config = load(None)
    assert (config.optim.lr, config.train.batch, config.train.epochs) == (0.02, 48, 40)
    assert (config.model.dropout, config.model.shift_div, config.optim.clip_norm) == (0.8, 4, 20)


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_recipe_loads_and_survives_a_round_trip(name, tmp_path):
    config = load(name)
    (tmp_path / "config.yaml").write_text(dump(config))
    assert parse(Config, read_yaml(tmp_path / "config.yaml"), "config.yaml") == config
    assert config.recipe == name


def test_settings_are_applied_last_and_read_as_yaml():
    config = load(None, ["optim.lr=1e-3", "augment.scales=[1, 0.5]", "model.temporal=none"])
    assert config.optim.lr == 0.001
    assert config.augment.scales == (1.0, 0.5)
    assert config.model.temporal == "none"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("clip.num_segmets=4", "unknown setting clip.num_segmets; did you mean clip.num_segments?"),
        ("clip.crop='224'", "clip.crop: found '224', expected a valid integer"),
        ("clip.crop=true", "clip.crop: found True, expected a valid integer"),
        ("optim.lr=fast", "optim.lr: found 'fast', expected a valid number"),
        ("optim.lr=-1", "optim.lr: found -1, expected greater than 0"),
        ("train.bn=some", "train.bn: found 'some', expected 'full', 'partial', 'frozen' or 'sync'"),
        ("clip.crop", "'clip.crop' is not a setting of the form section.key=value"),
        ("train.accumulate=5", "train.batch 48 is not a multiple of train.accumulate 5"),
        ("test.crop=300", "the test crop of 300 pixels is larger than clip.resize 256"),
    ],
)
def test_an_error_names_the_wrong_setting(setting, message):
    with pytest.raises(ConfigError) as error:
        load(None, [setting])
    assert message in str(error.value)


def test_impossible_combinations_are_errors():
    with pytest.raises(ConfigError, match="needs all frames of a video, but shard.frame_cap is 64"):
        load(None, ["clip.sampling=dense", "shard.frame_cap=64"])
    with pytest.raises(ConfigError, match="works only with train.loss nll, but train.loss is bce"):
        load(None, ["train.loss=bce", "train.label_smoothing=0.1"])


def test_errors_name_the_file(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("clip:\n  num_segmets: 8\n")
    with pytest.raises(ConfigError, match=r"^mine.yaml: unknown setting clip.num_segmets"):
        load(recipe)
    recipe.write_text("clip: [")
    with pytest.raises(ConfigError, match=r"^mine.yaml: while parsing"):
        load(recipe)
    recipe.write_text("clip:\n  crop: 3\nclip:\n  crop: 4\n")
    with pytest.raises(ConfigError, match="duplicate key clip"):
        load(recipe)


def test_python_objects_in_yaml_are_errors(tmp_path):
    recipe = tmp_path / "evil.yaml"
    recipe.write_text("recipe: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        load(recipe)


def test_an_unknown_recipe_suggests_the_nearest_name():
    message = r"unknown recipe demmo; did you mean demo\? Give the path"
    with pytest.raises(ConfigError, match=message):
        load("demmo")


def test_differences_ignore_how_a_run_is_executed():
    old = load(None)
    new = load(None, ["run.threads=3", "optim.lr=0.1", "train.seed=2"])
    assert differences(old, new) == ["optim.lr: 0.02 -> 0.1", "train.seed: 0 -> 2"]


def test_site_maps_names_to_datasets(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.yaml").write_text("format: 1\n")
    site = tmp_path / "site.yaml"
    site.write_text(f"datasets:\n  sthv1: {tmp_path / 'data'}\n")
    monkeypatch.setenv("TIN_SITE", str(site))
    assert load_site() == Site(datasets={"sthv1": str(tmp_path / "data")})
    assert dataset_path("sthv1") == tmp_path / "data"
    with pytest.raises(ConfigError, match="no dataset.yaml; create the dataset with `tin shard`"):
        dataset_path(str(tmp_path))
    with pytest.raises(ConfigError, match="data.dataset is empty"):
        dataset_path("")


def test_site_sets_the_folders_of_runs_and_of_the_cache(tmp_path, monkeypatch):
    site = tmp_path / "site.yaml"
    site.write_text("runs: /scratch/runs\ncache: /scratch/cache\n")
    monkeypatch.setenv("TIN_SITE", str(site))
    assert run_path("first") == Path("/scratch/runs/first")
    assert run_path("/home/me/first") == Path("/home/me/first")
    assert cache_path() == Path("/scratch/cache")


def test_a_staged_copy_is_used_only_for_its_own_dataset(tmp_path, monkeypatch):
    for name, text in (("a", "format: 1\n"), ("b", "format: 2\n"), ("copy", "format: 1\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.yaml").write_text(text)
    monkeypatch.setenv(STAGED, str(tmp_path / "copy"))
    assert dataset_path(str(tmp_path / "a")) == tmp_path / "copy"
    assert dataset_path(str(tmp_path / "b")) == tmp_path / "b"


def test_each_setting_has_a_docstring():
    sections = [field.annotation for field in Config.model_fields.values()]
    groups = [kind for kind in sections if isinstance(kind, type) and issubclass(kind, Settings)]
    assert len(groups) == 10
    for group in (*groups, Site):
        for name, field in group.model_fields.items():
            assert field.description, f"{group.__name__}.{name}"


@pytest.mark.parametrize(
    "value, meaning", [("false", "none"), ("true", "default"), ("none", "none")]
)
def test_the_booleans_of_older_recipes_still_say_whether_to_compile(value, meaning):
    settings = ["data.dataset=clips", f"train.compile={value}"]
    assert load(None, settings).train.compile == meaning


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "\udce9"])
def test_the_name_of_a_run_is_printable(name):
    with pytest.raises(ConfigError, match="the name of a run must be printable"):
        run_path(name)
