"""Requests for pictures, and the only place that validates them."""

from imagegen_core.request.checks import shown as shown
from imagegen_core.request.generate import GenerateRequest as GenerateRequest
from imagegen_core.request.hires import HiresOptions as HiresOptions
from imagegen_core.request.micro_conditioning import MicroConditioning as MicroConditioning
from imagegen_core.request.picture_options import InpaintOptions as InpaintOptions
from imagegen_core.request.picture_options import OutpaintOptions as OutpaintOptions
from imagegen_core.request.resolved import MAX_GUIDANCE as MAX_GUIDANCE
from imagegen_core.request.resolved import ResolvedRequest as ResolvedRequest
from imagegen_core.request.resolved import check_request as check_request
from imagegen_core.request.resolved import with_counted_seeds as with_counted_seeds
from imagegen_core.request.size import VAE_REDUCTION as VAE_REDUCTION
from imagegen_core.request.size import Size as Size
from imagegen_core.request.step_options import StepOptions as StepOptions
from imagegen_core.request.style import StyleLoraRequest as StyleLoraRequest
from imagegen_core.request.variation import Variation as Variation
