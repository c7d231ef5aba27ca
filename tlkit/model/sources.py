"""timm, torchvision and weights in Python packages behind one interface."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tlkit.data.preprocessing import Preprocessing
from tlkit.errors import UsageError
from tlkit.files.artifact import load_safely
from tlkit.model.conversions import from_efficientnet_pytorch
from tlkit.model.packages import PACKAGES

DOWNLOAD_TIMEOUT = 10.0
"""Seconds to wait for a response while downloading."""


@dataclass(frozen=True)
class Location:
    """Where pretrained weights are downloaded from. folder: where the library looks for the file first, if it does."""

    url: str
    folder: str | None = None


class Source(Protocol):
    """A library of models."""

    def names(self) -> Sequence[str]:
        """All image classifiers."""

    def accepts(self, name: str) -> bool:
        """Whether build takes the name. Names with a tag (resnet50.a1_in1k) are accepted but not listed."""

    def library_name(self, name: str) -> tuple[str, str]:
        """The library and the name with which Python code without tlkit builds the network."""

    def build(self, name: str, classes: int, image_size: int | None) -> nn.Module:
        """Build the model with random weights and `classes` outputs."""

    def pretrained_classes(self, name: str) -> int:
        """Number of classes of the pretrained weights."""

    def location(self, name: str) -> Location | None:
        """Where the pretrained weights are on the network; None if nowhere."""

    def download(self, name: str, network: nn.Module) -> dict[str, Tensor]:
        """Return the pretrained weights, shaped for network. Raises any exception if that fails."""

    def adapt(self, network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert a published state dict to this network's names and input size."""

    def classifiers(self, network: nn.Module) -> tuple[str, ...]:
        """Names of the layers that output class logits, if the library records them."""

    def preprocessing(self, name: str, network: nn.Module) -> Preprocessing:
        """The preprocessing of the pretrained weights."""


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

    def library_name(self, name: str) -> tuple[str, str]:
        return "timm", name

    def build(self, name: str, classes: int, image_size: int | None) -> nn.Module:
        import timm

        if image_size is not None:
            try:
                return timm.create_model(name, num_classes=classes, img_size=image_size)
            except TypeError:  # most networks accept any size and have no such parameter
                pass
        return timm.create_model(name, num_classes=classes)

    def pretrained_classes(self, name: str) -> int:
        import timm

        config = timm.get_pretrained_cfg(name)
        assert config is not None
        return int(config.num_classes)

    def location(self, name: str) -> Location | None:
        import timm
        from huggingface_hub import constants

        config = timm.get_pretrained_cfg(name)
        if config is None or not (config.hf_hub_id or config.url):
            return None
        file = config.hf_hub_filename or "model.safetensors"
        hub = f"{constants.ENDPOINT}/{config.hf_hub_id}/resolve/main/{file}"
        return Location(hub if config.hf_hub_id else str(config.url))

    def download(self, name: str, network: nn.Module) -> dict[str, Tensor]:
        import timm

        go_offline_if_unreachable()
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
        if not isinstance(names, str):
            return tuple(names)
        # levit_384_s8 has a second head that it does not record. Names of no layer are ignored.
        return (names, names.replace("head", "head_dist", 1)) if names.startswith("head") else (names,)

    def preprocessing(self, name: str, network: nn.Module) -> Preprocessing:
        from timm.data.config import resolve_model_data_config

        resolve: Any = resolve_model_data_config
        return Preprocessing.from_timm_config(resolve(network))


def go_offline_if_unreachable() -> None:
    """Make the hub's client use its cache at once if there is no network; it would retry for a minute."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=DOWNLOAD_TIMEOUT)
    except Exception:  # each transport has its own exceptions; the download from the cache follows
        constants.HF_HUB_OFFLINE = True


# Auxiliary classifiers are for training from scratch only; init_weights silences a warning.
NO_AUXILIARY = {"aux_logits": False, "init_weights": False}


class Torchvision:
    """torchvision.models"""

    def names(self) -> Sequence[str]:
        from torchvision import models

        return models.list_models(module=models)  # type: ignore[no-any-return]

    def accepts(self, name: str) -> bool:
        return name in self.names()

    def library_name(self, name: str) -> tuple[str, str]:
        return "torchvision", name

    def build(self, name: str, classes: int, image_size: int | None) -> nn.Module:
        from torchvision import models

        own = self._weights(name).transforms().crop_size[0]
        extra: Mapping[str, object] = {}
        if name in ("googlenet", "inception_v3"):
            extra = NO_AUXILIARY
        elif name.startswith("vit_"):
            extra = {"image_size": image_size or own}
        elif name.startswith("maxvit_") and image_size not in (None, own):
            raise UsageError("--image-size", f"torchvision/{name} takes {own} only, not {image_size}")
        return models.get_model(name, weights=None, num_classes=classes, **extra)  # type: ignore[no-any-return]

    def pretrained_classes(self, name: str) -> int:
        return len(self._weights(name).meta["categories"])

    def location(self, name: str) -> Location | None:
        return Location(self._weights(name).url, os.path.join(torch.hub.get_dir(), "checkpoints"))

    def download(self, name: str, network: nn.Module) -> dict[str, Tensor]:
        return dict(self._weights(name).get_state_dict(progress=True, check_hash=True, weights_only=True))

    def adapt(self, network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

        # DenseNet weights have the names of an older version: norm.1 instead of norm1.
        state = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key): t for key, t in state.items()}
        if isinstance(network, VisionTransformer):
            return dict(interpolate_embeddings(network.image_size, network.patch_size, OrderedDict(state)))
        return state

    def classifiers(self, network: nn.Module) -> tuple[str, ...]:
        return ()

    def preprocessing(self, name: str, network: nn.Module) -> Preprocessing:
        own = Preprocessing.from_torchvision_transforms(self._weights(name).transforms())
        if name in ("googlenet", "inception_v3"):
            # Pretrained networks of these normalize inside; networks built without weights do not.
            return dataclasses.replace(own, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        return own

    def _weights(self, name: str) -> Any:
        from torchvision import models

        return models.get_model_weights(name).DEFAULT


class Packaged(Timm):
    """Networks of timm with weights from an installed Python package."""

    def names(self) -> Sequence[str]:
        return list(PACKAGES)

    def accepts(self, name: str) -> bool:
        return name in PACKAGES

    def library_name(self, name: str) -> tuple[str, str]:
        return "timm", f"tf_{name}"

    def build(self, name: str, classes: int, image_size: int | None) -> nn.Module:
        return super().build(f"tf_{name}", classes, image_size)

    def pretrained_classes(self, name: str) -> int:
        return super().pretrained_classes(f"tf_{name}")

    def location(self, name: str) -> Location | None:
        return None

    def download(self, name: str, network: nn.Module) -> dict[str, Tensor]:
        return from_efficientnet_pytorch(network, load_safely(PACKAGES[name].find()))


SOURCES: dict[str, Source] = {"timm": Timm(), "torchvision": Torchvision(), "packaged": Packaged()}
"""A name without a prefix is looked up in this order."""
