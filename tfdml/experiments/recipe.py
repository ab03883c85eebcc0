"""A recipe: all values that determine a training run, as typed dataclasses.

The annotation of a number has its interval, as in `"(0, 1]"`. What constructors of losses, layers, poolings and
augmentations check is not repeated here: `builders.dry_build` calls them before any data is loaded.
"""

import functools
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Optional, Union

from tfdml._utils.naming import nearest_name
from tfdml._utils.typed_values import interval_problem
from tfdml.experiments import names
from tfdml.experiments.errors import RecipeError

# Larger values are mistakes that would end in a failed allocation or an endless training.
_Count = Annotated[int, "[1, 4294967296]"]
_Pixels = Annotated[int, "[1, 16384]"]
_UpToMillion = Annotated[int, "[1, 1048576]"]
_UpTo65536 = Annotated[int, "[1, 65536]"]
_Positive = Annotated[float, "(0, inf)"]
_NotNegative = Annotated[float, "[0, inf)"]
_UpToOne = Annotated[float, "[0, 1]"]
_AnyInteger = Annotated[int, "[-inf, inf]"]
# Former keys and their present names, and keys that recipes of earlier versions do not have.
FORMER_KEYS = {"evaluation.pictures": "evaluation.figures", "zero_shot.dim": "zero_shot.embedding_size"}
ADDED_KEYS = {
    "imports", "model.skip_tokens", "model.token_grid",
    "ccp.reinitialize", "augmentation.brightness", "augmentation.contrast", "augmentation.saturation",
    "augmentation.hue", "augmentation.erasing", "augmentation.erasing_area", "augmentation.randaugment_operations",
    "augmentation.randaugment_magnitude", "mixing.name", "mixing.alpha", "mixing.probability", "model.frozen_layers",
    "training.gradient_checkpointing",
    "optimizer.schedule", "optimizer.schedule_warmup_steps", "optimizer.backbone_learning_rate_multiplier",
    "optimizer.layer_decay", "ccp.max_steps", "ccp.max_steps_growth", "ccp.restore", "ccp.given", "ccp.refresh",
    "batches.small_classes", "batches.sampling", "batches.superclasses_per_batch",
    "model.gsp.project", "model.gsp.kernel_size", "model.gsp.warmup_samples", "zero_shot.regressor",
    "ccp.refresh_share", "ccp.first_proxies", "ccp.k_center_on", "ccp.augment_pool",
    "cross_batch.enabled", "cross_batch.weight", "cross_batch.ridge",
    "relation.name", "relation.options", "relation.groups",
}  # fmt: skip


@dataclass(frozen=True)
class DataConfig:
    """Images, their size, and the classes held out for validation and test."""

    name: str = "glyphs"
    """Dataset (--list datasets), or 'folder' with the option 'path'."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the dataset, as in --data.options.path IMAGES."""
    size: Union[_Pixels, tuple[_Pixels, _Pixels], None] = None
    """Height and width in pixels, one number for both; null for those of the dataset."""
    channels: Optional[int] = None
    """1 (gray) or 3 (color); null for those of the dataset."""
    short_side: Optional[_Count] = None
    """Scale the shorter side to this number of pixels, then crop the center; null stretches images to the size."""
    validation_classes: Union[Annotated[float, "(0, 1)"], Literal["test"]] = 0.2
    """Share of the classes that validate, 0 to 1; 'test' validates on the test classes. Images of a single class are
    divided like classes."""
    test_classes: Union[Annotated[float, "(0, 1)"], Literal["published"]] = 0.3
    """Share of the classes for the final metrics, 0 to 1; 'published' for the split of the dataset's authors, or the
    second half of the classes if there is none."""
    split_seed: Optional[int] = None
    """Seed for shuffling the classes before the split, except published test classes; null keeps their order."""
    fold: Optional[int] = None
    """Part of the training classes (0-based) that validates instead of validation_classes; or null."""
    folds: Annotated[int, "[2, 4294967296]"] = 4
    """Number of parts into which fold divides the training classes."""

    @property
    def validates_on_test(self):
        """Whether validation uses the test classes, as in the conventional protocol."""
        return self.validation_classes == "test"

    @property
    def image_size(self):
        """`(height, width)`, or None for the size of the dataset's images."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


@dataclass(frozen=True)
class RelationConfig:
    """Which images are positive pairs: those of the same class, with common tags, or from close positions."""

    name: str = "same_class"
    """Relation (--list relations): 'within' for numbers such as positions, 'overlap' for tags. All but 'same_class'
    compare annotations (data.options.annotation_columns or .tag_column of a CSV file), in training and evaluation."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the relation, as in --relation.options.positive 1.0 --relation.options.negative 4.0."""
    groups: Union[_Positive, Literal["tags"], None] = None
    """Visit equally often: grid cells of positions with this side, or 'tags'; null for all images."""


