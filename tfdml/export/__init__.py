"""Export embedders to files that other programs can serve."""

from tfdml.export.dual_encoder import SavedDualEncoder, export_dual_encoder, load_dual_encoder
from tfdml.export.portable import ExportReport, export_onnx, export_tflite
from tfdml.export.saved_model import SavedEmbedder, export_saved_model, is_own_saved_model, load_saved_model

__all__ = [
    "ExportReport",
    "SavedDualEncoder",
    "SavedEmbedder",
    "export_dual_encoder",
    "export_onnx",
    "export_saved_model",
    "export_tflite",
    "is_own_saved_model",
    "load_dual_encoder",
    "load_saved_model",
]
