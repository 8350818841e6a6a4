"""Talking to a model: what it is asked (`session`), the `terminal`, the `server`, `chat(model)` for programs.

The package can be called: `from xtuner import chat; session = chat("model", adapter="adapter")` gives a
session with `ask(text)` and `stream(text)`; `help(xtuner.chat.talk.chat)` has its options.
"""

import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import inspect

    from xtuner.chat.talk import ChatSession


class _CallablePackage(types.ModuleType):
    """The package, which is also the function `chat`: both have this name in `xtuner`."""

    @property
    def __signature__(self) -> "inspect.Signature":
        import inspect

        from xtuner.chat.talk import chat

        return inspect.signature(chat)

    def __call__(self, *args: Any, **options: Any) -> "ChatSession":
        from xtuner.chat.talk import chat

        return chat(*args, **options)


sys.modules[__name__].__class__ = _CallablePackage
