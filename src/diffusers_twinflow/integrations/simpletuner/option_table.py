"""The one table of SimpleTuner's options: what each option becomes here, or why it has no effect or is refused.

docs/simpletuner.md is generated from it.
"""

from dataclasses import fields

from ...configuration import TwinFlowConfig
from . import values
from .treatments import Converted, Ignored, Refused, Renamed, Treatment

OTHER_NAMES = {
    "base_model_revision": "revision",
    "ema_decay": "twinflow_ema_decay",
    "lora_rank": "rank",
    "lr_scale": "scale_lr",
    "optimizer_beta1": "adam_beta1",
    "optimizer_beta2": "adam_beta2",
    "tokenizer_max_length": "max_sequence_length",
}
SAME_NAMES = """
    adam_beta1 adam_beta2 adam_epsilon adam_weight_decay allow_tf32 cache_dir caption_dropout_probability
    checkpoints_total_limit dataset_name gradient_accumulation_steps gradient_checkpointing
    hub_model_id instance_data_dir learning_rate logging_dir lora_alpha lora_dropout lr_num_cycles lr_power
    lr_warmup_steps mixed_precision num_validation_images output_dir pretrained_model_name_or_path
    push_to_hub report_to resume_from_checkpoint revision seed train_batch_size use_ema variant
"""
SWITCHES = {
    "allow_tf32",
    "gradient_checkpointing",
    "lr_scale",
    "push_to_hub",
    "use_ema",
    *(field.name for field in fields(TwinFlowConfig) if field.type is bool),
}
RENAMED = {
    name: Renamed(new, is_switch=name in SWITCHES)
    for name, new in {
        **OTHER_NAMES,
        **{name: name for name in SAME_NAMES.split()},
        **{name: name for name in TwinFlowConfig.option_names()},
    }.items()
}

ZERO_IS_NEVER = {
    "checkpoint_step_interval": "checkpointing_steps",
    "checkpointing_steps": "checkpointing_steps",
    "max_grad_norm": "max_grad_norm",
    "validation_step_interval": "validation_steps",
    "validation_steps": "validation_steps",
}
CONVERTED = {
    **{name: Converted((new,), values.never_at_zero(new), always=True) for name, new in ZERO_IS_NEVER.items()},
    "base_model_precision": Converted(("quantize_base",), values.quantization, values.quantization_note),
    "data_backend_config": Converted(("instance_data_dir", "dataset_name", "data_files"), values.nothing),
    "disable_tf32": Converted(("allow_tf32",), values.opposite("disable_tf32", "allow_tf32"), is_switch=True),
    "flux_lora_target": Converted(("lora_layers",), values.flux_lora_target),
    "guidance_scale": Converted((), values.no_guidance("guidance_scale"), with_twinflow=True),
    "init_lora": Converted(("base_loras",), values.start_lora("init_lora"), values.start_lora_note),
    "init_lora_from": Converted(("base_loras",), values.start_lora("init_lora_from"), values.start_lora_note),
    "instance_prompt": Converted(("instance_prompt",), values.unchanged("instance_prompt")),
    "lora_type": Converted(("train_type",), values.lora_type, values.lora_type_note),
    "loss_type": Converted((), values.nothing, values.loss_type_note),
    "lr_scheduler": Converted(("lr_scheduler",), values.lr_scheduler, always=True),
    "max_train_steps": Converted(("max_train_steps",), values.unless_off("max_train_steps"), always=True),
    "model_family": Converted(("pretrained_model_name_or_path",), values.model_family),
    "model_flavour": Converted(("pretrained_model_name_or_path",), values.model_flavour),
    "model_type": Converted(("train_type",), values.model_type),
    "num_train_epochs": Converted(("num_train_epochs",), values.unless_off("num_train_epochs"), always=True),
    "only_instance_prompt": Converted(("caption_strategy",), values.nothing),
    "optimizer": Converted(("optimizer",), values.optimizer, values.optimizer_note, always=True),
    "peft_lora_target_modules": Converted(("lora_layers",), values.lora_layers),
    "prepend_instance_prompt": Converted((), values.nothing),
    "resolution": Converted(("resolution",), values.nothing, always=True),
    "validation_disable": Converted(("validation_prompts",), values.nothing),
    "validation_epoch_interval": Converted(("validation_epochs",), values.unless_off("validation_epochs")),
    "validation_num_inference_steps": Converted(("twinflow_target_step_count",), values.validation_steps),
    "validation_prompt": Converted(("validation_prompts",), values.validation_prompt, always=True),
    "validation_resolution": Converted(
        ("validation_resolution",), values.validation_resolution, values.validation_resolution_note, always=True
    ),
}

