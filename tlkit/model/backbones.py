"""A name -> a plain pretrained network from timm or torchvision, where its classifier is, and its preprocessing."""

from __future__ import annotations

import difflib
import fnmatch
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from tlkit.data.preprocessing import Preprocessing
from tlkit.errors import UnavailableError, UsageError, first_line
from tlkit.model.sources import PATIENCE, SOURCES

PLAIN_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
"""hf-hub:, local-dir:, URLs and paths are none."""


HOW_TO_GO_ON = "Go on with a file you have: --weights FILE (.safetensors or .pth), or with random ones: --weights none"


@dataclass(frozen=True)
class BackboneName:
    """source: a key of SOURCES. name: what that library calls it."""

    source: str
    name: str

    def __str__(self) -> str:
        return f"{self.source}/{self.name}"


def is_known(backbone: BackboneName) -> bool:
    """Whether a name is one that a library lists: not a place that it would fetch a model from, as some also take."""
    plain = PLAIN_NAME.fullmatch(backbone.name) is not None
    return plain and backbone.source in SOURCES and SOURCES[backbone.source].accepts(backbone.name)


def find_backbone(text: str) -> BackboneName:
    """Look a name up: timm/NAME, torchvision/NAME or a bare NAME. Raises UsageError with the nearest names."""
    source, slash, name = text.partition("/")
    candidates = [BackboneName(source, name)] if slash else [BackboneName(known, text) for known in SOURCES]
    for candidate in candidates:
        if is_known(candidate):
            return candidate
    if PLAIN_NAME.fullmatch(text.removeprefix(f"{source}/") if source in SOURCES else text) is None:
        raise UsageError(
            "--backbone",
            f"{text[:80]!r} is no name of a backbone; nothing is fetched from elsewhere",
            "`tlkit backbones` lists all names. Weights from a file: --weights FILE",
        )
    known = {entry.name: entry for entry in reversed(list_backbones(None))}
    bare = name if slash and source in SOURCES else text
    nearest = difflib.get_close_matches(bare.partition(".")[0], known, n=5, cutoff=0.5)
    hint = f"Did you mean {', '.join(nearest)}?" if nearest else ""
    raise UsageError(
        "--backbone",
        f"no backbone {text!r} in timm or torchvision",
        f"{hint} `tlkit backbones` lists all.".strip(),
    )


def list_backbones(pattern: str | None) -> list[BackboneName]:
    """All backbones whose name contains the pattern, with * and ? as in a shell."""
    wanted = f"*{pattern or ''}*"
    found = [BackboneName(source, name) for source, library in SOURCES.items() for name in library.names()]
    return [b for b in found if fnmatch.fnmatchcase(b.name, wanted) or fnmatch.fnmatchcase(str(b), wanted)]


def preferred_image_size(backbone: BackboneName) -> int | None:
    """The input size used when none is asked for; None for the model's own.

    DINOv2 names a size of 518 pixels, that of its last training phase; its published linear evaluations use 224,
    at about a tenth of the cost.
    """
    return 224 if backbone.source == "timm" and "_dinov2" in backbone.name else None


def build_network(backbone: BackboneName, classes: int, image_size: int | None = None) -> nn.Module:
    """The plain model that anyone can build from the library, with random weights, in eval mode.

    Raises UsageError if it cannot be built with these values.
    """
    try:
        return SOURCES[backbone.source].build(backbone.name, classes, image_size).eval()
    except (
        AssertionError,
        ValueError,
        RuntimeError,
        TypeError,
        KeyError,
        AttributeError,
        ImportError,
    ) as error:
        raise UsageError("--backbone", f"{backbone} cannot be built: {str(error) or type(error).__name__}") from error


def pretrained_classes(backbone: BackboneName) -> int:
    """How many classes the published weights tell apart. Raises UsageError if none."""
    classes = SOURCES[backbone.source].pretrained_classes(backbone.name)
    if not classes:
        raise UsageError("--head stack", f"{backbone} has no class outputs to stack on")
    return classes


def download_weights(backbone: BackboneName, network: nn.Module) -> dict[str, Tensor]:
    """The published weights of a backbone, from the cache or the network, with a progress bar.

    Raises UnavailableError if they cannot be had.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)  # torch.hub has no timeout of its own
    try:
        return SOURCES[backbone.source].download(backbone.name, network)
    except Exception as error:  # each library and each of its transports has exceptions of its own
        reason = first_line(error).partition(". ")[0][:160]
        raise UnavailableError(
            str(backbone), f"its pretrained weights cannot be had here ({reason})", HOW_TO_GO_ON
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def preprocessing_of(backbone: BackboneName, network: nn.Module, image_size: int | None) -> Preprocessing:
    """How the backbone's input is made."""
    own = SOURCES[backbone.source].preprocessing(backbone.name, network)
    return own if image_size is None or own.image_size == (image_size, image_size) else own.with_image_size(image_size)


FUSION = ("weights", "weights_dist")
"""Parameters by which EfficientViM weighs its several classifiers, through a softmax: zeros weigh them alike."""


@dataclass(frozen=True)
class ClassifierLayers:
    """The layers of a plain network that give the class logits.

    leaves: Linear or 1x1 Conv2d layers; the logits are the mean of their outputs (one, two in distilled models, or
    more). auxiliary: layers whose output a network adds to the logits, and parameters that weigh the leaves; all
    are set to zero.
    """

    output_layers: tuple[str, ...]
    auxiliary: tuple[str, ...]


def classifier_layers(backbone: BackboneName, network: nn.Module, classes: int | None) -> ClassifierLayers:
    """Find the classifier of a plain network built for so many classes (None: for any number).

    Raises UsageError if it has none.
    """
    recorded = [n for n in SOURCES[backbone.source].classifiers(network) if gives_classes(network, n, classes)]
    if not recorded:
        layers = [name for name, _ in network.named_modules() if gives_classes(network, name, classes)]
        recorded = layers[-1:]
    output_layers = tuple(name for name in recorded if "aux" not in name)
    if not output_layers:
        raise UsageError("--backbone", f"{backbone} has no classifier that tlkit could replace")
    auxiliary = [name for name in recorded if "aux" in name]
    auxiliary += [name for name in FUSION if isinstance(getattr(network, name, None), nn.Parameter)]
    return ClassifierLayers(output_layers, tuple(auxiliary))


def within(key: str, names: Sequence[str]) -> bool:
    """Whether a state dict key is one of these parameters, or of one of these layers."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def gives_classes(network: nn.Module, name: str, classes: int | None) -> bool:
    """Whether a module of that name exists and is a layer with one output for each class."""
    try:
        layer = network.get_submodule(name)
    except AttributeError:
        return False
    if not isinstance(layer, nn.Linear) and not (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)):
        return False
    return classes is None or layer.weight.shape[0] == classes
