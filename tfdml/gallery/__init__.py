"""Searchable collections of embeddings that outlive training."""

from tfdml.gallery.gallery import Gallery
from tfdml.gallery.results import SearchResult

__all__ = ["Gallery", "SearchResult"]
