"""The two softmax cross-entropies shared by several losses."""

import tensorflow as tf

from tfdml import ops


def cross_entropy_over_all(logits, pairs):
    r"""Cross-entropy of each positive in a softmax over all positives and negatives of its anchor.

    $$\frac{1}{|P_i|} \sum_{p \in P_i} -\log \frac{e^{z_{ip}}}{\sum_{k \in P_i \cup N_i} e^{z_{ik}}}$$

    Args:
        logits: Tensor `(batch, references)`. $z$.
        pairs: `tfdml.ops.Pairs`. The masks of the pairs that count.

    Returns:
        Tensor `(batch,)`, 0 with a zero gradient for an anchor without a positive.
    """
    normalizer = ops.masked_logsumexp(logits, pairs.positives | pairs.negatives)
    return ops.masked_mean(normalizer[:, None] - logits, pairs.positives)


def cross_entropy_with_negatives(positive_logits, negative_logits, pairs):
    r"""Cross-entropy of each positive in a softmax over itself and its anchor's negatives, without the other positives.

    $$\frac{1}{|P_i|} \sum_{p \in P_i} -\log \frac{e^{z^+_{ip}}}{e^{z^+_{ip}} + \sum_{n \in N_i} e^{z^-_{in}}}$$

    Args:
        positive_logits: Tensor `(batch, references)`. $z^+$; only the entries of positive pairs are used.
        negative_logits: Tensor `(batch, references)`. $z^-$, often equal to `positive_logits`; only the entries of
            negative pairs are used.
        pairs: `tfdml.ops.Pairs`. The masks of the pairs that count.

    Returns:
        Tensor `(batch,)`, 0 with a zero gradient for an anchor without a positive or without a negative.
    """
    against = ops.masked_logsumexp(negative_logits, pairs.negatives)[:, None]
    return ops.masked_mean(tf.nn.softplus(against - positive_logits), pairs.positives)
