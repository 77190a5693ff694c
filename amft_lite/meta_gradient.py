"""How the utility U moves when mu moves: dU/dmu through one step of the real optimiser.

The inner step is theta' = theta + update(g), g = (1 - mu) g_RL + mu g_SFT. By the chain rule

    dU/dmu = < grad U, d theta'/d mu >,                                    (Eq. 5)

and for SGD, update(g) = -lr g, so d theta'/d mu = -lr (g_SFT - g_RL): mu should rise where a step
along SFT helps validation reward more than a step along RL. No Hessian appears, because mu enters
the gradient linearly; grad U is taken before the step, not after it (a first-order difference).

Adam maps gradients to updates differently, and the map includes the fresh gradient in its second
moment. We therefore apply Adam's update rule itself, twice, and take the difference.
`naive_direction`, which treats 1/(sqrt(v)+eps) as a constant preconditioner, is kept because it is
what one would write first, and because it can have the wrong sign.

All gradients are flat vectors [N] of one dtype. Where a model is sharded over processes (FSDP) a
vector holds this process's part, and `reduce` adds a scalar up over all parts: norms and dot
products are the only places where the parts meet. Source of Eq. 5: arXiv 2508.06944 through
second-hand notes; the SGD line is our algebra.

Left out: unrolls over several steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

CHUNK = 2**20  #: coordinates taken at a time where temporary vectors of all would not fit

Reduce = Callable[[Tensor], Tensor]  #: adds a scalar up over the processes that hold parts


@dataclass(frozen=True)
class AdamState:
    """What torch.optim.Adam/AdamW would use in its next step, as flat vectors.

    `step` counts the steps already taken. `decoupled` is AdamW's weight decay (it does not depend
    on the gradient); otherwise decay is added to the gradient, as in Adam. `params` is needed only
    where `weight_decay` is not 0. `max_norm` clips the gradient first, as training does.
    """

    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: int
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float | Tensor = 0.0  # [N] where parameter groups differ
    decoupled: bool = True
    params: Tensor | None = None
    max_norm: float | None = None
    reduce: Reduce | None = None


def local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor (DTensor) that this process holds; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def shard_reduce(parameters: Iterable[Tensor]) -> Reduce | None:
    """The `reduce` of these parameters: None where every process holds them whole."""
    sharded = next((p for p in parameters if hasattr(p, "to_local")), None)
    if sharded is None:
        return None
    mesh, placements = sharded.device_mesh, sharded.placements
    groups = [mesh.get_group(dim) for dim, place in enumerate(placements) if place.is_shard()]

    def reduce(scalar: Tensor) -> Tensor:
        for group in groups:
            torch.distributed.all_reduce(scalar, group=group)
        return scalar

    return reduce


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """One vector from many tensors, in order (of sharded tensors: from their local parts)."""
    return torch.cat([local(t.detach()).reshape(-1) for t in tensors])


def unflatten_into(vector: Tensor, parameters: Iterable[Tensor]) -> None:
    """Write a flat gradient to `.grad` of each parameter (as views of `vector` where it can).

    Raises:
        ValueError: another number of entries than parameters; nothing is written.
    """
    parameters = list(parameters)
    sizes = [local(p).numel() for p in parameters]
    if sum(sizes) != vector.numel():
        raise ValueError(f"{vector.numel()} numbers for {sum(sizes)} parameters")
    for p, part in zip(parameters, vector.split(sizes), strict=True):
        if hasattr(p, "to_local"):
            p.grad = torch.zeros_like(p)
            local(p.grad).copy_(part.view_as(local(p)))
        else:
            p.grad = part.view_as(p).to(p.dtype)


def norm(vector: Tensor, reduce: Reduce | None = None) -> Tensor:
    """Euclidean norm; of all parts together where `reduce` is given."""
    return vector.norm() if reduce is None else _double_norm(vector, reduce)


def clip_by_norm(grad: Tensor, max_norm: float | None, reduce: Reduce | None = None) -> Tensor:
    """torch.nn.utils.clip_grad_norm_ for one flat vector, without the side effect."""
    return grad if max_norm is None else grad * _clip_factor(grad, max_norm, reduce)


def _clip_factor(grad: Tensor, max_norm: float, reduce: Reduce | None) -> Tensor:
    return (max_norm / (norm(grad, reduce) + 1e-6)).clamp(max=1.0).to(grad.dtype)


def adam_state(
    optimizer: torch.optim.Optimizer, max_norm: float | None = None, decay: bool = True
) -> AdamState:
    """Read the state of an Adam or AdamW; before its first step the moments are zeros.

    Vectors follow the order of the optimiser's groups. Without `decay` AdamW's weight decay is left
    out, which costs copies of all weights and is the same at every mu: no direction needs it.

    Raises:
        TypeError: another optimiser (its update rule is not `adam_update`).
        ValueError: parameter groups with different settings, or amsgrad or maximize.
    """
    if not isinstance(optimizer, torch.optim.Adam):
        raise TypeError(f"the meta-gradient knows Adam and AdamW, not {type(optimizer).__name__}")
    groups = optimizer.param_groups
    first = groups[0]
    for group in groups:
        settings = ("lr", "betas", "eps", "decoupled_weight_decay")
        same = all(group.get(k) == first.get(k) for k in settings)
        if not same or group["amsgrad"] or group["maximize"]:
            raise ValueError(
                "Adam's groups must share all but weight decay, without amsgrad or maximize"
            )
    params = [p for group in groups for p in group["params"]]
    state = [optimizer.state.get(p) or {} for p in params]
    steps = {int(s["step"]) if s else 0 for s in state}
    if len(steps) > 1:
        raise ValueError(f"parameters have taken different numbers of steps: {sorted(steps)}")
    zero = [torch.zeros_like(p) for p in params]
    decoupled = bool(first.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW)))
    dropped = decoupled and not decay
    decays = [0.0 if dropped else group["weight_decay"] for group in groups]
    rate = decays[0]
    if len(set(decays)) > 1:  # transformers' Trainer spares biases and norms
        sizes = [sum(local(p).numel() for p in group["params"]) for group in groups]
        each = torch.tensor(decays, dtype=params[0].dtype, device=params[0].device)
        rate = each.repeat_interleave(torch.tensor(sizes, device=each.device))
    return AdamState(
        exp_avg=flatten(s.get("exp_avg", z) for s, z in zip(state, zero, strict=True)),
        exp_avg_sq=flatten(s.get("exp_avg_sq", z) for s, z in zip(state, zero, strict=True)),
        step=steps.pop(),
        lr=float(first["lr"]),
        betas=tuple(first["betas"]),
        eps=first["eps"],
        weight_decay=rate,
        decoupled=decoupled,
        params=flatten(params) if any(decays) else None,
        max_norm=max_norm,
        reduce=shard_reduce(params),
    )


def adam_update(grad: Tensor, state: AdamState) -> Tensor:
    """theta' - theta of torch's next Adam step for `grad` [N]; pure, differentiable in `grad`."""
    grad = clip_by_norm(grad, state.max_norm, state.reduce)
    beta1, beta2 = state.betas
    decay = 0.0
    if state.params is not None and state.decoupled:
        decay = -state.lr * state.weight_decay * state.params
    elif state.params is not None:
        grad = grad + state.weight_decay * state.params
    t = state.step + 1
    m = beta1 * state.exp_avg + (1 - beta1) * grad
    v = beta2 * state.exp_avg_sq + (1 - beta2) * grad**2
    v_hat = v / (1 - beta2**t)  # the root's slope at 0 is infinite, which 0 * inf makes nan
    root = torch.where(v_hat > 0, v_hat.where(v_hat > 0, 1.0).sqrt(), 0.0)
    return decay - state.lr * (m / (1 - beta1**t)) / (root + state.eps)


def mix(grad_sft: Tensor, grad_rl: Tensor, mu: float | Tensor) -> Tensor:
    """The gradient of Eq. 3, (1 - mu) L_RL + mu L_SFT; exactly one of them at mu = 0 and 1."""
    return (1 - mu) * grad_rl + mu * grad_sft


def sgd_direction(grad_sft: Tensor, grad_rl: Tensor, lr: float) -> Tensor:
    """d theta'/d mu for SGD: -lr (g_SFT - g_RL)."""
    return -lr * (grad_sft - grad_rl)