OWN_LOSS = "the loss is the loss of TwinFlow; leave it out"
OTHER_WEIGHTS = "only the denoiser of the base is trained; leave it out"
OTHER_BASE = "save a pipeline that includes this part, and set pretrained_model_name_or_path to its folder"
OTHER_LORA = "set base_loras to its path, which merges it into the base"
GIVEN_FRAMES = "samples have no reference images and no given frames; leave it out"
SCHEDULED_SAMPLING = "scheduled sampling must be off"
REFUSED = {
    "assistant_lora_path": Refused(OTHER_LORA),
    "control": Refused("the base gets no control image; leave it out"),
    "controlnet": Refused("it trains a ControlNet, and TwinFlow trains the base itself; leave it out"),
    "crepa_enabled": Refused(OWN_LOSS),
    "diffusion_blocks_config": Refused("it trains each block for a part of the times, but a jump needs all of them"),
    "distillation_method": Refused("it is another distillation method; leave it null", with_twinflow=True),
    "input_perturbation": Refused("every noise belongs to the method; leave it out"),
    "internal_guidance_enabled": Refused(OWN_LOSS),
    "irepa_enabled": Refused(OWN_LOSS),
    "krea2_reference_latents": Refused(GIVEN_FRAMES),
    "layer_freeze_strategy": Refused("all weights or a LoRA are trained; leave it out"),
    "layersync_enabled": Refused(OWN_LOSS),
    "lr_scale_sqrt": Refused("use lr_scale, or set the learning rate"),
    "ltx2_first_frame_conditioning_probability": Refused(GIVEN_FRAMES),
    "ltx2_intrinsic_conditioning": Refused(GIVEN_FRAMES),
    "ltx2_mask_conditioning_probability": Refused(GIVEN_FRAMES),
    "ltx2_prefix_conditioning_probability": Refused(GIVEN_FRAMES),
    "ltx2_suffix_conditioning_probability": Refused(GIVEN_FRAMES),
    "mixflow_enabled": Refused(OWN_LOSS),
    "nextlat_enabled": Refused(OWN_LOSS),
    "offset_noise": Refused("every noise belongs to the method; leave it out"),
    "pretrained_transformer_model_name_or_path": Refused(OTHER_BASE),
    "pretrained_unet_model_name_or_path": Refused(OTHER_BASE),
    "refiner_training": Refused("a refiner only finishes the images of another model; leave it out"),
    "scheduled_sampling": Refused(SCHEDULED_SAMPLING, with_twinflow=True),
    "scheduled_sampling_max_step_offset": Refused(SCHEDULED_SAMPLING, with_twinflow=True),
    "scheduled_sampling_reflexflow": Refused(SCHEDULED_SAMPLING, with_twinflow=True),
    "slider_lora_target": Refused("use lora_layers for the layers of the LoRA"),
    "train_text_encoder": Refused(OTHER_WEIGHTS),
    "urepa_enabled": Refused(OWN_LOSS),
    "use_dora": Refused("only LoRAs without DoRA are supported; leave it out"),
    "xm_enabled": Refused(OWN_LOSS),
}

