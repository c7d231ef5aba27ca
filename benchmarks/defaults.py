"""The default options of finetune against scikit-learn's tuned logistic regression, on the same vectors.

    python benchmarks/defaults.py [--folder DATA] [--backbone NAME] [--weights FILE]

Vectors: the sample photographs through the sample backbone and through random weights, scikit-learn's digits (its 64
pixels as the vector, all of them and 200 of them), made-up vectors of 384 and 2048 values, and a folder of images if
one is named. For each: the best validation accuracy of a default run, and that of LogisticRegression on
standardized vectors with C chosen by 5-fold cross-validation on the training part.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from tlkit.data.batches import FeatureBatches
from tlkit.data.class_folders import read_dataset
from tlkit.data.decoders import open_decoder, worker_count
from tlkit.data.view import View
from tlkit.distributed.world import SINGLE_PROCESS
from tlkit.features.extract import EXTRACTION_BATCH, Extraction
from tlkit.features.extractor import FeatureExtractor, feature_statistics
from tlkit.features.store import NoStore
from tlkit.model.build import assemble
from tlkit.model.head import HEADS, Head, HeadShape
from tlkit.options import FinetuneOptions
from tlkit.runs.batches import labels_of
from tlkit.training.loop import Trainer
from tlkit.training.optimizer import build_optimizer
from tlkit.training.state import TrainingState

SAMPLE = Path(__file__).parent.parent / "sample_data"
Vectors = tuple[Tensor, Tensor, Tensor, Tensor]
"""Training vectors [N, D] and labels [N], validation vectors and labels."""


def from_folder(data: Path, backbone: str, weights: str) -> Vectors:
    """The vectors that a finetune run would train on."""
    options = FinetuneOptions(data=str(data), backbone=backbone, weights=weights)
    dataset = read_dataset(options.data)
    classifier, description = assemble(options, dataset.classes)
    extractor = FeatureExtractor(classifier.backbone, description.preprocessing, torch.device("cpu"))
    workers = worker_count(None)
    extraction = Extraction(
        extractor, NoStore(), open_decoder(workers), workers, EXTRACTION_BATCH["cpu"], SINGLE_PROCESS
    )
    plain = View(description.preprocessing)
    parts: list[Tensor] = []
    for samples in (dataset.train, dataset.val):
        parts += [extraction.features(samples, plain, "vectors", []), labels_of(samples)]
    return parts[0], parts[1], parts[2], parts[3]


def from_digits(count: int) -> Vectors:
    """scikit-learn's digits, `count` of them to train on and 397 to validate on."""
    pixels, labels = (torch.from_numpy(values) for values in load_digits(return_X_y=True))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, val = order[:count], order[1400:]
    return pixels[train].float(), labels[train], pixels[val].float(), labels[val]


def made_up(width: int, count: int, classes: int, distance: float) -> Vectors:
    """Overlapping clouds with features of very different scales; 1000 to validate on."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(classes, width, generator=generator) * distance
    labels = torch.randint(0, classes, (count + 1000,), generator=generator)
    vectors = centres[labels] + torch.randn(count + 1000, width, generator=generator)
    vectors = vectors * torch.rand(width, generator=generator) * 5 + 3
    return vectors[:count], labels[:count], vectors[count:], labels[count:]


def accuracy_of_defaults(vectors: Vectors) -> float:
    """The best validation accuracy of a run with default options."""
    train_vectors, train_labels, val_vectors, val_labels = vectors
    options = FinetuneOptions(data="")
    classes = int(max(train_labels.max(), val_labels.max())) + 1
    head = Head(HEADS["linear"], HeadShape(train_vectors.shape[1], classes))
    statistics = feature_statistics([train_vectors])
    assert statistics is not None
    head.set_standardization(*statistics)
    optimizer = build_optimizer(head, torch.nn.Module(), options)
    state = TrainingState(head, optimizer)  # type: ignore[arg-type]
    Trainer(
        head,
        state,
        FeatureBatches([train_vectors], train_labels, options.batch_size, options.seed),
        FeatureBatches([val_vectors], val_labels, 4096, None),
        options,
        torch.ones(classes),
        torch.device("cpu"),
    ).train()
    assert state.best is not None
    return state.best.val["accuracy"]


def accuracy_of_logistic_regression(vectors: Vectors) -> float:
    """Validation accuracy of the tuned reference."""
    train_vectors, train_labels, val_vectors, val_labels = (part.numpy() for part in vectors)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    search = GridSearchCV(model, {"logisticregression__C": np.logspace(-4, 3, 8)}, cv=5)
    return float(search.fit(train_vectors, train_labels).score(val_vectors, val_labels))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--backbone", default="timm/test_byobnet")
    parser.add_argument("--weights", default=str(SAMPLE / "backbone.safetensors"))
    arguments = parser.parse_args()
    tasks = {
        "textures, sample backbone": from_folder(SAMPLE / "textures", arguments.backbone, arguments.weights),
        "textures, random weights": from_folder(SAMPLE / "textures", arguments.backbone, "none"),
        "digits": from_digits(1400),
        "digits, 200 to train on": from_digits(200),
        "made up, 384 wide": made_up(384, 400, 10, 0.15),
        "made up, 2048 wide": made_up(2048, 300, 5, 0.08),
    }
    if arguments.folder:
        tasks[arguments.folder.name] = from_folder(arguments.folder, arguments.backbone, arguments.weights)
        tasks[f"{arguments.folder.name}, random resnet18"] = from_folder(arguments.folder, "timm/resnet18", "none")
    print(f"{'vectors':<34} {'shape':>12}  {'defaults':>8}  {'tuned LR':>8}  {'difference':>10}")
    short = 0
    for name, vectors in tasks.items():
        ours, theirs = accuracy_of_defaults(vectors), accuracy_of_logistic_regression(vectors)
        short += ours < theirs - 0.01
        shape = "x".join(map(str, vectors[0].shape))
        print(f"{name:<34} {shape:>12}  {ours:8.4f}  {theirs:8.4f}  {100 * (ours - theirs):+9.1f} %", flush=True)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