@dataclass(frozen=True)
class BatchConfig:
    """Training batches: classes and images per class."""

    classes: Annotated[int, "[2, 1048576]"] = 8
    """Classes per batch; with a relation, images that are drawn together with some of their positives."""
    samples_per_class: _UpToMillion = 4
    """Images per class in a batch; with a relation, one image and its positives."""
    small_classes: Literal["error", "repeat", "skip", "negatives"] = "error"
    """Classes with a single image: 'error', 'repeat' the image, 'skip' the class, or use it among the 'negatives'."""
    sampling: Literal["class", "instance"] = "class"
    """Use all classes equally often ('class') or all images ('instance')."""
    superclasses_per_batch: Optional[_UpToMillion] = None
    """Super-classes per batch, of a dataset that has them (sop, cifar100, nested folders); null for any."""

    @property
    def size(self):
        """Images per batch."""
        return self.classes * self.samples_per_class


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes of the training images; all 0 for no augmentation."""

    rotation: float = 0.0
    """Largest rotation in degrees, in either direction."""
    scale: float = 0.0
    """Largest relative change of size, in either direction."""
    shear: float = 0.0
    """Largest horizontal shear, in either direction."""
    translation: float = 0.0
    """Largest shift along each axis as a share of the side, in either direction."""
    horizontal_flip: bool = False
    """Flip each image horizontally with probability 0.5."""
    crop_area: Optional[tuple[float, float]] = None
    """Smallest and largest share of the image area that a random crop keeps; null for no crop."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest ratio of a crop's width to its height."""
    brightness: float = 0.0
    """Largest relative change of brightness, 0 to 1."""
    contrast: float = 0.0
    """Largest relative change of contrast, 0 to 1."""
    saturation: float = 0.0
    """Largest relative change of saturation, 0 to 1; for color images."""
    hue: float = 0.0
    """Largest rotation of the colors as a share of the color circle, 0 to 0.5; for color images."""
    erasing: float = 0.0
    """Probability that a rectangle of the image is filled with one random color."""
    erasing_area: tuple[float, float] = (0.02, 0.25)
    """Smallest and largest share of the image area that is erased."""
    randaugment_operations: int = 0
    """Number of operations of RandAugment per image, 0 to 16."""
    randaugment_magnitude: float = 0.3
    """Strength of the operations of RandAugment, 0 to 1."""

    @property
    def changes(self):
        """Whether any augmentation is on."""
        only_ranges = ("crop_aspect", "erasing_area", "randaugment_magnitude")
        return any(value for name, value in vars(self).items() if name not in only_ranges)


@dataclass(frozen=True)
class GSPConfig:
    """Generalized sum pooling (`gsp`, `gsp_gmp`, `gsp_gem`), and prototypes of `gap` with zero_shot."""

    prototypes: _UpTo65536 = 64
    """Number of trainable prototypes."""
    ratio: float = 0.3
    """Share of the local features' mass that pooling keeps, above 0 and at most 1."""
    smoothing: float = 5.0
    """Entropy smoothing, above 0: small values weight all features equally, large values select."""
    solver: Literal["newton", "bregman"] = "newton"
    """Solver of the transport problem."""
    start: Literal["k_center", "random", "warmup", "pooled"] = "k_center"
    """Initial prototypes: greedy 'k_center' of the untrained network's local features, 'random', 'warmup': k-center of
    the local features after warmup_validations with average pooling, or 'pooled': k-center of warmup_samples pooled
    features, after training steps with as many samples and average pooling, as in the author's code."""
    warmup_validations: _Count = 1
    """Number of validations (and training between them) with average pooling if start is 'warmup'."""
    warmup_samples: _Count = 1024
    """Number of training samples with average pooling if start is 'pooled'."""
    project: bool = False
    """With embed_before_pooling=false: transport the features after the linear map that embeds the pooled feature."""
    kernel_size: Optional[Annotated[int, "[1, 63]"]] = None
    """Odd size of convolutional prototypes, which are patches of features; null for single features."""


@dataclass(frozen=True)
class HeadConfig:
    """Head that embeds frozen features (data.name `features`) instead of backbone and pooling."""

    input_size: Optional[int] = None
    """Size of a feature; null for that of the data."""
    hidden: tuple[Annotated[int, "[-inf, 1048576]"], ...] = ()
    """Sizes of the hidden layers; [] for a linear head."""
    activation: str = "relu"
    """Activation of the hidden layers, as named in Keras."""
    dropout: float = 0.0
    """Dropout rate of the features and each hidden layer, 0 to 1."""
    batch_normalization: bool = False
    """Apply batch normalization to the features and to each hidden layer."""


