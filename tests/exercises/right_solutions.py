"""Right solutions that do not look like the obvious one: (exercise, function).

Loops, einsum, other orders of dimensions, other algebra, NumPy where no gradient is asked. Written
from the exercises' texts alone, before anyone had seen a check; only those of notebooks 05
(from `phi_weight` to `holm`) and 07 (from `turn_word`) came from whoever wrote the checks.
"""

import math
from fractions import Fraction
from functools import reduce
from itertools import accumulate
from statistics import mean, stdev

import numpy as np
import torch
import torch.nn.functional as F

RIGHT = []  # (exercise, function)


def right(exercise):
    def keep(fn):
        RIGHT.append((exercise, fn))
        return fn

    return keep


# ------------------------------------------------------------------ sequence_logp
@right("sequence_logp")
def _(logps, mask):
    return torch.einsum("bt,bt->b", logps, mask.to(logps.dtype))


@right("sequence_logp")
def _(logps, mask):
    rows = []
    for row, keep in zip(logps, mask, strict=True):
        rows.append(row[keep.bool()].sum())
    return torch.stack(rows)


@right("sequence_logp")
def _(logps, mask):
    probs = torch.where(mask.bool(), logps, torch.zeros_like(logps)).T.exp()
    return probs.log().cumsum(dim=0)[-1]


# ------------------------------------------------------------------ kl_divergence
@right("kl_divergence")
def _(p, q):
    return torch.xlogy(p, p).sum(-1) - torch.xlogy(p, q).sum(-1)


@right("kl_divergence")
def _(p, q):
    x, y = p.detach().numpy(), q.detach().numpy()
    log_ratio = np.log(np.where(x > 0, x, 1.0)) - np.log(np.where(x > 0, y, 1.0))
    return torch.as_tensor(np.einsum("...v,...v->...", x, log_ratio), dtype=p.dtype)


@right("kl_divergence")
def _(p, q):
    rows = []
    for a, b in zip(p.reshape(-1, p.shape[-1]), q.reshape(-1, p.shape[-1]), strict=True):
        keep = a > 0
        rows.append((a[keep] * (a[keep] / b[keep]).log()).sum())
    return torch.stack(rows).reshape(p.shape[:-1])


# ------------------------------------------------------------------ imitation_reward
@right("imitation_reward")
def _(probs, demonstrated):
    r = torch.zeros_like(probs)
    for b in range(probs.shape[0]):
        y = int(demonstrated[b])
        r[b, y] = 1 / probs[b, y]
    return r


@right("imitation_reward")
def _(probs, demonstrated):
    y = demonstrated.unsqueeze(-1)
    return torch.zeros_like(probs).scatter(-1, y, probs.gather(-1, y).reciprocal())


@right("imitation_reward")
def _(probs, demonstrated):
    hit = torch.arange(probs.shape[-1])[None, :] == demonstrated[:, None]
    return torch.where(hit, torch.exp(-torch.log(probs)), torch.zeros_like(probs))


# ------------------------------------------------------------------ token_rewards
@right("token_rewards")
def _(logps, reference_logps, mask, beta):
    ratio = torch.exp(logps - reference_logps)
    return torch.where(mask.bool(), ratio, torch.ones_like(ratio)).log() * beta


@right("token_rewards")
def _(logps, reference_logps, mask, beta):
    out = torch.zeros_like(logps)
    for b, t in mask.nonzero().tolist():
        out[b, t] = beta * logps[b, t] - beta * reference_logps[b, t]
    return out


@right("token_rewards")
def _(logps, reference_logps, mask, beta):
    gap = logps.sub(reference_logps).mul(beta)
    return gap.masked_fill(~mask.bool(), 0.0)


# ------------------------------------------------------------------ reverse_kl_estimate
@right("reverse_kl_estimate")
def _(logps, reference_logps):
    return torch.expm1(reference_logps - logps) + logps - reference_logps


@right("reverse_kl_estimate")
def _(logps, reference_logps):
    inverse = reference_logps.exp() / logps.exp()
    return inverse - torch.log(inverse) - 1


@right("reverse_kl_estimate")
def _(logps, reference_logps):
    flat = []
    for new, ref in zip(logps.flatten(), reference_logps.flatten(), strict=True):
        d = ref - new
        flat.append(torch.exp(d) - 1 - d)
    return torch.stack(flat).reshape(logps.shape)


# ------------------------------------------------------------------ multiplier
@right("multiplier")
def _(mu):
    return 1.0 / (1.0 - mu) - 1.0


@right("multiplier")
def _(mu):
    return float(Fraction(mu) / (1 - Fraction(mu)))


@right("multiplier")
def _(mu):
    return math.exp(math.log(mu) - math.log1p(-mu)) if mu > 0 else 0.0


# ------------------------------------------------------------------ sft_loss
@right("sft_loss")
def _(logps, mask):
    return logps[mask.bool()].mean().neg()


@right("sft_loss")
def _(logps, mask):
    lengths = mask.to(logps.dtype).sum(1)
    means = (logps * mask).sum(1) / lengths.clamp(min=1)
    return -(means * (lengths / lengths.sum())).sum()


@right("sft_loss")
def _(logps, mask):
    w = mask.to(logps.dtype).flatten()
    return -torch.dot(logps.flatten(), w / w.sum())


@right("sft_loss")
def _(logps, mask):
    total, count = logps.new_zeros(()), 0
    for row, keep in zip(logps, mask.tolist(), strict=True):
        for x, k in zip(row, keep, strict=True):
            if k:
                total, count = total - x, count + 1
    return total / count


