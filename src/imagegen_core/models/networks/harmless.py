"""Tensors in checkpoints that belong to no network and do not change the picture."""

from __future__ import annotations

import re

# Anywhere in a checkpoint.
_OF_CHECKPOINTS = re.compile(
    r"model_ema\..+"  # the weights' moving averages, in addition to the weights
    r"|(?:betas|log_one_minus_alphas_cumprod|(?:alphas|sqrt_alphas|sqrt_one_minus_alphas)_cumprod|alphas_cumprod_prev"
    r"|sqrt_recip_alphas_cumprod|sqrt_recipm1_alphas_cumprod|posterior_\w+|logvar|lvlb_weights)"  # the noise schedule
    r"|(?:denoiser\.|model_sampling\.)?(?:log_)?sigmas"
    r"|v_pred|ztsnr|edm_mean|edm_std|edm_vpred\.sigma_(?:max|min)"  # marks of the prediction type
    r"|scale_factor|global_step|epoch|iteration"
    r"|(?:.+\.)?logit_scale"  # compares texts with pictures
    r"|(?:first_stage_model\.|vae\.)?(?:loss|discriminator)\..+"  # from an autoencoder's training
    r"|(?:optimizer|optimizers|optimizer_states|lr_scheduler|lr_schedulers|callbacks|loops)\..+"
    r"|safety_checker\..+"
    r"|(?:.+\.)?(?:scaled_fp8|position_ids)"
)
# In a text encoder: tensors that transformers and open_clip save in addition to the layers for texts.
_OF_TEXT_ENCODERS = re.compile(
    r"(?:embeddings\.)?position_ids|logit_scale|attn_mask|text_projection(?:\.weight)?"
    r"|(?:visual|vision_model)\..+|visual_projection\.weight"
)
_OF_COMPONENTS = {"text_encoder": _OF_TEXT_ENCODERS, "text_encoder_2": _OF_TEXT_ENCODERS}


def is_harmless(name: str, component: str | None = None) -> bool:
    """Return whether a tensor that no layer takes can be ignored.

    Args:
        name: The tensor's name in a checkpoint or, with `component`, its name in `Layers`.
        component: Its component, such as ``text_encoder``.
    """
    if component is not None:
        pattern = _OF_COMPONENTS.get(component)
        return bool(pattern and pattern.fullmatch(name))
    return bool(_OF_CHECKPOINTS.fullmatch(name))
