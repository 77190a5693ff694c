"""Checks of notebook 01: imitation as reinforcement."""

from __future__ import annotations

import math

import torch

from amft_lite import implicit_reward as ir
from amft_lite.exercises.checking import Exercise, Mistake


def _randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _probs(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.softmax(_randn(*shape, seed=seed), -1)


_LOGPS = -_randn(3, 5).abs() - 0.1
_REFERENCE = -_randn(3, 5, seed=1).abs() - 0.1
_MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])

SEQUENCE_LOGP = Exercise(
    "sequence_logp",
    ir.sequence_logps,
    [(_LOGPS, _MASK), (_LOGPS[1:], torch.ones(2, 5, dtype=torch.int64))],
    [
        Mistake(
            "mean over tokens",
            "that is the mean over tokens. The probability of a whole answer is the product of its "
            "tokens' probabilities, so its log is a sum",
            lambda logps, mask: (logps * mask).sum(1) / mask.sum(1),
        ),
        Mistake(
            "mask ignored",
            "padding counts as if it were part of the answer; multiply by the mask before summing",
            lambda logps, mask: logps.sum(1),
        ),
        Mistake(
            "wrong axis",
            "the sum runs over the answers (dim 0); it should run over the tokens of each answer",
            lambda logps, mask: (logps * mask).sum(0),
        ),
        Mistake(
            "one number",
            "everything is added up to one number; each answer has its own log-probability",
            lambda logps, mask: (logps * mask).sum(),
        ),
        Mistake(
            "sign",
            "the sign is flipped: this is the answer's negative log-likelihood",
            lambda logps, mask: -(logps * mask).sum(1),
        ),
        Mistake(
            "probability",
            "this is the probability itself; stay in logs (long answers underflow otherwise)",
            lambda logps, mask: (logps * mask).sum(1).exp(),
        ),
    ],
    gradients=(0,),
)

_P = torch.tensor([[0.5, 0.5, 0.0], [0.7, 0.2, 0.1]], dtype=torch.float64)
_Q = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.3, 0.6]], dtype=torch.float64)

KL_DIVERGENCE = Exercise(
    "kl_divergence",
    ir.kl_divergence,
    [(_probs(4, 6), _probs(4, 6, seed=1)), (_P, _Q)],
    [
        Mistake(
            "reversed",
            "the two arguments have changed places: KL(p || q) weighs log(p / q) with p, and is "
            "not symmetric",
            lambda p, q: ir.kl_divergence(q, p),
        ),
        Mistake(
            "sign",
            "the sign is flipped: a divergence is never negative",
            lambda p, q: -ir.kl_divergence(p, q),
        ),
        Mistake(
            "no weights",
            "log(p / q) is added up without its weights p(y); KL is an expectation under p",
            lambda p, q: (p.log() - q.log()).sum(-1),
        ),
        Mistake(
            "zero times infinity",
            "words with p(y) = 0 give nan. 0 log 0 is 0 here: leave those words out before the "
            "logarithm",
            lambda p, q: (p * (p.log() - q.log())).sum(-1),
        ),
        Mistake(
            "bits",
            "this is in bits (logarithm to base 2); the field counts in nats",
            lambda p, q: ir.kl_divergence(p, q) / math.log(2),
        ),
        Mistake(
            "wrong axis",
            "the sum runs over the rows; the words are the last dimension",
            lambda p, q: (p * (p.log() - q.log())).sum(0),
        ),
        Mistake(
            "cross-entropy",
            "this is the cross-entropy -sum p log q; KL subtracts the entropy of p from it",
            lambda p, q: -(p * q.log()).sum(-1),
        ),
        Mistake(
            "mean over words",
            "the words are averaged; an expectation under p is a sum with weights p(y)",
            lambda p, q: ir.kl_divergence(p, q) / p.shape[-1],
        ),
    ],
)

_WORDS = torch.tensor([2, 0, 3])


