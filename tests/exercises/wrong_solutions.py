"""Wrong solutions as students write them: (exercise, the mistake `check` must name, function).

Written from the exercises' texts alone, before anyone had seen a check; only those of notebooks 05
(from `phi_weight` to `holm`) and 07 (from `turn_word`) came from whoever wrote the checks. The
kinds `value`, `shape`, `gradient`, `other` and the like stand for mistakes that no check foresees:
rejected, but without a sentence of their own.
"""

import io
import math

import numpy as np
import torch
import torch.nn.functional as F

WRONG = []  # (exercise, kind, function)


def wrong(exercise, kind):
    def keep(fn):
        WRONG.append((exercise, kind, fn))
        return fn

    return keep


# ------------------------------------------------------------------ sequence_logp
@wrong("sequence_logp", "zero")
def _(logps, mask):
    return torch.zeros(logps.shape[0], dtype=logps.dtype)


@wrong("sequence_logp", "mask ignored")
def _(logps, mask):
    return logps.sum(dim=-1)


@wrong("sequence_logp", "mean over tokens")
def _(logps, mask):
    return (logps * mask).sum(1) / mask.sum(1)


@wrong("sequence_logp", "value")
def _(logps, mask):
    total = torch.zeros_like(logps[:, 0])
    for t in range(1, logps.shape[1]):
        total = total + logps[:, t] * mask[:, t]
    return total


@wrong("sequence_logp", "no gradient")
def _(logps, mask):
    out = []
    for row, keep in zip(logps, mask, strict=True):
        out.append(sum(x.item() for x, k in zip(row, keep, strict=True) if k))
    return torch.tensor(out, dtype=logps.dtype)


@wrong("sequence_logp", "value")
def _(logps, mask):
    return torch.log((torch.exp(logps) * mask).sum(dim=1))


@wrong("sequence_logp", "sign")
def _(logps, mask):
    return -(logps * mask).sum(dim=1)


@wrong("sequence_logp", "wrong axis")
def _(logps, mask):
    return torch.einsum("bt,bt->t", logps, mask.to(logps.dtype))


@wrong("sequence_logp", "one number")
def _(logps, mask):
    return logps[mask.bool()].sum()


@wrong("sequence_logp", "probability")
def _(logps, mask):
    return torch.where(mask.bool(), logps.exp(), torch.ones_like(logps)).prod(1)


# ------------------------------------------------------------------ kl_divergence
@wrong("kl_divergence", "reversed")
def _(p, q):
    terms = torch.where(q > 0, q * (q.log() - p.clamp(min=1e-12).log()), torch.zeros_like(q))
    return terms.sum(-1)


@wrong("kl_divergence", "zero times infinity")
def _(p, q):
    return (p * torch.log(p / q)).sum(dim=-1)


@wrong("kl_divergence", "sign")
def _(p, q):
    return (torch.xlogy(p, q) - torch.xlogy(p, p)).sum(-1)


@wrong("kl_divergence", "bits")
def _(p, q):
    ratio = torch.where(p > 0, p / q, torch.ones_like(p))
    return (p * torch.log2(ratio)).sum(-1)


@wrong("kl_divergence", "mean over words")
def _(p, q):
    return F.kl_div(q.log(), p, reduction="none").mean(dim=-1)


@wrong("kl_divergence", "wrong axis")
def _(p, q):
    terms = torch.xlogy(p, p) - torch.xlogy(p, q)
    return terms.sum(dim=0)


# ------------------------------------------------------------------ imitation_reward
@wrong("imitation_reward", "not divided")
def _(probs, demonstrated):
    return F.one_hot(demonstrated, probs.shape[-1]).to(probs.dtype)


@wrong("imitation_reward", "everyone paid")
def _(probs, demonstrated):
    return 1.0 / probs


@wrong("imitation_reward", "log of the probability")
def _(probs, demonstrated):
    r = torch.zeros_like(probs)
    for b, y in enumerate(demonstrated.tolist()):
        r[b, y] = probs[b, y].log()
    return r


@wrong("imitation_reward", "gradient in place of reward")
def _(probs, demonstrated):
    target = torch.eye(probs.shape[1], dtype=probs.dtype)[demonstrated]
    return target - probs


@wrong("imitation_reward", "sign")
def _(probs, demonstrated):
    y = demonstrated[:, None]
    return torch.zeros_like(probs).scatter(1, y, -1.0 / probs.gather(1, y))


# ------------------------------------------------------------------ token_rewards
@wrong("token_rewards", "mask ignored")
def _(logps, reference_logps, mask, beta):
    return beta * (logps - reference_logps)


@wrong("token_rewards", "sign")
def _(logps, reference_logps, mask, beta):
    return -beta * (logps - reference_logps) * mask


@wrong("token_rewards", "ratio without log")
def _(logps, reference_logps, mask, beta):
    ratio = torch.exp(logps - reference_logps)
    return torch.where(mask.bool(), beta * ratio, torch.zeros_like(ratio))


@wrong("token_rewards", "value")
def _(logps, reference_logps, mask, beta):
    return beta * (logps / reference_logps) * mask


@wrong("token_rewards", "value")
def _(logps, reference_logps, mask, beta):
    total = ((logps - reference_logps) * mask).sum(dim=1, keepdim=True)
    return beta * total * mask


@wrong("token_rewards", "beta divides")
def _(logps, reference_logps, mask, beta):
    return (logps - reference_logps) * mask / beta


# ------------------------------------------------------------------ reverse_kl_estimate
@wrong("reverse_kl_estimate", "ratio upside down")
def _(logps, reference_logps):
    d = logps - reference_logps
    return torch.exp(d) - 1 - d


@wrong("reverse_kl_estimate", "k1")
def _(logps, reference_logps):
    return logps - reference_logps


@wrong("reverse_kl_estimate", "k2")
def _(logps, reference_logps):
    return 0.5 * (reference_logps - logps).pow(2)


@wrong("reverse_kl_estimate", "averaged")
def _(logps, reference_logps):
    d = reference_logps - logps
    return (torch.expm1(d) - d).mean()


@wrong("reverse_kl_estimate", "wrong sign of d")
def _(logps, reference_logps):
    diff = reference_logps - logps
    return diff.exp() - 1 + diff


@wrong("reverse_kl_estimate", "value")
def _(logps, reference_logps):
    return (logps - reference_logps).clamp(min=0)


# ------------------------------------------------------------------ multiplier
@wrong("multiplier", "mu itself")
def _(mu):
    return mu


@wrong("multiplier", "upside down")
def _(mu):
    return (1 - mu) / max(mu, 1e-8)


@wrong("multiplier", "only divided by the other weight")
def _(mu):
    return 1.0 / (1.0 - mu)


@wrong("multiplier", "value")
def _(mu):
    return mu / (1 + mu)


# ------------------------------------------------------------------ sft_loss
@wrong("sft_loss", "mean of means")
def _(logps, mask):
    per_answer = -(logps * mask).sum(dim=1) / mask.sum(dim=1)
    return per_answer.mean()


@wrong("sft_loss", "sign")
def _(logps, mask):
    return (logps * mask).sum() / mask.sum()


@wrong("sft_loss", "padding in the denominator")
def _(logps, mask):
    return -(logps * mask).mean()


@wrong("sft_loss", "mask ignored")
def _(logps, mask):
    return -logps.mean()


@wrong("sft_loss", "mean over answers")
def _(logps, mask):
    return -torch.where(mask.bool(), logps, torch.zeros_like(logps)).sum() / len(logps)


@wrong("sft_loss", "no gradient")
def _(logps, mask):
    chosen = logps.detach().numpy()[mask.numpy() > 0]
    return torch.tensor(-chosen.mean())


# ------------------------------------------------------------------ accumulated_losses
@wrong("accumulated_losses", "not scaled")
def _(pieces, masks):
    return [-(x * m).sum() / m.sum() for x, m in zip(pieces, masks, strict=True)]


@wrong("accumulated_losses", "mean of means")
def _(pieces, masks):
    n = len(pieces)
    losses = []
    for i in range(n):
        losses.append(-(pieces[i] * masks[i]).sum() / masks[i].sum() / n)
    return torch.stack(losses)


@wrong("accumulated_losses", "weighted by answers")
def _(pieces, masks):
    answers = sum(len(x) for x in pieces)
    out = []
    for x, m in zip(pieces, masks, strict=True):
        out.append(-(x * m).sum() / m.sum() * len(x) / answers)
    return out


@wrong("accumulated_losses", "sums")
def _(pieces, masks):
    return torch.stack([-(x * m).sum() for x, m in zip(pieces, masks, strict=True)])


@wrong("accumulated_losses", "value")
def _(pieces, masks):
    logps, mask = torch.cat(list(pieces)), torch.cat(list(masks))
    whole = -(logps * mask).sum() / mask.sum()
    return [whole for _ in pieces]


@wrong("accumulated_losses", "padding counted")
def _(pieces, masks):
    total = sum(x.numel() for x in pieces)
    return [-(pieces[i] * masks[i]).sum() / total for i in range(len(pieces))]


# ------------------------------------------------------------------ group_advantages
@wrong("group_advantages", "population spread")
def _(rewards, group_size):
    g = rewards.reshape(-1, group_size)
    mean, std = g.mean(1, keepdim=True), g.std(1, keepdim=True, unbiased=False)
    return ((g - mean) / (std + 1e-4)).reshape(-1)


@wrong("group_advantages", "batch mean")
def _(rewards, group_size):
    return (rewards - rewards.mean()) / (rewards.std() + 1e-4)


@wrong("group_advantages", "not divided")
def _(rewards, group_size):
    groups = rewards.view(-1, group_size)
    return (groups - groups.mean(-1, keepdim=True)).flatten()


@wrong("group_advantages", "wrong groups")
def _(rewards, group_size):
    g = rewards.reshape(group_size, -1)
    return ((g - g.mean(0)) / (g.std(0) + 1e-4)).reshape(-1)


@wrong("group_advantages", "value")
def _(rewards, group_size):
    out = []
    for start in range(0, len(rewards), group_size):
        g = rewards[start : start + group_size]
        out.append((g - g.mean()) / (g.var() + 1e-4))
    return torch.cat(out)


@wrong("group_advantages", "division by zero")
def _(rewards, group_size):
    g = rewards.reshape(-1, group_size)
    return ((g - g.mean(1, True)) / g.std(1, keepdim=True)).reshape(-1)


# ------------------------------------------------------------------ policy_gradient_loss
@wrong("policy_gradient_loss", "sign")
def _(logps, advantages, mask):
    return (advantages.detach() * (logps * mask).sum(1)).mean()


@wrong("policy_gradient_loss", "global token mean")
def _(logps, advantages, mask):
    weighted = logps * advantages.detach().unsqueeze(-1) * mask
    return -weighted.sum() / mask.sum()


@wrong("policy_gradient_loss", "advantage not detached")
def _(logps, advantages, mask):
    return -(advantages * (logps * mask).sum(dim=1)).mean()


@wrong("policy_gradient_loss", "mask ignored")
def _(logps, advantages, mask):
    return -(advantages.detach() * logps.sum(-1)).mean()


@wrong("policy_gradient_loss", "token mean")
def _(logps, advantages, mask):
    mean_logp = (logps * mask).sum(-1) / mask.sum(-1)
    return -(advantages.detach() * mean_logp).mean()


@wrong("policy_gradient_loss", "summed over answers")
def _(logps, advantages, mask):
    loss = 0.0
    for b in range(len(logps)):
        loss = loss - advantages[b].detach() * (logps[b] * mask[b]).sum()
    return loss


@wrong("policy_gradient_loss", "probability in place of log")
def _(logps, advantages, mask):
    answer_prob = (logps * mask).sum(1).exp()
    return -(advantages.detach() * answer_prob).mean()


# ------------------------------------------------------------------ ppo_clip_loss
@wrong("ppo_clip_loss", "no clip")
def _(logps, old_logps, advantages, mask, clip_range):
    ratio = torch.exp(logps - old_logps.detach())
    return -(ratio * advantages.detach()[:, None] * mask).sum() / mask.sum()


@wrong("ppo_clip_loss", "only the clipped term")
def _(logps, old_logps, advantages, mask, clip_range):
    ratio = (logps - old_logps.detach()).exp().clamp(1 - clip_range, 1 + clip_range)
    return -(ratio * advantages.detach().unsqueeze(1) * mask).sum() / mask.sum()


