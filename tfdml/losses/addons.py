"""Losses of TensorFlow Addons by name."""

import difflib
import inspect

from tfdml._utils.naming import check_options


def addons_loss(name, **options):
    """A loss of TensorFlow Addons, which is imported only here.

    Args:
        name: str. The name of its class.
        **options: Its arguments; Addons takes any keyword and ignores those that it does not know.

    Raises:
        ValueError: If Addons cannot be imported, or does not have the loss or one of its options.
    """
    try:
        from tensorflow_addons import losses as addons
    except Exception as error:  # With Keras 3 it fails in many ways.
        raise ValueError(
            f"TensorFlow Addons cannot be imported ({error}). Received: the loss 'addons.{name}'; it needs "
            "pip install 'tfdml[addons]' with TensorFlow 2.15."
        ) from error
    known = [known for known in dir(addons) if known[0].isupper()]
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise ValueError(f"Unknown loss. Received: 'addons.{name}'. Did you mean 'addons.{nearest}'?")
    loss = getattr(addons, name)
    check_options("loss", f"addons.{name}", set(inspect.signature(loss).parameters) - {"kwargs"}, options)
    return loss(**options)
