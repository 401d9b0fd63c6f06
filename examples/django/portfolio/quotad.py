"""Asks quotad before a call that costs money, and tells it afterwards what the call used.

Copy this file into an app of yours. The stubs of quotad's contract, the folder quotad/ that buf writes, go beside the app's folder.
"""
import contextvars
import functools
import logging
import os
import random
import secrets
import threading
import time
import uuid

import grpc
from botocore.exceptions import HTTPClientError, IncompleteReadError
from botocore.parsers import ResponseParserError
from google.protobuf.duration_pb2 import Duration

from quotad.rpc.status_pb2 import ErrorInfo, RetryInfo, Status
from quotad.v1.quota_pb2 import AcquireRequest, ReleaseRequest, SettleRequest
from quotad.v1.quota_pb2_grpc import QuotaServiceStub
from quotad.v1.types_pb2 import Charge

# gRPC looks at an idle connection every five seconds only: so long a quotad that stops would wait for us, and we for one that is back.
os.environ.setdefault("GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS", "200")

DEADLINE, ATTEMPTS = 1.0, 3  # seconds for each sending; sendings of one request
GIVE_BACK, GIVERS = (0, 1, 5), 8  # seconds before each try to give back what may have been granted; threads that do so, in a process
FREE = {"CountTokens", "GetAsyncInvoke", "ListAsyncInvokes"}  # Bedrock's calls that cost nothing; one that is not known is guarded
BILLED = (HTTPClientError, IncompleteReadError, ResponseParserError)  # it was sent, and no answer came: the model may have run
_PERHAPS = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL)
_log = logging.getLogger(__name__)
_lock, _process = threading.Lock(), (0, None)
_current = contextvars.ContextVar("reservation", default=None)


class Denied(Exception):
    """A limit or the ceiling is reached: nothing was charged, do not make the call. Its text is for an end user."""

    def __init__(self, text, info, retry_after):
        super().__init__(text)
        self.info, self.retry_after = info, retry_after  # bucket, unit, window, limit, used; seconds, or None if no wait is known to help


class Unavailable(Exception):
    """quotad cannot be asked, or cannot decide. Fail closed: do not make the call."""


def _stub():
    """One channel for each process, made when it is first used: a channel does not survive the fork of a server's workers."""
    global _process
    with _lock:
        if _process[0] != os.getpid():
            # By itself gRPC waits up to two minutes before it connects anew, and obeys http_proxy: not what a local daemon needs.
            options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000), ("grpc.enable_http_proxy", 0)]
            target = os.environ.get("QUOTAD_SERVER") or "127.0.0.1:7070"
            _process = os.getpid(), QuotaServiceStub(grpc.insecure_channel(target, options))
        return _process[1]


def _new_id():
    """A UUIDv7 of RFC 9562. Ids that sort by time are the cheapest to keep; from Python 3.14 on uuid.uuid7 makes them."""
    bits = time.time_ns() // 1_000_000 << 80 | secrets.randbits(80)
    return str(uuid.UUID(int=bits & ~(0xF << 76 | 0x3 << 62) | 0x7 << 76 | 0x2 << 62))


def _send(method, request, denied=None):
    """Sends a request, and again under the same id while nobody knows what became of it: it is carried out once."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return getattr(_stub(), method)(request, timeout=DEADLINE)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise _denial(error, denied) from None
            if error.code() not in _PERHAPS:
                raise
            if attempt == ATTEMPTS:
                raise Unavailable(f"quotad: {error.details()}") from error
        time.sleep(random.uniform(0.05, 0.1) * attempt)


def _denial(error, text):
    """Makes a Denied of an error. The code alone is not enough: gRPC itself says RESOURCE_EXHAUSTED of a message too large, too."""
    info, retry, status = ErrorInfo(), RetryInfo(), Status()
    status.ParseFromString(dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b""))
    for detail in status.details:
        for message in info, retry:
            if detail.TypeName() == "google.rpc." + message.DESCRIPTOR.name:
                message.ParseFromString(detail.value)
    if (info.domain, info.reason) != ("quotad", "LIMIT_EXCEEDED"):
        return error
    return Denied(text or error.details(), dict(info.metadata), retry.retry_delay.ToTimedelta().total_seconds() or None)


def _take(request, denied):
    try:
        return _send("Acquire", request, denied)
    except Unavailable:  # it may have been granted all the same, and nobody makes the call now
        _give_back(request.request_id)
        raise


def _give_back(request_id):
    """Releases what quotad may have granted in silence. Neither the caller waits for it, nor the end of the process."""
    def release():
        for pause in GIVE_BACK:
            time.sleep(pause)
            try:
                return _send("Release", ReleaseRequest(request_id=request_id))
            except (Unavailable, grpc.RpcError) as error:  # also where quotad knows no such id: the acquire may be under way still
                last = error
        if isinstance(last, Unavailable):
            _log.warning("%s may be held until its expiry: %s", request_id, last)

    with _lock:  # the living threads are counted anew, as a fork has none of its parent's
        if sum(thread.name == "quotad-release" for thread in threading.enumerate()) < GIVERS:
            try:
                return threading.Thread(target=release, name="quotad-release", daemon=True).start()
            except RuntimeError:  # no more threads
                pass
    _log.warning("%s may be held until its expiry: nobody is free to give it back", request_id)


def acquire(bucket, ceiling=None, denied=None):
    """Takes one call for good. With a ceiling it is denied where the shared count would pass it, though the limit be higher."""
    return _take(AcquireRequest(bucket=bucket, request_id=_new_id(), charges=[Charge(ceiling=ceiling)]), denied)


def reserve(bucket, ceiling=None, denied=None):
    """Takes one call until it is settled or released; a process that dies in between has used it, once the bucket's hold is over."""
    request = AcquireRequest(bucket=bucket, request_id=_new_id(), charges=[Charge(ceiling=ceiling)], hold=Duration())
    _take(request, denied)
    return Reservation(request.request_id, bucket, ceiling)


