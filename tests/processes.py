"""Run by torchrun (tests/test_processes.py): one process of a recorded or a sampled run.

    python tests/processes.py OUT recorded|value_head|gated|sampled|sharded|whole

Each process writes what its rule was shown and the weights it ends with.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from amft_lite import gate
from amft_lite.trl_recorder import asked_of_any
from tests.parity import in_model_order, trainer
from tests.test_trainer_parity import stop_after

NAMES = ("grad_sft", "grad_rl", "grad_utility")


def main(out: str, kind: str) -> None:
    torch.set_num_threads(1)
    if kind in ("sharded", "whole"):
        return sharded(out, kind == "sharded")
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    advantage = "gae" if kind == "value_head" else "group"
    settings = {}
    if kind == "gated":  # bins that a random expert's words fall into
        gate.EDGES = (0.001, 0.004, 0.01, 0.03)
        settings = {"method": "amft_gate", "gate_start": "open", "eta_gate": 0.5, "eta_trust": 0.5}
    made = trainer(Path(out) / "run", processes=processes, advantage=advantage, **settings)
    if kind == "sampled":
        made.unrecorded()
    stop_after(made, 4)
    made.train()
    assert made.accelerator.num_processes == processes
    seen = [
        {n: in_model_order(getattr(s, n), made) for n in NAMES if getattr(s, n) is not None}
        | {"mu": mu, "entropy": s.entropy}
        | {k: v for k, v in parts.items() if k.startswith(("gate_", "trust_"))}
        for s, mu, parts in made.rule.seen
    ]
    weights = torch.cat([p.detach().flatten() for p in made.model.parameters()])
    head = [p.detach() for p in made.critic.parameters()] if made.critic else []
    torch.save({"seen": seen, "weights": weights, "head": head}, Path(out) / f"rank{rank}.pt")


def sharded(out: str, shard: bool) -> None:
    """Three gradients of a model sharded by FSDP2 (or whole), their dot products, one AMFT step.

    No trainer: accelerate has no FSDP on a CPU. What is tested is that flat vectors of DTensors'
    local parts, with `reduce`, give the numbers of whole vectors.
    """
    from torch.distributed.fsdp import fully_shard

    from amft_lite import meta_gradient as mg
    from amft_lite.models import completion_logits, token_logps
    from amft_lite.weighting import RuleOptions, Signals, make_rule
    from tests.parity import policy

    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo")
    model, _ = policy()
    if shard:
        for layer in model.model.layers:
            fully_shard(layer)
        fully_shard(model)
    parameters = list(model.parameters())
    # not all sizes divide by 2, decay differs by group, and clipping is on
    asked = [asked_of_any(rank == 1), asked_of_any(False)]
    written = sampled_in_step(model, ends_at_once=rank == 0) if shard else 0
    groups = [{"params": [p for p in parameters if p.dim() == k], "weight_decay": 0.1 * (k - 1)}
              for k in (1, 2)]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    order = [p for group in optimizer.param_groups for p in group["params"]]
    reduce = mg.shard_reduce(order)
    assert (reduce is not None) == shard
    rule = make_rule("amft", RuleOptions(meta_every=1, max_change=0.5))
    facts = []
    for step in range(3):
        grads = []
        for k in range(3):
            source = torch.Generator().manual_seed(10 * step + k)
            ids = torch.randint(3, 100, (5, 12), generator=source)
            logits = completion_logits(model, ids, torch.ones_like(ids), 6)
            (-token_logps(logits, ids[:, -6:]).mean()).backward()
            grads.append(mg.flatten(p.grad for p in order))
            for p in order:
                p.grad = None
        sft, rl, u = grads
        signals = Signals(
            step, 3, 0, sft, rl, adam=mg.adam_state(optimizer, 1.0), grad_utility=u, reduce=reduce
        )
        mu = rule.update(signals)
        pairs = [(u, sft), (u, rl), (sft, rl)]
        dots = [mg.mu_gradient(a.clone(), b.clone(), reduce).item() for a, b in pairs]
        mg.unflatten_into(mg.clip_by_norm(mg.mix(sft, rl, mu), 1.0, reduce), order)
        optimizer.step()
        norms = [mg.norm(g, reduce).item() for g in grads]
        facts.append({"dots": dots, "norms": norms, "mu": mu, "signal": rule.parts["signal"]})
    whole = [p.full_tensor() if shard else p for p in parameters]
    weights = torch.cat([p.detach().flatten() for p in whole])
    torch.save(
        {"facts": facts, "weights": weights, "asked": asked, "written": written},
        Path(out) / f"rank{rank}.pt",
    )
    torch.distributed.destroy_process_group()


def sampled_in_step(model, ends_at_once: bool) -> tuple[int, int]:
    """Of an answer that ends at its first token, or never, in a process beside another: its tokens,
    and how often the model was called for it."""
    ids, end = torch.ones((1, 3), dtype=torch.long), list(range(model.config.vocab_size))
    calls = []
    counter = model.register_forward_pre_hook(lambda *_: calls.append(1))
    made = model.eval().generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False,
        eos_token_id=end if ends_at_once else None, pad_token_id=0,
    )  # fmt: skip
    counter.remove()
    model.train()
    return int((made[0, 3:] != 0).sum()), len(calls)


if __name__ == "__main__":
    main(*sys.argv[1:])
