//! `unet/config.json`.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::fields::Fields;
use super::keys::UNET_KEYS;
use crate::error::LoadError;

/// What `unet/config.json` says of the noise predictor.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct UNetConfig {
    /// Channels of the latents taken.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Resolutions, finest first; each is half the one before.
    pub levels: Vec<UNetLevel>,
    /// Channels of the text encoder's hidden states (`cross_attention_dim`).
    pub context_channels: usize,
    /// Channels of the timestep embedding after its two linear maps.
    pub time_channels: usize,
    /// Puts cosines before sines in the timestep embedding.
    pub flip_sin_to_cos: bool,
    /// Taken off the number of frequencies where their exponents are formed.
    pub freq_shift: f64,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Added to the variance in the group norms of residual blocks and of the output.
    pub norm_eps: f64,
    /// Divides the sums of the middle block's residual blocks.
    pub mid_block_scale_factor: f64,
    /// Zeros around an image before it is halved; 0 stands for one row below and one column to the right.
    pub downsample_padding: usize,
    /// Side of the first convolution's window.
    pub conv_in_kernel: usize,
    /// Side of the last convolution's window.
    pub conv_out_kernel: usize,
    /// Stores the maps round a transformer as `[out, in]` instead of `[out, in, 1, 1]`.
    pub use_linear_projection: bool,
    /// Forms attention scores in f32 where tensors have fewer bits.
    pub upcast_attention: bool,
    /// Height and width, in latents, of pictures where nobody asks for a size.
    #[serde(skip)]
    pub sample_size: Option<[usize; 2]>,
}

/// One resolution of the U-Net.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UNetLevel {
    /// Channels at this resolution.
    pub channels: usize,
    /// Residual blocks on the way down; there is one more on the way up.
    pub layers: usize,
    /// Transformer blocks after each residual block, where there are any.
    pub transformer_layers: usize,
    /// Attention heads (`attention_head_dim`, which is the number of heads in spite of its name).
    pub heads: usize,
    /// Whether there are transformers on the way down.
    pub attention_down: bool,
    /// Whether there are transformers on the way up.
    pub attention_up: bool,
}

impl UNetConfig {
    /// Reads a config; `path` is named in errors.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`], [`LoadError::UnknownKey`] or [`LoadError::InvalidValue`], naming the key.
    pub fn from_json(path: &Path, config: &Value) -> Result<Self, LoadError> {
        let fields = Fields::new(path, UNET_KEYS, config)?;
        let channels = fields.count_list("block_out_channels", 1 << 16)?;
        let n = channels.len();
        let down = fields.choices(
            "down_block_types",
            n,
            &[("CrossAttnDownBlock2D", true), ("DownBlock2D", false)],
        )?;
        let mut up =
            fields.choices("up_block_types", n, &[("CrossAttnUpBlock2D", true), ("UpBlock2D", false)])?;
        up.reverse();
        let layers = fields.counts("layers_per_block", n, 64)?;
        let transformer_layers = fields.counts("transformer_layers_per_block", n, 64)?;
        let heads = fields.counts("attention_head_dim", n, 1 << 16)?;
        let levels: Vec<UNetLevel> = (0..n)
            .map(|i| UNetLevel {
                channels: channels[i],
                layers: layers[i],
                transformer_layers: transformer_layers[i],
                heads: heads[i],
                attention_down: down[i],
                attention_up: up[i],
            })
            .collect();

        let norm_num_groups = fields.count("norm_num_groups", 1 << 16)?;
        if channels.iter().any(|c| c % norm_num_groups != 0) {
            return Err(fields.invalid("norm_num_groups", format!("a divisor of all of {channels:?}")));
        }
        for (i, level) in levels.iter().enumerate() {
            let attends = level.attention_down || level.attention_up || i + 1 == n;
            if attends && !level.channels.is_multiple_of(level.heads) {
                let wanted = format!("divisors of the channels {channels:?} of levels with attention");
                return Err(fields.invalid("attention_head_dim", wanted));
            }
        }
        let context = fields.counts("cross_attention_dim", n, 1 << 16)?;
        if context.iter().any(|c| *c != context[0]) {
            return Err(fields.unsupported("cross_attention_dim", "one width for all levels"));
        }
        let freq_shift = fields.f64("freq_shift")?;
        if freq_shift >= (channels[0] / 2) as f64 {
            return Err(fields.invalid("freq_shift", format!("below {}", channels[0] / 2)));
        }
        let time_channels = if fields.value("time_embedding_dim").is_null() {
            4 * channels[0]
        } else {
            fields.count("time_embedding_dim", 1 << 20)?
        };
        Ok(Self {
            in_channels: fields.count("in_channels", 1 << 16)?,
            out_channels: fields.count("out_channels", 1 << 16)?,
            context_channels: context[0],
            time_channels,
            flip_sin_to_cos: fields.bool("flip_sin_to_cos")?,
            freq_shift,
            norm_num_groups,
            norm_eps: fields.positive_f64("norm_eps")?,
            mid_block_scale_factor: fields.positive_f64("mid_block_scale_factor")?,
            downsample_padding: fields.natural("downsample_padding", 8)?,
            conv_in_kernel: odd_kernel(&fields, "conv_in_kernel")?,
            conv_out_kernel: odd_kernel(&fields, "conv_out_kernel")?,
            use_linear_projection: fields.bool("use_linear_projection")?,
            upcast_attention: fields.bool("upcast_attention")?,
            sample_size: sample_size(&fields.value("sample_size")),
            levels,
        })
    }
}

fn odd_kernel(fields: &Fields<'_>, name: &str) -> Result<usize, LoadError> {
    let kernel = fields.count(name, 31)?;
    if kernel % 2 == 1 {
        Ok(kernel)
    } else {
        Err(fields.unsupported(name, "odd sizes, which keep the image's size"))
    }
}

/// Reads a side or `[height, width]`; anything else is as good as no wish.
fn sample_size(value: &Value) -> Option<[usize; 2]> {
    let side =
        |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=1 << 16).contains(n));
    match value {
        Value::Array(sides) => match sides.as_slice() {
            [height, width] => Some([side(height)?, side(width)?]),
            _ => None,
        },
        one => side(one).map(|n| [n, n]),
    }
}
