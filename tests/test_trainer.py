"""AMFTTrainer's own promises: resume, refusals, what it pays for, what it needs of TRL."""

import functools
import inspect
import json
import math

import pytest
import torch
from datasets import Dataset
from trl import GRPOTrainer

from amft_lite import trainer_inputs as ti
from amft_lite.models import word_tokenizer
from amft_lite.objectives import token_entropy
from amft_lite.real_models import STATE
from amft_lite.tasks import load_task
from amft_lite.trainer import AMFTConfig, AMFTTrainer, TrainerInputError, entropy_of
from amft_lite.weighting import RULES
from tests.parity import Recording, policy, trainer
from tests.test_trainer_parity import stop_after


def weights(made):
    return torch.cat([p.detach().float().flatten() for p in made.model.parameters()])


def settings(folder, **changes):
    plain = {
        "output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": [],
        "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6,
        "save_strategy": "no", "disable_tqdm": True, "max_steps": 2, "sft_warmup_steps": 0,
        "logging_steps": 1,
        "sft_batch_size": 4, "validation_prompts": 2, "validation_rollouts": 4, "meta_every": 1,
    }  # fmt: skip
    return AMFTConfig(**{**plain, **changes})


def rows(kind, n=12):
    return [{"prompt": f"{i} {i} | {'; ' * (kind == 'validation')}"} for i in range(n)]


DEMOS = [{"prompt": f"{i} :", "completion": f"{i} + 1 = {i + 1}"} for i in range(6)]


def reward(completions, **_):
    return [float(len(text) % 2) for text in completions]


def make(folder, reward=reward, model=None, callbacks=None, **given):
    tiny, tokenizer = policy()
    names = ("train", "sft", "validation", "method", "peft_config", "optimizers")
    data = {
        "train": rows("train"), "sft": DEMOS, "validation": rows("validation"), "method": "amft",
        "peft_config": None, "optimizers": (None, None),
    } | {k: given.pop(k) for k in names if k in given}  # fmt: skip
    return AMFTTrainer(
        model or tiny, reward, settings(folder, **given), data["train"],
        sft_dataset=data["sft"], validation_dataset=data["validation"], method=data["method"],
        processing_class=tokenizer, peft_config=data["peft_config"], callbacks=callbacks,
        optimizers=data["optimizers"],
    )  # fmt: skip


# --- what it needs of TRL -------------------------------------------------------------------------

OVERRIDDEN = {
    "training_step": ["self", "model", "inputs", "num_items_in_batch"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
    "_tokenize_prompts": ["self", "prompts"],
}


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_trl_still_has_the_methods_that_we_override_or_call(name):
    import trl

    found = list(inspect.signature(getattr(GRPOTrainer, name)).parameters)
    assert found == OVERRIDDEN[name], (
        f"TRL {trl.__version__} changed GRPOTrainer.{name} from {OVERRIDDEN[name]} to {found}; "
        "amft_lite/trainer.py was written for the former: read both before raising the bound."
    )


def test_trl_still_finds_log_probabilities_as_we_read_them():
    """(logps, entropies, ...) from (model, input_ids, attention_mask, logits_to_keep)."""
    parameters = list(inspect.signature(GRPOTrainer._full_logits_logps).parameters)
    assert parameters[:5] == ["self", "model", "input_ids", "attention_mask", "logits_to_keep"]


# --- resume ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "advantage"), [("amft", "group"), ("amft", "gae"), ("amft_gate", "group")]
)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, monkeypatch, method, advantage):
    monkeypatch.setattr("amft_lite.gate.EDGES", (0.001, 0.004, 0.01, 0.03))  # as random experts

    def run(folder, resume=None, stop=None):
        # at .4: amft_gate brings another start of mu along
        made = trainer(tmp_path / folder, advantage=advantage, method=method, mu_start=0.4)
        made.unrecorded()
        made.args.save_strategy, made.args.save_steps = "steps", 2
        if stop:
            stop_after(made, stop)
        made.train(resume_from_checkpoint=resume)
        return made

    whole = run("whole")
    run("half", stop=4)
    resumed = run("half", resume=str(tmp_path / "half" / "checkpoint-4"))
    assert resumed.state.global_step == 6
    assert torch.equal(weights(whole), weights(resumed))
    assert whole.rule.mu == resumed.rule.mu != 0.4
    assert [mu for _, mu, _ in whole.rule.seen][-2:] == [mu for _, mu, _ in resumed.rule.seen]
    assert whole.target_entropy == resumed.target_entropy
    if method == "amft_gate":
        for name in ("gate", "trust"):
            assert torch.equal(getattr(whole.rule, name), getattr(resumed.rule, name))
        assert whole.rule.gate.tolist() != [0.0, 0.0, 1.0, 1.0, 1.0]
    if advantage == "gae":
        for a, b in zip(whole.critic.parameters(), resumed.critic.parameters(), strict=True):
            assert torch.equal(a, b)


