"""Endoscopy and other video as lazy frames, each reached exactly."""

from napari_medseg.io.video.frames import VideoFrames, read

__all__ = ["VideoFrames", "read"]
