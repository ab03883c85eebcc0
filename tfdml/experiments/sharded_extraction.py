"""Features of large collections of images, in Parquet shards, computed in this process or on Ray."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf
import tqdm

from tfdml import data
from tfdml._utils.arguments import check_choice, check_whole_number
from tfdml._utils.files import FolderInUseError, lock_folder, remove_partial
from tfdml._utils.input_errors import InputError, input_errors
from tfdml._utils.types import PathLike
from tfdml.data.image_files import ENDINGS, read_image
from tfdml.data.parquet_files import import_parquet
from tfdml.experiments import plugins
from tfdml.experiments.errors import line_of
from tfdml.experiments.evaluation import load_dataset
from tfdml.experiments.extract_command import DTYPES
from tfdml.experiments.extraction import FrozenNetwork
from tfdml.experiments.shards import (
    Failure,
    Shards,
    check_can_begin,
    check_not_all_failed,
    cpus_per_worker,
    probe_difference,
    unique_ids,
)

_PROBE_IMAGES = 2
_PROBE_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class ExtractionReport:
    """Result of an extraction into shards.

    Attributes:
        folder: path. Folder of the shards.
        images: int. Number of images.
        failed: int. Number of images without a vector, which `failed.csv` in the folder lists with the reasons.
        shards: int. Number of shards.
        kept_shards: int. Number of shards that an earlier, interrupted call had finished.
        feature_size: int. Size of a vector.

    Example:
        >>> report = ExtractionReport(pathlib.Path("vectors"), 100, failed=1, shards=2, kept_shards=0, feature_size=8)
        >>> report.images - report.failed
        99
    """

    folder: pathlib.Path
    images: int
    failed: int
    shards: int
    kept_shards: int
    feature_size: int


def extract_to_parquet(
    model: Any,
    dataset: data.LabeledImages | PathLike,
    out: PathLike,
    *,
    shard_size: int = 4096,
    ray: bool = False,
    workers: int | None = None,
    address: str | None = None,
    retry_failed: bool = False,
    imports: Sequence[str] = (),
    data_options: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    dtype: Literal["float16", "float32"] = "float32",
    verbose: bool = True,
    **options: Any,
) -> ExtractionReport:
    """Compute features of many images with a frozen network and store them in Parquet files.

    Unlike `extract_features`, it can use several processes and machines (Ray), omits images that cannot be read, and
    continues after an interruption: the same call repeats only shards that were not finished. Read the files with
    `tfdml.data.features`, `tfdml.gallery.gallery_from_parquet` or any program that reads Parquet.

    A shard has the columns `id` (the path, or the index of an image in memory), `class_name`, `label`, `role` (if the
    dataset has queries and a gallery) and `vector`. `source.json` describes the extraction; `failed.csv` lists images
    without a vector and the reasons.

    With `ray=True`, one worker per GPU, or per CPU if there are no GPUs, opens the network once and computes whole
    shards; vectors return to this process, which writes them. Every machine needs this package and the images under the
    same paths. The extra `ray` installs what is needed.

    The numbers are those of `extract_features` bit for bit if `shard_size` is a multiple of `batch_size`, no image
    fails, and hardware and number of threads are the same. Otherwise, sums are rounded in another order, which changes
    float32 features by about 1e-6 of their largest value.

    Args:
        model: Network, as for `extract_features`. On Ray, a Keras model is sent to the workers.
        dataset: `LabeledImages`, name of a dataset, CSV file, folder of images with one subfolder per class, or folder
            of images without subfolders, which have no labels. Files are not decoded in advance.
        out: path. Folder to create, or one with an interrupted extraction of the same images by the same network.
        shard_size: int. Images per shard. Default: 4096.
        ray: bool. Use Ray. Default: False, this process only.
        workers: int. Number of Ray workers. Default: one per GPU, or per CPU if there are no GPUs.
        address: str. Address of a Ray cluster, such as `"auto"`. Default: this machine, or the cluster to which this
            process is connected.
        retry_failed: bool. Compute shards with failed images again. Default: False.
        imports: sequence of str. Modules that workers import first, as `--import` does.
        data_options: mapping. Options of the dataset.
        batch_size: int. Images per batch. Default: 64.
        dtype: `"float32"` or `"float16"`. Data type of the stored features. Default: `"float32"`.
        verbose: bool. Show a progress bar. Default: True.
        **options: `backbone_options`, `output`, `pooling`, `skip_tokens`, `token_grid`, `size`, `channels`,
            `short_side`, `scale` and `trust`, as for `extract_features`.

    Returns:
        An `ExtractionReport`.

    Raises:
        ValueError: If the model or the data cannot be used, an option is not accepted for them, a path occurs twice,
            each image of a shard fails because of the disk or of the network, the folder has other content, or the disk
            is full.
        ImportError: If pyarrow or Ray is not installed.

    Example:
        >>> extract_to_parquet("MODEL.keras", "photos", "vectors", ray=True, workers=4)  # doctest: +SKIP
    """
    folder = pathlib.Path(out).expanduser()
    with input_errors():
        shard_size = check_whole_number("shard_size", shard_size, minimum=1)
        batch_size = check_whole_number("batch_size", batch_size, minimum=1)
        check_choice("dtype", dtype, DTYPES)
        if not ray and (workers is not None or address is not None):
            raise InputError(
                f"These options are for Ray. Received: workers={workers}, address={address!r} with ray=False. "
                "Expected: ray=True."
            )
        if workers is not None:
            workers = check_whole_number("workers", workers, minimum=1)
        import_parquet()
        if ray:
            _import_ray()
        check_can_begin(folder)
        dataset = _load(dataset, data_options or {})
        ids = unique_ids(dataset)
        network = FrozenNetwork(model, dataset, **options)
    dim, probe = _probe(network, dataset, batch_size)
    source = {**network.source(dataset), "features": dim, "dtype": dtype, "probe": probe}
    shards = Shards(folder, ids, dataset, source, shard_size)
    embedder = _ShardEmbedder(
        model, _some(dataset, slice(0)), options, batch_size, dtype, probe, tuple(imports), os.getcwd()
    )
    embedder.network = network
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock_folder(folder):
            remove_partial(folder)
            shards.begin()
            finished = shards.finished(retry_failed)
            kept = len(finished)
            missing = [number for number in range(shards.count) if number not in finished]
            computed = _on_ray if ray else _in_this_process
            bar = tqdm.tqdm(total=len(dataset), unit="image", disable=not verbose)
            try:
                results = contextlib.closing(computed(embedder, dataset, shards, missing, workers, address))
                with bar, results as computed_shards:
                    bar.update(sum(len(ids[shards.rows(number)]) for number in finished))
                    for number, vectors, failures in computed_shards:
                        check_not_all_failed(failures, len(failures) + len(vectors))
                        shards.write(number, vectors.reshape(len(vectors), dim), failures)
                        finished[number] = failures
                        bar.update(len(failures) + len(vectors))
            finally:
                failed = shards.write_failures(finished)
    except FolderInUseError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(
            f"The shards cannot be written: {error.strerror or error}. Received: out={folder}. Finished shards stay."
        ) from error
    return ExtractionReport(folder, len(dataset), failed, shards.count, kept, dim)


class _ShardEmbedder:
    """Computes the features of whole shards; it opens the network when it is first called.

    An instance is sent to each Ray worker.
    """

    network: Any = None

    def __init__(self, model, template, options, batch_size, dtype, probe, imports, folder):
        self.model, self.template, self.options, self.batch_size = model, template, options, batch_size
        self.dtype, self.probe, self.imports, self.folder = dtype, probe, imports, folder

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "network"}

    def open(self):
        """Open the network in a worker, and check that it is the same as that of the process that started Ray."""
        # Relative paths of the model, its weights and its modules.
        with contextlib.suppress(OSError):
            os.chdir(self.folder)
        plugins.import_modules(self.imports)
        network = FrozenNetwork(self.model, self.template, **self.options)
        difference = probe_difference(_probe(network, self.template, self.batch_size)[1], self.probe)
        if difference > _PROBE_TOLERANCE:
            raise InputError(
                "A worker has another network than the process that started it. Received: features of a test image "
                f"that differ by {difference:.2g} of the largest value. Expected: the same files and versions on each "
                "machine."
            )
        self.network = network

    def __call__(self, images):
        """Return the features of images, (n, d), and a list of `Failure` of the others."""
        if self.network is None:
            self.open()
        failures: list[Failure] = []
        try:
            vectors = self._features(images)
        except tf.errors.OpError as error:
            failures = _unreadable(images)
            if not failures:
                raise InputError(f"Not every image goes through the network: {line_of(error)}") from error
            vectors = self._features(_without(images, failures))
        with np.errstate(over="ignore"):
            vectors = vectors.astype(self.dtype)
        is_finite = np.isfinite(vectors).all(axis=1)
        if not is_finite.all():
            kept = np.setdiff1d(np.arange(len(images)), [failure.index for failure in failures])
            reason = f"its features are not finite, or too large for {self.dtype}"
            failures += [Failure(int(index), "features", reason) for index in kept[~is_finite]]
            vectors = vectors[is_finite]
        return vectors, sorted(failures)

    def _features(self, images):
        if not len(images):
            return np.empty((0, 1), np.float32)
        return np.concatenate([np.asarray(batch) for batch in self.network.features(images, self.batch_size)])


def _in_this_process(embedder, dataset, shards, missing, workers, address):
    for number in missing:
        yield number, *embedder(_some(dataset, shards.rows(number)))


def _on_ray(embedder, dataset, shards, missing, workers, address):
    """Yield shards in the order in which workers finish them."""
    if not missing:
        return
    ray = _import_ray()
    embedder.network = None
    with _connected(ray, address):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
        count, cpus = cpus_per_worker(nodes, workers)
        count = min(count, len(missing))
        items = [{"shard": number, "images": _to_bytes(_some(dataset, shards.rows(number)))} for number in missing]
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        results = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _RayWorker,
            fn_constructor_args=[embedder, cpus],
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=cpus,
            num_gpus=1 if any(gpus for _, gpus in nodes) else 0,
        )
        for row in results.iter_rows():
            if row["error"]:
                raise InputError(row["error"])
            vectors = np.frombuffer(row["vectors"], embedder.dtype).reshape(-1, shards.source["features"])
            yield row["shard"], vectors, [Failure(*failure) for failure in json.loads(row["failures"])]


class _RayWorker:
    """Actor that computes shards; Ray creates one per worker."""

    def __init__(self, embedder, cpus):
        # TensorFlow takes all CPUs of a machine unless it is limited before its first operation.
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(cpus)
            tf.config.threading.set_inter_op_parallelism_threads(cpus)
        self._embedder = embedder

    def __call__(self, batch):
        rows = []
        for number, content in zip(batch["shard"], batch["images"]):
            row = {"shard": int(number), "vectors": b"", "failures": "[]", "error": ""}
            try:
                vectors, failures = self._embedder(_from_bytes(content, self._embedder.template))
                row.update(vectors=vectors.tobytes(), failures=json.dumps(failures))
            except InputError as error:
                # Ray would report it with its own traceback.
                row["error"] = str(error)
            rows.append(row)
        return {key: [row[key] for row in rows] for key in rows[0]}


def _import_ray():
    # It sends statistics of its use to its makers otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(
            f"Ray cannot be imported ({error}). Received: ray=True. Expected: Ray Data, or ray=False. Run: pip install "
            "'tfdml[ray]'."
        ) from error
    return ray


@contextlib.contextmanager
def _connected(ray, address):
    """Connect to Ray, or start it on this machine, unless this process is connected already."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address, include_dashboard=None if address else False, log_to_driver=False, logging_level="warning")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"The Ray cluster cannot be reached ({' '.join(str(error).split())[:200]}). Received: address={address!r}. "
            "Expected: 'auto' on a machine of a cluster, or the HOST:PORT that `ray start --head` printed."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _load(dataset, options):
    if isinstance(dataset, data.LabeledSamples):
        if options:
            raise InputError(f"Options need the name of a dataset. Received: data_options={dict(options)}.")
    else:
        dataset = _load_by_name(os.fspath(dataset), options)
    if not isinstance(dataset, data.LabeledImages) or not len(dataset):
        raise InputError(f"Features are extracted from images. Received: {dataset!r}.")
    return dataset