def test_a_checkpoint_of_another_config_is_refused_by_the_key(tmp_path):
    first = make(tmp_path, save_strategy="steps", save_steps=1)
    first.train()
    checkpoint = str(tmp_path / "checkpoint-1")
    other = make(tmp_path, eta_mu=0.25)
    with pytest.raises(TrainerInputError, match=r"eta_mu=1\.0, this run has 0\.25"):
        other.train(resume_from_checkpoint=checkpoint)
    (tmp_path / "checkpoint-1" / STATE).unlink()
    with pytest.raises(TrainerInputError, match="no checkpoint of AMFTTrainer"):
        make(tmp_path).train(resume_from_checkpoint=checkpoint)


def test_a_checkpoint_from_before_a_setting_existed_is_that_of_its_default():
    given = ti.comparable(settings("x"))
    old = {k: v for k, v in given.items() if k not in ("eta_gate", "trace_decay")}
    ti.refuse_other_config(old, given, "checkpoint-1")
    with pytest.raises(TrainerInputError, match=r"eta_gate=0\.2, this run has 0\.5"):
        ti.refuse_other_config(old, given | {"eta_gate": 0.5}, "checkpoint-1")


def test_settings_of_output_and_length_may_differ_on_resume(tmp_path):
    plain = ti.comparable(settings(tmp_path))
    free = {"max_steps": 9, "logging_steps": 3, "save_strategy": "steps", "save_steps": 7,
            "output_dir": "x", "run_name": "y", "disable_tqdm": False}  # fmt: skip
    assert ti.comparable(settings(**{"folder": tmp_path, **free})) == plain
    fixed = {"learning_rate": 1e-3, "num_generations": 8, "seed": 1, "mu_start": 0.3,
             "max_grad_norm": 0.5, "temperature": 0.7}  # fmt: skip
    for key, value in fixed.items():
        assert ti.comparable(settings(tmp_path, **{key: value})) != plain


# --- what it pays for -----------------------------------------------------------------------------


def test_warmup_and_sft_sample_nothing_and_rl_reads_no_demonstration(tmp_path, monkeypatch):
    calls = []
    original = GRPOTrainer._generate_single_turn

    def counting(self, *args, **kwargs):
        calls.append(self.state.global_step)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", counting)
    make(tmp_path, method="sft").train()
    assert calls == []
    make(tmp_path, sft_warmup_steps=1, max_steps=3, meta_every=2).train()
    assert calls == [1, 1, 2]  # rollouts and validation, then rollouts
    made = make(tmp_path, method="rl", sft=None, validation=None)
    assert made.sft_dataset is None and made.validation_dataset is None
    made.train()


@pytest.mark.parametrize("method", RULES)
def test_every_method_trains(tmp_path, method):
    given = {"validation": DEMOS_HELD_OUT} if method == "official_code" else {}
    made = make(tmp_path, method=method, entropy_form="equation", **given)
    before = weights(made)
    made.train()
    after = weights(made)
    assert after.isfinite().all() and not torch.equal(before, after)
    [last] = [h for h in made.state.log_history if "amft/mu" in h][-1:]
    assert last["amft/mu"] == made.rule.mu


DEMOS_HELD_OUT = [{"prompt": f"{i} ; :", "completion": f"{i} + 2 = {i + 2}"} for i in range(6)]


def test_a_method_brings_its_defaults_along_where_asked(tmp_path):
    made = AMFTConfig.for_method("published", output_dir=str(tmp_path), use_cpu=True, bf16=False)
    assert (made.mu_start, made.meta_every) == (0.8, 20)
    assert AMFTConfig.for_method("rl", output_dir="x", use_cpu=True, bf16=False,
                                 mu_max=0.9).sft_warmup_steps == 0  # fmt: skip


def test_a_rule_of_ones_own_is_asked_every_step(tmp_path):
    class Alternating:
        mu, parts, validation, every, entropy_form = 0.5, {}, None, 0, "off"

        def planned(self, *_):
            return None

        def update(self, signals):
            assert signals.grad_sft.norm() > 0
            self.mu = 0.25 if signals.step % 2 else 0.75
            return self.mu

        def state_dict(self):
            return {"mu": self.mu}

    made = make(tmp_path, method=Alternating())
    made.train()
    assert [h["amft/mu"] for h in made.state.log_history if "amft/mu" in h] == [0.75, 0.25]


