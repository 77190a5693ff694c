"""The settings of a run of a real model in TRL's and transformers' names."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from amft_lite.config import ConfigError, ModelConfig
from amft_lite.real_models import compute_dtype


def trainer_config(
    c: ModelConfig, folder: Path, new_tokens: int, episode_tokens: int | None = None
) -> Any:
    """The AMFTConfig of a ModelConfig: TRL's and transformers' names for the kit's settings.

    `episode_tokens`, of whole dialogues; None for a task that is none.
    """
    from amft_lite.trainer import AMFTConfig
    from amft_lite.trainer_inputs import TrainerInputError

    rows = c.prompts_per_step * c.rollouts_per_prompt // (c.accumulation * c.processes)
    cpu = not torch.cuda.is_available()
    compute = compute_dtype(c.dtype, c.quantization)
    ours = "advantage gamma gae_lambda value_lr entropy_beta validation_prompts validation_rollouts"
    same = {name: getattr(c, name) for name in ours.split()} | asdict(c.rule_options())
    same = {name: value for name, value in same.items() if name in AMFTConfig.__dataclass_fields__}
    try:
        return AMFTConfig(
            output_dir=str(folder),
            max_steps=c.steps,
            per_device_train_batch_size=rows,
            per_device_eval_batch_size=rows,  # TRL's, of validation rollouts
            gradient_accumulation_steps=c.accumulation,
            num_generations=c.rollouts_per_prompt,
            num_iterations=c.inner_epochs,
            max_completion_length=new_tokens,
            temperature=c.temperature,
            scale_rewards="group" if c.advantage_scale == "std" else "none",
            epsilon=c.clip_range,
            learning_rate=c.lr,
            lr_scheduler_type=c.lr_schedule,
            warmup_steps=c.lr_warmup_steps,
            adam_beta1=c.beta1,
            adam_beta2=c.beta2,
            weight_decay=c.weight_decay,
            max_grad_norm=c.max_grad_norm,
            sft_batch_size=c.sft_batch,
            sft_warmup_steps=c.warmup_steps,
            sft_max_length=None if episode_tokens else new_tokens,  # a dialogue is kept whole
            gradient_checkpointing=c.gradient_checkpointing == "on",
            bf16=compute is torch.bfloat16,
            fp16=compute is torch.float16 and not cpu,
            use_cpu=cpu,
            use_vllm=c.vllm != "off",
            vllm_mode=c.vllm if c.vllm != "off" else "colocate",
            vllm_gpu_memory_utilization=c.vllm_memory,
            shuffle_dataset=False,  # the task has shuffled, by the seed, as for the loop
            save_steps=c.save_every,
            save_total_limit=c.keep_checkpoints,
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
            **({"max_episode_tokens": episode_tokens} if episode_tokens else {}),
            **same,
        )
    except TrainerInputError as error:
        raise ConfigError(str(error)) from None