def _load_by_name(name, options):
    path = pathlib.Path(name).expanduser()
    if name in data.names() and name not in ("folder", "csv"):
        return load_dataset(name, options)
    if name not in data.names() and path.is_dir() and not options:
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        files = [str(entry) for entry in entries if entry.name.lower().endswith(ENDINGS) and entry.is_file()]
        if files and not any(entry.is_dir() for entry in entries):
            return data.LabeledImages(files, np.zeros(len(files), np.int64), ("",), name=path.resolve().name)
    # The extraction reads each file anyway, and reports those that it cannot decode.
    return load_dataset(name, {"verify": False, **options})


def _some(images, rows):
    """Return some of the images, without their labels."""
    return data.LabeledImages(
        images.images[rows], images.labels[rows] * 0, ("",), images.name, max_pixels=images.max_pixels
    )


def _without(images, failures):
    kept = np.setdiff1d(np.arange(len(images)), [failure.index for failure in failures])
    return _some(images, kept)


def _unreadable(images):
    """Return the failures of files, each decoded as a whole."""
    if not images.holds_paths:
        return []

    def failure(number, path):
        try:
            read_image(path, images.max_pixels)
        except (OSError, ValueError) as error:
            kind = "file" if isinstance(error, OSError) else "image"
            return Failure(number, kind, " ".join(str(error).split()))
        return None

    with concurrent.futures.ThreadPoolExecutor() as pool:
        found = pool.map(failure, range(len(images)), images.encoded_paths)
        return [one for one in found if one is not None]