# ------------------------------------------------------------------ accumulated_losses
@right("accumulated_losses")
def _(pieces, masks):
    tokens = torch.stack([m.sum() for m in masks]).to(pieces[0].dtype)
    means = torch.stack([-x[m.bool()].mean() for x, m in zip(pieces, masks, strict=True)])
    return means * tokens / tokens.sum()


@right("accumulated_losses")
def _(pieces, masks):
    total = sum(int(m.sum()) for m in masks)
    return [
        -torch.einsum("bt,bt->", x, m.to(x.dtype)) / total
        for x, m in zip(pieces, masks, strict=True)
    ]


@right("accumulated_losses")
def _(pieces, masks):
    mask = torch.cat(list(masks)).to(pieces[0].dtype)
    rows = -(torch.cat(list(pieces)) * mask).sum(1) / mask.sum()
    return [part.sum() for part in rows.split([len(x) for x in pieces])]


# ------------------------------------------------------------------ group_advantages
@right("group_advantages")
def _(rewards, group_size):
    out = []
    for g in rewards.split(group_size):
        centred = g - g.sum() / len(g)
        sd = torch.sqrt((centred * centred).sum() / (len(g) - 1))
        out.append(centred / (sd + 1e-4))
    return torch.cat(out)


@right("group_advantages")
def _(rewards, group_size):
    x = rewards.detach().numpy().reshape(-1, group_size)
    z = (x - x.mean(1, keepdims=True)) / (x.std(1, ddof=1, keepdims=True) + 1e-4)
    return torch.as_tensor(z.ravel(), dtype=rewards.dtype)


@right("group_advantages")
def _(rewards, group_size):
    g = rewards.unfold(0, group_size, group_size).T  # [group_size, prompts]
    return ((g - g.mean(0)) / (g.std(0) + 1e-4)).T.flatten()


# ------------------------------------------------------------------ policy_gradient_loss
@right("policy_gradient_loss")
def _(logps, advantages, mask):
    a = advantages.detach() / len(advantages)
    return -torch.einsum("b,bt,bt->", a, logps, mask.to(logps.dtype))


@right("policy_gradient_loss")
def _(logps, advantages, mask):
    terms = []
    for b in range(logps.shape[0]):
        terms.append(logps[b][mask[b].bool()].sum() * advantages[b].item())
    return -torch.stack(terms).mean()


@right("policy_gradient_loss")
def _(logps, advantages, mask):
    with torch.no_grad():
        weight = -advantages[:, None] * mask / logps.shape[0]
    return (weight * logps).sum(0).sum()


# ------------------------------------------------------------------ ppo_clip_loss
@right("ppo_clip_loss")
def _(logps, old_logps, advantages, mask, clip_range):
    a = advantages.detach().unsqueeze(1)
    r = torch.exp(logps - old_logps.detach())
    up, down = a.clamp(min=0), a.clamp(max=0)
    obj = up * r.clamp(max=1 + clip_range) + down * r.clamp(min=1 - clip_range)
    return -(obj * mask).sum() / mask.sum()


@right("ppo_clip_loss")
def _(logps, old_logps, advantages, mask, clip_range):
    total = logps.new_zeros(())
    for b, t in mask.nonzero().tolist():
        a, r = advantages[b].item(), (logps[b, t] - old_logps[b, t].item()).exp()
        clipped = r.clamp(1 - clip_range, 1 + clip_range)
        total = total - (r * a if (r * a).item() <= (clipped * a).item() else clipped * a)
    return total / mask.sum()


@right("ppo_clip_loss")
def _(logps, old_logps, advantages, mask, clip_range):
    keep = mask.bool()
    a = advantages.detach()[:, None].expand(logps.shape)[keep]
    r = torch.exp(logps[keep] - old_logps[keep].detach())
    return torch.max(-a * r, -a * torch.clip(r, 1 - clip_range, 1 + clip_range)).mean()


@right("ppo_clip_loss")
def _(logps, old_logps, advantages, mask, clip_range):
    a = advantages.detach()[:, None]
    r = torch.exp(logps - old_logps.detach())
    edge = 1 + clip_range * torch.sign(a)
    cut = ((r - edge) * a > 0) | (a == 0)
    return -(torch.where(cut, edge.expand_as(r), r) * a)[mask.bool()].mean()


# ------------------------------------------------------------------ clip_fraction
@right("clip_fraction")
def _(ratio, advantages, mask, clip_range):
    cut = torch.sign(advantages)[:, None] * (ratio - 1) > clip_range
    return cut[mask.bool()].to(ratio.dtype).mean()


@right("clip_fraction")
def _(ratio, advantages, mask, clip_range):
    hits, count = 0, 0
    for b, t in mask.nonzero().tolist():
        r, a = ratio[b, t].item(), advantages[b].item()
        hits += (a > 0 and r > 1 + clip_range) or (a < 0 and r < 1 - clip_range)
        count += 1
    return torch.tensor(hits / count, dtype=ratio.dtype)


@right("clip_fraction")
def _(ratio, advantages, mask, clip_range):
    r = ratio.detach().clone().requires_grad_()
    a = advantages.detach()[:, None]
    obj = torch.min(r * a, r.clamp(1 - clip_range, 1 + clip_range) * a)
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(obj.sum(), r)
    cut = (grad == 0) & (a != 0) & mask.bool()
    return cut.to(ratio.dtype).sum() / mask.sum()