def adam_direction(
    grad_sft: Tensor, grad_rl: Tensor, state: AdamState, mu: float, width: float = 0.5
) -> Tensor:
    """d theta'/d mu for Adam: the difference of two updates, `width` apart around mu, per unit mu.

    The two mixtures are kept inside [0, 1]; a small `width` gives the derivative at mu.
    """
    low, high = max(0.0, mu - width / 2), min(1.0, mu + width / 2)
    factors = [1.0, 1.0]
    if state.max_norm is not None:
        factors = [
            _clip_factor(mix(grad_sft, grad_rl, m), state.max_norm, state.reduce)
            for m in (low, high)
        ]
    direction = torch.empty_like(grad_rl)
    for start in range(0, len(grad_rl), CHUNK):
        part = slice(start, start + CHUNK)
        here, sft, rl = _part_of(state, part), grad_sft[part], grad_rl[part]
        lower, upper = (
            adam_update(mix(sft, rl, m) * factor, here)
            for m, factor in zip((low, high), factors, strict=True)
        )
        direction[part] = (upper - lower) / (high - low)
    return direction


def _part_of(state: AdamState, part: slice) -> AdamState:
    """Some coordinates of the state; clipping, which looks at all of them, is done elsewhere."""
    vectors = {k: v[part] for k, v in vars(state).items() if isinstance(v, Tensor)}
    return replace(state, **vectors, max_norm=None)


