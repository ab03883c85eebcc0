"""The command `tfdml-gallery`, in a module without TensorFlow so that its help is fast."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Union

from tfdml._utils.command_line import CommandParser
from tfdml._utils.input_errors import InputError, unknown
from tfdml.experiments import plugins
from tfdml.experiments.extract_command import SCALES
from tfdml.experiments.options import TRUST, add_import_options

_DESCRIPTION = "Makes images searchable: build a gallery of them, search it, and show it in a browser."
_EXAMPLES = """
examples:
  tfdml-gallery build efficientnet_lite0 photos --out gallery   # with ImageNet weights (extra imagenet)
  tfdml-gallery serve gallery                                   # a web page of this machine (extra serve)

  tfdml-gallery build runs/mine photos --out gallery            # with an embedder of your own
  tfdml-gallery search gallery query.jpg -k 5 --figure found.png
  tfdml-gallery add gallery new-photos
  tfdml-gallery calibrate gallery validation --target false_accept_rate=0.01

tfdml-gallery COMMAND --help shows the options of a command."""

_BUILD_EXAMPLES = """
examples:
  %(prog)s efficientnet_lite0 photos --out gallery
  %(prog)s runs/mine photos.csv --out gallery --storage float16
  %(prog)s MODEL.keras photos --size 224 --scale 0-255 --out gallery
  %(prog)s runs/mine --from-parquet vectors/photos --out gallery   # vectors of tfdml-extract --ray

A folder has one subfolder per label; images next to the subfolders have no label. A CSV file has the columns path and,
if there are labels, label. An interrupted build goes on when the same command is given again."""

_SEARCH_EXAMPLES = """
examples:
  %(prog)s gallery query.jpg
  %(prog)s gallery *.jpg -k 5 --json > found.json
  %(prog)s gallery query.jpg --figure found.png"""

_CALIBRATE_EXAMPLES = """
examples:
  %(prog)s gallery validation --target false_accept_rate=0.01  # accept at most 1 %% of the images of unseen classes
  %(prog)s gallery validation --target precision=0.95          # of the accepted images, 95 %% have the right label
  %(prog)s gallery validation --target best_f1

The folder or CSV file has labels, as for build. Its images should not be in the gallery."""

_TARGETS = ("false_accept_rate", "precision", "best_f1")


class _Command(NamedTuple):
    summary: str
    parser: Callable[[], CommandParser]
    run: Callable[..., int]


def gallery_main(argv: Sequence[str] | None = None) -> int:
    """Build, search and serve galleries from the command line. The exit code is 130 after Ctrl-C, 2 for wrong input.

    Args:
        argv: sequence of str. Arguments. Default: those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] not in _COMMANDS:
        return _without_command(arguments)
    command = _COMMANDS[arguments[0]]
    parser = command.parser()
    given = parser.parse_given(arguments[1:])
    modules = given.pop("import", [])
    try:
        with parser.refusing_input_errors(), plugins.trusting(given.get("trust", False)):
            imports = plugins.import_modules(modules)
            return command.run(given, imports)
    except KeyboardInterrupt:
        again = " The same command goes on where it stopped." if arguments[0] in ("build", "add") else ""
        print(f"\nInterrupted.{again}", file=sys.stderr)
        return 130


def _without_command(arguments):
    listed = "\n".join(f"  {name:10} {command.summary}" for name, command in _COMMANDS.items())
    parser = CommandParser(
        prog="tfdml-gallery",
        usage="%(prog)s COMMAND ...",
        description=f"{_DESCRIPTION}\n\ncommands:\n{listed}",
        epilog=_EXAMPLES,
    )
    parser.add_argument("COMMAND", nargs="?", help=f"One of {', '.join(_COMMANDS)}.")
    known, _ = parser.parse_known_args(arguments)
    if not hasattr(known, "COMMAND"):
        parser.refuse(f"No command. Expected: one of {', '.join(_COMMANDS)}.")
    parser.refuse(unknown("command", known.COMMAND, _COMMANDS))


