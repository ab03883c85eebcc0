"""Softmax cross-entropies over a comparison's pairs: the two ways in which losses set positives against negatives."""

import tensorflow as tf

from tfdml import ops


def cross_entropy_over_all(logits, pairs):
    r"""Each positive's cross-entropy in a softmax over all positives and negatives of its anchor.

    $$\frac{1}{|P_i|} \sum_{p \in P_i} -\log \frac{e^{z_{ip}}}{\sum_{k \in P_i \cup N_i} e^{z_{ik}}}$$

    Args:
        logits: $z$, `(batch, references)`.
        pairs: `tfdml.ops.Pairs`: the masks of the pairs that count.

    Returns:
        `(batch,)`; 0, with a zero gradient, for an anchor without a positive.
    """
    normalizer = ops.masked_logsumexp(logits, pairs.positives | pairs.negatives)
    return ops.masked_mean(normalizer[:, None] - logits, pairs.positives)


def cross_entropy_with_negatives(positive_logits, negative_logits, pairs):
    r"""Each positive's cross-entropy in a softmax over itself and its anchor's negatives; other positives take no part.

    $$\frac{1}{|P_i|} \sum_{p \in P_i} -\log \frac{e^{z^+_{ip}}}{e^{z^+_{ip}} + \sum_{n \in N_i} e^{z^-_{in}}}$$

    Args:
        positive_logits: $z^+$, `(batch, references)`; those of positive pairs are used.
        negative_logits: $z^-$, `(batch, references)`, often the same; those of negative pairs are used.
        pairs: `tfdml.ops.Pairs`: the masks of the pairs that count.

    Returns:
        `(batch,)`; 0, with a zero gradient, for an anchor without a positive or without a negative.
    """
    against = ops.masked_logsumexp(negative_logits, pairs.negatives)[:, None]
    return ops.masked_mean(tf.nn.softplus(against - positive_logits), pairs.positives)