def _one_hot(probs: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(probs).scatter(-1, words.unsqueeze(-1), 1.0)


IMITATION_REWARD = Exercise(
    "imitation_reward",
    ir.imitation_reward,
    [(_probs(3, 4), _WORDS), (_probs(2, 5, seed=3), torch.tensor([4, 1]))],
    [
        Mistake(
            "not divided",
            "this pays 1 for the demonstrated word. The expectation already weighs it by pi(y*), "
            "so the reward has to divide by pi(y*)",
            _one_hot,
        ),
        Mistake(
            "everyone paid",
            "every word is paid 1 / pi(y); only the demonstrated word earns anything",
            lambda probs, words: 1 / probs,
        ),
        Mistake(
            "log-probability",
            "this is -log pi(y*), the loss; the reward is 1 / pi(y*)",
            lambda probs, words: -probs.log() * _one_hot(probs, words),
        ),
        Mistake(
            "sign",
            "the sign is flipped: this would push the expert's word down",
            lambda probs, words: -ir.imitation_reward(probs, words),
        ),
        Mistake(
            "log of the probability",
            "this pays log pi(y*), which is negative and largest for likely words",
            lambda probs, words: probs.log() * _one_hot(probs, words),
        ),
        Mistake(
            "gradient in place of reward",
            "this is the gradient with respect to the logits (one-hot minus pi), not the reward",
            lambda probs, words: _one_hot(probs, words) - probs,
        ),
        Mistake(
            "probability",
            "this pays pi(y*), not 1 / pi(y*): unlikely words need the larger reward",
            lambda probs, words: probs * _one_hot(probs, words),
        ),
    ],
)

TOKEN_REWARDS = Exercise(
    "token_rewards",
    ir.implicit_rewards,
    [(_LOGPS, _REFERENCE, _MASK, 1.0), (_LOGPS, _REFERENCE, _MASK, 0.1)],
    [
        Mistake(
            "sign",
            "the sign is flipped: a token that training made likelier has a positive reward",
            lambda a, b, mask, beta: ir.implicit_rewards(b, a, mask, beta),
        ),
        Mistake(
            "no reference",
            "the reference policy is missing: without it, a token that was likely all along "
            "looks like a punished one",
            lambda a, b, mask, beta: beta * a * mask,
        ),
        Mistake(
            "mask ignored",
            "padding gets rewards; they must be 0 off the mask",
            lambda a, b, mask, beta: beta * (a - b),
        ),
        Mistake(
            "beta ignored",
            "beta is missing: it scales the log-ratio",
            lambda a, b, mask, beta: (a - b) * mask,
        ),
        Mistake(
            "beta divides",
            "beta divides where it should multiply: r = beta * log(pi / pi_ref)",
            lambda a, b, mask, beta: (a - b) * mask / beta,
        ),
        Mistake(
            "probabilities",
            "these are differences of probabilities; the reward is a difference of their logs",
            lambda a, b, mask, beta: beta * (a.exp() - b.exp()) * mask,
        ),
        Mistake(
            "ratio without log",
            "this is the ratio itself; take its logarithm, so that equal policies give 0",
            lambda a, b, mask, beta: beta * (a - b).exp() * mask,
        ),
        Mistake(
            "summed",
            "the tokens are added up; the reward is wanted token by token, [B, T]",
            lambda a, b, mask, beta: (beta * (a - b) * mask).sum(1),
        ),
    ],
)

REVERSE_KL_ESTIMATE = Exercise(
    "reverse_kl_estimate",
    ir.reverse_kl_estimate,
    [(_LOGPS, _REFERENCE), (_LOGPS[0], _LOGPS[0] - 0.3)],
    [
        Mistake(
            "k1",
            "this is log pi - log pi_ref: unbiased as well, but it can be negative. Add "
            "exp(d) - 1, whose expectation under pi is 0",
            lambda a, b: a - b,
        ),
        Mistake(
            "k2",
            "this is half the square of the log-ratio: never negative, but biased",
            lambda a, b: (a - b) ** 2 / 2,
        ),
        Mistake(
            "ratio upside down",
            "the ratio is upside down: with samples of pi, d = log pi_ref - log pi",
            lambda a, b: ir.reverse_kl_estimate(b, a),
        ),
        Mistake(
            "not centred",
            "the -1 is missing: where the two policies agree the estimate must be 0",
            lambda a, b: (b - a).exp() - (b - a),
        ),
        Mistake(
            "wrong sign of d",
            "d is added where it should be subtracted: exp(d) - 1 - d",
            lambda a, b: (b - a).exp() - 1 + (b - a),
        ),
        Mistake(
            "averaged",
            "the samples are averaged already; give one estimate a token",
            lambda a, b: ir.reverse_kl_estimate(a, b).mean(),
        ),
    ],
)

MULTIPLIER = Exercise(
    "multiplier",
    ir.multiplier,
    [(0.5,), (0.05,), (0.8,), (0.0,)],
    [
        Mistake(
            "mu itself",
            "this is mu. Divide the whole loss by (1 - mu): what then stands before L_SFT?",
            lambda mu: mu,
        ),
        Mistake(
            "upside down",
            "this is (1 - mu) / mu, the weight of L_RL when L_SFT has weight 1",
            lambda mu: (1 - mu) / mu if mu else torch.inf,
        ),
        Mistake(
            "one minus mu",
            "this is the weight of L_RL; the multiplier is the ratio of the two weights",
            lambda mu: 1 - mu,
        ),
        Mistake(
            "only divided by the other weight",
            "1 / (1 - mu) lacks the mu in the numerator: with mu = 0 there is no imitation at all",
            lambda mu: 1 / (1 - mu),
        ),
    ],
)

EXERCISES = (
    SEQUENCE_LOGP, KL_DIVERGENCE, IMITATION_REWARD, TOKEN_REWARDS, REVERSE_KL_ESTIMATE, MULTIPLIER,
)  # fmt: skip
