//! What every config key does, and its value where it is absent.
//!
//! Defaults are those of the classes the files belong to, read in diffusers 0.35.1 (`UNet2DConditionModel`, `AutoencoderKL`,
//! the schedulers) and transformers 4.57.1 (`CLIPTextConfig`, `PretrainedConfig`).

/// One key of a config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigKey {
    /// The key.
    pub name: &'static str,
    /// Its value where it is absent, as JSON.
    pub default: &'static str,
    /// What is done with it.
    pub role: KeyRole,
}

/// What is done with a config key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRole {
    /// The value is read and takes effect.
    Honoured,
    /// Only these values (as JSON) are implemented; any other is refused by name.
    Only(&'static [&'static str]),
    /// The value cannot change the result, for the reason given.
    WithoutEffect(&'static str),
}

const fn honoured(name: &'static str, default: &'static str) -> ConfigKey {
    ConfigKey { name, default, role: KeyRole::Honoured }
}

const fn only(name: &'static str, default: &'static str, supported: &'static [&'static str]) -> ConfigKey {
    ConfigKey { name, default, role: KeyRole::Only(supported) }
}

const fn without_effect(name: &'static str, reason: &'static str) -> ConfigKey {
    ConfigKey { name, default: "null", role: KeyRole::WithoutEffect(reason) }
}

const NULL: &[&str] = &["null"];
const OFF: &[&str] = &["false", "null"];
const NOTE: &str = "a note of the program that wrote the file";
const TRAINING: &str = "used in training alone";
const EMA: &str = "a setting of the moving average kept in training";
const GENERATION: &str = "a setting of text generation, which a text encoder does not do";
const RETURNS: &str = "chooses what the Python class returns";
const SPECIAL_TOKEN: &str =
    "prompts reach the network as ids; the tokenizer's own files say which tokens are special";
const HEAD: &str = "belongs to a task head that a text encoder does not have";
const STORAGE: &str = "the weight file says how its tensors are stored";

/// Keys of `unet/config.json` (diffusers' `UNet2DConditionModel`).
pub const UNET_KEYS: &[ConfigKey] = &[
    only("_class_name", "\"UNet2DConditionModel\"", &["\"UNet2DConditionModel\""]),
    without_effect("_diffusers_version", NOTE),
    without_effect("_name_or_path", NOTE),
    without_effect(
        "sample_size",
        "the network takes any size; this is only the size pictures have where nobody asks for one",
    ),
    honoured("in_channels", "4"),
    honoured("out_channels", "4"),
    only("center_input_sample", "false", &["false"]),
    honoured("flip_sin_to_cos", "true"),
    honoured("freq_shift", "0"),
    honoured(
        "down_block_types",
        r#"["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]"#,
    ),
    only("mid_block_type", "\"UNetMidBlock2DCrossAttn\"", &["\"UNetMidBlock2DCrossAttn\""]),
    honoured(
        "up_block_types",
        r#"["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]"#,
    ),
    only("only_cross_attention", "false", &["false"]),
    honoured("block_out_channels", "[320, 640, 1280, 1280]"),
    honoured("layers_per_block", "2"),
    honoured("downsample_padding", "1"),
    honoured("mid_block_scale_factor", "1"),
    without_effect("dropout", TRAINING),
    only("act_fn", "\"silu\"", &["\"silu\"", "\"swish\""]),
    honoured("norm_num_groups", "32"),
    honoured("norm_eps", "1e-5"),
    honoured("cross_attention_dim", "1280"),
    honoured("transformer_layers_per_block", "1"),
    only("reverse_transformer_layers_per_block", "null", NULL),
    only("encoder_hid_dim", "null", NULL),
    only("encoder_hid_dim_type", "null", NULL),
    // The number of heads, in spite of its name: `num_attention_heads or attention_head_dim` in the class, which refuses the
    // first.
    honoured("attention_head_dim", "8"),
    only("num_attention_heads", "null", NULL),
    only("dual_cross_attention", "false", OFF),
    honoured("use_linear_projection", "false"),
    only("class_embed_type", "null", NULL),
    only("addition_embed_type", "null", NULL),
    only("addition_time_embed_dim", "null", NULL),
    without_effect("addition_embed_type_num_heads", "belongs to `addition_embed_type`, which is refused"),
    only("num_class_embeds", "null", NULL),
    honoured("upcast_attention", "false"),
    only("resnet_time_scale_shift", "\"default\"", &["\"default\""]),
    only("resnet_skip_time_act", "false", OFF),
    only("resnet_out_scale_factor", "1.0", &["1.0"]),
    only("time_embedding_type", "\"positional\"", &["\"positional\""]),
    honoured("time_embedding_dim", "null"),
    only("time_embedding_act_fn", "null", NULL),
    only("timestep_post_act", "null", NULL),
    only("time_cond_proj_dim", "null", NULL),
    honoured("conv_in_kernel", "3"),
    honoured("conv_out_kernel", "3"),
    only("projection_class_embeddings_input_dim", "null", NULL),
    only("attention_type", "\"default\"", &["\"default\""]),
    only("class_embeddings_concat", "false", OFF),
    only("mid_block_only_cross_attention", "null", OFF),
    only("cross_attention_norm", "null", NULL),
    // Left in the file by `EMAModel.save_pretrained` of diffusers' training scripts.
    without_effect("decay", EMA),
    without_effect("inv_gamma", EMA),
    without_effect("min_decay", EMA),
    without_effect("optimization_step", EMA),
    without_effect("power", EMA),
    without_effect("update_after_step", EMA),
    without_effect("use_ema_warmup", EMA),
];

