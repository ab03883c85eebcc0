import pytest

from tfdml._utils import limited_yaml


def test_plain_values():
    assert limited_yaml.load("a: [1, 1e-3, x, 2020-01-02]") == {"a": [1, 1e-3, "x", "2020-01-02"]}
    assert limited_yaml.load("") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML: "),
        ("x" * 1_000_001, "too long. Received: 1,000,001 characters."),
        ("a: &a [*a]", "nested deeper than 32 levels"),
        ("{a: 1, a: 2}", "the key 'a' is given twice, again in line 1"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(ValueError, match="^(not valid|too long)") as error:
        limited_yaml.load(text)
    assert message in str(error.value) and "\n" not in str(error.value)
