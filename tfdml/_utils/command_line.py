"""Command lines whose values are YAML of annotated types. Nothing here imports TensorFlow."""

from __future__ import annotations

import argparse
import contextlib
import functools
import re
import shutil
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tfdml._utils import limited_yaml
from tfdml._utils.input_errors import InputError
from tfdml._utils.naming import nearest_name
from tfdml._utils.typed_values import merge_mappings, metavar, nested, parse_yaml, read_text, read_value
from tfdml.version import __version__


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog):
        super().__init__(prog, max_help_position=28, width=min(100, shutil.get_terminal_size().columns) - 2)


class _MergeAction(argparse.Action):
    """Merge a mapping into the earlier values of the same option."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, merge_mappings(getattr(namespace, self.dest, {}), values))


class CommandParser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` without abbreviations, whose errors are one line and exit with code 2.

    argparse guesses abbreviated options and does not read YAML; jsonargparse reports types over several lines and
    expands YAML aliases without a limit.

    Example:
        >>> parser = CommandParser()
        >>> parser.add_options({"--out DIR": "Output folder.", "--size": (int, "Size in pixels.")})
        >>> parser.parse_given(["--size", "32"])
        {'size': 32}
    """

    def __init__(self, **kwargs: Any):
        super().__init__(
            allow_abbrev=False, argument_default=argparse.SUPPRESS, formatter_class=_HelpFormatter, **kwargs
        )
        self._mappings: list[str] = []
        self.add_argument("--version", action="version", version=f"tfdml {__version__}", help="Print the version.")

    def add_argument(self, *names, type=None, group=None, **kwargs):
        """Add an argument as in argparse. `type` is an annotation, and `group` an argument group."""
        if type is not None:
            kwargs = {"metavar": metavar(type), "type": functools.partial(_read_argument, type, names[0]), **kwargs}
        if type is dict or typing.get_origin(type) is dict:
            kwargs["action"] = _MergeAction
            self._mappings.append(names[0])
        return (super() if group is None else group).add_argument(*names, **kwargs)  # type: ignore[union-attr]

    def add_options(self, options: Mapping[str, Any]) -> None:
        """Add several options.

        Args:
            options: mapping. From `--NAME METAVAR` (text), or `--NAME` (a flag), to the help text, or from `--NAME` to
                a pair of type and help text.
        """
        for option, text in options.items():
            name, _, placeholder = option.partition(" ")
            kind, text = (None, text) if isinstance(text, str) else text
            if kind is not None:
                self.add_argument(name, type=kind, help=text)
            else:
                as_text = {"metavar": placeholder} if placeholder else {"action": "store_true"}
                self.add_argument(name, help=text, **as_text)

    def parse_given(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return the given arguments as nested dicts, without defaults. Options may have hyphens for underscores."""
        given: list[str] = []
        for argument in argv:
            name, equals, value = argument.partition("=")
            if name.startswith("--") and name not in self._option_string_actions:
                same = f"--{name[2:].replace('-', '_')}"
                if same in self._option_string_actions:
                    name, argument = same, f"{same}{equals}{value}"
            mapping = next((key for key in self._mappings if name.startswith(f"{key}.")), None)
            if mapping is not None and name not in self._option_string_actions:
                read = functools.partial(_read_option, mapping, name[len(mapping) + 1 :])
                super().add_argument(name, dest=name[2:], type=read, help=argparse.SUPPRESS)
            action = self._option_string_actions.get(given[-1]) if given else None
            if re.match("-[^-]", argument) and argument != "-h" and action is not None and action.nargs is None:
                # argparse would take a value such as -1-1 for an option.
                given[-1] = f"{given[-1]}={argument}"
            else:
                given.append(argument)
        return nested(vars(self.parse_args(given)))

    def error(self, message: str) -> typing.NoReturn:
        """Exit with one line; for an unknown option suggest the nearest known one."""
        name = re.match(r"unrecognized arguments: --([^\s=]+)", message)
        if name is not None:
            known = [known[2:] for known in self._option_string_actions if known.startswith("--")]
            message = f"Unknown option --{name[1]}. Did you mean --{nearest_name(name[1], known)}?"
        # Errors of values name the option themselves.
        self.refuse(re.sub(r"^argument \S+: (?=--)", "", message))

    def refuse(self, message: str) -> typing.NoReturn:
        """Exit with code 2 because of wrong input."""
        self.exit(2, f"{self.prog}: error: {limited_yaml.one_line(message)}\n")

    @contextlib.contextmanager
    def refusing_input_errors(self) -> Iterator[None]:
        """Exit without a traceback if the block raises an InputError."""
        try:
            yield
        except InputError as error:
            self.refuse(str(error))


def _read_argument(kind, name, text):
    try:
        return read_text(kind, text, name)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _read_option(mapping, key, text):
    """Read one option of a mapping. A path stays text, whatever it looks like."""
    try:
        value = text if key.split(".")[-1] in ("path", "root") else parse_yaml(text, f"{mapping}.{key}")
        return read_value(dict, {key: value}, mapping)[key]
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
