"""The worker of SDXL's refiner: one text encoder, and time ids with an aesthetic score in place of a target size."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch

from imagegen_core import ModelLoadError, ResolvedRequest
from imagegen_core.diffusion import Conditioning, Parts, UNetWorker, completed, encode_text_in_parts
from imagegen_sdxl.conditions import TARGET_SIZES, check_conditions
from imagegen_sdxl.plugin import REFINER_BACKEND

_ENCODER = "text_encoder_2"
_TIME_IDS = 5  # original size and crop corner, each as height, width, and the aesthetic score


class SDXLRefinerWorker(UNetWorker):
    """Draws with a checkpoint of SDXL's refiner (https://arxiv.org/abs/2307.01952, section 2.5).

    It draws the last steps of other models' pictures, pictures from pictures, and also pictures from noise.
    """

    backend = REFINER_BACKEND
    pipeline_class = "StableDiffusionXLImg2ImgPipeline"
    configs = Path(__file__).parent / "configs"
    pipeline_options: ClassVar = {"text_encoder": None, "tokenizer": None, "add_watermarker": False}
    embedding_encoders = (_ENCODER,)
    # https://research.nvidia.com/labs/toronto-ai/AlignYourSteps/howto.html
    aligned_sigmas = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)

    def load_pipe(self) -> Any:
        """Load the pipeline, and check that the UNet takes the refiner's time ids.

        Raises:
            ModelLoadError: It takes others, or the checkpoint is damaged, incomplete, or of another family.
        """
        pipe = super().load_pipe()
        config = pipe.unet.config
        width = config.projection_class_embeddings_input_dim - pipe.text_encoder_2.config.projection_dim
        if width != _TIME_IDS * config.addition_time_embed_dim:
            raise ModelLoadError(
                f"The UNet of {self.checkpoint} takes {width // config.addition_time_embed_dim} numbers beside the "
                f"prompt, and SDXL's refiner has {_TIME_IDS}: take a whole checkpoint of one model"
            )
        return pipe

    def encode(self, prompt: str, clip_skip: int) -> Conditioning:
        """Return the encoder's penultimate hidden states, and its pooled projection."""
        return completed(self.encode_in_parts(prompt, clip_skip))

    def encode_in_parts(self, prompt: str, clip_skip: int) -> Parts[Conditioning]:
        """Encode as `encode` does, one chunk at a time."""

        def hidden(output: Any) -> torch.Tensor:
            return output.hidden_states[-2 - clip_skip]  # type: ignore[no-any-return]

        pipe, embeddings = self.pipe, self.embeddings.of(_ENCODER)
        text = yield from encode_text_in_parts(pipe.tokenizer_2, pipe.text_encoder_2, prompt, hidden, embeddings)
        return Conditioning(text.tokens, {"text_embeds": text.pooled})

    def encode_absent(self, clip_skip: int) -> Conditioning:
        """Return zeros if the checkpoint's index sets ``force_zeros_for_empty_prompt``, else the empty prompt."""
        absent = super().encode_absent(clip_skip)
        return absent.zeros() if self.pipe.config.force_zeros_for_empty_prompt else absent

    def check(self, request: ResolvedRequest) -> None:
        """Check as the base class does, and refuse target sizes, unless another model has drawn the first steps."""
        super().check(request)
        if request.switch_at is None:
            check_conditions(request, TARGET_SIZES, "SDXL's base")

    def with_request(self, conditioning: Conditioning, request: ResolvedRequest) -> Conditioning:
        """Add the time ids: original size and crop corner, each as height, width, and the aesthetic score."""
        return self._with_time_ids(super().with_request(conditioning, request), request, negative=False)

    def with_negative_request(self, conditioning: Conditioning, request: ResolvedRequest) -> Conditioning:
        """Add the negative prompt's time ids."""
        return self._with_time_ids(super().with_request(conditioning, request), request, negative=True)

    def _with_time_ids(self, conditioning: Conditioning, request: ResolvedRequest, *, negative: bool) -> Conditioning:
        sizes = request.micro_conditioning
        score = sizes.negative_aesthetic_score if negative else sizes.aesthetic_score
        ids = [*sizes.time_ids(request.size, negative=negative)[: _TIME_IDS - 1], score]
        return conditioning.with_added(time_ids=torch.tensor([ids], device=self.device, dtype=self.dtype))
