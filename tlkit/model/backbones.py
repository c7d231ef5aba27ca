"""A name -> a plain pretrained network from timm or torchvision, where its classifier is, and its preprocessing."""

from __future__ import annotations

import difflib
import fnmatch
import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from tlkit.data.preprocessing import Preprocessing
from tlkit.errors import UnavailableError, UsageError

HOW_TO_GO_ON = "Go on with a file you have: --weights FILE (.safetensors or .pth), or with random ones: --weights none"


@dataclass(frozen=True)
class BackboneName:
    """source: a key of SOURCES. name: what that library calls it."""

    source: str
    name: str

    def __str__(self) -> str:
        return f"{self.source}/{self.name}"


class Source(Protocol):
    """A library of models."""

    def names(self) -> Sequence[str]:
        """All models that classify images."""

    def accepts(self, name: str) -> bool:
        """Whether build takes the name; it may be one that `names` does not list, such as one with a tag."""

    def build(self, name: str, classes: int, image_size: int | None) -> nn.Module:
        """The plain model with random weights and its own classifier for so many classes."""

    def pretrained_classes(self, name: str) -> int:
        """How many classes the published weights tell apart."""

    def download(self, name: str, network: nn.Module) -> dict[str, Tensor]:
        """The published weights, shaped for network. Raises anything if there are none or no network."""

    def adapt(self, network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict as published, converted to this network's names and input size."""

    def classifiers(self, network: nn.Module) -> tuple[str, ...]:
        """Names of the layers that may give the class logits, as the library records them."""

    def preprocessing(self, name: str, network: nn.Module) -> Preprocessing:
        """How the model's input is made, at its own input size."""


class Timm:
    """PyTorch Image Models."""

    def names(self) -> Sequence[str]:
        import timm

        return list(timm.list_models())

    def accepts(self, name: str) -> bool:
        import timm

        architecture, _, tag = name.partition(".")
        if not timm.is_model(architecture):
            return False
        return not tag or name in timm.list_pretrained(f"{architecture}.*")

    def build(self, name: str, classes: int, image_size: int | None) -> nn.Module:
        import timm

        if image_size is not None:
            try:
                return timm.create_model(name, num_classes=classes, img_size=image_size)
            except TypeError:  # most networks take any size and have no such parameter
                pass
        return timm.create_model(name, num_classes=classes)

    def pretrained_classes(self, name: str) -> int:
        import timm

        config: Any = timm.get_pretrained_cfg(name)
        return int(config.num_classes)

    def download(self, name: str, network: nn.Module) -> dict[str, Tensor]:
        import timm

        size = getattr(getattr(network, "patch_embed", None), "img_size", None)
        classes = getattr(network, "num_classes", None)
        fixed = {"img_size": size} if size is not None else {}
        try:
            model = timm.create_model(name, pretrained=True, num_classes=classes, **fixed)
        except TypeError:
            model = timm.create_model(name, pretrained=True, num_classes=classes)
        return dict(model.state_dict())

    def adapt(self, network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        convert = getattr(inspect.getmodule(type(network)), "checkpoint_filter_fn", None)
        return dict(convert(dict(state), network)) if convert is not None else state

    def classifiers(self, network: nn.Module) -> tuple[str, ...]:
        names = network.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
        return (names,) if isinstance(names, str) else tuple(names)

    def preprocessing(self, name: str, network: nn.Module) -> Preprocessing:
        from timm.data.config import resolve_model_data_config

        resolve: Any = resolve_model_data_config
        return Preprocessing.from_timm_config(resolve(network))


# Auxiliary classifiers serve training from scratch only; init_weights silences a warning.
NO_AUXILIARY = {"aux_logits": False, "init_weights": False}


class Torchvision:
    """torchvision.models"""

    def names(self) -> Sequence[str]:
        from torchvision import models

        return models.list_models(module=models)  # type: ignore[no-any-return]

    def accepts(self, name: str) -> bool:
        return name in self.names()

    def build(self, name: str, classes: int, image_size: int | None) -> nn.Module:
        from torchvision import models

        if image_size is not None and name.startswith(("vit_", "maxvit_")):
            own = self._weights(name).transforms().crop_size[0]
            if image_size != own:
                raise UsageError("--image-size", f"torchvision/{name} takes {own} only, not {image_size}")
        extra = NO_AUXILIARY if name in ("googlenet", "inception_v3") else {}
        return models.get_model(name, weights=None, num_classes=classes, **extra)  # type: ignore[no-any-return]

    def pretrained_classes(self, name: str) -> int:
        return len(self._weights(name).meta["categories"])

    def download(self, name: str, network: nn.Module) -> dict[str, Tensor]:
        return dict(self._weights(name).get_state_dict(progress=True, check_hash=True))

    def adapt(self, network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return state

    def classifiers(self, network: nn.Module) -> tuple[str, ...]:
        return ()

    def preprocessing(self, name: str, network: nn.Module) -> Preprocessing:
        return Preprocessing.from_torchvision_transforms(self._weights(name).transforms())

    def _weights(self, name: str) -> Any:
        from torchvision import models

        return models.get_model_weights(name).DEFAULT


SOURCES: dict[str, Source] = {"timm": Timm(), "torchvision": Torchvision()}
"""In the order in which a bare name is looked up."""


def find_backbone(text: str) -> BackboneName:
    """Look a name up: timm/NAME, torchvision/NAME or a bare NAME. Raises UsageError with the nearest names."""
    source, slash, name = text.partition("/")
    candidates = [BackboneName(source, name)] if slash else [BackboneName(known, text) for known in SOURCES]
    for candidate in candidates:
        if candidate.source in SOURCES and SOURCES[candidate.source].accepts(candidate.name):
            return candidate
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
    at an eighth of the cost.
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
    # Without this, an unreachable hub is asked again and again for minutes.
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "10")
    try:
        return SOURCES[backbone.source].download(backbone.name, network)
    except Exception as error:  # each library and each of its transports has exceptions of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnavailableError(
            str(backbone), f"its pretrained weights cannot be had here ({reason[:160]})", HOW_TO_GO_ON
        ) from error


def preprocessing_of(backbone: BackboneName, network: nn.Module, image_size: int | None) -> Preprocessing:
    """How the backbone's input is made."""
    own = SOURCES[backbone.source].preprocessing(backbone.name, network)
    return own if image_size is None or own.image_size == (image_size, image_size) else own.with_image_size(image_size)


@dataclass(frozen=True)
class ClassifierLayers:
    """The layers of a plain network that give the class logits.

    leaves: Linear or 1x1 Conv2d layers; the logits are the mean of their outputs (one, or two in distilled
    models). auxiliary: layers whose output a network adds to the logits, kept at zero.
    """

    leaves: tuple[str, ...]
    auxiliary: tuple[str, ...]


def classifier_layers(backbone: BackboneName, network: nn.Module, classes: int | None) -> ClassifierLayers:
    """Find the classifier of a plain network built for so many classes (None: for any number).

    Raises UsageError if it has none.
    """
    recorded = [n for n in SOURCES[backbone.source].classifiers(network) if gives_classes(network, n, classes)]
    if not recorded:
        layers = [name for name, _ in network.named_modules() if gives_classes(network, name, classes)]
        recorded = layers[-1:]
    leaves = tuple(name for name in recorded if "aux" not in name)
    if not leaves:
        raise UsageError("--backbone", f"{backbone} has no classifier that tlkit could replace")
    return ClassifierLayers(leaves, tuple(name for name in recorded if "aux" in name))


def gives_classes(network: nn.Module, name: str, classes: int | None) -> bool:
    """Whether a module of that name exists and is a layer with one output for each class."""
    try:
        layer = network.get_submodule(name)
    except AttributeError:
        return False
    if not isinstance(layer, nn.Linear) and not (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)):
        return False
    return classes is None or layer.weight.shape[0] == classes