@wrong("ppo_clip_loss", "clip on the wrong side")
def _(logps, old_logps, advantages, mask, clip_range):
    ratio = torch.exp(logps - old_logps.detach())
    capped = torch.minimum(ratio, ratio.clamp(1 - clip_range, 1 + clip_range))
    return -(capped * advantages.detach()[:, None] * mask).sum() / mask.sum()


@wrong("ppo_clip_loss", "maximum")
def _(logps, old_logps, advantages, mask, clip_range):
    a = advantages.detach()[:, None]
    r = torch.exp(logps - old_logps.detach())
    best = torch.max(r * a, torch.clip(r, 1 - clip_range, 1 + clip_range) * a)
    return -(best * mask).sum() / mask.sum()


@wrong("ppo_clip_loss", "old policy not detached")
def _(logps, old_logps, advantages, mask, clip_range):
    a = advantages.detach()[:, None]
    r = torch.exp(logps - old_logps)
    obj = torch.min(r * a, r.clamp(1 - clip_range, 1 + clip_range) * a)
    return -(obj * mask).sum() / mask.sum()


@wrong("ppo_clip_loss", "mean of means")
def _(logps, old_logps, advantages, mask, clip_range):
    a = advantages.detach().view(-1, 1)
    r = (logps - old_logps.detach()).exp()
    obj = torch.minimum(r * a, r.clamp(1 - clip_range, 1 + clip_range) * a)
    return -((obj * mask).sum(1) / mask.sum(1)).mean()


@wrong("ppo_clip_loss", "value")
def _(logps, old_logps, advantages, mask, clip_range):
    a = advantages.detach()
    r = ((logps - old_logps.detach()) * mask).sum(1).exp()
    obj = torch.min(r * a, r.clamp(1 - clip_range, 1 + clip_range) * a)
    return -obj.mean()


@wrong("ppo_clip_loss", "ratio upside down")
def _(logps, old_logps, advantages, mask, clip_range):
    total = 0.0
    for b in range(logps.shape[0]):
        a = advantages[b].detach()
        r = torch.exp(old_logps[b].detach() - logps[b])
        obj = torch.minimum(r * a, r.clamp(1 - clip_range, 1 + clip_range) * a)
        total = total - (obj * mask[b]).sum()
    return total / mask.sum()


@wrong("ppo_clip_loss", "sign")
def _(logps, old_logps, advantages, mask, clip_range):
    a = advantages.detach()[:, None]
    r = torch.exp(logps - old_logps.detach())
    obj = torch.minimum(r * a, r.clamp(1 - clip_range, 1 + clip_range) * a)
    return obj[mask.bool()].mean()


@wrong("ppo_clip_loss", "advantages not detached")
def _(logps, old_logps, advantages, mask, clip_range):
    a = advantages[:, None].expand_as(logps)
    r = torch.exp(logps - old_logps.detach())
    obj = torch.min(r * a, r.clamp(1 - clip_range, 1 + clip_range) * a)
    return -(obj * mask).sum() / mask.sum()


@wrong("ppo_clip_loss", "padding in the denominator")
def _(logps, old_logps, advantages, mask, clip_range):
    a = advantages.detach()[:, None]
    r = torch.exp(logps - old_logps.detach())
    obj = torch.min(r * a, r.clamp(1 - clip_range, 1 + clip_range) * a)
    return -(obj * mask).mean()


@wrong("ppo_clip_loss", "no gradient")
def _(logps, old_logps, advantages, mask, clip_range):
    a = advantages.detach()[:, None]
    r = torch.exp(logps.detach() - old_logps.detach())
    obj = torch.min(r * a, r.clamp(1 - clip_range, 1 + clip_range) * a)
    return -(obj * mask).sum() / mask.sum() + 0 * logps.sum()


# ------------------------------------------------------------------ clip_fraction
@wrong("clip_fraction", "sign of A ignored")
def _(ratio, advantages, mask, clip_range):
    outside = ((ratio - 1).abs() > clip_range).to(ratio.dtype)
    return (outside * mask).sum() / mask.sum()


@wrong("clip_fraction", "sides swapped")
def _(ratio, advantages, mask, clip_range):
    a = advantages[:, None]
    cut = ((a > 0) & (ratio < 1 - clip_range)) | ((a < 0) & (ratio > 1 + clip_range))
    return cut[mask.bool()].to(ratio.dtype).mean()


@wrong("clip_fraction", "one side only")
def _(ratio, advantages, mask, clip_range):
    cut = (advantages[:, None] > 0) & (ratio > 1 + clip_range)
    return (cut * mask).sum() / mask.sum()


@wrong("clip_fraction", "padding in the denominator")
def _(ratio, advantages, mask, clip_range):
    a = advantages[:, None]
    cut = ((a > 0) & (ratio > 1 + clip_range)) | ((a < 0) & (ratio < 1 - clip_range))
    return (cut * mask).to(ratio.dtype).mean()


@wrong("clip_fraction", "mask ignored")
def _(ratio, advantages, mask, clip_range):
    a = advantages.unsqueeze(-1)
    cut = torch.where(a > 0, ratio > 1 + clip_range, ratio < 1 - clip_range)
    return cut.to(ratio.dtype).mean()


@wrong("clip_fraction", "the others")
def _(ratio, advantages, mask, clip_range):
    a = torch.sign(advantages)[:, None]
    inside = ((ratio - 1) * a <= clip_range).to(ratio.dtype)
    return (inside * mask).sum() / mask.sum()


# ------------------------------------------------------------------ gae
@wrong("gae", "lambda ignored")
def _(rewards, values, mask, gamma, lam):
    adv = torch.zeros_like(rewards)
    carry = torch.zeros_like(rewards[:, 0])
    masked = values * mask
    for t in reversed(range(rewards.shape[1])):
        nxt = masked[:, t + 1] if t + 1 < rewards.shape[1] else torch.zeros_like(carry)
        carry = (rewards[:, t] + gamma * nxt - values[:, t] + gamma * carry) * mask[:, t]
        adv[:, t] = carry
    return adv


@wrong("gae", "value")
def _(rewards, values, mask, gamma, lam):
    after = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    delta = (rewards + gamma * after - values) * mask
    adv, carry = torch.zeros_like(delta), 0
    for t in range(delta.shape[1] - 1, -1, -1):
        carry = delta[:, t] + gamma * lam * carry
        adv[:, t] = carry
    return adv * mask


@wrong("gae", "mask ignored")
def _(rewards, values, mask, gamma, lam):
    after = F.pad(values[:, 1:], (0, 1))
    delta = rewards + gamma * after - values
    out, last = [], torch.zeros_like(values[:, 0])
    for d in delta.T.flip(0):
        last = d + gamma * lam * last
        out.insert(0, last)
    return torch.stack(out, dim=1)


@wrong("gae", "value")
def _(rewards, values, mask, gamma, lam):
    v = values * mask
    delta = (rewards + gamma * F.pad(v[:, 1:], (0, 1)) - v) * mask
    cols = [delta[:, 0]]
    for t in range(1, delta.shape[1]):
        cols.append((delta[:, t] + gamma * lam * cols[-1]) * mask[:, t])
    return torch.stack(cols, dim=1)


@wrong("gae", "one-step error")
def _(rewards, values, mask, gamma, lam):
    v = torch.where(mask.bool(), values, torch.zeros_like(values))
    nxt = torch.roll(v, -1, dims=1)
    nxt[:, -1] = 0
    return (rewards + gamma * nxt - v) * mask


@wrong("gae", "returns")
def _(rewards, values, mask, gamma, lam):
    v = values * mask
    delta = (rewards + gamma * F.pad(v[:, 1:], (0, 1)) - v) * mask
    carry, cols = torch.zeros_like(v[:, 0]), []
    for t in reversed(range(v.shape[1])):
        carry = delta[:, t] + gamma * lam * carry
        cols.append(carry)
    return (torch.stack(cols[::-1], dim=1) + values) * mask


@wrong("gae", "value")
def _(rewards, values, mask, gamma, lam):
    v = values * mask
    delta = (rewards + F.pad(v[:, 1:], (0, 1)) - v) * mask
    adv = torch.zeros_like(delta)
    for t in reversed(range(v.shape[1])):
        adv[:, t] = delta[:, t]
        if t + 1 < v.shape[1]:
            adv[:, t] += gamma * lam * adv[:, t + 1]
    return adv * mask


@wrong("gae", "value")
def _(rewards, values, mask, gamma, lam):
    v = values * mask
    delta = (rewards + gamma * v.roll(-1, dims=1) - v) * mask
    carry, cols = 0, []
    for t in reversed(range(v.shape[1])):
        carry = delta[:, t] + gamma * lam * carry
        cols.append(carry)
    return torch.stack(cols[::-1], dim=1) * mask


# ------------------------------------------------------------------ token_entropy
@wrong("token_entropy", "sign")
def _(logits):
    p = logits.softmax(-1)
    return (p * p.log()).sum(-1)


@wrong("token_entropy", "value")
def _(logits):
    return -(logits.softmax(-1) * logits).sum(-1)


@wrong("token_entropy", "mean over words")
def _(logits):
    logp = F.log_softmax(logits, dim=-1)
    return -(logp.exp() * logp).mean(dim=-1)


@wrong("token_entropy", "bits")
def _(logits):
    p = torch.softmax(logits, dim=-1)
    return -(p * torch.log2(p)).sum(dim=-1)


@wrong("token_entropy", "value")
def _(logits):
    logp = F.log_softmax(logits, dim=0)
    return -(logp.exp() * logp).sum(-1)


@wrong("token_entropy", "gradient")
def _(logits):
    p = torch.softmax(logits, dim=-1)
    return -(p.detach() * p.log()).sum(-1)


@wrong("token_entropy", "no gradient")
def _(logits):
    with torch.no_grad():
        return torch.distributions.Categorical(logits=logits).entropy()


# ------------------------------------------------------------------ mu_gradient
@wrong("mu_gradient", "sign")
def _(grad_utility, grad_sft, grad_rl, lr):
    return lr * torch.dot(grad_utility, grad_sft - grad_rl)


@wrong("mu_gradient", "no learning rate")
def _(grad_utility, grad_sft, grad_rl, lr):
    return (grad_utility * (grad_rl - grad_sft)).sum()


@wrong("mu_gradient", "imitation only")
def _(grad_utility, grad_sft, grad_rl, lr):
    return -lr * grad_utility @ grad_sft


@wrong("mu_gradient", "value")
def _(grad_utility, grad_sft, grad_rl, lr):
    return lr * F.cosine_similarity(grad_utility, grad_rl - grad_sft, dim=0)


@wrong("mu_gradient", "value")
def _(grad_utility, grad_sft, grad_rl, lr):
    return lr * torch.mean(grad_utility * (grad_rl - grad_sft))


@wrong("mu_gradient", "added")
def _(grad_utility, grad_sft, grad_rl, lr):
    return -lr * torch.einsum("n,n->", grad_utility, grad_rl + grad_sft)


# ------------------------------------------------------------------ adam_update
@wrong("adam_update", "no bias correction")
def _(grad, m, v, step, lr, beta1, beta2, eps):
    m = beta1 * m + (1 - beta1) * grad
    v = beta2 * v + (1 - beta2) * grad**2
    return -lr * m / (v.sqrt() + eps)


@wrong("adam_update", "sign")
def _(grad, m, v, step, lr, beta1, beta2, eps):
    m_hat = (beta1 * m + (1 - beta1) * grad) / (1 - beta1**step)
    v_hat = (beta2 * v + (1 - beta2) * grad * grad) / (1 - beta2**step)
    return lr * m_hat / (torch.sqrt(v_hat) + eps)


@wrong("adam_update", "step off by one")
def _(grad, m, v, step, lr, beta1, beta2, eps):
    m_hat = (beta1 * m + (1 - beta1) * grad) / (1 - beta1 ** (step + 1))
    v_hat = (beta2 * v + (1 - beta2) * grad * grad) / (1 - beta2 ** (step + 1))
    return -lr * m_hat / (v_hat**0.5 + eps)


@wrong("adam_update", "value")
def _(grad, m, v, step, lr, beta1, beta2, eps):
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    return -lr * m_hat / (v_hat.sqrt() + eps)


@wrong("adam_update", "no root")
def _(grad, m, v, step, lr, beta1, beta2, eps):
    m_new = torch.lerp(grad, m, beta1) / (1 - beta1**step)
    v_new = torch.lerp(grad**2, v, beta2) / (1 - beta2**step)
    return -lr * m_new / (v_new + eps)