/// Keys of `vae/config.json` (diffusers' `AutoencoderKL`).
pub const VAE_KEYS: &[ConfigKey] = &[
    only("_class_name", "\"AutoencoderKL\"", &["\"AutoencoderKL\""]),
    without_effect("_diffusers_version", NOTE),
    without_effect("_name_or_path", NOTE),
    honoured("in_channels", "3"),
    honoured("out_channels", "3"),
    honoured("down_block_types", "[\"DownEncoderBlock2D\"]"),
    honoured("up_block_types", "[\"UpDecoderBlock2D\"]"),
    honoured("block_out_channels", "[64]"),
    honoured("layers_per_block", "1"),
    only("act_fn", "\"silu\"", &["\"silu\"", "\"swish\""]),
    honoured("latent_channels", "4"),
    honoured("norm_num_groups", "32"),
    without_effect("sample_size", "the network takes any size; diffusers reads this for tiling alone"),
    honoured("scaling_factor", "0.18215"),
    honoured("shift_factor", "null"),
    only("latents_mean", "null", NULL),
    only("latents_std", "null", NULL),
    honoured("force_upcast", "true"),
    honoured("use_quant_conv", "true"),
    honoured("use_post_quant_conv", "true"),
    honoured("mid_block_add_attention", "true"),
];