def _build(given, imports):
    out = given.pop("out", None)
    if out is None:
        raise InputError("Options are missing. Expected: --out, the folder of the gallery.")
    from tfdml.experiments.gallery_build import build_from_parquet, build_gallery

    vectors = given.pop("from_parquet", None)
    if vectors is not None:
        refused = [name for name in ("FOLDER_OR_CSV", "options", "batch_size") if name in given]
        if refused:
            raise InputError(
                f"Vectors in Parquet files need no images. Received: {', '.join(refused)} with --from-parquet. "
                "Expected: none of them, as in tfdml-gallery build EMBEDDER --from-parquet FOLDER --out GALLERY."
            )
        embedder, network = given.pop("EMBEDDER", None), _popped(given, _EMBEDDER_OPTIONS)
        if network and embedder is None:
            raise InputError(
                f"Options of the embedder need an embedder. Received: {', '.join(network)}. Expected: EMBEDDER."
            )
        built = build_from_parquet(
            vectors, out, embedder, options=network, imports=imports, verbose=not given.pop("quiet", False), **given
        )
        _print_built(built, out, "vector")
        return 0
    missing = [name for name in ("EMBEDDER", "FOLDER_OR_CSV") if name not in given]
    if missing:
        raise InputError(
            f"Arguments are missing. Received: no {' and no '.join(missing)}. Expected: EMBEDDER FOLDER_OR_CSV, or "
            "--from-parquet FOLDER."
        )
    built = build_gallery(
        given.pop("EMBEDDER"), given.pop("FOLDER_OR_CSV"), out, options=_popped(given, _EMBEDDER_OPTIONS),
        image_options=given.pop("options", None), imports=imports, verbose=not given.pop("quiet", False), **given,
    )  # fmt: skip
    _print_built(built, out)
    return 0


def _add(given, imports):
    from tfdml.experiments.gallery_build import add_images
    from tfdml.experiments.gallery_files import ListedImages, list_images

    folder, conflict = given.pop("GALLERY"), given.pop("on_conflict", "error")
    image_options, quiet = given.pop("options", None), given.pop("quiet", False)
    batch_size = given.get("batch_size", 64)
    lists = [list_images(source, image_options) for source in given.pop("IMAGES")]
    label = given.pop("label", None)
    paths = [path for one in lists for path in one.paths]
    labels = [label or own for one in lists for own in one.labels]
    opened = _opened(folder, given)
    listed = ListedImages(paths, labels, sum(one.skipped for one in lists))
    built = add_images(
        opened.gallery, opened.folder, opened.embedder, opened.source, opened.root, listed, on_conflict=conflict,
        batch_size=batch_size, verbose=not quiet,
    )  # fmt: skip
    _print_built(built, folder)
    return 0


def _print_built(built, folder, of="image"):
    from tfdml.experiments.gallery_files import counted, listed_reasons

    if built.unreadable:
        print(f"{counted(len(built.unreadable), 'image')} left out:", file=sys.stderr)
        print("\n".join(listed_reasons(built.unreadable)), file=sys.stderr)
    others = [f"{built.replaced:,} replaced"] * (built.replaced > 0)
    others += [f"{built.present:,} present already"] * (built.present > 0)
    others += [f"{counted(built.skipped, 'other file')} skipped"] * (built.skipped > 0)
    others += [f"{len(built.unreadable):,} unreadable"] * bool(built.unreadable)
    more = f" ({'; '.join(others)})" if others else ""
    print(f"{counted(built.added, of)} added{more}. {counted(len(built.gallery), of)} in {folder}.")


def _search(given, imports):
    folder, images, as_json, figure = (given.pop(name, None) for name in ("GALLERY", "IMAGE", "json", "figure"))
    k, batch_size = given.pop("k", None), given.get("batch_size", 64)
    opened = _opened(folder, given)
    from tfdml.experiments import gallery_search

    found, verdicts = opened.search(opened.embed_files(images, batch_size), k)
    if figure is not None:
        gallery_search.draw_search(images, found, verdicts, opened.root, figure)
    calibration = opened.gallery.calibration
    records = gallery_search.as_records(found, verdicts, None if calibration is None else calibration.threshold)
    if as_json:
        records = [{"query": query, **record} for query, record in zip(images, records)]
        print(json.dumps(records, indent=2, allow_nan=False))
        return 0
    for query, record in zip(images, records):
        print("\n".join(_table(query, record)))
    if figure is not None:
        print(f"Figure: {figure}")
    return 0


def _table(query, result):
    """The lines about one query."""
    from tfdml.experiments.gallery_files import shown

    verdict, neighbors = result["verdict"], result["neighbors"]
    said = "" if verdict is None else f": {verdict_text(verdict)}"
    labels = ["–" if one["label"] is None else shown(one["label"]) for one in neighbors]
    width = min(32, max(map(len, ["label", *labels])))
    lines = [f"{shown(query)}{said}", f"  {'':>3}  distance  {'label':{width}}  image"]
    for rank, (one, label) in enumerate(zip(neighbors, labels), 1):
        lines.append(f"  {rank:>3}  {one['distance']:8.4f}  {label:{width}}  {shown(one['id'])}")
    return lines


