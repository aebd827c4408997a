"""Small DICOM files made for the tests: the geometry is chosen by the test, in LPS, as the standard counts it."""

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
AXIAL = (1, 0, 0, 0, 1, 0)
SECRET = "Quixotria"


def dataset(pixels, kind=CT, modality="CT", **values):
    """An image; ``pixels`` has the axes (frame,) y, x (, c)."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    data.Modality = modality
    data.PatientName, data.PatientID = f"{SECRET}^Jane", "ZZ-9912"
    data.SeriesNumber = 3
    data.SeriesInstanceUID = "1.2.3.4"
    colour = pixels.ndim >= 3 and pixels.shape[-1] == 3
    shape = pixels.shape[:-1] if colour else pixels.shape
    data.Rows, data.Columns = shape[-2:]
    if len(shape) == 3:
        data.NumberOfFrames = shape[0]
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    for name, value in values.items():
        if value is None:
            if name in data:
                delattr(data, name)
        else:
            setattr(data, name, value)
    return data


def save(data, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def sequence(**values):
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return Sequence([item])


def volume(count=5, rows=6, columns=8, dtype=np.int16):
    """Numbers that say where they are: 100 z + 10 y + x, so that every swap shows."""
    z, y, x = np.mgrid[:count, :rows, :columns]
    return (100 * z + 10 * y + x).astype(dtype)


def write_series(
    folder, pixels, orientation=AXIAL, spacing=(0.75, 0.5), step=2.5, origin=(-10.0, 20.0, 30.0), heights=None,
    shear=(0, 0, 0), shuffle=True, prefix="f", **values,
):  # fmt: skip
    """One file a slice, in an order of files and numbers that has nothing to do with place."""
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    normal = np.cross(row, column)
    heights = [step * k for k in range(len(pixels))] if heights is None else heights
    order = np.random.default_rng(5).permutation(len(pixels)) if shuffle else np.arange(len(pixels))
    extra = {k: v for k, v in values.items() if not callable(v)}
    changing = {k: v for k, v in values.items() if callable(v)}
    for number, k in enumerate(order):
        position = np.array(origin) + heights[k] * normal + k * np.array(shear)
        fields = {
            "ImagePositionPatient": [round(float(v), 6) for v in position],
            "ImageOrientationPatient": [round(float(v), 8) for v in orientation],
            "PixelSpacing": list(spacing),
            "SliceThickness": 9.0,
            "InstanceNumber": number + 1,
            "RescaleSlope": 1,
            "RescaleIntercept": -1024,
        }
        data = dataset(pixels[k], **(fields | extra | {name: call(int(k)) for name, call in changing.items()}))
        save(data, folder / f"{prefix}{number:03d}.dcm")
    return folder


def enhanced(pixels, heights, orientation=AXIAL, spacing=(0.75, 0.5), origin=(-10.0, 20.0, 30.0), **values):
    """A multi-frame file whose frames come in any order."""
    data = dataset(pixels, ENHANCED_MR, "MR", **values)
    shared = Dataset()
    shared.PixelMeasuresSequence = sequence(PixelSpacing=list(spacing), SliceThickness=9.0)
    shared.PlaneOrientationSequence = sequence(ImageOrientationPatient=list(orientation))
    shared.PixelValueTransformationSequence = sequence(RescaleSlope=2, RescaleIntercept=-5, RescaleType="US")
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    normal = np.cross(orientation[:3], orientation[3:])
    frames = []
    for k, height in enumerate(heights):
        frame = Dataset()
        frame.PlanePositionSequence = sequence(
            ImagePositionPatient=[float(v) for v in np.array(origin) + height * normal]
        )
        frame.FrameContentSequence = sequence(InStackPositionNumber=k + 1)
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return data
