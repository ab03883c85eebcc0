"""A recipe: everything that decides a training run, as typed dataclasses."""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, Optional, Union

from tfdml.experiments import names
from tfdml.experiments.errors import RecipeError, nearest_key


@dataclass(frozen=True)
class DataConfig:
    """Which pictures, brought to which shape, and which classes are kept for validation and test."""

    name: str = "glyphs"
    """Data set of the registry, or 'folder' with the option 'path'."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the data set takes, as in --data.options.path PICTURES."""
    size: Union[int, tuple[int, int], None] = None
    """Height and width in pixels, one number for both; null takes them from the data set."""
    channels: Optional[int] = None
    """1 (grey) or 3 (colour); null takes them from the data set."""
    short_side: Optional[int] = None
    """Scale the shorter side to so many pixels and cut out the centre; null stretches to the size."""
    validation_classes: Union[float, Literal["test"]] = 0.2
    """Share of the classes that choose the best weights, 0 to 1; 'test' chooses them by the test classes themselves."""
    test_classes: Union[float, Literal["published"]] = 0.3
    """Share of the classes that only the final metrics see, 0 to 1; 'published' for those of the data set's authors, or
    the second half of the classes."""
    split_seed: Optional[int] = None
    """Shuffles the classes before they are split, but for published test classes; null keeps their order."""
    fold: Optional[int] = None
    """Number, from 0, of the part of the training classes that validates in place of validation_classes; or null."""
    folds: int = 4
    """How many parts the training classes are divided into for fold."""

    def __post_init__(self):
        # The data of a run are known when they are loaded; what is wrong with every data set is told before.
        shares = {
            key: getattr(self, key)
            for key, word in (("validation_classes", "test"), ("test_classes", "published"))
            if getattr(self, key) != word
        }
        for key, share in shares.items():
            _check(0 < share < 1, f"data.{key}", share, f"0 < {key} < 1")
        _check(
            sum(shares.values()) < 1 or self.fold is not None,
            "data.validation_classes + data.test_classes",
            sum(shares.values()),
            "less than 1: training needs classes",
        )
        _check(self.folds >= 2, "data.folds", self.folds, "at least 2")
        if self.fold is not None:
            _check(0 <= self.fold < self.folds, "data.fold", self.fold, f"0 <= fold < folds={self.folds}, or null")
            if self.validates_on_test:
                raise RecipeError(
                    "A fold validates on training classes. Received: data.fold="
                    f"{self.fold} with data.validation_classes='test'; expected one of the two."
                )

    @property
    def validates_on_test(self):
        """Whether the test classes choose the best weights, as in the conventional protocol."""
        return self.validation_classes == "test"

    @property
    def image_size(self):
        """`(height, width)`, or None for that of the data set."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


@dataclass(frozen=True)
class BatchConfig:
    """How a training batch is drawn: so many classes, so many pictures of each."""

    classes: int = 8
    """Classes in a batch."""
    samples_per_class: int = 4
    """Pictures of each class in a batch."""

    def __post_init__(self):
        _check(
            self.classes >= 2, "batches.classes", self.classes, "at least 2, or there are no negative pairs"
        )
        _check(self.samples_per_class >= 1, "batches.samples_per_class", self.samples_per_class, "at least 1")

    @property
    def size(self):
        """Pictures in a batch."""
        return self.classes * self.samples_per_class


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes of the training pictures; all 0 for none."""

    rotation: float = 0.0
    """Largest rotation in degrees, either way."""
    scale: float = 0.0
    """Largest relative change of size, either way."""
    shear: float = 0.0
    """Largest horizontal shear, either way."""
    translation: float = 0.0
    """Largest shift along each axis as a share of the side, either way."""
    horizontal_flip: bool = False
    """Whether every other picture is mirrored."""
    crop_area: Optional[tuple[float, float]] = None
    """Smallest and largest share of the area that a random crop keeps; null for no crop."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width by height of a crop."""

    @property
    def changes(self):
        """Whether a picture is changed at all."""
        return any(getattr(self, field.name) for field in fields(self) if field.name != "crop_aspect")


