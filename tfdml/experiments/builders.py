"""From a recipe to the things that train: data, embedder, model, optimizer."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
from typing import NamedTuple

import keras
import tensorflow as tf

from tfdml import backbones, data, losses, miners
from tfdml._utils.input_errors import input_errors
from tfdml._utils.naming import unknown_name
from tfdml.callbacks import AlternatingProjections, PrototypeWarmup
from tfdml.data.batches import balanced_share, evaluation_share
from tfdml.experiments.errors import RecipeError, recipe_errors
from tfdml.experiments.recipe import Recipe
from tfdml.layers import ClassProxies, CrossBatchMemory, ZeroShotPrediction
from tfdml.layers import pooling as poolings
from tfdml.layers.pooling import GeneralizedSumPooling, PrototypePooling
from tfdml.losses.addons import addons_loss
from tfdml.models import (
    CCPModel,
    MetricModel,
    adapt_pooling,
    build_embedder,
    build_head,
    calibrate_batch_norm,
)

# So many training images are enough to choose the first prototypes from their local features.
_IMAGES_FOR_PROTOTYPES = 512
_BATCHES_TO_SETTLE = 30


class ExperimentData(NamedTuple):
    """The images of a run.

    Attributes:
        train, validation, test: `LabeledImages` (or `LabeledFeatures`) without a common class; validation and test can
            be the same.
        preprocessing: What brings their images into the network's shape; None for features.
    """

    train: data.LabeledSamples
    validation: data.LabeledSamples
    test: data.LabeledSamples
    preprocessing: data.Preprocessing | None


def load_data(recipe: Recipe) -> ExperimentData:
    """Loads the data set, splits its classes and says how images are preprocessed."""
    config = recipe.data
    dataset = data.load(config.name, **config.options)
    return ExperimentData(*split(config, dataset), make_preprocessing(config, dataset))


def split(config, dataset):
    """The classes of a data set, split as a recipe's `data` section says: `Splits`."""
    return data.split_classes(
        dataset,
        validation=config.validation_classes,
        test=config.test_classes,
        seed=config.split_seed,
        fold=config.fold,
        folds=config.folds,
    )


def make_preprocessing(config, dataset=None):
    """The preprocessing of a recipe's `data` section, what that leaves open from the images; None for features."""
    if config.name == "features":
        return None
    shape = None if dataset is None else dataset.image_shape
    if shape is None and (config.size is None or config.channels is None):
        raise RecipeError(
            "Images in files can have any shape. "
            f"Received: data.size={config.size}, data.channels={config.channels}; expected both to be given."
        )
    size = config.image_size or shape[:2]
    channels = config.channels or shape[2]
    return data.Preprocessing(size=size, channels=channels, short_side=config.short_side)


def complete_recipe(recipe: Recipe, datasets: ExperimentData) -> Recipe:
    """The recipe with the shape of the images, or the size of the features, which it may have left to the data set.

    Raises:
        RecipeError: If its features are of another size.
    """
    if not recipe.has_head:
        return _filled(recipe, datasets.preprocessing.size, datasets.preprocessing.channels, None)
    given, size = recipe.model.head.input_size, datasets.train.feature_size
    if given not in (None, size):
        raise RecipeError(
            f"Received: model.head.input_size={given} with features of {size} numbers; expected the same, or null."
        )
    return _filled(recipe, None, None, size)


def fill_from(recipe: Recipe, complete: Recipe) -> Recipe:
    """The recipe with what it leaves to the data, as `complete_recipe` fills it in, taken from a complete recipe.

    What the recipe gives itself stays: the result equals `complete` exactly if that is a completion of the recipe.
    """
    return _filled(recipe, complete.data.size, complete.data.channels, complete.model.head.input_size)


def _filled(recipe, size, channels, input_size):
    """The recipe with these in the place of what is None."""
    config, head = recipe.data, recipe.model.head
    config = dataclasses.replace(
        config,
        size=size if config.size is None else config.size,
        channels=channels if config.channels is None else config.channels,
    )
    head = dataclasses.replace(head, input_size=input_size if head.input_size is None else head.input_size)
    return dataclasses.replace(recipe, data=config, model=dataclasses.replace(recipe.model, head=head))


