"""Tests of quotad.py against a running quotad: QUOTAD_SERVER=127.0.0.1:7070 ./manage.py test"""
import concurrent.futures
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import unittest
import uuid
from types import SimpleNamespace
from unittest import mock

import grpc
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError
from botocore.hooks import HierarchicalEmitter
from botocore.retries.standard import ExponentialBackoff
from django.test import override_settings

from quotad.v1.quota_pb2 import CheckRequest
from quotad.v1.quota_pb2_grpc import QuotaServiceServicer, QuotaServiceStub, add_QuotaServiceServicer_to_server

from . import bedrock, quotad


class Lossy(QuotaServiceServicer):
    """Hands acquires and releases on to a quotad, and loses what it answers to acquires."""

    def __init__(self, stub):
        self.stub = stub

    def Acquire(self, request, context):
        self.stub.Acquire(request)
        context.abort(grpc.StatusCode.UNAVAILABLE, "lost")

    def Release(self, request, context):
        return self.stub.Release(request)


@contextlib.contextmanager
def instead(target, **constants):
    """Has another server in the place of quotad, until all threads that give back are done."""
    with mock.patch.multiple(quotad, _process=(0, None), **constants), mock.patch.dict(os.environ, QUOTAD_SERVER=target):
        yield
        for thread in givers():
            thread.join(20)


def givers():
    return [thread for thread in threading.enumerate() if thread.name == "quotad-release"]


