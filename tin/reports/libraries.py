"""The scripts and styles of plotly and DataTables as the page embeds them."""

import base64
import functools
import gzip
import hashlib
import re
from importlib.resources import files

EXPORT = re.compile(r"export\{([^}]*)\};")
EMPTY_STYLE = ""
"""plotly adds a style element without text and fills it by rules; the policy must allow it."""


def sha256(text: str) -> str:
    """Return the digest of an inline script or style as a content security policy has it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@functools.cache
def plotly_script() -> str:
    """Return plotly's script; `plotly.offline` would embed the same text."""
    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


@functools.cache
def packed_plotly() -> str:
    """Return plotly's script compressed, in base64; the browser unpacks it for the first plot."""
    return base64.b64encode(gzip.compress(plotly_script().encode(), 9, mtime=0)).decode()


@functools.cache
def tables_script() -> str:
    """Return the script of DataTables from itables, which sets ``window.DataTable``.

    Raises:
        ValueError: this version of itables does not export DataTables as expected.
    """
    text = (files("itables") / "html" / "dt_bundle.js").read_text(encoding="utf-8")
    found = EXPORT.search(text)
    pairs = [part.partition(" as ") for part in found[1].split(",")] if found else []
    names = {outer: inner for inner, _, outer in pairs}
    if not found or "default" not in names:
        raise ValueError("itables' dt_bundle.js has no default export; install itables>=2.4")
    changed = text.replace(found[0], f"window.DataTable={names['default']};")
    return changed.replace("</script", "<\\/script").replace("<!--", "<\\!--")


@functools.cache
def tables_style() -> str:
    """Return the style of DataTables from itables."""
    return (files("itables") / "html" / "dt_bundle.css").read_text(encoding="utf-8")