@dataclass(frozen=True)
class GSPConfig:
    """Generalized sum pooling (`gsp`, `gsp_gmp`), and the prototypes of `gap` with zero_shot."""

    prototypes: int = 64
    """Number of trainable prototypes."""
    ratio: float = 0.3
    """Share of the local features' mass that is kept, above 0 and at most 1."""
    smoothing: float = 5.0
    """Entropy smoothing, above 0: small weighs all features alike, large selects."""
    solver: Literal["newton", "bregman"] = "newton"
    """Solver of the transport problem."""
    start: Literal["k_center", "random", "warmup"] = "k_center"
    """First prototypes: greedy k-center of the untrained network's local features, random, or 'warmup': k-center of
    the local features after some validations with average pooling."""
    warmup_validations: int = 1
    """Validations, and the training steps before each, with average pooling when start is 'warmup'."""

    def __post_init__(self):
        value = self.warmup_validations
        _check(value >= 1, "model.gsp.warmup_validations", value, "at least 1")


@dataclass(frozen=True)
class HeadConfig:
    """What embeds frozen features (data.name `features`), in place of backbone and pooling."""

    input_size: Optional[int] = None
    """Numbers in a feature; null takes them from the data."""
    hidden: tuple[int, ...] = ()
    """Sizes of the hidden layers; [] for a linear head."""
    activation: str = "relu"
    """Activation of the hidden layers, by its name in Keras."""
    dropout: float = 0.0
    """Share of what each layer receives, the features among it, that training sets to 0; 0 to 1."""
    batch_normalization: bool = False
    """Whether the features and each hidden layer are batch-normalised."""

    def __post_init__(self):
        size = self.input_size
        _check(size is None or size >= 1, "model.head.input_size", size, "at least 1, or null")
        _check(min(self.hidden, default=1) >= 1, "model.head.hidden", self.hidden, "integers >= 1")
        _check(0 <= self.dropout < 1, "model.head.dropout", self.dropout, "0 <= dropout < 1")


@dataclass(frozen=True)
class ModelConfig:
    """The embedder: backbone, pooling, embedding, normalization."""

    backbone: str = "resnet20v2"
    """Network from pictures to local features."""
    backbone_options: dict[str, Any] = field(default_factory=dict)
    """What the backbone takes, as in --model.backbone_options.weights imagenet."""
    pooling: str = "gsp"
    """'gap' (average), 'gsp' (generalized sum pooling), or another pooling of tfdml by its name."""
    pooling_options: dict[str, Any] = field(default_factory=dict)
    """What a pooling without a section of its own takes, as in --model.pooling_options.power 4."""
    gsp: GSPConfig = field(default_factory=GSPConfig)
    """Generalized sum pooling."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """Embeds features in place of backbone and pooling."""
    embedding_size: int = 128
    """Size of the local features that are pooled; that of the embedding, too, unless the pooling gives another."""
    embed_before_pooling: bool = True
    """Whether local features are brought to embedding_size, or what is pooled of them; the same for average pooling."""
    normalization: Literal["l2", "clip", "none"] = "clip"
    """Embeddings of unit length, of at most unit length, or as they are."""
    first_weights: Optional[str] = None
    """best.weights.h5 of a run with the same network, to go on from; null for random weights."""

    def __post_init__(self):
        _check_name("model.backbone", self.backbone, "backbones")
        _check_name("model.pooling", self.pooling, "poolings")
        if self.has_gsp and self.pooling_options:
            raise RecipeError(
                f"The options of generalized sum pooling are in model.gsp. Received: model.pooling_options="
                f"{self.pooling_options} with model.pooling={self.pooling!r}."
            )

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
    """Which pairs of a loss count."""

    name: Optional[str] = None
    """Miner of tfdml; null for all pairs."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the miner takes, as in --loss.miner.options.distance cosine."""


@dataclass(frozen=True)
class LossConfig:
    """What is minimised."""

    name: str = "c2"
    """Loss of tfdml, or 'addons.' and a class of tensorflow_addons.losses, as in addons.TripletHardLoss."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the loss takes, as in --loss.options.negative_margin 0.6."""
    miner: MinerConfig = field(default_factory=MinerConfig)
    """Which pairs of the loss count."""


