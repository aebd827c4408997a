"""Look for plainly hostile content anywhere in a configuration, also in parts that are never used here.

Nothing in those parts is run by this package. A bundle that holds such content is refused all the same, because the
next program that opens it may run it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from napari_medseg.case import RefusedError

_HOSTILE_CALLS = re.compile(
    r"__\w+__|(?<![.\w])(?:eval|exec|compile|execfile|globals|getattr|breakpoint|input)\s*\("
    r"|\b(?:os|posix)\s*\.\s*(?:system|popen|exec\w*|spawn\w*|fork\w*|kill\w*|remove\w*|unlink|rmdir|rename\w*|replace"
    r"|chmod|chown|symlink|link|putenv|environ)\b"
    r"|\b(?:subprocess|pty|ctypes|socket|importlib|runpy|pickle|marshal|shelve|webbrowser|urllib|requests|builtins"
    r"|multiprocessing|code|pdb)\b\s*\.|\bshutil\s*\.\s*(?:rmtree|move|copy\w*|chown)\b"
    r"|\.\s*(?:unlink|rmdir|rmtree|write_text|write_bytes)\s*\("
    r"|\bopen\s*\([^)]*,\s*(?:mode\s*=\s*)?['\"][rbt]*[wax+]"
)
_HOSTILE_IMPORT = re.compile(
    r"^\s*(?:import|from)\s+(?:subprocess|pty|ctypes|socket|importlib|runpy|pickle|marshal|shelve|webbrowser|urllib"
    r"|requests|builtins|multiprocessing|code|pdb)\b"
)
_HOSTILE_TARGET = re.compile(
    r"(?:os|posix|nt|sys|subprocess|pty|shutil|ctypes|socket|importlib|runpy|pickle|marshal|builtins|code|pdb|pydoc"
    r"|multiprocessing|webbrowser|urllib|requests)(?:\.\w+)+|eval|exec|compile|open|__import__|\w*__\w+__.*"
)


def refuse_hostile(content: Mapping[str, Any], name: str) -> None:
    """Refuse a configuration with calls that start programs, touch files or load code, or with ``..`` in a path.

    Raises
    ------
    RefusedError
        Naming the entry.
    """
    for where, key, value in _strings(content, ""):
        if key == "_target_" and _HOSTILE_TARGET.fullmatch(value.strip()):
            raise RefusedError(f"{name}: {where} asks for {value}, which is not accepted in a model's configuration")
        if value.startswith("$"):
            text = value[1:]
            found = _HOSTILE_CALLS.search(text) or _HOSTILE_IMPORT.search(text)
            if found:
                raise RefusedError(
                    f"{name}: {where} would run {found.group().strip()!r}, "
                    "which is not accepted in a model's configuration; it is used only if you trust this bundle"
                )
        if ".." in re.split(r"[/\\'\"\s]", value) and key not in ("description", "_desc_"):
            raise RefusedError(f"{name}: {where} leads out of the bundle ({value})")


def _strings(value: Any, where: str, key: str = "") -> Iterator[tuple[str, str, str]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _strings(item, f"{where}#{name}" if where else str(name), str(name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _strings(item, f"{where}#{number}", key)
    elif isinstance(value, str):
        yield where, key, value