# ------------------------------------------------------------------ gae
@right("gae")
def _(rewards, values, mask, gamma, lam):
    out = torch.zeros_like(rewards)
    for b in range(rewards.shape[0]):
        n = int(mask[b].sum())
        v = [*values[b, :n].tolist(), 0.0]
        delta = [rewards[b, t].item() + gamma * v[t + 1] - v[t] for t in range(n)]
        for t in range(n):
            out[b, t] = sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, n))
    return out


@right("gae")
def _(rewards, values, mask, gamma, lam):
    on = mask.to(rewards.dtype)
    v = values * on
    delta = (rewards - v) * on + gamma * F.pad(v, (0, 1))[:, 1:]
    t = torch.arange(rewards.shape[1])
    lag = t[:, None] - t[None, :]
    decay = torch.where(lag >= 0, (gamma * lam) ** lag.clamp(min=0).to(v.dtype), 0.0)
    return torch.einsum("bs,st->bt", delta, decay.to(v.dtype)) * on


@right("gae")
def _(rewards, values, mask, gamma, lam):
    # lambda return: G_t = r_t + gamma ((1 - lam) V_{t+1} + lam G_{t+1});  A = G - V
    on = mask.bool().T
    r, v = (torch.where(on, x.T, torch.zeros_like(x.T)) for x in (rewards, values))
    ret, nxt, rows = torch.zeros_like(r[0]), torch.zeros_like(r[0]), []
    for r_t, v_t, on_t in zip(r.flip(0), v.flip(0), on.flip(0), strict=True):
        ret = torch.where(on_t, r_t + gamma * ((1 - lam) * nxt + lam * ret), 0 * ret)
        nxt = v_t
        rows.append(ret - v_t)
    return torch.stack(rows[::-1], dim=1)


# ------------------------------------------------------------------ token_entropy
@right("token_entropy")
def _(logits):
    return torch.logsumexp(logits, -1) - (F.softmax(logits, dim=-1) * logits).sum(-1)


@right("token_entropy")
def _(logits):
    return torch.distributions.Categorical(logits=logits).entropy()


@right("token_entropy")
def _(logits):
    e = torch.exp(logits - logits.amax(-1, keepdim=True).detach())
    p = e / e.sum(-1, keepdim=True)
    return torch.special.entr(p).sum(-1)


@right("token_entropy")
def _(logits):
    logp = logits.movedim(-1, 0).log_softmax(0)
    return torch.einsum("v...,v...->...", logp.exp(), logp).neg()


# ------------------------------------------------------------------ mu_gradient
@right("mu_gradient")
def _(grad_utility, grad_sft, grad_rl, lr):
    return lr * (grad_utility @ grad_rl) - lr * (grad_utility @ grad_sft)


@right("mu_gradient")
def _(grad_utility, grad_sft, grad_rl, lr):
    total = grad_utility.new_zeros(())
    for u, s, r in zip(grad_utility, grad_sft, grad_rl, strict=True):
        total = total + u * -lr * (s - r)
    return total


@right("mu_gradient")
def _(grad_utility, grad_sft, grad_rl, lr):
    u, s, r = (x.detach().numpy() for x in (grad_utility, grad_sft, grad_rl))
    return torch.as_tensor(np.einsum("n,n->", u, lr * (r - s)), dtype=grad_rl.dtype)


# ------------------------------------------------------------------ adam_update
@right("adam_update")
def _(grad, m, v, step, lr, beta1, beta2, eps):
    m_new, v_new = torch.lerp(grad, m, beta1), torch.lerp(grad**2, v, beta2)
    root = math.sqrt(1 - beta2**step)
    return -(lr * root / (1 - beta1**step)) * m_new / (v_new.sqrt() + eps * root)


@right("adam_update")
def _(grad, m, v, step, lr, beta1, beta2, eps):
    out = []
    for g, a, b in zip(grad.tolist(), m.tolist(), v.tolist(), strict=True):
        first = (beta1 * a + (1 - beta1) * g) / (1 - beta1**step)
        second = (beta2 * b + (1 - beta2) * g * g) / (1 - beta2**step)
        out.append(-lr * first / (math.sqrt(second) + eps))
    return torch.tensor(out, dtype=grad.dtype)


@right("adam_update")
def _(grad, m, v, step, lr, beta1, beta2, eps):
    theta = torch.nn.Parameter(torch.zeros_like(grad))
    theta.grad = grad.detach().clone()
    opt = torch.optim.Adam([theta], lr=lr, betas=(beta1, beta2), eps=eps)
    opt.state[theta] = {
        "step": torch.tensor(float(step - 1), dtype=torch.float64),
        "exp_avg": m.detach().clone(),
        "exp_avg_sq": v.detach().clone(),
    }
    opt.step()
    return theta.detach()


# ------------------------------------------------------------------ adam_direction
@right("adam_direction")
def _(update, grad_sft, grad_rl, mu, width):
    ends = np.clip([mu - width / 2, mu + width / 2], 0.0, 1.0).tolist()
    down, up = (update(torch.lerp(grad_rl, grad_sft, x)) for x in ends)
    return (up - down) / (ends[1] - ends[0])


@right("adam_direction")
def _(update, grad_sft, grad_rl, mu, width):
    hi = mu + width / 2 if mu + width / 2 < 1 else 1.0
    lo = mu - width / 2 if mu - width / 2 > 0 else 0.0
    both = torch.stack([grad_rl, grad_sft])
    w = both.new_tensor([[1 - lo, lo], [1 - hi, hi]])
    mixed = w @ both
    return update(mixed[1]) / (hi - lo) - update(mixed[0]) / (hi - lo)


