"""Which exported programs may be read: the JSON in a .pt2 archive is code, more or less.

torch.export.load resolves a node's target as any attribute of torch (torch.os.system is one), evaluates
symbolic sizes with sympy (that is, with eval), executes guards as Python, imports modules that tree
specifications name, and writes names into source that it executes. So a program is read here only if all
of its strings are of a few harmless kinds; what is not needed to run it is dropped.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from stackserve.runtimes.base import ModelRefused

NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
QUALIFIED = re.compile(r"\w+(\.\w+)*", re.ASCII)
TEXT = re.compile(r"[\w .,:>=\-]{0,200}", re.ASCII)
SYMBOL = re.compile(r"[a-z]{1,4}[0-9]{1,6}")
TARGET = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!from_file\.|save\.)[a-z_]\w*\.\w+"
    r"|torch\.ops\.higher_order\.(cond|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|torch\.sym_(float|int|ite|max|min|not|sum)"
    r"|_operator\.(abs|add|and_|eq|floordiv|ge|getitem|gt|invert|le|lshift|lt|mod|mul|ne|neg|or_|pos|pow"
    r"|rshift|sub|truediv|xor)"
    r"|math\.(ceil|floor|trunc)",
    re.ASCII,
)
"""Operators without a way out of the process. aten.from_file and aten.save open files."""

NAMES = frozenset({"name", "as_name", "forward_arg_names", "verifiers", "user_input_name"})
QUALIFIED_NAMES = frozenset({"fqn", "parameter_name", "buffer_name", "tensor_constant_name"})
FLOATS = frozenset({"as_float", "as_floats", "as_float_lists", "real", "imag"})
FUNCTIONS = {
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "Abs",
    "Eq", "Ne", "Equality", "Unequality", "GreaterThan", "LessThan", "StrictGreaterThan",
    "StrictLessThan", "And", "Or", "Not", "FloorDiv", "ModularIndexing", "Where", "PythonMod",
    "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv", "PowByNatural", "IntTrueDiv",
    "FloatTrueDiv", "TruncToFloat", "TruncToInt", "RoundToInt", "ToFloat", "Identity",
}  # fmt: skip
"""Of symbolic sizes."""
SYNTAX = (
    ast.Expression, ast.Load, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Add, ast.Sub, ast.Mult, ast.Div,
    ast.FloorDiv, ast.Mod, ast.USub, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE,
    ast.keyword, ast.Call, ast.Name, ast.Constant,
)  # fmt: skip
MOST_POWER = 16
CONTAINERS = {"builtins.tuple", "builtins.list", "builtins.dict"}
DEEPEST = 60


def checked_program(content: bytes, file: str) -> dict[str, Any]:
    """The program without what is not needed to run it. Raises ModelRefused."""
    program = read_json(content, file)
    try:
        module = program["graph_module"]
        program["guards_code"] = []
        module["metadata"] = {}
        module["module_call_graph"] = module["module_call_graph"][:1]
    except (KeyError, TypeError) as error:
        raise ModelRefused(
            "model_unreadable", f"{file} is no exported program; export the model again"
        ) from error
    check(program, "", file, 0)
    return program


def read_json(content: bytes, file: str) -> dict[str, Any]:
    """A JSON object. Raises ModelRefused."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelRefused(
            "model_unreadable", f"{file} holds JSON that cannot be read; export the model again"
        ) from error
    if not isinstance(value, dict):
        raise ModelRefused(
            "model_unreadable", f"{file} holds JSON that is no object; export the model again"
        )
    return value


