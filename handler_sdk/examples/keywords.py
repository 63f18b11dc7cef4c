"""What is each section of a text about? A generator: one chunk per section, as soon as it is known.

    runlane dev handler_sdk/examples/keywords.py
    python handler_sdk/examples/keywords.py --test_input '{"input": {"text": "One thing.\\n\\nAnother.", "top": 3}}'

Input: {"text": the text, sections separated by blank lines, "top": most keywords per section, 1 to 50 (default 5)}.
A word tells much about a section when it is frequent there and rare in the others (TF-IDF). The last chunk sums up.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import handler_sdk

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
TITLE_LENGTH = 60


def sections_of(text: str) -> list[tuple[str, list[str]]]:
    """(title, words) of each section. A short line alone is the heading of what follows."""
    sections: list[tuple[str, list[str]]] = []
    heading = ""
    for block in re.split(r"\n\s*\n", text.strip()):
        block = " ".join(block.split())
        if len(block) <= TITLE_LENGTH and not block.endswith((".", "!", "?", "…", ":")):
            heading = block.lstrip("# ")
            continue
        title = heading or (block if len(block) <= TITLE_LENGTH else block[:TITLE_LENGTH].rsplit(" ", 1)[0] + "…")
        sections.append((title, [word.lower() for word in WORD.findall(block)]))
        heading = ""
    if heading:
        sections.append((heading, [word.lower() for word in WORD.findall(heading)]))
    return sections


def keywords_of(words: list[str], sections_with: Counter[str], count: int, top: int) -> list[dict[str, Any]]:
    """The most telling words: smoothed TF-IDF, ties in alphabetical order."""
    weights = {
        word: times / len(words) * (math.log((1 + count) / (1 + sections_with[word])) + 1)
        for word, times in Counter(words).items()
        if len(word) > 2
    }
    best = sorted(weights.items(), key=lambda item: (-item[1], item[0]))[:top]
    return [{"word": word, "score": round(weight, 4)} for word, weight in best]


def handler(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    given = job["input"]
    text = given.get("text") if isinstance(given, dict) else None
    if not isinstance(text, str) or not text.strip():
        yield {"error": 'the input must be {"text": "some text"}'}
        return
    top = given.get("top", 5)
    if type(top) is not int or not 1 <= top <= 50:
        yield {"error": '"top" must be a whole number from 1 to 50'}
        return
    sections = sections_of(text)
    sections_with = Counter(word for _, words in sections for word in set(words))
    for number, (title, words) in enumerate(sections, 1):
        yield {
            "section": number,
            "title": title,
            "words": len(words),
            "keywords": keywords_of(words, sections_with, len(sections), top),
        }
    words = [word for _, words in sections for word in words]
    yield {"sections": len(sections), "words": len(words), "different_words": len(sections_with)}


if __name__ == "__main__":
    handler_sdk.start({"handler": handler, "return_aggregate_stream": True})