def verdict_text(verdict: dict[str, Any]) -> str:
    """Return a verdict as text."""
    compared = "≤" if verdict["is_known"] else ">"
    what = f"known, {verdict['label']}" if verdict["is_known"] else "unknown"
    return f"{what} (score {verdict['score']:.4f} {compared} threshold {verdict['threshold']:.4f})"


def _remove(given, imports):
    folder, items, missing = given.pop("GALLERY"), given.pop("IMAGE", []), given.pop("missing", False)
    if not items and not missing:
        raise InputError("Nothing to remove. Expected: images, or --missing for those whose files are gone.")
    from tfdml._utils.input_errors import input_errors
    from tfdml.experiments.gallery_files import counted, id_of, path_of

    opened = _opened(folder, given, with_embedder=False)
    gallery, chosen = opened.gallery, {}
    for item in items:
        known = next((one for one in (item, id_of(item, opened.root), _as_integer(item)) if one in gallery), None)
        if known is None:
            raise InputError(
                f"An image is not in the gallery. Received: {item!r}. Expected: a path as search shows it."
            )
        chosen[known] = None
    if missing:
        chosen.update({item: None for item in gallery.ids if not os.path.exists(path_of(item, opened.root))})
    with input_errors():
        gallery.remove(list(chosen))
        gallery.save(opened.folder)
    print(f"{counted(len(chosen), 'image')} removed. {counted(len(gallery), 'image')} in {folder}.")
    return 0


