"""How sure the last layer is: the Laplace approximation of its weights, and dropout of its input. numpy only.

r = w . h, where h is what the value head reads. Both look at the head alone: the trunk counts as known.

H  hidden size          K  answers of one prompt
P  pairs                N  dropout passes

A single reward has no uncertainty of its own: a constant that is added to h on all answers of a prompt (the gauge)
changes no comparison, but would change w's uncertainty along h. What is given is the standard deviation of the
difference in reward to a reference response: the mean of the prompt's answers, and where a prompt has one answer, the
mean response of the data that the posterior was fitted on.

Source: MacKay (1992), "Bayesian interpolation" and "A practical Bayesian framework for backpropagation networks";
Daxberger et al. (2106.14806) for the last layer alone; Gal and Ghahramani (1506.02142) for dropout.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from rewardsmith.errors import ConfigError, DataError, ModelError
from rewardsmith.statistics import Floats

FOLDER = "laplace"  # below the artifact: tools that read every .safetensors beside the weights do not look there
FILE = "posterior.safetensors"
ROUNDS = 200  # of the evidence's fixed point
LOWEST_PRIOR, HIGHEST_PRIOR = 1e-8, 1e8


class Uncertainty(Protocol):
    """What turns the features of one prompt's answers into a standard deviation of each."""

    def std(self, features_KH: Floats) -> Floats: ...


@dataclass(frozen=True)
class Laplace:
    """The head's posterior N(w, precision^-1), and the mean response it was fitted on.

    precision_HH  prior * I + sum over pairs of p (1 - p) delta delta'
    mean_H        mean feature of the answers in the data
    """

    precision_HH: Floats
    mean_H: Floats
    factor_HH: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor_HH", np.linalg.cholesky(self.precision_HH))

    def std(self, features_KH: ArrayLike) -> Floats:
        """[K] sqrt(delta' precision^-1 delta), delta the difference of each answer to the reference."""
        features_KH = np.asarray(features_KH, np.float64)
        delta_KH = features_KH - reference(features_KH, self.mean_H)
        return np.sqrt((np.linalg.solve(self.factor_HH, delta_KH.T) ** 2).sum(axis=0))


@dataclass(frozen=True)
class HeadDropout:
    """The head read through N masks over its input, one mask a pass for all answers, so that a reward's spread does
    not depend on what it is scored beside.

    Each input is kept with probability 1 - rate and divided by it. The variance that N passes estimate is
    rate / (1 - rate) * sum_h (w_h delta_h)^2.
    """

    head_H: Floats
    n: int
    rate: float = 0.1
    seed: int = 0
    mean_H: Floats | None = None
    masked_NH: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_dropout(self.n, self.rate)
        kept_NH = np.random.default_rng(self.seed).random((self.n, len(self.head_H))) >= self.rate
        object.__setattr__(self, "masked_NH", kept_NH * self.head_H / (1 - self.rate))

    def std(self, features_KH: ArrayLike) -> Floats:
        """[K] standard deviation over the passes of the difference in reward to the reference."""
        features_KH = np.asarray(features_KH, np.float64)
        delta_KH = features_KH - reference(features_KH, self.mean_H)
        return (self.masked_NH @ delta_KH.T).std(axis=0, ddof=1)


def reference(features_KH: Floats, mean_H: Floats | None) -> Floats:
    """[H] the reference response: the answers' mean, or for one answer the stored one (zero where none is stored)."""
    if len(features_KH) > 1:
        return features_KH.mean(axis=0)
    return np.zeros(features_KH.shape[1]) if mean_H is None else mean_H


def check_dropout(n: int, rate: float) -> None:
    """Raise ConfigError for passes or a rate that give no spread."""
    if n < 2:
        raise ConfigError(f"--mc-dropout {n}: give at least 2 passes")
    if not 0 < rate < 1:
        raise ConfigError(f"--mc-dropout-rate {rate:g}: give a share between 0 and 1")


# -- fitting ------------------------------------------------------------------------------------------------


