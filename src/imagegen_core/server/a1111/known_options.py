"""A1111's options known to this server: options with a fixed value, and options without effect on pictures.

Names and defaults: ``modules/shared_options.py`` of A1111 1.10, and ``modules_forge/main_entry.py`` of Forge.
"""

from __future__ import annotations

from typing import Any


def fixed_options(vae: str | None) -> dict[str, tuple[Any, ...]]:
    """Return the options with an effect on pictures, each with the only values allowed here.

    The server reports the first value of each option.

    Args:
        vae: The configured VAE's name; None if each checkpoint uses its own VAE.
    """
    return _FIXED | {"sd_vae": ("Automatic", vae or "None")}


_FIXED: dict[str, tuple[Any, ...]] = {
    "samples_format": ("png",),
    "enable_pnginfo": (True,),
    "sd_unet": ("Automatic", "None"),
    "sd_vae_decode_method": ("Full",),
    "sd_model_refiner": ("None", None, ""),
    "sd_lora": ("None", None, ""),
    "sd_hypernetwork": ("None", None, ""),
    "upcast_attn": (False,),
    "randn_source": ("CPU",),
    "emphasis": ("Original",),
    "enable_emphasis": (True,),
    "use_old_emphasis_implementation": (False,),
    "comma_padding_backtrack": (20,),
    "pad_cond_uncond": (True,),
    "use_old_karras_scheduler_sigmas": (False,),
    "use_old_scheduling": (False,),
    "no_dpmpp_sde_batch_determinism": (False,),
    "enable_batch_seeds": (True,),
    "enable_quantization": (False,),
    "eta_ddim": (0,),
    "eta_ancestral": (1,),
    "eta_noise_seed_delta": (0,),
    "s_churn": (0,),
    "s_tmin": (0,),
    "s_tmax": (0,),
    "s_noise": (1,),
    "s_min_uncond": (0,),
    "token_merging_ratio": (0,),
    "tiling": (False,),
    "face_restoration": (False,),
    "sdxl_crop_top": (0,),
    "sdxl_crop_left": (0,),
}

FORGE_ALONE: dict[str, tuple[Any, ...]] = {"forge_additional_modules": ([],)}
"""Options with a fixed value, accepted but not reported: a client would take this server for Forge."""

OF_IMG2IMG: dict[str, tuple[Any, ...]] = {
    "initial_noise_multiplier": (1,),
    "img2img_color_correction": (False,),
    "upscaler_for_img2img": ("None", None, "", "Lanczos"),
    "token_merging_ratio_img2img": (0,),
    "img2img_extra_noise": (0,),
}
"""Options with an effect on ``img2img`` alone, each with the only values drawn here; any value may be set."""

OF_MASKS: dict[str, tuple[Any, ...]] = {
    "inpainting_mask_weight": (1,),
    "return_mask": (False,),
    "return_mask_composite": (False,),
}
"""The same with an effect on pictures with a mask."""

OF_HIRES: dict[str, tuple[Any, ...]] = {
    "use_old_hires_fix_width_height": (False,),
    "token_merging_ratio_hr": (0,),
    "img2img_extra_noise": (0,),
}
"""The same with an effect on hires."""

OF_INPUT_PICTURES: dict[str, Any] = {
    "img2img_fix_steps": False,
    "img2img_background_color": "#ffffff",
    **{name: values[0] for group in (OF_IMG2IMG, OF_MASKS, OF_HIRES) for name, values in group.items()},
}
"""The defaults of all options for input pictures and hires."""

_NAMES = """
sd_checkpoint_hash sd_checkpoint_cache sd_checkpoints_limit sd_checkpoints_keep_in_cpu sd_vae_checkpoint_cache
sd_vae_overrides_per_model_preferences auto_vae_precision cross_attention_optimization persistent_cond_cache
batch_cond_uncond forge_preset forge_inference_memory

samples_save samples_filename_pattern save_images_add_number save_images_replace_action grid_save grid_format
grid_extended_filename grid_only_if_multiple grid_prevent_empty_spots grid_zip_filename_pattern n_rows font
grid_text_active_color grid_text_inactive_color grid_background_color save_txt save_images_before_face_restoration
save_images_before_highres_fix save_images_before_color_correction save_mask save_mask_composite jpeg_quality
webp_lossless export_for_4chan img_downscale_threshold target_side_length img_max_size_mp use_original_name_batch
use_upscaler_name_as_suffix save_selected_only save_write_log_csv save_init_img temp_dir clean_temp_dir_at_start
save_incomplete_images notification_audio notification_volume

outdir_samples outdir_txt2img_samples outdir_img2img_samples outdir_extras_samples outdir_grids outdir_txt2img_grids
outdir_img2img_grids outdir_save outdir_init_images save_to_dirs grid_save_to_dirs use_save_to_dirs_for_ui
directories_filename_pattern directories_max_prompt_words

realesrgan_enabled_models dat_enabled_models face_restoration_model code_former_weight face_restoration_unload
img2img_editor_height hires_fix_use_firstpass_conds hires_fix_refiner_pass sdxl_refiner_low_aesthetic_score
sdxl_refiner_high_aesthetic_score

auto_launch_browser enable_console_prompts show_warnings show_gradio_deprecation_warnings memmon_poll_rate
samples_log_stdout multiple_tqdm enable_upscale_progressbar print_hypernet_extra list_hidden_files
disable_mmap_load_safetensors hide_ldm_prints dump_stacks_on_signal api_enable_requests api_forbid_local_requests
api_useragent

extra_networks_show_hidden_directories extra_networks_hidden_models extra_networks_card_width
extra_networks_card_height extra_networks_card_text_scale extra_networks_card_show_desc
extra_networks_default_multiplier extra_networks_add_text_separator textual_inversion_print_at_load
textual_inversion_add_hashes_to_infotext lora_show_all lora_add_hashes_to_infotext lora_in_memory_limit
lora_functional

localization gradio_theme gradio_themes_cache gallery_height return_grid do_not_show_images send_seed send_size
js_modal_lightbox js_modal_lightbox_initially_zoomed js_modal_lightbox_gamepad js_live_preview_in_modal_lightbox
show_progress_in_title samplers_in_dropdown dimensions_and_batch_together keyedit_precision_attention
keyedit_precision_extra keyedit_delimiters keyedit_delimiters_whitespace keyedit_move quicksettings_list ui_tab_order
hidden_tabs ui_reorder_list hires_fix_show_sampler hires_fix_show_prompts disable_token_counters hide_samplers

add_model_hash_to_info add_model_name_to_info add_vae_hash_to_info add_vae_name_to_info add_user_name_to_info
add_version_to_infotext disable_weights_auto_swap infotext_styles infotext_skip_pasting show_progressbar
live_previews_enable live_previews_image_format show_progress_grid show_progress_every_n_steps show_progress_type
live_preview_allow_lowvram_full live_preview_content live_preview_refresh_period live_preview_fast_interrupt
"""

HARMLESS = frozenset(_NAMES.split())
"""Options for A1111's web page, for its files, and for features missing here; any value is allowed."""