def naive_direction(grad_sft: Tensor, grad_rl: Tensor, state: AdamState) -> Tensor:
    """-lr (g_SFT - g_RL) / (sqrt(v_hat) + eps): Adam as a fixed diagonal. A counter-example.

    It knows v from before the step only. Where v is tiny the real update is bounded by the fresh
    gradient; this one is not, and such coordinates can decide its sign.
    """
    v_hat = state.exp_avg_sq / (1 - state.betas[1] ** max(1, state.step))
    return -state.lr * (grad_sft - grad_rl) / (v_hat.sqrt() + state.eps)


def mu_gradient(grad_utility: Tensor, direction: Tensor, reduce: Reduce | None = None) -> Tensor:
    """dU/dmu = <grad U, d theta'/d mu>: a scalar, added up in float64."""
    chunks = zip(grad_utility.split(CHUNK), direction.split(CHUNK), strict=True)
    dot = sum(torch.dot(a.double(), b.double()) for a, b in chunks)
    return dot if reduce is None else reduce(dot)


def _double_norm(vector: Tensor, reduce: Reduce | None) -> Tensor:
    norms = torch.stack([part.double().norm() for part in vector.split(CHUNK)])
    if reduce is not None:
        return reduce((norms**2).sum()).sqrt()
    return norms[0] if len(norms) == 1 else norms.norm()


def cosine(a: Tensor, b: Tensor, reduce: Reduce | None = None) -> float:
    """Cosine of two flat vectors in float64; 0 where one of them is zero, nan where one is."""
    norms = _double_norm(a, reduce) * _double_norm(b, reduce)
    return 0.0 if norms == 0 else float(mu_gradient(a, b, reduce) / norms)


# --- oracles: the same number by other roads, for tests and notebooks ----------------------------


def finite_difference(
    utility: Callable[[list[Tensor]], Tensor],
    optimizer: torch.optim.Optimizer,
    grad_sft: Tensor,
    grad_rl: Tensor,
    mu: float,
    step: float = 1e-3,
    max_norm: float | None = None,
) -> float:
    """[U(theta'(mu + step)) - U(theta'(mu - step))] / (2 step), through `optimizer.step()` itself.

    `utility` maps a list of parameter tensors, in the optimiser's order, to a scalar. Parameters
    and optimiser are deep-copied, so nothing of the caller's changes.
    """
    values = []
    for at in (mu + step, mu - step):
        trial = copy.deepcopy(optimizer)  # brings copies of its parameters along
        params = [p for group in trial.param_groups for p in group["params"]]
        unflatten_into(clip_by_norm(mix(grad_sft, grad_rl, at), max_norm), params)
        trial.step()
        with torch.no_grad():
            values.append(float(utility(params)))
    return (values[0] - values[1]) / (2 * step)


def autograd_gradient(
    utility: Callable[[Tensor], Tensor],
    params: Tensor,
    grad_sft: Tensor,
    grad_rl: Tensor,
    mu: float,
    update: Callable[[Tensor], Tensor],
) -> float:
    """dU/dmu by backpropagation through one differentiable step theta + update(g(mu)).

    `utility` maps the flat parameters [N] to a scalar; `update` is e.g.
    ``lambda g: adam_update(g, state)`` or ``lambda g: -lr * g``.
    """
    at = torch.tensor(mu, dtype=params.dtype, requires_grad=True)
    utility(params.detach() + update(mix(grad_sft, grad_rl, at))).backward()
    return float(at.grad)