# ------------------------------------------------------------------ leave_one_out_advantages
@right("leave_one_out_advantages")
def _(rewards, group_size):
    g = rewards.reshape(-1, group_size)
    return ((g - g.mean(1, keepdim=True)) * group_size / (group_size - 1)).flatten()


@right("leave_one_out_advantages")
def _(rewards, group_size):
    out = []
    for i in range(len(rewards)):
        start = i - i % group_size
        others = torch.cat([rewards[start:i], rewards[i + 1 : start + group_size]])
        out.append(rewards[i] - others.mean())
    return torch.stack(out)


@right("leave_one_out_advantages")
def _(rewards, group_size):
    w = torch.full((group_size, group_size), -1.0 / (group_size - 1), dtype=rewards.dtype)
    w.fill_diagonal_(1.0)
    return torch.einsum("pj,ij->pi", rewards.view(-1, group_size), w).reshape(-1)


# ------------------------------------------------------------------ sign_agreement
@right("sign_agreement")
def _(estimates, reference):
    return (estimates * math.copysign(1.0, reference) > 0).to(torch.float64).mean()


@right("sign_agreement")
def _(estimates, reference):
    hits = sum(1 for x in estimates.tolist() if (x > 0 > -reference) or (x < 0 < -reference))
    return torch.tensor(hits / len(estimates), dtype=torch.float64)


@right("sign_agreement")
def _(estimates, reference):
    same = np.sign(estimates.detach().numpy()) == np.sign(reference)
    return torch.tensor(float(np.count_nonzero(same)) / same.size, dtype=torch.float64)


# ------------------------------------------------------------------ moving_average
@right("moving_average")
def _(values, decay):
    return reduce(lambda a, new: a + (1 - decay) * (new - a), values)


@right("moving_average")
def _(values, decay):
    n = len(values)
    w = [decay ** (n - 1)] + [(1 - decay) * decay ** (n - 1 - i) for i in range(1, n)]
    stacked = torch.stack(list(values))
    return torch.einsum("t,tn->n", stacked.new_tensor(w), stacked)


@right("moving_average")
def _(values, decay):
    return list(accumulate(values, lambda a, new: torch.lerp(new, a, decay)))[-1]


# ------------------------------------------------------------------ entropy_pushes
@right("entropy_pushes")
def _(entropy, target, eta):
    surplus = entropy - target
    return -eta * surplus, eta * surplus


@right("entropy_pushes")
def _(entropy, target, eta):
    printed = eta * target - eta * entropy
    return printed, abs(printed) if entropy > target else -abs(printed)


# ------------------------------------------------------------------ controller_step
@right("controller_step")
def _(mu, signal, eta, max_change, low, high):
    move = eta * signal
    if abs(move) > max_change:
        move = math.copysign(max_change, move)
    return sorted([low, mu + move, high])[1]


@right("controller_step")
def _(mu, signal, eta, max_change, low, high):
    new = np.clip(mu + eta * signal, mu - max_change, mu + max_change)
    return float(np.clip(new, low, high))


@right("controller_step")
def _(mu, signal, eta, max_change, low, high):
    move = torch.tensor(eta * signal, dtype=torch.float64).clamp(-max_change, max_change)
    return (mu + move).clamp(low, high).item()


# ------------------------------------------------------------------ mix
@right("mix")
def _(grad_sft, grad_rl, mu):
    return grad_rl + mu * (grad_sft - grad_rl)


@right("mix")
def _(grad_sft, grad_rl, mu):
    both = torch.stack([grad_sft, grad_rl], dim=1)
    return both @ both.new_tensor([mu, 1 - mu])


@right("mix")
def _(grad_sft, grad_rl, mu):
    pairs = zip(grad_sft, grad_rl, strict=True)
    return torch.stack([mu * s + (1 - mu) * r for s, r in pairs])


# ------------------------------------------------------------------ amft_step
@right("amft_step")
def _(theta, mu, g_sft, g_rl, rule, lr):
    rl, sft = g_rl(theta), g_sft(theta)
    mu = rule(mu, sft, rl)
    return torch.add(theta, torch.lerp(rl, sft, mu), alpha=-lr), mu


@right("amft_step")
def _(theta, mu, g_sft, g_rl, rule, lr):
    grads = [g(theta) for g in (g_sft, g_rl)]
    new_mu = rule(mu, *grads)
    new = theta.clone()
    for weight, grad in zip((new_mu, 1 - new_mu), grads, strict=True):
        new = new - lr * weight * grad
    return new, new_mu


# ------------------------------------------------------------------ clip_by_norm
@right("clip_by_norm")
def _(grad, max_norm):
    n = math.sqrt(sum(x * x for x in grad.tolist()))
    return grad * (max_norm / n) if n > max_norm else grad.clone()


@right("clip_by_norm")
def _(grad, max_norm):
    return grad / torch.clamp(torch.einsum("n,n->", grad, grad).sqrt() / max_norm, min=1)


@right("clip_by_norm")
def _(grad, max_norm):
    n = float(np.linalg.norm(grad.detach().numpy()))
    return grad * min(1.0, max_norm / n if n else 1.0)


# ------------------------------------------------------------------ linear_mu
@right("linear_mu")
def _(step, steps, warmup_steps, high, low):
    return float(np.interp(step, [warmup_steps, steps - 1], [high, low]))


@right("linear_mu")
def _(step, steps, warmup_steps, high, low):
    left = min((steps - 1 - step) / (steps - 1 - warmup_steps), 1.0)
    return left * high + (1 - left) * low