def check(value: Any, key: str, file: str, depth: int) -> None:
    """Every string in `value`, by the key that it stands under."""
    if depth > DEEPEST:
        raise refused(file, "nesting", "too deep")
    if isinstance(value, dict):
        if "target" in value or "metadata" in value:
            value["metadata"] = {}
        for name, inner in value.items():
            if not is_qualified(name):
                raise refused(file, "a key", name)
            if name in {"as_operator", "as_custom_obj", "custom_obj", "token"} or (
                name in {"treespec_namedtuple_fields", "custom_obj_values"} and inner
            ):
                raise refused(file, "an argument", name)
            check(inner, name, file, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            check(inner, key, file, depth + 1)
    elif isinstance(value, str) and not is_harmless(key, value):
        raise refused(file, key, value)


def refused(file: str, place: str, value: str) -> ModelRefused:
    return ModelRefused(
        "unsafe_format",
        f"the program in {file} has {place or 'a string'} {value[:60]!r}, which could run code and is not "
        "among what is read here; save the model as ONNX or safetensors, or set allow_unsafe_formats if "
        "you made the file yourself",
    )


def is_harmless(key: str, value: str) -> bool:
    """Whether a string may stand under a key."""
    if key in NAMES:
        return value == "" or (NAME.fullmatch(value) is not None and is_qualified(value))
    if key in QUALIFIED_NAMES:
        return value == "" or is_qualified(value)
    if key == "target":
        return TARGET.fullmatch(value) is not None
    if key == "expr_str":
        return is_size(value)
    if key in {"in_spec", "out_spec"}:
        return is_tree(value)
    if key in {"as_string", "as_strings"}:
        return TEXT.fullmatch(value) is not None
    if key in FLOATS:
        return value in {"Infinity", "-Infinity", "NaN"}
    return (key == "type" and value == "cpu") or (
        key == "torch_version" and re.fullmatch(r"[\w.+<=]{1,60}", value, re.ASCII) is not None
    )


def is_qualified(name: str) -> bool:
    """A dotted name, none of whose parts is __special__."""
    return QUALIFIED.fullmatch(name) is not None and not any(
        part.startswith("__") and part.endswith("__") for part in name.split(".")
    )


def is_size(text: str) -> bool:
    """Whether evaluating a symbolic size computes a size and nothing else, in little time."""
    if len(text) > 4000:
        return False
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, SYNTAX) and is_part_of_size(node) for node in ast.walk(tree))


def is_part_of_size(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return node.id in FUNCTIONS or SYMBOL.fullmatch(node.id) is not None
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return SYMBOL.fullmatch(node.value) is not None
        return isinstance(node.value, int | float) and abs(node.value) < 2**63
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
            return False
        return node.func.id not in {"Pow", "PowByNatural"} or is_small_power(node)
    return not isinstance(node, ast.keyword) or isinstance(node.value, ast.Constant)


def is_small_power(node: ast.Call) -> bool:
    """A power of a base without a power: a tower of them takes all memory to evaluate."""
    if len(node.args) != 2:
        return False
    base, exponent = node.args
    if isinstance(exponent, ast.Call) and len(exponent.args) == 1:  # Integer(2)
        exponent = exponent.args[0]
    if isinstance(exponent, ast.UnaryOp):
        exponent = exponent.operand
    if not (isinstance(exponent, ast.Constant) and isinstance(exponent.value, int)):
        return False
    return abs(exponent.value) <= MOST_POWER and not any(
        isinstance(inner, ast.Name) and inner.id in {"Pow", "PowByNatural"}
        for inner in ast.walk(base)
    )


def is_tree(text: str) -> bool:
    """Whether a tree specification is of tuples, lists and dictionaries by name: torch imports the module
    of any other type.
    """
    try:
        protocol, tree = json.loads(text)
        return protocol == 1 and is_branch(tree, 0)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def is_branch(tree: dict[str, Any], depth: int) -> bool:
    if depth > DEEPEST or tree.keys() != {"type", "context", "children_spec"}:
        return False
    kind, context, children = tree["type"], tree["context"], tree["children_spec"]
    if kind is None:
        return context is None and children == []
    if kind not in CONTAINERS:
        return False
    keys = json.loads(context)
    if kind == "builtins.dict":
        named = isinstance(keys, list) and all(isinstance(k, str) and is_qualified(k) for k in keys)
    else:
        named = keys is None
    return named and all(is_branch(child, depth + 1) for child in children)
