"""Files of weights in the shapes in which public projects save them, made from one network.

Each entry of SHAPES is a function of (state, body, other): the network's state dict, the same without its classifier, and
the state dict of another network of the same kind. The file it makes must load as `state`.
"""

# ruff: noqa: E501 (one shape a line)

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]
Shape = Callable[[State, State, State], Any]


def under(prefix: str, *states: State) -> State:
    return {prefix + key: tensor for state in states for key, tensor in state.items()}


def inside(state: State, before: str, word: str) -> State:
    """With a word that a wrapper inserts into the names of one part."""
    return {key.replace(before, f"{before}{word}.", 1): tensor for key, tensor in state.items()}


PROJECTOR = {"proj.0.weight": torch.ones(4, 4), "proj.0.bias": torch.ones(4)}
HEAD = {"weight": torch.ones(7, 5), "bias": torch.ones(7)}
ADAM = {
    "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(3)}},
    "param_groups": [{"lr": 0.1, "params": [0]}],
}


def as_children(state: State, names: list[str]) -> State:
    """nn.Sequential(*network.children()): numbers in place of the first names."""
    numbered = {}
    for key, tensor in state.items():
        first, _, rest = key.partition(".")
        numbered[f"{names.index(first)}.{rest}"] = tensor
    return numbered


RESNET_CHILDREN = ["conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4"]

