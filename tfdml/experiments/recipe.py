"""A recipe: everything that decides a training run, as typed dataclasses.

A number's annotation has the interval that it must be in, as in `"(0, 1]"`. What the constructor of a loss, layer,
pooling or augmentation checks is not checked here: `builders.dry_build` calls them before any data are loaded.
"""

import functools
from dataclasses import dataclass, field, is_dataclass
from typing import Annotated, Any, Literal, Optional, Union, get_args, get_origin, get_type_hints

from tfdml.experiments import names
from tfdml.experiments.errors import RecipeError, nearest_key

# More than a limit is a mistake, which would end in an allocation that fails, or in a training without an end.
_ANY_INTEGER, _ANY = "[-inf, 4294967296]", "[-inf, inf]"
_Count = Annotated[int, "[1, 4294967296]"]
_Pixels = Annotated[int, "[1, 16384]"]
_UpToMillion = Annotated[int, "[1, 1048576]"]
_UpTo65536 = Annotated[int, "[1, 65536]"]
_Positive = Annotated[float, "(0, inf)"]
_NotNegative = Annotated[float, "[0, inf)"]
_UpToOne = Annotated[float, "[0, 1]"]
# Keys of recipes of earlier versions under their present names, and keys that those versions did not write.
FORMER_KEYS = {"evaluation.pictures": "evaluation.figures", "zero_shot.dim": "zero_shot.embedding_size"}
ADDED_KEYS = {"imports", "ccp.reinitialize"}


@dataclass(frozen=True)
class DataConfig:
    """Images, the shape they are brought to, and the classes that are kept for validation and test."""

    name: str = "glyphs"
    """Data set of the registry, or 'folder' with the option 'path'."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the dataset, as in --data.options.path IMAGES."""
    size: Union[_Pixels, tuple[_Pixels, _Pixels], None] = None
    """Height and width in pixels, one number for both; null takes them from the dataset."""
    channels: Optional[int] = None
    """1 (gray) or 3 (color); null takes them from the dataset."""
    short_side: Optional[_Count] = None
    """Scale the shorter side to this many pixels and crop the center; null stretches to the size."""
    validation_classes: Union[Annotated[float, "(0, 1)"], Literal["test"]] = 0.2
    """Share of the classes that choose the best weights, 0 to 1; 'test' chooses them by the test classes."""
    test_classes: Union[Annotated[float, "(0, 1)"], Literal["published"]] = 0.3
    """Share of the classes for the final metrics, 0 to 1; 'published' for those of the dataset's authors, or the second
    half of the classes."""
    split_seed: Optional[int] = None
    """Seed that shuffles the classes before they are split, except published test classes; null keeps their order."""
    fold: Optional[int] = None
    """Part of the training classes, from 0, that validates instead of validation_classes; or null."""
    folds: Annotated[int, "[2, 4294967296]"] = 4
    """Number of parts of the training classes, for fold."""

    @property
    def validates_on_test(self):
        """Whether the test classes choose the best weights, as in the conventional protocol."""
        return self.validation_classes == "test"

    @property
    def image_size(self):
        """`(height, width)`, or None for that of the dataset."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


@dataclass(frozen=True)
class BatchConfig:
    """Training batches: classes, and images of each class."""

    classes: Annotated[int, "[2, 1048576]"] = 8
    """Classes in a batch."""
    samples_per_class: _UpToMillion = 4
    """Images of each class in a batch."""

    @property
    def size(self):
        """Images in a batch."""
        return self.classes * self.samples_per_class


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes of the training images; all 0 for none."""

    rotation: float = 0.0
    """Largest rotation in degrees, either way."""
    scale: float = 0.0
    """Largest relative change of size, either way."""
    shear: float = 0.0
    """Largest horizontal shear, either way."""
    translation: float = 0.0
    """Largest shift along each axis as a share of the side, either way."""
    horizontal_flip: bool = False
    """Flip each image horizontally with probability 0.5."""
    crop_area: Optional[tuple[float, float]] = None
    """Smallest and largest share of the area that a random crop keeps; null for no crop."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest ratio of width to height of a crop."""

    @property
    def changes(self):
        """Whether an image is changed at all."""
        return any(value for name, value in vars(self).items() if name != "crop_aspect")


