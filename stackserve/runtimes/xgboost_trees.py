"""Whether the trees of an XGBoost model stay within themselves.

XGBoost follows the children and features that a file names without a look at their number, so that a
damaged file ends the process.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_OUTPUTS = 1 << 16
ROOT = (1 << 31) - 1
"""What a root says its parent is."""
MOST_CATEGORIES = 1 << 20
"""A category is a bit of a set, so that a great one takes much memory."""


class BadTrees(Exception):
    """XGBoost must not use this model; the message says what it lacks."""


def check(model: Any) -> None:
    """`model` is what the file says, as parsed. Raises BadTrees."""
    try:
        learner = model["learner"]
        parameters = learner["learner_model_param"]
        features = _count(parameters["num_feature"])
        classes, targets = parameters["num_class"], parameters.get("num_target", "1")
        outputs = max(_count(classes), _count(targets), 1)
        booster = learner["gradient_booster"]
        if features < 1 or outputs > MOST_OUTPUTS:
            raise BadTrees(f"it has {features} features and {outputs} outputs")
        if booster["name"] == "gblinear":
            if len(booster["model"]["weights"]) != (features + 1) * outputs:
                raise BadTrees("it has not one weight for each feature")
            return
        trees = booster["gbtree"] if booster["name"] == "dart" else booster
        count = _check_forest(trees["model"], features, outputs)
        if booster["name"] == "dart" and len(booster["weight_drop"]) != count:
            raise BadTrees("it has not one weight for each tree")
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise BadTrees(f"it lacks {error}") from error


def _check_forest(model: Any, features: int, outputs: int) -> int:
    trees, groups = model["trees"], _integers(model["tree_info"])
    if len(groups) != len(trees) or not _within(groups, 0, outputs):
        raise BadTrees("a tree adds to an output that is not there")
    for number, tree in enumerate(trees):
        if type(tree["id"]) is not int or tree["id"] != number:  # its place, as XGBoost loads it
            raise BadTrees(f"tree {number} has the number of another")
        if _count(tree["tree_param"].get("size_leaf_vector", "1")) > 1:
            raise BadTrees("its leaves are vectors; train with one_output_per_tree")
        try:
            _check_tree(tree, features)
        except BadTrees as error:
            raise BadTrees(f"tree {number} {error}") from error
    return len(trees)


def _check_tree(tree: Any, features: int) -> None:
    left, right = _integers(tree["left_children"]), _integers(tree["right_children"])
    split = _integers(tree["split_indices"])
    nodes = len(left)
    if not nodes or not len(right) == len(split) == nodes:
        raise BadTrees("has nodes without children or features")
    inner = left != -1
    if not np.array_equal(inner, right != -1):
        raise BadTrees("has a node with one child")
    children = np.concatenate([left[inner], right[inner]])
    if not _within(children, 1, nodes) or len(np.unique(children)) != len(children):
        raise BadTrees("has a node under two others, or under none that is there")
    parents, above = _integers(tree["parents"]), np.flatnonzero(inner)
    if len(parents) != nodes or parents[0] != ROOT:
        raise BadTrees("has a root that is none")
    if not np.array_equal(parents[children], np.concatenate([above, above])):
        raise BadTrees("has a node that names another parent")
    if not _within(split[inner], 0, features):
        raise BadTrees("asks for a feature that is not there")
    _check_categories(tree, inner)


def _check_categories(tree: Any, inner: npt.NDArray[np.bool_]) -> None:
    """Files of old versions have none of these."""
    kinds = _integers(tree.get("split_type", []))
    nodes, values = (
        _integers(tree.get("categories_nodes", [])),
        _integers(tree.get("categories", [])),
    )
    begins, sizes = (
        _integers(tree.get("categories_segments", [])),
        _integers(tree.get("categories_sizes", [])),
    )
    if len(kinds) not in (0, len(inner)) or not len(nodes) == len(begins) == len(sizes):
        raise BadTrees("has categories of another number than nodes")
    by_category = np.flatnonzero(kinds == 1)
    inside = _within(values, 0, MOST_CATEGORIES) and _within(begins, 0, len(values) + 1)
    if (
        not inside
        or not _within(sizes, 0, len(values) + 1)
        or not _within(begins + sizes, 0, len(values) + 1)
    ):
        raise BadTrees("has categories out of range")
    if not np.array_equal(np.sort(nodes), by_category) or not bool(np.all(np.diff(nodes) > 0)):
        raise BadTrees("has categories of nodes that ask for none")


def _count(text: str) -> int:
    """Of digits alone, which XGBoost reads as Python does."""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise BadTrees(f"{text[:20]!r} is no number of something")
    return int(text)


def _integers(values: Any) -> npt.NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise BadTrees("has numbers where whole ones must be")
    return array.astype(np.int64)


def _within(values: npt.NDArray[np.int64], least: int, end: int) -> bool:
    return bool(np.all((values >= least) & (values < end)))
