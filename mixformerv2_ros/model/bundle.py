"""Model bundles: a folder with everything that is needed to run one model.

    model.json              what the model is and where it comes from
    model.safetensors       its weights, fp32 or fp16
    template_encoder.onnx   graphs for ONNX Runtime, written by `mixformerv2 export`;
    search.onnx             their weights are those of model.safetensors
    template_encoder_K.onnx, search_K.onnx
                            of a model with exits: the same for the blocks that end with block K,
                            for every exit K and for the last block
    heads_K.onnx            what the exit after block K answers; bundles of earlier versions lack
                            it, and search_K.onnx answers there
    README.md               model card

Bundles are passed around, so nothing in one is trusted: `open_bundle` checks all of `model.json`
and the header of the weights, `read_weights` their checksum, `verify_graphs` those of the graphs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from mixformerv2_ros import __version__
from mixformerv2_ros.errors import BundleError, SourceError
from mixformerv2_ros.files import write_file, write_folder_atomically
from mixformerv2_ros.model.architecture import expected_shapes, preset_name
from mixformerv2_ros.model.depth_calibration import (
    CALIBRATION,
    DepthCalibration,
    read_depth_calibration,
)
from mixformerv2_ros.model.json_fields import (
    check_depth,
    check_digest,
    choice,
    json_object,
    number,
    read_json_object,
    text_line,
    whole_number,
    whole_numbers,
)
from mixformerv2_ros.model.spec import POOLINGS, ModelSpec
from mixformerv2_ros.text import printable, some

FORMAT = 1
"""Version of the layout of `model.json`."""

_MODELS = Path(__file__).resolve().parents[1] / "models"
DEFAULT_BUNDLE = _MODELS / "default"
"""The bundle that is used where none is named."""
SHIPPED_BUNDLES = {"default": DEFAULT_BUNDLE, "tiny": _MODELS / "tiny"}
"""The bundles that come with the package; their names stand for their folders."""

MODEL = "model.json"
WEIGHTS = "model.safetensors"
TEMPLATE_ENCODER = "template_encoder.onnx"
SEARCH = "search.onnx"
GRAPHS = (TEMPLATE_ENCODER, SEARCH)
"""Graphs of the whole model."""
CARD = "README.md"

SEARCH_FACTOR = 4.5
"""Side of the search crop over the square root of the box area (released configuration)."""
TEMPLATE_FACTOR = 2.0
"""The same for the template crop."""
TEMPLATE_BACKGROUND_CONTRAST = 1.0
"""Contrast that remains around the target in templates (released configuration: all)."""

INFERENCE_PRECISIONS = ("fp32", "fp16", "bf16", "int8")
"""Number formats of a network run; all but fp32 are recorded by `mixformerv2 quantize`."""

_DTYPES = {"fp32": "F32", "fp16": "F16"}


@dataclass(frozen=True)
class Bundle:
    """A checked bundle.

    Attributes:
        path: Its folder.
        spec: Architecture of the model.
        name: Name of the model, for people.
        search_factor: Side of a search crop over the square root of the area of the box.
        template_factor: The same for template crops.
        template_background_contrast: Contrast that remains around the target in templates, from 0
            to 1 (`tracking.crop.attenuate_background`).
        metadata: The whole content of `model.json`.
    """

    path: Path
    spec: ModelSpec
    name: str
    search_factor: float
    template_factor: float
    template_background_contrast: float
    metadata: dict[str, Any]

    @property
    def weights_path(self) -> Path:
        """The safetensors file."""
        return self.path / WEIGHTS

    @property
    def precision(self) -> str:
        """Number format of the stored weights, `fp32` or `fp16`."""
        return str(self.metadata["weights"]["dtype"])

    @property
    def inference_precision(self) -> str:
        """Number format that the bundle was quantized for, one of `INFERENCE_PRECISIONS`."""
        return str(self.metadata.get("quantization", {}).get("precision", "fp32"))

    @property
    def checksum(self) -> str:
        """First twelve hexadecimal digits of the SHA-256 of the weights: names a model in logs."""
        return str(self.metadata["weights"]["sha256"])[:12]

    @property
    def depth_calibration(self) -> DepthCalibration | None:
        """What `mixformerv2 calibrate` found for the exits; None before that."""
        facts = self.metadata.get(CALIBRATION)
        return None if facts is None else read_depth_calibration(facts, len(self.spec.exits))

    @property
    def parameters(self) -> int:
        """Number of weights, position tables included."""
        return sum(prod(shape) for shape in expected_shapes(self.spec).values())


def open_bundle(path: str | Path | None = None) -> Bundle:
    """Open a bundle folder and check it, without loading its weights.

    Args:
        path: The folder, or the name of a bundle of the package (`SHIPPED_BUNDLES`), where there is
            no folder of that name; None for the default one.

    Raises:
        BundleError: the folder or a file in it is missing, `model.json` is malformed or of another
            format version, or the weights are not those of the model that it describes.
    """
    folder = DEFAULT_BUNDLE if path is None else Path(path)
    if not folder.exists():
        folder = SHIPPED_BUNDLES.get(str(path), folder)
    with _named(folder):
        if not folder.is_dir():
            raise BundleError(
                f"must be a folder, but {'is a file' if folder.exists() else 'does not exist'}"
            )
        bundle = _parse(folder, read_json_object(folder / MODEL))
        _check_weights(bundle)
    return bundle


def verify_weights(bundle: Bundle) -> None:
    """Compare the weights with their checksum.

    Raises:
        BundleError: the file is not the one that `model.json` names by its SHA-256.
    """
    with _named(bundle.path):
        found, expected = file_sha256(bundle.weights_path), bundle.metadata["weights"]["sha256"]
        if found != expected:
            raise BundleError(f"SHA-256 of {WEIGHTS} must be {expected}, got {found}")


def segment_graphs(spec: ModelSpec) -> tuple[tuple[str, str], ...]:
    """Names of template encoder and search graph of every segment; empty without exits."""
    if not spec.exits:
        return ()
    return tuple((f"template_encoder_{end}.onnx", f"search_{end}.onnx") for end in spec.depths)


def exit_graphs(spec: ModelSpec) -> tuple[str, ...]:
    """Names of the graph of every exit's heads."""
    return tuple(f"heads_{depth}.onnx" for depth in spec.exits)


