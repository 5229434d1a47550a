"""Which class the mirror image of a video belongs to, derived from the names of the classes."""

import re
from collections.abc import Sequence

from preprocess.annotations.read import AnnotationError

OPPOSITES = {"left": "right", "clockwise": "counterclockwise"}
OPPOSITES |= {right: left for left, right in OPPOSITES.items()}


def left_right(classes: Sequence[str]) -> tuple[int, ...]:
    """Return for each class the index of its mirror image, derived from the names.

    `left` and `right` trade places in a name, and so do `clockwise` and `counterclockwise` (also
    `counter-clockwise`, `anticlockwise`). A name whose mirror image is no class stays itself.

    Raises:
        AnnotationError: two classes have one mirror image.
    """
    plain = {_plain(name): index for index, name in enumerate(classes)}
    swap = re.compile("|".join(sorted(OPPOSITES, key=len, reverse=True)))
    mirror = []
    for index, name in enumerate(classes):
        mirrored = swap.sub(lambda match: OPPOSITES[match[0]], _plain(name))
        mirror.append(plain.get(mirrored, index))
    for index, name in enumerate(classes):
        if mirror[mirror[index]] != index:
            raise AnnotationError(
                f"class {name!r} has mirror image {classes[mirror[index]]!r}, which is that of"
                f" {classes[mirror[mirror[index]]]!r} too; rename one of them"
            )
    return tuple(mirror)


def _plain(name: str) -> str:
    return re.sub(r"(counter|anti)[\s_-]?clockwise", "counterclockwise", name.lower())
