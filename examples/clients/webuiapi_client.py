"""Draw a picture with webuiapi, a Python client of A1111's API: `pip install webuiapi`."""

import os

import webuiapi

url = os.environ.get("IMAGEGEN_URL", "http://127.0.0.1:4200")
key = os.environ.get("IMAGEGEN_API_KEY", "any")  # the password; the user name does not matter
client = webuiapi.WebUIApi(baseurl=f"{url}/sdapi/v1", sampler="LCM", steps=4, username="any", password=key)

result = client.txt2img(prompt="a red circle on a blue background", seed=7, cfg_scale=1.0, width=256, height=256)
result.image.save("webuiapi.png")
print(result.info["infotexts"][0])