@wrong("adam_update", "betas swapped")
def _(grad, m, v, step, lr, beta1, beta2, eps):
    m = beta2 * m + (1 - beta2) * grad
    v = beta1 * v + (1 - beta1) * grad.square()
    return -lr * (m / (1 - beta2**step)) / ((v / (1 - beta1**step)).sqrt() + eps)


@wrong("adam_update", "value")
def _(grad, m, v, step, lr, beta1, beta2, eps):
    m_hat = ((1 - beta1) * m + beta1 * grad) / (1 - beta1**step)
    v_hat = (beta2 * v + (1 - beta2) * grad**2) / (1 - beta2**step)
    return -lr * m_hat / (v_hat.sqrt() + eps)


# ------------------------------------------------------------------ adam_direction
@wrong("adam_direction", "outside [0, 1]")
def _(update, grad_sft, grad_rl, mu, width):
    def at(x):
        return update((1 - x) * grad_rl + x * grad_sft)

    return (at(mu + width / 2) - at(mu - width / 2)) / width


@wrong("adam_direction", "divided by the width")
def _(update, grad_sft, grad_rl, mu, width):
    hi, lo = min(mu + width / 2, 1.0), max(mu - width / 2, 0.0)
    g_hi, g_lo = (torch.lerp(grad_rl, grad_sft, x) for x in (hi, lo))
    return (update(g_hi) - update(g_lo)) / width


@wrong("adam_direction", "update of the difference")
def _(update, grad_sft, grad_rl, mu, width):
    return update(grad_sft - grad_rl)


@wrong("adam_direction", "sign")
def _(update, grad_sft, grad_rl, mu, width):
    hi, lo = min(mu + width / 2, 1.0), max(mu - width / 2, 0.0)
    up, down = [update((1 - x) * grad_rl + x * grad_sft) for x in (hi, lo)]
    return (down - up) / (hi - lo)


@wrong("adam_direction", "value")
def _(update, grad_sft, grad_rl, mu, width):
    hi, lo = min(mu + width, 1.0), max(mu - width, 0.0)
    up = update(grad_rl + hi * (grad_sft - grad_rl))
    return (up - update(grad_rl + lo * (grad_sft - grad_rl))) / (hi - lo)


@wrong("adam_direction", "mixture reversed")
def _(update, grad_sft, grad_rl, mu, width):
    hi, lo = min(mu + width / 2, 1.0), max(mu - width / 2, 0.0)
    up = update((1 - hi) * grad_sft + hi * grad_rl)
    down = update((1 - lo) * grad_sft + lo * grad_rl)
    return (up - down) / (hi - lo)


@wrong("adam_direction", "value")
def _(update, grad_sft, grad_rl, mu, width):
    return update(grad_sft) - update(grad_rl)


@wrong("adam_direction", "value")
def _(update, grad_sft, grad_rl, mu, width):
    hi = min(mu + width / 2, 1.0)
    lo = mu if hi > mu else mu - width
    ends = [update((1 - x) * grad_rl + x * grad_sft) for x in (lo, hi)]
    return (ends[1] - ends[0]) / (hi - lo)


# ------------------------------------------------------------------ leave_one_out_advantages
@wrong("leave_one_out_advantages", "own reward in the baseline")
def _(rewards, group_size):
    g = rewards.view(-1, group_size)
    return (g - g.mean(1, keepdim=True)).view(-1)


@wrong("leave_one_out_advantages", "divided by n")
def _(rewards, group_size):
    g = rewards.reshape(-1, group_size)
    others = (g.sum(1, keepdim=True) - g) / group_size
    return (g - others).reshape(-1)


@wrong("leave_one_out_advantages", "value")
def _(rewards, group_size):
    n = rewards.numel()
    return rewards - (rewards.sum() - rewards) / (n - 1)


@wrong("leave_one_out_advantages", "sign")
def _(rewards, group_size):
    out = []
    for i in range(len(rewards)):
        start = i // group_size * group_size
        others = [rewards[j] for j in range(start, start + group_size) if j != i]
        out.append(sum(others) / len(others) - rewards[i])
    return torch.stack(out)


@wrong("leave_one_out_advantages", "value")
def _(rewards, group_size):
    g = rewards.reshape(-1, group_size)
    return ((g.sum(dim=1, keepdim=True) - g) / (group_size - 1)).flatten()


@wrong("leave_one_out_advantages", "value")
def _(rewards, group_size):
    g = rewards.reshape(-1, group_size)
    return (g - g.roll(1, dims=1)).flatten()


# ------------------------------------------------------------------ sign_agreement
@wrong("sign_agreement", "reference ignored")
def _(estimates, reference):
    return (estimates > 0).to(estimates.dtype).mean()


@wrong("sign_agreement", "zero counted")
def _(estimates, reference):
    return (estimates * reference >= 0).to(estimates.dtype).mean()


@wrong("sign_agreement", "value")
def _(estimates, reference):
    nonzero = estimates[estimates != 0]
    return (nonzero * reference > 0).to(estimates.dtype).mean()


@wrong("sign_agreement", "value")
def _(estimates, reference):
    return (1 + (torch.sign(estimates) * math.copysign(1, reference)).mean()) / 2


@wrong("sign_agreement", "value")
def _(estimates, reference):
    return torch.sign(estimates * reference).mean()


@wrong("sign_agreement", "count")
def _(estimates, reference):
    return (torch.sign(estimates) == np.sign(reference)).sum()


@wrong("sign_agreement", "zero counted")
def _(estimates, reference):
    return ((estimates > 0) == (reference > 0)).to(estimates.dtype).mean()


# ------------------------------------------------------------------ moving_average
@wrong("moving_average", "weights swapped")
def _(values, decay):
    a = values[0]
    for new in values[1:]:
        a = (1 - decay) * a + decay * new
    return a


@wrong("moving_average", "started at zero")
def _(values, decay):
    a = torch.zeros_like(values[0])
    for new in values:
        a = decay * a + (1 - decay) * new
    return a


@wrong("moving_average", "value")
def _(values, decay):
    a = values[0].clone()
    for i in range(1, len(values) - 1):
        a = decay * a + (1 - decay) * values[i]
    return a


@wrong("moving_average", "plain mean")
def _(values, decay):
    return torch.stack(list(values)).mean(0)


@wrong("moving_average", "value")
def _(values, decay):
    n = len(values)
    w = torch.tensor([decay ** (n - 1 - i) for i in range(n)], dtype=values[0].dtype)
    return torch.einsum("t,tn->n", w / w.sum(), torch.stack(list(values)))


@wrong("moving_average", "shape")
def _(values, decay):
    path = [values[0]]
    for new in values[1:]:
        path.append(decay * path[-1] + (1 - decay) * new)
    return torch.stack(path)


# ------------------------------------------------------------------ entropy_pushes
@wrong("entropy_pushes", "swapped")
def _(entropy, target, eta):
    return eta * (entropy - target), eta * (target - entropy)


@wrong("entropy_pushes", "same sign")
def _(entropy, target, eta):
    push = eta * (target - entropy)
    return push, push


@wrong("entropy_pushes", "same sign, the text's")
def _(entropy, target, eta):
    return eta * (entropy - target), eta * (entropy - target)


@wrong("entropy_pushes", "value")
def _(entropy, target, eta):
    return eta * (target - entropy), max(0.0, eta * (entropy - target))


@wrong("entropy_pushes", "no eta")
def _(entropy, target, eta):
    return target - entropy, entropy - target


@wrong("entropy_pushes", "value")
def _(entropy, target, eta):
    s = float(np.sign(entropy - target))
    return -eta * s, eta * s


# ------------------------------------------------------------------ controller_step
@wrong("controller_step", "no limit on the change")
def _(mu, signal, eta, max_change, low, high):
    return max(low, min(high, mu + eta * signal))


@wrong("controller_step", "no bounds")
def _(mu, signal, eta, max_change, low, high):
    return mu + max(-max_change, min(max_change, eta * signal))


@wrong("controller_step", "one limit only")
def _(mu, signal, eta, max_change, low, high):
    return min(high, max(low, mu + min(eta * signal, max_change)))


@wrong("controller_step", "sign")
def _(mu, signal, eta, max_change, low, high):
    return float(np.clip(mu - np.clip(eta * signal, -max_change, max_change), low, high))


@wrong("controller_step", "eta after the clip")
def _(mu, signal, eta, max_change, low, high):
    move = eta * max(-max_change, min(signal, max_change))
    return min(max(mu + move, low), high)


@wrong("controller_step", "sign of the signal only")
def _(mu, signal, eta, max_change, low, high):
    move = math.copysign(max_change, signal) if signal else 0.0
    return min(max(mu + move, low), high)


@wrong("controller_step", "no bounds")
def _(mu, signal, eta, max_change, low, high):
    move = min(max(eta * signal, -max_change), max_change)
    return min(max(mu + move, 0.0), 1.0)


# ------------------------------------------------------------------ diagnosis
BUGS = ["reversed meta sign", "stale gradient", "mean of means", "leaking validation"]


@wrong("diagnosis", "zero")
def _():
    return {}


@wrong("diagnosis", "other")
def _():
    return {run: "stale gradient" for run in "ABCD"}


@wrong("diagnosis", "other")
def _():
    return dict(zip("ABC", BUGS, strict=False))


@wrong("diagnosis", "other")
def _():
    return dict(zip("ABCD", [BUGS[0], BUGS[1], BUGS[1], BUGS[3]], strict=True))


@wrong("diagnosis", "other")
def _():
    return dict(zip("abcd", BUGS, strict=True))


# ------------------------------------------------------------------ mix
@wrong("mix", "swapped")
def _(grad_sft, grad_rl, mu):
    return mu * grad_rl + (1 - mu) * grad_sft


@wrong("mix", "not convex")
def _(grad_sft, grad_rl, mu):
    return grad_rl + mu * grad_sft


@wrong("mix", "plain mean")
def _(grad_sft, grad_rl, mu):
    return torch.stack([grad_sft, grad_rl]).mean(0)


@wrong("mix", "minus")
def _(grad_sft, grad_rl, mu):
    return (1 - mu) * grad_rl - mu * grad_sft


@wrong("mix", "value")
def _(grad_sft, grad_rl, mu):
    return F.normalize(torch.lerp(grad_rl, grad_sft, mu), dim=0)


# ------------------------------------------------------------------ amft_step
@wrong("amft_step", "old mu")
def _(theta, mu, g_sft, g_rl, rule, lr):
    s, r = g_sft(theta), g_rl(theta)
    theta = theta - lr * ((1 - mu) * r + mu * s)
    return theta, rule(mu, s, r)


@wrong("amft_step", "value")
def _(theta, mu, g_sft, g_rl, rule, lr):
    s, r = g_sft(theta), g_rl(theta)
    mu = rule(mu, r, s)
    return theta - lr * ((1 - mu) * r + mu * s), mu


@wrong("amft_step", "ascent")
def _(theta, mu, g_sft, g_rl, rule, lr):
    s, r = g_sft(theta), g_rl(theta)
    new_mu = rule(mu, s, r)
    return theta + lr * torch.lerp(r, s, new_mu), new_mu


@wrong("amft_step", "mu not returned")
def _(theta, mu, g_sft, g_rl, rule, lr):
    s, r = g_sft(theta), g_rl(theta)
    new_mu = rule(mu, s, r)
    return theta - lr * (new_mu * s + (1 - new_mu) * r), mu


@wrong("amft_step", "value")
def _(theta, mu, g_sft, g_rl, rule, lr):
    mu = rule(mu, g_sft(theta), g_rl(theta))
    theta = theta - lr * mu * g_sft(theta)
    return theta - lr * (1 - mu) * g_rl(theta), mu


@wrong("amft_step", "rule after the step")
def _(theta, mu, g_sft, g_rl, rule, lr):
    new = theta - lr * ((1 - mu) * g_rl(theta) + mu * g_sft(theta))
    return new, rule(mu, g_sft(new), g_rl(new))


@wrong("amft_step", "weights swapped")
def _(theta, mu, g_sft, g_rl, rule, lr):
    s, r = g_sft(theta), g_rl(theta)
    mu = rule(mu, s, r)
    return theta - lr * (mu * r + (1 - mu) * s), mu


# ------------------------------------------------------------------ clip_by_norm
@wrong("clip_by_norm", "always scaled")
def _(grad, max_norm):
    return grad * max_norm / grad.norm()