@dataclass(frozen=True)
class GSPConfig:
    """Generalized sum pooling (`gsp`, `gsp_gmp`), and the prototypes of `gap` with zero_shot."""

    prototypes: _UpTo65536 = 64
    """Number of trainable prototypes."""
    ratio: float = 0.3
    """Share of the local features' mass that is kept, above 0 and at most 1."""
    smoothing: float = 5.0
    """Entropy smoothing, above 0: small values weigh all features alike, large values select."""
    solver: Literal["newton", "bregman"] = "newton"
    """Solver of the transport problem."""
    start: Literal["k_center", "random", "warmup"] = "k_center"
    """First prototypes: greedy k-center of the untrained network's local features, random, or 'warmup': k-center of
    the local features after warmup_validations with average pooling."""
    warmup_validations: _Count = 1
    """Validations, and the training steps before each, with average pooling when start is 'warmup'."""


@dataclass(frozen=True)
class HeadConfig:
    """Head that embeds frozen features (data.name `features`), in place of backbone and pooling."""

    input_size: Optional[int] = None
    """Numbers in a feature; null takes them from the data."""
    hidden: tuple[Annotated[int, "[-inf, 1048576]"], ...] = ()
    """Sizes of the hidden layers; [] for a linear head."""
    activation: str = "relu"
    """Activation of the hidden layers, a name of Keras."""
    dropout: float = 0.0
    """Dropout rate of the features and of each hidden layer, 0 to 1."""
    batch_normalization: bool = False
    """Apply batch normalization to the features and to each hidden layer."""


@dataclass(frozen=True)
class ModelConfig:
    """The embedder: backbone, pooling, embedding, normalization."""

    backbone: str = "resnet20v2"
    """Network from images to local features."""
    backbone_options: dict[str, Any] = field(default_factory=dict)
    """Options of the backbone, as in --model.backbone_options.weights imagenet."""
    pooling: str = "gsp"
    """'gap' (average), 'gsp' (generalized sum pooling), or another pooling of tfdml."""
    pooling_options: dict[str, Any] = field(default_factory=dict)
    """Options of a pooling without a section of its own, as in --model.pooling_options.power 4."""
    gsp: GSPConfig = field(default_factory=GSPConfig)
    """Generalized sum pooling."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """Embeds features in place of backbone and pooling."""
    embedding_size: _UpTo65536 = 128
    """Size of the embedding, and of the local features that are pooled, unless the pooling gives another size."""
    embed_before_pooling: bool = True
    """Bring local features to embedding_size, rather than the pooled ones; the same for average pooling."""
    normalization: Literal["l2", "clip", "none"] = "clip"
    """Embeddings of unit length, of at most unit length, or unchanged."""
    first_weights: Optional[str] = None
    """best.weights.h5 of a run with the same network, to start from; null for random weights."""

    @property
    def is_pretrained(self):
        """Whether the backbone begins with weights of another training."""
        return self.backbone_options.get("weights") is not None

    @property
    def has_gsp(self):
        """Whether the pooling is generalized sum pooling, alone or with another."""
        return self.pooling in ("gsp", "gsp_gmp")


@dataclass(frozen=True)
class MinerConfig:
    """Pairs of a loss that count."""

    name: Optional[str] = None
    """Miner of tfdml; null for all pairs."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the miner, as in --loss.miner.options.distance cosine."""


@dataclass(frozen=True)
class LossConfig:
    """Loss that is minimized."""

    name: str = "c2"
    """Loss of tfdml, or 'addons.' and a class of tensorflow_addons.losses, as in addons.TripletHardLoss."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the loss, as in --loss.options.negative_margin 0.6."""
    miner: MinerConfig = field(default_factory=MinerConfig)
    """Pairs of the loss that count."""


@dataclass(frozen=True)
class ReferenceConfig:
    """Embeddings that the loss compares a batch with."""

    name: Literal["batch", "proxies", "memory", "proxies_and_memory"] = "proxies"
    """The batch itself, trainable proxies of the classes, a memory of past batches, or both of them."""
    per_class: Annotated[int, "[-inf, 65536]"] = 4
    """Proxies of each class."""
    memory_size: Optional[int] = None
    """Embeddings in the memory; null for 2 * samples_per_class of each class."""
    memory_warmup: int = 1000
    """Training steps before the memory is used."""
    in_batch_weight: Optional[_NotNegative] = None
    """Weight of the same loss inside the batch; null for 0 with proxies alone, else 1."""

    @property
    def has_proxies(self):
        """Whether proxies are among the references."""
        return self.name in ("proxies", "proxies_and_memory")

    @property
    def has_memory(self):
        """Whether a memory is among the references."""
        return self.name in ("memory", "proxies_and_memory")


