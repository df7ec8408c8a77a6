"""The password that an application gives: once, or for each connection."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final, TypeAlias, cast, final

import trio

from provcache_trio._vocabulary.errors import StoreMisconfiguredError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    PasswordSource: TypeAlias = str | Callable[[], Awaitable[str]] | None


@final
class Password:
    """The argument ``password`` of an application.

    Args:
        source: the password; or an async function that returns it, such as a token that expires; or
            None.
        timeout_seconds: the time limit of one call of that function.

    Raises:
        TypeError: ``source`` is none of these.

    Attributes:
        value: the last known password; None: it is in the URL or the environment.
    """

    def __init__(self, source: PasswordSource, timeout_seconds: float) -> None:
        # Callers may pass values that the annotation does not allow.
        given: object = source
        if not (given is None or isinstance(given, str) or callable(given)):
            kind = type(given).__name__
            raise TypeError(f"password must be a str or an async function, not {kind}")
        self.value: str | None = source if isinstance(source, str) else None
        self._ask: Final = None if source is None or isinstance(source, str) else source
        self._timeout_seconds = timeout_seconds

    async def refresh(self) -> None:
        """Ask for the password again; called on trio's side before each connection is made.

        Raises:
            StoreUnavailableError: the function raised an exception, whose class the message names,
                or took too long.
            StoreMisconfiguredError: it is not async, or did not return a str.
        """
        if self._ask is None:
            return
        answer: object = None
        failure: str | None = None
        with trio.move_on_after(self._timeout_seconds) as scope:
            try:
                answer = await _awaitable(self._ask())
            except StoreMisconfiguredError:
                raise
            except Exception as error:  # noqa: BLE001  # whatever a user's function raises
                failure = type(error).__name__
        if scope.cancelled_caught:
            raise StoreUnavailableError(
                f"password() did not return within {self._timeout_seconds:g} s"
            )
        # Raised here, as the message of the exception may quote a secret.
        if failure is not None:
            raise StoreUnavailableError(f"password() raised {failure}", error_class=failure)
        if not isinstance(answer, str):
            kind = type(answer).__name__
            raise StoreMisconfiguredError(f"password() must return a str, not {kind}")
        self.value = answer


def _awaitable(answer: object) -> Awaitable[object]:
    if not isinstance(answer, Awaitable):
        kind = type(answer).__name__
        raise StoreMisconfiguredError(f"password must be an async function; it returned {kind}")
    return cast("Awaitable[object]", answer)