def dry_build(recipe: Recipe):
    """Makes what is cheap, so that its constructors check the recipe before data are loaded.

    Raises:
        RecipeError: With the recipe's key and the message of the constructor.
    """
    miner, has_gsp = recipe.loss.miner, recipe.model.has_gsp or recipe.zero_shot.enabled
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
    if not recipe.has_head:
        with recipe_errors("model.gsp" if has_gsp else "model.pooling_options"):
            make_pooling(recipe)
        return
    head = recipe.model.head
    head = dataclasses.replace(head, input_size=1 if head.input_size is None else head.input_size)
    with recipe_errors("model.head", rate="dropout"):
        make_head(dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, head=head)))


def check_training_classes(recipe: Recipe, datasets: ExperimentData):
    """Raises a ValueError if batches of the recipe cannot be drawn from the training classes."""
    batches, train = recipe.batches, datasets.train
    data.BalancedSampler(train.labels, batches.classes, batches.samples_per_class, recipe.seed, train.class_names)


def make_augmentation(recipe: Recipe):
    """The augmentation, or None if it would change nothing."""
    config = recipe.augmentation
    return data.Augmentation(**dataclasses.asdict(config)) if config.changes else None


def make_embedder(recipe: Recipe, preprocessing):
    """The embedder of a complete recipe, with its first random weights."""
    config = recipe.model
    if recipe.has_head:
        return make_head(recipe)
    with input_errors():
        backbone = backbones.get(config.backbone, preprocessing.image_shape, **config.backbone_options)
    return build_embedder(
        backbone,
        pooling=make_pooling(recipe),
        embedding_size=config.embedding_size,
        normalization=None if config.normalization == "none" else config.normalization,
        embed_before_pooling=config.embed_before_pooling,
    )


def make_head(recipe: Recipe):
    """What embeds features, with its first random weights."""
    config = recipe.model
    with input_errors():
        return build_head(
            **dataclasses.asdict(config.head),
            embedding_size=config.embedding_size,
            normalization=None if config.normalization == "none" else config.normalization,
        )


def make_pooling(recipe: Recipe):
    """The pooling layer; with a zero-shot loss it gives attributes, too."""
    config, gsp, attributes = recipe.model, recipe.model.gsp, recipe.zero_shot.enabled
    if not config.has_gsp and not attributes:
        with input_errors():
            return poolings.get(config.pooling, name="pooling", **config.pooling_options)
    return poolings.get(
        config.pooling if config.has_gsp else "gsp",
        prototypes=gsp.prototypes,
        # All of the mass: average pooling.
        ratio=gsp.ratio if config.has_gsp else 1.0,
        smoothing=gsp.smoothing,
        solver=gsp.solver,
        return_attributes=attributes,
        name="pooling",
    )


def start_embedder(recipe: Recipe, embedder, datasets: ExperimentData):
    """Gives an embedder the weights of another run, or fits batch statistics and prototypes to the data."""
    first_weights = recipe.model.first_weights
    if first_weights is not None:
        load_first_weights(embedder, first_weights)
        return
    # Statistics of pretrained weights are those that its convolutions were trained with.
    if not recipe.model.is_pretrained:
        calibrate_batch_norm(embedder, training_batches(recipe, datasets).take(_BATCHES_TO_SETTLE))
    if recipe.has_head:
        return
    pooling = embedder.get_layer("pooling")
    # What a warm-up starts from in the end does not count, and random prototypes are those of the layer.
    from_features = not isinstance(pooling, GeneralizedSumPooling) or recipe.model.gsp.start == "k_center"
    if isinstance(pooling, PrototypePooling) and from_features:
        adapt_pooling(embedder, prototype_images(recipe, datasets), seed=recipe.seed)


