"""Whether a LightGBM text model is whole, and its trees stay within themselves.

LightGBM parses trees in threads whose errors end the process, and follows the children and features that
a file names without a look at their number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

END = b"end of trees\n"
MOST_OUTPUTS = 1 << 16

WHOLE = re.compile(rb" *(?:-?\d{1,18}(?: +-?\d{1,18})*)? *")
REAL = re.compile(
    rb" *(?:-?(?:nan|inf|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?: +-?(?:nan|inf|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?))*)? *"
)
WHOLE_KEYS = frozenset({
    "num_leaves", "num_cat", "split_feature", "decision_type", "left_child", "right_child", "leaf_count",
    "internal_count", "cat_boundaries", "cat_threshold", "is_linear", "num_features", "leaf_features",
})  # fmt: skip
PER_SPLIT = ("split_feature", "threshold", "decision_type", "left_child", "right_child")
PER_SPLIT_OPTIONAL = ("split_gain", "internal_value", "internal_weight", "internal_count")
PER_LEAF_OPTIONAL = ("leaf_weight", "leaf_count")
CATEGORICAL = 1
"""The bit of a decision_type."""


class BadText(Exception):
    """LightGBM must not read this; the message says what is wrong."""


def checked(data: bytes) -> bytes:
    """The part of a model that predicts. What follows it, the parameters of the training among them, is
    left out: a damaged line there ends the process too. Raises BadText.
    """
    head, found, rest = data.partition(b"\nTree=")
    header = dict(line.partition(b"=")[::2] for line in head.split(b"\n"))
    if not head.startswith(b"tree\n") or not found:
        raise BadText("it does not begin as a tree model")
    features = _number(header, b"max_feature_idx") + 1
    outputs, in_turn = _number(header, b"num_class"), _number(header, b"num_tree_per_iteration")
    named = re.search(rb"num_class:(\d+)", header.get(b"objective", b""))
    if not 1 <= outputs == in_turn <= MOST_OUTPUTS or (named and int(named[1]) != outputs):
        raise BadText("it has not one tree in turn for each of its outputs")
    text = b"Tree=" + rest
    trees = _blocks(text, _numbers("tree_sizes", header.get(b"tree_sizes", b""), WHOLE))
    if len(trees) % outputs:
        raise BadText("its last iteration is not whole")
    for number, block in enumerate(trees):
        try:
            _check_tree(block, number, features)
        except BadText as error:
            raise BadText(f"tree {number}: {error}") from error
    return head + b"\n" + b"".join(trees) + END


def _blocks(data: bytes, sizes: npt.NDArray[Any]) -> list[bytes]:
    """The text of each tree, as long as the header says."""
    ends = np.cumsum(sizes, dtype=np.int64)
    if not len(sizes) or sizes.min() < 1 or not data[int(ends[-1]) :].startswith(END):
        raise BadText("its trees are not as long as tree_sizes says")
    return [data[int(end) - int(size) : int(end)] for size, end in zip(sizes, ends, strict=True)]


def _check_tree(block: bytes, number: int, features: int) -> None:
    first, _, rest = block.partition(b"\n")
    if first != b"Tree=%d" % number:
        raise BadText("it is not where tree_sizes says")
    if not rest.endswith(b"\n\n"):
        raise BadText("it runs on into the next")
    tree = _fields(rest)
    leaves, categories = _one(tree, "num_leaves"), _one(tree, "num_cat")
    if leaves < 1 or categories < 0 or len(_array(tree, "leaf_value")) != leaves:
        raise BadText("it has not one value for each leaf")
    splits = leaves - 1
    lengths = dict.fromkeys(PER_SPLIT, splits) if splits else {}
    lengths |= {key: splits for key in PER_SPLIT_OPTIONAL if key in tree and splits}
    lengths |= {key: leaves for key in PER_LEAF_OPTIONAL if key in tree and splits}
    for key, length in lengths.items():
        if len(_array(tree, key)) != length:
            raise BadText(f"{key} has {len(tree[key])} numbers and not {length}")
    if splits:
        _check_splits(tree, leaves, features)
        _check_categories(tree, categories)
    if "is_linear" in tree and _one(tree, "is_linear"):
        _check_linear(tree, leaves, features)


def _check_splits(tree: dict[str, npt.NDArray[Any]], leaves: int, features: int) -> None:
    """A leaf n is the child -n - 1, an inner node its number, which is greater than its parent's."""
    parents = np.arange(leaves - 1)
    children = np.concatenate([tree["left_child"], tree["right_child"]])
    above = np.concatenate([parents, parents])
    inner = children >= 0
    if np.any(children < -leaves) or np.any(children >= leaves - 1):
        raise BadText("a node has a child that is not there")
    if np.any(children[inner] <= above[inner]):
        raise BadText("a node is under itself")
    if np.any(tree["split_feature"] < 0) or np.any(tree["split_feature"] >= features):
        raise BadText("it asks for a feature that is not there")