@right("linear_mu")
def _(step, steps, warmup_steps, high, low):
    mu, drop = high, (high - low) / (steps - 1 - warmup_steps)
    for _step in range(warmup_steps, step):
        mu -= drop
    return mu


# ------------------------------------------------------------------ leaks
@right("leaks")
def _(training, validation):
    def key(prompt):
        return tuple(sorted(int(c) for c in prompt.split()))

    seen = {key(p) for p in training}
    names = ["-".join(str(c) for c in k) for k in {key(p) for p in validation} if k in seen]
    return sorted(names)


@right("leaks")
def _(training, validation):
    found = []
    for a in training:
        for b in validation:
            x, y = sorted(a.split(), key=int), sorted(b.split(), key=int)
            if x == y and "-".join(x) not in found:
                found.append("-".join(x))
    found.sort()
    return found


# ------------------------------------------------------------------ paired_interval
@right("paired_interval")
def _(a, b, t_value):
    d = [x - y for x, y in zip(a, b, strict=True)]
    half = t_value * stdev(d) / math.sqrt(len(d))
    return mean(d), mean(d) - half, mean(d) + half


@right("paired_interval")
def _(a, b, t_value):
    a, b, n = np.asarray(a, float), np.asarray(b, float), len(a)
    cov = np.cov(a, b, ddof=1)
    sd = np.sqrt(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1])
    m = a.mean() - b.mean()
    return tuple(float(m + k * t_value * sd / np.sqrt(n)) for k in (0, -1, 1))


@right("paired_interval")
def _(a, b, t_value):
    d = torch.tensor([a, b], dtype=torch.float64).diff(dim=0)[0].neg()
    se = torch.sqrt(d.var(correction=1) / d.numel())
    return d.mean().item(), (d.mean() - t_value * se).item(), (d.mean() + t_value * se).item()


@right("diagnosis")
def _():
    found = {"stale gradient": "D", "reversed meta sign": "C"}
    found |= {"leaking validation": "B", "mean of means": "A"}
    return {run: bug for bug, run in found.items()}


@right("diagnosis")
def _():
    bugs = ("mean of means", "leaking validation", "reversed meta sign", "stale gradient")
    return dict(zip("ABCD", bugs, strict=True))


# ------------------------------------------------------------------ phi_weight
@right("phi_weight")
def _(p):
    return 0.25 - (p - 0.5) ** 2


@right("phi_weight")
def _(p):
    return [x - x * x for x in p.tolist()]


@right("phi_weight")
def _(p):
    return torch.distributions.Bernoulli(probs=p).variance


@right("phi_weight")
def _(p):
    both = np.stack([p.numpy(), 1 - p.numpy()])
    return both.prod(axis=0)


# ------------------------------------------------------------------ few_right
@right("few_right")
def _(rewards, threshold):
    return torch.tensor([row.count(1.0) <= threshold * len(row) for row in rewards.tolist()])


@right("few_right")
def _(rewards, threshold):
    return ~(rewards.T.mean(0) > threshold)


@right("few_right")
def _(rewards, threshold):
    return np.mean(rewards.numpy() == 1, axis=-1) <= threshold


@right("few_right")
def _(rewards, threshold):
    wrong = (rewards == 0).double().mean(1)
    return (wrong >= 1 - threshold).float()


# ------------------------------------------------------------------ joined_advantages
@right("joined_advantages")
def _(rewards, expert_reward):
    k = len(rewards)
    shift = (expert_reward - rewards.mean()) / (k + 1)  # by which the demonstration moves the mean
    return rewards - rewards.mean() - shift, k * shift


@right("joined_advantages")
def _(rewards, expert_reward):
    group = np.append(rewards.numpy(), expert_reward)
    group -= group.mean()
    return group[:-1], group[-1]


@right("joined_advantages")
def _(rewards, expert_reward):
    *rest, last = [*rewards.tolist(), expert_reward]
    m = mean([*rest, last])
    return [x - m for x in rest], last - m


@right("joined_advantages")
def _(rewards, expert_reward):
    group = F.pad(rewards, (0, 1), value=expert_reward)
    n = len(group)
    centre = torch.eye(n, dtype=group.dtype) - 1 / n
    return (centre @ group)[:-1], (centre @ group)[-1].item()


# ------------------------------------------------------------------ token_agreement
@right("token_agreement")
def _(rise):
    return F.cosine_similarity(rise, torch.ones_like(rise), dim=0).item()


@right("token_agreement")
def _(rise):
    total, squares = sum(rise.tolist()), sum(x * x for x in rise.tolist())
    return total / math.sqrt(len(rise) * squares) if squares else 0.0


@right("token_agreement")
def _(rise):
    x = rise.numpy()
    rms = np.hypot(x.mean(), x.std())
    return np.divide(x.mean(), rms, out=np.zeros(()), where=rms > 0)


@right("token_agreement")
def _(rise):
    return torch.nan_to_num(rise.mean() / rise.pow(2).mean().sqrt(), nan=0.0)


@right("token_agreement")
def _(rise):
    rms = (rise**2).mean() ** 0.5
    return (rise / rms.clamp(min=1e-12)).mean()


# ------------------------------------------------------------------ regret
@right("regret")
def _(values):
    best = sum(max(column) for column in zip(*values, strict=True)) / len(values[0])
    return [best - mean(row) for row in values]


@right("regret")
def _(values):
    v = np.asarray(values)
    return (v.max(axis=0, keepdims=True) - v).mean(axis=1)


