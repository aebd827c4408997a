"""Values as JSON gives them back, holding nothing that MONAI would take for code, a reference or a class."""

from __future__ import annotations

import json
import re
from typing import Any

from napari_medseg.case import InputError, RefusedError

# what MONAI evaluates, follows or includes: at the beginning of a text, or as a relative reference anywhere in it
_ACTED_ON = re.compile(r"[$@%]|.*[@%](?:#|::)", re.DOTALL)


def plain_values(value: Any, where: str, *, classes: bool = False) -> Any:
    """The value as JSON gives it back.

    Parameters
    ----------
    value, where
        The value, and what it is called in sentences.
    classes
        Whether it may name classes (``_target_``).

    Raises
    ------
    InputError
        It is not made of texts, finite numbers, lists and mappings.
    RefusedError
        MONAI would act on a part of it.
    """
    value = json.loads(json_text(value, where))
    left = [(value, where)]
    while left:
        item, place = left.pop()
        if isinstance(item, str) and _ACTED_ON.match(item):
            raise RefusedError(f"{place} is {item[:60]!r}, which MONAI would act on; use no $, @ or % in this place.")
        if isinstance(item, dict):
            odd = [k for k in item if k.startswith("_") and not (classes and k == "_target_")]
            if odd:
                raise RefusedError(f"{place} has the key {odd[0]}, which MONAI would act on; choose another.")
            left.extend((v, f"{place}#{k}") for k, v in item.items())
        elif isinstance(item, list):
            left.extend((v, f"{place}#{i}") for i, v in enumerate(item))
    return value


def json_text(content: Any, where: str) -> str:
    """JSON as it is written to a file; `InputError` where the content, called `where`, cannot be kept."""
    try:
        text = json.dumps(content, indent=4, ensure_ascii=False, allow_nan=False) + "\n"
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where} is not made of plain texts, finite numbers, lists and mappings: {error}.") from error
    return text