def _as_integer(text):
    """The integer id that a text names, or the text; galleries made in Python may have integer ids."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text


def _calibrate(given, imports):
    target = _target(given.pop("target", None))
    folder, images, options = given.pop("GALLERY"), given.pop("FOLDER_OR_CSV"), given.pop("options", None)
    batch_size, how = given.get("batch_size", 64), _popped(given, ("method", "k"))
    from tfdml._utils.input_errors import input_errors
    from tfdml.experiments import gallery_search
    from tfdml.experiments.gallery_files import list_images

    listed = list_images(images, options)
    if None in listed.labels:
        raise InputError(
            f"Images have no labels. Received: {images!r} with {listed.labels.count(None)} images without one. "
            "Expected: one subfolder per label, or a CSV file with a column of labels."
        )
    opened = _opened(folder, given)
    vectors = opened.embed_files(listed.paths, batch_size)
    with input_errors(), gallery_search.warnings_as_notes():
        found = opened.gallery.calibrate(vectors, listed.labels, target, **how)
        opened.gallery.save(opened.folder)
    print("\n".join(_calibration_lines(found)))
    return 0


def _target(text):
    if text is None:
        raise InputError(f"Options are missing. Expected: --target, one of {', '.join(_TARGETS)}.")
    from tfdml import gallery
    from tfdml._utils.input_errors import input_errors

    name, _, value = text.partition("=")
    kinds = dict(zip(_TARGETS, (gallery.FalseAcceptRate, gallery.Precision, gallery.BestF1)))
    if name not in kinds or (name == "best_f1") != (not value):
        raise InputError(
            f"Unknown target. Received: --target {text}. Expected: false_accept_rate=RATE, precision=SHARE or best_f1."
        )
    try:
        number = [float(value)] if value else []
    except ValueError:
        raise InputError(f"The target is not a number. Received: --target {text}. Expected: {name}=NUMBER.") from None
    with input_errors():
        return kinds[name](*number)


def _calibration_lines(found):
    def rate(value, interval):
        return f"{value:.4f}" + (f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval is not None else "")

    lines = [
        f"Threshold          {found.threshold:.4f}",
        f"False-accept rate  {rate(found.false_accept_rate, found.false_accept_interval)}",
    ]
    if found.known_queries:
        lines.append(f"True-accept rate   {rate(found.true_accept_rate, found.true_accept_interval)}")
    return [*lines, f"{found.unseen_queries:,} images of {found.unseen_classes} classes; intervals of "
            f"{found.confidence:.0%} confidence."]  # fmt: skip


def _info(given, imports):
    folder, as_json, report = given.pop("GALLERY"), given.pop("json", False), given.pop("report", False)
    from tfdml.experiments.gallery_files import gallery_errors, shown
    from tfdml.experiments.gallery_search import describe

    opened = _opened(folder, given, with_embedder=False)
    described = describe(opened)
    if report:
        with gallery_errors():
            described["report"] = dataclasses.asdict(opened.gallery.report())
    if as_json:
        print(json.dumps(described, indent=2, allow_nan=False))
        return 0
    for name, value in described.items():
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value
        print(f"{name.replace('_', ' '):14} {shown('–' if value is None else text)}")
    return 0


def _serve(given, imports):
    packages = {"fastapi": "fastapi", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}
    missing = [name for module, name in packages.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(
            f"The server needs more packages. Received: no {', '.join(missing)}. Expected: the extra 'serve'. Run pip "
            "install 'tfdml[serve]'."
        )
    folder = given.pop("GALLERY")
    host, port = given.pop("host", "127.0.0.1"), given.pop("port", 7860)
    limits = _popped(given, ("max_upload_mb", "max_pixels", "max_waiting", "max_points"))
    from tfdml.experiments import gallery_server

    with gallery_server.listening(host, port) as listener:
        server = gallery_server.GalleryServer(_opened(folder, given), **limits)
        gallery_server.run(server, listener, host)
    return 0


def _opened(folder, given, **options):
    """Open a gallery with the options that all commands share."""
    from tfdml.experiments import gallery_search

    names = ("embedder", "root", "batch_size", "trust")
    chosen = {name: given[name] for name in names if name in given}
    embedder_options = _popped(given, _EMBEDDER_OPTIONS)
    if embedder_options and "embedder" not in chosen:
        raise InputError(
            f"Options of the embedder need --embedder. Received: {', '.join(embedder_options)}. Expected: none of "
            "them; the gallery remembers them."
        )
    return gallery_search.open_gallery(folder, **chosen, options=embedder_options or None, **options)


def _popped(given, names):
    return {name: given.pop(name) for name in names if name in given}


_EMBEDDER_OPTIONS = ("size", "channels", "short_side", "scale", "output", "pooling", "backbone_options")
_NETWORK = {
    "--size": (Union[int, tuple[int, int]], "Height and width in pixels (default: the model's; 224 for a backbone)."),
    "--channels": (int, "1 (gray) or 3 (color) (default: the model's; 3 for a backbone)."),
    "--short_side": (int, "Scale the shorter side to this number of pixels, then crop the center."),
    "--scale": (Literal[SCALES], "Values for black and white that the model expects (default: 0-1)."),
    "--output OUTPUT": "Output to use if the model has several, or a layer of a Keras model.",
    "--pooling POOLING": "Pooling of feature maps or tokens (default: gap, average); of tokens also cls, cls+gap.",
    "--backbone_options": (dict, "Options of the backbone (default: weights imagenet)."),
}
_OPENING = {
    "--embedder EMBEDDER": "Another place of the gallery's embedder, whose weights must be the same.",
    "--root DIR": "Folder from which relative paths start (default: where the gallery was built).",
}
_BATCH_SIZE = {"--batch_size": (int, "Images that are embedded at once (default: 64).")}
_QUIET = {"--quiet": "Show no progress bar."}
_IMAGES = {"--options": (dict, "Options of the folder or CSV file, as in --options.label_column product.")}


def _parser(name, usage, description, arguments, options, epilog=None, is_importing=True):
    parser = CommandParser(prog=f"tfdml-gallery {name}", usage=usage, description=description, epilog=epilog)
    for argument, keywords in arguments.items():
        parser.add_argument(argument, **keywords)
    parser.add_options(options)
    if is_importing:
        add_import_options(parser, TRUST)
    return parser


_GALLERY = {"GALLERY": {"help": "Folder of the gallery."}}
_PARSERS: dict[str, Callable[[], CommandParser]] = {
    "build": lambda: _parser(
        "build",
        "%(prog)s EMBEDDER FOLDER_OR_CSV --out GALLERY ...",
        "Embeds images and stores them as a gallery.",
        {
            "EMBEDDER": {
                "nargs": "?",
                "help": "SavedModel, run folder, .keras file, or backbone (tfdml-train --list backbones).",
            },
            "FOLDER_OR_CSV": {"nargs": "?", "help": "Folder of images, or CSV file of their paths and labels."},
        },
        {
            "--out DIR": "Folder of the gallery, which must not exist.",
            "--from-parquet DIR": "Take vectors from Parquet files, such as those of tfdml-extract --ray.",
            **_IMAGES,
            "--distance": (Literal["l2", "cosine"], "Distance (default: cosine for a backbone, else l2)."),
            "--index INDEX": "exact, or with the extra faiss hnsw, ivfpq, binary or a factory string (default: exact).",
            "--storage": (Literal["float32", "float16", "int8"], "Data type of stored vectors (default: float32)."),
            **_BATCH_SIZE,
            **_NETWORK,
            **_QUIET,
        },
        _BUILD_EXAMPLES,
    ),
    "search": lambda: _parser(
        "search",
        "%(prog)s GALLERY IMAGE ... [-k N] [--json] [--figure FILE]",
        "Finds the nearest images of a gallery.",
        {
            **_GALLERY,
            "IMAGE": {"nargs": "+", "help": "Image files."},
            "-k": {"type": int, "help": "Number of neighbors (default: 10)."},
        },
        {
            "--json": "Print JSON instead of a table.",
            "--figure FILE": "Draw queries and neighbors to this file (.png, .pdf, .svg, …).",
            **_OPENING,
            **_BATCH_SIZE,
            **_NETWORK,
        },
        _SEARCH_EXAMPLES,
    ),
    "add": lambda: _parser(
        "add",
        "%(prog)s GALLERY IMAGES ... [--on-conflict skip]",
        "Adds images to a gallery.",
        {**_GALLERY, "IMAGES": {"nargs": "+", "help": "Folders, CSV files or images."}},
        {
            "--on-conflict": (
                Literal["error", "skip", "replace"], "What happens to images that are present (default: error)."
            ),
            "--label LABEL": "Label of all these images (default: their subfolder, or that of the CSV file).",
            **_IMAGES,
            **_OPENING,
            **_BATCH_SIZE,
            **_NETWORK,
            **_QUIET,
        },
    ),
    "remove": lambda: _parser(
        "remove",
        "%(prog)s GALLERY IMAGE ... [--missing]",
        "Removes images from a gallery. Their files stay.",
        {**_GALLERY, "IMAGE": {"nargs": "*", "help": "Paths of images, as search shows them."}},
        {
            "--missing": "Remove the images whose files do not exist.",
            "--root DIR": _OPENING["--root DIR"],
        },
        is_importing=False,
    ),
    "calibrate": lambda: _parser(
        "calibrate",
        "%(prog)s GALLERY FOLDER_OR_CSV --target TARGET",
        "Chooses the distance up to which search and serve call an image known.",
        {**_GALLERY, "FOLDER_OR_CSV": {"help": "Labeled images, as for build."}},
        {
            "--target TARGET": "false_accept_rate=RATE, precision=SHARE or best_f1.",
            "--method": (
                Literal["neighbors", "prototypes"], "Compare with the nearest images, or with class means (default: "
                "neighbors).",
            ),
            "--k": (int, "Number of nearest images that vote for the label (default: 1)."),
            **_IMAGES,
            **_OPENING,
            **_BATCH_SIZE,
            **_NETWORK,
        },
        _CALIBRATE_EXAMPLES,
    ),
    "info": lambda: _parser(
        "info",
        "%(prog)s GALLERY [--json]",
        "Describes a gallery.",
        _GALLERY,
        {
            "--json": "Print JSON.",
            "--report": "Measure the recall and the time of its index.",
            "--root DIR": _OPENING["--root DIR"],
        },
        is_importing=False,
    ),
    "serve": lambda: _parser(
        "serve",
        "%(prog)s GALLERY [--host HOST] [--port PORT]",
        "Shows a gallery as a web page with an HTTP API.",
        _GALLERY,
        {
            "--host HOST": "Address to listen on; 0.0.0.0 lets other machines in (default: 127.0.0.1).",
            "--port": (int, "Port; 0 chooses a free one (default: 7860)."),
            "--max_upload_mb": (float, "Largest upload in megabytes (default: 20)."),
            "--max_pixels": (int, "Largest height times width of an uploaded image (default: 50000000)."),
            "--max_waiting": (int, "Searches that may wait; further ones are refused (default: 16)."),
            "--max_points": (int, "Images on the map of the page; a sample of more (default: 3000)."),
            **_OPENING,
            **_NETWORK,
        },
    ),
}  # fmt: skip
_RUNS = {
    "build": ("Embed images and store them as a gallery.", _build),
    "search": ("Find the nearest images.", _search),
    "serve": ("Show a gallery as a web page with an HTTP API.", _serve),
    "add": ("Add images.", _add),
    "remove": ("Remove images.", _remove),
    "calibrate": ("Choose the distance up to which images count as known.", _calibrate),
    "info": ("Describe a gallery.", _info),
}
_COMMANDS = {
    name: _Command(summary, functools.cache(_PARSERS[name]), run) for name, (summary, run) in _RUNS.items()
}


if __name__ == "__main__":
    sys.exit(gallery_main())
