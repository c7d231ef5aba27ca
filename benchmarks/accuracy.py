"""Accuracy on held-out images: tasks x training images x ways to train, the mean over seeds.

    python benchmarks/accuracy.py [--photos DIR] [--backbone NAME] [--seeds N] [--full]

Tasks: the sample textures, scikit-learn's digits, and, with --photos, photographs whose file names begin with the
WordNet number of their ImageNet class, grouped in five ways. A third of each class is held out; of the rest, 5, 10, 20
or all images of each class are trained on. Ways: a run with default options (cross-validated), with --folds 1, and
scikit-learn's LogisticRegression on standardized features with C by 5-fold cross-validation. --full adds
`tlkit finetune --unfreeze all` on all images. Prints accuracy in percent, log-loss, and seconds of training. Exits with
1 if the defaults are more than a point below logistic regression anywhere.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from tlkit.data.batches import FeatureBatches
from tlkit.data.decoders import open_decoder
from tlkit.data.folder import Dataset, Sample
from tlkit.data.splitting import cross_validated, divide
from tlkit.data.view import View
from tlkit.distributed.world import SINGLE_PROCESS
from tlkit.features.extract import Extraction
from tlkit.features.extractor import FeatureExtractor, feature_statistics
from tlkit.features.store import NoStore
from tlkit.model.build import assemble
from tlkit.model.head import HEADS, CrossValidatedHead, Head, HeadShape
from tlkit.options import FinetuneOptions
from tlkit.runs.batches import labels_of, labels_of_folds
from tlkit.training.loop import Trainer, TrainingObserver
from tlkit.training.optimizer import build_optimizer
from tlkit.training.state import TrainingState

SAMPLE = Path(__file__).parent.parent / "sample_data"
SIZES = (5, 10, 20, 0)
"""Training images of each class; 0: all that are not held out."""

GROUPS: dict[str, dict[str, Sequence[tuple[int, int]]]] = {
    "animal or thing": {"animal": [(0, 397)], "thing": [(398, 999)]},
    "animals": {
        "fish": [(0, 6), (389, 397)],
        "bird": [(7, 24), (80, 100), (127, 146)],
        "reptile": [(25, 68)],
        "sea": [(107, 126)],
        "dog": [(151, 268)],
        "predator": [(269, 299)],
        "insect": [(69, 79), (300, 326)],
        "hoofed": [(339, 355)],
        "ape": [(365, 384)],
    },
    "dogs": {"toy": [(151, 158)], "hound": [(159, 178)], "terrier": [(179, 204)], "worker": [(205, 268)]},
    "birds or reptiles": {"bird": [(7, 24), (80, 100), (127, 146)], "reptile": [(25, 68)]},
    "land or water": {"water": [(0, 6), (107, 126), (147, 150), (389, 397)], "land": [(269, 388)]},
}
"""Tasks of photographs: ranges of ImageNet's class numbers, both ends included, by class."""


