"""From a recipe to the objects that train: data, embedder, loss, model, optimizer."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfdml import backbones, data, losses, miners, relations
from tfdml._utils.input_errors import input_errors
from tfdml._utils.naming import unknown_name
from tfdml._utils.typed_values import replace
from tfdml._utils.types import Part
from tfdml.callbacks import AlternatingProjections, PrototypeWarmup
from tfdml.data.batches import annotations_of, balanced_share, evaluation_share, related_share
from tfdml.data.related_sampler import RelatedSampler
from tfdml.data.sampler import sampler_of, without_small_classes
from tfdml.data.splits import split_samples
from tfdml.experiments.errors import RecipeError, recipe_errors
from tfdml.experiments.recipe import DataConfig, Recipe
from tfdml.layers import AttributeRegression, ClassProxies, CrossBatchMemory, CrossBatchPrototypes, ZeroShotPrediction
from tfdml.layers import pooling as poolings
from tfdml.layers.pooling import GeneralizedSumPooling, PrototypePooling
from tfdml.losses.addons import addons_loss
from tfdml.metrics.related import RelatedPairs
from tfdml.models import (
    CCPModel,
    CutMix,
    LinearDecay,
    MetricModel,
    Mixup,
    ParameterGroup,
    adapt_pooling,
    build_embedder,
    build_head,
    calibrate_batch_norm,
    freeze_layers,
    layer_decay_groups,
)
from tfdml.models.checkpointing import checkpointed
from tfdml.models.parameter_groups import leaf_layers
from tfdml.ops.rankings import BLOCK_BYTES

# Number of training images whose local features suffice to choose the initial prototypes.
_IMAGES_FOR_PROTOTYPES = 512
_BATCHES_FOR_BATCH_NORM = 30


class ExperimentData(NamedTuple):
    """The data of a run.

    Attributes:
        train: `LabeledImages` or `LabeledFeatures`.
        validation: The same, with other classes.
        test: The same, with other classes than `train`; it can be equal to `validation`.
        preprocessing: Brings the images into the shape of the network. None for features.
    """

    train: data.LabeledSamples
    validation: data.LabeledSamples
    test: data.LabeledSamples
    preprocessing: data.Preprocessing | None


def load_data(recipe: Recipe) -> ExperimentData:
    """Load the dataset, split its classes and create the preprocessing.

    Classes that `batches.small_classes='skip'` leaves out are not part of the training data, so they have no proxies.
    """
    dataset = data.load(recipe.data.name, **recipe.data.options)
    if recipe.has_relation:
        with recipe_errors("relation"):
            check_annotations(make_relation(recipe), dataset)
    train, validation, test = split(recipe.data, dataset)
    assert validation is not None and test is not None
    if recipe.batches.small_classes == "skip":
        with input_errors():
            train = without_small_classes(train)
    return ExperimentData(train, validation, test, make_preprocessing(recipe.data, dataset))


def check_annotations(relation: relations.Relation, dataset: data.LabeledSamples) -> None:
    """Raise a ValueError if a relation does not accept the annotations of a dataset."""
    annotations = annotations_of(dataset)
    try:
        relation.encode(annotations)
    except ValueError as error:
        raise ValueError(f"The annotations of {dataset.name!r} do not fit {relation!r}. {error}") from error


def split(config: DataConfig, dataset: data.LabeledSamples) -> data.Splits:
    """Split the classes of a dataset as a recipe's section `data` says; if it has annotations and one class, the
    samples."""
    is_single = dataset.annotations is not None and dataset.num_classes == 1
    return (split_samples if is_single else data.split_classes)(
        dataset,
        validation=config.validation_classes,
        test=config.test_classes,
        seed=config.split_seed,
        fold=config.fold,
        folds=config.folds,
    )


def make_preprocessing(config: DataConfig, dataset: data.LabeledSamples | None = None) -> data.Preprocessing | None:
    """Create the preprocessing of a recipe's section `data`; None for features.

    Args:
        config: The section.
        dataset: Determines size and channels where the section has None.
    """
    if config.name == "features":
        return None
    shape: Any = getattr(dataset, "image_shape", None)
    if shape is None and (config.size is None or config.channels is None):
        raise RecipeError(
            "Images in files can have any shape. "
            f"Received: data.size={config.size}, data.channels={config.channels}. Expected: both of them."
        )
    size, channels = config.image_size or shape[:2], config.channels or shape[2]
    return data.Preprocessing(size=size, channels=channels, short_side=config.short_side)


def complete_recipe(recipe: Recipe, datasets: ExperimentData) -> Recipe:
    """Fill in the shape of the images or the size of the features, if the recipe leaves them to the dataset.

    Raises:
        RecipeError: If the features have another size than the recipe says.
    """
    if datasets.preprocessing is not None:
        return _filled(recipe, datasets.preprocessing.size, datasets.preprocessing.channels, None)
    train: Any = datasets.train
    given, size = recipe.model.head.input_size, train.feature_size
    if given not in (None, size):
        raise RecipeError(
            f"Invalid model.head.input_size. Received: model.head.input_size={given} with features of {size} numbers. "
            f"Expected: {size}, or null."
        )
    return _filled(recipe, None, None, size)


def fill_from(recipe: Recipe, complete: Recipe) -> Recipe:
    """Fill in what the recipe leaves to the dataset from a complete recipe.

    The result equals `complete` exactly if that is what `complete_recipe` makes of the recipe.
    """
    return _filled(recipe, complete.data.size, complete.data.channels, complete.model.head.input_size)


def _filled(recipe, size, channels, input_size):
    values = {
        "data.size": size if recipe.data.size is None else recipe.data.size,
        "data.channels": channels if recipe.data.channels is None else recipe.data.channels,
        "model.head.input_size": input_size if recipe.model.head.input_size is None else recipe.model.head.input_size,
    }
    return replace(recipe, values)


def dry_build(recipe: Recipe) -> None:
    """Create the cheap objects, so that their constructors check the recipe before data is loaded.

    Raises:
        RecipeError: With the recipe's key and the message of the constructor.
    """
    miner, has_gsp = recipe.loss.miner, recipe.has_prototypes
    with recipe_errors("relation.options"):
        make_relation(recipe)
    if miner.name is not None:
        with recipe_errors("loss.miner.options"):
            miners.get(miner.name, **miner.options)
    with recipe_errors("loss.options"):
        make_loss(recipe)
    with recipe_errors("augmentation"):
        make_augmentation(recipe)
    with recipe_errors("references", size="memory_size", warmup_steps="memory_warmup"):
        make_references(recipe, num_classes=1, dim=1)
    with recipe_errors("zero_shot"):
        make_zero_shot(recipe, num_classes=1, dim=1)
    with recipe_errors("cross_batch"):
        make_cross_batch(recipe)
    if recipe.has_head:
        with recipe_errors("model.head", rate="dropout"):
            make_head(_filled(recipe, None, None, input_size=1))
    else:
        with recipe_errors("model.gsp" if has_gsp else "model.pooling_options"):
            make_pooling(recipe)


def check_training_classes(recipe: Recipe, datasets: ExperimentData) -> None:
    """Raise a ValueError if batches of the recipe cannot be drawn from the training classes."""
    batches = recipe.batches
    if recipe.has_relation:
        with recipe_errors("batches", anchors_per_batch="classes", samples_per_anchor="samples_per_class"):
            related_sampler(recipe, datasets.train)
        _check_positives(recipe, datasets)
        return
    sampler_of(
        datasets.train, batches.classes, batches.samples_per_class, recipe.seed, batches.small_classes,
        batches.sampling, batches.superclasses_per_batch,
    )  # fmt: skip


# By dataset, then by the values of the recipe.
_SAMPLERS: weakref.WeakKeyDictionary[data.LabeledSamples, dict[str, RelatedSampler]] = weakref.WeakKeyDictionary()


def related_sampler(recipe: Recipe, train: data.LabeledSamples) -> RelatedSampler:
    """Create the sampler of a recipe with a relation, or return that of an earlier call with the same data.

    It compares all pairs of samples, which takes a minute for 60,000.
    """
    batches, known = recipe.batches, _SAMPLERS.setdefault(train, {})
    values = repr((recipe.relation, batches, recipe.seed))
    if values not in known:
        known[values] = RelatedSampler(
            annotations_of(train), make_relation(recipe), batches.classes, batches.samples_per_class, recipe.seed,
            make_groups(recipe, train),
        )  # fmt: skip
    return known[values]


def _check_positives(recipe, datasets):
    """Raise a RecipeError if no validation or no test image has a positive, so that metrics would be NaN."""
    relation = make_relation(recipe)
    for name, part in (("validation", datasets.validation), ("test", datasets.test)):
        if not RelatedPairs(relation, annotations_of(part), None, BLOCK_BYTES).positives.any():
            raise RecipeError(
                f"No {name} image has a positive, so there is nothing to find. Received: {len(part)} images with "
                f"{relation!r}. Expected: more {name} images (data.{name}_classes), or other relation.options."
            )


def make_relation(recipe: Recipe) -> Any:
    """Create the relation of annotations, or return None for classes.

    Raises:
        RecipeError: If the relation is of classes.
    """
    config = recipe.relation
    if not recipe.has_relation:
        return None
    relation = relations.get(config.name, **config.options)
    if relation.names_classes:
        raise RecipeError(
            f"This relation compares classes. Received: relation.name={config.name!r}. Expected: 'same_class', or a "
            "relation of annotations."
        )
    is_of_numbers = relation.label_dtype == "float64"
    if config.groups is not None and (config.groups == "tags") == is_of_numbers:
        expected = "the side of a grid cell, or null" if is_of_numbers else "'tags' or null"
        raise RecipeError(
            f"The groups do not fit the relation. Received: relation.groups={config.groups!r} with relation.name="
            f"{config.name!r}. Expected: {expected}."
        )
    return relation


def make_groups(recipe: Recipe, train: data.LabeledSamples) -> Any:
    """Return the groups that batches visit equally often, as for `related_batches`."""
    groups = recipe.relation.groups
    if groups is None:
        return None
    return train.annotations != 0 if groups == "tags" else data.position_cells(train.annotations, groups)


def make_augmentation(recipe: Recipe) -> data.Augmentation | None:
    """Create the augmentation, or return None if it changes nothing."""
    config = recipe.augmentation
    return data.Augmentation(**dataclasses.asdict(config)) if config.changes else None


def make_embedder(recipe: Recipe, preprocessing: data.Preprocessing | None) -> keras.Model:
    """Create the embedder of a complete recipe, with random or pretrained weights and frozen layers."""
    is_head = recipe.has_head or preprocessing is None
    embedder = make_head(recipe) if is_head else _make_network(recipe.model, make_pooling(recipe), preprocessing)
    if recipe.model.frozen_layers:
        try:
            freeze_layers(embedder, recipe.model.frozen_layers)
        except ValueError as error:
            raise RecipeError(f"model.frozen_layers: {error}") from error
    return embedder


def _make_network(config, pooling, preprocessing):
    with input_errors():
        backbone = backbones.get(config.backbone, preprocessing.image_shape, **config.backbone_options)
    return build_embedder(
        backbone,
        pooling=_with_class_token(config, pooling),
        embedding_size=config.embedding_size,
        normalization=None if config.normalization == "none" else config.normalization,
        embed_before_pooling=config.embed_before_pooling,
        skip_tokens=config.skip_tokens,
        token_grid=config.token_grid,
    )


def make_head(recipe: Recipe) -> keras.Model:
    """Create the network that embeds features, with random weights."""
    config = recipe.model
    with input_errors():
        return build_head(
            **dataclasses.asdict(config.head),
            embedding_size=config.embedding_size,
            normalization=None if config.normalization == "none" else config.normalization,
        )


def _with_class_token(config, pooling):
    """Return the argument of `build_embedder` for a pooling layer of the patch tokens."""
    if not config.has_class_token:
        return pooling
    return "cls" if pooling is None else ["cls", pooling]


def make_pooling(recipe: Recipe) -> keras.layers.Layer | None:
    """Create the pooling layer, or return None for the class token. With a loss on attributes it returns them."""
    config, gsp, attributes = recipe.model, recipe.model.gsp, recipe.has_attributes
    if not config.patch_pooling:
        return None
    if not config.has_gsp and not attributes:
        with input_errors():
            return poolings.get(config.patch_pooling, name="pooling", **config.pooling_options)
    return poolings.get(
        config.patch_pooling if config.has_gsp else "gsp",
        prototypes=gsp.prototypes,
        # With ratio 1 it is average pooling.
        ratio=gsp.ratio if config.has_gsp else 1.0,
        smoothing=gsp.smoothing,
        solver=gsp.solver,
        return_attributes=attributes,
        channels=config.embedding_size if gsp.project else None,
        kernel_size=gsp.kernel_size,
        name="pooling",
    )


def start_embedder(recipe: Recipe, embedder: keras.Model, datasets: ExperimentData) -> None:
    """Load the weights of another run, or else fit batch statistics and prototypes to the training data."""
    if recipe.model.first_weights is not None:
        load_first_weights(embedder, recipe.model.first_weights)
        return
    # Pretrained convolutions need the statistics that they were trained with.
    if not recipe.model.is_pretrained:
        with _thawed(embedder, recipe.model):
            calibrate_batch_norm(embedder, training_batches(recipe, datasets).take(_BATCHES_FOR_BATCH_NORM))
    if recipe.has_head:
        return
    pooling = embedder.get_layer("pooling")
    # A warm-up replaces the initial prototypes, and the layer itself initializes random ones.
    from_features = not isinstance(pooling, GeneralizedSumPooling) or recipe.model.gsp.start == "k_center"
    if isinstance(pooling, PrototypePooling) and from_features:
        adapt_pooling(embedder, prototype_images(recipe, datasets), seed=recipe.seed)


@contextlib.contextmanager
def _thawed(embedder, config):
    """Make the layers that the recipe freezes trainable for the block, so that their batch statistics can change."""
    is_own = config.backbone_options.get("frozen_batch_norm") == "all"  # Frozen by the backbone itself.
    layers = leaf_layers(embedder)
    frozen = [] if is_own or not config.frozen_layers else freeze_layers(embedder, config.frozen_layers)
    for path in frozen:
        layers[path].trainable = True
    try:
        yield
    finally:
        for path in frozen:
            layers[path].trainable = False


def load_first_weights(embedder: keras.Model, path: str) -> None:
    """Load the weights of another run.

    Raises:
        RecipeError: If there is no such file, or it is from another network.
    """
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise RecipeError(f"There is no file of weights. Received: model.first_weights={path!r}.")
    try:
        embedder.load_weights(str(file))
    except (OSError, ValueError, KeyError) as error:
        raise RecipeError(
            f"These are not weights of this network. Received: model.first_weights={path!r}: {error}"
        ) from error


def prototype_images(recipe: Recipe, datasets: ExperimentData) -> Any:
    """Return the training images from which prototypes are chosen: always the same, equally many per class."""
    per_class = -(-_IMAGES_FOR_PROTOTYPES // datasets.train.num_classes)
    return data.class_pool(datasets.train, per_class, recipe.seed, datasets.preprocessing)(0)


def prototype_warmup(recipe: Recipe, datasets: ExperimentData) -> PrototypeWarmup:
    """Create the callback that chooses the prototypes after a warm-up."""
    gsp, steps = recipe.model.gsp, recipe.warmup_batches
    if gsp.start == "warmup":
        return PrototypeWarmup(prototype_images(recipe, datasets), gsp.warmup_validations, seed=recipe.seed)
    # The batches on which the warm-up trains.
    images = training_batches(recipe, datasets).take(steps)
    return PrototypeWarmup(
        images, steps=steps, pooled=True, max_features=gsp.warmup_samples, seed=recipe.seed
    )


def restore_embedder(recipe: Recipe, weights: pathlib.Path | list[np.ndarray]) -> keras.Model:
    """Create the embedder of a complete recipe with the weights in a file or list of arrays."""
    # The pretrained weights would only be replaced, and their file may be gone.
    options = {name: value for name, value in recipe.model.backbone_options.items() if name != "weights"}
    if recipe.model.backbone.lower().startswith("keras_hub:"):
        options["weights"] = None
    recipe = replace(recipe, {"model.backbone_options": options})
    with precision_policy(recipe.training.precision):
        embedder = make_embedder(recipe, make_preprocessing(recipe.data))
    if isinstance(weights, list):
        embedder.set_weights(weights)
    else:
        embedder.load_weights(weights)
    return embedder


@contextlib.contextmanager
def precision_policy(name: str) -> Iterator[None]:
    """Set the Keras dtype policy for the block."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def make_loss(recipe: Recipe) -> Any:
    """Create the loss with its miner. TensorFlow Addons is imported only for its own losses.

    Raises:
        RecipeError: If the loss does not accept the miner or the references of the recipe.
    """
    name, options, miner = recipe.loss.name, dict(recipe.loss.options), recipe.loss.miner
    is_of_addons = name.startswith("addons.")
    if miner.name is not None:
        if is_of_addons or "miner" in options:
            raise RecipeError(
                f"This loss takes no miner. Received: loss.miner.name={miner.name!r} with loss.name={name!r}, "
                f"loss.options={options}."
            )
        options["miner"] = miners.get(miner.name, **miner.options)
    elif miner.options:
        raise RecipeError(f"Options of a miner need its name. Received: loss.miner.options={miner.options}.")
    loss = None if is_of_addons else losses.get(name, **options)
    if recipe.references.name != "batch" and not hasattr(loss, "against"):
        raise RecipeError(
            f"This loss compares a batch only with itself. Received: loss.name={name!r} with references.name="
            f"{recipe.references.name!r}. Expected: references.name='batch' and ccp.enabled=false, or a loss with a "
            "method against(labels, embeddings, references)."
        )
    if is_of_addons and not recipe.has_relation:
        return addons_loss(name[len("addons.") :], **options)
    if not (is_of_addons or isinstance(loss, losses.MetricLoss)) and name.lower() not in losses.names():
        # Losses of Keras, whose labels are not classes.
        raise RecipeError(str(unknown_name("loss", name, losses.names())))
    if isinstance(loss, (losses.InBatchNegativesLoss, losses.PairContrastiveLoss)):
        raise RecipeError(
            f"This loss needs given pairs, but a recipe's batches consist of single images. Received: loss.name="
            f"{name!r}. Use it in a model of your own."
        )
    if recipe.has_relation and (getattr(loss, "needs_classes", False) or not isinstance(loss, losses.MetricLoss)):
        raise RecipeError(
            f"This loss needs classes, and the relation compares annotations. Received: loss.name={name!r} with "
            f"relation.name={recipe.relation.name!r}. Expected: a loss on pairs, such as 'triplet' or "
            "'multi_similarity'."
        )
    return loss