def graph_names(spec: ModelSpec) -> tuple[str, ...]:
    """Names of all graphs of a bundle: of the whole model, of the segments, of the exits' heads."""
    segments = (name for pair in segment_graphs(spec) for name in pair)
    return (*GRAPHS, *segments, *exit_graphs(spec))


def has_exit_graphs(bundle: Bundle) -> bool:
    """Whether the heads of exits have graphs of their own, as every export of this version makes.

    Not so in bundles of earlier versions: there the graph of every segment answers.
    """
    graphs = bundle.metadata.get("graphs")
    return not graphs or any(name in graphs for name in exit_graphs(bundle.spec))


def needed_graphs(bundle: Bundle) -> tuple[str, ...]:
    """Names of the graphs that engines need, see `graph_names`."""
    heads = () if has_exit_graphs(bundle) else exit_graphs(bundle.spec)
    return tuple(name for name in graph_names(bundle.spec) if name not in heads)


def missing_graphs(bundle: Bundle) -> list[str]:
    """Names of the graphs that engines need and that are not there."""
    return [name for name in needed_graphs(bundle) if not (bundle.path / name).is_file()]


def has_graphs(bundle: Bundle) -> bool:
    """Whether all graphs are there; their content is another question."""
    return not missing_graphs(bundle)