@dataclass(frozen=True)
class ReferenceConfig:
    """What the loss compares a batch with."""

    name: Literal["batch", "proxies", "memory", "proxies_and_memory"] = "proxies"
    """The batch itself, trainable proxies of the classes, a memory of past batches, or both of them."""
    per_class: int = 4
    """Proxies of each class."""
    memory_size: Optional[int] = None
    """Pictures whose embeddings the memory holds; null for two passes over the classes, so that all have positives."""
    memory_warmup: int = 1000
    """Training steps before the memory is compared with."""
    in_batch_weight: Optional[float] = None
    """Weight of the same loss inside the batch; null for 0 with proxies alone, else 1."""

    def __post_init__(self):
        _check(self.per_class >= 1, "references.per_class", self.per_class, "at least 1")
        _check(self.memory_warmup >= 0, "references.memory_warmup", self.memory_warmup, "at least 0")
        for key, least in (("memory_size", 1), ("in_batch_weight", 0)):
            value = getattr(self, key)
            _check(value is None or value >= least, f"references.{key}", value, f"at least {least}, or null")

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
    """Whether the proxies are drawn anew whenever a problem is solved."""
    pool_size: int = 12
    """Pictures of each class among which greedy k-center chooses; 1 for random proxies."""
    patience: int = 3
    """Validations without a better MAP@R after which a problem counts as solved."""
    projection_weight: float = 2e-4
    """Pull towards the weights that solved the problem before."""
    projection_decay: float = 1.0
    """The pull of a problem relative to that of the one before, 0 to 1."""
    outer_patience: Optional[int] = None
    """Training ends after so many problems without a better MAP@R; null for no such limit."""
    in_batch_weight: Optional[float] = None
    """Weight of the same loss inside the batch, under CCP; null for references.in_batch_weight."""

    def __post_init__(self):
        for key in ("pool_size", "patience"):
            _check(getattr(self, key) >= 1, f"ccp.{key}", getattr(self, key), "at least 1")
        _check(self.projection_weight >= 0, "ccp.projection_weight", self.projection_weight, "at least 0")
        _check(0 <= self.projection_decay <= 1, "ccp.projection_decay", self.projection_decay, "0 to 1")
        for key, least in (("outer_patience", 1), ("in_batch_weight", 0)):
            value = getattr(self, key)
            _check(value is None or value >= least, f"ccp.{key}", value, f"at least {least}, or null")


@dataclass(frozen=True)
class ZeroShotConfig:
    """The zero-shot prediction loss of the pooling's attributes, for 'gsp', 'gsp_gmp' and 'gap'."""

    enabled: bool = False
    """Whether attributes that were fitted on half of a batch's classes must predict the other half."""
    weight: float = 0.1
    """Its weight, 0 to 1; the other loss has the rest."""
    dim: Optional[int] = None
    """Size of the trainable label embeddings; null for that of the picture embeddings."""
    ridge: float = 0.05
    """Ridge of the regression from attributes to label embeddings, above 0."""
    temperature: float = 0.10526
    """Temperature of the softmax over the training classes, above 0."""

    def __post_init__(self):
        _check(0 <= self.weight <= 1, "zero_shot.weight", self.weight, "0 <= weight <= 1")
        _check(self.dim is None or self.dim >= 1, "zero_shot.dim", self.dim, "at least 1, or null")
        for key in ("ridge", "temperature"):
            _check(getattr(self, key) > 0, f"zero_shot.{key}", getattr(self, key), "above 0")


