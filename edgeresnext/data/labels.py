"""Labels files: the label of each logit, in text or JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeresnext import files
from edgeresnext.errors import DataError

BESIDE = "labels.txt"
"""What the labels of weights are called beside them (`files.beside`)."""


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Return the labels of a file, in the order of the logits; two classes may share a label.

    Args:
        path: Text with one label a line, or JSON: a list, an object from numbers to labels (`{"0": "cat"}`)
            or from labels to numbers.

    Raises:
        DataError: The file is missing, not UTF-8, empty, or has an empty line before its last label.
    """
    path = Path(path)
    try:
        text = files.read(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read labels from '{path}': {error}", "Give a UTF-8 text file with one label a line."
        ) from None
    labels = _json_labels(path, text) if text.lstrip().startswith(("[", "{")) else None
    labels = tuple(line.strip() for line in text.split("\n")) if labels is None else labels
    while labels and not labels[-1]:
        labels = labels[:-1]
    if not labels:
        raise DataError(f"labels file '{path}' is empty", "Write one label a line, in the order of the logits.")
    if "" in labels:
        raise DataError(f"line {labels.index('') + 1} of labels file '{path}' is empty", "Every class needs a label.")
    return labels


def beside(weights: str | Path) -> tuple[str, ...] | None:
    """Return the labels that lie beside a weights file, as training writes them (`NAME.labels.txt`), or None.

    Raises:
        DataError: They cannot be read.
    """
    path = files.beside(weights, BESIDE)
    return read_labels(path) if path.is_file() else None


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON.

    Raises:
        ValueError: A name stands there twice.
    """
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        message = f"'{next(name for name in names if names.count(name) > 1)}' stands there twice"
        raise ValueError(message)
    return dict(pairs)


def _ordered(found: dict[str, Any]) -> list[str] | None:
    """Return the names of an object from names to 0, 1, 2, ..., in that order; None of any other."""
    names = {value: name for name, value in found.items() if type(value) is int}
    return [names[index] for index in range(len(names))] if set(names) == set(range(len(found))) else None


def _json_labels(path: Path, text: str) -> tuple[str, ...] | None:
    """Return the labels of a JSON file; None where the text only looks like JSON."""
    try:
        found = json.loads(text, object_pairs_hook=_unrepeated)
    except (ValueError, RecursionError) as error:
        lines = text.strip().splitlines()
        if len(lines) == 1 or lines[0].rstrip().endswith(("[", "{", ",")):  # else "[sic] cat" is a label
            raise DataError(
                f"labels file '{path}' looks like JSON, and is none: {error}",
                'Write ["cat", "dog"], or one label a line.',
            ) from None
        return None
    if isinstance(found, dict):
        found = _ordered(found) or found  # "class_to_idx" of image folders
    if isinstance(found, dict) and set(found) == {str(index) for index in range(len(found))}:
        found = [found[str(index)] for index in range(len(found))]
    if not isinstance(found, list) or not all(isinstance(label, str) for label in found):
        raise DataError(
            f"labels file '{path}' is JSON, but no list of labels", 'Write ["cat", "dog"] or {"0": "cat", "1": "dog"}.'
        )
    broken = next((label for label in found if len(label.splitlines()) > 1), None)
    if broken is not None:
        raise DataError(f"label {broken!r} of '{path}' has more than one line", "Write each label in one line.")
    return tuple(label.strip() for label in found)