@dataclass(frozen=True)
class ModelConfig:
    """Embedder: backbone, pooling, embedding layer, normalization."""

    backbone: str = "resnet20v2"
    """Network from images to local features (--list backbones); 'keras.applications.NAME' or 'keras_hub:PRESET'."""
    backbone_options: dict[str, Any] = field(default_factory=dict)
    """Options of the backbone, as in --model.backbone_options.weights imagenet."""
    pooling: str = "gsp"
    """'gap' (average), 'gsp' (generalized sum pooling), or another one (--list poolings); of a vision transformer also
    'cls' (its class token) or 'cls+gsp'."""
    pooling_options: dict[str, Any] = field(default_factory=dict)
    """Options of a pooling that has no section, as in --model.pooling_options.power 4."""
    gsp: GSPConfig = field(default_factory=GSPConfig)
    """Generalized sum pooling."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """Head for features."""
    embedding_size: _UpTo65536 = 128
    """Size of the embedding and of the pooled local features, unless the pooling has another output size."""
    embed_before_pooling: bool = True
    """Project local features to embedding_size before pooling instead of after it; the same for average pooling."""
    skip_tokens: Optional[int] = None
    """Leading class and register tokens of a vision transformer; null infers them."""
    token_grid: Optional[tuple[int, int]] = None
    """Height and width of the patch tokens of a vision transformer; null infers them."""
    normalization: Literal["l2", "clip", "none"] = "clip"
    """'l2' for embeddings of unit length, 'clip' for at most unit length, 'none' to leave them unchanged."""
    first_weights: Optional[str] = None
    """Initial weights: best.weights.h5 of a run with the same network; null for random weights."""
    frozen_layers: tuple[str, ...] = ()
    """Layers that are not trained: names or patterns such as blocks_[0-4]_*, or backbone."""

    @property
    def is_pretrained(self):
        """Whether the backbone starts from pretrained weights."""
        default = "pretrained" if self.backbone.lower().startswith("keras_hub:") else None
        return self.backbone_options.get("weights", default) is not None

    @property
    def has_class_token(self):
        """Whether the class token of a vision transformer is part of the embedding."""
        return self.pooling.partition("+")[0] == "cls"

    @property
    def patch_pooling(self):
        """The pooling of local features, without the class token; '' if the class token is all."""
        return self.pooling.partition("+")[2] if self.has_class_token else self.pooling

    @property
    def has_gsp(self):
        """Whether the pooling is generalized sum pooling, alone or combined with another one."""
        return self.patch_pooling in ("gsp", "gsp_gem", "gsp_gmp")


@dataclass(frozen=True)
class MinerConfig:
    """Miner: selects the pairs of the loss."""

    name: Optional[str] = None
    """Miner (--list miners); null for all pairs."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the miner, as in --loss.miner.options.distance cosine."""


@dataclass(frozen=True)
class LossConfig:
    """Loss to minimize."""

    name: str = "c2"
    """Loss (--list losses), or 'addons.' and a class of tensorflow_addons.losses, as in addons.TripletHardLoss."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the loss, as in --loss.options.negative_margin 0.6."""
    miner: MinerConfig = field(default_factory=MinerConfig)
    """Selects the pairs of the loss."""