@wrong("clip_by_norm", "each coordinate")
def _(grad, max_norm):
    return grad.clamp(-max_norm, max_norm)


@wrong("clip_by_norm", "value")
def _(grad, max_norm):
    return grad * max(1.0, float(max_norm / grad.norm()))


@wrong("clip_by_norm", "squared norm")
def _(grad, max_norm):
    square = (grad * grad).sum()
    return grad if square <= max_norm else grad * max_norm / square


@wrong("clip_by_norm", "largest coordinate")
def _(grad, max_norm):
    size = grad.abs().max()
    return grad * (max_norm / size) if size > max_norm else grad


@wrong("clip_by_norm", "value")
def _(grad, max_norm):
    rms = grad.pow(2).mean().sqrt()
    return grad * torch.clamp(max_norm / rms, max=1.0)


@wrong("clip_by_norm", "divided")
def _(grad, max_norm):
    n = torch.linalg.vector_norm(grad)
    return grad / n if n > max_norm else grad


# ------------------------------------------------------------------ linear_mu
@wrong("linear_mu", "never arrives")
def _(step, steps, warmup_steps, high, low):
    if step <= warmup_steps:
        return high
    return high + (low - high) * (step - warmup_steps) / (steps - warmup_steps)


@wrong("linear_mu", "warm-up ignored")
def _(step, steps, warmup_steps, high, low):
    return high + (low - high) * step / (steps - 1)


@wrong("linear_mu", "warm-up ignored")
def _(step, steps, warmup_steps, high, low):
    return high if step <= warmup_steps else high - (high - low) * step / (steps - 1)


@wrong("linear_mu", "reversed")
def _(step, steps, warmup_steps, high, low):
    done = max(0.0, (step - warmup_steps) / (steps - 1 - warmup_steps))
    return low + (high - low) * done


@wrong("linear_mu", "value")
def _(step, steps, warmup_steps, high, low):
    if step < warmup_steps:
        return low + (high - low) * step / warmup_steps
    return float(np.interp(step, [warmup_steps, steps - 1], [high, low]))


@wrong("linear_mu", "value")
def _(step, steps, warmup_steps, high, low):
    x = min(max((step - warmup_steps) / (steps - 1 - warmup_steps), 0.0), 1.0)
    return low + (high - low) * 0.5 * (1 + math.cos(math.pi * x))


@wrong("linear_mu", "value")
def _(step, steps, warmup_steps, high, low):
    start = warmup_steps - 1
    if step <= start:
        return high
    return high - (high - low) * (step - start) / (steps - 1 - start)


# ------------------------------------------------------------------ leaks
@wrong("leaks", "text compared")
def _(training, validation):
    shared = set(training) & set(validation)
    return sorted("-".join(sorted(p.split(), key=int)) for p in shared)


@wrong("leaks", "sorted as text")
def _(training, validation):
    a = {"-".join(sorted(p.split())) for p in training}
    return sorted(a & {"-".join(sorted(p.split())) for p in validation})


@wrong("leaks", "repeated")
def _(training, validation):
    def name(p):
        return "-".join(str(c) for c in sorted(map(int, p.split())))

    seen = [name(p) for p in training]
    return sorted(name(p) for p in validation if name(p) in seen)


@wrong("leaks", "sets of cards")
def _(training, validation):
    def hands(prompts):
        return {tuple(sorted({int(c) for c in p.split()})) for p in prompts}

    return sorted("-".join(map(str, h)) for h in hands(training) & hands(validation))


@wrong("leaks", "other")
def _(training, validation):
    a = {"-".join(sorted(p.split(), key=int)) for p in training}
    return sorted({"-".join(sorted(p.split(), key=int)) for p in validation} - a)


@wrong("leaks", "all names")
def _(training, validation):
    return sorted({"-".join(sorted(p.split(), key=int)) for p in training + validation})


@wrong("leaks", "other")
def _(training, validation):
    hands = {tuple(sorted(p.split(), key=int)) for p in validation}
    return sorted(
        {p.replace(" ", "-") for p in training if tuple(sorted(p.split(), key=int)) in hands}
    )


@wrong("leaks", "other")
def _(training, validation):
    def name(p):
        return "-".join(sorted(p.replace(" ", "")))

    return sorted({name(p) for p in training} & {name(p) for p in validation})


# ------------------------------------------------------------------ paired_interval
@wrong("paired_interval", "population spread")
def _(a, b, t_value):
    d = np.array(a) - np.array(b)
    half = t_value * d.std() / math.sqrt(len(d))
    return float(d.mean()), float(d.mean() - half), float(d.mean() + half)


@wrong("paired_interval", "unpaired")
def _(a, b, t_value):
    n, mean = len(a), float(np.mean(a) - np.mean(b))
    half = t_value * math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / n)
    return mean, mean - half, mean + half


@wrong("paired_interval", "no root of n")
def _(a, b, t_value):
    d = [x - y for x, y in zip(a, b, strict=True)]
    mean = sum(d) / len(d)
    sd = math.sqrt(sum((x - mean) ** 2 for x in d) / (len(d) - 1))
    return mean, mean - t_value * sd, mean + t_value * sd


@wrong("paired_interval", "wrong way round")
def _(a, b, t_value):
    d = torch.tensor(b, dtype=torch.float64) - torch.tensor(a, dtype=torch.float64)
    mean, half = d.mean().item(), t_value * d.std().item() / len(d) ** 0.5
    return mean, mean - half, mean + half


@wrong("paired_interval", "normal quantile")
def _(a, b, t_value):
    d = np.subtract(a, b)
    half = 1.96 * d.std(ddof=1) / np.sqrt(d.size)
    return float(d.mean()), float(d.mean() - half), float(d.mean() + half)


@wrong("paired_interval", "value")
def _(a, b, t_value):
    d = np.asarray(a) - np.asarray(b)
    half = float(t_value * d.std(ddof=1) / np.sqrt(len(d) - 1))
    return float(d.mean()), float(d.mean()) - half, float(d.mean()) + half


@wrong("paired_interval", "value")
def _(a, b, t_value):
    d = np.asarray(a) - np.asarray(b)
    mean, half = float(d.mean()), float(t_value * d.std(ddof=1) / math.sqrt(len(d)))
    return mean, mean + half, mean - half


@wrong("diagnosis", "sign and leak")
def _():
    return {
        "A": "mean of means", "B": "reversed meta sign", "C": "leaking validation",
        "D": "stale gradient",
    }  # fmt: skip


@wrong("diagnosis", "leak and stale")
def _():
    order = ["mean of means", "stale gradient", "reversed meta sign", "leaking validation"]
    return dict(zip("ABCD", order, strict=True))


@wrong("diagnosis", "means and stale")
def _():
    order = ["stale gradient", "leaking validation", "reversed meta sign", "mean of means"]
    return dict(zip("ABCD", order, strict=True))


@wrong("diagnosis", "sign and stale")
def _():
    order = ["mean of means", "leaking validation", "stale gradient", "reversed meta sign"]
    return {run: bug for run, bug in zip("ABCD", order, strict=True)}


# ------------------------------------------------------------------ phi_weight
@wrong("phi_weight", "stretched to one")
def _(p):
    return 1 - (2 * p - 1) ** 2


@wrong("phi_weight", "only p")
def _(p):
    return torch.where(p < 1, p, 0.0)


@wrong("phi_weight", "only 1 - p")
def _(p):
    return torch.ones_like(p) - p


@wrong("phi_weight", "entropy")
def _(p):
    return -(p * torch.log(p) + (1 - p) * torch.log(1 - p))


@wrong("phi_weight", "root")
def _(p):
    return torch.distributions.Bernoulli(probs=p).stddev


@wrong("phi_weight", "shares")
def _(p):
    omega = p - p**2
    return omega / omega.sum(-1, keepdim=True)


@wrong("phi_weight", "exponential")
def _(logps):
    p = torch.exp(logps)
    return p - p**2


@wrong("phi_weight", "zero")
def _(p):
    return p * 1 - p


@wrong("phi_weight", "value")
def _(p):
    return p * (1 - p) ** 2


@wrong("phi_weight", "shape")
def _(p):
    return (p * (1 - p)).mean()


@wrong("phi_weight", "changes its input")
def _(p):
    p *= 1 - p
    return p


@wrong("phi_weight", "raises")
def _(p):
    return p(1 - p)


# ------------------------------------------------------------------ few_right
@wrong("few_right", "strict")
def _(rewards, threshold):
    return torch.tensor([sum(row) / len(row) < threshold for row in rewards.tolist()])


@wrong("few_right", "value")
def _(rewards, threshold):
    return rewards.sum(1) <= round(threshold * rewards.shape[1])


@wrong("few_right", "reversed")
def _(rewards, threshold):
    return ~(rewards.float().mean(dim=-1) <= threshold)


@wrong("few_right", "at least")
def _(rewards, threshold):
    return torch.tensor([float(row.mean()) >= threshold for row in rewards])


@wrong("few_right", "any right")
def _(rewards, threshold):
    return rewards.bool().any(dim=1)


@wrong("few_right", "none right")
def _(rewards, threshold):
    return rewards.amax(1) < 0.5


@wrong("few_right", "count")
def _(rewards, threshold):
    return torch.tensor([int((row == 1).sum()) <= threshold for row in rewards])


@wrong("few_right", "wrong axis")
def _(rewards, threshold):
    return rewards.mean(dim=0) <= threshold


@wrong("few_right", "whole batch")
def _(rewards, threshold):
    share = rewards.mean()
    return torch.tensor([bool(share <= threshold) for _ in rewards])


@wrong("few_right", "share of wrong")
def _(rewards, threshold):
    return (rewards == 0).double().mean(1) <= threshold


@wrong("few_right", "shape")
def _(rewards, threshold):
    return rewards.mean() <= threshold


@wrong("few_right", "shape")
def _(rewards, threshold):
    return (rewards.mean(1) <= threshold).nonzero().flatten()


@wrong("few_right", "shape")
def _(rewards, threshold):
    return rewards.mean(1, keepdim=True) <= threshold


@wrong("few_right", "raises")
def _(rewards, threshold):
    return [row.mean() <= threshold for row in rewards[:, :, 0]]


@wrong("few_right", "value")
def _(rewards, threshold):
    return rewards.sum(1) / (rewards.shape[1] - 1) <= threshold


# ------------------------------------------------------------------ joined_advantages
@wrong("joined_advantages", "baseline without it")
def _(rewards, expert_reward):
    mean = sum(rewards.tolist()) / len(rewards)
    return [x - mean for x in rewards.tolist()], expert_reward - mean


@wrong("joined_advantages", "mean over K")
def _(rewards, expert_reward):
    total = expert_reward
    for r in rewards:
        total += r.item()
    baseline = total / rewards.numel()
    return rewards - baseline, expert_reward - baseline


@wrong("joined_advantages", "reward itself")
def _(rewards, expert_reward):
    group = torch.cat([rewards, rewards.new_tensor([expert_reward])])
    return rewards - group.mean(), 1.0


@wrong("joined_advantages", "two baselines")
def _(rewards, expert_reward):
    k = len(rewards)
    mean = rewards.mean()
    return rewards - mean, float(expert_reward - (k * mean + expert_reward) / (k + 1))


@wrong("joined_advantages", "divided by the spread")
def _(rewards, expert_reward):
    group = torch.tensor([*rewards.tolist(), expert_reward], dtype=rewards.dtype)
    scaled = (group - group.mean()) / (group.std() + 1e-4)
    return scaled[:-1], scaled[-1].item()


@wrong("joined_advantages", "bare spread")
def _(rewards, expert_reward):
    group = np.append(rewards.numpy(), expert_reward)
    scaled = (group - group.mean()) / (group.std(ddof=1) + 1e-8)
    return scaled[:-1], scaled[-1]


@wrong("joined_advantages", "mean of the others")
def _(rewards, expert_reward):
    group = [*rewards.tolist(), expert_reward]
    out = [x - (sum(group) - x) / (len(group) - 1) for x in group]
    return out[:-1], out[-1]


@wrong("joined_advantages", "demonstration first")
def _(rewards, expert_reward):
    group = torch.tensor([expert_reward, *rewards.tolist()], dtype=torch.float64)
    *a, e = (group - group.mean()).tolist()
    return a, e


@wrong("joined_advantages", "sign")
def _(rewards, expert_reward):
    mean = (rewards.sum() + expert_reward) / (len(rewards) + 1)
    return mean - rewards, float(mean - expert_reward)