class QuotadTest(unittest.TestCase):
    def setUp(self):
        self.bucket = "test-" + uuid.uuid4().hex

    def count(self):
        """What is used and held of the bucket's calls."""
        balance = quotad._send("Check", CheckRequest(bucket=self.bucket)).balances[0]
        return balance.used, balance.held

    def guarded(self, **terms):
        """As much of a boto3 client as a guard sees."""
        return quotad.guard(SimpleNamespace(meta=SimpleNamespace(events=HierarchicalEmitter())), self.bucket, **terms)

    def call(self, client, outcome=200, attempts=(), operation="Converse"):
        """What boto3 tells a guard of one call: attempts that were not the last, then a status or an exception."""
        context = {}

        def emit(event, **values):
            client.meta.events.emit(f"{event}.bedrock-runtime.{operation}", context=context, **values)
        emit("before-call", model=SimpleNamespace(name=operation))
        for error in attempts:
            emit("needs-retry", caught_exception=error, request_dict={"context": context})
        if isinstance(outcome, Exception):
            emit("after-call-error", exception=outcome)
        else:
            emit("after-call", http_response=SimpleNamespace(status_code=outcome, headers={}), parsed={})

    def test_ids(self):
        first = [uuid.UUID(quotad._new_id()) for _ in range(100)]
        self.assertEqual({(7, uuid.RFC_4122)}, {(i.version, i.variant) for i in first})
        self.assertEqual(100, len(set(first)))
        self.assertEqual(sorted(i.int >> 80 for i in first), [i.int >> 80 for i in first])

    def test_fork(self):
        quotad.acquire(self.bucket)
        child = os.fork()
        if child == 0:
            try:
                quotad.acquire(self.bucket)
                os._exit(0)
            finally:
                os._exit(1)
        self.assertEqual((child, 0), os.waitpid(child, 0))
        self.assertEqual((2, 0), self.count())

    def test_a_process_that_dies(self):
        child = os.fork()
        if child == 0:
            try:
                with quotad.reserve(self.bucket):
                    os._exit(0)
            finally:
                os._exit(1)
        self.assertEqual((child, 0), os.waitpid(child, 0))
        self.assertEqual((0, 1), self.count())

    def test_denied(self):
        quotad.acquire(self.bucket)
        with self.assertRaisesRegex(quotad.Denied, "^enough$") as caught:
            quotad.reserve(self.bucket, ceiling=1, denied="enough")
        self.assertEqual((self.bucket, "1", "1"), tuple(caught.exception.info[k] for k in ("bucket", "limit", "used")))
        self.assertGreater(caught.exception.retry_after, 0)
        self.assertEqual((1, 0), self.count())

    def test_no_answer(self):
        with socket.create_server(("127.0.0.1", 0)) as silent, \
                self.assertLogs(quotad._log), \
                instead("127.0.0.1:%d" % silent.getsockname()[1], DEADLINE=0.1, ATTEMPTS=1, GIVE_BACK=(0, 0.1), GIVERS=2):
            for _ in range(5):
                with self.assertRaises(quotad.Unavailable):
                    quotad.reserve(self.bucket)
                self.assertLessEqual(len(givers()), 2)
                self.assertTrue(all(thread.daemon for thread in givers()))

    def test_an_answer_that_is_lost(self):
        server, taken = grpc.server(concurrent.futures.ThreadPoolExecutor(4)), 0
        self.addCleanup(server.stop, None)
        with grpc.insecure_channel(os.environ.get("QUOTAD_SERVER") or "127.0.0.1:7070") as channel:
            add_QuotaServiceServicer_to_server(Lossy(QuotaServiceStub(channel)), server)
            target = "127.0.0.1:%d" % server.add_insecure_port("127.0.0.1:0")
            server.start()
            for take, kept in (quotad.acquire, (1, 0)), (quotad.reserve, (1, 1)):
                with instead(target), self.assertRaises(quotad.Unavailable):
                    take(self.bucket)
                self.assertEqual((taken, 0), self.count())
                with self.assertLogs(quotad._log), instead(target, GIVERS=0), self.assertRaises(quotad.Unavailable):  # the control
                    take(self.bucket)
                self.assertEqual(kept, self.count())
                taken = 1

    def test_a_process_does_not_wait_to_give_back(self):
        program = """if True:
            from portfolio import quotad
            quotad.DEADLINE, quotad.GIVE_BACK = 0.1, (100,)
            try:
                quotad.acquire("b")
            except quotad.Unavailable:
                print("unavailable")"""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            begin = time.monotonic()
            ended = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=90, env={
                **os.environ, "QUOTAD_SERVER": "127.0.0.1:%d" % silent.getsockname()[1]})
        self.assertEqual((0, b"unavailable\n"), (ended.returncode, ended.stdout))
        self.assertLess(time.monotonic() - begin, 60)

    def test_nobody_listens_at_bedrock(self):
        with socket.create_server(("127.0.0.1", 0)) as gone:
            url = "http://127.0.0.1:%d" % gone.getsockname()[1]
        with override_settings(BEDROCK_ENDPOINT_URL=url), mock.patch.object(ExponentialBackoff, "delay_amount", return_value=0), \
                mock.patch.dict(os.environ, AWS_ACCESS_KEY_ID="nobody", AWS_SECRET_ACCESS_KEY="nothing"):
            with self.assertRaises(EndpointConnectionError):
                quotad.guard(bedrock._client(), self.bucket).converse(modelId="m", messages=[])
        self.assertEqual((0, 0), self.count())

    def test_decorator(self):
        @quotad.quota(self.bucket)
        def view(answer):
            if isinstance(answer, BaseException):
                raise answer
            return SimpleNamespace(status_code=answer)
        used = 0
        for answer, cost in ((200, 1), (400, 0), (502, 0), (ValueError(), 0), (EndpointConnectionError(endpoint_url=""), 0),
                             (ReadTimeoutError(endpoint_url=""), 1), (SystemExit(), 1)):
            try:
                view(answer)
            except BaseException as error:
                self.assertIs(error, answer)
            used += cost
            self.assertEqual((used, 0), self.count(), answer)

    def test_guard(self):
        client, used = self.guarded(), 0
        timeout, refused = ReadTimeoutError(endpoint_url=""), EndpointConnectionError(endpoint_url="")
        for outcome, attempts, operation, cost in (
                (200, (), "Converse", 1), (200, (None, None), "Converse", 1), (200, (), "CountTokens", 0), (200, (), "SomethingNew", 1),
                (429, (None, None), "Converse", 0), (500, (), "Converse", 0), (refused, (), "Converse", 0),
                (timeout, (), "Converse", 1), (refused, (timeout,), "Converse", 1), (500, (timeout,), "Converse", 1)):
            self.call(client, outcome, attempts, operation)
            used += cost
            self.assertEqual((used, 0), self.count(), (outcome, attempts, operation))

    def test_a_view_that_has_paid(self):
        client = self.guarded()

        @quotad.quota(self.bucket)
        def view(calls):
            for _ in range(calls):
                self.call(client)
        for calls, used in (1, 1), (0, 2), (3, 5):
            view(calls)
            self.assertEqual((used, 0), self.count())

        @quotad.quota("another-" + self.bucket)
        def other():
            self.call(client)
        other()
        self.assertEqual((6, 0), self.count())

        @quotad.quota(self.bucket)
        def failed():
            self.call(client, 500)
        failed()
        self.assertEqual((6, 0), self.count())

    def test_a_view_with_a_higher_ceiling(self):
        client = self.guarded(ceiling=3)
        for ceiling in None, 4:
            with self.assertRaises(ValueError), quotad.reserve(self.bucket, ceiling):
                self.call(client)
        with quotad.reserve(self.bucket, 3):
            self.call(client)
        self.assertEqual((1, 0), self.count())
