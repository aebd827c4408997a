"""Label names in the header extensions of a NIfTI file: our own record, and Caret's label table."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Any

from napari_medseg.case import Label
from napari_medseg.io.label_volumes import RECORD_KEY, parse_record

COMMENT = 6
_CARET = (0, 30)

_CARET_LABEL = re.compile(r"<Label\b([^>]*)>(?:\s*<!\[CDATA\[(.*?)\]\]>|([^<]*))", re.DOTALL)
_ATTRIBUTE = re.compile(r'(\w+)\s*=\s*"([^"]*)"')


def record_and_names(extensions: Iterable[Any]) -> tuple[dict[str, Any] | None, dict[int, Label]]:
    """Our own record, and the names of a Caret label table (as Connectome Workbench and TotalSegmentator write)."""
    record: dict[str, Any] | None = None
    names: dict[int, Label] = {}
    for extension in extensions:
        code = int(extension.get_code())
        if code != COMMENT and code not in _CARET:
            continue
        content = extension.get_content()
        text = content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)
        text = text.rstrip("\0")
        if code == COMMENT and text.startswith(f"{RECORD_KEY}:"):
            record = parse_record(text.removeprefix(f"{RECORD_KEY}:").rstrip())
        elif code in _CARET:
            names |= _caret_names(text)
    return record, names


def _caret_names(text: str) -> dict[int, Label]:
    names: dict[int, Label] = {}
    for attributes, quoted, plain in _CARET_LABEL.findall(text):
        values = dict(_ATTRIBUTE.findall(attributes))
        name = (quoted or html.unescape(plain)).strip()
        if not values.get("Key", "").isdigit() or int(values["Key"]) == 0 or not name:
            continue
        try:
            red, green, blue = (round(255 * min(1.0, max(0.0, float(values[k])))) for k in ("Red", "Green", "Blue"))
            names[int(values["Key"])] = Label(int(values["Key"]), name, (red, green, blue))
        except (KeyError, ValueError):
            names[int(values["Key"])] = Label(int(values["Key"]), name)
    return names