@dataclass(frozen=True)
class ReferenceConfig:
    """References: embeddings with which the loss compares a batch."""

    name: Literal["batch", "proxies", "memory", "proxies_and_memory"] = "proxies"
    """The batch itself, trainable class proxies, a memory of past batches, or proxies and memory."""
    per_class: Annotated[int, "[-inf, 65536]"] = 4
    """Proxies per class."""
    memory_size: Optional[int] = None
    """Number of embeddings in the memory; null for 2 * samples_per_class per class. Required with a relation."""
    memory_warmup: int = 1000
    """Training steps before the memory is used."""
    in_batch_weight: Optional[_NotNegative] = None
    """Weight of the same loss inside the batch; null for 0 if there are only proxies, else 1."""

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
    """Chance-constrained programming (CCP): a sequence of proxy problems, each with new proxies."""

    enabled: bool = True
    """Initialize proxies by greedy k-center and anchor the weights to the last solution."""
    reinitialize: bool = True
    """Choose new proxies when a problem is solved; false keeps the first ones."""
    pool_size: _UpToMillion = 12
    """Images per class from which greedy k-center chooses; 1 for random proxies."""
    patience: _Count = 3
    """Validations without improvement of training.monitor after which a problem counts as solved."""
    projection_weight: _NotNegative = 2e-4
    """Strength of the pull toward the weights that solved the previous problem."""
    projection_decay: _UpToOne = 1.0
    """Factor by which the pull is multiplied after each problem, 0 to 1."""
    max_steps: Optional[_Count] = None
    """Training steps after which the first problem ends even if validation still improves; null for no limit."""
    max_steps_growth: Annotated[float, "[1, inf)"] = 1.0
    """Factor of max_steps from one problem to the next."""
    restore: Literal["best", "last"] = "best"
    """After a problem whose validation stalled, continue from its 'best' weights, or from its 'last' ones with the best
    as the anchor."""
    given: Literal["all", "near", "none"] = "all"
    """Old proxies that count as chosen when new ones are: 'all', those 'near' their class' samples, or 'none'."""
    refresh: Literal["embed", "memory", "partial"] = "embed"
    """Choose from images that are embedded for it ('embed'), partly from older embeddings ('partial'), or from the
    embeddings of recent batches ('memory')."""
    refresh_share: Annotated[float, "(0, 1]"] = 0.25
    """Share of the pool that refresh='partial' embeds for each problem."""
    first_proxies: Literal["k_center", "origin", "random", "initial"] = "k_center"
    """First proxies: 'k_center' of a pool, the same given a proxy at the 'origin', 'random' samples, or the 'initial'
    random values of the proxies."""
    k_center_on: Literal["embedding", "head"] = "embedding"
    """Choose among embeddings, or among embeddings before they are clipped or normalized ('head'); proxies are then
    normalized where the loss uses them."""
    augment_pool: bool = False
    """Augment the images of the pool like training images."""
    outer_patience: Optional[_Count] = None
    """Problems without improvement after which training ends; null for no limit."""
    in_batch_weight: Optional[_NotNegative] = None
    """Weight of the same loss inside the batch if CCP is enabled; null for references.in_batch_weight."""


@dataclass(frozen=True)
class ZeroShotConfig:
    """Zero-shot prediction loss on the pooling's attributes, for 'gsp', 'gsp_gem', 'gsp_gmp' and 'gap'."""

    enabled: bool = False
    """Fit attributes on half of a batch's classes and predict the other half with them."""
    weight: _UpToOne = 0.1
    """Weight of this loss, 0 to 1; the main loss has 1 minus this weight."""
    embedding_size: Optional[Annotated[int, "[-inf, 65536]"]] = None
    """Size of the trainable label embeddings; null for model.embedding_size."""
    ridge: float = 0.05
    """Ridge regularization of the regression from attributes to label embeddings, above 0."""
    temperature: float = 0.10526
    """Temperature of the softmax over the training classes, above 0."""
    regressor: Literal["ridge", "trained"] = "ridge"
    """From attributes to label embeddings: 'ridge', fitted on half of a batch's classes for the other half; or
    'trained', one trainable linear map for all classes, which predicts no unseen ones."""


@dataclass(frozen=True)
class CrossBatchConfig:
    """Cross-batch learning (XML): the loss of embeddings expressed by prototypes of other classes."""

    enabled: bool = False
    """Fit prototypes to half of a batch's classes and express the other half by them; for the poolings of zero_shot."""
    weight: _UpToOne = 0.1
    """Weight of this loss, 0 to 1; the main loss has 1 minus this weight and that of zero_shot."""
    ridge: float = 0.05
    """Ridge regularization of the fit of prototypes, above 0."""


