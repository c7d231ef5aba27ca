"""fastai's vision_learner, frozen, as its documentation has it, on the same images and weights.

    python fastai_finetune.py DATA WEIGHTS MODEL EPOCHS BATCH_SIZE

MODEL: torchvision/NAME, a ResNet. The head is fastai's own (two layers), and so is that BatchNorms of the body train.
Prints the validation accuracy of each epoch, and its seconds.
"""

import os
import sys
import time

import torchvision
from fastai.vision.all import Callback, ImageDataLoaders, Normalize, Resize, accuracy, vision_learner
from fastai.vision.all import imagenet_stats as statistics
from safetensors.torch import load_file


class Lines(Callback):
    """A line for each epoch, in place of fastai's table."""

    order = 60  # after the Recorder, which computes the accuracy

    def before_epoch(self) -> None:
        self.began = time.perf_counter()

    def after_epoch(self) -> None:
        found = self.tell.recorder.values[-1][-1]
        print(f"epoch {float(found):.4f} {time.perf_counter() - self.began:.3f}", flush=True)


def main() -> None:
    data, weights, backbone, epochs, batch_size = sys.argv[1:]

    def body(pretrained: bool = False, **options: object) -> object:
        model = torchvision.models.get_model(backbone.partition("/")[2])
        model.load_state_dict(load_file(weights))
        return model

    loaders = ImageDataLoaders.from_folder(
        data,
        valid="val",
        item_tfms=Resize(224),
        batch_tfms=Normalize.from_stats(*statistics),
        bs=int(batch_size),
        num_workers=len(os.sched_getaffinity(0)),
    )
    learner = vision_learner(loaders, body, pretrained=False, metrics=accuracy, cut=-2)
    learner.freeze()
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(int(epochs), 1e-3, cbs=Lines())


if __name__ == "__main__":
    main()
