"""Read a bundle's configuration without running anything it says.

References (``"@name"``, ``"@name#key"``) are followed here. An expression (``"$..."``) is only accepted where it is
a reference, plain arithmetic on numbers, or a choice between such; anything else is refused, unless the user trusts
exactly this bundle.
"""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from napari_medseg.case import InputError, RefusedError

Evaluate = Callable[[str], Any]
CONFIG_SUFFIXES = (".json", ".yaml", ".yml")

_REFERENCE = re.compile(r"@[A-Za-z_]\w*(?:(?:#|::)\w+)*")
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_LARGEST = 10_000
_MOST_VALUES = 100_000
_LONGEST_TEXT = 100_000
_DEEPEST = 100


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """Read ``configs/<name>.json`` (or ``.yaml``) of a bundle.

    Raises
    ------
    InputError
        The file is missing or is no mapping.
    RefusedError
        It grows beyond any size that a model needs, as YAML's references to earlier parts can make it.
    """
    for suffix in CONFIG_SUFFIXES:
        path = folder / "configs" / f"{name}{suffix}"
        if path.is_file():
            return _parse(path, folder)
    raise InputError(f"{folder.name} has no configs/{name}.json, so it is not a MONAI bundle that can be run")


def _parse(path: Path, folder: Path) -> dict[str, Any]:
    inside(folder, path.relative_to(folder))
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        first = " ".join(str(error).split())
        raise InputError(f"{folder.name}: {path.name} cannot be read: {first}") from error
    if not isinstance(content, dict):
        raise InputError(f"{folder.name}: {path.name} holds a {type(content).__name__}; a mapping is expected")
    _size(content, f"{folder.name}: {path.name}")
    return content


def inside(folder: Path, relative: str | Path) -> Path:
    """Return `relative` below `folder`, refusing whatever leads out of it."""
    target = (folder / relative).resolve()
    if Path(relative).is_absolute() or not target.is_relative_to(folder.resolve()):
        raise RefusedError(f"{folder.name} names the file {relative}, which lies outside the bundle")
    return target


class Config:
    """A bundle's configuration with its references followed.

    Parameters
    ----------
    content
        The parsed file.
    name
        The bundle's name, for error sentences.
    evaluate
        Evaluates the expression found under an id such as ``"preprocessing#transforms#0#pixdim"``. Given only for
        bundles that the user trusts; without it expressions beyond arithmetic are refused.
    """

    def __init__(self, content: Mapping[str, Any], name: str, evaluate: Evaluate | None = None) -> None:
        self.content, self.name, self.evaluate = content, name, evaluate
        self._values = 0

    def __contains__(self, section: str) -> bool:
        return section in self.content

    def section(self, section: str) -> Any:
        """Return one top-level section, plain values only.

        Raises
        ------
        RefusedError
            The section holds an expression or a path that is not accepted, or grows without end.
        InputError
            A reference leads nowhere or round in a circle.
        """
        return self.plain(self.part(section), section)

    def part(self, section: str) -> Any:
        """One top-level section with only its own reference followed; nothing inside it is read yet."""
        if section not in self.content:
            raise InputError(f"{self.name}: the configuration has no {section}")
        return self.shallow(self.content[section])[0]

    def shallow(self, value: Any, where: str = "") -> tuple[Any, str]:
        """Follow a value that is a reference, once or more, and return what it refers to and where that is."""
        seen: set[str] = set()
        while isinstance(value, str) and _REFERENCE.fullmatch(value.removeprefix("$").strip()):
            reference = value.removeprefix("$").strip()
            if reference in seen:
                raise InputError(f"{self.name}: the reference {reference} leads back to itself")
            seen.add(reference)
            value, where = self._find(reference)
        return value, where

    def plain(self, value: Any, where: str) -> Any:
        """Replace references and accepted expressions in a part by their values; `where` is the part's id."""
        try:
            return self._plain(value, where, ())
        except RecursionError as error:
            raise RefusedError(f"{self.name}: {where} is nested too deeply to be a model's configuration") from error

    def _plain(self, value: Any, where: str, following: tuple[str, ...]) -> Any:
        self._spend(1, where)
        if isinstance(value, Mapping):
            return {str(k): self._plain(v, f"{where}#{k}", following) for k, v in value.items()}
        if isinstance(value, list):
            return [self._plain(v, f"{where}#{i}", following) for i, v in enumerate(value)]
        if not isinstance(value, str):
            return value
        if value.startswith("$"):
            return self._expression(value[1:].strip(), where, following)
        if value.startswith("%"):
            raise RefusedError(f"{self.name}: {where} pulls in another file ({value}), which is not accepted")
        if value.startswith("@"):
            if not _REFERENCE.fullmatch(value):
                raise InputError(f"{self.name}: {where} has the reference {value!r}, which cannot be read")
            return self._follow(value, following)
        return self._inside(value, where)

    def _follow(self, reference: str, following: tuple[str, ...]) -> Any:
        if reference in following:
            raise InputError(f"{self.name}: the reference {reference} leads back to itself")
        value, where = self._find(reference)
        return self._plain(value, where, (*following, reference))

    def _find(self, reference: str) -> tuple[Any, str]:
        keys = re.split(r"#|::", reference[1:])
        value: Any = self.content
        for key in keys:
            try:
                value = value[int(key)] if isinstance(value, list) else value[key]
            except (KeyError, IndexError, ValueError, TypeError) as error:
                raise InputError(f"{self.name}: the reference {reference} leads nowhere") from error
        return value, "#".join(keys)

    def _expression(self, text: str, where: str, following: tuple[str, ...]) -> Any:
        names: dict[str, Any] = {}

        def stand_in(match: re.Match[str]) -> str:
            name = f"reference_{len(names)}"
            names[name] = match.group()
            return name

        try:
            tree = ast.parse(_REFERENCE.sub(stand_in, text), mode="eval").body
            accepted = _is_arithmetic(tree, names)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            accepted = False
        if accepted:
            followed = {name: self._follow(reference, following) for name, reference in names.items()}
            found = _arithmetic(tree, followed, f"{self.name}: {where}")
            self._spend(_size(found, f"{self.name}: {where}"), where)
            return self._inside(found, where)
        if self.evaluate is not None:
            return self.evaluate(where)
        raise RefusedError(
            f"{self.name}: {where} would run Python code ({_short(text)}); it is used only if you trust this bundle"
        )

    def _spend(self, values: int, where: str) -> None:
        self._values += values
        if self._values > _MOST_VALUES:
            raise RefusedError(_too_large(f"{self.name}: {where}"))

    def _inside(self, value: Any, where: str) -> Any:
        if isinstance(value, str) and ".." in re.split(r"[/\\]", value):
            raise RefusedError(f"{self.name}: {where} leads out of the bundle ({value})")
        return value


