"""The model card of an exported file: what the model is, and how well it was measured."""

import json
import logging
from pathlib import Path
from typing import Any

from configs.load import ConfigError, dataset_path, to_yaml
from configs.schema import Config
from preprocess.shards import read_info
from preprocess.tars import ShardError
from tin.evaluation.scores import RESULT
from tin.runs.folder import Run

log = logging.getLogger(__name__)
LICENSE = (
    "The code of tin-video is licensed under Apache-2.0. These weights were trained on the dataset"
    " named below: its license decides whether and how they may be used and shared."
)


def card(file: Path, metadata: dict[str, Any], config: Config, run: Run | None) -> str:
    """Return the model card in Markdown.

    Args:
        file: the exported file.
        metadata: what the file says about itself.
        config: settings of the run.
        run: the run, whose tests are listed; None if only a checkpoint is known.
    """
    results = _results(run)
    digest = next((result["dataset_digest"] for _, result in results), "") or _digest(config)
    lines = [
        f"# {file.name}",
        "",
        f"{config.model.arch} with model.temporal {config.model.temporal}, recipe"
        f" {config.recipe or '(none)'}, step {metadata['step']} ({metadata['checkpoint']}).",
        "",
        f"- input: {metadata['input']['dtype']} {metadata['input']['shape']}",
        f"- output: logits of {len(metadata['classes'])} classes; scores are their"
        f" {metadata['scores']}",
        f"- dataset: {config.data.dataset}",
        f"- digest of the dataset: {digest or 'unknown'}",
        f"- source of the recipe: {config.source or '(none)'}",
        f"- license: {LICENSE}",
        "",
        "## Metrics",
        "",
        *(_table(results) if results else ["This run was not tested: run `tin test` and export."]),
        "",
        "## Settings",
        "",
        "```yaml",
        to_yaml(metadata["settings"]).rstrip(),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _results(run: Run | None) -> list[tuple[str, dict[str, Any]]]:
    """Return the tests of a run by name; a test that cannot be read is left out and named."""
    found = []
    for path in sorted(run.tests.glob(f"*/{RESULT}")) if run else ():
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            result["metrics"].items()
            result["dataset_digest"]
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            log.warning("%s cannot be read (%s); the model card leaves it out", path, error)
        else:
            found.append((path.parent.name, result))
    return found


def _digest(config: Config) -> str:
    """Return the digest of the run's dataset; empty if the dataset is not on this machine."""
    try:
        return read_info(dataset_path(config.data.dataset)).digest
    except (ConfigError, ShardError):
        return ""


def _table(results: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Return the metrics as rows of a table, with their intervals if the test has them."""
    rows = ["| test | metric | value | interval |", "|---|---|---|---|"]
    for test, result in results:
        intervals = result.get("intervals") or {}
        for name, value in result["metrics"].items():
            if value is None:
                continue
            bounds = intervals.get(name)
            interval = f"{bounds[0]:.4f} to {bounds[1]:.4f}" if bounds else ""
            rows.append(f"| {test} | {name} | {value:.4f} | {interval} |")
    return rows
