"""The confusion matrix as the pairs of classes that occur: memory grows with images, not with classes squared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

LARGEST_MATRIX = 512
"""Most classes of a confusion matrix in JSON; above, only the pairs that occur are written."""


@dataclass(frozen=True)
class Confusion:
    """Images of each pair of true and predicted class. classes: their number C.

    true, predicted, images [P]: the pairs that occur, ordered by true, then by predicted class.
    """

    classes: int
    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    images: NDArray[np.int64]

    @classmethod
    def of(cls, labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> Self:
        """Count pairs. labels, predicted [N]"""
        pairs, images = np.unique(labels * classes + predicted, return_counts=True)
        return cls(classes, pairs // classes, pairs % classes, images)

    def sum_by(self, side: NDArray[np.int64], where: NDArray[np.bool_] | slice = slice(None)) -> NDArray[np.int64]:
        """Images by class [C]. side: `true` or `predicted`. where [P]: the pairs to count."""
        # Weights make the sums float64, which is exact up to 2**53 images.
        return np.bincount(side[where], self.images[where], minlength=self.classes).astype(np.int64)

    @property
    def support(self) -> NDArray[np.int64]:
        """Images of each class [C]."""
        return self.sum_by(self.true)

    @property
    def predictions(self) -> NDArray[np.int64]:
        """Images predicted as each class [C]."""
        return self.sum_by(self.predicted)

    @property
    def correct(self) -> NDArray[np.int64]:
        """Images of each class that are predicted as that class [C]."""
        return self.sum_by(self.true, self.true == self.predicted)

    def mistakes(self) -> list[tuple[int, int, int]]:
        """(true class, predicted class, images) of wrong predictions, the most frequent pair first."""
        wrong = np.flatnonzero(self.true != self.predicted)
        order = wrong[np.argsort(-self.images[wrong], kind="stable")]
        return [(int(t), int(p), int(n)) for t, p, n in self.pairs()[order]]

    def pairs(self) -> NDArray[np.int64]:
        """Rows of true class, predicted class, images [P, 3]."""
        return np.stack([self.true, self.predicted, self.images], axis=1)

    def matrix(self) -> NDArray[np.int64]:
        """Rows: true class; columns: predicted class [C, C]. Only for few classes: 10,000 would take 800 MB."""
        dense = np.zeros((self.classes, self.classes), np.int64)
        dense[self.true, self.predicted] = self.images
        return dense
