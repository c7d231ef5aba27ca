"""Report and count the inputs of predict that have no prediction."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

from tlkit.errors import ALL_INPUTS_FAILED, DONE, SOME_INPUTS_FAILED, escape_name
from tlkit.inference.prediction import Prediction
from tlkit.options import STANDARD_OUTPUT
from tlkit.terminal import print_error

MAX_REPORTED = 10
"""Failures of one kind that are listed; further ones are counted."""


class FailureReport:
    """Counts inputs and failures. report_failures: list failures on stderr, because the records leave them out."""

    def __init__(self, report_failures: bool) -> None:
        self.report_failures = report_failures
        self.inputs = 0
        self.errors: Counter[str] = Counter()

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Count some inputs and list their failures."""
        for prediction in predictions:
            self.inputs += 1
            if prediction.error:
                code, message = prediction.error
                self.errors[code] += 1
                if self.report_failures and self.errors[code] <= MAX_REPORTED:
                    print_error(f"tlkit predict: {escape_name(prediction.path)}: {escape_name(message)}")
                elif self.report_failures and self.errors[code] == MAX_REPORTED + 1:
                    further = f"further {code} errors are counted, not listed; --format jsonl lists all"
                    print_error(f"tlkit predict: {further}")

    @property
    def exit_status(self) -> int:
        """0 if no input failed, 3 if some did, 4 if all did."""
        if not self.errors:
            return DONE
        return ALL_INPUTS_FAILED if self.errors.total() == self.inputs else SOME_INPUTS_FAILED

    def conclude(self, summary: bool, output: str | None) -> None:
        """Print the counts: as JSON if asked for, else as text if there were failures or no inputs.

        output: the file that was written, if any.
        """
        failed = self.errors.total()
        if self.exit_status == ALL_INPUTS_FAILED and output not in STANDARD_OUTPUT:
            print_error(f"tlkit predict: {escape_name(output)}: was written, but has no prediction: all inputs failed")
        if summary:
            counts = {"inputs": self.inputs, "ok": self.inputs - failed, "errors": dict(sorted(self.errors.items()))}
            print_error(json.dumps({"event": "summary", **counts}, separators=(",", ":")))
        elif failed:
            kinds = ", ".join(f"{code} {number:,}" for code, number in self.errors.most_common())
            print_error(f"tlkit predict: inputs: {failed:,} of {self.inputs:,} failed: {kinds}")
        elif not self.inputs:
            print_error("tlkit predict: 0 inputs")