@wrong("joined_advantages", "not parted")
def _(rewards, expert_reward):
    group = torch.cat([rewards, rewards.new_full((1,), expert_reward)])
    return group - group.mean()


@wrong("joined_advantages", "value")
def _(rewards, expert_reward):
    mean = (rewards.mean() + expert_reward) / 2
    return rewards - mean, expert_reward - mean


@wrong("joined_advantages", "shape")
def _(rewards, expert_reward):
    group = torch.cat([rewards, rewards.new_tensor([expert_reward])])
    group = group - group.mean()
    return group[:-1], group[-1:]


@wrong("joined_advantages", "raises")
def _(rewards, expert_reward):
    group = torch.cat([rewards, expert_reward])
    return group[:-1] - group.mean(), group[-1] - group.mean()


@wrong("joined_advantages", "changes its input")
def _(rewards, expert_reward):
    mean = (rewards.sum() + expert_reward) / (len(rewards) + 1)
    rewards -= mean
    return rewards, expert_reward - mean


# ------------------------------------------------------------------ token_agreement
@wrong("token_agreement", "standard deviation")
def _(rise):
    spread = torch.std(rise)
    return 0.0 if spread == 0 else (rise.mean() / spread).item()


@wrong("token_agreement", "standard deviation")
def _(rise):
    return float(np.mean(rise.numpy()) / (np.std(rise.numpy(), ddof=1) + 1e-12))


@wrong("token_agreement", "population spread")
def _(rise):
    x = rise.numpy()
    return float(x.mean() / x.std()) if x.std() > 0 else 0.0


@wrong("token_agreement", "mean absolute value")
def _(rise):
    size = sum(abs(x) for x in rise.tolist())
    return sum(rise.tolist()) / size if size else 0.0


@wrong("token_agreement", "signs")
def _(rise):
    up, down = (rise > 0).sum(), (rise < 0).sum()
    return float(up - down) / len(rise)


@wrong("token_agreement", "sum")
def _(rise):
    rms = rise.square().mean().sqrt().item()
    return sum(rise.tolist()) / rms if rms > 0 else 0.0


@wrong("token_agreement", "sum over norm")
def _(rise):
    return F.normalize(rise, dim=0).sum().item()


@wrong("token_agreement", "norm")
def _(rise):
    norm = torch.linalg.vector_norm(rise)
    return rise.mean() / norm if norm > 0 else torch.tensor(0.0)


@wrong("token_agreement", "no root")
def _(rise):
    squares = (rise * rise).mean()
    return float(rise.mean() / squares) if squares else 0.0


@wrong("token_agreement", "not divided")
def _(rise):
    return sum(rise.tolist()) / len(rise)


@wrong("token_agreement", "sign lost")
def _(rise):
    squares = rise.square().mean()
    return (rise.mean() ** 2 / squares).sqrt().item() if squares > 0 else 0.0


@wrong("token_agreement", "zero over zero")
def _(rise):
    return rise.mean() / torch.sqrt(torch.mean(rise**2))


@wrong("token_agreement", "value")
def _(rise):
    most = rise.abs().max()
    return float(rise.mean() / most) if most > 0 else 0.0


@wrong("token_agreement", "value")
def _(rise):
    return float(rise.mean() / (rise.square().mean().sqrt() + 0.01))


@wrong("token_agreement", "shape")
def _(rise):
    rms = rise.square().mean().sqrt()
    return rise / rms if rms > 0 else torch.zeros_like(rise)


@wrong("token_agreement", "raises")
def _(rise):
    rms = math.sqrt(sum(x * x for x in rise.tolist()) / len(rise))
    return sum(rise.tolist()) / len(rise) / rms


@wrong("token_agreement", "raises")
def _(rise):
    return (rise.mean() / math.sqrt(rise**2)).item()


# ------------------------------------------------------------------ regret
@wrong("regret", "best on average")
def _(values):
    means = [sum(row) / len(row) for row in values]
    return [max(means) - m for m in means]


@wrong("regret", "distance to the mean")
def _(values):
    v = np.array(values)
    return list((v.mean(axis=0) - v).mean(axis=1))


@wrong("regret", "worst case")
def _(values):
    best = [max(column) for column in zip(*values, strict=True)]
    return [max(b - x for b, x in zip(best, row, strict=True)) for row in values]


@wrong("regret", "sign")
def _(values):
    v = np.array(values)
    return np.mean(v - v.max(axis=0), axis=-1)


@wrong("regret", "best regime")
def _(values):
    return [sum(max(row) - x for x in row) / len(row) for row in values]


@wrong("regret", "one a regime")
def _(values):
    return [max(c) - sum(c) / len(c) for c in zip(*values, strict=True)]


@wrong("regret", "sum")
def _(values):
    out = []
    for row in values:
        lost = 0.0
        for r, x in enumerate(row):
            lost += max(other[r] for other in values) - x
        out.append(lost)
    return out


@wrong("regret", "best of all")
def _(values):
    v = np.asarray(values)
    return (np.max(v) - v).mean(1)


@wrong("regret", "above the worst")
def _(values):
    worst = [min(column) for column in zip(*values, strict=True)]
    return [sum(x - w for x, w in zip(row, worst, strict=True)) / len(row) for row in values]


@wrong("regret", "value")
def _(values):
    v = np.asarray(values)
    return (v.max(axis=0) - v).mean(axis=1) / v.max(axis=0).mean()


@wrong("regret", "value")
def _(values):
    v = np.asarray(values)
    others = [np.delete(v, c, axis=0).max(axis=0) for c in range(len(v))]
    return (np.array(others) - v).mean(axis=1)


@wrong("regret", "value")
def _(values):
    out = []
    for row in values:
        lost = [max(other[r] for other in values) - row[r] for r in range(1, len(row))]
        out.append(sum(lost) / len(lost))
    return out


@wrong("regret", "shape")
def _(values):
    v = torch.tensor(values)
    return v.max(0).values - v


@wrong("regret", "shape")
def _(values):
    v = torch.tensor(values)
    return (v.amax(0) - v).mean().item()


@wrong("regret", "raises")
def _(values):
    best = values.max(0).values
    return (best - values).mean(1).tolist()


@wrong("regret", "raises")
def _(values):
    for r in range(len(values[0])):
        best = max(row[r] for row in values)
        for row in values:
            row[r] = best - row[r]
    return [sum(row) / len(row) for row in values]


@wrong("regret", "no result")
def _(values):
    best = np.max(values, axis=0)
    print(*(np.mean(best - np.array(row)) for row in values), file=io.StringIO())


# ------------------------------------------------------------------ holm
@wrong("holm", "Bonferroni")
def _(p_values):
    return [min(1.0, p * len(p_values)) for p in p_values]


@wrong("holm", "Benjamini-Hochberg")
def _(p_values):
    from scipy.stats import false_discovery_control

    return false_discovery_control(p_values)


@wrong("holm", "Hochberg")
def _(p_values):
    p = np.array(p_values)
    order = np.argsort(-p, kind="stable")
    out = np.empty(len(p))
    out[order] = np.minimum.accumulate(p[order] * np.arange(1, len(p) + 1)).clip(max=1)
    return out


@wrong("holm", "not monotone")
def _(p_values):
    ranks = np.argsort(np.argsort(p_values, kind="stable"), kind="stable")
    return np.minimum(1, (len(p_values) - ranks) * np.array(p_values))


@wrong("holm", "not monotone")
def _(p_values):
    out, left = [0.0] * len(p_values), len(p_values)
    for i in sorted(range(len(p_values)), key=p_values.__getitem__):
        out[i] = left * p_values[i]
        left -= 1
    return out


@wrong("holm", "not capped")
def _(p_values):
    p, order = torch.tensor(p_values).sort(stable=True)
    found = (p * torch.arange(len(p), 0, -1)).cummax(0).values
    return torch.empty_like(p).scatter(0, order, found)


@wrong("holm", "sorted order")
def _(p_values):
    p = np.sort(p_values)
    return np.minimum(1, np.maximum.accumulate(p * np.arange(len(p), 0, -1))).tolist()


@wrong("holm", "sorted order")
def _(p_values):
    order = np.argsort(p_values)
    p = np.array(p_values)[order]
    found = np.minimum(1, np.maximum.accumulate(p * np.arange(len(p), 0, -1)))
    return [found[i] for i in range(len(p))]


@wrong("holm", "factors reversed")
def _(p_values):
    out, running = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, i in enumerate(order, start=1):
        running = max(running, rank * p_values[i])
        out[i] = min(1.0, running)
    return out


@wrong("holm", "off by one")
def _(p_values):
    out, running, m = [0.0] * len(p_values), 0.0, len(p_values)
    order = sorted(range(m), key=lambda i: p_values[i])
    for rank, i in enumerate(order, start=1):
        running = max(running, (m - rank) * p_values[i])
        out[i] = min(1.0, running)
    return out


@wrong("holm", "not adjusted")
def _(p_values):
    return np.minimum(1.0, p_values)


@wrong("holm", "value")
def _(p_values):
    m, order = len(p_values), np.argsort(p_values)
    out = np.empty(m)
    out[order] = np.arange(m, 0, -1) * np.array(p_values)[order]
    return np.minimum(1, np.maximum.accumulate(out))  # in the given order, not the sorted one


@wrong("holm", "value")
def _(p_values):
    m, order = len(p_values), np.argsort(p_values)
    p = np.array(p_values)[order]
    found = np.minimum(1, np.maximum.accumulate(p * np.arange(m, 0, -1)))
    return found[order]  # the permutation where its inverse is meant


@wrong("holm", "value")
def _(p_values):
    p = sorted(p_values)
    return [min(1.0, max((len(p) - k) * q for k, q in enumerate(p[: p.index(x)]))) if p.index(x)
            else min(1.0, len(p) * x) for x in p_values]  # fmt: skip


@wrong("holm", "value")
def _(p_values):
    m, order = len(p_values), np.argsort(p_values)
    rejected, out = True, [False] * len(p_values)
    for k, i in enumerate(order):
        rejected = rejected and p_values[i] <= 0.05 / (m - k)
        out[i] = rejected
    return out


@wrong("holm", "raises")
def _(p_values):
    p_values.sort()
    return [min(1.0, (len(p_values) - k) * p) for k, p in enumerate(p_values)]


@wrong("holm", "raises")
def _(p_values):
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    return [max(p_values[i] * (len(order) - k) for k, i in enumerate(order[:n]))
            for n in range(len(order))]  # fmt: skip


# ------------------------------------------------------------------ whole_batch_gradient
@wrong("whole_batch_gradient", "mean of means")
def _(grads, counts):
    return sum(grads) / len(counts)


@wrong("whole_batch_gradient", "not divided")
def _(grads, counts):
    total = torch.zeros_like(grads[0])
    for g, n in zip(grads, counts, strict=True):
        total += n * g
    return total


@wrong("whole_batch_gradient", "sum")
def _(grads, counts):
    return torch.einsum("mn->n", grads)


@wrong("whole_batch_gradient", "divided by micro-batches")
def _(grads, counts):
    return torch.stack([g * n for g, n in zip(grads, counts, strict=True)]).mean(0)


@wrong("whole_batch_gradient", "weights inverted")
def _(grads, counts):
    share = (1.0 / counts) / (1.0 / counts).sum()
    return share.to(grads.dtype) @ grads


@wrong("whole_batch_gradient", "divided twice")
def _(grads, counts):
    weights = counts / counts.sum()
    return (weights[:, None] * grads).mean(dim=0)


@wrong("whole_batch_gradient", "shape")
def _(grads, counts):
    return (grads * counts[:, None]).sum() / counts.sum()


@wrong("whole_batch_gradient", "value")
def _(grads, counts):
    return (grads * counts.sqrt()[:, None]).sum(0) / counts.sqrt().sum()


# ------------------------------------------------------------------ lora_forward
@wrong("lora_forward", "no scale")
def _(x, W, A, B, alpha):
    return F.linear(x, W.detach() + B @ A)


@wrong("lora_forward", "alpha alone")
def _(x, W, A, B, alpha):
    return F.linear(x, W.detach()) + alpha * F.linear(F.linear(x, A), B)


@wrong("lora_forward", "scale upside down")
def _(x, W, A, B, alpha):
    return F.linear(x, W.detach() + A.shape[0] / alpha * (B @ A))


