"""`rpe_ops.MeanShift`: scikit-learn's own checks, the operators behind it, and installations without scikit-learn."""

import importlib
import math
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import problems
import rpe_ops
from rpe_ops import dispatch

pytest.importorskip("sklearn", reason="scikit-learn is not installed: extra [train]")
from sklearn.base import BaseEstimator, clone, is_clusterer
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

ESTIMATORS = [
    rpe_ops.MeanShift(),
    rpe_ops.MeanShift(bandwidth=0.3, eta=0.8, num_seeds=20),
]
# Check -> the reason why a clusterer of directions cannot pass it: none at present.
EXPECTED_FAILURES: dict[str, str] = {}


def samples(num_samples: int = 150, dim: int = 8, clusters: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Directions around a few centres, and the cluster each was made for."""
    rows = problems.clustered(num_samples, dim, clusters=clusters, spread=0.3)
    return rows.numpy(), np.arange(num_samples) % clusters


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=lambda estimator: EXPECTED_FAILURES)
def test_scikit_learns_own_checks(estimator, check, one_thread):
    check(estimator)


@pytest.mark.parametrize("num_seeds", [None, 12])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clusters_are_found_and_named_by_unit_centres(num_seeds, dtype):
    X, made = samples()
    estimator = rpe_ops.MeanShift(kappa=20.0, num_seeds=num_seeds).fit(X.astype(dtype))
    assert adjusted_rand_score(made, estimator.labels_) == 1.0
    assert estimator.labels_.dtype == np.int64 and estimator.cluster_centers_.dtype == dtype
    assert estimator.cluster_centers_.shape == (5, 8)
    assert np.allclose(np.linalg.norm(estimator.cluster_centers_, axis=1), 1.0)
    assert np.array_equal(estimator.predict(X), estimator.labels_)
    assert np.array_equal(estimator.predict(7.0 * X), estimator.labels_)


def test_every_sample_moves_as_the_operators_move_it(backend):
    if backend not in ("reference", "torch", "cpu"):
        pytest.skip("the estimator's device is the CPU here")
    X, _ = samples()
    estimator = rpe_ops.MeanShift(kappa=15.0, eta=0.7, num_steps=4, threshold=0.9, backend=backend).fit(X)
    moved = rpe_ops.mean_shift(torch.from_numpy(X), kappa=15.0, eta=0.7, num_steps=4, backend=backend)
    label = rpe_ops.connected_components(moved, threshold=0.9, backend=backend)
    assert np.array_equal(estimator.labels_, label.numpy())


@pytest.mark.parametrize("num_seeds", [None, 7])
def test_a_tolerance_reaches_the_operator(num_seeds, monkeypatch):
    module = importlib.import_module("rpe_ops.estimator")
    given = []

    def spy(*args, **options):
        given.append(options["tol"])
        return rpe_ops.mean_shift(*args, **options)

    monkeypatch.setattr(module, "mean_shift", spy)
    rpe_ops.MeanShift(num_seeds=num_seeds, tol=1e-3).fit(samples()[0])
    assert given == [1e-3]


def test_steps_are_echoed():
    assert rpe_ops.MeanShift(num_steps=3).fit(samples()[0]).n_iter_ == 3


@pytest.mark.parametrize("given, computed", [("f2", "f4"), ("f4", "f4"), ("f8", "f8"), ("i4", "f8")])
def test_dtypes_on_the_cpu(given, computed):
    X, _ = samples()
    assert rpe_ops.MeanShift().fit((9 * X).astype(given)).cluster_centers_.dtype == computed


@pytest.mark.parametrize("given", ["f2", "f4", "f8", "i4"])
def test_other_devices_get_float32(given, monkeypatch):
    """Kernels of GPUs serve nothing wider; meta tensors stand for theirs here."""
    monkeypatch.setattr(dispatch, "usable_device", lambda function, name: torch.device("meta"))
    points = rpe_ops.MeanShift(device="cuda")._points(np.ones((3, 2), given), fitting=True)
    assert points.is_meta and points.dtype is torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_on_a_gpu_as_on_the_cpu(device):
    if not {"cuda": torch.cuda, "mps": torch.backends.mps}[device].is_available():
        pytest.skip(f"no {device} device on this machine")
    X, made = samples()
    estimator = rpe_ops.MeanShift(kappa=20.0, device=device).fit(X)
    assert adjusted_rand_score(made, estimator.labels_) == 1.0
    assert estimator.cluster_centers_.dtype == np.float32
    on_cpu = rpe_ops.MeanShift(kappa=20.0).fit(X)
    assert np.allclose(estimator.cluster_centers_, on_cpu.cluster_centers_, atol=1e-5)
    assert np.array_equal(on_cpu.set_params(device=device).predict(X), estimator.labels_)


@pytest.mark.parametrize(
    "parameters",
    [
        {"kappa": -1.0},
        {"kappa": "wide"},
        {"bandwidth": 0.0},
        {"kappa": 1e300},
        {"eta": -0.5},
        {"num_steps": 2.5},
        {"tol": 1.0},
        {"threshold": 1.5},
        {"num_seeds": 0},
        {"backend": "fast"},
        {"device": "gpu"},
    ],
)
def test_a_wrong_parameter_is_named_by_the_estimator(parameters):
    (name,) = parameters
    with pytest.raises((ValueError, TypeError), match=f"^MeanShift: {name} must be"):
        rpe_ops.MeanShift(**parameters).fit(samples()[0].astype(np.float32))


def test_a_backend_that_cannot_run_is_named_by_the_estimator():
    reason = rpe_ops.available_backends("cpu")["triton"]
    if reason is None:
        pytest.skip("backend triton runs on CPU tensors in its interpreter")
    with pytest.raises(RuntimeError, match="^MeanShift: backend 'triton' cannot run on cpu"):
        rpe_ops.MeanShift(backend="triton").fit(samples()[0])


def test_concentration_is_echoed_both_ways():
    X, _ = samples()
    assert rpe_ops.MeanShift(bandwidth=0.25).fit(X).kappa_ == 16.0
    assert rpe_ops.MeanShift(kappa=16).fit(X).bandwidth_ == 0.25
    assert rpe_ops.MeanShift().fit(X).kappa_ == 20.0
    with pytest.raises(ValueError, match="exactly one of kappa and bandwidth"):
        rpe_ops.MeanShift(kappa=3.0, bandwidth=0.5).fit(X)


def test_labels_have_no_gaps_where_a_mode_is_nearest_to_nothing():
    angle = torch.tensor([3, 0, 4, 14], dtype=torch.float64) * (2.0 * math.pi / 24)
    X = torch.stack([angle.cos(), angle.sin()], 1)
    modes = rpe_ops.mean_shift(X, kappa=2.0, seeds=X[rpe_ops.select_seeds(X, 4)], backend="torch")
    assert rpe_ops.assign_to_modes(X, modes, threshold=0.999, backend="torch").tolist() == [3, 2, 3, 0]
    options = {"kappa": 2.0, "num_steps": 1, "threshold": 0.999, "num_seeds": 4, "backend": "torch"}
    estimator = rpe_ops.MeanShift(**options).fit(X.numpy())
    assert estimator.labels_.tolist() == [2, 1, 2, 0]
    assert np.allclose(estimator.cluster_centers_, modes.numpy()[[0, 2, 3]])


def test_it_is_an_estimator_among_others():
    estimator = rpe_ops.MeanShift(kappa=9.0, num_seeds=7)
    assert isinstance(estimator, BaseEstimator) and is_clusterer(estimator)
    assert clone(estimator).get_params() == estimator.get_params()
    X, _ = samples()
    label = make_pipeline(StandardScaler(), estimator).fit_predict(X)
    assert label.shape == (150,)
    fitted = pickle.loads(pickle.dumps(estimator.fit(X)))
    assert np.array_equal(fitted.predict(X), estimator.predict(X))


WITHOUT = """
import sys
sys.modules["sklearn"] = None
import numpy as np
import rpe_ops
from rpe_ops import *
X = np.array([[1.0, 0.1], [2.0, -0.1], [0.1, 1.0], [0.0, 3.0]])
estimator = MeanShift(num_steps=5).set_params(kappa=30.0)
assert estimator.fit_predict(X.tolist()).tolist() == [0, 0, 1, 1]
assert estimator.predict(X[2:].astype("float32")).tolist() == [1, 1]
assert estimator.get_params()["kappa"] == 30.0 and repr(estimator) == "MeanShift(kappa=30.0, num_steps=5)"
for mistake in (
    lambda: estimator.fit(X[0]),
    lambda: estimator.fit(X * np.nan),
    lambda: estimator.fit(X[:0]),
    lambda: estimator.predict(np.ones((2, 3))),
    lambda: MeanShift().predict(X),
    lambda: estimator.set_params(gamma=1),
):
    try:
        mistake()
    except ValueError as error:
        print(error)
    else:
        raise SystemExit("no error")
assert not any(name.startswith("sklearn.") for name in sys.modules)
"""


OLD = """
import sklearn.utils.validation
del sklearn.utils.validation.validate_data
import rpe_ops
assert rpe_ops.MeanShift(num_steps=5).fit_predict([[1.0, 0.1], [2.0, -0.1]]).tolist() == [0, 0]
"""


def test_a_scikit_learn_that_is_too_old_is_named():
    done = subprocess.run([sys.executable, "-c", OLD], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"<string>:5: RuntimeWarning: rpe_ops.MeanShift: .*1.6 or newer.*validate_data", done.stderr
    )


def test_it_is_listed_before_it_is_loaded():
    code = (
        "import sys, rpe_ops; assert 'MeanShift' in dir(rpe_ops) and 'rpe_ops.estimator' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_without_scikit_learn():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    words = ("X must be", "finite", "at least one", "3 features", "not fitted", "'gamma' does not exist")
    for line, word in zip(done.stdout.splitlines(), words, strict=True):
        assert "MeanShift" in line and word in line