@dataclass(frozen=True)
class MixingConfig:
    """Mixtures of two training images with the loss of both labels; needs class proxies alone."""

    name: Literal["none", "mixup", "cutmix"] = "none"
    """'mixup' averages images, 'cutmix' replaces a rectangle of each by that of another, 'none' leaves them alone."""
    alpha: Optional[_Positive] = None
    """Parameter of the beta distribution of the shares; null for 0.2 in mixup and 1 in cutmix."""
    probability: _UpToOne = 1.0
    """Probability that a batch is mixed, 0 to 1."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and learning-rate schedule."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """Keras' optimizer: Adam, AdamW (decoupled weight decay) or SGD (with momentum)."""
    learning_rate: _Positive = 1e-3
    """Learning rate of the network and of everything without a multiplier."""
    beta_2: Annotated[float, "[0, 1)"] = 0.999
    """Decay of the second moment (adam, adamw)."""
    momentum: Annotated[float, "[0, 1)"] = 0.9
    """Momentum (sgd)."""
    weight_decay: _NotNegative = 1e-4
    """Decoupled weight decay (adamw)."""
    l2_weight_decay: _NotNegative = 0.0
    """L2 term added to the gradients of the network's weights except batch normalization (any optimizer)."""
    global_clipnorm: Optional[_Positive] = 10.0
    """Clip the global gradient norm to this value; null for no clipping."""
    proxy_learning_rate_multiplier: _Positive = 1.0
    """Learning-rate multiplier for proxies and loss parameters."""
    warmup_epochs: _NotNegative = 0.0
    """Initial epochs that train only the embedding layer, proxies and loss parameters."""
    decay_epochs: Optional[_Positive] = None
    """Epochs between decays of the learning rate; null for no decay."""
    decay_factor: Annotated[float, "(0, 1]"] = 0.1
    """Factor by which the learning rate is multiplied at each decay."""
    plateau_patience: Optional[_Count] = None
    """Validations without improvement of training.monitor before the learning rate decays; null for no decay."""
    plateau_factor: Annotated[float, "(0, 1)"] = 0.5
    """Factor by which the learning rate is multiplied on a plateau."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Learning rate over all training steps: constant, or decayed to 0 along a cosine or a line."""
    schedule_warmup_steps: Annotated[int, "[0, 4294967296]"] = 0
    """Initial training steps in which the learning rate increases from 0, for 'cosine' and 'linear'."""
    backbone_learning_rate_multiplier: _NotNegative = 1.0
    """Learning-rate multiplier for the backbone: everything before the embedding and the pooling."""
    layer_decay: Optional[Annotated[float, "(0, 1]"]] = None
    """Factor of the learning rate from each twelfth of the backbone to the one before it; null for none."""


@dataclass(frozen=True)
class TrainingConfig:
    """Length, precision and devices of the training."""

    steps_per_validation: _Count = 100
    """Training steps between validations; one epoch of the progress bar."""
    max_validations: _Count = 60
    """Maximum number of validations."""
    monitor: Literal["map_at_r", "precision_at_1"] = "map_at_r"
    """Validation metric that selects the best weights and ends proxy problems and training."""
    patience: _Count = 15
    """Validations without improvement of monitor after which training ends."""
    max_minutes: Optional[_Positive] = None
    """Minutes after which training ends; null for no limit."""
    average_momentum: Optional[_UpToOne] = None
    """Evaluate and keep a moving average of the weights with this momentum, 0 to 1; null for the weights themselves."""
    geometry: bool = True
    """Log covering radius, distances and margins of the embeddings at each validation."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Keras dtype policy."""
    jit_compile: bool = False
    """Compile the training step with XLA."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of storing them: less memory, but slower. Batch normalization
    must be frozen."""
    strategy: Literal["single", "mirrored", "multi_worker"] = "single"
    """Devices: 'single' for one; 'mirrored' for all of this machine; 'multi_worker' for those of the workers in the
    variable TF_CONFIG, each started with the same command. Results are the same up to rounding."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation of the trained network."""

    batch_size: _UpToMillion = 256
    """Images per batch."""
    recall_at: tuple[_Count, ...] = (1, 2, 4, 8)
    """Values of k for recall@k."""
    figures: bool = True
    """Draw figures."""
    keep_embeddings: bool = False
    """Save the embeddings of the test images in the run folder; protocols need them."""
    queries: _Count = 8
    """Number of queries in the figures of neighbors and pooling weights."""
    neighbors: _Count = 8
    """Number of neighbors per query in the figure."""
    search: Literal["exact", "faiss"] = "exact"
    """Search among test embeddings: 'faiss' is approximate, for very large datasets, and reports its recall.
    Validation is always exact."""


@dataclass(frozen=True)
class ProtocolConfig:
    """Runs of the recipe that make up one result."""

    name: Literal["single", "fair", "conventional", "cross_validation", "fixed_validation"] = "single"
    """'single': one run with the classes of data. 'fair': a run for each of 4 contiguous parts of the training classes,
    which validates on that part; reports their mean, and their embeddings concatenated. 'conventional': validation on
    the test classes. 'cross_validation': a run for each of 10 random parts of the training classes.
    'fixed_validation': validation on the last of 10 parts."""
    folds: Optional[Annotated[int, "[2, 4294967296]"]] = None
    """Parts of the training classes; null for 4 in 'fair', 10 in 'cross_validation' and 'fixed_validation'."""
    repeats: _Count = 1
    """Number of repetitions of each run, with different seeds."""