SHAPES: dict[str, Shape] = {
    "torchvision reference": lambda s, b, o: {"model": s, "optimizer": ADAM, "epoch": 3, "args": argparse.Namespace(lr=1)},
    "torchvision reference, EMA": lambda s, b, o: {"model": o, "model_ema": {"n_averaged": torch.tensor(3), **under("module.", s)}},
    "torchvision segmentation": lambda s, b, o: {"model": {**under("backbone.", b), **under("classifier.4.", HEAD)}},
    "torchvision detection": lambda s, b, o: {"model": {**under("backbone.body.", b), **under("backbone.fpn.", PROJECTOR)}},
    "timm": lambda s, b, o: {"epoch": 1, "arch": "resnet", "state_dict": s, "optimizer": ADAM, "args": argparse.Namespace(), "metric": np.float64(3)},
    "timm, EMA": lambda s, b, o: {"state_dict": o, "state_dict_ema": s},
    "imagenet example": lambda s, b, o: {"state_dict": under("module.", s), "best_acc1": torch.tensor(70.0), "arch": "resnet18"},
    "Lightning": lambda s, b, o: {"state_dict": {**under("model.", s), "criterion.weight": torch.ones(7)}, "hyper_parameters": {"path": pathlib.Path("a")}},
    "Lightning, compiled": lambda s, b, o: {"state_dict": under("model._orig_mod.", s), "callbacks": {}},
    "Lightning, net": lambda s, b, o: {"state_dict": {**under("net.", s), **under("metrics.", PROJECTOR)}},
    "Lightning, weight averaging": lambda s, b, o: {"state_dict": under("model.", o), "averaging_state": {"n_averaged": torch.tensor(2)}, "averaged_model": under("module.model.", s)},
    "lightly": lambda s, b, o: {"state_dict": {**under("backbone.", b), **under("projection_head.layers.0.", HEAD)}},
    "lightly, sequence": lambda s, b, o: {"state_dict": {**under("backbone.", as_children(b, RESNET_CHILDREN)), **under("projection_head.layers.0.", HEAD)}},
    "lightly, BYOL": lambda s, b, o: {"state_dict": {**under("backbone.", b), **under("backbone_momentum.", {k: v for k, v in o.items() if not k.startswith("fc.")})}},
    "solo-learn": lambda s, b, o: {"state_dict": {**under("backbone.", b), **under("projector.", PROJECTOR), **under("classifier.", HEAD)}},
    "OpenMMLab": lambda s, b, o: {"meta": {"time": "now"}, "state_dict": {**under("backbone.", b), **under("head.fc.", HEAD)}, "message_hub": {}},
    "OpenSelfSup": lambda s, b, o: {"state_dict": {"queue": torch.ones(4, 4), **under("encoder_q.0.", b), **under("encoder_k.0.", o)}},
    "mmengine, EMA": lambda s, b, o: {"state_dict": under("backbone.", o), "ema_state_dict": {"steps": torch.tensor(3), **under("module.backbone.", b)}},
    "MoCo v1, v2": lambda s, b, o: {"state_dict": {**under("module.encoder_q.", s), **under("module.encoder_k.", o), "module.queue": torch.ones(3, 8)}},
    "MoCo v3": lambda s, b, o: {"state_dict": {**under("module.base_encoder.", b), **under("module.momentum_encoder.", o), **under("module.predictor.", PROJECTOR)}},
    "BYOL": lambda s, b, o: {**under("online_encoder.net.", b), **under("target_encoder.net.", o), **under("online_predictor.", PROJECTOR)},
    "DINO": lambda s, b, o: {"student": under("module.backbone.", o), "teacher": {**under("backbone.", b), **under("head.", PROJECTOR)}, "dino_loss": {"center": torch.ones(3)}},
    "I-JEPA": lambda s, b, o: {"encoder": under("module.", o), "predictor": PROJECTOR, "target_encoder": under("module.", s), "opt": ADAM},
    "SwAV": lambda s, b, o: {"state_dict": {**under("module.", b), **under("module.projection_head.", PROJECTOR), "module.prototypes.weight": torch.ones(9, 4)}},
    "Barlow Twins": lambda s, b, o: {"epoch": 3, "model": {**under("module.backbone.", b), **under("module.projector.", PROJECTOR)}},
    "VISSL": lambda s, b, o: {"classy_state_dict": {"base_model": {"model": {"trunk": under("_feature_blocks.", b), "heads": {}}}}},
    "SimSiam": lambda s, b, o: {"state_dict": {**under("module.encoder.", b), **under("module.predictor.", PROJECTOR)}},
    "MAE": lambda s, b, o: {"model": {**s, "mask_token": torch.ones(1, 1, 4), "decoder_embed.weight": torch.ones(2, 2)}},
    "SupContrast": lambda s, b, o: {"opt": argparse.Namespace(a=1), "model": {**under("encoder.module.", b), **under("head.", PROJECTOR)}, "epoch": 3},
    "segmentation_models": lambda s, b, o: {**under("encoder.", b), **under("decoder.blocks.0.", PROJECTOR)},
    "robustness": lambda s, b, o: {"model": {**under("module.model.", s), **under("module.attacker.model.", s), "module.normalizer.new_mean": torch.ones(3, 1, 1)}},
    "DETR": lambda s, b, o: {"model": {**under("backbone.0.body.", b), "query_embed.weight": torch.ones(9, 4)}, "args": argparse.Namespace()},
    "deepspeed": lambda s, b, o: {"module": s, "optimizer": None, "dp_world_size": 1, "ds_config": {}},
    "FSDP": lambda s, b, o: under("_fsdp_wrapped_module.", inside(s, "layer2.", "_fsdp_wrapped_module")),
    "FSDP, inside": lambda s, b, o: inside(s, "layer1.0.", "_fsdp_wrapped_module"),
    "activation checkpointing": lambda s, b, o: inside(s, "layer1.0.", "_checkpoint_wrapped_module"),
    "compiled part": lambda s, b, o: inside(s, "layer1.", "_orig_mod"),
    "Fabric": lambda s, b, o: {"model": under("_forward_module.", s), "optimizer": ADAM},
    "SWA": lambda s, b, o: {"n_averaged": torch.tensor(9), **under("module.", s)},
    "transformers, timm wrapper": lambda s, b, o: under("timm_model.", s),
    "open_clip": lambda s, b, o: {"state_dict": {**under("visual.trunk.", b), **under("transformer.", PROJECTOR), "logit_scale": torch.tensor(1.0)}},
    "fastai": lambda s, b, o: {"model": {**under("0.", as_children(b, RESNET_CHILDREN)), **under("1.8.", HEAD)}, "opt": ADAM},
    "Ignite": lambda s, b, o: {"model": s, "trainer": {"iteration": 3}, "date": datetime.datetime(2026, 1, 1)},
    "Catalyst": lambda s, b, o: {"model_state_dict": s, "optimizer_state_dict": ADAM, "epoch_metrics": collections.defaultdict(dict)},
    "Composer": lambda s, b, o: {"state": {"model": under("module.", s), "timestamp": {}, "rank_zero_seed": 1}, "rng": [{"cuda": None}]},
    "d2go, EMA": lambda s, b, o: {"model": o, "ema_state": {"state": s, "decay": 0.999}},
    "BasicSR": lambda s, b, o: {"params": o, "params_ema": s},
    "diffusion, shadow": lambda s, b, o: {"model": o, "ema": {"decay": 0.99, "shadow_params": {**s}}},
    "mean teacher": lambda s, b, o: {"state_dict": under("student.", o), "teacher_state_dict": under("module.", s)},
    "Parameters": lambda s, b, o: {"net": {k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()}},
    "in a list": lambda s, b, o: [s, ADAM][:1][0] | {"epoch": torch.tensor(3)},
    "OrderedDict with metadata": lambda s, b, o: collections.OrderedDict(s),
    "half precision": lambda s, b, o: {"state_dict": {k: v.half().float() if k == "" else v for k, v in s.items()}},
    "head of another shape": lambda s, b, o: {**b, "fc.weight": torch.ones(3, 9), "fc.bias": torch.ones(3)},
    "classifier elsewhere": lambda s, b, o: {**b, "classifier.0.weight": torch.ones(3, 9), "mixup.lam": torch.ones(1)},
}  # fmt: skip