@dataclass(frozen=True)
class OptimizerConfig:
    """How the weights are updated."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """Keras' optimizer: Adam, AdamW (decoupled weight decay) or SGD (with momentum)."""
    learning_rate: float = 1e-3
    """Learning rate, of the network and what a multiplier does not change."""
    beta_2: float = 0.999
    """Decay of the second moment (adam, adamw)."""
    momentum: float = 0.9
    """Momentum (sgd)."""
    weight_decay: float = 1e-4
    """Decoupled weight decay (adamw)."""
    l2_weight_decay: float = 0.0
    """L2 term in the gradients of the network's weights, batch normalization left out (any optimizer)."""
    global_clipnorm: Optional[float] = 10.0
    """Largest norm of all gradients together; null for no clipping."""
    proxy_learning_rate_multiplier: float = 1.0
    """So many times faster is what lies outside the network trained: proxies, and what a loss learns."""
    warmup_epochs: float = 0.0
    """So many passes over the training pictures train only the embedding layer and what lies outside."""
    decay_epochs: Optional[float] = None
    """The learning rate falls after every so many passes over the training pictures; null keeps it."""
    decay_factor: float = 0.1
    """To so much of itself does the learning rate fall."""
    plateau_patience: Optional[int] = None
    """The learning rate falls after so many validations without a better training.monitor; null keeps it."""
    plateau_factor: float = 0.5
    """To so much of itself does the learning rate fall on a plateau."""

    def __post_init__(self):
        for key in ("learning_rate", "proxy_learning_rate_multiplier"):
            _check(getattr(self, key) > 0, f"optimizer.{key}", getattr(self, key), "above 0")
        _check(0 <= self.beta_2 < 1, "optimizer.beta_2", self.beta_2, "0 <= beta_2 < 1")
        _check(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "0 <= momentum < 1")
        _check(0 < self.decay_factor <= 1, "optimizer.decay_factor", self.decay_factor, "0 < decay_factor <= 1")
        _check(0 < self.plateau_factor < 1, "optimizer.plateau_factor", self.plateau_factor, "0 < plateau_factor < 1")
        patience = self.plateau_patience
        _check(patience is None or patience >= 1, "optimizer.plateau_patience", patience, "at least 1, or null")
        if patience is not None and self.decay_epochs is not None:
            raise RecipeError(
                "The learning rate falls by a schedule or on a plateau. Received: "
                f"optimizer.decay_epochs={self.decay_epochs:g} with optimizer.plateau_patience={patience}."
            )
        for key in ("weight_decay", "l2_weight_decay", "warmup_epochs"):
            _check(getattr(self, key) >= 0, f"optimizer.{key}", getattr(self, key), "at least 0")
        for key in ("global_clipnorm", "decay_epochs"):
            value = getattr(self, key)
            _check(value is None or value > 0, f"optimizer.{key}", value, "above 0, or null")
        if self.warmup_epochs and self.name == "adamw" and self.weight_decay:
            raise RecipeError(
                "The decoupled weight decay of adamw moves what the warm-up holds. Received: "
                f"optimizer.warmup_epochs={self.warmup_epochs:g} with optimizer.weight_decay={self.weight_decay:g}; "
                "expected optimizer.name=adam with optimizer.l2_weight_decay, or one of the two to be 0."
            )


@dataclass(frozen=True)
class TrainingConfig:
    """How long, and in which precision."""

    steps_per_validation: int = 100
    """Training steps between two validations; an epoch of the progress bar."""
    max_validations: int = 60
    """Training ends after so many validations at the latest."""
    monitor: Literal["map_at_r", "precision_at_1"] = "map_at_r"
    """The metric of the validation classes that chooses the best weights, ends a proxy problem and the training."""
    patience: int = 15
    """Training ends after so many validations without a better value of monitor."""
    max_minutes: Optional[float] = None
    """Training ends after so many minutes; null for no limit."""
    average_momentum: Optional[float] = None
    """Momentum of a moving average of the weights, which is then what is judged and kept, 0 to 1; null for none."""
    geometry: bool = True
    """Whether a validation also tells how the embeddings lie: covering radius, distances, room for the margin."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Keras' precision policy."""
    jit_compile: bool = False
    """Whether XLA compiles the training step."""
    strategy: Literal["single", "mirrored", "multi_worker"] = "single"
    """On which devices: 'single' is one; 'mirrored' are all of this machine; 'multi_worker' those of the workers that
    the variable TF_CONFIG names, each started with the same command. The weights are the same up to rounding."""

    def __post_init__(self):
        for key in ("steps_per_validation", "max_validations", "patience"):
            _check(getattr(self, key) >= 1, f"training.{key}", getattr(self, key), "at least 1")
        momentum = self.average_momentum
        _check(momentum is None or 0 <= momentum <= 1, "training.average_momentum", momentum, "0 to 1, or null")
        minutes = self.max_minutes
        _check(minutes is None or minutes > 0, "training.max_minutes", minutes, "above 0, or null")