def _to_bytes(images):
    if not images.holds_paths:
        return np.ascontiguousarray(images.images).tobytes()
    return b"\0".join(map(os.path.abspath, images.encoded_paths))


def _from_bytes(content, template):
    """Return the images of `_to_bytes`; the template tells their shape."""
    if template.holds_paths:
        images = np.array([os.fsdecode(path) for path in content.split(b"\0")])
    else:
        images = np.frombuffer(content, np.uint8).reshape(-1, *template.image_shape)
    return data.LabeledImages(images, np.zeros(len(images), np.int64), ("",), max_pixels=template.max_pixels)


def _probe(network, images, batch_size):
    """Return the size of features, and features of random images as lists, by which networks are compared.

    The images fill a batch, so that the network is compiled for the batches that follow.
    """
    config = network.source(images)["preprocessing"]
    shape = (*config["size"], config["channels"])
    noise = np.random.default_rng(0).integers(0, 256, (_PROBE_IMAGES, *shape)).astype(np.uint8)
    noise = np.resize(noise, (batch_size, *shape))
    probe = data.LabeledImages(noise, np.zeros(batch_size, np.int64), ("",))
    try:
        features = np.asarray(next(network.features(probe, batch_size)), np.float32)
    except tf.errors.OpError as error:
        raise InputError(f"Images do not go through the network: {line_of(error)}") from error
    values = features[:_PROBE_IMAGES]
    return features.shape[1], values.tolist() if np.isfinite(values).all() else None