@dataclass(frozen=True)
class Task:
    """Images with their features [N, D] and labels [N]."""

    paths: Sequence[str]
    features: Tensor
    labels: Tensor

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1

    def select(self, chosen: Tensor) -> Task:
        return Task([self.paths[i] for i in chosen.tolist()], self.features[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Score:
    """accuracy: percent. loss: mean log-loss, nan where a way gives none."""

    accuracy: float
    loss: float
    seconds: float


Way = Callable[[Task, Task, int], Score]
"""Train on the first task, measure on the second; the last value is the seed."""


class Features:
    """Computes the features of files with a frozen backbone."""

    def __init__(self, backbone: str) -> None:
        options = FinetuneOptions(data="", backbone=backbone)
        classifier, description = assemble(options, ("a", "b"))
        self.view = View(description.preprocessing)
        extract = FeatureExtractor(classifier.backbone, description.preprocessing, torch.device("cpu"))
        self.extraction = Extraction(extract, NoStore(), open_decoder(1), 1, 32, SINGLE_PROCESS)

    def of(self, paths: Sequence[str]) -> Tensor:
        return self.extraction.features([Sample(path, 0) for path in paths], self.view, "features", [])


class LastLogits(TrainingObserver):
    """Keeps a head's logits on the held-out images at the best epoch."""

    def __init__(self, head: Head, features: Tensor) -> None:
        self.head = head
        self.features = features
        self.logits = torch.empty(0)

    def after_epoch(self, state: TrainingState, is_best: bool) -> None:
        if is_best:
            with torch.no_grad():
                self.logits = self.head(self.features)


def by_default(train: Task, test: Task, seed: int, folds: int = 5) -> Score:
    """As `tlkit finetune` trains a head on features."""
    started = time.perf_counter()
    options = FinetuneOptions(data="", seed=seed)
    samples = [Sample(path, label) for path, label in zip(train.paths, train.labels.tolist(), strict=True)]
    dataset = divide(Dataset("", tuple(map(str, range(train.classes))), samples, [], ""), 0.2, seed, "")
    row = {path: number for number, path in enumerate(train.paths)}
    head = Head(HEADS["linear"], HeadShape(train.features.shape[1], train.classes))
    if folds > 1:
        dataset = cross_validated(dataset, folds, seed)
        layers = torch.nn.ModuleList(head.kind.layers(head.shape) for _ in range(folds))
        module: torch.nn.Module = CrossValidatedHead(head, layers)
        labels = labels_of_folds(dataset, folds)
    else:
        module, labels = head, (labels_of(dataset.train), labels_of(dataset.val))
    parts = [train.features[[row[path] for path, _ in part]] for part in (dataset.train, dataset.val)]
    statistics = feature_statistics([parts[0]])
    assert statistics is not None
    head.set_standardization(*statistics)
    state = TrainingState(module, build_optimizer(module, torch.nn.Module(), options))  # type: ignore[arg-type]
    state.is_finite = lambda: True  # type: ignore[method-assign]
    watcher = LastLogits(head, test.features)
    batches = (
        FeatureBatches([parts[0]], labels[0], options.images_per_step(), seed),
        FeatureBatches([parts[1]], labels[1], 4096, None),
    )
    Trainer(module, state, *batches, options, torch.ones(train.classes), torch.device("cpu")).train([watcher])
    return score(watcher.logits.softmax(dim=1).numpy(), test, started)


def by_single_split(train: Task, test: Task, seed: int) -> Score:
    return by_default(train, test, seed, folds=1)


def by_logistic_regression(train: Task, test: Task, seed: int) -> Score:
    """C by cross-validation; classes of fewer than five images allow fewer folds."""
    started = time.perf_counter()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    folds = max(2, min(5, int(torch.bincount(train.labels).min())))
    grid = {"logisticregression__C": np.logspace(-5, 0, 6)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # C that do not converge, classes smaller than the folds
        search = GridSearchCV(model, grid, cv=folds, scoring="neg_log_loss", error_score=-np.inf)
        search.fit(train.features.numpy(), train.labels.numpy())
    return score(search.predict_proba(test.features.numpy()), test, started)


def by_unfreezing(backbone: str) -> Way:
    """`tlkit finetune --unfreeze all` with default options, as a command."""

    def way(train: Task, test: Task, seed: int) -> Score:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            for part, task in (("data", train), ("test", test)):
                for path, label in zip(task.paths, task.labels.tolist(), strict=True):
                    place = Path(folder, part, str(label))
                    place.mkdir(parents=True, exist_ok=True)
                    os.symlink(os.path.abspath(path), place / Path(path).name)
            run = ["finetune", "data", "--unfreeze", "all", "--backbone", backbone, "--out", "run", "--seed", str(seed)]
            tlkit(folder, *run, "--no-onnx")
            found = json.loads(tlkit(folder, "evaluate", "run", "test", "--split", "all", "--format", "json"))
        return Score(100 * found["accuracy"], found["loss"], time.perf_counter() - started)

    return way


def tlkit(folder: str, *arguments: str) -> str:
    """Run a command; returns its stdout."""
    command = [sys.executable, "-m", "tlkit", *arguments]
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def score(probabilities: np.ndarray, test: Task, started: float) -> Score:
    labels = test.labels.numpy()
    own = np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, 1)
    accuracy = 100 * float((probabilities.argmax(axis=1) == labels).mean())
    return Score(accuracy, float(-np.log(own).mean()), time.perf_counter() - started)


def tasks_of(features: Features, photos: Path | None, scratch: Path) -> dict[str, Task]:
    textures = sorted((SAMPLE / "textures").rglob("*.jpg"))
    kinds = sorted({path.parent.name for path in textures})
    tasks = {"textures": task_of(features, textures, [kinds.index(path.parent.name) for path in textures])}
    digits, places = load_digits(), np.random.default_rng(0).permutation(1797)[:600]
    files = []
    for number in places:
        picture = Image.fromarray((digits.images[number] * 15.9).astype("uint8"))
        files.append(scratch / f"{number}.png")
        picture.resize((96, 96), Image.Resampling.BICUBIC).convert("RGB").save(files[-1])
    tasks["digits"] = task_of(features, files, digits.target[places].tolist())
    if photos is not None:
        from timm.data import ImageNetInfo

        info = ImageNetInfo()
        numbers = {synset: number for number, synset in enumerate(info.label_names())}
        every = {path: numbers[path.name.split("_")[0]] for path in sorted(photos.rglob("n*.*"))}
        for name, groups in GROUPS.items():
            labels = {path: label_in(groups, number) for path, number in every.items()}
            chosen = [path for path, label in labels.items() if label >= 0]
            tasks[name] = task_of(features, chosen, [labels[path] for path in chosen])
    return tasks


def label_in(groups: Mapping[str, Sequence[tuple[int, int]]], number: int) -> int:
    """The class of an ImageNet number; -1 if it is in no group."""
    found = (place for place, ranges in enumerate(groups.values()) if any(a <= number <= b for a, b in ranges))
    return next(found, -1)


def task_of(features: Features, paths: Sequence[Path], labels: Sequence[int]) -> Task:
    names = [str(path) for path in paths]
    return Task(names, features.of(names), torch.tensor(labels))


def halves(task: Task, size: int, seed: int) -> tuple[Task, Task]:
    """Training images, `size` of each class if there are so many, and the held-out third."""
    generator = torch.Generator().manual_seed(100 + seed)
    train, test = [], []
    for label in range(task.classes):
        members = (task.labels == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        kept = len(members) * 2 // 3
        train.append(members[: min(size or kept, kept)])
        test.append(members[kept:])
    return task.select(torch.cat(train)), task.select(torch.cat(test))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--backbone", default="packaged/efficientnet_lite0")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ways: dict[str, Way] = {
        "defaults": by_default,
        "--folds 1": by_single_split,
        "logistic regression": by_logistic_regression,
    }
    with tempfile.TemporaryDirectory() as scratch:
        tasks = tasks_of(Features(arguments.backbone), arguments.photos, Path(scratch))
        if arguments.full:
            ways["--unfreeze all"] = by_unfreezing(arguments.backbone)
        print(f"{'task':<20}{'images':>8}", *(f"{name:>26}" for name in ways))
        short = 0
        for name, task in tasks.items():
            for size in SIZES:
                means: dict[str, Score] = {}
                for title, way in ways.items():
                    if title == "--unfreeze all" and size:
                        continue
                    found = [way(*halves(task, size, seed), seed) for seed in range(arguments.seeds)]
                    columns = zip(*map(dataclasses.astuple, found), strict=True)
                    means[title] = Score(*(float(np.mean(values)) for values in columns))
                short += means["defaults"].accuracy < means["logistic regression"].accuracy - 1
                cells = [f"{s.accuracy:9.1f} ({s.loss:5.2f}) {s.seconds:6.1f} s" for s in means.values()]
                print(f"{name:<20}{size or 'all':>8}", *(f"{cell:>26}" for cell in cells), flush=True)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
