import pytest

from tfdml.experiments.errors import RecipeError
from tfdml.experiments.parsing import recipe_from_mapping
from tfdml.experiments.recipe_files import load_recipe, nested


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data.validation_classes": 0.0},
            "data.validation_classes=0.0; expected 0 < validation_classes < 1",
        ),
        ({"data.test_classes": 1.5}, "data.test_classes=1.5"),
        ({"data.validation_classes": 0.5, "data.test_classes": 0.5}, "expected less than 1"),
        ({"batches.classes": 1}, "batches.classes=1; expected at least 2"),
        ({"batches.samples_per_class": 0}, "batches.samples_per_class=0"),
        ({"model.backbone": "resnet20v3"}, "Did you mean 'resnet20v2'?"),
        ({"model.pooling": "gspp"}, "Did you mean 'gsp'?"),
        ({"model.gsp.solver": "newtown"}, "model.gsp.solver"),
        ({"model.pooling_options": {"ratio": 0.5}}, "are in model.gsp. Received: model.pooling_options={'ratio': 0.5}"),
        ({"model.gsp.start": "warmup", "model.gsp.warmup_validations": 0}, "warmup_validations=0; expected at least 1"),
        (
            {"model.gsp.start": "warmup", "training.max_validations": 1},
            "model.gsp.warmup_validations=1; expected less than training.max_validations=1",
        ),
        ({"zero_shot.weight": 1.5}, "zero_shot.weight=1.5; expected 0 <= weight <= 1"),
        ({"zero_shot.enabled": True, "model.pooling": "gmp"}, "has no attributes. Received: zero_shot.enabled=true"),
        (
            {"zero_shot.enabled": True, "model.pooling": "gap", "model.pooling_options": {"exponent": 2}},
            "model.pooling_options={'exponent': 2}; expected none",
        ),
        ({"references.in_batch_weight": -0.5}, "references.in_batch_weight=-0.5; expected at least 0, or null"),
        ({"references.name": "memories"}, "references.name"),
        ({"references.name": "batch"}, "CCP draws class proxies"),
        ({"references.name": "memory"}, "references.name='memory'; expected references.name='proxies'"),
        (
            {"references.name": "batch", "ccp.enabled": False, "batches.samples_per_class": 1},
            "batches.samples_per_class=1; expected at least 2",
        ),
        ({"optimizer.learning_rate": 0.0}, "optimizer.learning_rate=0.0; expected above 0"),
        ({"optimizer.learning_rate": float("nan")}, "optimizer.learning_rate is not finite. Received: nan"),
        ({"optimizer.beta_2": 1.0}, "optimizer.beta_2=1.0; expected 0 <= beta_2 < 1"),
        ({"optimizer.global_clipnorm": -1.0}, "optimizer.global_clipnorm=-1.0"),
        ({"optimizer.proxy_learning_rate_multiplier": 0.0}, "multiplier=0.0; expected above 0"),
        ({"optimizer.l2_weight_decay": -1.0}, "optimizer.l2_weight_decay=-1.0; expected at least 0"),
        ({"optimizer.warmup_epochs": -1.0}, "optimizer.warmup_epochs=-1.0; expected at least 0"),
        ({"optimizer.decay_epochs": 0.0}, "optimizer.decay_epochs=0.0; expected above 0, or null"),
        ({"optimizer.decay_factor": 1.5}, "optimizer.decay_factor=1.5; expected 0 < decay_factor <= 1"),
        (
            {"optimizer.name": "adamw", "optimizer.warmup_epochs": 1.0},
            "optimizer.warmup_epochs=1 with optimizer.weight_decay=0.0001; expected optimizer.name=adam",
        ),
        ({"training.steps_per_validation": 0}, "training.steps_per_validation=0"),
        ({"training.max_minutes": 0.0}, "training.max_minutes=0.0"),
        ({"training.precision": "float8"}, "training.precision"),
        ({"evaluation.recall_at": []}, "evaluation.recall_at"),
        ({"evaluation.recall_at": [0]}, "evaluation.recall_at"),
        ({"seed": -1}, "seed=-1; expected 0 <= seed < 2"),
        ({"name": "a//b"}, "name='a//b'; expected text that can name a folder"),
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
        ({"data.size": 32}, "data.size=32; expected null with data.name='features'"),
        ({"data.channels": 1}, "data.channels=1; expected null"),
        ({"data.short_side": 256}, "data.short_side=256; expected null"),
        ({"model.pooling": "gsp"}, "model.pooling='gsp'; expected 'gap' with data.name='features'"),
        ({"model.pooling_options": {"power": 2}}, "model.pooling_options={'power': 2}; expected none"),
        ({"model.backbone_options": {"weights": "x"}}, "model.backbone_options={'weights': 'x'}; expected none"),
        ({"zero_shot.enabled": True}, "zero_shot.enabled=true; expected false with data.name='features'"),
        ({"augmentation.rotation": 5.0}, "augmentation with data.name='features'"),
        ({"augmentation.horizontal_flip": True}, "augmentation with data.name='features'"),
        ({"model.head.hidden": [8, 10**7]}, "model.head.hidden=(8, 10000000); expected at most 1,048,576"),
        ({"data.name": "digits", "model.head.hidden": [8]}, "with data.name='digits'; expected data.name='features'"),
    ],
)
def test_what_contradicts_a_head(changes, message):
    with pytest.raises(RecipeError) as error:
        load_recipe("features", changes)
    assert message in str(error.value)
