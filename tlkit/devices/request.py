"""Check that requested devices exist before any long work starts."""

from __future__ import annotations

from tlkit.options.devices import DeviceSpec


def require_devices(device_spec: DeviceSpec) -> None:
    """Raises UnavailableError or UsageError for missing devices. For the defaults it does not load torch."""
    if device_spec.names not in (("auto",), ("cpu",)) or device_spec.parallel != "none":
        from tlkit.devices.select import choose_devices

        choose_devices(device_spec)