@dataclass(frozen=True)
class Recipe:
    """Recipe of a training run or of the runs of a protocol.

    Example:
        >>> Recipe(seed=3).batches.size
        32
    """

    name: str = "default"
    """Name of the recipe, with which the names of its run folders start."""
    description: str = ""
    """One-line description."""
    seed: _AnyInteger = 0
    """Seed of the initial weights, the batches and the CCP pools."""
    imports: tuple[str, ...] = ()
    """Modules and .py files that register names used in the recipe. Imported only with --import or --trust."""
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    data: DataConfig = field(default_factory=DataConfig)
    relation: RelationConfig = field(default_factory=RelationConfig)
    batches: BatchConfig = field(default_factory=BatchConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    references: ReferenceConfig = field(default_factory=ReferenceConfig)
    ccp: CCPConfig = field(default_factory=CCPConfig)
    zero_shot: ZeroShotConfig = field(default_factory=ZeroShotConfig)
    cross_batch: CrossBatchConfig = field(default_factory=CrossBatchConfig)
    mixing: MixingConfig = field(default_factory=MixingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    @property
    def has_head(self):
        """Whether the data are features instead of images."""
        return self.data.name == "features"

    @property
    def has_relation(self):
        """Whether pairs are those of a relation of annotations instead of classes."""
        return self.relation.name not in ("same_class", "SameClass")

    @property
    def in_batch_weight(self):
        """Weight of the loss inside the batch, with its default."""
        given = self.ccp.in_batch_weight if self.ccp.enabled else None
        given = self.references.in_batch_weight if given is None else given
        return (0.0 if self.references.name == "proxies" else 1.0) if given is None else given

    @property
    def has_prototypes(self):
        """Whether the pooling has the prototypes of `model.gsp`: with losses on attributes, that of 'gap' does, too."""
        return self.model.has_gsp or self.has_attributes

    @property
    def has_attributes(self):
        """Whether the pooling returns attributes for a loss on them."""
        return self.zero_shot.enabled or self.cross_batch.enabled

    @property
    def has_prototype_warmup(self):
        """Whether the network pools by the average until prototypes are chosen."""
        start = self.model.gsp.start
        return self.model.has_gsp and start == "warmup" or self.has_prototypes and start == "pooled"

    @property
    def warmup_batches(self):
        """Number of training batches with the samples of `model.gsp.warmup_samples`."""
        return -(-self.model.gsp.warmup_samples // self.batches.size)

    @property
    def warmup_validations(self):
        """Validations before prototypes are chosen; their weights cannot become the best ones."""
        if not self.has_prototype_warmup:
            return 0
        if self.model.gsp.start == "pooled":
            # The warm-up ends before the validation that follows its last step.
            return (self.warmup_batches - 1) // self.training.steps_per_validation
        return self.model.gsp.warmup_validations

    def __post_init__(self):
        if problem := interval_problem(self):
            raise RecipeError(problem)
        for key, kind in (("backbone", "backbones"), ("pooling", "poolings")):
            name = getattr(self.model, key)
            if not names.is_known(kind, name):
                known = names.candidates(kind, name)
                raise RecipeError(
                    f"Unknown {key}. Received: model.{key}={name!r}. Expected: one of {', '.join(known)}. "
                    f"Did you mean {nearest_name(name, known)!r}?"
                )
        conflicts = (*self._conflicts(), *self._conflicts_of_features(), *self._conflicts_of_relations())
        for is_wrong, keys, expected, *problem in conflicts:
            if is_wrong:
                received = " with ".join(f"{key}={_shown(self, key)}" for key in keys.split())
                raise RecipeError(" ".join([*problem, f"Received: {received}. Expected: {expected}."]))

    # fmt: off
    def _conflicts(self):
        """Forbidden conditions, each with the keys that the error shows, what it expects, and its first sentence."""
        data, model, ccp, zero_shot, optimizer = self.data, self.model, self.ccp, self.zero_shot, self.optimizer
        cross_batch = self.cross_batch
        protocol, references, training = self.protocol, self.references, self.training
        has_fold, is_mixed = data.fold is not None, self.mixing.name != "none"
        shares = [share for share in (data.validation_classes, data.test_classes) if isinstance(share, float)]
        return (
            (set(self.name) & set("\\\0") or set(self.name.split("/")) & {"", ".", ".."}, "name",
             "text that can name a folder, with / between its parts"),
            (not 0 <= self.seed < 2**32, "seed", "0 <= seed < 2**32"),
            (not self.evaluation.recall_at, "evaluation.recall_at", "integers >= 1"),
            (sum(shares) >= 1 and not has_fold, "data.validation_classes data.test_classes",
             "a sum less than 1, so that classes remain for training"),
            (data.fold is not None and not 0 <= data.fold < data.folds, "data.fold",
             f"0 <= fold < folds={data.folds}, or null"),
            (has_fold and data.validates_on_test, "data.fold data.validation_classes", "one of the two",
             "A fold validates on training classes, not on test classes."),
            (references.name == "batch" and self.batches.samples_per_class < 2, "batches.samples_per_class",
             "at least 2 with references.name='batch', for positive pairs"),
            (model.has_gsp and model.pooling_options, "model.pooling_options model.pooling", "none",
             "The options of generalized sum pooling are in model.gsp."),
            (self.warmup_validations >= training.max_validations,
             f"model.gsp.warmup_{'samples' if model.gsp.start == 'pooled' else 'validations'}",
             "less than training.max_validations="
             f"{training.max_validations}{' of average pooling' if model.gsp.start == 'pooled' else ''}"),
            (self.has_prototypes and model.gsp.start == "pooled" and model.gsp.warmup_samples < model.gsp.prototypes,
             "model.gsp.warmup_samples model.gsp.prototypes", "at least one sample per prototype"),
            (self.has_prototypes and model.gsp.start == "pooled" and model.gsp.kernel_size is not None,
             "model.gsp.start model.gsp.kernel_size", "another start, or model.gsp.kernel_size=null",
             "Convolutional prototypes are patches, not pooled features."),
            (model.gsp.project and not model.has_gsp, "model.gsp.project model.pooling",
             "model.pooling='gsp', 'gsp_gem' or 'gsp_gmp'"),
            (model.gsp.project and (model.embed_before_pooling or model.has_class_token),
             "model.gsp.project model.embed_before_pooling model.pooling",
             "model.embed_before_pooling=false and no class token", "The pooling contains the embedding layer."),
            (ccp.enabled and not references.has_proxies, "ccp.enabled references.name",
             "references.name='proxies' or 'proxies_and_memory', or ccp.enabled=false", "CCP needs class proxies."),
            (ccp.enabled and ccp.refresh == "memory" and ccp.k_center_on == "head", "ccp.refresh ccp.k_center_on",
             "one of the two", "The memory holds embeddings."),
            (ccp.enabled and training.average_momentum is not None, "ccp.enabled training.average_momentum",
             "one of the two", "CCP returns to the weights that solved a problem, which are not an average."),
            (ccp.enabled and not ccp.reinitialize and ccp.max_steps is not None, "ccp.reinitialize ccp.max_steps",
             "ccp.max_steps=null", "If proxies are never chosen again, there is only one problem."),
            (zero_shot.enabled and model.pooling_options, "model.pooling_options", "none",
             "With a zero-shot loss, 'gap' is generalized sum pooling with ratio 1."),
            (zero_shot.enabled and not (model.has_gsp or model.patch_pooling == "gap"),
             "zero_shot.enabled model.pooling",
             "model.pooling='gsp', 'gsp_gem', 'gsp_gmp' or 'gap'", "This pooling has no attributes."),
            (is_mixed and references.name != "proxies", "mixing.name references.name", "references.name='proxies'",
             "Mixed images have two labels, which only proxies accept."),
            (is_mixed and self.in_batch_weight, "mixing.name references.in_batch_weight ccp.in_batch_weight",
             "0 or null", "Inside the batch, mixed images cannot be compared."),
            (is_mixed and zero_shot.enabled, "mixing.name zero_shot.enabled", "one of the two",
             "The zero-shot loss needs one label per image."),
            (cross_batch.enabled and model.pooling_options, "cross_batch.enabled model.pooling_options", "none",
             "With a cross-batch loss, 'gap' is generalized sum pooling with ratio 1."),
            (cross_batch.enabled and not (model.has_gsp or model.patch_pooling == "gap"),
             "cross_batch.enabled model.pooling",
             "model.pooling='gsp', 'gsp_gem', 'gsp_gmp' or 'gap'", "This pooling has no attributes."),
            (cross_batch.enabled and zero_shot.enabled and cross_batch.weight + zero_shot.weight > 1,
             "cross_batch.weight zero_shot.weight", "a sum of at most 1", "Nothing is left for the metric loss."),
            (is_mixed and ccp.enabled and ccp.refresh == "memory", "mixing.name ccp.refresh", "ccp.refresh='embed'",
             "The memory of recent embeddings needs one label per image."),
            (is_mixed and cross_batch.enabled, "mixing.name cross_batch.enabled", "one of the two",
             "The cross-batch loss needs one label per image."),
            (training.gradient_checkpointing and zero_shot.enabled,
             "training.gradient_checkpointing zero_shot.enabled", "one of the two"),
            (training.gradient_checkpointing and cross_batch.enabled,
             "training.gradient_checkpointing cross_batch.enabled", "one of the two"),
            (None not in (optimizer.plateau_patience, optimizer.decay_epochs),
             "optimizer.decay_epochs optimizer.plateau_patience", "one of the two",
             "The learning rate decays either by a schedule or on a plateau."),
            (optimizer.schedule != "constant" and (optimizer.decay_epochs or optimizer.plateau_patience),
             "optimizer.schedule optimizer.decay_epochs optimizer.plateau_patience", "one of the three",
             "The learning rate decays in one way."),
            (optimizer.schedule_warmup_steps and optimizer.schedule == "constant",
             "optimizer.schedule_warmup_steps optimizer.schedule", "optimizer.schedule='cosine' or 'linear'"),
            (optimizer.schedule_warmup_steps >= training.steps_per_validation * training.max_validations,
             "optimizer.schedule_warmup_steps",
             f"less than the {training.steps_per_validation * training.max_validations} training steps"),
            (optimizer.layer_decay is not None and optimizer.backbone_learning_rate_multiplier != 1.0,
             "optimizer.layer_decay optimizer.backbone_learning_rate_multiplier", "one of the two"),
            (optimizer.warmup_epochs and optimizer.name == "adamw" and optimizer.weight_decay,
             "optimizer.warmup_epochs optimizer.weight_decay",
             "optimizer.name=adam with optimizer.l2_weight_decay, or one of the two equal to 0",
             "The decoupled weight decay of adamw changes weights that the warm-up freezes."),
            (protocol.folds is not None and protocol.name in ("single", "conventional"), "protocol.folds protocol.name",
             "null"),
            (protocol.name != "single" and has_fold, "data.fold protocol.name",
             "data.fold=null, or protocol.name='single'", "The protocol sets the fold of each run."),
            (protocol.name == "single" and protocol.repeats != 1, "protocol.repeats protocol.name", "1"),
            (protocol.name != "single" and training.strategy == "multi_worker", "training.strategy protocol.name",
             "'mirrored', or protocol.name='single' with data.fold", "Several workers train one run at a time."),
        )

    def _conflicts_of_relations(self):
        relation, batches = self.relation, self.batches
        if not self.has_relation:
            expected = "another relation.name, or none of its options"
            return [(relation.options or relation.groups is not None,
                     "relation.name relation.options relation.groups", expected)]
        needs_classes = "This needs classes, and the relation compares annotations."
        return (
            (self.references.has_proxies, "references.name relation.name",
             "references.name='batch' or 'memory', and ccp.enabled=false", needs_classes),
            (self.references.has_memory and self.references.memory_size is None,
             "references.memory_size relation.name", "a number of embeddings",
             "Without classes, the memory has no default size."),
            (self.zero_shot.enabled, "zero_shot.enabled relation.name", "false", needs_classes),
            (self.cross_batch.enabled, "cross_batch.enabled relation.name", "false", needs_classes),
            (self.mixing.name != "none", "mixing.name relation.name", "'none'", needs_classes),
            (self.training.geometry, "training.geometry relation.name", "false", needs_classes),
            (self.protocol.name != "single", "protocol.name relation.name", "'single'", needs_classes),
            (self.evaluation.search != "exact", "evaluation.search relation.name", "'exact'",
             "A relation needs the exact search."),
            (batches.small_classes != "error", "batches.small_classes relation.name", "'error'", needs_classes),
            (batches.sampling != "class", "batches.sampling relation.name", "'class'; use relation.groups",
             needs_classes),
            (batches.superclasses_per_batch is not None, "batches.superclasses_per_batch relation.name", "null",
             needs_classes),
            (batches.samples_per_class < 2, "batches.samples_per_class relation.name", "at least 2",
             "Each image is drawn with a positive."),
        )

    def _conflicts_of_features(self):
        if not self.has_head:
            head = self.model.head
            return [(head != HeadConfig(), "model.head data.name", "data.name='features', or the default model.head")]
        unused = [f"data.{key}" for key in ("size", "channels", "short_side") if getattr(self.data, key) is not None]
        options = [f"model.{key}" for key in ("pooling_options", "backbone_options") if getattr(self.model, key)]
        return (
            *((True, key, "null with data.name='features'") for key in unused),
            (self.model.pooling != "gap", "model.pooling", "'gap' with data.name='features'"),
            *((True, key, "none with data.name='features'") for key in options),
            (self.zero_shot.enabled, "zero_shot.enabled", "false with data.name='features'"),
            (self.cross_batch.enabled, "cross_batch.enabled", "false with data.name='features'"),
            (self.augmentation.changes, "augmentation data.name", "no augmentation with data.name='features'"),
            (self.mixing.name == "cutmix", "mixing.name data.name", "'mixup' or 'none' with data.name='features'"),
        )
    # fmt: on


def _shown(recipe, key):
    value = functools.reduce(getattr, key.split("."), recipe)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else repr(value)
