"""The demo model's networks: SDXL's own classes, small enough that all four weigh under 12 MB in fp16."""

from __future__ import annotations

from diffusers import AutoencoderKL, LCMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

_TEXT_WIDTHS = (48, 80)
_TIME_WIDTH = 8  # of each of the six time ids


def new_vae() -> AutoencoderKL:
    """Return an untrained autoencoder, with a latent of four channels for 8x8 pixels."""
    return AutoencoderKL(
        block_out_channels=[16, 16, 32, 64],
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
        sample_size=256,
        mid_block_add_attention=False,
        scaling_factor=1.0,
        force_upcast=False,
    )


def new_unet() -> UNet2DConditionModel:
    """Return an untrained UNet that predicts v from latents, prompt, and SDXL's text-time embedding."""
    return UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(32, 64, 96, 128),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4, 6, 8),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=_TIME_WIDTH,
        projection_class_embeddings_input_dim=6 * _TIME_WIDTH + _TEXT_WIDTHS[1],
        cross_attention_dim=sum(_TEXT_WIDTHS),
    )


def new_scheduler() -> LCMScheduler:
    """Return LCM's scheduler with v-prediction.

    Noise prediction is ill-conditioned at t=999, the first of the four steps.
    """
    return LCMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction"
    )


def new_pipeline(vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionXLPipeline:
    """Return a pipeline around a trained `vae`; its UNet and text encoders are untrained."""
    first, second = (_text_config(width, tokenizer) for width in _TEXT_WIDTHS)
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(first),
        text_encoder_2=CLIPTextModelWithProjection(second),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=new_unet(),
        scheduler=new_scheduler(),
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


def _text_config(width: int, tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2,
        num_attention_heads=width // 16,
        projection_dim=width,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
