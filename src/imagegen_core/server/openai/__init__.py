"""OpenAI's images API, for its official clients: https://platform.openai.com/docs/api-reference/images."""

from fastapi import APIRouter

from imagegen_core.server.openai import drawing, models
from imagegen_core.server.openai.bodies import EditBody as EditBody
from imagegen_core.server.openai.bodies import ImagesBody as ImagesBody
from imagegen_core.server.openai.bodies import VariationBody as VariationBody

router = APIRouter(prefix="/v1", tags=["OpenAI"])
for _routes in (models, drawing):
    router.include_router(_routes.router)
