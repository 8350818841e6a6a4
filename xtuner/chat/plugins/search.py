"""Search results of the web, from serper.dev.

POST {base_url}/search  {"q": "tallest mountain", "num": 10}   X-API-KEY: ...
-> {"answerBox": {"answer": "Mount Everest"}, "organic": [{"title", "snippet", "link"}, ...]}
-> ["Mount Everest", "Highest mountains: Everest is ... (https://...)", ...]
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from xtuner.errors import ConfigError
from xtuner.language import translate

KEY = "SERPER_API_KEY"
MAX_QUERY = 500  # characters
_MAX_BYTES = 1_000_000


class SearchError(RuntimeError):
    """The search failed; the message is for the model and the user."""


@dataclass(frozen=True)
class Search:
    """A search engine and the key to it."""

    key: str
    base_url: str = "https://google.serper.dev"
    seconds: float = 15.0
    results: int = 10

    def __call__(self, query: str) -> list[str]:
        """The texts found for `query`, the best first."""
        body = json.dumps({"q": query[:MAX_QUERY], "num": self.results}).encode()
        request = urllib.request.Request(
            f"{self.base_url.rstrip('/')}/search",
            data=body,
            headers={"X-API-KEY": self.key, "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=self.seconds) as response:
                found = json.loads(response.read(_MAX_BYTES))
        except urllib.error.HTTPError as error:
            error.close()
            refused = f"{KEY} is not accepted" if error.code in (401, 403) else f"HTTP {error.code}"
            raise SearchError(f"the search failed: {refused}") from None
        except TimeoutError:
            raise SearchError(f"the search failed: no answer within {self.seconds:g} s") from None
        except urllib.error.URLError as error:
            raise SearchError(f"the search failed: {error.reason}") from None
        except (ValueError, OSError) as error:
            raise SearchError(f"the search failed: {error}") from None
        return _texts(found)[: self.results] or ["nothing was found"]


def search_from_environment() -> Search:
    """The search engine with the key in SERPER_API_KEY, at SERPER_BASE_URL if that is set."""
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise ConfigError(
            translate(
                "search needs a key of https://serper.dev: set the environment variable {name}, or "
                "omit search",
                name=KEY,
            )
        )
    url = os.environ.get("SERPER_BASE_URL", "").strip()
    return Search(key, url) if url else Search(key)


def _texts(found: Any) -> list[str]:
    if not isinstance(found, dict):
        return []
    box, graph = found.get("answerBox"), found.get("knowledgeGraph")
    texts = []
    if isinstance(box, dict):
        texts.append(box.get("answer") or box.get("snippet"))
    if isinstance(graph, dict) and graph.get("description"):
        texts.append(f"{graph.get('title', '')}: {graph['description']}")
    for page in found.get("organic") or []:
        if isinstance(page, dict) and page.get("snippet"):
            texts.append(f"{page.get('title', '')}: {page['snippet']} ({page.get('link', '')})")
    return [str(text) for text in texts if text]