def make_model(recipe: Recipe, embedder: keras.Model, train: data.LabeledSamples) -> MetricModel:
    """Create and compile the model that trains the embedder on the samples `train`."""
    dim = embedder.output_shape[-1]
    kind, ccp, config = MetricModel, recipe.ccp, recipe.optimizer
    options: dict[str, Any] = {
        "references": make_references(recipe, train.num_classes, dim, train.annotations),
        "in_batch_weight": recipe.references.in_batch_weight,
        "zero_shot": make_zero_shot(recipe, train.num_classes, dim),
        "zero_shot_weight": recipe.zero_shot.weight,
        "cross_batch": make_cross_batch(recipe),
        "cross_batch_weight": recipe.cross_batch.weight,
    }
    if ccp.enabled:
        kind = CCPModel
        options |= {"projection_weight": ccp.projection_weight, "projection_decay": ccp.projection_decay}
        if ccp.refresh == "memory":
            options["recent_size"] = ccp.pool_size * train.num_classes
        if ccp.in_batch_weight is not None:
            options["in_batch_weight"] = ccp.in_batch_weight
    model, loss = kind(embedder, **options), make_loss(recipe)
    steps_per_epoch, multiplier = len(train) / recipe.batches.size, config.proxy_learning_rate_multiplier
    if multiplier != 1 and not recipe.references.has_proxies and getattr(loss, "parameters", None) is None:
        raise RecipeError(
            "Only the network is trained. Received: optimizer.proxy_learning_rate_multiplier="
            f"{multiplier:g} with references.name={recipe.references.name!r}. Expected: proxies, a loss with trainable "
            "parameters, or optimizer.proxy_learning_rate_multiplier=1."
        )
    if recipe.training.gradient_checkpointing:
        try:
            checkpointed(embedder)
        except ValueError as error:
            raise RecipeError(f"training.gradient_checkpointing: {error}") from error
    model.compile(
        optimizer=make_optimizer(recipe, steps_per_epoch),
        loss=loss,
        reference_optimizer=None if multiplier == 1 else make_optimizer(recipe, steps_per_epoch, multiplier),
        weight_decay=config.l2_weight_decay,
        warmup_steps=math.ceil(config.warmup_epochs * steps_per_epoch),
        geometry=recipe.training.geometry,
        parameter_groups=make_parameter_groups(recipe, embedder),
        mixing=make_mixing(recipe),
        gradient_checkpointing=recipe.training.gradient_checkpointing,
        relation=make_relation(recipe),
        jit_compile=recipe.training.jit_compile,
    )
    return model