def load_first_weights(embedder, path):
    """Loads the weights of another run.

    Raises:
        RecipeError: If there is no such file, or it is not of the same network.
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


def prototype_images(recipe: Recipe, datasets: ExperimentData):
    """What prototypes are chosen from: batches of training images, always the same, as many of each class."""
    of_each_class = -(-_IMAGES_FOR_PROTOTYPES // datasets.train.num_classes)
    return data.class_pool(datasets.train, of_each_class, recipe.seed, datasets.preprocessing)(0)


def prototype_warmup(recipe: Recipe, datasets: ExperimentData):
    """The callback that gives the pooling its prototypes after a warm-up."""
    return PrototypeWarmup(prototype_images(recipe, datasets), recipe.warmup_validations, seed=recipe.seed)


def restore_embedder(recipe: Recipe, weights):
    """The embedder of a complete recipe, with the weights in a file or those of a list of arrays."""
    # Those that the training began with would be read in vain, if they are still there.
    options = {name: value for name, value in recipe.model.backbone_options.items() if name != "weights"}
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, backbone_options=options))
    with precision_policy(recipe.training.precision):
        embedder = make_embedder(recipe, make_preprocessing(recipe.data))
    if isinstance(weights, list):
        embedder.set_weights(weights)
    else:
        embedder.load_weights(weights)
    return embedder


@contextlib.contextmanager
def precision_policy(name):
    """Keras' precision policy for as long as the block lasts."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def make_loss(recipe: Recipe):
    """The loss; one of TensorFlow Addons is imported only when it is asked for."""
    name, options, miner = recipe.loss.name, dict(recipe.loss.options), recipe.loss.miner
    if miner.name is not None:
        if name.startswith("addons.") or "miner" in options:
            raise RecipeError(
                f"This loss takes no miner. Received: loss.miner.name={miner.name!r} with loss.name={name!r}, "
                f"loss.options={options}."
            )
        options["miner"] = miners.get(miner.name, **miner.options)
    elif miner.options:
        raise RecipeError(f"Options go with a miner's name. Received: loss.miner.options={miner.options}.")
    if name.startswith("addons."):
        if recipe.references.name != "batch":
            raise RecipeError(
                f"Losses of TensorFlow Addons compare a batch with itself. Received: loss.name={name!r} with "
                f"references.name={recipe.references.name!r}; expected references.name='batch' and ccp.enabled=false."
            )
        return addons_loss(name[len("addons.") :], **options)
    loss = losses.get(name, **options)
    if not isinstance(loss, losses.MetricLoss) and name.lower() not in losses.names():
        # Of Keras, whose losses take other labels than classes.
        raise RecipeError(str(unknown_name("loss", name, losses.names())))
    if isinstance(loss, (losses.InBatchNegativesLoss, losses.PairContrastiveLoss)):
        raise RecipeError(
            f"This loss takes given pairs, and a recipe's batches are of classes. Received: loss.name={name!r}; "
            "it works in a model of your own."
        )
    if recipe.references.name != "batch" and not hasattr(loss, "against"):
        raise RecipeError(
            f"This loss compares a batch with itself alone. Received: loss.name={name!r} with references.name="
            f"{recipe.references.name!r}; expected references.name='batch' and ccp.enabled=false, or a loss with the "
            "method against(labels, embeddings, references)."
        )
    return loss


def make_model(recipe: Recipe, embedder, train):
    """The model that trains the embedder, compiled.

    Args:
        recipe: The recipe.
        embedder: The embedder.
        train: The `LabeledImages` that it is trained on.
    """
    dim = embedder.output_shape[-1]
    kind, ccp = MetricModel, recipe.ccp
    options = {
        "references": make_references(recipe, train.num_classes, dim),
        "in_batch_weight": recipe.references.in_batch_weight,
        "zero_shot": make_zero_shot(recipe, train.num_classes, dim),
        "zero_shot_weight": recipe.zero_shot.weight,
    }
    if ccp.enabled:
        kind = CCPModel
        options |= {"projection_weight": ccp.projection_weight, "projection_decay": ccp.projection_decay}
        if ccp.in_batch_weight is not None:
            options["in_batch_weight"] = ccp.in_batch_weight
    model = kind(embedder, **options)
    config, loss = recipe.optimizer, make_loss(recipe)
    steps_per_epoch = len(train) / recipe.batches.size
    multiplier = config.proxy_learning_rate_multiplier
    if multiplier != 1 and not recipe.references.has_proxies and getattr(loss, "parameters", None) is None:
        raise RecipeError(
            "Nothing outside the network is trained. Received: optimizer.proxy_learning_rate_multiplier="
            f"{multiplier:g} with references.name={recipe.references.name!r}; expected proxies, a loss that learns, "
            "or optimizer.proxy_learning_rate_multiplier=1."
        )
    model.compile(
        optimizer=make_optimizer(recipe, steps_per_epoch),
        loss=loss,
        reference_optimizer=None if multiplier == 1 else make_optimizer(recipe, steps_per_epoch, multiplier),
        weight_decay=config.l2_weight_decay,
        warmup_steps=math.ceil(config.warmup_epochs * steps_per_epoch),
        geometry=recipe.training.geometry,
        jit_compile=recipe.training.jit_compile,
    )
    return model


