"""What `estimator.py` needs of scikit-learn, for installations without it: parameters by name, checks of an array.

The names and signatures are scikit-learn's, which is preferred where it is installed and does far more.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray


class BaseEstimator:
    """Parameters are the arguments of `__init__`, kept as attributes of the same names."""

    n_features_in_: int

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name; `deep` is for estimators inside estimators, of which there are none."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Any:
        """Set parameters by name; returns the estimator."""
        valid = self.get_params()
        for name, value in params.items():
            if name not in valid:
                raise ValueError(
                    f"{type(self).__name__}: parameter {name!r} does not exist; valid are {', '.join(valid)}"
                )
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        changed = {k: v for k, v in self.get_params().items() if v is not defaults[k].default}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in changed.items())})"


class ClusterMixin:
    """A clusterer has labels once it is fitted."""

    def fit_predict(self, X: ArrayLike, y: Any = None) -> Any:
        """Fit to `X` and return its labels."""
        return self.fit(X).labels_  # type: ignore[attr-defined]


def check_is_fitted(estimator: Any) -> None:
    """ValueError unless `fit` was called."""
    if not hasattr(estimator, "n_features_in_"):
        raise ValueError(f"{type(estimator).__name__}: this estimator is not fitted yet; call fit(X) first")


def validate_data(
    estimator: BaseEstimator, X: ArrayLike, *, reset: bool, dtype: list[DTypeLike]
) -> NDArray[Any]:
    """`X` as a finite array `[n_samples, n_features]` in one of the dtypes, else in the first of them."""
    name = type(estimator).__name__
    rows = np.asarray(X)
    if rows.dtype not in dtype:
        rows = rows.astype(dtype[0])
    if rows.ndim != 2 or rows.size == 0:
        raise ValueError(
            f"{name}: X must be [n_samples, n_features], at least one each, got {list(rows.shape)}"
        )
    if not np.isfinite(rows).all():
        raise ValueError(f"{name}: X must be finite, got NaN or infinity; leave such samples out")
    if reset:
        estimator.n_features_in_ = rows.shape[1]
    elif rows.shape[1] != estimator.n_features_in_:
        raise ValueError(
            f"X has {rows.shape[1]} features, but {name} is expecting {estimator.n_features_in_} features as input"
        )
    return rows
