"""fastai's vision_learner, frozen, on the same images.

    python fastai_finetune.py DATA WEIGHTS MODEL EPOCHS

Prints the best validation accuracy.
"""

import os
import sys

import torchvision
from fastai.vision.all import ImageDataLoaders, Resize, accuracy, vision_learner
from safetensors.torch import load_file


def main() -> None:
    data, weights, name, epochs = sys.argv[1:]

    def backbone(pretrained: bool = False, **options: object) -> object:
        model = torchvision.models.get_model(name)
        model.load_state_dict(load_file(weights))
        return model

    backbone.__name__ = name
    loaders = ImageDataLoaders.from_folder(
        data, valid="val", item_tfms=Resize(224), bs=16, num_workers=len(os.sched_getaffinity(0))
    )
    learner = vision_learner(loaders, backbone, pretrained=False, metrics=accuracy, normalize=True, cut=-2)
    learner.freeze()
    learner.fit_one_cycle(int(epochs), 1e-3)
    print(f"{max(float(row[2]) for row in learner.recorder.values):.4f}")


if __name__ == "__main__":
    main()
