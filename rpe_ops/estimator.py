"""`rpe_ops.MeanShift`: mean shift on the sphere with scikit-learn's habits, numpy arrays in and out.

A thin layer over the operators: parameters, arrays to tensors, labels and centres. scikit-learn's base classes serve
where it is installed, else those of `estimator_base.py`. `rpe_ops/__init__.py` loads this file when the class is first
asked for.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike, NDArray
from torch import Tensor

from rpe_ops import dispatch, validate
from rpe_ops.autograd.seeding import nearest_rows
from rpe_ops.backends.rows import unit_rows
from rpe_ops.functional import connected_components, mean_shift
from rpe_ops.packing import packed
from rpe_ops.seeding import assign_to_modes, select_seeds

if TYPE_CHECKING:
    from rpe_ops.estimator_base import BaseEstimator, ClusterMixin, check_is_fitted, validate_data
else:
    try:
        from sklearn.base import BaseEstimator, ClusterMixin
        from sklearn.utils.validation import check_is_fitted, validate_data
    except ImportError as error:
        from rpe_ops.estimator_base import BaseEstimator, ClusterMixin, check_is_fitted, validate_data

        if not isinstance(error, ModuleNotFoundError):  # it is there, and too old or broken
            warnings.warn(
                "rpe_ops.MeanShift: scikit-learn 1.6 or newer is needed, else this is no clusterer of its own and "
                f"checks fewer kinds of inputs: {error}; pip install -U 'scikit-learn>=1.6'",
                RuntimeWarning,
                stacklevel=4,  # where the class was asked for
            )

DEFAULT_KAPPA = 20.0
_NAME = "MeanShift"


class MeanShift(ClusterMixin, BaseEstimator):
    """von Mises-Fisher mean shift as a scikit-learn clusterer: samples are directions, their lengths are ignored.

    Every sample moves (Gaussian blurring mean shift, all pairs, O(N D) memory) or, with `num_seeds`, farthest-point
    seeds climb the density of the samples; what ends together is a cluster. The number of clusters is found, not given,
    and nothing is random.

    Parameters:
        kappa: concentration > 0 of the kernel. None with no bandwidth either: 20.
        bandwidth: the same as kappa = 1 / bandwidth^2; at most one of the two.
        eta: step size; 1 is Gaussian blurring mean shift.
        num_steps: steps of the recurrence.
        threshold: similarity s = (1 + cos) / 2 from which two moved points are in one cluster; chains are joined.
        num_seeds: None: every sample moves. Else only this many seeds move, and each sample joins its nearest mode.
        tol: largest share of a sample's kernel mass that a step may leave out, as in `rpe_ops.mean_shift`; 1e-3 makes
            many steps of many samples far cheaper, 0 computes every pair.
        device: of the computation, as for `torch.device`. On the CPU float64 samples are computed in float64, numpy's
            default and about half as fast as float32. On every other device all samples become float32: the kernels of
            GPUs serve nothing wider, and Apple's GPUs have nothing wider.
        backend: `"auto"`, `"reference"`, `"torch"`, `"cpu"`, `"triton"` or `"cuda"`.

    Attributes:
        labels_: int64 `[n_samples]`, 0..C-1.
        cluster_centers_: unit vectors `[C, n_features]`, the mean directions of what was moved into each cluster, in
            the dtype of the computation.
        kappa_, bandwidth_: the concentration in use, and the same as a bandwidth.
        n_iter_: steps that were taken; always `num_steps`.
        n_features_in_: D. feature_names_in_: names of the columns, where they have any and scikit-learn is installed.

    Notes:
        Passes every check of scikit-learn's `check_estimator` that applies to it; there is no `sample_weight`, because
        every sample moves and gets a label whatever its mass. Samples are compared by direction, so centre the data
        first where lengths mean something. Without scikit-learn the class works in the same way, with fewer kinds of
        inputs. `rpe_ops.nn.MeanShift` is something else: the recurrence as a layer of a network.

    Example:
        >>> import numpy as np, rpe_ops
        >>> X = np.array([[1.0, 0.1], [2.0, -0.1], [0.1, 1.0], [0.0, 3.0]])
        >>> estimator = rpe_ops.MeanShift(kappa=20.0, num_steps=10)
        >>> estimator.fit_predict(X)
        array([0, 0, 1, 1])
        >>> estimator.predict([[5.0, 0.0]])
        array([0])
    """

    def __init__(
        self,
        kappa: float | None = None,
        *,
        bandwidth: float | None = None,
        eta: float = 1.0,
        num_steps: int = 10,
        threshold: float = 0.95,
        num_seeds: int | None = None,
        tol: float = 0.0,
        device: str = "cpu",
        backend: str = "auto",
    ) -> None:
        self.kappa = kappa
        self.bandwidth = bandwidth
        self.eta = eta
        self.num_steps = num_steps
        self.threshold = threshold
        self.num_seeds = num_seeds
        self.tol = tol
        self.device = device
        self.backend = backend

    @torch.no_grad()
    def fit(self, X: ArrayLike, y: Any = None) -> MeanShift:
        """Cluster the rows of `X [n_samples, n_features]`, finite numbers; `y` is ignored, as scikit-learn has it."""
        points = self._points(X, fitting=True)
        recurrence = self._recurrence(points.dtype)
        backend = self._backend_for(points)
        shared: dict[str, Any] = {"backend": backend, "threshold": self.threshold}
        if self.num_seeds is None:
            moved = mean_shift(points, backend=backend, **recurrence)
            assert isinstance(moved, Tensor)
            label = cluster_of_moved = connected_components(moved, **shared)
        else:
            index = select_seeds(points, self.num_seeds, backend=backend)
            assert isinstance(index, Tensor)
            moved = mean_shift(points, seeds=points[index], backend=backend, **recurrence)
            assert isinstance(moved, Tensor)
            label = assign_to_modes(points, moved, **shared)
            cluster_of_moved = connected_components(moved, **shared)
        # on the CPU, where sums have one order
        moved, cluster_of_moved = moved.cpu(), cluster_of_moved.cpu()
        centres = moved.new_zeros(int(cluster_of_moved.max()) + 1, moved.shape[1])
        centres = unit_rows(centres.index_add(0, cluster_of_moved, moved))
        inhabited, label = label.cpu().unique(return_inverse=True)
        self.labels_: NDArray[np.int64] = label.numpy()
        self.cluster_centers_: NDArray[Any] = centres[inhabited].numpy()
        self.kappa_ = float(recurrence["kappa"] or recurrence["bandwidth"] ** -2.0)
        self.bandwidth_ = self.kappa_**-0.5
        self.n_iter_: int = recurrence["num_steps"]
        return self

    @torch.no_grad()
    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """The cluster `[n_samples]` whose centre is nearest to each row of `X [n_samples, n_features]`."""
        check_is_fitted(self)
        points = unit_rows(packed(self._points(X, fitting=False)))
        centres = torch.as_tensor(self.cluster_centers_, dtype=points.dtype).to(points.device)
        ends = (torch.tensor([0, len(rows)], device=points.device) for rows in (points, centres))
        backend, sizes = self._backend_for(points), (len(points), len(centres))
        return nearest_rows(points, centres, *ends, backend, *sizes).cpu().numpy()

    def _points(self, X: ArrayLike, fitting: bool) -> Tensor:
        """`X`, checked, as a tensor on the device: float32 everywhere but on the CPU, where half types become float32
        and everything else that is not float32 becomes float64."""
        device = dispatch.usable_device(_NAME, self.device)
        served: list[DTypeLike] = [np.float64, np.float32]
        if device.type != "cpu":
            served = [np.float32]
        elif getattr(X, "dtype", None) == np.float16:
            served = [np.float32, np.float64]
        return torch.tensor(validate_data(self, X, reset=fitting, dtype=served), device=device)

    def _recurrence(self, dtype: torch.dtype) -> dict[str, Any]:
        """The arguments of `mean_shift`. Every parameter is checked under the estimator's name."""
        kappa = DEFAULT_KAPPA if self.kappa is None and self.bandwidth is None else self.kappa
        validate.concentration(_NAME, kappa, self.bandwidth, dtype)
        validate.scalar(_NAME, "eta", self.eta, lowest=0.0, dtype=dtype)
        num_steps = validate.step_count(_NAME, self.num_steps)
        validate.tolerance(_NAME, self.tol)
        validate.unit_interval(_NAME, "threshold", self.threshold)
        if self.num_seeds is not None:
            validate.positive_count(_NAME, "num_seeds", self.num_seeds, "or None, and every sample moves")
        return {
            "kappa": kappa,
            "bandwidth": self.bandwidth,
            "eta": self.eta,
            "num_steps": num_steps,
            "tol": self.tol,
        }

    def _backend_for(self, points: Tensor) -> str:
        return dispatch.resolve_for(_NAME, self.backend, points)
