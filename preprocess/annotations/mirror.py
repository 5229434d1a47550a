"""Which class the mirror image of a video belongs to, derived from the names of the classes."""

import re
from collections.abc import Sequence

from preprocess.annotations.labels import AnnotationError

MIRRORED_WORDS = {
    "left": "right",
    "right": "left",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
}
"""Words that trade places when a video is flipped horizontally."""


def left_right(classes: Sequence[str]) -> tuple[int, ...]:
    """Return for each class the index of its mirror image, derived from the names.

    In a name, `left` and `right` trade places, and so do `clockwise` and `counterclockwise` (also
    spelled `counter-clockwise` or `anticlockwise`). A class whose mirror image is not a class of
    the dataset is its own mirror image.

    Raises:
        AnnotationError: two classes have the same mirror image.
    """
    indices = {_normalized(name): index for index, name in enumerate(classes)}
    # The longest words come first: `counterclockwise` contains `clockwise`.
    words = re.compile("|".join(sorted(MIRRORED_WORDS, key=len, reverse=True)))
    mirror = []
    for index, name in enumerate(classes):
        mirrored = words.sub(lambda match: MIRRORED_WORDS[match[0]], _normalized(name))
        mirror.append(indices.get(mirrored, index))
    # The mirror image of the mirror image must be the class itself.
    for index, name in enumerate(classes):
        if mirror[mirror[index]] != index:
            raise AnnotationError(
                f"classes {name!r} and {classes[mirror[mirror[index]]]!r} have the same mirror"
                f" image, {classes[mirror[index]]!r}; rename one of them"
            )
    return tuple(mirror)


def _normalized(name: str) -> str:
    """Return a name in lower case, with one spelling of `counterclockwise`."""
    return re.sub(r"(counter|anti)[\s_-]?clockwise", "counterclockwise", name.lower())
