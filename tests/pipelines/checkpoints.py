"""Tiny random checkpoints of pipelines without a backend of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
import transformers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.checkpoints import tiny_tokenizer

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?-'\"()"
_WIDTH = 32
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} {{ message['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)


def save_pixart(folder: Path) -> Path:
    """PixArt-Sigma: a T5 encoder, and a pipeline with the older kind of callback."""
    torch.manual_seed(11)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in _LETTERS)]
    diffusers.PixArtSigmaPipeline(
        tokenizer=transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=300),
        text_encoder=transformers.T5EncoderModel(
            transformers.T5Config(vocab_size=len(pieces), d_model=_WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
        ),
        vae=_vae(),
        transformer=diffusers.PixArtTransformer2DModel(
            num_attention_heads=4,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            cross_attention_dim=_WIDTH,
            caption_channels=_WIDTH,
            sample_size=32,
            use_additional_conditions=False,
        ),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    ).save_pretrained(folder)
    return folder


def save_sana(folder: Path) -> Path:
    """Sana: a Gemma encoder, and a deep autoencoder of 32 pixels and 32 channels a latent."""
    torch.manual_seed(12)
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *_LETTERS]
    depth = 6
    diffusers.SanaPipeline(
        tokenizer=transformers.GemmaTokenizer(vocab={token: number for number, token in enumerate(tokens)}),
        text_encoder=transformers.Gemma2Model(
            transformers.Gemma2Config(
                vocab_size=len(tokens),
                hidden_size=_WIDTH,
                intermediate_size=64,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
                head_dim=16,
            )
        ),
        vae=diffusers.AutoencoderDC(
            latent_channels=32,
            attention_head_dim=8,
            encoder_block_out_channels=(*(8,) * (depth - 1), 32),
            decoder_block_out_channels=(*(8,) * (depth - 1), 32),
            encoder_layers_per_block=(1,) * depth,
            decoder_layers_per_block=(1,) * depth,
            encoder_qkv_multiscales=((),) * depth,
            decoder_qkv_multiscales=((),) * depth,
            scaling_factor=0.41407,
        ),
        transformer=diffusers.SanaTransformer2DModel(
            num_attention_heads=4,
            attention_head_dim=8,
            num_layers=1,
            num_cross_attention_heads=4,
            cross_attention_head_dim=8,
            cross_attention_dim=_WIDTH,
            caption_channels=_WIDTH,
            sample_size=16,
        ),
        scheduler=diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    ).save_pretrained(folder)
    return folder


def save_z_image(folder: Path) -> Path:
    """Z-Image: a Qwen encoder with a chat template, flow matching, and multiples of 16 pixels alone."""
    torch.manual_seed(13)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(set(bytes_to_unicode().values()))
    tokenizer = transformers.Qwen2Tokenizer(
        vocab={token: number for number, token in enumerate([*special, *letters])},
        additional_special_tokens=special[1:],
        chat_template=_CHAT,
    )
    diffusers.ZImagePipeline(
        tokenizer=tokenizer,
        text_encoder=transformers.Qwen3Model(
            transformers.Qwen3Config(
                vocab_size=len(tokenizer),
                hidden_size=_WIDTH,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                head_dim=16,
            )
        ),
        vae=_vae(latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159),
        transformer=diffusers.ZImageTransformer2DModel(
            in_channels=16,
            dim=_WIDTH,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=_WIDTH,
            axes_dims=[8, 4, 4],
            axes_lens=[1024, 64, 64],
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)
    return folder


def save_kandinsky(folder: Path) -> Path:
    """Kandinsky 2.2: two stages in one pipeline, and a decoder that is no VAE."""
    torch.manual_seed(14)
    tokenizer = tiny_tokenizer(folder.with_name(folder.name + "-tokenizer"))
    text = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        projection_dim=_WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = transformers.CLIPVisionConfig(
        hidden_size=_WIDTH,
        projection_dim=_WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=16,
    )
    diffusers.KandinskyV22CombinedPipeline(
        unet=diffusers.UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=8,
            addition_embed_type="image",
            encoder_hid_dim=_WIDTH,
            encoder_hid_dim_type="image_proj",
            cross_attention_dim=_WIDTH,
            attention_head_dim=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            resnet_time_scale_shift="scale_shift",
        ),
        scheduler=diffusers.DDPMScheduler(),
        movq=diffusers.VQModel(
            block_out_channels=(32,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            num_vq_embeddings=12,
            vq_embed_dim=4,
            norm_type="spatial",
        ),
        prior_prior=diffusers.PriorTransformer(
            num_attention_heads=2, attention_head_dim=16, embedding_dim=_WIDTH, num_layers=1
        ),
        prior_image_encoder=transformers.CLIPVisionModelWithProjection(vision),
        prior_text_encoder=transformers.CLIPTextModelWithProjection(text),
        prior_tokenizer=tokenizer,
        prior_scheduler=diffusers.UnCLIPScheduler(prediction_type="sample"),
        prior_image_processor=transformers.CLIPImageProcessorPil(crop_size={"height": 32, "width": 32}),
    ).save_pretrained(folder)
    return folder


PIPELINES: dict[str, Callable[[Path], Path]] = {
    "pixart": save_pixart,
    "sana": save_sana,
    "z-image": save_z_image,
    "kandinsky": save_kandinsky,
}


def _vae(latent_channels: int = 4, **config: float) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        latent_channels=latent_channels,
        sample_size=64,
        **config,
    )
