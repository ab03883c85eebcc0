"""Losses of TensorFlow Addons by name."""

import inspect

from tfdml._utils.naming import check_options, nearest_name


def addons_loss(name, **options):
    """Create a loss of TensorFlow Addons. No other function imports Addons.

    Args:
        name: str. Name of the loss class, such as `"TripletSemiHardLoss"`.
        **options: Arguments of the class. Addons ignores unknown keywords; here they are an error.

    Returns:
        A `keras.losses.Loss`.

    Raises:
        ValueError: If Addons cannot be imported, or the loss or one of its options does not exist.
    """
    try:
        from tensorflow_addons import losses as addons
    except Exception as error:  # Under Keras 3 the import fails in several ways.
        raise ValueError(
            f"TensorFlow Addons cannot be imported ({error}). Received: the loss 'addons.{name}'. Expected: TensorFlow "
            "2.15 with TensorFlow Addons. Run: pip install 'tfdml[addons]'."
        ) from error
    known = [known for known in dir(addons) if known[0].isupper()]
    if name not in known:
        nearest = nearest_name(name, known)
        raise ValueError(f"Unknown loss. Received: 'addons.{name}'. Did you mean 'addons.{nearest}'?")
    loss = getattr(addons, name)
    check_options("loss", f"addons.{name}", set(inspect.signature(loss).parameters) - {"kwargs"}, options)
    return loss(**options)