def make_zero_shot(recipe: Recipe, num_classes, dim):
    """The zero-shot prediction loss, or None."""
    config = recipe.zero_shot
    if not config.enabled:
        return None
    return ZeroShotPrediction(
        num_classes, dim if config.embedding_size is None else config.embedding_size, config.ridge, config.temperature
    )


def make_references(recipe: Recipe, num_classes, dim):
    """What the loss compares a batch with beside itself, of embeddings of `dim` numbers: a list of layers."""
    config = recipe.references
    layers = []
    if config.has_proxies:
        layers.append(ClassProxies(num_classes, config.per_class, embedding_size=dim))
    if config.has_memory:
        size = config.memory_size
        if size is None:
            size = 2 * num_classes * recipe.batches.samples_per_class
        layers.append(CrossBatchMemory(size, dim, config.memory_warmup))
    return layers


def make_optimizer(recipe: Recipe, steps_per_epoch, multiplier=1.0):
    """The optimizer.

    Args:
        recipe: The recipe.
        steps_per_epoch: Training steps in a pass over the training images.
        multiplier: Of the learning rate.
    """
    config = recipe.optimizer
    learning_rate = multiplier * config.learning_rate
    if config.decay_epochs is not None:
        learning_rate = keras.optimizers.schedules.ExponentialDecay(
            learning_rate, math.ceil(config.decay_epochs * steps_per_epoch), config.decay_factor, staircase=True
        )
    common = {"learning_rate": learning_rate, "global_clipnorm": config.global_clipnorm}
    if config.name == "sgd":
        return keras.optimizers.SGD(momentum=config.momentum, **common)
    if config.name == "adamw":
        return keras.optimizers.AdamW(beta_2=config.beta_2, weight_decay=config.weight_decay, **common)
    return keras.optimizers.Adam(beta_2=config.beta_2, **common)


def training_batches(recipe: Recipe, datasets: ExperimentData, start_batch=0, part=None):
    """Endless training batches from a batch on; a `part` is a worker's share of each. Batch t follows from t alone."""
    return balanced_share(
        datasets.train,
        recipe.batches.classes,
        recipe.batches.samples_per_class,
        recipe.seed,
        datasets.preprocessing,
        augmentation=make_augmentation(recipe),
        start_batch=start_batch,
        part=part,
    )


def validation_batches(recipe: Recipe, datasets: ExperimentData, part=None):
    """All validation images once; labels are a dict with `"is_query"` where queries are to be found in a gallery.

    With a `part` they are a worker's share of the batches.
    """
    validation, size = datasets.validation, recipe.evaluation.batch_size
    part = part or (0, 1)
    batches = evaluation_share(validation, size, datasets.preprocessing, part=part)
    if validation.is_query is None:
        return batches
    are_queries = tf.data.Dataset.from_tensor_slices(validation.is_query).batch(size).shard(part[1], part[0])
    return tf.data.Dataset.zip((batches, are_queries)).map(
        lambda batch, is_query: (batch[0], {"label": batch[1], "is_query": is_query})
    )


def alternating_projections(recipe: Recipe, datasets: ExperimentData, monitor):
    """The callback of CCP."""
    config = recipe.ccp
    # A pool must at least hold a sample for each proxy.
    size = max(config.pool_size, recipe.references.per_class)
    return AlternatingProjections(
        data.class_pool(datasets.train, size, recipe.seed, datasets.preprocessing),
        pool_size=config.pool_size,
        patience=config.patience if config.reinitialize else None,
        monitor=monitor,
        start_from_epoch=recipe.warmup_validations,
        outer_patience=config.outer_patience,
    )
