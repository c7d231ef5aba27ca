"""The loop that tutorials teach: ImageFolder, a DataLoader with workers, a frozen backbone run again in every epoch.

    python tutorial_finetune.py DATA WEIGHTS MODEL EPOCHS BATCH_SIZE

MODEL: torchvision/NAME, a ResNet, or timm/NAME. Prints the validation accuracy of each epoch, and its seconds.
"""

import os
import sys
import time

import timm
import torch
import torchvision
from safetensors.torch import load_file
from timm.data import create_transform, resolve_model_data_config
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets


def build(backbone: str) -> tuple[nn.Module, object]:
    """The network, and its evaluation transform."""
    source, _, name = backbone.partition("/")
    if source == "torchvision":
        transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        return torchvision.models.get_model(name), transform
    model = timm.create_model(name)
    return model, create_transform(**resolve_model_data_config(model))


def put_head(model: nn.Module, classes: int) -> nn.Module:
    """A new linear layer in the place of the classifier."""
    if hasattr(model, "reset_classifier"):  # timm
        model.reset_classifier(classes)
        return model.get_classifier()
    model.fc = nn.Linear(model.fc.in_features, classes)
    return model.fc


def main() -> None:
    data, weights, backbone, epochs, batch_size = sys.argv[1:]
    model, transform = build(backbone)
    workers = len(os.sched_getaffinity(0))
    train = datasets.ImageFolder(os.path.join(data, "train"), transform)
    val = datasets.ImageFolder(os.path.join(data, "val"), transform)
    torch.manual_seed(0)
    train_loader = DataLoader(train, batch_size=int(batch_size), shuffle=True, num_workers=workers)
    val_loader = DataLoader(val, batch_size=32, num_workers=workers)
    model.load_state_dict(load_file(weights), strict=False)  # a file may lack the classifier
    for parameter in model.parameters():
        parameter.requires_grad = False
    head = put_head(model, len(train.classes))
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(epochs))
    model.eval()  # the backbone is frozen: the statistics of its BatchNorms stay too
    for _ in range(int(epochs)):
        began = time.perf_counter()
        for images, labels in train_loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in val_loader)
        print(f"epoch {right / len(val):.4f} {time.perf_counter() - began:.3f}", flush=True)


if __name__ == "__main__":
    main()
