"""The loop that tutorials teach: ImageFolder, a DataLoader with workers, a frozen backbone run again in every epoch.

    python tutorial_finetune.py DATA WEIGHTS MODEL EPOCHS

Prints the best validation accuracy.
"""

import os
import sys

import torch
import torchvision
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms


def main() -> None:
    data, weights, name, epochs = sys.argv[1:]
    preset = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    workers = len(os.sched_getaffinity(0))
    train = datasets.ImageFolder(os.path.join(data, "train"), preset)
    val = datasets.ImageFolder(os.path.join(data, "val"), preset)
    torch.manual_seed(0)
    train_loader = DataLoader(train, batch_size=16, shuffle=True, num_workers=workers)
    val_loader = DataLoader(val, batch_size=16, num_workers=workers)
    model = torchvision.models.get_model(name)
    model.load_state_dict(load_file(weights))
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.fc = nn.Linear(model.fc.in_features, len(train.classes))
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(epochs))
    best = 0.0
    for _ in range(int(epochs)):
        model.eval()  # the backbone is frozen: its statistics stay
        for images, labels in train_loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in val_loader)
        best = max(best, right / len(val))
    print(f"{best:.4f}")


if __name__ == "__main__":
    main()
