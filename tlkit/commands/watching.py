"""What a run shows of itself: to tools as it goes on, and as a report when it is done. Loads no torch by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tlkit.commands.reporting import report
from tlkit.options import FinetuneOptions
from tlkit.output.monitoring import LAST_WORDS_SECONDS, About, Conclusion, Monitor, open_monitor, require_installed
from tlkit.output.pictures import confusion_picture, mistakes_picture
from tlkit.output.report.facts import RunFacts
from tlkit.run_folder import RunFolder
from tlkit.terminal import say

STOPPED_SECONDS = 3.0
"""How long a run that was stopped, or failed, waits for what watches it."""


@contextmanager
def watching(run: RunFolder, options: FinetuneOptions, classes: Sequence[str]) -> Iterator[Monitor]:
    """Inside, the run is told to what --log names. Raises UnavailableError where its library is missing."""
    require_installed(options.sinks())
    name = os.path.basename(os.path.abspath(run.path))
    about = About(run.path, name, options.to_portable_dict(), classes, options.metric)
    monitor = open_monitor(options.sinks(), about, say)
    try:
        yield monitor
    finally:
        monitor.close(STOPPED_SECONDS)


def conclude(run: RunFolder, monitor: Monitor) -> None:
    """Write the report, give its pictures to what watches, and wait for that. What fails is a warning: the model is
    there."""
    report(run, lambda facts: monitor.conclude(conclusion(facts)) if monitor.watchers else None)
    monitor.close(LAST_WORDS_SECONDS)


def conclusion(facts: RunFacts) -> Conclusion:
    """The last words about a run: the figures of its best epoch, and pictures."""
    best = {name: value for name, value in (facts.best or {}).items() if isinstance(value, (int, float))}
    pictures: dict[str, bytes] = {}
    if facts.measured is not None:
        names = [figures.name for figures in facts.measured.classes]
        pictures["confusion matrix"] = confusion_picture(names, facts.measured.confusion)
        shown = [(m.thumbnail, m.label, m.predicted, m.probability) for m in facts.measured.mistakes if m.thumbnail]
        if shown:
            pictures["most confident mistakes"] = mistakes_picture(shown)
    return Conclusion(len(facts.history), {f"best/{name}": value for name, value in best.items()}, pictures)
