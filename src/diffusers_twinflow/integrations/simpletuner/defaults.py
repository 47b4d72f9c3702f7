"""SimpleTuner's default values under our option names.

Recipes leave out options that have SimpleTuner's default, so these values are needed to train the same way.
"""

VERSION = "4.8.0"  # the tables of this package come from this version

DEFAULTS = {
    "allow_tf32": True,
    "caption_dropout_probability": 0.1,
    "checkpoints_total_limit": 5,
    "gradient_checkpointing": True,
    "learning_rate": 4e-7,
    "lr_power": 0.8,
    "lr_scheduler": "constant_with_warmup",
    "max_grad_norm": 2.0,
    "mixed_precision": "bf16",
    "num_validation_images": 1,
    "resolution": 1024,
    "train_batch_size": 4,
    "train_type": "full",
    "validation_steps": 100,
}
LORA_DEFAULTS = {"lora_dropout": 0.1, "rank": 16}
OPTIMIZER_DEFAULTS = {
    "adamw": {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-6, "adam_weight_decay": 0.01},
    "prodigy": {
        "adam_beta1": 0.9,
        "adam_beta2": 0.99,
        "adam_epsilon": 1e-8,
        "adam_weight_decay": 0.0,
        "prodigy_use_bias_correction": False,
    },
}
EMA_DECAY = 0.995
NUM_TRAIN_EPOCHS = 1  # if the recipe has no max_train_steps
