"""Train a head on the sample photographs and keep its checkpoint and its predictions as NAME.*.

python tests/golden/make.py NAME
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tlkit.cli import run


def main(name: str) -> int:
    golden = Path(__file__).parent
    os.chdir(golden.parents[1])
    os.environ["HOME"] = os.getcwd()  # which a checkpoint writes as ~: no path of this machine is kept
    weights = "sample_data/backbone.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TLKIT_CACHE"] = folder
        out = Path(folder) / "run"
        arguments = ["--backbone", "timm/test_byobnet", "--weights", weights, "--epochs", "5", "--out", str(out)]
        if status := run(["finetune", "sample_data/textures", *arguments]):
            return status
        shutil.copyfile(out / "checkpoints" / "last.pt", golden / f"{name}.checkpoint.pt")
    checkpoint = str(golden / f"{name}.checkpoint.pt")
    words = ["predict", checkpoint, "sample_data/unlabelled", "--weights", weights]
    with open(golden / f"{name}.tsv", "wb") as records:
        return subprocess.run([sys.executable, "-m", "tlkit", *words], stdout=records).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
