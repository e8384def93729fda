"""Images for schemathesis, which can generate texts of a schema but no image that can be decoded."""

import base64

import schemathesis
from hypothesis import strategies

from tests.fakes import image_bytes

PICTURES = [image_bytes(colour, (8, 8)) for colour in ("red", "blue")]
DATA_URLS = [f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in PICTURES]

schemathesis.openapi.format("image-data-url", strategies.sampled_from(DATA_URLS))
schemathesis.openapi.format("image-base64", strategies.sampled_from([url.partition(",")[2] for url in DATA_URLS]))
schemathesis.openapi.format("binary", strategies.sampled_from(PICTURES))
