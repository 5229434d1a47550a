"""Checks of what was typed, before anything slow is imported."""

import difflib
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from configs.explain import setting_names
from configs.load import RECIPES, ConfigError, parse, with_settings
from configs.schema import Config
from preprocess.annotations.class_folders import VIDEO_SUFFIXES

STAGES = ("shard", "train", "test", "report", "predict")


def check_options(arguments: Sequence[str], options: Collection[str]) -> None:
    """Check that no setting was typed as an option.

    Args:
        arguments: what was typed after the name of a command.
        options: all options of the command.

    Raises:
        ConfigError: says how to type the setting.
    """
    names = [name for name in setting_names(Config) if "." in name]
    for index, argument in enumerate(arguments):
        option, _, value = argument.partition("=")
        if not option.startswith("--") or option in options:
            continue
        name = option.removeprefix("--").replace("-", "_")
        fitting = [known for known in names if name in (known, known.rpartition(".")[2])]
        if fitting:
            after = arguments[index + 1 : index + 2]
            value = value or ("".join(after) if after and after[0][0] != "-" else "VALUE")
            typed = " or ".join(f"{known}={value}" for known in fitting)
            raise ConfigError(
                f"{option} is not an option: settings are typed as section.key=value, here {typed}"
            )


def check_sections(command: str, settings: Sequence[str], used: Sequence[str]) -> None:
    """Check that a command uses the sections of all settings that were typed for it.

    Raises:
        ConfigError: names the first setting that would have no effect.
    """
    for setting in settings:
        section = setting.split(".")[0].split("=")[0]
        if "." in setting.split("=")[0] and section not in used:
            raise ConfigError(
                f"{setting}: `{command}` does not use settings of section {section}; it uses"
                f" {', '.join(used[:-1])} and {used[-1]}. Give this setting to the"
                " command that uses it."
            )


def check_recipe(recipe: str, run_dir: Path, command: str) -> None:
    """Check that the recipe and the run folder of a command are not swapped.

    Raises:
        ConfigError: the run folder names a recipe, and the recipe is not one.
    """
    if is_recipe(str(run_dir)) and not is_recipe(recipe):
        raise ConfigError(
            f"{recipe} is not a recipe, but --run {run_dir} is one; they seem to be swapped. Type"
            f" `tin {command} {run_dir} --run {recipe}`"
        )


def is_recipe(name: str) -> bool:
    """Return whether a text is the name of a recipe, or an existing .yaml file."""
    return (RECIPES / f"{name}.yaml").is_file() or (name.endswith(".yaml") and Path(name).exists())


def check_stages(stages: str, recipe: str) -> None:
    """Check that the stages and the recipe of `tin submit` are not swapped.

    Raises:
        ConfigError: the recipe is a list of stages.
    """
    if set(recipe.split(",")) <= set(STAGES) and is_recipe(stages):
        raise ConfigError(
            f"{stages} is a recipe and {recipe} are stages; they seem to be swapped. Type"
            f" `tin submit {recipe} {stages}`"
        )


def check_run(path: Path) -> None:
    """Check that a folder is a run that has started.

    Raises:
        ConfigError: says what the path is, or names a run that was perhaps meant.
    """
    if (path / "config.yaml").exists():
        return
    if is_recipe(str(path)):
        raise ConfigError(
            f"{path} is a recipe, not a run; expected the folder that `tin train {path} --run DIR`"
            " wrote"
        )
    if (path / "dataset.yaml").exists():
        raise ConfigError(f"{path} is a dataset, not a run; expected the folder of a trained run")
    inside = sorted(path.glob("*/config.yaml"))
    if inside:
        raise ConfigError(
            f"{path} is not a run, but a folder of {len(inside)} runs; name one of them, such as"
            f" {inside[0].parent}"
        )
    if not path.exists():
        raise ConfigError(f"{path} does not exist; expected the folder of a run{_similar(path)}")
    raise ConfigError(f"{path} is not a run: it has no config.yaml{_similar(path)}")


