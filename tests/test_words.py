"""Documentation, docstrings, comments and messages use the project's vocabulary and American spelling."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Files and folders whose text is checked.
COVERED = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "benchmarks",
    "docs",
    "studies",
    "tests/conftest.py",
    "tests/helpers",
    "tests/layers",
    "tests/linear",
    "tests/losses",
    "tests/metrics",
    "tests/miners",
    "tests/ops",
    "tests/studies",
    "tfdml/__init__.py",
    "tfdml/_utils",
    "tfdml/backbones",
    "tfdml/callbacks",
    "tfdml/data",
    "tfdml/export",
    "tfdml/layers",
    "tfdml/linear",
    "tfdml/losses",
    "tfdml/metrics",
    "tfdml/miners",
    "tfdml/models",
    "tfdml/ops",
    "tfdml/plots",
)
# From a regular expression to what to write instead.
WORDS = {
    r"pictures?": "image or figure",
    r"judg(?:e[sd]?|ing|e?ments?)": "evaluate, evaluation",
    r"anew": "again",
    r"beside": "next to, in addition to",
    r"so (?:many|much)": "each, the number of",
    r"as (?:many|much) as there (?:is|are)": "the number of",
    r"trainings": "training runs",
    r"data[ -]sets?": "dataset",
    r"(?:is|are) told": "default, option, argument, value",
    r"(?<!there )(?:is|are) no (?!longer|more|less|\w+er\b)\w+": "is not a, has no",
}
BRITISH = {
    r"colou?r(?<=our)\w*": "color",
    r"flavour\w*": "flavor",
    r"grey\w*": "gray",
    r"honour\w*": "honor",
    r"centre[sd]?": "center",
    r"(?:un)?favour\w*": "favor",
    r"neighbour\w*": "neighbor",
    r"behaviour\w*": "behavior",
    r"licence[sd]?": "license",
    r"artefacts?": "artifact",
    r"learnt": "learned",
    r"whilst": "while",
    r"(?:re|un)?labell(?:ed|ing)": "labeled",
    r"modell(?:ed|ing)": "modeling",
    r"cancell(?:ed|ing)": "canceled",
    r"analys(?:e[sd]?|ing)(?<!analyses)": "analyze",
    r"(?:re|un|de|in|non|over)?(?:normal|optim|maxim|minim|initial|general|special|regular|summar|organ|recogn|penal|random"
    r"|serial|visual|discret|vector|synchron|quant|parametr|memor|emphas|categor|standard|util|local|real"
    r")is(?:e[sd]?|ing|ations?)": "-ize",
}
# For text in lower case: `re.IGNORECASE`, or a `\b` in each alternative, takes ten times as long.
_ALTERNATIVES = "|".join(f"(?P<_{index}>{word})" for index, word in enumerate([*WORDS, *BRITISH]))
_FORBIDDEN = re.compile(rf"\b(?=[a-z])(?:{_ALTERNATIVES})(?!\w)")
_INSTEAD = [*WORDS.values(), *BRITISH.values()]
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_COMMENT = re.compile(r"(?:^|\s)#\s.*")
# Words that a file uses in another sense, by path.
ALLOWED = {"tfdml/linear/nca.py": ("neighbourhood",)}  # The title of a paper.


def texts_of(path):
    """Yield the line number and the text of each passage of a file that a person reads."""
    source = path.read_text(encoding="utf-8")
    if not _FORBIDDEN.search(source.lower()):
        return
    if path.suffix != ".py":
        yield 1, source
        return
    for node in ast.walk(ast.parse(source)):
        # A string without a space is a name rather than prose.
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value
    for number, line in enumerate(source.splitlines(), 1):
        for comment in _COMMENT.findall(line):
            yield number, comment


def hits_in(path):
    """Yield a message about each forbidden word of a file."""
    name = path.relative_to(ROOT).as_posix()
    for first, text in texts_of(path):
        # Code is blanked out rather than removed, so that lines can be counted.
        prose = _CODE.sub(lambda code: "\n" * code.group().count("\n"), text.lower())
        for match in _FORBIDDEN.finditer(prose):
            if match.group() not in ALLOWED.get(name, ()):
                line = first + prose.count("\n", 0, match.start())
                yield f"{name}:{line}: {match.group()!r}; write: {_INSTEAD[int(match.lastgroup[1:])]}"


def files_of(covered):
    path = ROOT / covered
    if path.is_file():
        return [path]
    return sorted(file for suffix in ("md", "py", "yaml") for file in path.rglob(f"*.{suffix}"))


@pytest.mark.parametrize("covered", COVERED)
def test_words(covered):
    files = files_of(covered)
    assert files, f"Nothing to check in {covered}."
    assert not (hits := [hit for file in files for hit in hits_in(file)]), "\n".join(hits)


@pytest.mark.parametrize(
    "text",
    ["a picture", "judged by", "ran anew", "beside it", "three trainings", "a data set", "it is no error", "colours"],
)
def test_forbidden(text):
    assert _FORBIDDEN.search(text)


@pytest.mark.parametrize("text", ["besides", "there is no error", "it is no longer here", "colors", "analyses"])
def test_permitted(text):
    assert not _FORBIDDEN.search(text)