@dataclass(frozen=True)
class CCPConfig:
    """Chance constrained programming: a chain of proxy problems, each with new proxies."""

    enabled: bool = True
    """Start from proxies chosen by greedy k-center and anchor the weights to the last solution."""
    reinitialize: bool = True
    """End a problem after patience and choose new proxies; false keeps the first ones."""
    pool_size: _UpToMillion = 12
    """Images of each class among which greedy k-center chooses; 1 for random proxies."""
    patience: _Count = 3
    """Validations without a better MAP@R after which a problem counts as solved."""
    projection_weight: _NotNegative = 2e-4
    """Pull towards the weights that solved the previous problem."""
    projection_decay: _UpToOne = 1.0
    """Factor of the pull from one problem to the next, 0 to 1."""
    outer_patience: Optional[_Count] = None
    """Problems without a better MAP@R after which training ends; null for no limit."""
    in_batch_weight: Optional[_NotNegative] = None
    """Weight of the same loss inside the batch, under CCP; null for references.in_batch_weight."""


@dataclass(frozen=True)
class ZeroShotConfig:
    """Zero-shot prediction loss of the pooling's attributes, for 'gsp', 'gsp_gmp' and 'gap'."""

    enabled: bool = False
    """Let attributes that are fitted on half of a batch's classes predict the other half."""
    weight: _UpToOne = 0.1
    """Weight of this loss, 0 to 1; the other loss has the rest."""
    embedding_size: Optional[Annotated[int, "[-inf, 65536]"]] = None
    """Size of the trainable label embeddings; null for that of the image embeddings."""
    ridge: float = 0.05
    """Ridge of the regression from attributes to label embeddings, above 0."""
    temperature: float = 0.10526
    """Temperature of the softmax over the training classes, above 0."""


@dataclass(frozen=True)
class OptimizerConfig:
    """How the weights are updated."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """Keras' optimizer: Adam, AdamW (decoupled weight decay) or SGD (with momentum)."""
    learning_rate: _Positive = 1e-3
    """Learning rate of the network, and of everything without a multiplier."""
    beta_2: Annotated[float, "[0, 1)"] = 0.999
    """Decay of the second moment (adam, adamw)."""
    momentum: Annotated[float, "[0, 1)"] = 0.9
    """Momentum (sgd)."""
    weight_decay: _NotNegative = 1e-4
    """Decoupled weight decay (adamw)."""
    l2_weight_decay: _NotNegative = 0.0
    """L2 term in the gradients of the network's weights, except batch normalization (any optimizer)."""
    global_clipnorm: Optional[_Positive] = 10.0
    """Largest norm of all gradients together; null for no clipping."""
    proxy_learning_rate_multiplier: _Positive = 1.0
    """Learning-rate multiplier for proxies and loss parameters."""
    warmup_epochs: _NotNegative = 0.0
    """Epochs in which only the embedding layer, proxies and loss parameters are trained."""
    decay_epochs: Optional[_Positive] = None
    """Epochs between two decays of the learning rate; null keeps it."""
    decay_factor: Annotated[float, "(0, 1]"] = 0.1
    """Factor by which the learning rate is multiplied at each decay."""
    plateau_patience: Optional[_Count] = None
    """Validations without a better training.monitor before the learning rate decays; null keeps it."""
    plateau_factor: Annotated[float, "(0, 1)"] = 0.5
    """Factor by which the learning rate is multiplied on a plateau."""


@dataclass(frozen=True)
class TrainingConfig:
    """Length and precision of the training."""

    steps_per_validation: _Count = 100
    """Training steps between two validations; an epoch of the progress bar."""
    max_validations: _Count = 60
    """Largest number of validations."""
    monitor: Literal["map_at_r", "precision_at_1"] = "map_at_r"
    """Metric of the validation classes that chooses the best weights, ends a proxy problem and the training."""
    patience: _Count = 15
    """Validations without a better value of monitor after which training ends."""
    max_minutes: Optional[_Positive] = None
    """Minutes after which training ends; null for no limit."""
    average_momentum: Optional[_UpToOne] = None
    """Momentum of a moving average of the weights, which is then evaluated and kept, 0 to 1; null for none."""
    geometry: bool = True
    """Report covering radius, distances and margins of the embeddings at each validation."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Keras' precision policy."""
    jit_compile: bool = False
    """Compile the training step with XLA."""
    strategy: Literal["single", "mirrored", "multi_worker"] = "single"
    """Devices: 'single' is one; 'mirrored' are all of this machine; 'multi_worker' those of the workers in the variable
    TF_CONFIG, each started with the same command. The weights are the same up to rounding."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation of the finished network."""

    batch_size: _UpToMillion = 256
    """Images that are embedded at once."""
    recall_at: tuple[_Count, ...] = (1, 2, 4, 8)
    """The k of recall@k."""
    figures: bool = True
    """Draw figures."""
    keep_embeddings: bool = False
    """Keep the embeddings of the test images in the run folder; a protocol needs them."""
    queries: _Count = 8
    """Queries in the figures of neighbors and pooling weights."""
    neighbors: _Count = 8
    """Neighbors of each query in the figure."""
    search: Literal["exact", "faiss"] = "exact"
    """Search of test embeddings: 'faiss' is approximate, for very large datasets, and reports its recall. Validation is
    always exact."""