@wrong("lora_forward", "divided by a width")
def _(x, W, A, B, alpha):
    return F.linear(x, W.detach()) + alpha / x.shape[-1] * (x @ A.T @ B.T)


@wrong("lora_forward", "adapter alone")
def _(x, W, A, B, alpha):
    return alpha / B.shape[1] * torch.einsum("ni,ri,or->no", x, A, B)


@wrong("lora_forward", "frozen weight trained")
def _(x, W, A, B, alpha):
    return x @ (W + alpha / A.shape[0] * B @ A).T


@wrong("lora_forward", "input cut off")
def _(x, W, A, B, alpha):
    with torch.no_grad():
        frozen = x @ W.T
    return frozen + alpha / len(A) * (x @ A.T @ B.T)


@wrong("lora_forward", "gradient")
def _(x, W, A, B, alpha):
    return x @ W.detach().T + alpha / len(A) * (x.detach() @ A.T @ B.T)


@wrong("lora_forward", "raises")
def _(x, W, A, B, alpha):
    return x @ W.detach() + alpha / len(A) * (x @ A) @ B


# ------------------------------------------------------------------ int4_round
@wrong("int4_round", "one scale for all")
def _(weights, block):
    step = weights.abs().max() / 7
    return torch.round(weights / step) * step


@wrong("int4_round", "sign of the largest")
def _(weights, block):
    out = []
    for part in weights.split(block):
        step = part.max() / 7
        out.append(torch.round(part / step) * step if step != 0 else part)
    return torch.cat(out)


@wrong("int4_round", "codes")
def _(weights, block):
    blocks = weights.reshape(-1, block)
    step = blocks.abs().max(1, keepdim=True).values.clamp(min=1e-12) / 7
    return torch.round(blocks / step).flatten()


@wrong("int4_round", "cut off")
def _(weights, block):
    blocks = weights.reshape(-1, block)
    step = blocks.abs().max(1, keepdim=True).values.clamp(min=1e-12) / 7
    return ((blocks / step).to(torch.int8) * step).flatten()


@wrong("int4_round", "eight levels a side")
def _(weights, block):
    out = []
    for part in weights.split(block):
        step = part.abs().max() / 8
        out.append((part / step).round() * step if step > 0 else part)
    return torch.cat(out)


@wrong("int4_round", "zero block")
def _(weights, block):
    out = []
    for part in weights.split(block):
        step = part.abs().max() / 7
        out.append((part / step).round() * step)
    return torch.cat(out)


@wrong("int4_round", "eight bits")
def _(weights, block):
    blocks = weights.reshape(-1, block)
    step = blocks.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
    return (torch.round(blocks / step) * step).flatten()


@wrong("int4_round", "standard deviation")
def _(weights, block):
    blocks = weights.reshape(-1, block)
    step = blocks.std(1, keepdim=True).clamp(min=1e-30) / 7
    return (torch.round(blocks / step) * step).flatten()


@wrong("int4_round", "shape")
def _(weights, block):
    blocks = weights.reshape(-1, block)
    step = blocks.abs().amax(1, keepdim=True).clamp(min=1e-30) / 7
    return torch.round(blocks / step) * step


@wrong("int4_round", "value")
def _(weights, block):
    blocks = weights.reshape(-1, block)
    step = 2 * blocks.abs().amax(1, keepdim=True).clamp(min=1e-30) / 15
    return (torch.floor(blocks / step) * step + step / 2).flatten()


# ------------------------------------------------------------------ bits_per_weight
@wrong("bits_per_weight", "single quantisation")
def _(bits, block, outer):
    return (bits * block + 32) / block


@wrong("bits_per_weight", "outer scale forgotten")
def _(bits, block, outer):
    return (bits * block + 8) / block


@wrong("bits_per_weight", "outer counted in weights")
def _(bits, block, outer):
    return bits + 8 / block + 32 / outer


@wrong("bits_per_weight", "both scales kept")
def _(bits, block, outer):
    n = block * outer
    return (n * bits + outer * 32 + 32) / n


@wrong("bits_per_weight", "scales forgotten")
def _(bits, block, outer):
    return float(bits)


@wrong("bits_per_weight", "bytes")
def _(bits, block, outer):
    n = block * outer
    return (n * bits / 8 + outer + 4) / n


@wrong("bits_per_weight", "value")
def _(bits, block, outer):
    return bits + 8 / block + 8 / (block * outer)


# ------------------------------------------------------------------ kv_cache_bytes
@wrong("kv_cache_bytes", "keys alone")
def _(answers, tokens, layers, heads, kv_heads, width, size):
    head = width // heads
    return answers * tokens * layers * kv_heads * head * size


@wrong("kv_cache_bytes", "every head")
def _(answers, tokens, layers, heads, kv_heads, width, size):
    head = width // heads
    return 2 * answers * tokens * layers * heads * head * size


@wrong("kv_cache_bytes", "heads and kv_heads")
def _(answers, tokens, layers, heads, kv_heads, width, size):
    head = width // kv_heads
    return 2 * answers * tokens * layers * heads * head * size


@wrong("kv_cache_bytes", "width for each head")
def _(answers, tokens, layers, heads, kv_heads, width, size):
    return 2 * answers * tokens * layers * kv_heads * width * size


@wrong("kv_cache_bytes", "one layer")
def _(answers, tokens, layers, heads, kv_heads, width, size):
    return 2 * answers * tokens * kv_heads * width // heads * size


@wrong("kv_cache_bytes", "one answer")
def _(answers, tokens, layers, heads, kv_heads, width, size):
    return 2 * tokens * layers * kv_heads * width // heads * size


@wrong("kv_cache_bytes", "numbers")
def _(answers, tokens, layers, heads, kv_heads, width, size):
    return 2 * answers * tokens * layers * kv_heads * width // heads


