"""Check that requested devices exist before any long work starts."""

from __future__ import annotations

from tlkit.options.devices import Placing


def require_devices(placing: Placing) -> None:
    """What is not here should be heard of before any long work; only what is always here needs no question."""
    if placing.names not in (("auto",), ("cpu",)) or placing.parallel != "none":
        from tlkit.devices.select import choose_devices

        choose_devices(placing)
