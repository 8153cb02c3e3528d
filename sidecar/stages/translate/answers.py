"""Answers of gRPC as JSON: one message, a stream of messages, or an error.

Rules:

1. An error is `{code, message, details}` as in `google.rpc.Status`, with the HTTP status of its code.
2. The status in the trailers counts; in an answer of trailers alone it is in the head.  Without one it is broken.
3. After the first message of a stream, an error is its last element: `{"error": {code, message, details}}`, and in
   server-sent events an event named `error`.  A stream that breaks off is broken off for the client too.
4. Fields of the head pass, but those of gRPC itself do not.  Trailers are not passed on.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable
from typing import Final

from sidecar.core.body import Body
from sidecar.core.message import Headers, get
from sidecar.core.outcome import CLIENT_CLOSED, RESET, TRANSFORM, Failure, Outcome, failed
from sidecar.core.promise import Promise
from sidecar.grpc.bindings import Binding
from sidecar.grpc.descriptors import DescriptorSet, MessageType
from sidecar.grpc.framing import COMPRESSED, MessageReader, MessageTooLarge
from sidecar.grpc.status import decode_message, parse_status, status_to_http
from sidecar.grpc.to_json import field_to_json, to_json, to_lenient_json
from sidecar.grpc.wire import MessageError, fields
from sidecar.stages.translate.error_details import with_error_details

ANY: Final = MessageType("google.protobuf.Any")
"""Type of an error's details."""
EXPANSION: Final = 8
"""Characters of JSON for each byte that a message may have."""
MOST_DETAILS: Final = 64
"""Most details of an error that are shown."""
HIDDEN: Final = frozenset((b"content-type", b"content-length", b"content-encoding", b"trailer"))
"""Fields of the head that are about the body of gRPC; so are those that begin with `grpc-`."""
JSON: Final = b"application/json"


class AnswerError(ValueError):
    """Raised for an answer that cannot be translated; the text is a sentence for the client."""


class Form:
    """Form of a stream: its content type, and what stands around its elements."""

    __slots__ = ("after", "before", "between", "content_type", "end", "error", "start")

    def __init__(self, name: str) -> None:
        """Take the name in the policy file: `ndjson`, `array` or `events`; any other stands for `ndjson`."""
        is_array, is_events = name == "array", name == "events"
        self.content_type = JSON if is_array else b"text/event-stream" if is_events else b"application/x-ndjson"
        self.start = b"[" if is_array else b""
        self.end = b"]" if is_array else b""
        self.between = b"," if is_array else b""
        self.before = b"data: " if is_events else b""
        self.after = b"" if is_array else b"\n\n" if is_events else b"\n"
        self.error = b"event: error\ndata: %b\n\n" if is_events else b'{"error":%b}' + self.after
        """Template of an error."""


