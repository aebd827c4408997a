"""Small slides and clips made for the tests."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import tifffile

FRAMES, HEIGHT, WIDTH = 61, 64, 96


def picture(number: int) -> np.ndarray:
    """A frame that shows its number: seven bits as black and white blocks of 16 pixels below a grey top."""
    array = np.full((HEIGHT, WIDTH, 3), 128, "u1")
    for bit in range(6):
        array[32:, bit * 16 : bit * 16 + 16] = 255 if number >> bit & 1 else 0
    return array


def number_of(array: np.ndarray) -> int:
    return sum(int(array[48, bit * 16 + 8].mean() > 128) << bit for bit in range(6))


def clip(path, codec="libx264", times=None, frames=FRAMES, **options):
    container = av.open(str(path), "w", options=options.pop("container", {}))
    stream = container.add_stream(codec, rate=25, options=options)
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, options.get("pix_fmt", "yuv420p")
    stream.codec_context.gop_size = 12
    if codec in ("libx264", "mpeg4"):
        stream.codec_context.max_b_frames = 2
    stream.codec_context.time_base = Fraction(1, 1000) if times else Fraction(1, 25)
    for k in range(frames):
        frame = av.VideoFrame.from_ndarray(picture(k), format="rgb24")
        frame.pts, frame.time_base = (times[k], Fraction(1, 1000)) if times else (k, Fraction(1, 25))
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
    container.close()


def smooth(height: int, width: int) -> np.ndarray:
    """Colours that JPEG keeps within a few steps."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 200 // width, y * 200 // height, (x + y) * 100 // (height + width)], -1).astype("u1")


def aperio(path: Path, mpp: str | None = "0.499", label: bool = False) -> np.ndarray:
    """A small pyramid that looks like an Aperio slide."""
    array = smooth(1100, 1500)
    text = "Aperio Image Library v11\n1500x1100 (256x256) JPEG/RGB Q=90|AppMag = 20"
    text += f"|MPP = {mpp}" if mpp else ""
    options = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg", "metadata": None}
    options["compressionargs"] = {"level": 95}
    with tifffile.TiffWriter(path) as writer:
        writer.write(array, description=text, **options)
        writer.write(array[::4, ::4], photometric="rgb", compression="jpeg", rowsperstrip=16, metadata=None)
        writer.write(np.ascontiguousarray(array[::4, ::4]), description=text, subfiletype=0, **options)
        if label:
            writer.write(
                smooth(64, 96),
                description="Aperio Image Library v11\nlabel 96x64",
                subfiletype=1,
                photometric="rgb",
                compression="lzw",
                rowsperstrip=64,
                metadata=None,
            )
    return array
