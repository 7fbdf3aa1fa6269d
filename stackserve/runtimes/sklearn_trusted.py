"""What a .skops file may be made of, beside what skops itself trusts.

skops trusts every public estimator of scikit-learn, numpy's arrays and types, and the mathematical functions
of numpy and scipy. Here are the inner parts of ordinary estimators, each of which does nothing but compute
when a file has it made or called with arguments of its choice. Some of them, the trees first of all, read
memory at places that the file names, so that a crafted file may end its worker; none of them runs a
file's code.
"""

from __future__ import annotations


def _names(module: str, names: str) -> list[str]:
    return [f"{module}.{name}" for name in names.split()]


METRICS = (
    "Euclidean Manhattan Chebyshev Minkowski SEuclidean Mahalanobis Hamming Canberra BrayCurtis"
)

TRUSTED = frozenset([
    *_names("sklearn.tree._tree", "Tree"),
    *_names("sklearn.ensemble._hist_gradient_boosting.predictor", "TreePredictor"),
    *_names("sklearn.ensemble._hist_gradient_boosting.binning", "_BinMapper"),
    *_names("sklearn.utils._bunch", "Bunch"),
    *_names("sklearn._loss.loss", "HalfTweedieLoss HalfTweedieLossIdentity"),
    *_names("sklearn.neighbors._kd_tree", "KDTree KDTree64 KDTree32"),
    *_names("sklearn.neighbors._ball_tree", "BallTree BallTree64 BallTree32"),
    *[
        f"sklearn.metrics._dist_metrics.{name}Distance{bits}"
        for name in METRICS.split()
        for bits in ("", "64", "32")
    ],
    *_names("sklearn.neural_network._stochastic_optimizers", "AdamOptimizer SGDOptimizer"),
    *_names(
        "sklearn.calibration",
        "_CalibratedClassifier _SigmoidCalibration _TemperatureScaling",
    ),
    *_names("sklearn.cluster._bisect_k_means", "_BisectingTree"),
    *_names(
        "sklearn.cluster._kmeans",
        "_kmeans_single_lloyd _kmeans_single_elkan",
    ),
    *_names(
        "sklearn.feature_selection._univariate_selection",
        "f_classif f_regression f_oneway chi2 r_regression",
    ),
    *_names("sklearn.feature_selection._mutual_info", "mutual_info_classif mutual_info_regression"),
    *_names("sklearn.gaussian_process._gpc", "_BinaryGaussianProcessClassifierLaplace"),
    *_names(
        "sklearn.gaussian_process.kernels",
        "ConstantKernel WhiteKernel RBF Matern RationalQuadratic ExpSineSquared DotProduct PairwiseKernel "
        "Sum Product Exponentiation CompoundKernel",
    ),
    *_names("scipy.interpolate._bsplines", "BSpline"),
    *_names("scipy.sparse._csr", "csr_matrix csr_array"),
    *_names("scipy.sparse._csc", "csc_matrix csc_array"),
    *_names("scipy._lib.array_api_compat.numpy._aliases", "asarray"),
    *_names("numpy", "dtype mean median"),
])  # fmt: skip
