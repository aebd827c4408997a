"""Compressed DICOM frames, through decoders that answer damage with an error.

pydicom would ask GDCM first. GDCM ends the whole process on some damaged JPEG files, and the window with it; so each
compression has its own decoder here, and imagecodecs stands in where that one does not know the variant.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from napari_medseg.io.dicom.header import DEFLATED, damage, number, pixel_element, text
from napari_medseg.io.lazy import AnyArray

_JPEG, _EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_HIGH_THROUGHPUT = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203")
_PLUGINS = {
    "1.2.840.10008.1.2.5": "pydicom",
    _JPEG: "pillow",
    _EXTENDED: "pillow",
    **dict.fromkeys(_JPEG_LS, "pyjpegls"),
    **dict.fromkeys(_JPEG_2000, "pillow"),
}
_STAND_INS = {
    _EXTENDED: "jpeg_decode",
    **dict.fromkeys(_LOSSLESS, "jpegsof3_decode"),
    **dict.fromkeys(_JPEG_LS, "jpegls_decode"),
    **dict.fromkeys(_JPEG_2000, "jpeg2k_decode"),
    **dict.fromkeys(_HIGH_THROUGHPUT, "jpeg2k_decode"),
}
_FAMILIES = {
    "JPEG": (_JPEG, _EXTENDED),
    "JPEG Lossless": _LOSSLESS,
    "JPEG-LS": _JPEG_LS,
    "JPEG 2000": (*_JPEG_2000, *_HIGH_THROUGHPUT),
    "RLE": ("1.2.840.10008.1.2.5",),
}


def readable() -> dict[str, bool]:
    """The families of compression, and whether what decodes them is installed whole."""
    import imagecodecs
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    def there(syntax: str) -> bool:
        plugin, stand_in = _PLUGINS.get(syntax), _STAND_INS.get(syntax)
        if plugin and plugin not in get_decoder(UID(syntax)).available_plugins:
            return False
        # "jpeg2k_decode" belongs to the codec JPEG2K
        return not stand_in or bool(getattr(imagecodecs, stand_in.removesuffix("_decode").upper()).available)

    return {name: all(there(syntax) for syntax in syntaxes) for name, syntaxes in _FAMILIES.items()}


def decoded_frame(path: Path, frame: int, transfer_syntax: str) -> AnyArray:
    """The numbers of one frame, ``(y, x)`` or ``(y, x, c)``; colours as RGB where the header says how they are coded.

    Raises
    ------
    Exception
        One of `napari_medseg.io.dicom.header.damage`, or ``RuntimeError``.
    """
    from pydicom.pixels import pixel_array
    from pydicom.uid import UID

    if not UID(transfer_syntax).is_compressed:
        plain: AnyArray = pixel_array(path, index=frame, transfer_syntax_uid=transfer_syntax)
        return plain
    plugin = _PLUGINS.get(transfer_syntax)
    if plugin:
        try:
            found: AnyArray = pixel_array(
                path, index=frame, transfer_syntax_uid=transfer_syntax, decoding_plugin=plugin
            )
        except (RuntimeError, *damage()):
            if transfer_syntax not in _STAND_INS:
                raise
        else:
            return found
    if transfer_syntax not in _STAND_INS:
        raise NotImplementedError(f"the compression {UID(transfer_syntax).name}")
    return _by_imagecodecs(path, frame, transfer_syntax)


def decoded_frames(path: Path, count: int, transfer_syntax: str) -> Iterator[AnyArray]:
    """The numbers of all frames in their order; raises as `decoded_frame` does."""
    from pydicom import dcmread
    from pydicom.pixels import iter_pixels
    from pydicom.uid import UID

    if transfer_syntax == DEFLATED:
        yield from iter_pixels(dcmread(path, force=True))
    elif UID(transfer_syntax).is_compressed:
        yield from (decoded_frame(path, k, transfer_syntax) for k in range(count))
    else:
        yield from iter_pixels(path)


def _by_imagecodecs(path: Path, frame: int, transfer_syntax: str) -> AnyArray:
    import imagecodecs
    from pydicom import dcmread
    from pydicom.encaps import get_frame
    from pydicom.pixels import convert_color_space

    with path.open("rb") as stream:
        header = dcmread(stream, stop_before_pixels=True, force=True)
        pixel_element(stream, *header.original_encoding)
        offsets = header.get("ExtendedOffsetTable"), header.get("ExtendedOffsetTableLengths")
        encoded = get_frame(
            stream,
            frame,
            number_of_frames=int(number(header, "NumberOfFrames") or 1),
            extended_offsets=offsets if all(offsets) else None,
        )
    pixels: AnyArray = getattr(imagecodecs, _STAND_INS[transfer_syntax])(encoded)
    if transfer_syntax in _LOSSLESS and text(header, "PhotometricInterpretation").startswith("YBR_FULL"):
        pixels = convert_color_space(pixels, "YBR_FULL", "RGB")
    return _signed(pixels, header) if number(header, "PixelRepresentation") == 1 else pixels


def _signed(pixels: AnyArray, header: Any) -> AnyArray:
    """Two's complement of the stored bits: the decoder does not know that they have a sign."""
    if pixels.dtype.kind == "i":
        return pixels
    unused = pixels.dtype.itemsize * 8 - int(number(header, "BitsStored") or pixels.dtype.itemsize * 8)
    return np.asarray((pixels << unused).view(pixels.dtype.str.replace("u", "i")) >> unused)