def make_zero_shot(
    recipe: Recipe, num_classes: int, dim: int
) -> ZeroShotPrediction | AttributeRegression | None:
    """Create the zero-shot prediction loss if it is enabled."""
    config = recipe.zero_shot
    if not config.enabled:
        return None
    size = dim if config.embedding_size is None else config.embedding_size
    if config.regressor == "trained":
        return AttributeRegression(num_classes, recipe.model.gsp.prototypes, size, config.temperature)
    return ZeroShotPrediction(num_classes, size, config.ridge, config.temperature)


def make_mixing(recipe: Recipe) -> Mixup | CutMix | None:
    """Create the mixing of training images if there is one."""
    config, alpha = recipe.mixing, {}
    if config.name == "none":
        return None
    if config.alpha is not None:
        alpha["alpha"] = config.alpha
    kind = Mixup if config.name == "mixup" else CutMix
    return kind(**alpha, probability=config.probability, seed=recipe.seed)


def make_cross_batch(recipe: Recipe) -> CrossBatchPrototypes | None:
    """Create the layer of cross-batch metric learning if it is enabled."""
    return CrossBatchPrototypes(recipe.cross_batch.ridge) if recipe.cross_batch.enabled else None


def make_references(
    recipe: Recipe, num_classes: int, dim: int, annotations: np.ndarray | None = None
) -> list[keras.layers.Layer]:
    """Create the layers with the references for embeddings of size `dim`; none for the batch itself.

    Args:
        recipe: The recipe.
        num_classes: int. Number of classes.
        dim: int. Size of the embeddings.
        annotations: array (n,) or (n, k). What the relation compares, if there is one. Default: None.
    """
    config, layers = recipe.references, []
    if config.has_proxies:
        # Proxies that are embeddings before the normalization are normalized like these.
        is_head = recipe.ccp.enabled and recipe.ccp.k_center_on == "head"
        normalization = recipe.model.normalization if is_head and recipe.model.normalization != "none" else None
        layers.append(ClassProxies(num_classes, config.per_class, embedding_size=dim, normalization=normalization))
    if config.has_memory:
        default = 2 * num_classes * recipe.batches.samples_per_class
        size = default if config.memory_size is None else config.memory_size
        layers.append(CrossBatchMemory(size, dim, config.memory_warmup, **_stored_labels(recipe, annotations)))
    return layers