class Reservation:
    """One call that is held. As a context manager it is settled at the end, or released if the call failed before it cost anything."""

    def __init__(self, request_id, bucket, ceiling):
        self.request_id, self.bucket, self.ceiling = request_id, bucket, ceiling
        self.guarded = self.ended = False

    def settle(self, **used):
        """The call was made. What it used of other units is counted with it, as in settle(input_tokens=11)."""
        charges = [Charge(unit=unit, amount=amount) for unit, amount in used.items()]
        self._end("Settle", SettleRequest(request_id=self.request_id, charges=charges))

    def release(self):
        """The call failed before it cost anything."""
        self._end("Release", ReleaseRequest(request_id=self.request_id))

    def _end(self, method, request):
        if self.ended:
            return
        self.ended = True
        try:
            _send(method, request)
        except (Unavailable, grpc.RpcError):  # the call has been made: its answer counts for more; at its expiry the bucket decides
            _log.exception("%s of %s is not delivered", method, self.request_id)

    def __enter__(self):
        self.token = _current.set(self)
        return self

    def __exit__(self, kind, error, trace):
        _current.reset(self.token)
        if isinstance(error, Exception) and not isinstance(error, BILLED):
            self.release()
        else:  # it went well, or nobody knows
            self.settle()


def quota(bucket, ceiling=None, denied=None):
    """Decorates a view, or any function, that makes one call: @quota("portfolio", ceiling=10, denied="Come back tomorrow.")"""
    def decorate(function):
        @functools.wraps(function)
        def guarded(*args, **kwargs):
            with reserve(bucket, ceiling, denied) as reservation:
                answer = function(*args, **kwargs)
                if getattr(answer, "status_code", 200) >= 400:  # a view that answers with an error rather than raising it
                    reservation.release()
                return answer
        return guarded
    return decorate


def guard(client, bucket, ceiling=None, denied=None):
    """Makes a boto3 client ask before each call that costs money: once, however often boto3 retries, and nothing is sent if denied.

    In a view that @quota has charged for the same bucket, the first call is that one, and is not charged a second time. A stream
    (converse_stream) is settled as held when it begins.
    """
    def before(model, context, **_):
        if model.name in FREE:
            return
        held = _current.get()
        if held is None or held.bucket != bucket or held.guarded or held.ended:
            held = reserve(bucket, ceiling, denied)
        elif ceiling is not None and (held.ceiling is None or held.ceiling > ceiling):
            raise ValueError(f"{bucket}: the view's ceiling is above that of the client, {ceiling}")
        held.guarded, context["quotad"] = True, held

    def attempted(caught_exception, request_dict, **_):
        if isinstance(caught_exception, BILLED):
            request_dict["context"]["quotad_billed"] = True  # whatever becomes of the next attempt

    def after(http_response, parsed, context, **_):
        held, headers = context.pop("quotad", None), http_response.headers
        if held and http_response.status_code >= 300 and "quotad_billed" not in context:
            held.release()
        elif held:
            usage = parsed.get("usage", {}) if isinstance(parsed, dict) else {}
            tokens = {unit: usage.get(field, headers.get(header)) for unit, field, header in (
                ("input_tokens", "inputTokens", "x-amzn-bedrock-input-token-count"),
                ("output_tokens", "outputTokens", "x-amzn-bedrock-output-token-count"))}
            held.settle(**{unit: int(amount) for unit, amount in tokens.items() if str(amount).isdigit()})

    def broken(exception, context, **_):
        held = context.pop("quotad", None)
        if held and not isinstance(exception, BILLED) and "quotad_billed" not in context:
            held.release()
        elif held:
            held.settle()

    for event, handler in ("before-call", before), ("needs-retry", attempted), ("after-call", after), ("after-call-error", broken):
        client.meta.events.register_last(f"{event}.bedrock-runtime", handler)
    return client
