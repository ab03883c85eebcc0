"""Read a monitored metric from the logs."""

import warnings


def monitored_value(logs, monitor):
    """Return the monitored metric, or warn with the available names and return `None`."""
    value = (logs or {}).get(monitor)
    if value is None:
        warnings.warn(
            f"Metric {monitor!r} is not in the logs, so this epoch is ignored. "
            f"Available metrics: {', '.join(sorted(logs or {}))}.",
            stacklevel=3,
        )
    return value