def _stored_labels(recipe, annotations):
    """The arguments of a memory for the labels of a relation."""
    relation = make_relation(recipe)
    if relation is None or annotations is None:
        return {}
    shape = (annotations.shape[1] if annotations.ndim == 2 else 1,) if relation.label_rank else ()
    return {"label_shape": shape, "label_dtype": relation.label_dtype}


def make_parameter_groups(recipe: Recipe, embedder: keras.Model) -> list[ParameterGroup]:
    """Create the groups of layers with other learning rates; none if all layers have the same."""
    config = recipe.optimizer
    if config.layer_decay is not None:
        with recipe_errors("optimizer", decay="layer_decay"):
            return layer_decay_groups(embedder, config.layer_decay)
    multiplier = config.backbone_learning_rate_multiplier
    return [] if multiplier == 1.0 else [ParameterGroup("backbone", multiplier)]


def make_optimizer(recipe: Recipe, steps_per_epoch: float, multiplier: float = 1.0) -> keras.optimizers.Optimizer:
    """Create the optimizer.

    Args:
        recipe: The recipe.
        steps_per_epoch: float. Number of training images divided by the batch size.
        multiplier: float. Factor of the learning rate. Default: 1.
    """
    config = recipe.optimizer
    learning_rate = multiplier * config.learning_rate
    if config.decay_epochs is not None:
        learning_rate = keras.optimizers.schedules.ExponentialDecay(
            learning_rate, math.ceil(config.decay_epochs * steps_per_epoch), config.decay_factor, staircase=True
        )
    if config.schedule != "constant":
        warmup = config.schedule_warmup_steps
        steps = recipe.training.steps_per_validation * recipe.training.max_validations - warmup
        learning_rate = (
            LinearDecay(learning_rate, steps, warmup) if config.schedule == "linear"
            else keras.optimizers.schedules.CosineDecay(
                0.0 if warmup else learning_rate, steps, warmup_target=learning_rate if warmup else None,
                warmup_steps=warmup,
            )
        )  # fmt: skip
    common = {"learning_rate": learning_rate, "global_clipnorm": config.global_clipnorm}
    if config.name == "sgd":
        return keras.optimizers.SGD(momentum=config.momentum, **common)
    if config.name == "adamw":
        return keras.optimizers.AdamW(beta_2=config.beta_2, weight_decay=config.weight_decay, **common)
    return keras.optimizers.Adam(beta_2=config.beta_2, **common)


