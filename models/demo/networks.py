"""The three networks and the schedule, as plain Stable Diffusion configurations."""

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

import text

TEXT_WIDTH = 64
# Twice Stable Diffusion's, so that photographs survive a VAE of this size.
LATENT_CHANNELS = 8


def vae():
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[16, 32, 64],
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        # Replaced by the measured value once trained.
        scaling_factor=1.0,
    )


def text_encoder(tokenizer):
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=text.LENGTH,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def unet():
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=["CrossAttnDownBlock2D"] * 2,
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=["CrossAttnUpBlock2D"] * 2,
        block_out_channels=[64, 96],
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        # Four heads: the key is misnamed in Stable Diffusion 1.
        attention_head_dim=4,
        norm_num_groups=8,
    )


def scheduler():
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
        # However few the steps, the first is then at the last timestep (arXiv:2305.08891), where the sky is decided.
        timestep_spacing="trailing",
    )


def parameters(network):
    return sum(p.numel() for p in network.parameters())
