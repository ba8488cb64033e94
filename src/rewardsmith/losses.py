"""Losses over rewards: pure functions, one unreduced value per comparison; `odin` and `consistency`, which are no
sums over comparisons, take the rows of a whole step.

They are finite, with the right gradient, for any finite rewards, and compute in float32 at least whatever
comes in. `training.objective` mixes them as a `LossConfig` says.

Shape suffixes

    R  responses: one reward each
    P  pairs: statements about two responses
    N  rankings: statements about several responses at once
    K  places in the longest ranking, best first
    G  groups
    E  edits: an answer beside the same with other words around it
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rewardsmith.data.schema import TIE

TINY = 1e-12  # keeps a correlation of what does not vary finite
NO_RESPONSE = -1  # pads a ranking to K places


def bradley_terry(
    chosen_P: Tensor, rejected_P: Tensor, margin_P: Tensor | None = None, probability_P: Tensor | None = None
) -> Tensor:
    """Negative log-likelihood of each comparison under P(w > l) = sigmoid(r_w - r_l): loss_P in nats.

    With d = r_w - r_l - margin this is softplus(-d), which is 120 at d = -120, where -log(sigmoid(d))
    overflows in float32. With a soft label p it is the binary cross-entropy
    p softplus(-d) + (1 - p) softplus(d), least at d = log(p / (1 - p)).

    Sources: Bradley and Terry (1952); margin: Llama 2 (2307.09288, equation 2).
    """
    gap_P = _gap(chosen_P, rejected_P, margin_P)
    if probability_P is None:
        return _softplus(-gap_P)
    return _mix(probability_P, _softplus(-gap_P), _softplus(gap_P))


def rao_kupper(
    chosen_P: Tensor,
    rejected_P: Tensor,
    probability_P: Tensor,
    eta: Tensor | float,
    margin_P: Tensor | None = None,
) -> Tensor:
    """Comparisons that may be tied, with a threshold `eta` >= 0 in units of reward: loss_P in nats.

        P(win) = sigmoid(d - eta)    P(loss) = sigmoid(-d - eta)    P(tie) = 1 - P(win) - P(loss)

    A label p of exactly 0.5 is a tie and costs -log P(tie). Any other p is a mix of wins and losses
    without ties, p (-log P(win)) + (1 - p) (-log P(loss)): p = 1 is a win, p = 0.75 three wins to one
    loss. The cost therefore jumps at p = 0.5, as tied is another event than evenly divided.

    P(tie) is not taken as a difference, which cancels, but from the identity
    P(tie) = (exp(2 eta) - 1) P(win) P(loss). At eta = 0, where no tie is possible, eta is raised to the
    smallest normal number, so that a tie costs much (88 nats in float32) but not infinity.

    Source: Rao and Kupper (1967), with theta = exp(eta).
    """
    gap_P = _gap(chosen_P, rejected_P, margin_P)
    eta = torch.as_tensor(eta, dtype=gap_P.dtype, device=gap_P.device)
    eta = eta.clamp_min(torch.finfo(gap_P.dtype).tiny)
    win_P, loss_P = _softplus(eta - gap_P), _softplus(eta + gap_P)  # -log P(win), -log P(loss)
    log_expm1 = 2 * eta + torch.log(-torch.expm1(-2 * eta))  # log(exp(2 eta) - 1), safe for any eta
    return torch.where(probability_P == TIE, win_P + loss_P - log_expm1, _mix(probability_P, win_P, loss_P))


def davidson(
    chosen_P: Tensor,
    rejected_P: Tensor,
    probability_P: Tensor,
    log_nu: Tensor | float,
    margin_P: Tensor | None = None,
) -> Tensor:
    """Comparisons that may be tied, a tie being a third choice midway between the two: loss_P in nats.

        P(win) : P(loss) : P(tie) = exp(d / 2) : exp(-d / 2) : nu,   d = r_w - r_l - margin

    nu = 0 is Bradley-Terry. A label p of exactly 0.5 is a tie; any other p is a mix of wins and losses
    without ties, as in `rao_kupper`.

    Source: Davidson (1970).
    """
    gap_P = _gap(chosen_P, rejected_P, margin_P)
    tie_P = torch.as_tensor(log_nu, dtype=gap_P.dtype, device=gap_P.device).expand_as(gap_P)
    log_win_P, log_loss_P, log_tie_P = torch.stack([gap_P / 2, -gap_P / 2, tie_P]).log_softmax(0)
    return torch.where(probability_P == TIE, -log_tie_P, _mix(probability_P, -log_win_P, -log_loss_P))


def smooth(probability_P: Tensor, smoothing: float) -> Tensor:
    """Label smoothing: p (1 - s) + s / 2, so that a certain label becomes 1 - s / 2.

    Written round one half, so that a tie stays exactly a tie.
    """
    return TIE + (probability_P - TIE) * (1.0 - smoothing)


def unflip(probability_P: Tensor, flip_rate: float) -> Tensor:
    """Labels whose expectation over flips is the label without them: 1/2 + (p - 1/2) / (1 - 2 e).

    A cross-entropy is linear in its label, so with these it is Natarajan's unbiased estimate of the loss on clean
    labels: for a certain one, ((1 - e) l(d) - e l(-d)) / (1 - 2 e). A certain label becomes more than 1, and the loss
    falls without end as d grows: the expectation is right, a single value need not be positive. The inverse of
    `smooth` by 2 e; a tie stays exactly a tie.

    Sources: Natarajan et al. (2013), lemma 1; for preferences: rDPO (2403.00409).
    """
    return TIE + (probability_P - TIE) / (1.0 - 2.0 * flip_rate)


def flipped_bradley_terry(chosen_P: Tensor, rejected_P: Tensor, probability_P: Tensor, flip_rate: float) -> Tensor:
    """Negative log-likelihood of labels of which a share e was turned round: loss_P in nats, at most -log e.

        P(label says w > l) = (1 - e) sigmoid(d) + e sigmoid(-d)

    Over many labels it is least at the reward gap that made the clean ones. A label that contradicts a large gap costs
    about -log e and pulls with a force that goes to 0: it is taken for a flip. Source: forward correction, Patrini et
    al. (1609.03683, theorem 2).
    """
    gap_P = _gap(chosen_P, rejected_P, None)
    keep, turn = math.log1p(-flip_rate), math.log(flip_rate)
    win_P, loss_P = -_softplus(-gap_P), -_softplus(gap_P)  # log sigmoid(d), log sigmoid(-d)
    return _mix(
        probability_P, -torch.logaddexp(keep + win_P, turn + loss_P), -torch.logaddexp(turn + win_P, keep + loss_P)
    )


def plackett_luce(rewards_R: Tensor, ranking_NK: Tensor, n_choices_N: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of rankings, each a series of choices of the best that is left: loss_N, nats.

        loss = sum_{k < n} logsumexp(r_k, ..., r_K) - r_k

    `ranking_NK` holds indices into `rewards_R`, best first, padded at the end with -1. `n_choices_N` is
    how many leading places are known (default: all); the responses after them are known to be worse than
    those, in no known order, so one choice among K says "the best of K". Responses that are not in a
    ranking play no part in it. With two responses this is `bradley_terry`.

    Sources: Luce (1959), Plackett (1975); as a loss: ListMLE (Xia et al. 2008).
    """
    rewards_R = _wide(rewards_R)
    valid_NK = ranking_NK != NO_RESPONSE
    ranked_NK = rewards_R[ranking_NK.clamp_min(0)]
    place_K = torch.arange(ranking_NK.shape[1], device=ranking_NK.device)
    later_KK = place_K[None, :] > place_K[:, None]
    # Each place stands in its own sum, padding included: an empty logsumexp would have a NaN gradient.
    left_NKK = (later_KK & valid_NK[:, None, :]) | (place_K[None, :] == place_K[:, None])
    left_NKK = ranked_NK[:, None, :].masked_fill(~left_NKK, -math.inf)
    choice_NK = torch.logsumexp(left_NKK, dim=2) - ranked_NK
    if n_choices_N is not None:
        valid_NK = valid_NK & (place_K[None, :] < n_choices_N[:, None])
    return torch.where(valid_NK, choice_NK, 0.0).sum(1)