@right("regret")
def _(values):
    out = []
    for row in values:
        lost = 0.0
        for r in range(len(row)):
            lost += max(max(0.0, other[r] - row[r]) for other in values)
        out.append(lost / len(row))
    return out


@right("regret")
def _(values):
    v = torch.tensor(values)
    return (v[None] - v[:, None]).amax(1).mean(-1)


# ------------------------------------------------------------------ holm
@right("holm")
def _(p_values):
    m = len(p_values)

    def one(p):  # every step up to it, its own included; of equal ones the first counts most
        steps = [q * (m - sum(x < q for x in p_values)) for q in p_values if q <= p]
        return min(1.0, max(steps))

    return [one(p) for p in p_values]


@right("holm")
def _(p_values):
    adjusted, left, least = {}, len(p_values), 0.0
    for i, p in sorted(enumerate(p_values), key=lambda pair: pair[1]):
        least = max(least, min(1.0, left * p))
        adjusted[i] = least
        left -= 1
    return [adjusted[i] for i in range(len(p_values))]


@right("holm")
def _(p_values):
    p = np.array(p_values)
    order = p.argsort()
    steps = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)).clip(max=1.0)
    return steps[order.argsort()]


@right("holm")
def _(p_values):
    p, order = torch.tensor(p_values, dtype=torch.float64).sort()
    found = (p * torch.arange(len(p), 0, -1)).cummax(0).values.clamp(max=1.0)
    return torch.empty_like(found).index_copy(0, order, found)


@right("holm")
def _(p_values):
    m = len(p_values)
    order = sorted(range(m), key=p_values.__getitem__)
    running = accumulate((min(1.0, p_values[i] * (m - k)) for k, i in enumerate(order)), max)
    return [a for _, a in sorted(zip(order, running, strict=True))]


# ------------------------------------------------------------------ whole_batch_gradient
@right("whole_batch_gradient")
def _(grads, counts):
    return (counts.to(grads.dtype) / counts.sum()) @ grads


@right("whole_batch_gradient")
def _(grads, counts):
    mean, seen = torch.zeros_like(grads[0]), 0
    for g, n in zip(grads, counts.tolist(), strict=True):  # a running mean
        seen += n
        mean = mean + (g - mean) * n / seen
    return mean


@right("whole_batch_gradient")
def _(grads, counts):
    return torch.repeat_interleave(grads, counts, dim=0).mean(0)


# ------------------------------------------------------------------ lora_forward
@right("lora_forward")
def _(x, W, A, B, alpha):
    return F.linear(x, W.detach() + alpha / B.shape[1] * B @ A)


@right("lora_forward")
def _(x, W, A, B, alpha):
    frozen = torch.einsum("ni,oi->no", x, W.clone().detach())
    return frozen + torch.einsum("ni,ri,or->no", alpha * x, A / A.shape[0], B)


@right("lora_forward")
def _(x, W, A, B, alpha):
    adapter = F.linear(F.linear(x, A), B)
    return torch.add(x @ W.data.T, adapter, alpha=alpha / len(A))


# ------------------------------------------------------------------ int4_round
@right("int4_round")
def _(weights, block):
    out = []
    for part in weights.split(block):
        largest = part.abs().max().item()
        if largest == 0:
            out += [0.0] * block
        else:
            out += [round(w / largest * 7) * largest / 7 for w in part.tolist()]
    return torch.tensor(out, dtype=weights.dtype)


@right("int4_round")
def _(weights, block):
    levels = torch.linspace(-1, 1, 15, dtype=weights.dtype)
    blocks = weights.reshape(-1, block)
    largest = blocks.abs().amax(1, keepdim=True)
    nearest = (blocks[..., None] - largest[..., None] * levels).abs().argmin(-1)
    return (levels[nearest] * largest).flatten()


@right("int4_round")
def _(weights, block):
    w = weights.numpy().reshape(-1, block)
    step = np.abs(w).max(1, keepdims=True) / 7
    codes = np.rint(np.divide(w, step, out=np.zeros_like(w), where=step > 0)).clip(-7, 7)
    return (codes * step).ravel()


# ------------------------------------------------------------------ bits_per_weight
@right("bits_per_weight")
def _(bits, block, outer):
    weights = block * outer
    return (weights * bits + outer * 8 + 32) / weights


@right("bits_per_weight")
def _(bits, block, outer):
    return float(bits + (8 + Fraction(32, outer)) / block)