/// Keys of `text_encoder/config.json` (transformers' `CLIPTextConfig` and the `PretrainedConfig` below it).
pub const TEXT_ENCODER_KEYS: &[ConfigKey] = &[
    honoured("vocab_size", "49408"),
    honoured("hidden_size", "512"),
    honoured("intermediate_size", "2048"),
    honoured("num_hidden_layers", "12"),
    honoured("num_attention_heads", "8"),
    honoured("max_position_embeddings", "77"),
    honoured("hidden_act", "\"quick_gelu\""),
    honoured("layer_norm_eps", "1e-5"),
    only("model_type", "\"clip_text_model\"", &["\"clip_text_model\""]),
    only("pruned_heads", "{}", &["{}", "null"]),
    without_effect(
        "projection_dim",
        "belongs to the projection after pooling; Stable Diffusion reads the last hidden state",
    ),
    without_effect("attention_dropout", TRAINING),
    without_effect("dropout", TRAINING),
    without_effect("gradient_checkpointing", TRAINING),
    without_effect("initializer_range", TRAINING),
    without_effect("initializer_factor", TRAINING),
    without_effect("bos_token_id", SPECIAL_TOKEN),
    without_effect("eos_token_id", SPECIAL_TOKEN),
    without_effect("pad_token_id", SPECIAL_TOKEN),
    without_effect("sep_token_id", SPECIAL_TOKEN),
    without_effect("decoder_start_token_id", SPECIAL_TOKEN),
    without_effect("tokenizer_class", SPECIAL_TOKEN),
    without_effect("prefix", GENERATION),
    without_effect("architectures", NOTE),
    without_effect("transformers_version", NOTE),
    without_effect("_name_or_path", NOTE),
    without_effect("dtype", STORAGE),
    without_effect("torch_dtype", STORAGE),
    without_effect("use_bfloat16", STORAGE),
    without_effect("torchscript", RETURNS),
    without_effect("return_dict", RETURNS),
    without_effect("output_hidden_states", RETURNS),
    without_effect("output_attentions", RETURNS),
    without_effect("use_cache", RETURNS),
    without_effect("tie_word_embeddings", HEAD),
    without_effect("tie_encoder_decoder", HEAD),
    without_effect("is_encoder_decoder", HEAD),
    without_effect("is_decoder", HEAD),
    without_effect("add_cross_attention", HEAD),
    without_effect("cross_attention_hidden_size", HEAD),
    without_effect("finetuning_task", HEAD),
    without_effect("id2label", HEAD),
    without_effect("label2id", HEAD),
    without_effect("num_labels", HEAD),
    without_effect("problem_type", HEAD),
    without_effect("task_specific_params", HEAD),
    without_effect("chunk_size_feed_forward", "CLIP does not read it"),
    without_effect("attn_implementation", "chooses among kernels that compute the same"),
    without_effect("tf_legacy_loss", TRAINING),
    without_effect("bad_words_ids", GENERATION),
    without_effect("begin_suppress_tokens", GENERATION),
    without_effect("diversity_penalty", GENERATION),
    without_effect("do_sample", GENERATION),
    without_effect("early_stopping", GENERATION),
    without_effect("encoder_no_repeat_ngram_size", GENERATION),
    without_effect("exponential_decay_length_penalty", GENERATION),
    without_effect("forced_bos_token_id", GENERATION),
    without_effect("forced_eos_token_id", GENERATION),
    without_effect("length_penalty", GENERATION),
    without_effect("max_length", GENERATION),
    without_effect("min_length", GENERATION),
    without_effect("no_repeat_ngram_size", GENERATION),
    without_effect("num_beam_groups", GENERATION),
    without_effect("num_beams", GENERATION),
    without_effect("num_return_sequences", GENERATION),
    without_effect("output_scores", GENERATION),
    without_effect("remove_invalid_values", GENERATION),
    without_effect("repetition_penalty", GENERATION),
    without_effect("return_dict_in_generate", GENERATION),
    without_effect("suppress_tokens", GENERATION),
    without_effect("temperature", GENERATION),
    without_effect("top_k", GENERATION),
    without_effect("top_p", GENERATION),
    without_effect("typical_p", GENERATION),
];

const CLIPPING: &str = "belongs to clipping and thresholding, which are refused";
const SOLVER: &str = "a setting of that solver's own steps; of a scheduler only the noise schedule is read";

