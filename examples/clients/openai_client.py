"""Draw two pictures with OpenAI's Python client: `pip install openai`."""

import base64
import os
from pathlib import Path

from openai import OpenAI

url = os.environ.get("IMAGEGEN_URL", "http://127.0.0.1:4200")
client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("IMAGEGEN_API_KEY", "any"))

response = client.images.generate(
    prompt="a red circle on a blue background",
    n=2,
    response_format="b64_json",
    extra_body={"seed": 7, "num_inference_steps": 4},  # imagegen's own fields
)
for number, picture in enumerate(response.data or [], 1):
    Path(f"openai-{number}.png").write_bytes(base64.b64decode(picture.b64_json or ""))
