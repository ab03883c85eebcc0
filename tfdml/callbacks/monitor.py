"""Reading a monitored metric from the logs."""

import warnings


def monitored_value(logs, monitor):
    """The monitored metric, or None with a warning that names the metrics that exist."""
    value = (logs or {}).get(monitor)
    if value is None:
        warnings.warn(
            f"Metric {monitor!r} is not in the logs, so this epoch is passed over. "
            f"Available metrics: {', '.join(sorted(logs or {}))}.",
            stacklevel=3,
        )
    return value