# --- precision, adapters --------------------------------------------------------------------------


def test_lora_trains_adapters_alone_and_holds_gradients_of_their_size(tmp_path):
    from peft import LoraConfig

    peft = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    made = make(tmp_path, peft_config=peft, max_steps=3, gradient_checkpointing=True)
    frozen = {n: p.clone() for n, p in made.model.named_parameters() if not p.requires_grad}
    made.train()
    assert all(torch.equal(p, frozen[n]) for n, p in made.model.named_parameters() if n in frozen)
    # r (in + out) for q, k, v, o of 64 x 64 and gate, up, down of 64 x 168, three layers
    adapters = 3 * 4 * (4 * (64 + 64) + 3 * (64 + 168))
    assert sum(p.numel() for p in made._parameters) == adapters
    a = made.rule.averages
    assert a.sft.shape == a.rl.shape == a.utility.shape == (adapters,)
    assert all(g.norm() > 0 for g in (a.sft, a.rl, a.utility))


@pytest.mark.parametrize("seen", ["sampling", "nothing"])
def test_gradients_pass_through_4_bit_weights_also_after_sampling(tmp_path, seen):
    """On CPUs with AVX512-BF16 bitsandbytes 0.50 repacks weights when they are first used in eval
    mode, for a product without a gradient; those of the layers below would be lost."""
    from amft_lite.real_models import load_model

    model, _ = load_model("tiny", quantization="nf4", lora_rank=4, dtype="bfloat16")
    with torch.no_grad():  # LoRA starts with B = 0, and then no gradient reaches A
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    made = make(tmp_path, model=model, bf16=True)
    made.create_optimizer()
    if seen == "sampling":
        made.answers(["1 1 |", "2 2 |"], 2)
    rows = made.sft_dataset[list(range(len(DEMOS)))]
    made.accelerator.gradient_state._set_sync_gradients(True)
    grad, _ = made._nll_gradient(made.model.train(), rows)

    # the same with the frozen weights written out: no 4-bit kernel in it
    import bitsandbytes as bnb
    from torch import nn

    def written_out(layer):
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False)
        state = layer.weight.quant_state
        plain.weight.data = bnb.functional.dequantize_4bit(layer.weight.data, state).bfloat16()
        return plain.requires_grad_(False)

    for module in list(made.model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, bnb.nn.Linear4bit):
                setattr(module, name, written_out(child))
    expected, _ = made._nll_gradient(made.model.train(), rows)
    assert (grad - expected).norm() < 0.05 * expected.norm()  # bf16


def test_adapters_of_a_4_bit_model_are_trained_as_they_were_given(tmp_path):
    """TRL rounds them to bf16."""
    from amft_lite.real_models import load_model

    model, _ = load_model("tiny", quantization="nf4", lora_rank=4, dtype="bfloat16")
    adapters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for p in adapters.values():  # as after some training: no longer numbers of bf16
        p.data = torch.rand(p.shape, generator=torch.Generator().manual_seed(1))
    before = {n: p.detach().clone() for n, p in adapters.items()}
    make(tmp_path, model=model, bf16=True)
    assert all(torch.equal(p, before[n]) and p.dtype == torch.float32
               for n, p in model.named_parameters() if p.requires_grad)  # fmt: skip


def test_adapters_that_trl_makes_for_a_4_bit_model_are_float32(tmp_path):
    from peft import LoraConfig

    from amft_lite.real_models import load_model

    model, _ = load_model("tiny", quantization="nf4", lora_rank=4, dtype="bfloat16")
    peft = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    made = make(tmp_path, model=model.unload(), bf16=True, peft_config=peft)
    adapters = [p for n, p in made.model.named_parameters() if "lora_" in n]
    assert adapters and all(p.dtype == torch.float32 and p.requires_grad for p in adapters)


