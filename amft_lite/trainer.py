"""AMFT for real models: `AMFTTrainer` is TRL's GRPOTrainer with demonstrations and a learned mu.

Whoever has a GRPOTrainer changes the import and adds `sft_dataset` and `validation_dataset`. One
optimiser step is

    TRL's own RL micro-batches                            -> p.grad = g_RL, set aside
    rollouts of validation prompts (every K-th step)      -> p.grad = grad U, set aside
    a batch of demonstrations                             -> p.grad = g_SFT, set aside
    mu from the rule, p.grad = (1 - mu) g_RL + mu g_SFT   -> TRL clips it and takes the step

Every formula is that of `amft_lite.loop`; what differs is who samples and who shards. RL's
log-probabilities are TRL's (divided by the sampling temperature); those of demonstrations, of
validation rollouts and of the entropy are at temperature 1. A "step" is an optimiser step, also
where TRL reuses rollouts (`num_iterations`).

Differences from the loop: H* is the entropy of the first rollouts after the warm-up, not of extra
ones. The value head of `advantage="gae"` lives outside the model and trains by its own Adam.

Prompts may come with images (columns `image` or `images`), as for GRPOTrainer. With `episode`
rollouts are dialogues (`amft_lite.trainer_dialogues`), of which the policy learns its own side.

Left out: DeepSpeed (its engine steps inside backward), FSDP version 1, images in answers.
Run on CPU only, in one and two processes: CUDA, fp16, vLLM and FSDP have not been run.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from amft_lite import objectives
from amft_lite.batches import shuffled_passes
from amft_lite.gate import rises
from amft_lite.loop import combined_gradient, gradient_facts
from amft_lite.meta_gradient import (
    Reduce,
    adam_state,
    cosine,
    flatten,
    local,
    norm,
    shard_reduce,
    unflatten_into,
)
from amft_lite.methods import Method
from amft_lite.models import token_logps
from amft_lite.real_models import STATE, keep_differentiable
from amft_lite.tasks import Completion
from amft_lite.trainer_batches import (
    Answers,
    answers_of,
    demonstration_batch,
    micro_batches,
    seen_prompts,
    tokenized,
)
from amft_lite.trainer_dialogues import DialogueTrainer, MakeEpisode
from amft_lite.trainer_inputs import (
    NO_VLLM_WITH_4_BITS,
    AMFTConfig,
    TrainerInputError,
    as_dataset,
    checked_rewards,
    comparable,
    demonstrations,
    dialogues,
    method_of,
    refuse_dialogues,
    refuse_family,
    refuse_leaks,
    refuse_long_dialogues,
    refuse_optimizer,
    refuse_other_config,
    refuse_setting,
)
from amft_lite.vision_models import sees
from amft_lite.weighting import Rule, Signals

__all__ = ["AMFTConfig", "AMFTTrainer", "TrainerInputError"]


class AMFTTrainer(DialogueTrainer):
    """GRPOTrainer's arguments, and:

    sft_dataset         expert answers: columns `prompt` and `completion`, or `messages` whose last
                        one is the expert's. Needed by every method but `rl`.
    validation_dataset  prompts (with the columns that the reward functions read) held out from
                        both others. Needed by methods with a meta-gradient; with a `completion`
                        column by `official_code`.
    method              the name of a method (`amft_lite.methods`), a Method, or a mu rule of your
                        own (`weighting.Rule`). What a name brings along, such as rl's warm-up of
                        0 steps, `AMFTConfig.for_method` sets.
    episode             makes a row's dialogue, `tasks.Episode`: its `answer(text)` takes an answer
                        of the policy and gives the reply, or None at the end, its `reward` is a
                        number or `tasks.Reward`. There are no reward functions then; completions
                        of `sft_dataset` are lists of turns (texts or messages), the expert's first.

    Raises:
        TrainerInputError: one sentence for what is missing, empty, leaking or cannot work.
    """

    _tag_names = ["trl", "amft"]

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: AMFTConfig | None = None,
        train_dataset: Any = None,
        *,
        sft_dataset: Any = None,
        validation_dataset: Any = None,
        method: str | Rule | Method = "amft",
        episode: MakeEpisode | None = None,
        **kwargs: Any,
    ) -> None:
        args = args or AMFTConfig("amft")
        self.method, self.rule = method_of(method, args)
        train_dataset = as_dataset("train_dataset", train_dataset, ("prompt",))
        refuse_setting(args, kwargs)
        refuse_family(model)
        self.sft_dataset = self.validation_dataset = None
        if episode is not None:
            refuse_dialogues(args, kwargs, reward_funcs, train_dataset)
            self.episode, reward_funcs = episode, self.episode_reward
            kwargs["rollout_func"] = self._rollout
        explores = self.rule.planned(0, 1, 0) == 0.0 and self.method.rule != "replay"
        if not explores or args.sft_warmup_steps:
            read = (
                demonstrations if episode is None else functools.partial(dialogues, "sft_dataset")
            )
            self.sft_dataset = read(sft_dataset)
        if self.rule.validation:
            refuse_optimizer(kwargs.get("optimizers", (None, None))[0])
            columns = ("prompt", "completion") if self.rule.validation != "reward" else ("prompt",)
            self.validation_dataset = as_dataset("validation_dataset", validation_dataset, columns)
            refuse_leaks(train_dataset, self.sft_dataset, self.validation_dataset)
            if episode is not None and self.rule.validation == "demonstrations":
                self.validation_dataset = dialogues("validation_dataset", validation_dataset)
        if reward_funcs is not None:
            many = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
            reward_funcs = [checked_rewards(f) for f in many]
        self.target_entropy = math.nan  # H*
        self._entropy: list[Tensor] = []
        given = model.parameters() if isinstance(model, nn.Module) else ()
        trained = [p for p in given if p.requires_grad]
        values = [p.data for p in trained]
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "You are using 'rollout_func'"
            )  # a test holds TRL to it
            super().__init__(
                model, reward_funcs=reward_funcs, args=args, train_dataset=train_dataset, **kwargs
            )
        refuse_family(self.model)  # given by name, it is here only now
        if episode is not None and sees(self.model.config):
            raise TrainerInputError("dialogues (episode) need a model of text alone.")
        for p, value in zip(trained, values, strict=True):
            if p.dtype != value.dtype:  # TRL makes a 4-bit model's adapters bf16, in which small
                p.data = value.to(p.device)  # steps vanish and which fp16's scaler cannot take
        few_bits = [getattr(self.model, f"is_loaded_in_{n}bit", False) for n in (4, 8)]
        if any(few_bits):
            if args.use_vllm and few_bits[0]:
                raise TrainerInputError(NO_VLLM_WITH_4_BITS)
            for p in self.model.parameters():  # those that TRL itself has made (peft_config)
                if p.requires_grad and p.dtype in (torch.bfloat16, torch.float16):
                    p.data = p.data.float()
        keep_differentiable(self.model)
        self._keep_images_out_of_answers()
        if str(self.accelerator.distributed_type).endswith("DEEPSPEED"):
            raise TrainerInputError("AMFTTrainer cannot run under DeepSpeed; use DDP or FSDP.")
        if self.is_fsdp_enabled and not getattr(self.accelerator, "is_fsdp2", False):
            raise TrainerInputError(
                "AMFTTrainer needs FSDP's version 2; set fsdp_version: 2 in accelerate's config."
            )
        if self._shards:
            # gradients are reduced at every micro-batch; else FSDP keeps whole ones, in bf16
            self.accelerator.gradient_state.plugin_kwargs["sync_each_batch"] = True
        for name in ("sft_batch_size", "validation_prompts"):
            if getattr(args, name) % self.accelerator.num_processes:
                raise TrainerInputError(
                    f"{name} ({getattr(args, name)}) must be a multiple of the number of "
                    f"processes ({self.accelerator.num_processes})."
                )
        if self.sft_dataset is not None:
            self.sft_dataset = self._tokenized(self.sft_dataset)
        if self.rule.validation == "demonstrations":
            self.validation_dataset = self._tokenized(self.validation_dataset)
        if episode is not None:
            refuse_long_dialogues(args, self.sft_dataset, self.model)
        if args.advantage == "gae":
            self.add_critic()
        if hasattr(self.rule, "gate") and self.is_fsdp_enabled:
            raise TrainerInputError(
                f"{self.method.name} cannot run under FSDP, which gives no process all parameters; "
                "use DDP, or amft, whose mu is one number."
            )

    def _keep_images_out_of_answers(self) -> None:
        """A sampled image token would ask the next forward pass for a picture that is not there.

        (vLLM samples with settings of its own; there it is left to it.)
        """
        config = self.accelerator.unwrap_model(self.model).config
        tokens = {getattr(config, name, None) for name in ("image_token_id", "image_token_index")}
        if tokens := tokens - {None}:
            sampling = getattr(self, "generation_config", None)
            if sampling is not None:
                kept = set(sampling.suppress_tokens or ())
                sampling.suppress_tokens = sorted(kept | tokens)

    # --- one step --------------------------------------------------------------------------------

    def training_step(self, model, inputs, num_items_in_batch):
        """TRL's micro-batch; after the last one of an optimiser step, everything else."""
        args, step = self.args, self.state.global_step
        warming = step < args.sft_warmup_steps
        planned = self._planned(step)
        if planned == 1.0:  # a loss of weight 0 is not computed: SFT pays for no rollouts
            loss = torch.zeros((), device=self.accelerator.device)
            self._step += 1
        else:
            loss = super().training_step(model, inputs, num_items_in_batch)
        if not self.accelerator.sync_gradients:
            return loss

        model.train()
        facts: dict[str, float] = {}
        grad_sft = grad_rl = None
        if planned != 1.0:
            grad_rl = self._take_gradient()
            facts["entropy"] = self._window_entropy(model)
            if math.isnan(self.target_entropy) and not warming:
                self.target_entropy = facts["entropy"]
        if planned != 0.0:
            grad_sft, found = self._sft_gradient(model, step)
            facts |= found
            loss = loss + facts["sft_loss"] if planned == 1.0 else loss
        facts |= gradient_facts(grad_sft, grad_rl, self._reduce)
        mu = 1.0
        if not warming:
            mu = self._new_mu(model, step, grad_sft, grad_rl, facts)
        if self.critic is not None and grad_rl is not None:
            facts["value_loss"] = self.train_critic()
        self._put_gradient(combined_gradient(grad_sft, grad_rl, mu))
        facts |= {"mu": mu, "target_entropy": self.target_entropy}
        for name, value in facts.items():
            self._metrics["train"][f"amft/{name}"].append(float(value))
        return loss

    def _planned(self, step: int) -> float | None:
        """mu of this step where it is known beforehand."""
        if step < self.args.sft_warmup_steps:
            return 1.0
        return self.rule.planned(step, self.state.max_steps, self.args.sft_warmup_steps)

    def _new_mu(self, model, step, grad_sft, grad_rl, facts) -> float:
        """Ask the rule, with a validation gradient where one is due."""
        args, since = self.args, step - self.args.sft_warmup_steps
        signals = Signals(
            step, self.state.max_steps, args.sft_warmup_steps, grad_sft, grad_rl,
            reduce=self._reduce,
            entropy=facts.get("entropy", math.nan), target_entropy=self.target_entropy,
            nll=facts.get("nll", math.nan),
        )  # fmt: skip
        finite = all(self._is_finite(g) for g in (grad_sft, grad_rl) if g is not None)
        facts["mu_skipped"] = float(not finite)
        if not finite:  # fp16's scaler is about to skip this step; so does the rule
            return self.rule.mu
        if self.rule.validation and since % self.rule.every == 0:
            signals.adam = adam_state(self._adam, args.max_grad_norm or None, decay=False)
            number = since // self.rule.every
            if self.rule.validation == "reward":
                self._measure_utility(model, number, signals, facts)
            else:
                n = args.validation_prompts
                rows = self._rows(self.validation_dataset, n, number, "validation")
                signals.grad_validation_nll, _ = self._nll_gradient(model, rows)
            if not self._is_finite(signals.grad_utility):
                facts["mu_skipped"] = 1.0
                return self.rule.mu
        mu = self.rule.update(signals)
        facts |= {f"mu_{name}": part for name, part in self.rule.parts.items()}
        return mu

    # --- gradients -------------------------------------------------------------------------------

    @property
    def _adam(self) -> torch.optim.Optimizer:
        return getattr(self.optimizer, "optimizer", self.optimizer)

    @functools.cached_property
    def _parameters(self) -> list[nn.Parameter]:
        """What is trained, in the optimiser's order (which is that of its state)."""
        return [p for group in self._adam.param_groups for p in group["params"]]

    @functools.cached_property
    def _reduce(self) -> Reduce | None:
        """Adds scalars up over shards; None where every process holds whole gradients."""
        return shard_reduce(self._parameters)

    @property
    def _shards(self) -> bool:
        """Whether parameters are sharded by FSDP2."""
        return bool(getattr(self.accelerator, "is_fsdp2", False))

    @property
    def _scale(self) -> float:
        """What fp16's scaler has multiplied gradients with."""
        scaler = self.accelerator.scaler
        return scaler.get_scale() if scaler is not None else 1.0

    def _take_gradient(self) -> Tensor:
        """p.grad as a flat float32 vector (of this process's shards); p.grad is emptied."""
        grad = flatten(
            torch.zeros_like(local(p)) if p.grad is None else p.grad for p in self._parameters
        ).float()
        for p in self._parameters:
            p.grad = None
        return grad if self._scale == 1.0 else grad / self._scale

    def _put_gradient(self, grad: Tensor) -> None:
        unflatten_into(grad if self._scale == 1.0 else grad * self._scale, self._parameters)

    def _is_finite(self, grad: Tensor | None) -> bool:
        if grad is None:
            return True
        bad = (~grad.isfinite()).any().float()
        return not bool(bad if self._reduce is None else self._reduce(bad))

    def _backward(self, model, parts: Sequence[Answers], loss_of: Callable) -> float:
        """Backward of `loss_of(part, logits)` over micro-batches, synchronised at the last one (of
        a sharded model at each)."""
        value = 0.0
        for i, part in enumerate(parts):
            now = self._shards or i + 1 == len(parts)
            with contextlib.nullcontext() if now else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    loss = loss_of(part, self._logits(model, part))
                self.accelerator.backward(loss)
            value += loss.item()
        return value

    def _logits(self, model, part: Answers) -> Tensor:
        """Logits [B, T, V] that predict the answers, at temperature 1: a plain forward."""
        keep = part.tokens.shape[1]
        extra = {"logits_to_keep": keep + 1} if "logits_to_keep" in self.model_kwarg_keys else {}
        output = model(**part.forward_inputs(), use_cache=False, **extra)
        return output.logits[:, -keep - 1 : -1].float()

    # --- demonstrations --------------------------------------------------------------------------

    def _sft_gradient(self, model, step: int) -> tuple[Tensor, dict[str, float]]:
        """g_SFT, with the method's token weights after warm-up, and the losses."""
        rows = self._rows(self.sft_dataset, self.args.sft_batch_size, step, "demonstrations")
        weigh = getattr(self.rule, "token_weight", self.method.token_weight)
        return self._nll_gradient(
            model, rows, weigh if step >= self.args.sft_warmup_steps else None
        )

    def _nll_gradient(
        self, model, rows: dict[str, list], weigh: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """Gradient of Eq. 2 over all processes' demonstrations; its value and the plain NLL."""
        size = self.args.per_device_train_batch_size
        answers = self._padded(rows)
        parts = micro_batches(answers, size)
        total = self._over_processes(sum(part.mask.sum() for part in parts))
        plain, given = 0.0, iter(())
        if weigh and self.method.whole_batch:  # it ranks the demonstrations of all processes
            p = self._expert_logps(model, parts).exp()
            mine, (p, mask) = self._of_all_processes(p, answers.mask)
            given = iter(weigh(p, mask)[mine, : answers.mask.shape[1]].split(size))

        def loss_of(part: Answers, logits: Tensor) -> Tensor:
            nonlocal plain
            logps = token_logps(logits, part.tokens)
            plain += objectives.sft_loss(logps.detach(), part.mask, total).item()
            weights = next(given, None)
            if weigh and weights is None:
                weights = weigh(logps.detach().exp(), part.mask)
            return objectives.sft_loss(logps, part.mask, total, weights)

        value = self._over_processes(self._backward(model, parts, loss_of)).item()
        nll = self._over_processes(plain).item()
        return self._take_gradient(), {"sft_loss": value, "nll": nll}

    @torch.no_grad()
    def _expert_logps(self, model, parts: Sequence[Answers]) -> Tensor:
        """log p of this process's demonstrations, [M, T], without dropout."""
        model.eval()
        try:
            with self.compute_loss_context_manager():
                return torch.cat([token_logps(self._logits(model, p), p.tokens) for p in parts])
        finally:
            model.train()

    def _of_all_processes(self, *tables: Tensor) -> tuple[slice, list[Tensor]]:
        """[M, T] of every process as one table each, and which rows are this one's.

        Shorter ones are filled up with 0, the mask's value where there is no token.
        """
        rows, me = len(tables[0]), self.accelerator.process_index
        pad = functools.partial(self.accelerator.pad_across_processes, dim=1)
        return slice(me * rows, (me + 1) * rows), [self.accelerator.gather(pad(x)) for x in tables]

    def _influence(self, model, step: int, direction: Tensor, most: int = 128) -> tuple:
        """How demonstrations would fare along `direction`: (p, rise of log p, mask), [M, T].

        As `AMFT.influence`; in half precision, whose rounding would drown a tenth of a step either
        way, it is a whole one.
        """
        processes = self.accelerator.num_processes
        n = max(1, min(most, len(self.sft_dataset)) // processes) * processes
        answers = self._padded(self._rows(self.sft_dataset, n, step, "influence"))
        parts = micro_batches(answers, self.args.per_device_train_batch_size)
        half = self.args.bf16 or self.args.fp16
        lr = self._adam.param_groups[0]["lr"]
        length = lr * len(direction) ** 0.5 / (1 if half else 10)
        p, rise = rises(
            self._parameters, lambda: self._expert_logps(model, parts), direction, length
        )
        return tuple(self._of_all_processes(p, rise, answers.mask)[1])

    def _rows(self, dataset: Any, n: int, number: int, purpose: str) -> dict[str, list]:
        """This process's share of the `number`-th `n` rows in endless shuffled passes: columns."""
        places = shuffled_passes(len(dataset), n, number, self.args.seed, purpose)
        share = n // self.accelerator.num_processes
        first = self.accelerator.process_index * share
        return dataset[places[first : first + share].tolist()]

    def _tokenized(self, dataset: Any) -> Any:
        return tokenized(
            dataset, self._tokenize_prompts, self._tokenizer, self.processing_class,
            self.args.sft_max_length, self.chat_template_kwargs,
            self.speech if self.episode is not None else None,
        )  # fmt: skip

    def _padded(self, rows: dict[str, list]) -> Answers:
        """Tokenised demonstrations as tensors."""
        seen = None
        if "prompt_ids" not in rows:
            found = seen_prompts(rows, self.processing_class, self.chat_template_kwargs)
            rows, seen = rows | {"prompt_ids": found[0]}, found[1]
        pad, device = self._tokenizer.pad_token_id, self.accelerator.device
        return demonstration_batch(rows, pad, device, seen)

    # --- validation ------------------------------------------------------------------------------

    def _measure_utility(self, model, number: int, signals: Signals, facts: dict) -> None:
        """grad U: minus the gradient of the policy-gradient loss on fresh validation rollouts."""
        args = self.args
        columns = self._rows(
            self.validation_dataset, args.validation_prompts, number, "validation prompts"
        )
        prompts = [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
        parts, rewards = self._validation_rollouts(prompts)
        collapsing = signals.entropy < signals.target_entropy
        pushed = collapsing and self.rule.entropy_form == "gradient"
        tokens = self._over_processes(sum(part.mask.sum() for part in parts))

        def loss_of(part: Answers, logits: Tensor) -> Tensor:
            logps = token_logps(logits, part.tokens)
            loss = objectives.policy_gradient_loss(logps, part.advantages, part.mask, len(rewards))
            if pushed:
                share = objectives.masked_mean(entropy_of(logits), part.mask, tokens)
                loss = loss - args.entropy_beta * share
            return loss

        facts["validation_loss"] = self._backward(model, parts, loss_of)
        signals.grad_utility = u = -self._take_gradient()
        varied = self._over_processes(sum(part.advantages.abs().sum() for part in parts))
        signals.influence = functools.partial(self._influence, model, signals.step)
        signals.informative = bool(varied > 0) or pushed
        facts["grad_norm_utility"] = norm(u, signals.reduce).item()
        facts["validation_reward"] = self._over_processes(rewards.mean()).item()
        facts["validation_tokens"] = tokens.item() * self.accelerator.num_processes
        facts["cos_utility_sft"] = cosine(u, -signals.grad_sft, signals.reduce)
        facts["cos_utility_rl"] = cosine(u, -signals.grad_rl, signals.reduce)

    def _validation_rollouts(self, prompts: Sequence[dict]) -> tuple[list[Answers], Tensor]:
        """Fresh answers at temperature 1 in micro-batches, and the rewards [B] of all.

        Sampled in rounds of whole prompts, about as many rows as TRL samples at a time.
        """
        n = self.args.validation_rollouts
        room = self._room(n)
        parts, rewards = [], []
        with self._validating(n):
            for start in range(0, len(prompts), room):
                rows = [row for row in prompts[start : start + room] for _ in range(n)]
                batch = self._generate_and_score_completions(rows)
                advantages = objectives.leave_one_out_advantages(self._rewards, n)
                answers = answers_of(batch)._replace(advantages=advantages)
                parts += micro_batches(answers, self.args.per_device_train_batch_size)
                rewards.append(self._rewards)
        return parts, torch.cat(rewards)

    @contextlib.contextmanager
    def _validating(self, rollouts: int, greedy: bool = False) -> Iterator[None]:
        """TRL set to sample validation prompts at temperature 1, or `greedy` to write the likeliest
        tokens; its metrics and completion tables are untouched."""
        vllm, own = (getattr(self, n, None) for n in ("vllm_generation", "generation_config"))
        engines = [e for e in (self, vllm, own) if e is not None and hasattr(e, "temperature")]
        heats = [e.temperature for e in engines]
        drawn = own and (own.do_sample, own.top_k)
        kept = self._metrics["eval"], self._logs, self.num_generations_eval
        self._metrics["eval"] = defaultdict(list)
        fresh = {k: deque() if isinstance(v, deque) else defaultdict(deque)
                 for k, v in self._logs.items()}  # fmt: skip
        self._logs, self.num_generations_eval = fresh, rollouts
        for engine in engines:  # 0 is vLLM's word for greedy, do_sample that of transformers
            engine.temperature = 0.0 if greedy and engine is vllm else 1.0
        if own is not None:
            own.do_sample = not greedy
            if greedy:
                own.top_k = 50  # the default, without effect; else transformers warns of TRL's
        self.model.eval()
        try:
            yield
        finally:
            self.model.train()
            if own is not None:
                own.do_sample, own.top_k = drawn
            for engine, heat in zip(engines, heats, strict=True):
                engine.temperature = heat
            self._metrics["eval"], self._logs, self.num_generations_eval = kept

    # --- answers for an evaluation ---------------------------------------------------------------

    def answers(
        self,
        prompts: Sequence[Any],
        n: int,
        greedy: bool = False,
        episode: MakeEpisode | None = None,
    ) -> list[list[Completion]]:
        """`n` fresh answers to every prompt, temperature 1 or the likeliest, by the sampler that
        trains. A prompt's images are content blocks of its messages.

        With `episode`, `prompts` are rows, and the answers of a dialogue come as one tuple.

        Processes share the work, and each gets all of it. Draws come from the global random state;
        metrics and completion tables stay as they are.
        """
        me, processes = self.accelerator.process_index, self.accelerator.num_processes
        filled = [*prompts, *[prompts[-1]] * (-len(prompts) % processes)]  # all take equal rounds
        mine, room = filled[me::processes], self._room(n)
        found: list[list[Completion]] = []
        with self._validating(n, greedy), torch.no_grad():
            for start in range(0, len(mine), room):
                rows = [prompt for prompt in mine[start : start + room] for _ in range(n)]
                if episode is not None:
                    texts = self.converse(rows, episode)[2]
                else:
                    texts = self._generate(rows)[3]
                    texts = [t if isinstance(t, str) else t[-1]["content"] for t in texts]
                found += [texts[i : i + n] for i in range(0, len(texts), n)]
        shares = gather_object([found])
        return [shares[i % processes][i // processes] for i in range(len(prompts))]

    def _room(self, n: int) -> int:
        """Prompts with `n` answers each that are sampled at a time: about TRL's own number."""
        rows = self.args.per_device_train_batch_size * self.args.steps_per_generation
        return max(1, rows // n)

    # --- entropy ---------------------------------------------------------------------------------

    def _get_per_token_logps_and_entropies(self, model, *args, **kwargs):
        """TRL's; what it finds about the entropy while training is kept."""
        found = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        entropies = found[1]
        if torch.is_grad_enabled() and entropies is not None and self.temperature == 1.0:
            attention = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
            mask = attention[:, -entropies.shape[1] :]
            mask = mask if self._own is None else mask * self._own
            total = objectives.masked_mean(entropies.detach().float(), mask, 1.0)
            self._entropy.append(torch.stack((total, mask.sum().float())))
        return found

    def _window_entropy(self, model) -> float:
        """Nats a token of this step's rollouts, all processes, temperature 1.

        Read from TRL's own forward where that was at temperature 1; otherwise measured by a plain
        one, for the rules that use it.
        """
        found, self._entropy = self._entropy, []
        if not found:
            if self.rule.entropy_form == "off":
                return math.nan
            found = [self._measured_entropy(model)]
        total, count = self.accelerator.reduce(torch.stack(found).sum(0), reduction="sum")
        return (total / count.clamp(min=1)).item()

    @torch.no_grad()
    def _measured_entropy(self, model) -> Tensor:
        sums = torch.zeros(2, device=self.accelerator.device)
        for batch in self._window():
            answers = answers_of(batch)
            entropy = objectives.token_entropy(self._logits(model, answers))
            total = objectives.masked_mean(entropy, answers.mask, 1.0)
            sums += torch.stack((total, answers.mask.sum().float()))
        return sums

    # --- continuing ------------------------------------------------------------------------------

    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        folder = os.path.join(self._get_output_dir(trial=trial), name)
        self.accelerator.wait_for_everyone()  # ours is the last file: where it is, all are
        if self._reduce is None and not self.args.should_save:
            return
        state = {
            "rule": self.rule.state_dict(),
            "target_entropy": self.target_entropy,
            "micro_step": self._step,
            "config": comparable(self.args),
        }
        if self.critic is not None:
            state["critic"] = self.critic.state_dict()
            state["critic_optimizer"] = self.critic_optimizer.state_dict()
        path = os.path.join(folder, self._state_name())
        torch.save(state, f"{path}.partial")
        os.replace(f"{path}.partial", path)

    def _state_name(self) -> str:
        """One file; where gradients are sharded, one a process."""
        return STATE if self._reduce is None else f"{self.accelerator.process_index}-{STATE}"

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        """As transformers 5.17 does, but for whole vision-language models: their files name weights
        as the hub does, which it forgets to translate there, and goes on with those of the base."""
        own = self.accelerator.unwrap_model(model or self.model)
        config = os.path.join(resume_from_checkpoint, "config.json")
        if not (sees(own.config) and os.path.isfile(config)) or self.is_fsdp_enabled:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        saved = type(own).from_pretrained(resume_from_checkpoint, dtype=own.dtype)
        own.load_state_dict(saved.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        path = os.path.join(checkpoint, self._state_name())
        if not os.path.isfile(path):
            raise TrainerInputError(
                f"{checkpoint} is no checkpoint of AMFTTrainer: {os.path.basename(path)} is "
                "missing, with mu and its averages in it."
            )
        state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
        refuse_other_config(state["config"], comparable(self.args), checkpoint)
        self.rule.load_state_dict(state["rule"])
        self.target_entropy, self._step = state["target_entropy"], state["micro_step"]
        if self.critic is not None:
            self.critic.load_state_dict(state["critic"])
            self.critic_optimizer.load_state_dict(state["critic_optimizer"])


def entropy_of(logits: Tensor, size: int = 256) -> Tensor:
    """`objectives.token_entropy`, by `size` tokens at a time and computed again in the backward
    pass: autograd keeps no [B, T, V] table but the logits themselves."""
    pieces = [checkpoint(objectives.token_entropy, part, use_reentrant=False)
              for part in logits.split(size, dim=1)]  # fmt: skip
    return torch.cat(pieces, dim=1)