def fit_laplace(
    delta_PH: ArrayLike, head_H: ArrayLike, mean_H: ArrayLike, *, prior: float | None = None
) -> tuple[Laplace, dict[str, Any]]:
    """(posterior, what was found) of a head from the features of pairs: delta is chosen minus rejected.

    The loss of a pair is softplus(-w . delta); its second derivative p (1 - p) delta delta', p = sigmoid(w . delta),
    does not depend on which side was chosen. `prior` is the precision of the head's prior N(0, 1 / prior); None takes
    the value of the largest evidence. Raises DataError without a pair whose sides differ.
    """
    delta_PH, head_H = np.asarray(delta_PH, np.float64), np.asarray(head_H, np.float64)
    if not np.isfinite(delta_PH).all() or not delta_PH.any():
        raise DataError("no pair has two answers that the model tells apart: there is nothing to fit to")
    margin_P = delta_PH @ head_H
    weight_P = 0.25 / np.cosh(margin_P / 2) ** 2  # p (1 - p)
    curvature_HH = (delta_PH * weight_P[:, None]).T @ delta_PH
    found = largest_evidence(curvature_HH, head_H) if prior is None else prior
    if not 0 < found < float("inf"):
        raise ConfigError(f"--prior {found:g}: give a number above 0")
    eigen_H = np.maximum(np.linalg.eigvalsh(curvature_HH), 0)
    posterior = Laplace(found * np.eye(len(head_H)) + curvature_HH, np.asarray(mean_H, np.float64))
    return posterior, {
        "prior": float(found),
        "prior_from": "evidence" if prior is None else "given",
        "n_pairs": len(delta_PH),
        "hidden_size": len(head_H),
        "effective_parameters": float((eigen_H / (found + eigen_H)).sum()),
    }


def largest_evidence(curvature_HH: Floats, head_H: Floats) -> float:
    """The prior precision that makes the Laplace evidence of the data largest, the head held.

    The stationary point of H log(a) - a |w|^2 - sum log(a + e): a = sum(e / (a + e)) / |w|^2. Its right side falls
    with a, so there is one solution; it is found by bisection on a logarithmic scale.
    """
    eigen_H = np.maximum(np.linalg.eigvalsh(curvature_HH), 0)
    square = float(head_H @ head_H)
    low, high = LOWEST_PRIOR, HIGHEST_PRIOR
    for _ in range(ROUNDS):
        middle = (low * high) ** 0.5
        if (eigen_H / (middle + eigen_H)).sum() > middle * square:
            low = middle
        else:
            high = middle
    return (low * high) ** 0.5


# -- the file -----------------------------------------------------------------------------------------------


def write_posterior(posterior: Laplace, artifact: Path) -> None:
    """Write the posterior into an artifact's folder: beside its name first, then renamed."""
    import os

    from safetensors.numpy import save_file

    folder = artifact / FOLDER
    folder.mkdir(exist_ok=True)
    writing = folder / f".{FILE}.writing-{os.getpid()}"
    try:
        save_file({"precision": posterior.precision_HH, "mean": posterior.mean_H}, writing)
        os.replace(writing, folder / FILE)
    finally:
        writing.unlink(missing_ok=True)


def read_posterior(artifact: Path, hidden_size: int) -> Laplace:
    """The posterior in an artifact's folder. ModelError where it is missing, damaged or of another head."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    file = artifact / FOLDER / FILE
    again = "fit it again with rewardsmith ensemble laplace --overwrite"
    try:
        tensors = load_file(file)
        precision_HH, mean_H = tensors["precision"], tensors["mean"]
        if precision_HH.shape != (hidden_size, hidden_size) or mean_H.shape != (hidden_size,):
            raise ModelError(f"{file} is of a head of another size than {hidden_size}: {again}")
        return Laplace(precision_HH, mean_H)
    except (OSError, SafetensorError, KeyError, np.linalg.LinAlgError) as error:
        raise ModelError(f"{file} cannot be read ({type(error).__name__}): {again}") from None