@dataclass(frozen=True)
class EvaluationConfig:
    """What the finished network is judged by."""

    batch_size: int = 256
    """Pictures that are embedded at once."""
    recall_at: tuple[int, ...] = (1, 2, 4, 8)
    """The k of recall@k."""
    pictures: bool = True
    """Whether pictures are drawn."""
    keep_embeddings: bool = False
    """Whether the run folder keeps the embeddings of the test pictures; a protocol needs them."""
    queries: int = 8
    """Queries in the pictures of neighbours and pooling weights."""
    neighbors: int = 8
    """Neighbours of each query in the picture."""
    search: Literal["exact", "faiss"] = "exact"
    """How test embeddings are searched: 'faiss' is approximate, for very large sets, and also gives the recall of what
    it finds. Validation is always exact."""

    def __post_init__(self):
        for key in ("batch_size", "queries", "neighbors"):
            _check(getattr(self, key) >= 1, f"evaluation.{key}", getattr(self, key), "at least 1")
        _check(
            bool(self.recall_at) and min(self.recall_at) >= 1,
            "evaluation.recall_at",
            self.recall_at,
            "integers >= 1",
        )


@dataclass(frozen=True)
class ProtocolConfig:
    """Which runs of the recipe make a result."""

    name: Literal["single", "fair", "conventional", "cross_validation", "fixed_validation"] = "single"
    """'single': one run, with the classes that data gives. 'fair': a run for each of 4 contiguous parts of the training
    classes, which validates on it; their mean, and all of their embeddings side by side. 'conventional': validation on
    the test classes. 'cross_validation': a run for each of 10 random parts of the training classes.
    'fixed_validation': validation on the last of 10 parts."""
    folds: Optional[int] = None
    """Parts of the training classes; null for 4 in 'fair', 10 in 'cross_validation' and 'fixed_validation'."""
    repeats: int = 1
    """How often each run is done, with other seeds."""

    def __post_init__(self):
        _check(self.folds is None or self.folds >= 2, "protocol.folds", self.folds, "at least 2, or null")
        _check(self.repeats >= 1, "protocol.repeats", self.repeats, "at least 1")
        if self.folds is not None and self.name in ("single", "conventional"):
            raise RecipeError(f"Received: protocol.folds={self.folds} with protocol.name={self.name!r}; expected null.")


