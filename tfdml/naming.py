"""What to say when a name is unknown."""

from __future__ import annotations

import difflib


def unknown_name(kind, name, known):
    """A ValueError that tells the nearest right name and all of them.

    Args:
        kind: What the name is of, for the message.
        name: The name that was received.
        known: The right names, in lower case.

    Example:
        >>> print(unknown_name("loss", "contrastve", ["c1", "contrastive"]))
        Unknown loss. Received: 'contrastve'; expected one of ['c1', 'contrastive']. Did you mean 'contrastive'?
    """
    nearest = difflib.get_close_matches(str(name).lower(), known, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return ValueError(f"Unknown {kind}. Received: {name!r}; expected one of {sorted(known)}.{hint}")
