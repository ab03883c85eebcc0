"""The names in tfdml's registries, available without importing TensorFlow. A test compares them with the registries."""

from __future__ import annotations

import importlib

KINDS = {
    "losses": (
        "angular", "arc_face", "bell_bala", "c1", "c2", "circle", "contrastive", "cos_face", "fast_ap",
        "generalized_lifted_structure", "hadsell", "in_batch_negatives", "info_nce", "lifted_structure",
        "margin", "multi_similarity", "n_pairs", "normalized_softmax", "nt_xent", "pair_contrastive",
        "proxy_anchor", "proxy_nca", "proxy_nca_plus_plus", "proxy_proxy", "proxy_proxy_through_batch",
        "ranked_list", "soft_triple", "supervised_contrastive", "triplet", "triplet_all", "triplet_hard",
        "triplet_soft",
    ),
    "miners": (
        "distance_weighted", "hard", "hard_negative", "multi_similarity", "semi_hard",
    ),
    "poolings": (
        "cbam", "crow", "delf", "gap", "gap_gmp", "generalized_max", "generalized_mean", "gmp", "gsop", "gsp",
        "gsp_gem", "gsp_gmp", "netvlad", "netvlad_64x128", "netvlad_8x16", "optimal_transport",
        "optimal_transport_64x128", "optimal_transport_8x16", "smk", "solar", "weldon",
    ),
    "backbones": (
        "bn_inception", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "googlenet", "resnet20",
        "resnet20v2", "resnet50",
    ),
    "relations": ("overlap", "pairs", "same_class", "within"),
    "datasets": (
        "cars196", "cifar10", "cifar100", "cifar_collage", "collage", "csv", "cub", "digits", "emoji",
        "fashion_mnist", "features", "folder", "glyphs", "in_shop", "mnist", "sop",
    ),
}

# Presets of KerasHub are checked when they are loaded.
_PRESETS = "keras_hub:"
_MODULES = {"poolings": "layers.pooling", "datasets": "data"}


def registered(kind: str) -> list[str]:
    """Return the names in a registry, including those that a user has registered. Imports TensorFlow."""
    return importlib.import_module(f"tfdml.{_MODULES.get(kind, kind)}").names()


def is_known(kind: str, name: str) -> bool:
    """Return whether a name is in a registry. Imports TensorFlow only for names that are not part of the package."""
    if name in KINDS[kind]:
        return True
    first, _, rest = name.partition("+")
    if kind == "poolings" and first == "cls":
        # The class token of a vision transformer, alone or with a pooling.
        return name == "cls" or is_known(kind, rest)
    if kind == "backbones" and name.lower().startswith(_PRESETS) and len(name) > len(_PRESETS):
        return True
    if name in registered(kind):
        return True
    return kind == "backbones" and importlib.import_module("tfdml.backbones").is_known(name)


def candidates(kind: str, name: str) -> list[str]:
    """Return the names among which an unknown one should be."""
    return importlib.import_module("tfdml.backbones").names_like(name) if kind == "backbones" else registered(kind)