def test_the_entropy_of_a_utility_keeps_no_table_but_the_logits():
    """Same numbers and gradients; what autograd keeps is counted."""
    logits = torch.randn(2, 7, 50, generator=torch.Generator().manual_seed(0))
    found, kept = [], []
    for entropy in (token_entropy, functools.partial(entropy_of, size=3)):
        x, large = logits.clone().requires_grad_(), {}

        def keep(t, large=large):
            if t.numel() >= 50 * 6:  # tables, not masks of tokens
                large[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            out = entropy(x)
        kept.append(sum(large.values()))
        (out * torch.arange(14.0).view(2, 7)).sum().backward()
        found.append((out.detach(), x.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], atol=1e-7)
    assert kept[0] > logits.nbytes and kept[1] <= logits.nbytes


def test_bf16_weights_train_with_float32_averages(tmp_path):
    model, _ = policy()
    made = make(tmp_path, model=model.to(torch.bfloat16), bf16=True)
    made.train()
    assert made.rule.averages.sft.dtype == torch.float32
    assert weights(made).isfinite().all()


def test_the_gradient_scaler_of_fp16_changes_nothing_but_scale(tmp_path):
    """fp16 needs a GPU; its scaler does not. Gradients shown to the rule are unscaled, the step is
    that of an unscaled run, and an overflow skips both the step and the rule."""

    def run(scale):
        made = trainer(tmp_path / str(scale))
        if scale:
            made.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
            # accelerate unscales before clipping in fp16 only, which a CPU does not have
            scaler = made.accelerator.scaler
            made.accelerator.unscale_gradients = lambda: scaler.unscale_(made._adam)
        stop_after(made, 2)
        made.train()
        return made

    plain, scaled = run(None), run(1024.0)
    for (a, mu, _), (b, other, _) in zip(plain.rule.seen, scaled.rule.seen, strict=True):
        assert torch.allclose(a.grad_sft, b.grad_sft, rtol=1e-4, atol=1e-7)
        assert torch.allclose(a.grad_rl, b.grad_rl, rtol=1e-4, atol=1e-7)
        assert mu == pytest.approx(other, abs=1e-6)
    assert torch.allclose(weights(plain), weights(scaled), atol=1e-5)
    overflown = run(1e38)
    assert overflown.rule.seen == [] and overflown.rule.mu == 0.5
    start, _ = policy()
    assert torch.equal(weights(overflown), torch.cat([p.flatten() for p in start.parameters()]))


# --- demonstrations -------------------------------------------------------------------------------


def test_demonstrations_end_with_end_of_text_and_are_padded_on_the_right(tmp_path):
    experts = [*DEMOS[:1], {"prompt": "1 2 3 :", "completion": "4"}]
    made = make(tmp_path, sft=experts)
    batch = made._padded(made.sft_dataset[[0, 1]])
    tokenizer = word_tokenizer(load_task("general_points"))
    text = tokenizer.convert_ids_to_tokens
    assert text(batch.tokens[0]) == "0 + 1 = 1 <eos>".split()
    assert text(batch.tokens[1]) == "4 <eos> <pad> <pad> <pad> <pad>".split()
    assert text(batch.ids[0][:4]) == "<pad> <pad> 0 :".split()
    assert batch.mask.sum(1).tolist() == [6, 2] and batch.attention.sum(1).tolist() == [8, 6]
    short = make(tmp_path, sft=experts, sft_max_length=3)
    assert short._padded(short.sft_dataset[[0]]).tokens.shape == (1, 3)


def test_tokenising_demonstrations_does_not_copy_the_model(tmp_path, monkeypatch):
    """datasets pickles the functions it maps with, to know a cached result again."""
    from torch import nn

    def pickled(self, protocol):
        raise AssertionError("the model is being pickled")

    monkeypatch.setattr(nn.Module, "__reduce_ex__", pickled)
    assert len(make(tmp_path).sft_dataset) == len(DEMOS)


def test_messages_are_split_before_the_expert_s(tmp_path):
    chat = [{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"},
                          {"role": "assistant", "content": "a"}]}]  # fmt: skip
    [row] = ti.demonstrations(chat)
    assert [m["content"] for m in row["prompt"]] == ["s", "u"]
    assert [m["content"] for m in row["completion"]] == ["a"]
    with pytest.raises(TrainerInputError, match="row 0 must end with a message of the assistant"):
        ti.demonstrations([{"messages": chat[0]["messages"][:2]}])


