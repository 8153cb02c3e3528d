"""Run and Promise: drive a request's coroutine without a Task, and hold the value that it waits for.

A Task takes one turn of the loop to start and one more for each value.  A `Run` starts its coroutine at once, and
resolving a `Promise` continues it inside the callback that received the bytes.  Rules:

1. Callers of `resolve` update their own state first: the waiter runs inside `resolve` and may call them.
2. A run has no current task.  Code that needs one, such as `asyncio.timeout`, runs in a Task (`Env.spawn`).
3. Promises and runs work with Tasks too: a Task can await a promise, and a run can await any Future.
4. A Task gets a value one turn later, and may be cancelled in between.  The value is then discarded: its method
   `discard` is called, if it has one.
5. A run ends exactly once, with a value, with `CancelledError` or with a bug, and then calls `done`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from functools import partial
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

PENDING: Final = object()
"""Value of a promise that is not yet resolved."""
CANCELLED: Final = object()
"""Value of a promise whose waiter was cancelled."""


class Promise(Generic[T]):
    """Future value for one waiter, set by a callback."""

    __slots__ = ("_asyncio_future_blocking", "_value", "_wake", "on_cancel")

    def __init__(self, on_cancel: Callable[[], None] | None = None) -> None:
        self._value: Any = PENDING
        self._wake: Callable[[Any], None] | None = None
        self._asyncio_future_blocking = False
        self.on_cancel = on_cancel
        """Function that `cancel` calls before the waiter gets its `CancelledError`; None to call nothing.
        It is None once the promise is done."""

    def resolve(self, value: T) -> None:
        """Set the value and run the waiter.  Without effect on a promise that is resolved or cancelled."""
        if self._value is PENDING:
            self._value = value
            self.on_cancel = None  # breaks a reference cycle, which only the garbage collector would free
            wake, self._wake = self._wake, None  # a reference to the promise does not keep its waiter alive
            if wake is not None:
                wake(self)

    def done(self) -> bool:
        """True once the promise is resolved or cancelled."""
        return self._value is not PENDING

    def cancelled(self) -> bool:
        """True once the waiter was cancelled."""
        return self._value is CANCELLED

    def cancel(self, msg: Any = None) -> bool:
        """Cancel the waiter; called by the Run or Task that drives it.  False if the promise is already done."""
        if self._value is not PENDING:
            return False
        self._value = CANCELLED
        on_cancel, self.on_cancel = self.on_cancel, None
        if on_cancel is not None:
            on_cancel()
        if self._wake is not None:
            self._wake(self)
        return True

    def result(self) -> T:
        """Return the value.  Raises `CancelledError` after `cancel`, and `InvalidStateError` before `resolve`."""
        if self._value is CANCELLED:
            raise asyncio.CancelledError
        if self._value is PENDING:
            raise asyncio.InvalidStateError("the promise is not resolved yet")
        return self._value  # type: ignore[no-any-return]

    def __await__(self) -> Generator[Any, None, T]:
        if self._value is PENDING:
            self._asyncio_future_blocking = True  # asyncio's protocol between a Future and the driver of a coroutine
            try:
                yield self
            except BaseException:
                self._discard()
                raise
        return self.result()

    def _discard(self) -> None:
        """Discard the value of a promise whose waiter was cancelled before it took the value."""
        discard = getattr(self._value, "discard", None)
        if discard is not None:
            discard()

    # The interface that a Task expects of a Future.  A Task cannot run inside another, so the loop wakes it.

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context | None = None) -> None:
        loop = asyncio.get_running_loop()
        if self._value is PENDING:
            self._wake = partial(self._wake_task, loop, callback, context)
        else:
            loop.call_soon(callback, self, context=context)

    def _wake_task(
        self, loop: asyncio.AbstractEventLoop, callback: Callable[[Any], object], context: Context | None, _: Any
    ) -> None:
        loop.call_soon(callback, self, context=context)

    def set_waiter(self, waiter: Callable[[Any], None]) -> None:
        """Set the function that `resolve` and `cancel` call with the promise."""
        self._wake = waiter


class Run(Generic[T]):
    """Execution of one coroutine.  `done(run)` is called at its end, possibly before the constructor returns."""

    __slots__ = ("_coroutine", "_done", "_throw", "_waiting", "error", "has_ended", "value")

    def __init__(self, coroutine: Coroutine[Any, Any, T], done: Callable[[Run[T]], None]) -> None:
        self.value: T | None = None
        """Value that the coroutine returned; None until then."""
        self.error: BaseException | None = None
        """Exception that the coroutine raised; None without one."""
        self.has_ended = False
        """True once the coroutine has returned or raised."""
        self._coroutine = coroutine
        self._done = done
        self._waiting: Any = None
        self._throw: BaseException | None = None
        self._step(None)

    def _step(self, waited: Any) -> None:
        self._waiting = None
        try:
            thrown = self._throw  # a local, because mypyc does not expect that the coroutine changes the attribute
            if thrown is None:
                waiting = self._coroutine.send(None)
            else:
                self._throw = None
                waiting = self._coroutine.throw(thrown)
        except StopIteration as stop:
            self.value = stop.value
            self.has_ended = True
            self._done(self)
            return
        except BaseException as error:
            self.error = error
            self.has_ended = True
            self._done(self)
            if not isinstance(error, (Exception, asyncio.CancelledError)):
                raise
            return
        if isinstance(waiting, Promise):
            waiting._asyncio_future_blocking = False
            self._waiting = waiting
            waiting._wake = self._step
        elif getattr(waiting, "_asyncio_future_blocking", None):
            waiting._asyncio_future_blocking = False
            self._waiting = waiting
            waiting.add_done_callback(self._step)
        elif waiting is None:  # asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(self._step, None)
        else:
            self._throw = RuntimeError(f"a request waits for {waiting!r}, which is neither a promise nor a future")
            self._step(None)
            return
        if self._throw is not None and self._waiting is not None and self._waiting.cancel():  # cancelled while it ran
            self._throw = None

    def cancel(self) -> None:
        """Raise `CancelledError` in the coroutine where it waits; without effect once it has ended."""
        waiting = self._waiting
        if waiting is None or not waiting.cancel():
            self._throw = asyncio.CancelledError()

    def __repr__(self) -> str:
        return f"<Run {self._coroutine!r} waiting for {self._waiting!r}>"
