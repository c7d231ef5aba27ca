"""A prediction loop as timm's documentation writes it: create_model, its transforms, a DataLoader with workers.

    python timm_predict.py NAME CLASSES STATE_DICT FOLDER

Prints path, class number and probability of each image.
"""

import os
import sys

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch.utils.data import DataLoader, Dataset


class Images(Dataset):
    def __init__(self, paths: list[str], transform: object) -> None:
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


@torch.inference_mode()
def main() -> None:
    name, classes, state, folder = sys.argv[1:]
    model = timm.create_model(name, num_classes=int(classes))
    model.load_state_dict(torch.load(state))
    model.eval()
    paths = [os.path.join(folder, file) for file in sorted(os.listdir(folder))]
    images = Images(paths, create_transform(**resolve_model_data_config(model)))
    loader = DataLoader(images, batch_size=32, num_workers=len(os.sched_getaffinity(0)))
    start = 0
    for batch in loader:
        probabilities, labels = model(batch).softmax(dim=1).max(dim=1)
        for offset, (probability, label) in enumerate(zip(probabilities.tolist(), labels.tolist(), strict=True)):
            print(f"{paths[start + offset]}\t{label}\t{probability:.9f}")
        start += len(batch)


if __name__ == "__main__":
    main()