@dataclass(frozen=True)
class Recipe:
    """A training run, or the runs of a protocol. The recipe decides everything that happens."""

    name: str = "default"
    """The recipe's name, and the start of its run folders' names."""
    description: str = ""
    """One line on what it is."""
    seed: int = 0
    """Decides the first weights, the batches and the pools."""
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

    def __post_init__(self):
        _check(0 <= self.seed < 2**32, "seed", self.seed, "0 <= seed < 2**32")
        parts = self.name.split("/")
        named = not set(self.name) & set("\\\0") and not set(parts) & {"", ".", ".."}
        _check(named, "name", self.name, "text that can name a folder, / between its parts")
        _check_sizes(self, "")
        if self.ccp.enabled and not self.references.has_proxies:
            raise RecipeError(
                f"CCP draws class proxies. Received: ccp.enabled=true with references.name={self.references.name!r}; "
                "expected references.name='proxies' or 'proxies_and_memory', or ccp.enabled=false."
            )
        if self.ccp.enabled and self.training.average_momentum is not None:
            raise RecipeError(
                "CCP goes back to the weights that solved a problem, which are no average. Received: ccp.enabled=true "
                f"with training.average_momentum={self.training.average_momentum:g}."
            )
        if self.zero_shot.enabled and self.model.pooling_options:
            raise RecipeError(
                "With a zero-shot loss 'gap' is generalized sum pooling of all of the mass. Received: "
                f"model.pooling_options={self.model.pooling_options}; expected none."
            )
        if self.zero_shot.enabled and not (self.model.has_gsp or self.model.pooling == "gap"):
            raise RecipeError(
                f"This pooling has no attributes. Received: zero_shot.enabled=true with model.pooling="
                f"{self.model.pooling!r}; expected model.pooling='gsp', 'gsp_gmp' or 'gap'."
            )
        if self.protocol.name != "single" and self.data.fold is not None:
            raise RecipeError(
                f"The protocol gives each run its fold. Received: data.fold={self.data.fold} with "
                f"protocol.name={self.protocol.name!r}; expected data.fold=null, or protocol.name='single'."
            )
        if self.protocol.name == "single" and self.protocol.repeats != 1:
            raise RecipeError(
                f"Received: protocol.repeats={self.protocol.repeats} with protocol.name='single'; expected 1."
            )
        if self.protocol.name != "single" and self.training.strategy == "multi_worker":
            raise RecipeError(
                "Several workers train one run at a time. Received: training.strategy='multi_worker' with "
                f"protocol.name={self.protocol.name!r}; expected 'mirrored', or protocol.name='single' with data.fold."
            )
        self._check_head()
        warmup = self.warmup_validations
        _check(
            warmup < self.training.max_validations, "model.gsp.warmup_validations", warmup,
            f"less than training.max_validations={self.training.max_validations}",
        )  # fmt: skip
        _check(
            self.references.name != "batch" or self.batches.samples_per_class >= 2, "batches.samples_per_class",
            self.batches.samples_per_class, "at least 2 with references.name='batch', for positive pairs",
        )  # fmt: skip

    def _check_head(self):
        if not self.has_head:
            if self.model.head != HeadConfig():
                raise RecipeError(
                    f"A head embeds features. Received: model.head={self.model.head} with data.name="
                    f"{self.data.name!r}; expected data.name='features', or no model.head."
                )
            return
        for key in ("size", "channels", "short_side"):
            value = getattr(self.data, key)
            _check(value is None, f"data.{key}", value, "null with data.name='features', which are no pictures")
        _check(
            self.model.pooling == "gap", "model.pooling", self.model.pooling,
            "'gap' with data.name='features': there is no map to be pooled",
        )  # fmt: skip
        for key in ("pooling_options", "backbone_options"):
            value = getattr(self.model, key)
            _check(not value, f"model.{key}", value, "none with data.name='features'")
        _check(not self.zero_shot.enabled, "zero_shot.enabled", True, "false with data.name='features'")
        if self.augmentation.changes:
            raise RecipeError(
                "Features are taken as they are. Received: augmentation with data.name='features'; expected all of it "
                "to be 0."
            )

    @property
    def has_head(self):
        """Whether features are embedded rather than pictures."""
        return self.data.name == "features"

    @property
    def warmup_validations(self):
        """Validations before the pooling gets its prototypes and the best weights are looked for."""
        warms_up = self.model.has_gsp and self.model.gsp.start == "warmup"
        return self.model.gsp.warmup_validations if warms_up else 0


# More than that is a mistake, which would otherwise end in an allocation that fails, or in a training without an end.
_LARGEST = {
    "data.size": 2**14,
    "batches.classes": 2**20,
    "batches.samples_per_class": 2**20,
    "model.embedding_size": 2**16,
    "model.gsp.prototypes": 2**16,
    "model.head.hidden": 2**20,
    "references.per_class": 2**16,
    "ccp.pool_size": 2**20,
    "zero_shot.dim": 2**16,
    "evaluation.batch_size": 2**20,
}
_SMALLEST = {"data.size": 1, "data.short_side": 1, "model.embedding_size": 1, "model.gsp.prototypes": 1}


def _check_sizes(section, prefix):
    """Refuses integers that are out of all proportion."""
    for one in fields(section):
        key, value = prefix + one.name, getattr(section, one.name)
        if is_dataclass(value):
            _check_sizes(value, f"{key}.")
            continue
        most, least = _LARGEST.get(key, 2**32), _SMALLEST.get(key)
        for number in value if isinstance(value, tuple) else [value]:
            if isinstance(number, int) and not isinstance(number, bool):
                _check(number <= most, key, value, f"at most {most:,}")
                _check(least is None or number >= least, key, value, f"at least {least}")


def _check(right, key, value, expected):
    if not right:
        raise RecipeError(f"Received: {key}={value!r}; expected {expected}.")


def _check_name(key, value, kind):
    if not names.is_known(kind, value):
        known = names.registered(kind)
        raise RecipeError(
            f"Received: {key}={value!r}; expected one of {', '.join(known)}. "
            f"Did you mean {nearest_key(value, known)!r}?"
        )
