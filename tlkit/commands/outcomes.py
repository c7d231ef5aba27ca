"""What became of the inputs of predict: counted by code, and failures told to people, of each kind the first few."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

from tlkit.errors import printable
from tlkit.output.predictions import Prediction
from tlkit.terminal import complain

TOLD = 10
"""Failures with one code that are told; later ones are counted."""


class Outcomes:
    """The count so far. telling: whether failures are told as they come, because records leave them out."""

    def __init__(self, telling: bool) -> None:
        self.telling = telling
        self.inputs = 0
        self.errors: Counter[str] = Counter()

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Count the outcomes of some inputs, and tell the failures."""
        for prediction in predictions:
            self.inputs += 1
            if prediction.error:
                code, message = prediction.error
                self.errors[code] += 1
                if self.telling and self.errors[code] <= TOLD + 1:
                    self.tell(prediction.path, code, message)

    def tell(self, path: str, code: str, message: str) -> None:
        """One failure; of those after the first few, that they are no longer told."""
        if self.errors[code] <= TOLD:
            complain(f"tlkit predict: {printable(path)}: {printable(message)}")
        else:
            complain(f"tlkit predict: {code}: more of these are only counted; --format jsonl names all")

    def conclude(self, summary: bool) -> None:
        """Tell the counts: as JSON if asked for, else in words if there were failures."""
        failed = self.errors.total()
        if summary:
            counts = {"inputs": self.inputs, "ok": self.inputs - failed, "errors": dict(sorted(self.errors.items()))}
            complain(json.dumps({"event": "summary", **counts}, separators=(",", ":")))
        elif failed:
            kinds = ", ".join(f"{code} {number:,}" for code, number in self.errors.most_common())
            complain(f"tlkit predict: inputs: {failed:,} of {self.inputs:,} failed: {kinds}")