CACHING = "use --cache_latents, --cache_text_embeddings and --cache_directory for caching"
METHOD_LOSS = "the loss is the loss of TwinFlow"
NOT_EVALUATED = "there is no evaluation during training"
NO_GUIDANCE = "guidance is built into the weights, with the strength twinflow_enhanced_ratio"
NO_LYCORIS = "LyCORIS adapters are not supported"
NO_REFERENCES = "samples have no reference images and no given frames"
NO_SAFETY_CHECK = "there is no safety checker"
NO_SOUND = "the model and the clips decide how sound is trained"
ONE_CHECKPOINT_KIND = "checkpointing_steps and checkpoints_total_limit decide which checkpoints are kept"
ONE_PROCESS_GROUP = "`accelerate launch` sets the number of processes and the sharding"
OWN_LAYERS = "use --lora_layers for the layers of the LoRA"
OWN_PROMPTS = "only validation_prompt is used for validation images"
OWN_TEXT_ENCODERS = "prompts are encoded like in the base's stock pipeline"
PLACEMENT = "the model stays on the training device"
PRECISION = "the base is kept in the dtype of mixed_precision"
REFINERS = "refiners are not trained"
SCHEDULED_SAMPLING_OFF = "scheduled sampling is off"
SECOND_PROCESS = "no other program is started"
STAGES = "validation images come from the trained model alone"
SWITCHED_OFF = "the feature that needs it is off"
TIMES = "twinflow_time_alpha, twinflow_time_beta and twinflow_time_scale set the distribution of times"
TRACKING = "the name in trackers is twinflow"
IGNORED_NAMES = {
    "--aspect_ratio_buckets uses the usual ratios": (
        "aspect_bucket_alignment aspect_bucket_disable_rebuild aspect_bucket_rounding aspect_bucket_worker_count "
        "disable_bucket_pruning"
    ),
    "--compile compiles": (
        "dynamo_backend dynamo_dynamic dynamo_fullgraph dynamo_mode dynamo_use_regional_compilation"
    ),
    "--push_to_hub publishes": "publishing_config",
    "a full disk ends the run; continue with --resume_from_checkpoint": (
        "disk_low_action disk_low_script disk_low_threshold"
    ),
    "a small dataset is repeated as often as needed": "allow_dataset_oversubscription",
    "AdamW is fused": "fuse_optimizer",
    "an image is scaled to cover its size before it is cropped": "maximum_image_size target_downsample_size",
    CACHING: (
        "cache_dir_text cache_dir_vae compress_disk_cache metadata_update_interval override_dataset_config "
        "preserve_data_backend_cache text_cache_disable text_cache_ondemand text_embed_full_cache write_batch_size"
    ),
    "data_report.json lists what is left out": "ignore_missing_files",
    "diff2flow_enabled decides": "diff2flow_loss",
    "distillation_method is off": "distillation_config",
    "errors cannot be turned off": "i_know_what_i_am_doing",
    "every block is checkpointed": "gradient_checkpointing_interval",
    "every frame of a video is used; set --video_fps to use fewer": "framerate",
    "every image is used; filter the dataset yourself": "max_upscale_threshold minimum_image_size",
    "every sample has its own seed": "seed_for_each_device",
    "every token is used in every block": "tread_config",
    "gradient checkpointing is diffusers'": (
        "gradient_checkpointing_backend gradient_checkpointing_offload_attention "
        "gradient_checkpointing_offload_pin_memory_max_buckets gradient_checkpointing_offload_prefetch "
        "gradient_checkpointing_segment_stride"
    ),
    "gradients are always set to None": "set_grads_to_none",
    "gradients are clipped by their norm": "grad_clip_method",
    "images have no watermark": "enable_watermark",
    "it is read from the base": "prediction_type",
    "it is read with data_backend_config": (
        "caption_strategy disable_multiline_split parquet_caption_column parquet_filename_column resolution_type"
    ),
    "LoRA weights have PEFT's gaussian initialization": "lora_init_type",
    "max_train_steps ends the run": "strict_epoch_limit",
    METHOD_LOSS: (
        "hidream_load_balancing_loss_weight hidream_use_load_balancing_loss huber_c huber_schedule snr_gamma "
        "snr_weight soft_min_snr_sigma_data use_soft_min_snr"
    ),
    "MiniMax models cannot be trained here": (
        "minimax_h3_reference_mode minimax_h3_sparse_attention minimax_h3_sparse_block_shape "
        "minimax_h3_sparse_share_heads minimax_h3_sparse_start_layer minimax_h3_sparse_video_kv_fraction "
        "minimax_h3_target_mode minimax_music_lm_adapter minimax_music_lm_adapter_strength "
        "minimax_music_lm_max_frames minimax_music_lm_precache_mode minimax_music_train_component"
    ),
    "no code of a repository is run": "trust_remote_code",
    "no training adapter is loaded": (
        "assistant_lora_inference_strength assistant_lora_strength disable_assistant_lora"
    ),
    NO_GUIDANCE: (
        "flux_guidance_max flux_guidance_min flux_guidance_mode flux_guidance_value "
        "ideogram_load_unconditional_transformer ideogram_uncond_ramtorch ideogram_validation validation_guidance "
        "validation_guidance_real validation_guidance_rescale validation_guidance_skip_layers "
        "validation_guidance_skip_layers_start validation_guidance_skip_layers_stop validation_guidance_skip_scale "
        "validation_internal_guidance_scale validation_negative_prompt validation_no_cfg_until_timestep"
    ),
    NO_LYCORIS: "init_lokr_norm lycoris_config",
    NO_REFERENCES: (
        "ltx2_prefix_conditioning_frames ltx2_reference_spatial_scale_factor ltx2_reference_temporal_scale_factor "
        "ltx2_suffix_conditioning_frames ltx_i2v_prob ltx_partial_noise_fraction ltx_protect_first_frame ltx_train_mode "
        "validation_ltx2_video_conditioning"
    ),
    NO_SAFETY_CHECK: (
        "enable_nsfw_check nsfw_check_backend_types nsfw_check_min_votes nsfw_check_models nsfw_check_sample_types "
        "nsfw_check_video_frame_count nsfw_check_video_frame_selection nsfw_check_video_min_flagged_frames"
    ),
    NO_SOUND: (
        "audio_channels audio_duration_interval audio_flow_schedule_shift audio_max_duration_seconds "
        "audio_min_duration_seconds audio_truncation_mode ltx2_validation_audio_guidance lyrics_embedder_lr "
        "lyrics_embedder_lr_scheduler lyrics_embedder_optimizer lyrics_embedder_train validation_audio_duration "
        "validation_audio_only validation_lyrics"
    ),
    NOT_EVALUATED: (
        "eval_dataset_id eval_dataset_pooling eval_epoch_interval eval_loss_disable eval_steps_interval "
        "eval_timesteps evaluation_type num_eval_images pretrained_evaluation_model_name_or_path"
    ),
    "nothing is deleted": (
        "delete_invalid_checkpoints delete_model_after_load delete_nsfw_images delete_problematic_images "
        "delete_unwanted_images"
    ),
    "offset_noise is off": "noise_offset noise_offset_probability",
    ONE_CHECKPOINT_KIND: "checkpointing_rolling_steps checkpointing_use_tempdir checkpoints_rolling_total_limit",
    ONE_PROCESS_GROUP: (
        "accelerate_config accelerate_extra_args context_parallel_comm_strategy context_parallel_size "
        "deepspeed_config find_unused_parameters fsdp_activation_checkpointing fsdp_auto_wrap_policy "
        "fsdp_cpu_offload fsdp_cpu_ram_efficient_loading fsdp_enable fsdp_limit_all_gathers "
        "fsdp_reshard_after_forward fsdp_state_dict_type fsdp_transformer_layer_cls_to_wrap fsdp_version local_rank "
        "machine_rank main_process_ip main_process_port num_machines num_processes same_network"
    ),
    "only 'standard' LoRAs are supported": "peft_lora_mode singlora_ramp_up_steps",
    "only finished images are logged": "validation_preview validation_preview_steps",
    OWN_LAYERS: "acestep_lora_target",
    OWN_PROMPTS: (
        "user_prompt_library validation_disable_unconditional validation_prompt_library validation_using_datasets"
    ),
    OWN_TEXT_ENCODERS: (
        "custom_text_encoder_intermediary_layers flux_attention_masked_training ideogram_auto_json "
        "ideogram_prompt_enhancer_head_id ideogram_prompt_upsample pretrained_gemma_model_name_or_path "
        "pretrained_t5_model_name_or_path qwen_text_encoder_model_name_or_path sana_complex_human_instruction "
        "sd3_clip_uncond_behaviour sd3_t5_uncond_behaviour t5_padding"
    ),
    PLACEMENT: (
        "accelerator_cache_clear_interval enable_chunked_feed_forward enable_group_offload feed_forward_chunk_size "
        "fully_unload_text_encoder group_offload_blocks_per_group group_offload_text_encoder "
        "group_offload_to_disk_path group_offload_type group_offload_use_stream group_offload_vae keep_vae_loaded "
        "musubi_block_swap_device musubi_blocks_to_swap offload_during_save offload_during_startup "
        "offload_param_path optimizer_cpu_offload_method optimizer_offload_gradients optimizer_release_gradients "
        "ramtorch ramtorch_controlnet ramtorch_disable_extensions ramtorch_disable_sync_hooks "
        "ramtorch_target_modules ramtorch_text_encoder ramtorch_text_encoder_percent ramtorch_transformer_percent "
        "ramtorch_vae unet_attention_slice"
    ),
    PRECISION: (
        "base_model_default_dtype gradient_precision ideogram_fp8_base_upcast quantization_config "
        "quantize_activations quantize_via sdnq_compile_mode sdnq_dequantize_fp32 sdnq_group_size "
        "sdnq_hadamard_group_size sdnq_modules_dtype_dict sdnq_modules_quant_config sdnq_modules_to_not_convert "
        "sdnq_modules_to_not_use_matmul sdnq_quantized_matmul_dtype sdnq_svd_rank sdnq_svd_steps sdnq_use_hadamard "
        "sdnq_use_quantized_matmul sdnq_use_static_quantization sdnq_use_stochastic_rounding sdnq_use_svd "
        "sdnq_weights_dtype"
    ),
    "Prodigy estimates its rate in every step": "prodigy_steps",
    "projections are not fused": "fuse_qkv_projections fused_qkv_projections",
    "push_to_hub pushes the result, without the checkpoints": "push_checkpoints_to_hub",
    REFINERS: "data_aesthetic_score sdxl_refiner_uses_full_range",
    SCHEDULED_SAMPLING_OFF: (
        "scheduled_sampling_order scheduled_sampling_prob_end scheduled_sampling_prob_start "
        "scheduled_sampling_probability scheduled_sampling_ramp_shape scheduled_sampling_ramp_steps "
        "scheduled_sampling_reflexflow_alpha scheduled_sampling_reflexflow_beta1 "
        "scheduled_sampling_reflexflow_beta2 scheduled_sampling_sampler scheduled_sampling_start_step "
        "scheduled_sampling_strategy"
    ),
    SECOND_PROCESS: (
        "post_checkpoint_script post_upload_script validation_external_background validation_external_script"
    ),
    "see the log": "print_filenames print_sampler_statistics",
    "see the log and --report_to": "debug_aspect_buckets debug_dataset_loader",
    STAGES: (
        "deepfloyd_validation_pipeline_mode deepfloyd_validation_stage1_guidance deepfloyd_validation_stage1_model "
        "deepfloyd_validation_stage1_num_inference_steps deepfloyd_validation_stage2_guidance "
        "deepfloyd_validation_stage2_model deepfloyd_validation_stage2_num_inference_steps "
        "deepfloyd_validation_stage3_guidance deepfloyd_validation_stage3_mode deepfloyd_validation_stage3_model "
        "deepfloyd_validation_stage3_noise_level ltx2_validation_pipeline_mode "
        "ltx2_validation_spatial_upsampler_filename ltx2_validation_spatial_upsampler_model "
        "pixart_validation_pipeline_mode pixart_validation_stage1_model pixart_validation_stage2_model "
        "sdxl_validation_pipeline_mode sdxl_validation_stage1_model sdxl_validation_stage2_model "
        "wan_validation_load_other_stage"
    ),
    SWITCHED_OFF: (
        "controlnet_custom_config controlnet_model_name_or_path crepa_adjacent_distance crepa_adjacent_tau "
        "crepa_block_index crepa_cutoff_step crepa_decay_steps crepa_drop_vae_encoder crepa_encoder "
        "crepa_encoder_frames_batch_size crepa_encoder_image_size crepa_feature_source crepa_lambda "
        "crepa_lambda_end crepa_normalize_by_frames crepa_normalize_neighbour_sum crepa_power crepa_scheduler "
        "crepa_self_flow crepa_self_flow_mask_ratio crepa_similarity_ema_decay crepa_similarity_threshold "
        "crepa_spatial_align crepa_teacher_block_index crepa_threshold_mode crepa_use_backbone_features "
        "crepa_use_tae crepa_warmup_steps init_lora_ema init_lora_step input_perturbation_steps "
        "internal_guidance_block_index internal_guidance_loss_weight irepa_projector_kernel_size "
        "irepa_spatial_norm_alpha layersync_lambda layersync_student_block layersync_teacher_block mixflow_gamma "
        "nextlat_block_index nextlat_kl_weight nextlat_state_loss nextlat_weight refiner_training_invert_schedule "
        "refiner_training_strength urepa_cutoff_step urepa_decay_steps urepa_encoder_image_size urepa_lambda "
        "urepa_lambda_end urepa_manifold_weight urepa_model urepa_power urepa_scheduler urepa_similarity_ema_decay "
        "urepa_similarity_threshold urepa_threshold_mode urepa_use_tae urepa_warmup_steps xm_block_size "
        "xm_candidate_count xm_selection_scope xm_training_target"
    ),
    "text encoders are kept in the dtype of mixed_precision": (
        "text_encoder_1_precision text_encoder_2_precision text_encoder_3_precision text_encoder_4_precision "
        "text_encoder_batch_size text_encoder_limit text_encoder_lr"
    ),
    "text encoders are not trained": (
        "freeze_encoder_after freeze_encoder_before freeze_encoder_strategy save_text_encoder"
    ),
    "the attention of diffusers is used": "attention_mechanism sageattention_usage sla_config",
    "the autoencoder is diffusers'": (
        "vae_batch_size vae_cache_disable vae_cache_ondemand vae_cache_scan_behaviour vae_dtype "
        "vae_enable_patch_conv vae_enable_slicing vae_enable_temporal_roll vae_enable_tiling"
    ),
    "the base's autoencoder is used": "pretrained_vae_model_name_or_path",
    "the base's noise schedule is used": "rescale_betas_zero_snr",
    "the base's transformer is used": "pretrained_transformer_subfolder",
    "the base's U-Net is used": "pretrained_unet_subfolder",
    "the components of the base are used": (
        "cosmos3_generator_component cosmos3_reasoner_component wan_force_2_1_time_embedding"
    ),
    "the environment is not read": "merge_environment_config",
    "the file is a diffusers LoRA": "lora_format",
    "the first process generates the validation images": "validation_multigpu",
    "the grid is a PNG": "validation_image_format validation_image_quality",
    "the result is pushed at the end": "push_to_hub_background",
    "the schedule ends like the one in diffusers": "lr_end",
    "the scheduler is TwinFlowScheduler": "validation_noise_scheduler",
    "the teacher is always updated with foreach": "ema_foreach_disable",
    "the teacher is on the training device": "ema_cpu_only ema_device",
    "the teacher is updated every step": "ema_update_interval",
    "the teacher's decay has its own warm-up": "ema_warmup_steps",
    "the whole dataset is read": "skip_file_discovery",
    "there are no bounding boxes": "max_grounding_entities pretrained_grounding_model_name_or_path",
    "there are no masks": "masked_loss_probability",
    "there is no benchmark at the start": "disable_benchmark",
    "there is one dataset": "conditioning_multidataset_sampling data_backend_sampling",
    TIMES: (
        "disable_segmented_timestep_sampling flow_beta_schedule_alpha flow_beta_schedule_beta "
        "flow_cubic_schedule_weights flow_custom_timesteps flow_schedule_auto_shift flow_schedule_shift "
        "flow_sigmoid_scale flow_timesteps_mode flow_use_beta_schedule flow_use_uniform_schedule flux_fast_schedule "
        "ideogram_schedule_mu ideogram_schedule_std timestep_bias_begin timestep_bias_end timestep_bias_multiplier "
        "timestep_bias_portion timestep_bias_strategy training_scheduler_timestep_spacing"
    ),
    TRACKING: "custom_tracker tracker_image_layout tracker_project_name tracker_run_name",
    "training generates the validation images": "validation_method",
    "training writes the model card": "model_card_note model_card_safe_for_work modelspec_comment",
    "TwinFlowScheduler sets the sampling grid": "inference_scheduler_timestep_spacing",
    "use --adam_beta1, --adam_beta2, --adam_weight_decay and --adam_epsilon": "optimizer_config",
    "use --config for the recipe": "configs_dir",
    "use --dataloader_num_workers for the number of processes that read data": (
        "dataloader_prefetch dataloader_prefetch_qlen enable_multiprocessing image_processing_batch_size "
        "max_workers read_batch_size"
    ),
    "use --dataset_name, --instance_data_dir or --data_files for the data": "aws_max_pool_connections",
    "use --hub_private_repo for a private repository": "model_card_private",
    "use --report_to for trackers": "webhook_config webhook_reporting_interval",
    "use --validation_image for the image to edit": "validation_input",
    "use checkpointing_steps": "checkpoint_epoch_interval",
    "use OMP_NUM_THREADS for the number of threads": "torch_num_threads",
    "use validation_steps": "validate_after_epoch validate_after_step validation_on_startup",
    "validation images are shown next to the base's images": "validation_stitch_input_location",
    "validation images use only the trained LoRA": (
        "validation_adapter_config validation_adapter_mode validation_adapter_name validation_adapter_path"
    ),
    "validation is seeded with --seed": "validation_randomize validation_seed validation_seed_source",
    "validation uses the LoRA at full strength": "validation_adapter_strength validation_lycoris_strength",
    "validation uses the weights that are saved, see --save_ema": "ema_validation",
    "validation videos have --num_frames frames": "validation_num_video_frames",
}
IGNORED = {name: Ignored(reason) for reason, names in IGNORED_NAMES.items() for name in names.split()}

