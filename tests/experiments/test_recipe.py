import pytest

from tfdml._utils.typed_values import nested, parse_yaml, to_mapping
from tfdml.experiments.errors import RecipeError
from tfdml.experiments.recipe import Recipe
from tfdml.experiments.recipe_files import load_recipe, recipe_from_mapping


def test_defaults_and_values():
    assert recipe_from_mapping({}) == Recipe()
    recipe = recipe_from_mapping(
        {"data": {"size": [18, 19], "options": {"path": "x"}}, "model": {"gsp": {"ratio": 1}}}
    )
    assert recipe.data.size == (18, 19)
    assert recipe.data.options == {"path": "x"}
    assert recipe.model.gsp.ratio == 1.0 and isinstance(recipe.model.gsp.ratio, float)


def test_mapping_round_trip():
    recipe = recipe_from_mapping({"data": {"size": [28, 32]}, "loss": {"options": {"negative_margin": 0.6}}})
    mapping = to_mapping(recipe)
    assert mapping["data"]["size"] == [28, 32] and mapping["evaluation"]["recall_at"] == [1, 2, 4, 8]
    assert recipe_from_mapping(mapping) == recipe


@pytest.mark.parametrize(
    ("mapping", "key", "nearest"),
    [
        ({"sead": 4}, "sead", "seed"),
        ({"model": {"gsp": {"ratoi": 4}}}, "model.gsp.ratoi", "model.gsp.ratio"),
        ({"learning_rate": 4}, "learning_rate", "optimizer.learning_rate"),
        ({"optimiser": {}}, "optimiser", "optimizer"),
        ({"model": {"gps": {}}}, "model.gps", "model.gsp"),
    ],
)
def test_unknown_key_names_the_nearest(mapping, key, nearest):
    with pytest.raises(RecipeError, match=f"Unknown key '{key}'. Did you mean '{nearest}'"):
        recipe_from_mapping(mapping)


@pytest.mark.parametrize(
    ("mapping", "key"),
    [
        ({"seed": 4.5}, "seed"),
        ({"seed": True}, "seed"),
        ({"seed": "many"}, "seed"),
        ({"data": {"name": 4}}, "data.name"),
        ({"data": {"size": [1, 2, 3]}}, "data.size"),
        ({"data": {"size": [1, "x"]}}, "data.size"),
        ({"data": {"options": [1]}}, "data.options"),
        ({"model": {"gsp": {"ratio": "much"}}}, "model.gsp.ratio"),
        ({"model": {"gsp": {"ratio": True}}}, "model.gsp.ratio"),
        ({"model": {"gsp": {"solver": "newtown"}}}, "model.gsp.solver"),
        ({"model": 3}, "model must be a section"),
        ({"model": {"gsp": 3}}, "model.gsp must be a section"),
        ({"optimizer": {"learning_rate": -1}}, "optimizer.learning_rate=-1.0. Expected: above 0"),
    ],
)
def test_wrong_values_are_named_in_one_line(mapping, key):
    with pytest.raises(RecipeError) as error:
        recipe_from_mapping(mapping)
    assert key in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"seed": "many"}, "seed has the wrong type or value. Received: 'many'. Expected: an integer."),
        ({"seed": 10**100}, "seed is too large. Received: an integer of 333 bits. Expected: less than 2**63."),
        ({"seed": 2**40}, "seed=1099511627776. Expected: 0 <= seed < 2**32"),
        ({10**6000: 1}, "Unknown key 'an integer of 19932 bits'."),
        ({"training": {"steps_per_validation": 10**20}}, "training.steps_per_validation is too large. Received: 1000"),
        ({"training": {"max_validations": 10**12}}, "max_validations=1000000000000. Expected: at most 4,294,9"),
        ({"model": {"embedding_size": 99999999999}}, "model.embedding_size=99999999999. Expected: at most 65,536"),
        ({"model": {"gsp": {"prototypes": 0}}}, "model.gsp.prototypes=0. Expected: at least 1"),
        ({"data": {"size": [8, 10**9]}}, "data.size=(8, 1000000000). Expected: at most 16,384"),
        ({"optimizer": {"learning_rate": float("inf")}}, "learning_rate is not finite. Received: inf. Expected: a fin"),
        ({"optimizer": {"learning_rate": "1e400"}}, "optimizer.learning_rate has the wrong type or value"),
        ({"loss": {"options": {"a": 10**20}}}, "loss.options has the wrong type or value"),
        ({"loss": {"options": {3: 1}}}, "Expected: a mapping from names of options to plain values."),
        ({"data": {"size": [1, 2, 3]}}, "Received: [1, 2, 3]. Expected: an integer or a list of 2 integers or null."),
        ({"data": {"test_classes": "all"}}, "Received: 'all'. Expected: a finite number or published."),
        ({"model": {"gsp": {"solver": ["a"]}}}, "Received: ['a']. Expected: one of newton, bregman."),
        ({"evaluation": {"recall_at": list(range(1, 99)) + ["x"]}}, "Received: a list of 99 items. Expected: a"),
        ({"name": ["x" * 500]}, "… (504 characters). Expected: text."),
    ],
)
def test_messages(mapping, message):
    with pytest.raises(RecipeError) as error:
        recipe_from_mapping(mapping)
    assert message in str(error.value) and len(str(error.value)) < 400


