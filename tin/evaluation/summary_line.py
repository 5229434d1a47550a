"""The line of the log that sums up a test."""

import logging
from typing import Any

log = logging.getLogger(__name__)


def log_result(result: dict[str, Any]) -> None:
    """Log the metrics that are known, the videos left out, and the speed."""
    parts = [
        f"{name} {value:.4f}" if name == "loss" else f"{name} {100 * value:.2f} %"
        for name, value in result["metrics"].items()
        if value is not None
    ]
    if result["missing"]:
        parts.append(f"{len(result['missing'])} videos without a readable frame left out")
    log.info(
        "%s: %s (%d videos in %.0f s, %.1f clips/s)",
        result["split"],
        ", ".join(parts),
        result["num_videos"],
        result["seconds"],
        result["clips_per_s"],
    )