def centring(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """(r_w + r_l)^2 per pair, which holds each prompt's rewards about zero: Bradley-Terry leaves them free.

    The caller multiplies by a coefficient. Source: Eisenstein et al. (2312.09244), with 0.01; TRL's
    `center_rewards_coefficient`.
    """
    return (_wide(chosen_P) + _wide(rejected_P)) ** 2


def consistency(rewards_R: Tensor, twin_2E: Tensor, weight_E: Tensor, group_R: Tensor) -> Tensor:
    """What edits that leave the content alone do to rewards: their mean squared gap, in variances within a group.

        ratio = sum_E weight_E (r(answer) - r(edit))^2 / var,   the loss of a step: log(1 + ratio)

    A scalar. `twin_2E` holds rows, each answer above its edit; the weights sum to 1; `group_R` is the group of every
    row. The variance is that of the answers that are no edits, pooled over groups. A ratio, as the gaps alone are least
    where all rewards are the same, and a model finds that first; the logarithm, so that a step with hardly any
    variance pulls no harder than another. 0, with zero gradient, where nothing is edited or no group has two answers.
    """
    rewards_R = _wide(rewards_R)
    reward_E, edited_E = rewards_R[twin_2E]
    counts_R = torch.ones_like(rewards_R).index_fill_(0, twin_2E[1], 0.0)
    rest_R = counts_R * _less_mean(rewards_R, group_R, counts_R)
    n_groups = rewards_R.new_zeros(len(group_R)).index_fill_(0, group_R, 1.0).sum()
    freedom = counts_R.sum() - n_groups
    variance = (rest_R * rest_R).sum() / freedom.clamp_min(1.0)
    ratio = (weight_E * (reward_E - edited_E) ** 2).sum() / (variance + TINY)
    return torch.where(freedom > 0, ratio, 0.0)


def within_correlation(x_R: Tensor, y_R: Tensor, group_R: Tensor) -> Tensor:
    """Pearson's correlation of x and y, each less its group's mean: what comparisons within a prompt can see.

    A scalar; 0, with zero gradient, where one of the two does not vary within any group.
    """
    x_R, y_R = (_less_mean(values, group_R, torch.ones_like(values)) for values in (_wide(x_R), _wide(y_R)))
    return (x_R * y_R).sum() / ((x_R * x_R).sum() * (y_R * y_R).sum() + TINY).sqrt()


def odin(quality_R: Tensor, length_R: Tensor, log_length_R: Tensor, group_R: Tensor) -> tuple[Tensor, Tensor]:
    """(correlation of quality with length, correlation of the length head with it) over the rows of a step.

    The loss is |first| - second, in [-1, 2]. Source: ODIN (2402.07319, section 3.2), which takes both correlations
    over all rows of a batch; here rows are taken within their prompt (Bradley-Terry leaves each prompt's mean free, so
    that a mean could pay for a correlation that is kept inside), and length is log length, whose outliers are milder.
    """
    return within_correlation(quality_R, log_length_R, group_R), within_correlation(length_R, log_length_R, group_R)


def regression(rewards_R: Tensor, ratings_R: Tensor, mask_R: Tensor) -> Tensor:
    """(reward - rating)^2 where `mask_R`, zero (with zero gradient) elsewhere, whatever the rating there.

    Ratings are used raw: the reward is learnt in the ratings' own units. Source: HelpSteer (2311.09528).
    """
    return torch.where(mask_R, _wide(rewards_R) - ratings_R, 0.0) ** 2


def pair_weights(
    group_of_P: Tensor,
    weight_P: Tensor,
    group_weight_G: Tensor | None = None,
    total_weight: float | None = None,
) -> Tensor:
    """weight_P for which sum(weight_P * loss_P) averages over the pairs of a prompt, then over prompts.

    In float64. `weight_P` >= 0 is each pair's weight among those of its group `group_of_P`;
    `group_weight_G` (default: ones) each group's weight; `total_weight` the divisor, by default the
    weights of the groups that have a pair of positive weight. Source: InstructGPT (2203.02155, 3.5).
    """
    if group_weight_G is None:
        n_groups = int(group_of_P.max()) + 1 if group_of_P.numel() else 0
        group_weight_G = torch.ones(n_groups, device=weight_P.device)
    group_weight_G, weight_P = group_weight_G.double(), weight_P.double()
    sum_G = torch.zeros_like(group_weight_G).index_add_(0, group_of_P, weight_P)
    if total_weight is None:
        total_weight = float(group_weight_G[sum_G > 0].sum())
    if total_weight <= 0:  # no pair counts
        return torch.zeros_like(weight_P)
    share_G = torch.where(sum_G > 0, group_weight_G / sum_G, 0.0)
    return weight_P * share_G[group_of_P] / total_weight


def _wide(x: Tensor) -> Tensor:
    """In float32 at least: bf16 has a spacing of 1/32 for rewards between 4 and 8."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _less_mean(values_R: Tensor, group_R: Tensor, counts_R: Tensor) -> Tensor:
    """Each value less the mean of its group's values, those that count (1, else 0)."""
    n_groups = int(group_R.shape[0])  # no group has a higher number than there are rows: no device sync
    sum_G = values_R.new_zeros(n_groups).index_add_(0, group_R, counts_R * values_R)
    n_G = values_R.new_zeros(n_groups).index_add_(0, group_R, counts_R)
    return values_R - (sum_G / n_G.clamp_min(1))[group_R]


def _softplus(x: Tensor) -> Tensor:
    """log(1 + e^x). Past the threshold it is x: e^-40 is nothing beside 40, in float64 too."""
    return F.softplus(x, threshold=40.0)


def _gap(chosen_P: Tensor, rejected_P: Tensor, margin_P: Tensor | None) -> Tensor:
    gap_P = _wide(chosen_P) - _wide(rejected_P)
    return gap_P if margin_P is None else gap_P - margin_P


def _mix(probability_P: Tensor, win_P: Tensor, loss_P: Tensor) -> Tensor:
    """Expected cost of a label that is a win with `probability_P`: both terms >= 0, so nothing cancels."""
    return probability_P * win_P + (1 - probability_P) * loss_P