def test_numbers_in_text_and_in_exponents():
    for value in (1e-3, "1e-3", parse_yaml("1e-3", "x")):
        assert recipe_from_mapping({"optimizer": {"learning_rate": value}}).optimizer.learning_rate == 1e-3

@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data.validation_classes": 0.0},
            "data.validation_classes=0.0. Expected: 0 < validation_classes < 1",
        ),
        ({"data.test_classes": 1.5}, "data.test_classes=1.5"),
        ({"data.validation_classes": 0.5, "data.test_classes": 0.5}, "Expected: a sum less than 1"),
        ({"batches.classes": 1}, "batches.classes=1. Expected: at least 2"),
        ({"batches.samples_per_class": 0}, "batches.samples_per_class=0"),
        ({"model.backbone": "resnet20v3"}, "Did you mean 'resnet20v2'?"),
        ({"model.pooling": "gspp"}, "Did you mean 'gsp'?"),
        ({"model.gsp.solver": "newtown"}, "model.gsp.solver"),
        ({"model.pooling_options": {"ratio": 0.5}}, "are in model.gsp. Received: model.pooling_options={'ratio': 0.5}"),
        ({"model.gsp.start": "warmup", "model.gsp.warmup_validations": 0}, "warmup_validations=0. Expected: at least"),
        (
            {"model.gsp.start": "warmup", "training.max_validations": 1},
            "model.gsp.warmup_validations=1. Expected: less than training.max_validations=1",
        ),
        (
            {"model.gsp.start": "pooled", "model.gsp.warmup_samples": 99 * 32, "training.steps_per_validation": 49,
             "training.max_validations": 2},
            "model.gsp.warmup_samples=3168. Expected: less than training.max_validations=2 of average pooling",
        ),
        (
            {"model.gsp.start": "pooled", "model.gsp.warmup_samples": 63},
            "model.gsp.warmup_samples=63 with model.gsp.prototypes=64. Expected: at least one sample per prototype",
        ),
        (
            {"model.gsp.start": "pooled", "model.gsp.kernel_size": 3},
            "are patches, not pooled features. Received: model.gsp.start='pooled' with model.gsp.kernel_size=3",
        ),
        ({"model.gsp.kernel_size": 0}, "model.gsp.kernel_size=0. Expected: at least 1, or null"),
        ({"model.gsp.project": True}, "contains the embedding layer. Received: model.gsp.project=true with"),
        (
            {"model.gsp.project": True, "model.embed_before_pooling": False, "model.pooling": "gap"},
            "model.pooling='gap'. Expected: model.pooling='gsp', 'gsp_gem' or 'gsp_gmp'",
        ),
        ({"zero_shot.regressor": "lasso"}, "Expected: one of ridge, trained"),
        (
            {"cross_batch.enabled": True, "mixing.name": "mixup"},
            "cross-batch loss needs one label per image. Received: mixing.name='mixup' with cross_batch.enabled=true",
        ),
        ({"cross_batch.weight": -0.1}, "cross_batch.weight=-0.1. Expected: 0 <= weight <= 1"),
        ({"cross_batch.enabled": True, "model.pooling": "gmp"}, "no attributes. Received: cross_batch.enabled=true"),
        (
            {"cross_batch.enabled": True, "model.pooling": "gap", "model.pooling_options": {"exponent": 2}},
            "cross_batch.enabled=true with model.pooling_options={'exponent': 2}. Expected: none",
        ),
        (
            {"cross_batch.enabled": True, "cross_batch.weight": 0.6,
             "zero_shot.enabled": True, "zero_shot.weight": 0.5},
            "cross_batch.weight=0.6 with zero_shot.weight=0.5. Expected: a sum of at most 1",
        ),
        ({"zero_shot.weight": 1.5}, "zero_shot.weight=1.5. Expected: 0 <= weight <= 1"),
        ({"zero_shot.enabled": True, "model.pooling": "gmp"}, "has no attributes. Received: zero_shot.enabled=true"),
        (
            {"zero_shot.enabled": True, "model.pooling": "gap", "model.pooling_options": {"exponent": 2}},
            "model.pooling_options={'exponent': 2}. Expected: none",
        ),
        ({"references.in_batch_weight": -0.5}, "references.in_batch_weight=-0.5. Expected: at least 0, or null"),
        ({"references.name": "memories"}, "references.name"),
        ({"references.name": "batch"}, "CCP needs class proxies"),
        ({"ccp.reinitialize": False, "ccp.max_steps": 40}, "ccp.max_steps=40. Expected: ccp.max_steps=null"),
        ({"references.name": "memory"}, "references.name='memory'. Expected: references.name='proxies'"),
        (
            {"references.name": "batch", "ccp.enabled": False, "batches.samples_per_class": 1},
            "batches.samples_per_class=1. Expected: at least 2",
        ),
        ({"optimizer.learning_rate": 0.0}, "optimizer.learning_rate=0.0. Expected: above 0"),
        ({"optimizer.learning_rate": float("nan")}, "optimizer.learning_rate is not finite. Received: nan"),
        ({"optimizer.beta_2": 1.0}, "optimizer.beta_2=1.0. Expected: 0 <= beta_2 < 1"),
        ({"optimizer.global_clipnorm": -1.0}, "optimizer.global_clipnorm=-1.0"),
        ({"optimizer.proxy_learning_rate_multiplier": 0.0}, "multiplier=0.0. Expected: above 0"),
        ({"optimizer.l2_weight_decay": -1.0}, "optimizer.l2_weight_decay=-1.0. Expected: at least 0"),
        ({"optimizer.warmup_epochs": -1.0}, "optimizer.warmup_epochs=-1.0. Expected: at least 0"),
        ({"optimizer.decay_epochs": 0.0}, "optimizer.decay_epochs=0.0. Expected: above 0, or null"),
        ({"optimizer.decay_factor": 1.5}, "optimizer.decay_factor=1.5. Expected: 0 < decay_factor <= 1"),
        (
            {"optimizer.name": "adamw", "optimizer.warmup_epochs": 1.0},
            "optimizer.warmup_epochs=1 with optimizer.weight_decay=0.0001. Expected: optimizer.name=adam",
        ),
        ({"training.steps_per_validation": 0}, "training.steps_per_validation=0"),
        ({"training.max_minutes": 0.0}, "training.max_minutes=0.0"),
        ({"training.precision": "float8"}, "training.precision"),
        ({"evaluation.recall_at": []}, "evaluation.recall_at"),
        ({"evaluation.recall_at": [0]}, "evaluation.recall_at"),
        ({"seed": -1}, "seed=-1. Expected: 0 <= seed < 2"),
        ({"name": "a//b"}, "name='a//b'. Expected: text that can name a folder"),
        ({"name": ""}, "name=''"),
    ],
)
def test_impossible_values(changes, message):
    with pytest.raises(RecipeError) as error:
        recipe_from_mapping(nested(changes))
    assert message in str(error.value)


