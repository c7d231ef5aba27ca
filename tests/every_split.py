"""Networks of many kinds divided over two, three and four devices: the same bits as on one, and no operation that is
given tensors of two.

    python tests/every_split.py [--stages 2 3 4] [NAME...]

Each network passes two images in one piece and in stages, training and not, forward and back, while the stand-in for
devices of tests/model/test_stages.py watches. Prints a line for each: where it was split, the shares of parameters,
tensors moved; and those that cannot be split. Exits non-zero if one differs.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.model.pipeline.test_split import watched_pass
from tlkit.errors import UsageError
from tlkit.model.backbones import build_network, find_backbone, preprocessing_of
from tlkit.model.pipeline.split import divide

NAMES = (
    "torchvision/resnet50", "torchvision/vgg16_bn", "torchvision/densenet121", "torchvision/mobilenet_v3_large",
    "torchvision/efficientnet_b0", "torchvision/convnext_tiny", "torchvision/swin_t", "torchvision/vit_b_16",
    "torchvision/regnet_y_400mf", "torchvision/squeezenet1_1", "torchvision/googlenet", "torchvision/inception_v3",
    "torchvision/shufflenet_v2_x1_0", "torchvision/maxvit_t",
    "timm/resnet50", "timm/resnetv2_50", "timm/convnext_tiny", "timm/convnextv2_atto", "timm/vit_small_patch16_224",
    "timm/vit_small_patch14_dinov2", "timm/deit_tiny_distilled_patch16_224", "timm/eva02_tiny_patch14_224",
    "timm/efficientnet_b0", "timm/tf_efficientnetv2_s", "timm/mobilenetv3_small_100",
    "timm/swin_tiny_patch4_window7_224",
    "timm/regnety_004", "timm/nfnet_l0", "timm/mixer_b16_224", "timm/cait_xxs24_224", "timm/coat_lite_tiny",
    "timm/levit_128s", "timm/hrnet_w18_small", "timm/densenet121", "timm/crossvit_tiny_240", "timm/pit_ti_224",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME")
    parser.add_argument("--stages", type=int, nargs="+", default=[2, 3, 4])
    options = parser.parse_args()
    failed = 0
    for name in options.names:
        for stages in options.stages:
            line, fine = tried(name, stages)
            print(f"{name:<40} {stages}  {line}", flush=True)
            failed += not fine
    return 1 if failed else 0


def tried(name: str, stages: int) -> tuple[str, bool]:
    """What to tell of a network, and whether it is as it should be."""
    torch.manual_seed(0)
    backbone = find_backbone(name)
    whole = build_network(backbone, 10)
    size = preprocessing_of(backbone, whole, None).image_size
    network = copy.deepcopy(whole)
    try:
        found = divide(network, name, [torch.device("cpu")] * stages, size)
    except UsageError as error:
        return str(error), True
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    moves, differs = 0, []
    for training in (False, True):
        for one in (whole, network):
            one.train(training).zero_grad()
        moves, same = watched_pass(whole, network, found, images)
        if not same:
            differs.append("training" if training else "passing")
    total = sum(stage.parameters for stage in found)
    shares = ", ".join(
        f"{100 * stage.parameters / total:.0f} %{f' from {stage.first}' if stage.first else ''}" for stage in found
    )
    return f"{shares}; {moves} moved{f'; OTHER NUMBERS {differs}' if differs else ''}", not differs


if __name__ == "__main__":
    sys.exit(main())
