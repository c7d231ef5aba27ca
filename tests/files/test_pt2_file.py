"""The numbers by which torch.export names its types."""

from __future__ import annotations

import torch
from torch._export.serde.serialize import _TORCH_TO_SERIALIZE_DTYPE as SERIALIZED

from tlkit.files.pt2_file import DTYPES


def test_types_are_numbered_as_torch_does() -> None:
    assert {int(SERIALIZED[dtype]): dtype for dtype in DTYPES.values()} == DTYPES
    assert torch.float32 in DTYPES.values()