def test_image_size():
    assert load_recipe("default", {"data.size": 28}).data.image_size == (28, 28)
    assert load_recipe("default", {"data.size": [28, 32]}).data.image_size == (28, 32)
    assert load_recipe("default", {"data.size": None}).data.image_size is None


def test_the_warm_up_of_prototypes_belongs_to_generalized_sum_pooling():
    changes = {"model.gsp.start": "warmup", "model.gsp.warmup_validations": 3}
    assert load_recipe("gsp", changes).warmup_validations == 3
    assert load_recipe("gap", changes).warmup_validations == 0
    assert load_recipe("gsp").warmup_validations == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.size": 32}, "data.size=32. Expected: null with data.name='features'"),
        ({"data.channels": 1}, "data.channels=1. Expected: null"),
        ({"data.short_side": 256}, "data.short_side=256. Expected: null"),
        ({"model.pooling": "gsp"}, "model.pooling='gsp'. Expected: 'gap' with data.name='features'"),
        ({"model.pooling_options": {"power": 2}}, "model.pooling_options={'power': 2}. Expected: none"),
        ({"model.backbone_options": {"weights": "x"}}, "model.backbone_options={'weights': 'x'}. Expected: none"),
        ({"zero_shot.enabled": True}, "zero_shot.enabled=true. Expected: false with data.name='features'"),
        ({"augmentation.rotation": 5.0}, "augmentation with data.name='features'"),
        ({"augmentation.horizontal_flip": True}, "augmentation with data.name='features'"),
        ({"model.head.hidden": [8, 10**7]}, "model.head.hidden=(8, 10000000). Expected: at most 1,048,576"),
        ({"data.name": "digits", "model.head.hidden": [8]}, "with data.name='digits'. Expected: data.name='features'"),
    ],
)
def test_what_contradicts_a_head(changes, message):
    with pytest.raises(RecipeError) as error:
        load_recipe("features", changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("samples", "validations"), [(1024, 0), (50 * 32, 0), (50 * 32 + 1, 1), (100 * 32, 1), (100 * 32 + 1, 2)]
)
def test_validations_before_prototypes_are_chosen_among_pooled_features(samples, validations):
    changes = {"model.gsp.start": "pooled", "model.gsp.warmup_samples": samples, "training.steps_per_validation": 50}
    recipe = load_recipe("gsp", changes)
    assert recipe.has_prototype_warmup and recipe.warmup_batches == -(-samples // 32)
    assert recipe.warmup_validations == validations
    # The prototypes of 'gap' with a zero-shot loss start in the same way.
    assert not load_recipe("gap", changes).has_prototype_warmup
    assert load_recipe("gap", {**changes, "zero_shot.enabled": True}).warmup_validations == validations
