"""The commands of a page, with what they print there."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
FILE_NAME = re.compile(r"# (\S+\.yaml)$")
BY_LABEL = ("tin check",)
"""Commands that describe the machine: of what they print, only the first word of a line counts."""


@dataclass
class PageFile:
    """A file that the page shows."""

    name: str
    text: str


@dataclass
class PageCommand:
    """A command of the page."""

    command: str
    prints: list[str] = field(default_factory=list)
    """Lines that the page shows below the command."""

    def missing(self, printed: str) -> list[str]:
        """Return those lines of the page that do not occur in what the command printed.

        Numbers and widths of columns may differ, and `...` stands for any text.
        """
        by_label = self.command in BY_LABEL
        lines = [_shape(line, by_label=by_label) for line in printed.splitlines()]
        return [
            line
            for line in self.prints
            if not any(_pattern(line, by_label=by_label).fullmatch(found) for found in lines)
        ]


def page_steps(page: Path, end: str) -> Iterator[PageFile | PageCommand]:
    """Yield the files and commands of a page in their order, up to the heading `end`.

    A block of code is a file if its first line is a comment with a name, `# box.yaml`. It is a
    transcript if its first line begins with `$ `, and a list of commands otherwise.
    """
    text = page.read_text().partition(end)[0]
    for block in re.findall(r"(?:^ {4}.*\n|^\n(?= {4}\S))+", text, re.MULTILINE):
        lines = [line[4:] for line in block.strip("\n").splitlines()]
        name = FILE_NAME.match(lines[0])
        if name:
            yield PageFile(name[1], "\n".join([*lines, ""]))
            continue
        is_transcript = lines[0].startswith("$ ")
        current: PageCommand | None = None
        for line in lines:
            if current and current.command.endswith("\\"):
                current.command = f"{current.command[:-1]}{line.strip()}"
            elif not is_transcript or line.startswith("$ "):
                if current:
                    yield current
                current = PageCommand(line.removeprefix("$ "))
            elif current and line.strip() not in ("", "..."):
                current.prints.append(line)
        if current:
            yield current


def _shape(line: str, *, by_label: bool) -> str:
    """Return a line without its numbers and without the widths of its columns."""
    words = NUMBER.sub("#", line).split()
    return " ".join(words[:1] if by_label else words)


def _pattern(line: str, *, by_label: bool) -> re.Pattern[str]:
    parts = [re.escape(part) for part in _shape(line, by_label=by_label).split("...")]
    return re.compile(".*".join(parts))