def verify_graphs(bundle: Bundle) -> None:
    """Compare the graphs with their checksums.

    Raises:
        BundleError: `model.json` names another SHA-256 of a graph, or none.
    """
    with _named(bundle.path):
        for name in needed_graphs(bundle):
            expected = bundle.metadata.get("graphs", {}).get(name, {}).get("sha256")
            if expected is None:
                raise BundleError(
                    f"{MODEL} must name the SHA-256 of {name}; write it with "
                    f"`mixformerv2 export {printable(bundle.path, 200)}`"
                )
            found = file_sha256(bundle.path / name)
            if found != expected:
                raise BundleError(f"SHA-256 of {name} must be {expected}, got {found}")


def record_graphs(bundle: Bundle, quantization: Mapping[str, Any] | None = None) -> None:
    """Write the checksums of the graphs that are there into `model.json` and `bundle.metadata`.

    Args:
        bundle: A bundle whose graphs are new.
        quantization: For which precision they were made, how it was calibrated and how well it
            agrees; None: the graphs are those of the export, in fp32.

    Raises:
        BundleError: a file cannot be read or written.
    """
    with _named(bundle.path):
        graphs = {
            name: {"sha256": file_sha256(bundle.path / name)}
            for name in graph_names(bundle.spec)
            if (bundle.path / name).is_file()
        }
        metadata = read_json_object(bundle.path / MODEL)
        for facts in (metadata, bundle.metadata):
            facts["graphs"] = graphs
            facts.pop("quantization", None)
            if quantization is not None:
                facts["quantization"] = dict(quantization)
        try:
            write_file(bundle.path / MODEL, _json(metadata))
        except SourceError as error:
            raise BundleError(str(error)) from error


def check_recordable(bundle: Bundle) -> None:
    """Find out before long work whether `record_depth` will be able to write.

    Raises:
        BundleError: the folder of the bundle is read-only.
    """
    with _named(bundle.path):
        if not os.access(bundle.path, os.W_OK):
            raise BundleError(f"{MODEL} cannot be written: the folder is read-only")


def record_depth(bundle: Bundle, calibration: DepthCalibration) -> None:
    """Write what was found for the exits into `model.json` and `bundle.metadata`.

    Raises:
        BundleError: the file cannot be read or written.
    """
    with _named(bundle.path):
        metadata = read_json_object(bundle.path / MODEL)
        for facts in (metadata, bundle.metadata):
            facts[CALIBRATION] = calibration.facts()
        try:
            write_file(bundle.path / MODEL, _json(metadata))
        except SourceError as error:
            raise BundleError(str(error)) from error


def read_weights(bundle: Bundle) -> dict[str, npt.NDArray[np.float32]]:
    """Load the weights of a bundle as float32, in the names and shapes of the state_dict.

    Raises:
        BundleError: the file is not the one that `model.json` names by its SHA-256, or holds
            numbers that are not finite.
    """
    verify_weights(bundle)
    with _named(bundle.path):
        weights = {
            name: np.asarray(value, dtype=np.float32)
            for name, value in load_file(bundle.weights_path).items()
        }
        for name, value in weights.items():
            if not np.isfinite(value).all():
                raise BundleError(f"weights must be finite, got NaN or infinity in {name}")
    return weights


