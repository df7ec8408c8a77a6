"""Answers to requests, without any I/O; ASGI and the trio server send them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from ._page import load_page
from ._report import report_on, why_not_ready

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._report import Observed

_TEXT: Final = "text/plain; charset=utf-8"
_METHODS: Final = ("GET", "HEAD")


class Answer(NamedTuple):
    """A whole response, without the headers that depend on the connection."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class _Content(NamedTuple):
    status: int
    content_type: str
    body: bytes
    policy: str = "default-src 'none'; frame-ancestors 'none'"
    allow: str | None = None


def answer(observed: Sequence[Observed], method: str, path: str, accept: str = "") -> Answer:
    """Answer a request.

    Args:
        observed: the queues to report on.
        method: in capital letters.
        path: relative to where the app is mounted, without a query.
        accept: the request's Accept header.
    """
    make = _CONTENTS.get(path)
    if make is None:
        content = _text(404, "not found")
    elif method not in _METHODS:
        content = _text(405, "only GET and HEAD are allowed")._replace(allow=", ".join(_METHODS))
    else:
        content = make(observed, accept)
    return _finish(content, with_body=method != "HEAD")


def refusal(status: int, reason: str) -> Answer:
    """Refuse a request, with a reason in plain words."""
    return _finish(_text(status, reason), with_body=True)


def _finish(content: _Content, *, with_body: bool) -> Answer:
    headers = {
        "content-type": content.content_type,
        "content-length": str(len(content.body)),
        "cache-control": "no-store",
        "content-security-policy": content.policy,
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    if content.allow is not None:
        headers["allow"] = content.allow
    return Answer(
        content.status,
        tuple((name.encode(), value.encode()) for name, value in headers.items()),
        content.body if with_body else b"",
    )


def _text(status: int, text: str) -> _Content:
    return _Content(status, _TEXT, f"{text}\n".encode())


def _page(_observed: Sequence[Observed], _accept: str) -> _Content:
    page = load_page()
    return _Content(200, "text/html; charset=utf-8", page.html, page.content_security_policy)


def _livez(_observed: Sequence[Observed], _accept: str) -> _Content:
    return _text(200, "alive")


def _readyz(observed: Sequence[Observed], _accept: str) -> _Content:
    if not observed:
        return _text(503, "not ready\nno queue is open yet, or any more")
    reasons = [
        f"queue {queue.name!r}: {reason}"
        for queue, _ in observed
        if (reason := why_not_ready(queue.metrics())) is not None
    ]
    if reasons:
        return _text(503, "\n".join(["not ready", *reasons]))
    return _text(200, "ready")


def _metrics(observed: Sequence[Observed], accept: str) -> _Content:
    try:
        # Here, because only this answer needs the extra.
        from ._exposition import expose  # noqa: PLC0415
    except ImportError:
        return _text(501, "not available: install provcache-trio[prometheus]")
    body, content_type = expose([queue for queue, _ in observed], accept)
    return _Content(200, content_type, body)


def _status(observed: Sequence[Observed], _accept: str) -> _Content:
    return _Content(200, "application/json", msgspec.json.encode(report_on(observed)))


_CONTENTS: Final[dict[str, Callable[[Sequence[Observed], str], _Content]]] = {
    # Without the slash, too: mounting under /queue, some frameworks pass on /queue as "".
    "": _page,
    "/": _page,
    "/livez": _livez,
    "/readyz": _readyz,
    "/metrics": _metrics,
    "/status.json": _status,
}