class GrpcAnswer:
    """Answer of a call as far as its head tells."""

    __slots__ = ("_head", "_limit", "_marks", "_types", "binding")

    def __init__(self, call: Outcome, binding: Binding, types: DescriptorSet, limit: int) -> None:
        self.binding = binding
        self._head = call.headers
        self._marks = call.sensitive
        self._types = types
        self._limit = limit

    @property
    def has_status(self) -> bool:
        """True for an answer of trailers alone."""
        return get(self._head, b"grpc-status") is not None

    @property
    def reader(self) -> MessageReader:
        """Reader of its messages."""
        return MessageReader(self._limit)

    def code(self, trailers: Headers) -> int:
        """Return the status code.  Raises `AnswerError` if there is none."""
        value = get(trailers, b"grpc-status")
        if value is None:
            value = get(self._head, b"grpc-status")
        if value is None:
            raise AnswerError("The answer has no grpc-status.")
        return parse_status(value)

    def rest(self, status: int, content_type: bytes, body: bytes = b"", stream: Body | None = None) -> Outcome:
        """Return a REST answer with the fields of the head."""
        kept = [field for field in self._head if field[0] not in HIDDEN and not field[0].startswith(b"grpc-")]
        outcome = Outcome(status, [(b"content-type", content_type), *kept], body, stream=stream)
        outcome.sensitive = self._marks
        return outcome

    def text(self, flags: int, message: bytes) -> tuple[bytes, bytes]:
        """Return the body of a message, and its content type.  Raises `AnswerError`."""
        if flags & COMPRESSED:
            raise AnswerError("The answer is compressed, which was not asked for.")
        binding = self.binding
        kind, field = binding.method.output, binding.response
        limit = EXPANSION * self._limit
        try:
            if binding.is_raw_answer:
                return raw_body(message, None if field is None else field.number)
            if field is not None:
                return field_to_json(kind, field, message, self._types, limit), JSON
            return to_json(kind, message, self._types, limit), JSON
        except MessageError as error:
            raise AnswerError(f"The answer's message {error}.") from None

    def of_message(self, data: bytes, trailers: Headers) -> Outcome:
        """Return the REST answer to one message.  Raises `AnswerError`."""
        code = self.code(trailers)
        if code:
            return self.failed(code, trailers)
        messages = self.messages(data)
        if len(messages) != 1:
            raise AnswerError(f"The answer has {len(messages)} messages instead of one.")
        body, content_type = self.text(*messages[0])
        return self.rest(200, content_type, body)

    def of_stream(self, data: bytes, trailers: Headers, form: Form) -> Outcome:
        """Return the REST answer to a stream that is there as a whole.  Raises `AnswerError`."""
        code = self.code(trailers)
        messages = self.messages(data)
        if code and not messages:
            return self.failed(code, trailers)
        texts = [self.text(*message) for message in messages]
        if self.binding.is_raw_answer:
            if code:
                raise AnswerError("The answer ended with an error.")
            content_type = texts[0][1] if texts else b"application/octet-stream"
            return self.rest(200, content_type, b"".join([text for text, _ in texts]))
        parts = [form.before + text + form.after for text, _ in texts]
        if code:
            parts.append(form.error % self.error(code, trailers))
        return self.rest(200, form.content_type, form.start + form.between.join(parts) + form.end)

    def messages(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the messages of a whole body.  Raises `AnswerError`."""
        reader = self.reader
        try:
            messages = reader.feed(data) if data else []
        except MessageTooLarge:
            raise AnswerError(f"The answer's message is larger than {self._limit} bytes.") from None
        if not reader.is_between:
            raise AnswerError("The answer's last message is cut off.")
        return messages

    def failed(self, code: int, trailers: Headers) -> Outcome:
        """Return the REST answer to an error."""
        return self.rest(status_to_http(code), JSON, self.error(code, trailers))

    def error(self, code: int, trailers: Headers) -> bytes:
        """Return an error as JSON."""
        source = self._source(trailers)
        message = self.message(trailers)
        details: list[bytes] = []
        packed = get(source, b"grpc-status-details-bin")
        if packed is not None:
            try:
                data = binascii.a2b_base64(packed + b"=" * (-len(packed) % 4))
                for number, value in fields(data):
                    if number == 2 and isinstance(value, bytes) and not message:
                        message = value.decode("utf-8", "replace")
                    elif number == 3 and isinstance(value, bytes) and len(details) < MOST_DETAILS:
                        details.append(to_lenient_json(ANY, value, with_error_details(self._types), self._limit))
            except ValueError:  # not base64, or no message: the code and the text remain
                details = []
        return error_json(code, message, b",".join(details))

    def message(self, trailers: Headers) -> str:
        """Return the text of an error."""
        return decode_message(get(self._source(trailers), b"grpc-message") or b"")

    def _source(self, trailers: Headers) -> Headers:
        """Return the fields that have the status: the trailers, or else the head."""
        return trailers if get(trailers, b"grpc-status") is not None else self._head


def error_json(code: int, message: str, details: bytes = b"") -> bytes:
    """Return an error as JSON; `details` are the elements of its list."""
    text = json.dumps(message, ensure_ascii=False).encode("utf-8", "replace")
    return b'{"code":%d,"message":%b,"details":[%b]}' % (code, text, details)


def raw_body(message: bytes, number: int | None) -> tuple[bytes, bytes]:
    """Return data and content type of a `google.api.HttpBody`, which is the field `number` if that is given.

    Raises `MessageError`.
    """
    if number is not None:
        message = b"".join([value for found, value in fields(message) if found == number and isinstance(value, bytes)])
    data, content_type = b"", b""
    for found, value in fields(message):
        if found == 1 and isinstance(value, bytes):
            content_type = value
        elif found == 2 and isinstance(value, bytes):
            data = value
    is_field = content_type and all(0x20 <= octet != 0x7F for octet in content_type)
    return data, content_type if is_field else b"application/octet-stream"


class StreamAnswer:
    """Stream of messages as a body: the sink of the answer of gRPC, and the source of the REST answer's body."""

    __slots__ = ("_answer", "_body", "_broken", "_count", "_form", "_is_over", "_reader", "_stream", "first", "outcome")

    def __init__(self, answer: GrpcAnswer, stream: Body, form: Form, broken: Callable[[str], Outcome]) -> None:
        """`broken` makes the outcome of an answer that cannot be translated from a sentence."""
        self.outcome: Outcome | None = None
        """REST answer; None until it is known."""
        self.first: Promise[Outcome] = Promise()
        """Promise of that outcome."""
        self._answer = answer
        self._stream = stream
        self._form = form
        self._broken = broken
        self._reader = answer.reader
        self._body = Body(self)
        self._count = 0
        """Messages so far."""
        self._is_over = False
        """True once a message could not be translated."""

    def begin(self, content_type: bytes = b"") -> None:
        """Send the head."""
        if self.outcome is None:
            if self._answer.binding.is_raw_answer:
                content_type = content_type or b"application/octet-stream"
            else:
                content_type = self._form.content_type
            self._end(self._answer.rest(200, content_type, stream=self._body))

    def _end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.first.resolve(outcome)

    def _fail(self, failure: Failure, cause: str) -> None:
        """Break the answer off; before its head, the failure is the outcome."""
        if self.outcome is None:
            self._end(self._broken(cause))
        else:
            self._body.fail(failure, cause)

    # ----- sink of the answer

    def write(self, data: bytes) -> None:
        if self._is_over:
            return
        form, is_raw = self._form, self._answer.binding.is_raw_answer
        parts: list[bytes] = []
        content_type = b""
        error = ""
        try:
            for flags, message in self._reader.feed(data):
                text, kind = self._answer.text(flags, message)
                content_type = content_type or kind
                if is_raw:
                    parts.append(text)
                else:
                    parts.append(form.between if self._count else form.start)
                    parts.append(form.before)
                    parts.append(text)
                    parts.append(form.after)
                self._count += 1
        except AnswerError as problem:
            error = str(problem)
        except MessageTooLarge:
            error = "The answer has a message that is too large."
        if content_type:
            whole = b"".join(parts)
            if whole:
                self._body.feed(whole)
            self.begin(content_type)
        if error:
            self._is_over = True
            self._stream.cancel(TRANSFORM)
            self._fail(TRANSFORM, error)

    def finish(self, trailers: Headers) -> None:
        answer, form = self._answer, self._form
        try:
            code = answer.code(trailers)
        except AnswerError as problem:
            self._fail(RESET, str(problem))
            return
        if not self._reader.is_between:
            self._fail(RESET, "The answer's last message is cut off.")
        elif code and self.outcome is None:
            self._end(answer.failed(code, trailers))
        elif code and answer.binding.is_raw_answer:
            self._fail(RESET, "The answer ended with an error.")
        else:
            if not answer.binding.is_raw_answer:
                end = b"" if self._count else form.start
                if code:
                    end += (form.between if self._count else b"") + form.error % answer.error(code, trailers)
                if end + form.end:
                    self._body.feed(end + form.end)
            self._body.finish()
            self.begin()

    def fail(self, failure: Failure) -> None:
        cause = self._stream.cause
        if self.outcome is None:
            self._end(failed(failure, cause=cause))
        else:
            self._body.fail(failure, cause)

    # ----- source of the REST answer's body

    def pause_body(self) -> None:
        self._stream.pause()

    def resume_body(self) -> None:
        self._stream.resume()

    def cancel_body(self) -> None:
        self._stream.cancel(self._body.failure or CLIENT_CLOSED)