def training_batches(
    recipe: Recipe, datasets: ExperimentData, start_batch: int = 0, part: Part | None = None
) -> tf.data.Dataset:
    """Create endless training batches, each determined by its number alone.

    Args:
        recipe: The recipe.
        datasets: The data.
        start_batch: int. Number of the first batch. Default: 0.
        part: (index, count). Share of one worker. Default: None, whole batches.
    """
    if recipe.has_relation:
        return related_share(
            datasets.train,
            related_sampler(recipe, datasets.train),
            datasets.preprocessing,
            make_augmentation(recipe),
            start_batch,
            part,
        )
    return balanced_share(
        datasets.train,
        recipe.batches.classes,
        recipe.batches.samples_per_class,
        recipe.seed,
        datasets.preprocessing,
        augmentation=make_augmentation(recipe),
        small_classes=recipe.batches.small_classes,
        sampling=recipe.batches.sampling,
        superclasses_per_batch=recipe.batches.superclasses_per_batch,
        start_batch=start_batch,
        part=part,
    )


def validation_batches(recipe: Recipe, datasets: ExperimentData, part: Part | None = None) -> tf.data.Dataset:
    """Create the batches of the validation data, or the share of one worker.

    Labels are classes, or the annotations that a relation compares. If the dataset has queries and a gallery, the
    labels are dicts with `"label"` and `"is_query"`.
    """
    validation, size = datasets.validation, recipe.evaluation.batch_size
    part = part or (0, 1)
    batches = evaluation_share(
        validation, size, datasets.preprocessing, part=part, annotations=recipe.has_relation
    )
    if validation.is_query is None:
        return batches
    are_queries = tf.data.Dataset.from_tensor_slices(validation.is_query).batch(size).shard(part[1], part[0])
    return tf.data.Dataset.zip((batches, are_queries)).map(
        lambda batch, is_query: (batch[0], {"label": batch[1], "is_query": is_query})
    )