# ------------------------------------------------------------------ kv_cache_bytes
@right("kv_cache_bytes")
def _(answers, tokens, layers, heads, kv_heads, width, size):
    key = torch.empty(answers, layers, kv_heads, tokens, width // heads, device="meta")
    return 2 * key.numel() * size


@right("kv_cache_bytes")
def _(answers, tokens, layers, heads, kv_heads, width, size):
    full = 2 * answers * tokens * layers * width * size
    return full * kv_heads / heads


# ------------------------------------------------------------------ next_scale
@right("next_scale")
def _(scale, good, finite, interval):
    now, growth = torch.tensor(scale), torch.tensor(good, dtype=torch.int32)
    overflow = torch.tensor(0.0 if finite else 1.0)
    torch._amp_update_scale_(now, growth, overflow, 2.0, 0.5, interval)
    return now.item(), growth.item()


@right("next_scale")
def _(scale, good, finite, interval):
    good = (good + 1) % interval if finite else 0
    factor = 0.5 if not finite else 2.0 if good == 0 else 1.0
    return [factor * scale, good]


# ------------------------------------------------------------------ process_loss
@right("process_loss")
def _(token_losses, mask, all_tokens, processes):
    return token_losses[mask.bool()].sum() / (all_tokens / processes)


@right("process_loss")
def _(token_losses, mask, all_tokens, processes):
    own = mask.sum()
    return (token_losses * mask).sum() / own * (own / all_tokens * processes)


@right("process_loss")
def _(token_losses, mask, all_tokens, processes):
    weights = mask.to(token_losses.dtype) * (processes / all_tokens)
    return torch.einsum("bt,bt->", token_losses, weights)


# ------------------------------------------------------------------ graded


@right("graded")
def _(cards_right, form_right, values_right, value, target):
    passed = [cards_right, form_right, values_right, value == target, False].index(False)
    return [-1.5, -3.0, -1.5, -1.0, 5.0][passed]


@right("graded")
def _(cards_right, form_right, values_right, value, target):
    reward = 5.0
    # from the last stage back to the first: an earlier fault overwrites a later one
    for ok, price in (
        (value == target, -1.0),
        (values_right, -1.5),
        (form_right, -3.0),
        (cards_right, -1.5),
    ):
        reward = reward if ok else price
    return reward


@right("graded")
def _(cards_right, form_right, values_right, value, target):
    alive = np.cumprod([1, cards_right, form_right, values_right, value == target])
    # start at -1.5; each stage passed adds the step to the next price
    steps = np.diff([0.0, -1.5, -3.0, -1.5, -1.0, 5.0])
    return float((alive * steps).sum())


# ------------------------------------------------------------------ eye_features


@right("eye_features")
def _(height, width, channels):
    n = len(channels)
    return channels[-1] * (height >> n) * (width >> n)


@right("eye_features")
def _(height, width, channels):
    def side(s, times):
        return s if times == 0 else side((s - s % 2) // 2, times - 1)

    return math.prod([channels[-1], side(height, len(channels)), side(width, len(channels))])


@right("eye_features")
def _(height, width, channels):
    x = np.zeros((1, height, width))
    for c in channels:
        h, w = x.shape[1:]
        x = np.zeros((c, h, w))[:, 1::2, 1::2]
    return int(x.size)


# ------------------------------------------------------------------ put_pictures_in


@right("put_pictures_in")
def _(words, ids, pictures, token):
    n = pictures.shape[1]
    places = ids == token
    number = places.cumsum(1)  # 1, 2, ... at the places
    pick = places[..., None] & (number[..., None] == torch.arange(1, n + 1, device=ids.device))
    pick = pick.to(pictures.dtype)  # [B, L, n]
    stays = 1 - pick.sum(-1, keepdim=True)
    return words * stays + torch.einsum("bln,bnd->bld", pick, pictures)


@right("put_pictures_in")
def _(words, ids, pictures, token):
    n = pictures.shape[1]
    rows = []
    for b in range(len(ids)):
        waiting = list(pictures[b].unbind(0)) if n else []
        row = []
        for word, i in zip(words[b], ids[b].tolist(), strict=True):
            row.append(waiting.pop(0) if i == token and waiting else word)
        rows.append(torch.stack(row))
    return torch.stack(rows)


@right("put_pictures_in")
def _(words, ids, pictures, token):
    n, d = pictures.shape[1:]
    # a stable sort brings the places to the front, in their order
    first = torch.argsort((ids != token).int(), dim=1, stable=True)[:, :n]
    return words.scatter(1, first[..., None].expand(-1, -1, d), pictures)


# ------------------------------------------------------------------ confusion


@right("confusion")
def _(shown, read, kinds):
    a = F.one_hot(shown.long(), kinds).float()
    b = F.one_hot(read.long(), kinds).float()
    return torch.einsum("ni,nj->ij", a, b) / a.sum(0).clamp(min=1)[:, None]


@right("confusion")
def _(shown, read, kinds):
    counts = np.zeros((kinds, kinds))
    np.add.at(counts, (shown.numpy(), read.numpy()), 1)
    total = counts.sum(1, keepdims=True)
    shares = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    return torch.from_numpy(shares).float()


@right("confusion")
def _(shown, read, kinds):
    # every hand brings 1 / (how often its card was shown): no row needs a division
    often = torch.bincount(shown, minlength=kinds)
    weight = 1.0 / often[shown].float()
    flat = torch.zeros(kinds * kinds).scatter_add_(0, (shown * kinds + read).long(), weight)
    return flat.view(kinds, kinds)


# ------------------------------------------------------------------ lost_by_reading


@right("lost_by_reading")
def _(read_before, right_before, read_after, right_after):
    return right_before * (read_after / read_before - 1)


@right("lost_by_reading")
def _(read_before, right_before, read_after, right_after):
    # all of the change, less what the solving of the hands read explains
    expected = read_after * right_before / read_before
    by_solving = right_after - expected
    return (right_after - right_before) - by_solving


@right("lost_by_reading")
def _(read_before, right_before, read_after, right_after):
    reads = np.array([read_before, read_after])
    success = reads * (right_before / read_before)
    return float(np.diff(success)[0])


# ------------------------------------------------------------------ turn_word


@right("turn_word")
def _(before, after):
    clockwise = (after - before) % 360
    if clockwise <= 180:
        return "slightly_right" if clockwise <= 45 else "right"
    return "slightly_left" if clockwise >= 315 else "left"


@right("turn_word")
def _(before, after):
    angle = after - before
    while angle > 180:
        angle -= 360
    while angle <= -180:
        angle += 360
    return ("slightly_" if -45 <= angle <= 45 else "") + ("right", "left")[angle < 0]


@right("turn_word")
def _(before, after):
    # the new heading as seen by one who faces up: positive sines lie to the right
    angle = math.radians(after - before)
    side = "left" if math.sin(angle) < -1e-9 else "right"
    return f"slightly_{side}" if math.cos(angle) >= math.cos(math.pi / 4) - 1e-9 else side


# ------------------------------------------------------------------ side_of


@right("side_of")
def _(heading, bearing):
    sides = ["front", "right_front", "right", "right_behind", "behind",
             "left_behind", "left", "left_front"]  # fmt: skip
    return sides[(bearing - heading) // 45]  # a negative place counts from the end


@right("side_of")
def _(heading, bearing):
    angle = math.radians(bearing - heading)
    ahead, across = round(math.cos(angle), 6), round(math.sin(angle), 6)
    depth = "front" if ahead > 0 else "behind" if ahead < 0 else ""
    side = "right" if across > 0 else "left" if across < 0 else ""
    return "_".join(part for part in (side, depth) if part)


@right("side_of")
def _(heading, bearing):
    wheel = "front right_front right right_behind behind left_behind left left_front".split()
    while heading != bearing:
        heading = (heading + 45) % 360
        wheel = wheel[1:] + wheel[:1]
    return wheel[0]


# ------------------------------------------------------------------ walk_reward


@right("walk_reward")
def _(outcomes, points, shaped):
    prices = {"right": 1.0, "wrong_place": -1.5}
    reward, left, tries = 0.0, points, 2
    for outcome in outcomes:
        if left == 0 or tries == 0:
            break
        reward += prices.get(outcome, -1.0)
        left, tries = (left - 1, 2) if outcome == "right" else (left, tries - 1)
    if shaped:
        return reward if left == 0 else reward - 1
    return 1.0 if left == 0 else 0.0


@right("walk_reward")
def _(outcomes, points, shaped):
    # cut the list where the walk ends: behind two faults in a row, or the last point
    end, rights = len(outcomes), 0
    for i, outcome in enumerate(outcomes):
        rights += outcome == "right"
        if rights == points or (i and "right" not in outcomes[i - 1 : i + 1]):
            end = i + 1
            break
    walked = outcomes[:end]
    arrived = walked.count("right") == points
    if not shaped:
        return int(arrived)
    cost = {"right": 1, "wrong": -1, "not_allowed": -1, "syntax": -1, "wrong_place": -1.5}
    return sum(map(cost.get, walked)) - int(not arrived)


@right("walk_reward")
def _(outcomes, points, shaped):
    def go(rest, left, faults):
        if left == 0:
            return (0.0, True)
        if faults == 2 or not rest:
            return (-1.0, False)
        if rest[0] == "right":
            value, arrived = go(rest[1:], left - 1, 0)
            return (value + 1, arrived)
        value, arrived = go(rest[1:], left, faults + 1)
        return (value - (1.5 if rest[0] == "wrong_place" else 1), arrived)

    value, arrived = go(list(outcomes), points, 0)
    return value if shaped else arrived


# ------------------------------------------------------------------ dialogue_tokens


@right("dialogue_tokens")
def _(turns, eos):
    pairs = []
    for who, said in turns:
        if who == "policy":
            pairs += [(token, 1) for token in [*said, eos]]
        else:
            pairs += [(token, 0) for token in said]
    return [token for token, _ in pairs], [own for _, own in pairs]


@right("dialogue_tokens")
def _(turns, eos):
    ids = [said + [eos] * (who == "policy") for who, said in turns]
    mask = [np.full(len(part), who == "policy") for part, (who, _) in zip(ids, turns, strict=True)]
    return reduce(lambda a, b: a + b, ids), np.concatenate(mask)


@right("dialogue_tokens")
def _(turns, eos):
    parts = [torch.tensor([*said, eos] if who[0] == "p" else said) for who, said in turns]
    mask = [torch.full((len(x),), w == "policy") for x, (w, _) in zip(parts, turns, strict=True)]
    return torch.cat(parts), torch.cat(mask).long()


# ------------------------------------------------------------------ first_tries


@right("first_tries")
def _(attempts, kinds, kind):
    first = dict(reversed(attempts))  # earlier attempts overwrite later ones
    return mean(float(right) for point, right in first.items() if kinds[point] == kind)


@right("first_tries")
def _(attempts, kinds, kind):
    seen, right, asked = set(), 0, 0
    for point, good in attempts:
        if point in seen:
            continue
        seen.add(point)
        if kinds[point] == kind:
            asked += 1
            right += good
    return right / asked


@right("first_tries")
def _(attempts, kinds, kind):
    points = np.array([point for point, _ in attempts])
    rights = np.array([right for _, right in attempts])
    met, first = np.unique(points, return_index=True)
    keep = np.array(kinds)[met] == kind
    return rights[first][keep].mean()


# ------------------------------------------------------------------ route_success


@right("route_success")
def _(step_accuracy, straight, turns, tries):
    faults = (1 - step_accuracy) * (straight + turns)  # of first tries, all of them at turns
    missed = (faults / turns) ** tries
    return (1 - missed) ** turns


@right("route_success")
def _(step_accuracy, straight, turns, tries):
    p = step_accuracy + (step_accuracy - 1) * straight / turns
    passed = sum(p * (1 - p) ** k for k in range(tries))
    return math.prod([passed] * turns)


@right("route_success")
def _(step_accuracy, straight, turns, tries):
    p = torch.tensor((step_accuracy * (straight + turns) - straight) / turns, dtype=torch.float64)
    return torch.exp(turns * torch.log1p(-((1 - p) ** tries)))