TABLE: dict[str, Treatment] = {**RENAMED, **CONVERTED, **REFUSED, **IGNORED}
"""Every option of SimpleTuner by name."""

NEWER = {
    "acestep_": NO_SOUND,
    "audio_": NO_SOUND,
    "crepa_": SWITCHED_OFF,
    "deepspeed_": ONE_PROCESS_GROUP,
    "dynamo_": "--compile compiles",
    "eval_": NOT_EVALUATED,
    "fsdp_": ONE_PROCESS_GROUP,
    "group_offload_": PLACEMENT,
    "minimax_": "MiniMax models cannot be trained here",
    "musubi_": PLACEMENT,
    "nsfw_check_": NO_SAFETY_CHECK,
    "offload_": PLACEMENT,
    "ramtorch": PLACEMENT,
    "scheduled_sampling_": SCHEDULED_SAMPLING_OFF,
    "sdnq_": PRECISION,
    "urepa_": SWITCHED_OFF,
}
"""Reasons by the start of a name, for options of a newer SimpleTuner that the table does not have."""


def treatment_of(name: str) -> Treatment | None:
    """Return what happens to an option of SimpleTuner; `None` if SimpleTuner has no such option."""
    if name in TABLE:
        return TABLE[name]
    reason = next((reason for start, reason in NEWER.items() if name.startswith(start)), None)
    return None if reason is None else Ignored(reason)
