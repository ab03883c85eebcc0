"""Export embedders to files that other programs can serve."""

from tfdml.export.saved_model import SavedEmbedder, export_saved_model, is_own_saved_model, load_saved_model

__all__ = ["SavedEmbedder", "export_saved_model", "is_own_saved_model", "load_saved_model"]
