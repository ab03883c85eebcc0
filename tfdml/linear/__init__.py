"""Linear metrics: Mahalanobis distances as scikit-learn estimators."""

from tfdml.linear.base import MahalanobisEstimator
from tfdml.linear.itml import ITML
from tfdml.linear.lmnn import LMNN
from tfdml.linear.mmc import MMC
from tfdml.linear.nca import NCA
from tfdml.linear.scatter_difference import ScatterDifference

__all__ = ["ITML", "LMNN", "MMC", "NCA", "MahalanobisEstimator", "ScatterDifference"]