def _check_categories(tree: dict[str, npt.NDArray[Any]], categories: int) -> None:
    by_category = (tree["decision_type"] & CATEGORICAL) != 0
    which = tree["threshold"][by_category]
    if not np.all((which >= 0) & (which < categories)):
        raise BadText("it asks for a set of categories that is not there")
    if not categories:
        return
    bounds, sets = _array(tree, "cat_boundaries"), _array(tree, "cat_threshold")
    if len(bounds) != categories + 1 or bounds[0] != 0 or np.any(np.diff(bounds) < 0):
        raise BadText("cat_boundaries are wrong")
    if bounds[-1] != len(sets) or np.any((sets < 0) | (sets >= 1 << 32)):
        raise BadText("cat_threshold is wrong")


def _check_linear(tree: dict[str, npt.NDArray[Any]], leaves: int, features: int) -> None:
    counts, used = _array(tree, "num_features"), _array(tree, "leaf_features")
    if len(counts) != leaves or len(_array(tree, "leaf_const")) != leaves or np.any(counts < 0):
        raise BadText("it has not one linear model for each leaf")
    if not int(counts.sum()) == len(used) == len(_array(tree, "leaf_coeff")):
        raise BadText("its linear models are not as long as num_features says")
    if np.any((used < 0) | (used >= features)):
        raise BadText("a linear model asks for a feature that is not there")


def _fields(text: bytes) -> dict[str, npt.NDArray[Any]]:
    fields = {}
    for line in text.rstrip(b"\n").split(b"\n"):  # LightGBM stops at an empty line
        key, equals, value = line.partition(b"=")
        name = key.decode("ascii", "replace")
        if not equals or not name or name in fields:
            raise BadText(f"the line {line[:40]!r} is wrong")
        fields[name] = _numbers(name, value, WHOLE if name in WHOLE_KEYS else REAL)
    return fields


def _numbers(name: str, value: bytes, pattern: re.Pattern[bytes]) -> npt.NDArray[Any]:
    if not pattern.fullmatch(value):
        raise BadText(f"{name} is {value[:40]!r}")
    number: Callable[[bytes], Any] = int if pattern is WHOLE else float
    return np.array([*map(number, value.split())], np.int64 if pattern is WHOLE else np.float64)


def _array(tree: dict[str, npt.NDArray[Any]], key: str) -> npt.NDArray[Any]:
    if key not in tree:
        raise BadText(f"it has no {key}")
    return tree[key]


def _one(tree: dict[str, npt.NDArray[Any]], key: str) -> int:
    if len(_array(tree, key)) != 1:
        raise BadText(f"{key} is not one number")
    return int(tree[key][0])


def _number(header: dict[bytes, bytes], key: bytes) -> int:
    if not re.fullmatch(rb"\d{1,9}", header.get(key, b"")):
        raise BadText(f"it has no {key.decode()}")
    return int(header[key])