@dataclass(frozen=True)
class ProtocolConfig:
    """Runs of the recipe that make a result."""

    name: Literal["single", "fair", "conventional", "cross_validation", "fixed_validation"] = "single"
    """'single': one run, with the classes of data. 'fair': a run for each of 4 contiguous parts of the training
    classes, which validates on it; their mean, and all of their embeddings concatenated. 'conventional': validation on
    the test classes. 'cross_validation': a run for each of 10 random parts of the training classes.
    'fixed_validation': validation on the last of 10 parts."""
    folds: Optional[Annotated[int, "[2, 4294967296]"]] = None
    """Parts of the training classes; null for 4 in 'fair', 10 in 'cross_validation' and 'fixed_validation'."""
    repeats: _Count = 1
    """Times that each run is repeated, with other seeds."""


@dataclass(frozen=True)
class Recipe:
    """A training run, or the runs of a protocol. The recipe decides everything that happens."""

    name: str = "default"
    """The recipe's name, and the start of its run folders' names."""
    description: str = ""
    """One line on what it is."""
    seed: Annotated[int, _ANY] = 0
    """Seed of the first weights, the batches and the pools."""
    imports: tuple[str, ...] = ()
    """Modules and .py files that register what the recipe names. They are imported only with --import or --trust."""
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batches: BatchConfig = field(default_factory=BatchConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    references: ReferenceConfig = field(default_factory=ReferenceConfig)
    ccp: CCPConfig = field(default_factory=CCPConfig)
    zero_shot: ZeroShotConfig = field(default_factory=ZeroShotConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    @property
    def has_head(self):
        """Whether features are embedded rather than images."""
        return self.data.name == "features"

    @property
    def warmup_validations(self):
        """Validations before the pooling gets its prototypes and the best weights are looked for."""
        warms_up = self.model.has_gsp and self.model.gsp.start == "warmup"
        return self.model.gsp.warmup_validations if warms_up else 0

    def __post_init__(self):
        _check_numbers(self)
        for key, kind in (("backbone", "backbones"), ("pooling", "poolings")):
            name = getattr(self.model, key)
            if not names.is_known(kind, name):
                known = names.registered(kind)
                raise RecipeError(
                    f"Received: model.{key}={name!r}; expected one of {', '.join(known)}. "
                    f"Did you mean {nearest_key(name, known)!r}?"
                )
        for is_wrong, keys, expected, *problem in [*self._conflicts(), *self._conflicts_of_features()]:
            if is_wrong:
                received = " with ".join(f"{key}={_shown(self, key)}" for key in keys.split())
                raise RecipeError(" ".join([*problem, f"Received: {received}; expected {expected}."]))

    # fmt: off
    def _conflicts(self):
        """Conditions that must not hold; the keys that the error shows, what it expects, and its first sentence."""
        data, model, ccp, zero_shot, optimizer = self.data, self.model, self.ccp, self.zero_shot, self.optimizer
        protocol, references, training = self.protocol, self.references, self.training
        has_fold = data.fold is not None
        shares = [share for share in (data.validation_classes, data.test_classes) if isinstance(share, float)]
        return (
            (set(self.name) & set("\\\0") or set(self.name.split("/")) & {"", ".", ".."}, "name",
             "text that can name a folder, / between its parts"),
            (not 0 <= self.seed < 2**32, "seed", "0 <= seed < 2**32"),
            (not self.evaluation.recall_at, "evaluation.recall_at", "integers >= 1"),
            (sum(shares) >= 1 and not has_fold, "data.validation_classes data.test_classes",
             "less than 1 in sum: training needs classes"),
            (has_fold and not 0 <= data.fold < data.folds, "data.fold", f"0 <= fold < folds={data.folds}, or null"),
            (has_fold and data.validates_on_test, "data.fold data.validation_classes", "one of the two",
             "A fold validates on training classes."),
            (references.name == "batch" and self.batches.samples_per_class < 2, "batches.samples_per_class",
             "at least 2 with references.name='batch', for positive pairs"),
            (model.has_gsp and model.pooling_options, "model.pooling_options model.pooling", "none",
             "The options of generalized sum pooling are in model.gsp."),
            (self.warmup_validations >= training.max_validations, "model.gsp.warmup_validations",
             f"less than training.max_validations={training.max_validations}"),
            (ccp.enabled and not references.has_proxies, "ccp.enabled references.name",
             "references.name='proxies' or 'proxies_and_memory', or ccp.enabled=false", "CCP draws class proxies."),
            (ccp.enabled and training.average_momentum is not None, "ccp.enabled training.average_momentum",
             "one of the two", "CCP goes back to the weights that solved a problem, which are not an average."),
            (zero_shot.enabled and model.pooling_options, "model.pooling_options", "none",
             "With a zero-shot loss 'gap' is generalized sum pooling of all of the mass."),
            (zero_shot.enabled and not (model.has_gsp or model.pooling == "gap"), "zero_shot.enabled model.pooling",
             "model.pooling='gsp', 'gsp_gmp' or 'gap'", "This pooling has no attributes."),
            (None not in (optimizer.plateau_patience, optimizer.decay_epochs),
             "optimizer.decay_epochs optimizer.plateau_patience", "one of the two",
             "The learning rate decays by a schedule or on a plateau."),
            (optimizer.warmup_epochs and optimizer.name == "adamw" and optimizer.weight_decay,
             "optimizer.warmup_epochs optimizer.weight_decay",
             "optimizer.name=adam with optimizer.l2_weight_decay, or one of the two to be 0",
             "The decoupled weight decay of adamw changes weights that the warm-up freezes."),
            (protocol.folds is not None and protocol.name in ("single", "conventional"), "protocol.folds protocol.name",
             "null"),
            (protocol.name != "single" and has_fold, "data.fold protocol.name",
             "data.fold=null, or protocol.name='single'", "The protocol gives each run its fold."),
            (protocol.name == "single" and protocol.repeats != 1, "protocol.repeats protocol.name", "1"),
            (protocol.name != "single" and training.strategy == "multi_worker", "training.strategy protocol.name",
             "'mirrored', or protocol.name='single' with data.fold", "Several workers train one run at a time."),
        )

    def _conflicts_of_features(self):
        if not self.has_head:
            head = self.model.head
            return [(head != HeadConfig(), "model.head data.name", "data.name='features', or the default model.head")]
        unused = [f"data.{key}" for key in ("size", "channels", "short_side") if getattr(self.data, key) is not None]
        options = [f"model.{key}" for key in ("pooling_options", "backbone_options") if getattr(self.model, key)]
        return (
            *((True, key, "null with data.name='features', which are not images") for key in unused),
            (self.model.pooling != "gap", "model.pooling", "'gap' with data.name='features', which are not maps"),
            *((True, key, "none with data.name='features'") for key in options),
            (self.zero_shot.enabled, "zero_shot.enabled", "false with data.name='features'"),
            (self.augmentation.changes, "augmentation data.name", "no augmentation with data.name='features'"),
        )
    # fmt: on


def _shown(recipe, key):
    value = functools.reduce(getattr, key.split("."), recipe)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else repr(value)


def _check_numbers(section, prefix=""):
    """Raises RecipeError for a number outside of the interval of its annotation."""
    for name, (interval, suffix) in _intervals(type(section)).items():
        value = getattr(section, name)
        if is_dataclass(value):
            _check_numbers(value, f"{prefix}{name}.")
        for number in value if isinstance(value, tuple) else [value]:
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                continue
            if expected := _expected(number, interval, name):
                raise RecipeError(f"Received: {prefix}{name}={value!r}; expected {expected}{suffix}.")


def _expected(number, interval, name):
    """What an interval asks of a number that is not in it; None for one that is."""
    low, high = map(float, interval[1:-1].split(", "))
    is_open, is_open_above = interval[0] == "(", interval[-1] == ")"
    if number > high or (number == high and is_open_above):
        many = f"at most {high:,.0f}"
    elif number > low or (number == low and not is_open):
        return None
    else:
        many = f"{'above' if is_open else 'at least'} {low:g}"
    return f"{low:g} {'<' if is_open else '<='} {name} {'<' if is_open_above else '<='} 1" if high == 1 else many


@functools.cache
def _intervals(kind):
    """For each field of a section its interval, and what the error says about null."""
    hints = get_type_hints(kind, include_extras=True).items()
    return {name: (_interval(hint), ", or null" if type(None) in get_args(hint) else "") for name, hint in hints}


def _interval(hint):
    if get_origin(hint) is Annotated:
        return hint.__metadata__[0]
    arguments = get_args(hint)
    return _interval(arguments[0]) if arguments else _ANY_INTEGER if hint is int else _ANY