# --- one sentence each ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"train": None}, "train_dataset is missing; it needs the column prompt"),
        ({"train": []}, "train_dataset is empty"),
        ({"train": [{"question": "1"}]}, "train_dataset has no column prompt; it has question"),
        ({"train": "a path"}, "must be a datasets.Dataset or a list of dicts, not str"),
        ({"sft": None}, "sft_dataset is missing"),
        ({"sft": Dataset.from_list([])}, "sft_dataset is empty"),
        ({"sft": [{"prompt": "1"}]}, "sft_dataset has no column completion; it has prompt"),
        ({"validation": None}, "validation_dataset is missing"),
        ({"validation": [{"text": "1"}]}, "validation_dataset has no column prompt"),
        ({"validation": rows("train")}, "12 prompts of validation_dataset are also in train_data"),
        ({"validation": [{"prompt": "3 :"}]}, "1 prompts of validation_dataset are also in sft_da"),
        ({"method": "amtf"}, "no method is called 'amtf'; did you mean amft"),
        ({"method": "official_code"}, "validation_dataset has no column completion"),
        ({"num_generations": 1}, "num_generations must be at least 2, not 1"),
        ({"advantage": "gea"}, "advantage must be group or gae, not 'gea'"),
        ({"entropy_form": "equatoin"}, "entropy_form must be off, equation, text or gradient, not"),
        ({"direction": "sdg"}, "direction must be adam, sgd or naive, not 'sdg'"),
        ({"gate_start": "shut"}, "gate_start must be open or sceptical, not 'shut'"),
        ({"mu_min": 0.9, "mu_max": 0.1}, "mu_min (0.9) and mu_max (0.1) must lie in [0, 1]"),
        ({"width": 0.0}, "width must be above 0, not 0.0"),
        ({"validation_rollouts": 1}, "validation_rollouts must be at least 2, not 1"),
        ({"optim": "adafactor"}, "optim must be adamw_torch or adamw_torch_fused, not adafactor"),
        ({"optimizers": (torch.optim.SGD([torch.zeros(1)], 0.1), None)},
         "optimizers must hold torch's Adam or AdamW, not SGD"),
        ({"steps_per_generation": 4, "save_strategy": "steps", "save_steps": 6},
         "save_steps (6) must be a multiple of 4"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(tmp_path, given, sentence):
    with pytest.raises(TrainerInputError) as caught:
        make(tmp_path / "out", **given)
    text = str(caught.value)
    assert sentence in text and text[-1] in ".?" and "\n" not in text
    assert not (tmp_path / "out").exists()


def test_settings_for_a_method_that_only_the_loop_has_are_refused():
    for name, sentence in (("hpt", "works in runs without `model` only"), ("x", "no method is")):
        with pytest.raises(TrainerInputError, match=sentence):
            AMFTConfig.for_method(name)


def test_a_process_that_sees_several_gpus_is_refused(tmp_path):
    args = settings(tmp_path)
    ti.refuse_setting(args, {})
    args._n_gpu = 2
    with pytest.raises(TrainerInputError, match=r"sees 2 GPUs.*CUDA_VISIBLE_DEVICES=0"):
        ti.refuse_setting(args, {})


def test_a_trace_that_begins_by_exploring_still_has_its_demonstrations(tmp_path):
    trainer = make(tmp_path, method="replay", trace="0.0 0.5", sft_warmup_steps=0, max_steps=2)
    trainer.train()
    logs = [x for x in trainer.state.log_history if "amft/mu" in x]
    assert [x["amft/mu"] for x in logs] == [0.0, 0.5] and "amft/sft_loss" in logs[1]


def test_deepspeed_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(TrainerInputError, match="cannot run under DeepSpeed"):
        settings(tmp_path, deepspeed={"zero_optimization": {"stage": 2}})


def test_ppo_with_unsloth_on_a_gpu_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "unsloth", object())
    ti.refuse_setting(settings(tmp_path, advantage="gae"), {})  # without a GPU it works
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(TrainerInputError, match="does not work with unsloth on a GPU"):
        ti.refuse_setting(settings(tmp_path, advantage="gae"), {})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (lambda n: [math.nan] * n, "returned 8 rewards of 8 that are not finite"),
        (lambda n: [0.0] * (n - 1) + [math.inf], "returned 1 rewards of 8 that are not finite"),
        (lambda n: [0.0] * (n + 1), "returned 9 rewards for 8 completions"),
    ],
)
def test_rewards_that_cannot_be_used_stop_the_run(tmp_path, values, sentence):
    def odd(completions, **_):
        return values(len(completions))

    with pytest.raises(TrainerInputError, match=f"reward function odd {sentence}"):
        make(tmp_path, reward=odd).train()


def test_a_completion_without_a_grade_is_no_error(tmp_path):
    def shy(completions, **_):
        return [None if i % 3 == 0 else float(i % 2) for i in range(len(completions))]

    made = make(tmp_path, reward=shy)
    made.train()
    assert weights(made).isfinite().all()


def test_checkpoints_carry_what_json_can_hold(tmp_path):
    assert json.dumps(ti.comparable(settings(tmp_path)))
    assert Recording().prompts("train", 2) == Recording().prompts("train", 2)