def alternating_projections(recipe: Recipe, datasets: ExperimentData, monitor: str) -> AlternatingProjections:
    """Create the callback of CCP."""
    config = recipe.ccp
    augmentation = make_augmentation(recipe) if config.augment_pool else None

    def draws_of(size):
        return data.class_pool(
            datasets.train, size, recipe.seed, datasets.preprocessing, augmentation=augmentation
        )

    # A pool needs a sample for each proxy.
    size = max(config.pool_size, recipe.references.per_class)
    whole, part = draws_of(size), draws_of(math.ceil(config.refresh_share * size))
    # The pool of the first problem stays, without the images that later draws replace.
    is_partial = config.refresh == "partial" and config.first_proxies in ("k_center", "origin")
    return AlternatingProjections(
        (lambda draw: part(draw) if draw else whole(draw)) if is_partial else whole,
        pool_size=config.pool_size,
        patience=config.patience if config.reinitialize else None,
        monitor=monitor,
        start_from_epoch=recipe.warmup_validations,
        outer_patience=config.outer_patience,
        max_steps=config.max_steps if config.reinitialize else None,
        max_steps_growth=config.max_steps_growth,
        restore=config.restore,
        given=config.given,
        refresh=config.refresh,
        refresh_share=config.refresh_share,
        first_proxies=config.first_proxies,
        k_center_on=config.k_center_on,
    )
