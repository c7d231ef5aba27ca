"""The loop that tutorials teach: ImageFolder, a DataLoader with workers, a frozen backbone run again in every epoch.

    python tutorial_finetune.py DATA WEIGHTS MODEL EPOCHS BATCH_SIZE

MODEL: a ResNet of torchvision. Prints the validation accuracy of each epoch, and its seconds.
"""

import os
import sys
import time

import torch
import torchvision
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets


def main() -> None:
    data, weights, name, epochs, batch_size = sys.argv[1:]
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    workers = len(os.sched_getaffinity(0))
    train = datasets.ImageFolder(os.path.join(data, "train"), transform)
    val = datasets.ImageFolder(os.path.join(data, "val"), transform)
    torch.manual_seed(0)
    train_loader = DataLoader(train, batch_size=int(batch_size), shuffle=True, num_workers=workers)
    val_loader = DataLoader(val, batch_size=32, num_workers=workers)
    model = torchvision.models.get_model(name)
    model.load_state_dict(load_file(weights))
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.fc = nn.Linear(model.fc.in_features, len(train.classes))
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)
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
