"""Networks built only to be given their weights: random numbers that would be overwritten at once are not drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

# These functions of init arrive here as a whole, the others as the methods of tensors that they call.
DRAWN = {init.uniform_, init.normal_, init.kaiming_uniform_, Tensor.normal_, Tensor.uniform_, Tensor.erfinv_}
"""What fills a weight with random numbers; erfinv_ is a step of the truncated normal."""


class _Undrawn(TorchFunctionMode):
    """Leaves a weight that would be drawn as it is: memory that was never written."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: Sequence[Any] = (),
        named: Mapping[str, Any] | None = None,
    ) -> Any:
        named = named or {}
        if function in DRAWN:
            return arguments[0] if arguments else named["tensor"]
        return function(*arguments, **named)


@contextmanager
def without_random_numbers() -> Iterator[None]:
    """Inside, nothing is drawn at random: a VGG16 is built in hundredths of a second instead of one and a half.

    Everything else is computed as ever, for buffers that no file holds must be right.
    """
    with _Undrawn():
        yield