def _size(value: Any, where: str) -> int:
    """Count the values in a part, a repeated one each time; a long text counts for more than one."""
    count, left = 0, [(value, 0)]
    while left:
        item, depth = left.pop()
        count += 1
        if isinstance(item, str):
            if len(item) > _LONGEST_TEXT:
                raise RefusedError(f"{where} holds a text of more than {_LONGEST_TEXT} characters")
            count += len(item) // 1000
        elif isinstance(item, Mapping | list):
            if depth > _DEEPEST:
                raise RefusedError(f"{where} is nested too deeply to be a model's configuration")
            inner = item.values() if isinstance(item, Mapping) else item
            left.extend((v, depth + 1) for v in inner)
        if count + len(left) > _MOST_VALUES:
            raise RefusedError(_too_large(where))
    return count


def _too_large(where: str) -> str:
    return f"{where} grows to more than {_MOST_VALUES} values, which no model's configuration needs"


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _is_arithmetic(tree: ast.AST, names: Mapping[str, Any]) -> bool:
    if isinstance(tree, ast.Constant):
        return tree.value is None or isinstance(tree.value, int | float | str)
    if isinstance(tree, ast.Name):
        return tree.id in names
    if isinstance(tree, ast.List | ast.Tuple):
        return all(_is_arithmetic(e, names) for e in tree.elts)
    if isinstance(tree, ast.UnaryOp):
        return type(tree.op) in _OPERATORS and _is_arithmetic(tree.operand, names)
    if isinstance(tree, ast.BinOp):
        known = type(tree.op) in _OPERATORS
        return known and _is_arithmetic(tree.left, names) and _is_arithmetic(tree.right, names)
    if isinstance(tree, ast.IfExp):
        return all(_is_arithmetic(part, names) for part in (tree.test, tree.body, tree.orelse))
    return False


def _arithmetic(tree: ast.AST, names: Mapping[str, Any], where: str) -> Any:
    if isinstance(tree, ast.Constant):
        return tree.value
    if isinstance(tree, ast.Name):
        return names[tree.id]
    if isinstance(tree, ast.List | ast.Tuple):
        return [_arithmetic(e, names, where) for e in tree.elts]
    if isinstance(tree, ast.UnaryOp):
        return _number(_OPERATORS[type(tree.op)], where, _arithmetic(tree.operand, names, where))
    if isinstance(tree, ast.IfExp):
        chosen = tree.body if _arithmetic(tree.test, names, where) else tree.orelse
        return _arithmetic(chosen, names, where)
    assert isinstance(tree, ast.BinOp)
    left, right = _arithmetic(tree.left, names, where), _arithmetic(tree.right, names, where)
    return _number(_OPERATORS[type(tree.op)], where, left, right)


def _number(operation: Callable[..., Any], where: str, *operands: Any) -> Any:
    """Do sums with numbers, join texts, and repeat or join short lists; nothing that could grow without end."""
    if operation is operator.add and all(isinstance(o, str) for o in operands):
        if len(operands[0]) + len(operands[1]) > _LONGEST_TEXT:
            raise RefusedError(f"{where} grows to a text of more than {_LONGEST_TEXT} characters")
        return operands[0] + operands[1]
    lists = [o for o in operands if isinstance(o, list)]
    counts = [o for o in operands if isinstance(o, int)]
    longest = max([len(o) for o in lists], default=0)
    grows = bool(lists) and longest * max(counts, default=1) > _LARGEST
    plain = all(isinstance(o, int | float | list) for o in operands)
    if not plain or grows or any(abs(c) > 1e15 for c in counts):
        raise InputError(f"{where} has an expression that is no arithmetic on numbers")
    try:
        return operation(*operands)
    except (TypeError, ZeroDivisionError, OverflowError) as error:
        raise InputError(f"{where} has an expression that cannot be worked out: {error}") from error


def monai_evaluator(content: Mapping[str, Any], metadata: Mapping[str, Any], folder: Path) -> Evaluate:
    """Return MONAI's own evaluation of expressions, for a bundle that the user trusts."""
    import copy

    from monai.bundle import ConfigParser

    # MONAI warns that this may run code; the user has just agreed to exactly that
    parser = ConfigParser(copy.deepcopy(dict(content)))
    parser.read_meta(dict(metadata))
    parser["bundle_root"] = str(folder)
    return lambda where: parser.get_parsed_content(where.replace("#", "::"))