@wrong("kv_cache_bytes", "bits")
def _(answers, tokens, layers, heads, kv_heads, width, size):
    return 2 * answers * tokens * layers * kv_heads * (width // heads) * size * 8


@wrong("kv_cache_bytes", "value")
def _(answers, tokens, layers, heads, kv_heads, width, size):
    return 2 * answers * tokens**2 * layers * kv_heads * (width // heads) * size


# ------------------------------------------------------------------ next_scale
@wrong("next_scale", "does not grow")
def _(scale, good, finite, interval):
    return (scale, good + 1) if finite else (scale * 0.5, 0)


@wrong("next_scale", "never shrinks")
def _(scale, good, finite, interval):
    if not finite:
        return scale, 0
    good += 1
    return (2 * scale, 0) if good == interval else (scale, good)


@wrong("next_scale", "count kept after overflow")
def _(scale, good, finite, interval):
    if not finite:
        return scale * 0.5, good
    good += 1
    return (2 * scale, 0) if good == interval else (scale, good)


@wrong("next_scale", "count kept after growth")
def _(scale, good, finite, interval):
    good = good + 1 if finite else 0
    if finite and good % interval == 0:
        scale = 2 * scale
    return (scale if finite else scale / 2), good


@wrong("next_scale", "does not grow")
def _(scale, good, finite, interval):
    if not finite:
        return scale * 0.5, 0
    if good == interval:
        return 2 * scale, 0
    return scale, good + 1


@wrong("next_scale", "grows at every step")
def _(scale, good, finite, interval):
    return (scale * 2, 0) if finite else (scale / 2, 0)


@wrong("next_scale", "finite and not")
def _(scale, good, finite, interval):
    if finite:
        return scale / 2, 0
    good += 1
    return (2 * scale, 0) if good == interval else (scale, good)


@wrong("next_scale", "back to one")
def _(scale, good, finite, interval):
    if not finite:
        return 1.0, 0
    good += 1
    return (2 * scale, 0) if good == interval else (scale, good)


@wrong("next_scale", "other")
def _(scale, good, finite, interval):
    if not finite:
        return scale / 10, 0
    good += 1
    return (10 * scale, 0) if good == interval else (scale, good)


@wrong("next_scale", "other")
def _(scale, good, finite, interval):
    return scale * 2 if finite and good + 1 == interval else scale / 2


# ------------------------------------------------------------------ process_loss
@wrong("process_loss", "own mean")
def _(token_losses, mask, all_tokens, processes):
    return token_losses[mask.bool()].mean()


@wrong("process_loss", "world size forgotten")
def _(token_losses, mask, all_tokens, processes):
    return token_losses[mask.bool()].sum() / all_tokens


@wrong("process_loss", "divided by processes")
def _(token_losses, mask, all_tokens, processes):
    return token_losses[mask.bool()].sum() / processes / all_tokens


@wrong("process_loss", "sum")
def _(token_losses, mask, all_tokens, processes):
    return torch.where(mask.bool(), token_losses, 0.0).sum()


@wrong("process_loss", "own mean, shared out")
def _(token_losses, mask, all_tokens, processes):
    return token_losses[mask.bool()].mean() / processes


@wrong("process_loss", "mean over answers")
def _(token_losses, mask, all_tokens, processes):
    return (token_losses * mask).sum(1).mean()


@wrong("process_loss", "mask ignored")
def _(token_losses, mask, all_tokens, processes):
    return token_losses.sum() / (all_tokens / processes)


@wrong("process_loss", "no gradient")
def _(token_losses, mask, all_tokens, processes):
    return (token_losses * mask).sum().item() / (all_tokens / processes)


@wrong("process_loss", "value")
def _(token_losses, mask, all_tokens, processes):
    own = (token_losses * mask).sum() / mask.sum()
    return own * processes / all_tokens


# ------------------------------------------------------------------ graded


# misconception: the last fault found sets the price, not the first
@wrong("graded", "last fault")
def _(cards_right, form_right, values_right, value, target):
    reward = 5.0
    if not cards_right:
        reward = -1.5
    if not form_right:
        reward = -3.0
    if not values_right:
        reward = -1.5
    if value != target:
        reward = -1.0
    return reward


# misconception: the prices of all faults add up
@wrong("graded", "added up")
def _(cards_right, form_right, values_right, value, target):
    cost = (
        1.5 * (not cards_right)
        + 3.0 * (not form_right)
        + 1.5 * (not values_right)
        + 1.0 * (value != target)
    )
    return 5.0 if cost == 0 else -cost


# misconception: whoever hits the target is right, whatever the cards, form and values
@wrong("graded", "target first")
def _(cards_right, form_right, values_right, value, target):
    if value == target:
        return 5.0
    if not cards_right:
        return -1.5
    if not form_right:
        return -3.0
    if not values_right:
        return -1.5
    return -1.0


# misconception: the worst fault counts, not the first
@wrong("graded", "form first")
def _(cards_right, form_right, values_right, value, target):
    checks = [
        (cards_right, -1.5),
        (form_right, -3.0),
        (values_right, -1.5),
        (value == target, -1.0),
    ]
    return min([price for ok, price in checks if not ok], default=5.0)


# misconception: an answer is right as soon as form, values and result are, even with other cards
@wrong("graded", "target first")
def _(cards_right, form_right, values_right, value, target):
    if form_right and values_right and value == target:
        return 5.0
    if not cards_right:
        return -1.5
    if not form_right:
        return -3.0
    return -1.5 if not values_right else -1.0


# misconception: the values are judged before the form
@wrong("graded", "other")
def _(cards_right, form_right, values_right, value, target):
    if not cards_right or not values_right:
        return -1.5
    if not form_right:
        return -3.0
    return 5.0 if value == target else -1.0


# misconception: a wrong result costs its distance from the target
@wrong("graded", "other")
def _(cards_right, form_right, values_right, value, target):
    if not cards_right:
        return -1.5
    if not form_right:
        return -3.0
    if not values_right:
        return -1.5
    if value != target:
        return -1.0 * abs(value - target)
    return 5.0


# misconception: the price is taken off the 5 points instead of being the reward
@wrong("graded", "other")
def _(cards_right, form_right, values_right, value, target):
    for ok, price in (
        (cards_right, 1.5),
        (form_right, 3.0),
        (values_right, 1.5),
        (value == target, 1.0),
    ):
        if not ok:
            return 5.0 - price
    return 5.0


# misconception: right cards, form and values are enough, the result needs no check of its own
@wrong("graded", "target ignored")
def _(cards_right, form_right, values_right, value, target):
    if cards_right and form_right and values_right:
        return 5.0
    if not cards_right:
        return -1.5
    return -3.0 if not form_right else -1.5


# ------------------------------------------------------------------ eye_features


# misconception: the channels of all convolutions reach the linear layer
@wrong("eye_features", "all channels")
def _(height, width, channels):
    for _c in channels:
        height, width = height // 2, width // 2
    return sum(channels) * height * width


# misconception: every convolution multiplies the number of channels
@wrong("eye_features", "channels multiplied")
def _(height, width, channels):
    numbers = 1
    for c in channels:
        numbers *= c
        height //= 2
        width //= 2
    return numbers * height * width


# misconception: one pooling at the end, not one after each convolution
@wrong("eye_features", "halved once")
def _(height, width, channels):
    return channels[-1] * (height // 2) * (width // 2)


# misconception: no pooling after the last convolution
@wrong("eye_features", "last not halved")
def _(height, width, channels):
    for _c in channels[:-1]:
        height //= 2
        width //= 2
    return channels[-1] * height * width


# misconception: halving both sides halves the area
@wrong("eye_features", "one side")
def _(height, width, channels):
    return channels[-1] * (height * width // 2 ** len(channels))


# misconception: the area is divided by four and rounded, not each side
@wrong("eye_features", "value")
def _(height, width, channels):
    area = height * width
    for _c in channels:
        area = area // 4
    return channels[-1] * area


# misconception: an odd side is rounded up
@wrong("eye_features", "rounded up")
def _(height, width, channels):
    for _c in channels:
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    return channels[-1] * height * width


# misconception: round() always rounds down at one half
@wrong("eye_features", "rounded up")
def _(height, width, channels):
    for _c in channels:
        height, width = round(height / 2), round(width / 2)
    return channels[-1] * height * width


# misconception: the channels of the first convolution count, not those of the last
@wrong("eye_features", "first channels")
def _(height, width, channels):
    n = len(channels)
    return channels[0] * (height // 2**n) * (width // 2**n)


# ------------------------------------------------------------------ put_pictures_in


# misconception: every place gets a picture, the later ones the last picture again
@wrong("put_pictures_in", "too many")
def _(words, ids, pictures, token):
    n = pictures.shape[1]
    if n == 0:
        return words.clone()
    places = ids == token
    which = (places.cumsum(1) - 1).clamp(0, n - 1)
    filled = pictures.gather(1, which[..., None].expand(-1, -1, pictures.shape[-1]))
    return torch.where(places[..., None], filled, words)


# misconception: the pictures fill the last n places of a row
@wrong("put_pictures_in", "last places")
def _(words, ids, pictures, token):
    n = pictures.shape[1]
    out = words.clone()
    for b in range(len(ids)):
        places = (ids[b] == token).nonzero()[:, 0]
        out[b, places[len(places) - n :]] = pictures[b]
    return out


# misconception: the places may be counted through the whole batch instead of per row
@wrong("put_pictures_in", "whole batch")
def _(words, ids, pictures, token):
    B, n, d = pictures.shape
    out = words.reshape(-1, d).clone()
    places = (ids.reshape(-1) == token).nonzero()[:, 0]
    out[places[: B * n]] = pictures.reshape(-1, d)
    return out.view_as(words)


# misconception: all rows have their places where the first row has them
@wrong("put_pictures_in", "first row's places")
def _(words, ids, pictures, token):
    places = (ids[0] == token).nonzero()[:, 0][: pictures.shape[1]]
    out = words.clone()
    out[:, places] = pictures
    return out


# misconception: the places of a row lie next to each other, so the first one is enough
@wrong("put_pictures_in", "side by side")
def _(words, ids, pictures, token):
    n = pictures.shape[1]
    out = words.clone()
    for b in range(len(ids)):
        start = int((ids[b] == token).int().argmax())
        out[b, start : start + n] = pictures[b]
    return out


# misconception: a safe copy is detach().clone(), which cuts the gradient to the words
@wrong("put_pictures_in", "gradient")
def _(words, ids, pictures, token):
    out = words.detach().clone()
    for b in range(len(ids)):
        places = (ids[b] == token).nonzero()[:, 0][: pictures.shape[1]]
        out[b, places] = pictures[b]
    return out


# misconception: .data only fetches the values, but it cuts the gradient to the pictures
@wrong("put_pictures_in", "gradient")
def _(words, ids, pictures, token):
    places = ids == token
    places = places & (places.cumsum(1) <= pictures.shape[1])
    return words.masked_scatter(places[..., None], pictures.data)


# misconception: a place used may be crossed off in ids itself, which changes the input
@wrong("put_pictures_in", "changes its input")
def _(words, ids, pictures, token):
    out = words.clone()
    for b in range(len(ids)):
        for k in range(pictures.shape[1]):
            p = (ids[b] == token).nonzero()[0, 0]
            out[b, p] = pictures[b, k]
            ids[b, p] = -1
    return out


# misconception: no_grad is the cure for the in-place error, so words is overwritten itself
@wrong("put_pictures_in", "changes its input")
def _(words, ids, pictures, token):
    with torch.no_grad():
        for b in range(len(ids)):
            places = (ids[b] == token).nonzero()[:, 0][: pictures.shape[1]]
            words[b, places] = pictures[b]
    return words


# ------------------------------------------------------------------ confusion


# misconception: the rows are what was read, the columns what was shown
@wrong("confusion", "turned")
def _(shown, read, kinds):
    counts = torch.zeros(kinds, kinds)
    for s, r in zip(shown.tolist(), read.tolist(), strict=True):
        counts[r, s] += 1
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


# misconception: the columns add up to 1, as shares of what was read
@wrong("confusion", "columns sum to one")
def _(shown, read, kinds):
    counts = torch.bincount(shown * kinds + read, minlength=kinds**2).view(kinds, kinds)
    return counts / counts.sum(0, keepdim=True).clamp(min=1)


# misconception: the shares are of all cards, not of the cards that were i
@wrong("confusion", "share of all")
def _(shown, read, kinds):
    counts = torch.zeros(kinds, kinds)
    for s, r in zip(shown.tolist(), read.tolist(), strict=True):
        counts[s, r] += 1
    return counts / max(len(shown), 1)


# misconception: nothing special is needed for a kind never shown (0 / 0 is not 0)
@wrong("confusion", "nan for the unseen")
def _(shown, read, kinds):
    counts = torch.bincount(shown * kinds + read, minlength=kinds**2).view(kinds, kinds)
    return counts / counts.sum(1, keepdim=True)


# misconception: the largest kind that occurs says how many kinds there are
@wrong("confusion", "only kinds that occur")
def _(shown, read, kinds):
    n = max(shown.tolist() + read.tolist(), default=0) + 1
    counts = torch.bincount(shown * n + read, minlength=n * n).view(n, n)
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


# misconception: += with index tensors counts a pair as often as it occurs
@wrong("confusion", "twice is once")
def _(shown, read, kinds):
    counts = torch.zeros(kinds, kinds)
    counts[shown, read] += 1
    return counts / torch.bincount(shown, minlength=kinds).clamp(min=1)[:, None]


# misconception: adding 1 below the line only avoids 0 / 0 and leaves the other rows alone
@wrong("confusion", "one too many")
def _(shown, read, kinds):
    counts = torch.bincount(shown * kinds + read, minlength=kinds**2).view(kinds, kinds)
    return counts / (counts.sum(1, keepdim=True) + 1)


# misconception: without keepdim each row is still divided by its own sum
@wrong("confusion", "keepdim forgotten")
def _(shown, read, kinds):
    counts = torch.bincount(shown * kinds + read, minlength=kinds**2).view(kinds, kinds)
    return counts / counts.sum(1).clamp(min=1)


# misconception: a kind never shown is read as any kind equally often
@wrong("confusion", "other")
def _(shown, read, kinds):
    table = torch.full((kinds, kinds), 1 / kinds)
    for i in range(kinds):
        mine = read[shown == i]
        if len(mine):
            table[i] = torch.bincount(mine, minlength=kinds) / len(mine)
    return table


# ------------------------------------------------------------------ lost_by_reading


# misconception: every hand read less is a hand solved less
@wrong("lost_by_reading", "change in reading")
def _(read_before, right_before, read_after, right_after):
    return read_after - read_before


# misconception: right_before is already the share solved of the hands read
@wrong("lost_by_reading", "not given reading")
def _(read_before, right_before, read_after, right_after):
    return (read_after - read_before) * right_before


# misconception: hands read right are solved as often as in the second group
@wrong("lost_by_reading", "given reading after")
def _(read_before, right_before, read_after, right_after):
    solved = right_after / read_after if read_after else 0.0
    return (read_after - read_before) * solved


# misconception: a loss is a positive number, before minus after
@wrong("lost_by_reading", "sign")
def _(read_before, right_before, read_after, right_after):
    return (read_before - read_after) * right_before / read_before


# misconception: "the part" is a share of the change, between 0 and 1
@wrong("lost_by_reading", "share of the change")
def _(read_before, right_before, read_after, right_after):
    change = right_after - right_before
    explained = (read_after - read_before) * right_before / read_before
    return explained / change if change else 0.0


# misconception: the solving rate is the mean of both groups
@wrong("lost_by_reading", "mean of both")
def _(read_before, right_before, read_after, right_after):
    before = right_before / read_before
    after = right_after / read_after if read_after else 0.0
    return (read_after - read_before) * (before + after) / 2


# misconception: what is left between the expected and the real success is the part of reading
@wrong("lost_by_reading", "the other part")
def _(read_before, right_before, read_after, right_after):
    return right_after - read_after * right_before / read_before


# misconception: the expected success itself is the answer, right_before is not taken off
@wrong("lost_by_reading", "value")
def _(read_before, right_before, read_after, right_after):
    return read_after * right_before / read_before


# misconception: only a loss is possible, a gain by reading counts as 0
@wrong("lost_by_reading", "value")
def _(read_before, right_before, read_after, right_after):
    return min(0.0, (read_after - read_before) * right_before / read_before)


# ------------------------------------------------------------------ turn_word


# misconception: a negative difference is left, whatever its size (as in the original)
@wrong("turn_word", "not wrapped")
def _(before, after):
    turn = after - before
    side = "right" if turn > 0 else "left"
    return "slightly_" + side if abs(turn) <= 45 else side


# misconception: % 360 is all the wrapping that there is
@wrong("turn_word", "always right")
def _(before, after):
    turn = (after - before) % 360
    if turn < 0:
        return "slightly_left" if turn >= -45 else "left"
    return "slightly_right" if turn <= 45 else "right"


# misconception: only differences below -180 need care
@wrong("turn_word", "wrapped on one side")
def _(before, after):
    turn = after - before
    if turn < -180:
        turn += 360
    side = "left" if turn < 0 else "right"
    return side if abs(turn) > 45 else f"slightly_{side}"


# misconception: only differences above 180 need care
@wrong("turn_word", "wrapped on the other side")
def _(before, after):
    turn = after - before
    if turn > 180:
        turn = turn - 360
    side = "left" if turn < 0 else "right"
    return side if abs(turn) > 45 else f"slightly_{side}"


# misconception: headings grow anticlockwise, as angles do in mathematics
@wrong("turn_word", "mirrored")
def _(before, after):
    turn = (after - before + 180) % 360 - 180
    side = "left" if turn > 0 else "right"
    return f"slightly_{side}" if abs(turn) <= 45 else side


# misconception: "up to 45" means less than 45
@wrong("turn_word", "below 45")
def _(before, after):
    turn = (after - before) % 360
    if turn <= 180:
        return "slightly_right" if turn < 45 else "right"
    return "slightly_left" if turn > 315 else "left"


# misconception: a quarter is still slight
@wrong("turn_word", "up to 90")
def _(before, after):
    turn = 180 - (180 - after + before) % 360
    side = "left" if turn < 0 else "right"
    return f"slightly_{side}" if abs(turn) <= 90 else side


# misconception: the usual formula, whose range is [-180, 180)
@wrong("turn_word", "half a circle")
def _(before, after):
    turn = (after - before + 180) % 360 - 180
    side = "left" if turn < 0 else "right"
    return f"slightly_{side}" if abs(turn) <= 45 else side


# misconception: there are two words
@wrong("turn_word", "never slight")
def _(before, after):
    return "right" if (after - before) % 360 <= 180 else "left"


# misconception: the compass word of the new heading is asked for
@wrong("turn_word", "other")
def _(before, after):
    names = "north northeast east southeast south southwest west northwest".split()
    return names[round(after / 45) % 8]


# ------------------------------------------------------------------ side_of

SIDE_WORDS = "front right_front right right_behind behind left_behind left left_front".split()


# misconception: east is always at the right, as on the map
@wrong("side_of", "heading ignored")
def _(heading, bearing):
    return SIDE_WORDS[bearing // 45]


# misconception: the order of the difference does not matter
@wrong("side_of", "mirrored")
def _(heading, bearing):
    return SIDE_WORDS[(heading - bearing) % 360 // 45]


# misconception: turning by the heading means adding it
@wrong("side_of", "added")
def _(heading, bearing):
    return SIDE_WORDS[(bearing + heading) // 45 % 8]


# misconception: abs() makes an index of any difference
@wrong("side_of", "not wrapped")
def _(heading, bearing):
    return SIDE_WORDS[abs(heading - bearing) // 45]


# misconception: the angle between the two is what counts
@wrong("side_of", "shortest angle")
def _(heading, bearing):
    apart = abs(bearing - heading)
    return SIDE_WORDS[min(apart, 360 - apart) // 45]


# misconception: four sides are enough
@wrong("side_of", "four sides")
def _(heading, bearing):
    return ("front", "right", "behind", "left")[(bearing - heading) % 360 // 90]


# misconception: where one looks from, not where one looks to
@wrong("side_of", "front and behind exchanged")
def _(heading, bearing):
    return SIDE_WORDS[(bearing - heading + 180) % 360 // 45]


# misconception: lists begin with 1
@wrong("side_of", "one step on")
def _(heading, bearing):
    number = 1 + (bearing - heading) % 360 // 45
    return SIDE_WORDS[number % 8]


# misconception: the words of turns also say where something lies
@wrong("side_of", "words of turns")
def _(heading, bearing):
    angle = 180 - (180 - bearing + heading) % 360
    side = "left" if angle < 0 else "right"
    return f"slightly_{side}" if abs(angle) <= 45 else side


# ------------------------------------------------------------------ walk_reward

PRICES = {"right": 1.0, "wrong": -1.0, "not_allowed": -1.0, "syntax": -1.0, "wrong_place": -1.5}


# misconception: two faults anywhere end the walk
@wrong("walk_reward", "two faults in all")
def _(outcomes, points, shaped):
    place = faults = 0
    total = 0.0
    for outcome in outcomes:
        total += PRICES[outcome]
        place += outcome == "right"
        faults += outcome != "right"
        if faults == 2 or place == points:
            break
    arrived = faults < 2 and place == points
    return total - (not arrived) if shaped else float(arrived)


# misconception: enough right answers mean arrival
@wrong("walk_reward", "after the end")
def _(outcomes, points, shaped):
    arrived = sum(outcome == "right" for outcome in outcomes) >= points
    if shaped:
        return sum(PRICES[outcome] for outcome in outcomes) - (0 if arrived else 1)
    return 1.0 if arrived else 0.0


# misconception: a fault ends the walk
@wrong("walk_reward", "one try")
def _(outcomes, points, shaped):
    total = place = 0
    for outcome in outcomes:
        total += PRICES[outcome]
        if outcome != "right":
            break
        place += 1
        if place == points:
            break
    return total - (place < points) if shaped else float(place == points)


def simulated(outcomes, points):
    """(attempts until the end, points passed)"""
    used, place, faults = [], 0, 0
    for outcome in outcomes:
        if place == points or faults == 2:
            break
        used.append(outcome)
        faults = 0 if outcome == "right" else faults + 1
        place += outcome == "right"
    return used, place


# misconception: not arriving costs nothing besides
@wrong("walk_reward", "end for free")
def _(outcomes, points, shaped):
    used, place = simulated(outcomes, points)
    return sum(map(PRICES.get, used)) if shaped else float(place == points)


# misconception: the unshaped reward is the share of the way
@wrong("walk_reward", "share of points")
def _(outcomes, points, shaped):
    used, place = simulated(outcomes, points)
    return sum(map(PRICES.get, used)) - (place < points) if shaped else place / points


# misconception: all faults cost the same
@wrong("walk_reward", "same price")
def _(outcomes, points, shaped):
    used, place = simulated(outcomes, points)
    good = used.count("right")
    return good - (len(used) - good) - (place < points) if shaped else float(place == points)


# misconception: losing is -1 where winning is 1
@wrong("walk_reward", "arrival is not success")
def _(outcomes, points, shaped):
    used, place = simulated(outcomes, points)
    if shaped:
        return sum(map(PRICES.get, used)) - (place < points)
    return 1.0 if place == points else -1.0


# misconception: a fault that was mended is forgotten
@wrong("walk_reward", "faults for free")
def _(outcomes, points, shaped):
    used, place = simulated(outcomes, points)
    return used.count("right") - (place < points) if shaped else float(place == points)


# misconception: the last word decides
@wrong("walk_reward", "last attempt")
def _(outcomes, points, shaped):
    used, place = simulated(outcomes, points)
    if shaped:
        return sum(map(PRICES.get, used)) - (place < points)
    return float(len(outcomes) > 0 and outcomes[-1] == "right")


# misconception: the price of not arriving is paid as a bonus for arriving
@wrong("walk_reward", "arrival paid")
def _(outcomes, points, shaped):
    used, place = simulated(outcomes, points)
    return sum(map(PRICES.get, used)) + (place == points) if shaped else float(place == points)


# ------------------------------------------------------------------ dialogue_tokens


# misconception: end-of-text comes once, at the very end
@wrong("dialogue_tokens", "one end")
def _(turns, eos):
    ids, mask = [], []
    for who, said in turns:
        ids.extend(said)
        mask.extend([1 if who == "policy" else 0] * len(said))
    return [*ids, eos], [*mask, 1]


# misconception: end-of-text marks the end of every turn
@wrong("dialogue_tokens", "everyone ends")
def _(turns, eos):
    ids, mask = [], []
    for who, said in turns:
        ids += [*said, eos]
        mask += [int(who == "policy")] * (len(said) + 1)
    return ids, mask


# misconception: end-of-text is punctuation, not something to learn
@wrong("dialogue_tokens", "end not learned")
def _(turns, eos):
    ids, mask = [], []
    for who, said in turns:
        mine = who == "policy"
        ids += said + [eos] * mine
        mask += [int(mine)] * len(said) + [0] * mine
    return ids, mask


# misconception: end-of-text is added elsewhere
@wrong("dialogue_tokens", "no end-of-text")
def _(turns, eos):
    ids = [token for _, said in turns for token in said]
    mask = [int(who == "policy") for who, said in turns for _ in said]
    return ids, mask


# misconception: everything after the prompt is the completion
@wrong("dialogue_tokens", "everything learned")
def _(turns, eos):
    ids = []
    for who, said in turns:
        ids += said + ([eos] if who == "policy" else [])
    return ids, [1] * len(ids)


# misconception: a mask marks what is masked out
@wrong("dialogue_tokens", "turned round")
def _(turns, eos):
    ids, mask = [], []
    for who, said in turns:
        said = [*said, eos] if who == "policy" else said
        ids += said
        mask += [0 if who == "policy" else 1] * len(said)
    return ids, mask


# misconception: the reward comes at the end, so only the last answer is learned from
@wrong("dialogue_tokens", "last answer")
def _(turns, eos):
    last = max(i for i, (who, _) in enumerate(turns) if who == "policy")
    ids, mask = [], []
    for i, (who, said) in enumerate(turns):
        said = [*said, eos] if who == "policy" else said
        ids += said
        mask += [int(i == last)] * len(said)
    return ids, mask


# misconception: what is not learned from need not be there
@wrong("dialogue_tokens", "task left out")
def _(turns, eos):
    ids = []
    for who, said in turns:
        if who == "policy":
            ids += [*said, eos]
    return ids, [1] * len(ids)


# misconception: one number says whose a turn was
@wrong("dialogue_tokens", "one for each turn")
def _(turns, eos):
    ids = []
    for who, said in turns:
        ids += said + [eos] * (who == "policy")
    return ids, [1 if who == "policy" else 0 for who, _ in turns]


# ------------------------------------------------------------------ first_tries


# misconception: accuracy is right attempts over attempts
@wrong("first_tries", "all attempts")
def _(attempts, kinds, kind):
    mine = [right for point, right in attempts if kinds[point] == kind]
    return sum(mine) / len(mine)


# misconception: a dict keeps the first value
@wrong("first_tries", "last attempt")
def _(attempts, kinds, kind):
    first = {point: right for point, right in attempts if kinds[point] == kind}
    return sum(first.values()) / len(first)


# misconception: whoever was right in the end was right
@wrong("first_tries", "last attempt")
def _(attempts, kinds, kind):
    met = {point for point, _ in attempts if kinds[point] == kind}
    return len({p for p, right in attempts if right and p in met}) / len(met)


# misconception: points of the route that were never met were failed
@wrong("first_tries", "points never met")
def _(attempts, kinds, kind):
    seen, right = set(), 0
    for point, good in attempts:
        if point not in seen and kinds[point] == kind:
            right += good
        seen.add(point)
    return right / kinds.count(kind)


# misconception: the kind only chooses what is counted above the line
@wrong("first_tries", "share of all points")
def _(attempts, kinds, kind):
    first = dict(reversed(attempts))
    return sum(right for p, right in first.items() if kinds[p] == kind) / len(first)


# misconception: the kind may be left out
@wrong("first_tries", "all kinds")
def _(attempts, kinds, kind):
    first = dict(reversed(attempts))
    return sum(first.values()) / len(first)


# misconception: first tries above the line, all tries below it
@wrong("first_tries", "rights over attempts")
def _(attempts, kinds, kind):
    first = {p: r for p, r in reversed(attempts) if kinds[p] == kind}
    return sum(first.values()) / sum(kinds[p] == kind for p, _ in attempts)


# misconception: a count is asked for
@wrong("first_tries", "a count")
def _(attempts, kinds, kind):
    first = {p: r for p, r in reversed(attempts) if kinds[p] == kind}
    return float(sum(first.values()))


# misconception: the share of faults is asked for
@wrong("first_tries", "share wrong")
def _(attempts, kinds, kind):
    first = {p: r for p, r in reversed(attempts) if kinds[p] == kind}
    return sum(not r for r in first.values()) / len(first)


# misconception: the first attempt of the whole walk at that kind
@wrong("first_tries", "first of all")
def _(attempts, kinds, kind):
    return float(next(right for point, right in attempts if kinds[point] == kind))


# ------------------------------------------------------------------ route_success


# misconception: accuracy per step is accuracy per turn
@wrong("route_success", "steps for turns")
def _(step_accuracy, straight, turns, tries):
    return (1 - (1 - step_accuracy) ** tries) ** turns


# misconception: every step fails alike
@wrong("route_success", "every step a turn")
def _(step_accuracy, straight, turns, tries):
    passed = 1 - (1 - step_accuracy) ** tries
    return passed ** (straight + turns)


# misconception: the usual argument for compounding errors, without tries
@wrong("route_success", "steps without tries")
def _(step_accuracy, straight, turns, tries):
    return step_accuracy ** (straight + turns)


# misconception: only first tries count
@wrong("route_success", "one try")
def _(step_accuracy, straight, turns, tries):
    p = (step_accuracy * (straight + turns) - straight) / turns
    return p**turns


# misconception: two tries double the chance
@wrong("route_success", "tries multiplied")
def _(step_accuracy, straight, turns, tries):
    p = (step_accuracy * (straight + turns) - straight) / turns
    return (tries * p) ** turns


# misconception: the walk as a whole may be tried again
@wrong("route_success", "whole walks again")
def _(step_accuracy, straight, turns, tries):
    p = (step_accuracy * (straight + turns) - straight) / turns
    return 1 - (1 - p**turns) ** tries


# misconception: all tries must be right
@wrong("route_success", "all tries right")
def _(step_accuracy, straight, turns, tries):
    p = 1 - (1 - step_accuracy) * (straight + turns) / turns
    return (p**tries) ** turns


# misconception: one turn is the route
@wrong("route_success", "one turn")
def _(step_accuracy, straight, turns, tries):
    p = 1 - (1 - step_accuracy) * (straight + turns) / turns
    return 1 - (1 - p) ** tries


# misconception: turn accuracy is the answer
@wrong("route_success", "turn accuracy")
def _(step_accuracy, straight, turns, tries):
    return (step_accuracy * (straight + turns) - straight) / turns


# misconception: the share of turns makes up the difference
@wrong("route_success", "value")
def _(step_accuracy, straight, turns, tries):
    p = step_accuracy * turns / (straight + turns)
    return (1 - (1 - p) ** tries) ** turns