def check_model(path: Path) -> None:
    """Check that a path is a run with a checkpoint, or a checkpoint file.

    Raises:
        ConfigError: it is neither.
    """
    if path.is_file():
        if path.suffix.lower() in VIDEO_SUFFIXES:
            raise ConfigError(
                f"{path} is a video; expected first a run or a checkpoint, then videos. Type"
                f" `tin predict RUN {path}`"
            )
        return
    check_run(path)
    if not any((path / "checkpoints").glob("*.pt")):
        raise ConfigError(
            f"{path} has no checkpoint yet; train it with `tin train --run {path}` until its first"
            " epoch ends"
        )


def check_testing(run_dir: Path, settings: Sequence[str]) -> None:
    """Check that a run can be tested with these settings.

    Raises:
        ConfigError: there is no such run or checkpoint, or a setting or the dataset does not fit.
    """
    from configs.load import dataset_path
    from preprocess.shards import read_info
    from tin.runs.fit import check_split
    from tin.runs.folder import Run

    check_model(run_dir)
    check_sections("tin test", settings, ("test", "run", "data"))
    values = Run(run_dir).config().model_dump(mode="json")
    config = parse(Config, with_settings(values, settings), "command line")
    folder = dataset_path(config.data.dataset)
    check_split(config, "test_split", read_info(folder), folder)


def check_dataset(path: Path) -> None:
    """Check that a folder is a dataset.

    Raises:
        ConfigError: says what it is instead.
    """
    if (path / "dataset.yaml").exists():
        return
    if not path.exists():
        raise ConfigError(f"{path} does not exist; expected a dataset{_similar(path)}")
    if (path / "plan.yaml").exists():
        raise ConfigError(
            f"{path} is a dataset that is not complete: run the same `tin shard` again, or `tin"
            f" data merge {path}` after the last part"
        )
    raise ConfigError(
        f"{path} is not a dataset: it has no dataset.yaml. `tin shard {path} DATASET` makes one of"
        " a folder of videos"
    )


def check_source(source: Path, dataset: Path) -> None:
    """Check that the arguments of `tin shard` are a folder of videos and a dataset.

    Raises:
        ConfigError: they are swapped, or the source is not a folder.
    """
    if (source / "dataset.yaml").exists():
        raise ConfigError(
            f"{source} is a dataset already; expected first the folder of videos, then the dataset"
            " to write"
        )
    if not source.exists() and dataset.is_dir() and not any(dataset.glob("*.tar")):
        raise ConfigError(
            f"{source} does not exist, but {dataset} does; they seem to be swapped. Type `tin shard"
            f" {dataset} {source}`"
        )
    if source.is_file():
        raise ConfigError(
            f"{source} is a file; expected the folder of the videos. A labels file is given with"
            " --labels"
        )
    if not source.exists():
        raise ConfigError(f"{source} does not exist; expected a folder of videos{_similar(source)}")


def check_videos(videos: Sequence[Path]) -> None:
    """Check that at least one of the videos exists.

    Raises:
        ConfigError: names the first.
    """
    if not any(path.exists() for path in videos):
        raise ConfigError(f"{videos[0]} does not exist; expected a video{_similar(videos[0])}")


def check_file(path: Path, what: str) -> None:
    """Check that a file exists; `what` is the noun for the message.

    Raises:
        ConfigError: it does not, or it is a folder.
    """
    if not path.exists():
        raise ConfigError(f"{path} does not exist; expected {what}{_similar(path)}")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; expected {what}")


def check_runs(paths: Sequence[Path]) -> None:
    """Check that there is a run, started or queued, in each folder.

    Raises:
        ConfigError: names the first path without a run.
    """
    for path in paths:
        if not path.exists():
            raise ConfigError(
                f"{path} does not exist; expected a run or a folder of runs{_similar(path)}"
            )
        if not any("config.yaml" in files or "job" in inner for _, inner, files in os.walk(path)):
            raise ConfigError(
                f"{path} contains no run; expected a run or a folder of runs. `tin train` and"
                " `tin submit` create a run with --run."
            )


def _similar(path: Path) -> str:
    """Return `; did you mean X?` for the most similar name in the same folder."""
    if not path.parent.is_dir() or not path.name:
        return ""
    names = [entry.name for entry in path.parent.iterdir() if entry.name != path.name]
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"; did you mean {path.with_name(close[0])}?" if close else ""