def write_bundle(
    folder: str | Path,
    spec: ModelSpec,
    weights: Mapping[str, npt.NDArray[np.float32]],
    *,
    name: str,
    source: Mapping[str, str | None],
    licence: str,
    search_factor: float = SEARCH_FACTOR,
    template_factor: float = TEMPLATE_FACTOR,
    template_background_contrast: float = TEMPLATE_BACKGROUND_CONTRAST,
    precision: str = "fp32",
    training: Mapping[str, Any] | None = None,
    notes: Mapping[str, Any] | None = None,
    card: str | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle: whole, or nothing at all. Equal input gives equal files.

    Args:
        folder: Where to; its parents are made as needed.
        spec: Architecture of the model.
        weights: Its state_dict, float32; names and shapes of `expected_shapes`.
        name: Name of the model, for people.
        source: Where the weights come from: `file`, its `sha256` (or None), and `kind` in words.
        licence: Licence of the weights.
        search_factor: See `Bundle`.
        template_factor: See `Bundle`.
        template_background_contrast: See `Bundle`.
        precision: Number format to store the weights in, `fp32` or `fp16`.
        training: Facts about the training; anything that JSON can hold.
        notes: Other facts.
        card: Text of the model card.
        overwrite: Replace a bundle that is there already.

    Raises:
        BundleError: there is something at `folder` already, the weights do not fit the spec or the
            precision, a text or number is not permitted, or writing fails.
    """
    with _named(folder):
        choice({"precision": precision}, "precision", _DTYPES)
        tensors = _stored(weights, precision)
        metadata = {
            "format": FORMAT,
            "name": name,
            **{key: value for key, value in asdict(spec).items() if value != ()},
            "search_factor": search_factor,
            "template_factor": template_factor,
            "template_background_contrast": template_background_contrast,
            "source": dict(source),
            "licence": licence,
            "created_by": f"mixformerv2_ros {__version__}",
            "training": dict(training or {}),
            "notes": dict(notes or {}),
        }
        target = Path(folder).resolve()
        _check_replaceable(target, overwrite)
        with write_folder_atomically(target) as temporary:
            save_file(tensors, temporary / WEIGHTS)
            # safetensors makes files that nobody else can read; follow the folder.
            (temporary / WEIGHTS).chmod(temporary.stat().st_mode & 0o666)
            metadata["weights"] = {
                "file": WEIGHTS,
                "sha256": file_sha256(temporary / WEIGHTS),
                "dtype": precision,
            }
            (temporary / MODEL).write_bytes(_json(metadata))
            if card is not None:
                (temporary / CARD).write_text(card, encoding="utf-8")
            _check_weights(_parse(temporary, read_json_object(temporary / MODEL)))
    return open_bundle(folder)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits; OSError where it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _named(folder: str | Path) -> Iterator[None]:
    """Let errors say which bundle they are about."""
    try:
        yield
    except BundleError as error:
        raise BundleError(f"bundle {printable(folder, 200)}: {error}") from error
    except SafetensorError as error:
        raise BundleError(
            f"bundle {printable(folder, 200)}: {WEIGHTS} is damaged: {printable(error, 200)}"
        ) from error
    except OSError as error:
        what = (
            f"{error.strerror}: {Path(error.filename).name}" if error.filename else error.strerror
        )
        raise BundleError(f"bundle {printable(folder, 200)}: {printable(what)}") from error


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        if not ((folder / MODEL).is_file() and (folder / WEIGHTS).is_file()):
            raise BundleError("must be a new folder or a bundle to replace, but is something else")
        if not overwrite:
            raise BundleError("exists already; use --force to overwrite it")


def _stored(
    weights: Mapping[str, npt.NDArray[np.float32]], precision: str
) -> dict[str, npt.NDArray[Any]]:
    """Convert weights to the format that they are stored in."""
    dtype = np.float16 if precision == "fp16" else np.float32
    stored: dict[str, npt.NDArray[Any]] = {}
    for name, value in weights.items():
        with np.errstate(over="ignore"):
            stored[name] = np.ascontiguousarray(value, dtype=dtype)
        if not np.isfinite(stored[name]).all():
            raise BundleError(
                f"weights must be finite in {precision}, got NaN or infinity in {name}"
            )
    return stored


def _json(metadata: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(metadata, indent=2, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BundleError(
            f"facts about the model must be expressible in JSON: {printable(error)}"
        ) from error
    return text + b"\n"


def _parse(folder: Path, data: dict[str, Any]) -> Bundle:
    """Check the content of `model.json`."""
    if data.get("format") != FORMAT:
        raise BundleError(
            f"format must be {FORMAT} for this version of mixformerv2_ros ({__version__}), "
            f"got {printable(data.get('format'))}"
        )
    spec = ModelSpec(
        preset=text_line(data, "preset"),
        width=whole_number(data, "width", 16, 4096),
        depth=whole_number(data, "depth", 1, 64),
        heads=whole_number(data, "heads", 1, 256),
        mlp_ratio=float(number(data, "mlp_ratio", 0.01, 16)),
        bins=whole_number(data, "bins", 2, 4096),
        template_size=whole_number(data, "template_size", ModelSpec.PATCH, 1024),
        search_size=whole_number(data, "search_size", ModelSpec.PATCH, 2048),
        score_pooling=choice(data, "score_pooling", POOLINGS),
        exits=whole_numbers(data, "exits", 1, 63),
    )
    _check_spec(spec)
    source = json_object(data, "source")
    for key in ("file", "kind"):
        text_line(source, key)
    if source.get("sha256") is not None:
        check_digest(source)
    weights = json_object(data, "weights")
    check_digest(weights)
    if weights.get("file") != WEIGHTS:
        raise BundleError(f"weights must lie in {WEIGHTS}, got {printable(weights.get('file'))}")
    choice(weights, "dtype", _DTYPES)
    if "graphs" in data:
        graphs = json_object(data, "graphs")
        known = graph_names(spec)
        for name in graphs:
            if name not in known:
                raise BundleError(f"graphs must be {some(known)}, got {printable(name)}")
            check_digest(json_object(graphs, name))
    if "quantization" in data:
        quantization = json_object(data, "quantization")
        check_depth(quantization, "quantization")
        choice(quantization, "precision", INFERENCE_PRECISIONS)
    if CALIBRATION in data:
        if not spec.exits:
            raise BundleError(f"{CALIBRATION} must be absent without exits")
        read_depth_calibration(json_object(data, CALIBRATION), len(spec.exits))
    for key in ("licence", "created_by"):
        text_line(data, key)
    # The field was called template_surroundings once; older bundles have neither.
    contrast = data.pop("template_surroundings", TEMPLATE_BACKGROUND_CONTRAST)
    data.setdefault("template_background_contrast", contrast)
    for key in ("training", "notes"):
        if key in data:
            check_depth(json_object(data, key), key)
    return Bundle(
        path=folder,
        spec=spec,
        name=text_line(data, "name"),
        search_factor=float(number(data, "search_factor", 1, 20)),
        template_factor=float(number(data, "template_factor", 1, 20)),
        template_background_contrast=float(number(data, "template_background_contrast", 0, 1)),
        metadata=data,
    )


def _check_spec(spec: ModelSpec) -> None:
    if spec.width % spec.heads or spec.width % 4:
        raise BundleError(
            f"width must be a multiple of heads ({spec.heads}) and of 4, got {spec.width}"
        )
    for name in ("template_size", "search_size"):
        if getattr(spec, name) % spec.PATCH:
            raise BundleError(
                f"{name} must be a multiple of {spec.PATCH}, got {getattr(spec, name)}"
            )
    if list(spec.depths) != sorted(set(spec.depths)):
        raise BundleError(
            f"exits must ascend and lie below depth ({spec.depth}), got [{some(spec.exits)}]"
        )
    if preset_name(spec) != spec.preset:
        raise BundleError(f"preset must be {preset_name(spec)} for these sizes, got {spec.preset}")


def _check_weights(bundle: Bundle) -> None:
    """Compare the header of the weights with the architecture, without reading the weights."""
    if not bundle.weights_path.is_file():
        raise BundleError(f"must hold {WEIGHTS}")
    expected = expected_shapes(bundle.spec)
    with safe_open(bundle.weights_path, framework="numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        dtypes = {part.get_dtype() for part in slices.values()}
    differing = [
        name for name in expected.keys() | shapes.keys() if expected.get(name) != shapes.get(name)
    ]
    if differing:
        raise BundleError(f"{WEIGHTS} must fit {MODEL}, but differs in {some(sorted(differing))}")
    if dtypes != {_DTYPES[bundle.precision]}:
        raise BundleError(f"{WEIGHTS} must hold {bundle.precision}, got {some(sorted(dtypes))}")
