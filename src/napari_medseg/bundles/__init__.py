"""Find, verify and load MONAI bundles. A bundle becomes a `Model`; nothing it says is run unless the user trusts it."""

from napari_medseg.bundles.checksums import bundle_sha256
from napari_medseg.bundles.find import BundleEntry, list_bundles, user_bundles
from napari_medseg.bundles.load import load_model
from napari_medseg.bundles.model import Model, ModelCard
from napari_medseg.bundles.trust import distrust_bundle, trust_bundle, trusted_bundles

__all__ = [
    "BundleEntry",
    "Model",
    "ModelCard",
    "bundle_sha256",
    "distrust_bundle",
    "list_bundles",
    "load_model",
    "trust_bundle",
    "trusted_bundles",
    "user_bundles",
]