/// Keys of `scheduler/scheduler_config.json` (diffusers' schedulers).
///
/// The file is read for its noise schedule, whichever solver it names; a key that a class does not have takes DDIM's default.
pub const SCHEDULER_KEYS: &[ConfigKey] = &[
    only(
        "_class_name",
        "\"DDIMScheduler\"",
        &[
            "\"DDIMScheduler\"",
            "\"DDPMScheduler\"",
            "\"PNDMScheduler\"",
            "\"EulerDiscreteScheduler\"",
            "\"EulerAncestralDiscreteScheduler\"",
            "\"LMSDiscreteScheduler\"",
            "\"DPMSolverMultistepScheduler\"",
            "\"DPMSolverSinglestepScheduler\"",
            "\"UniPCMultistepScheduler\"",
        ],
    ),
    without_effect("_diffusers_version", NOTE),
    honoured("num_train_timesteps", "1000"),
    honoured("beta_start", "0.0001"),
    honoured("beta_end", "0.02"),
    honoured("beta_schedule", "\"linear\""),
    honoured("trained_betas", "null"),
    honoured("prediction_type", "\"epsilon\""),
    honoured("timestep_spacing", "\"leading\""),
    honoured("steps_offset", "0"),
    honoured("set_alpha_to_one", "true"),
    // True by default in DDIM's class, but old files of models that were never clipped leave it out: refused where written.
    only("clip_sample", "false", OFF),
    only("thresholding", "false", OFF),
    only("rescale_betas_zero_snr", "false", OFF),
    only("use_flow_sigmas", "false", OFF),
    only("timestep_type", "\"discrete\"", &["\"discrete\""]),
    without_effect("clip_sample_range", CLIPPING),
    without_effect("sample_max_value", CLIPPING),
    without_effect("dynamic_thresholding_ratio", CLIPPING),
    without_effect("skip_prk_steps", SOLVER),
    without_effect("interpolation_type", SOLVER),
    without_effect("use_karras_sigmas", SOLVER),
    without_effect("use_exponential_sigmas", SOLVER),
    without_effect("use_beta_sigmas", SOLVER),
    without_effect("use_lu_lambdas", SOLVER),
    without_effect("sigma_min", SOLVER),
    without_effect("sigma_max", SOLVER),
    without_effect("final_sigmas_type", SOLVER),
    without_effect("solver_order", SOLVER),
    without_effect("solver_type", SOLVER),
    without_effect("solver_p", SOLVER),
    without_effect("algorithm_type", SOLVER),
    without_effect("lower_order_final", SOLVER),
    without_effect("euler_at_final", SOLVER),
    without_effect("lambda_min_clipped", SOLVER),
    without_effect("variance_type", SOLVER),
    without_effect("predict_x0", SOLVER),
    without_effect("disable_corrector", SOLVER),
    without_effect("flow_shift", "belongs to `use_flow_sigmas`, which is refused"),
    only("use_dynamic_shifting", "false", OFF),
    without_effect("time_shift_type", "belongs to `use_dynamic_shifting`, which is refused"),
    without_effect("tensor_format", "chose numpy or torch in diffusers before 0.5"),
];

/// Defaults in which a scheduler class differs from the table: class, key and JSON.
pub(super) const PNDM_DEFAULTS: &[(&str, &str)] = &[("set_alpha_to_one", "false")];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_default_and_supported_value_is_json_and_every_key_stands_once() {
        for table in [UNET_KEYS, VAE_KEYS, TEXT_ENCODER_KEYS, SCHEDULER_KEYS] {
            let mut seen = BTreeSet::new();
            for key in table {
                assert!(seen.insert(key.name), "{} stands twice", key.name);
                let parsed = serde_json::from_str::<serde_json::Value>(key.default);
                assert!(parsed.is_ok(), "{}: {}", key.name, key.default);
                match key.role {
                    KeyRole::Only(values) => {
                        let values: Vec<serde_json::Value> =
                            values.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
                        assert!(values.contains(&parsed.unwrap()), "{}: its default is refused", key.name);
                    }
                    KeyRole::WithoutEffect(reason) => assert!(!reason.is_empty(), "{}", key.name),
                    KeyRole::Honoured => {}
                }
            }
        }
    }
}
