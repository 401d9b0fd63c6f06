from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from quotad.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AcquireRequest(_message.Message):
    __slots__ = ["bucket", "charges", "hold", "request_id"]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    CHARGES_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    charges: _containers.RepeatedCompositeFieldContainer[_types_pb2.Charge]
    hold: _duration_pb2.Duration
    request_id: str
    def __init__(self, bucket: _Optional[str] = ..., charges: _Optional[_Iterable[_Union[_types_pb2.Charge, _Mapping]]] = ..., request_id: _Optional[str] = ..., hold: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class AcquireResponse(_message.Message):
    __slots__ = ["balances", "expire_time", "replayed", "state"]
    BALANCES_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    balances: _containers.RepeatedCompositeFieldContainer[_types_pb2.Balance]
    expire_time: _timestamp_pb2.Timestamp
    replayed: bool
    state: _types_pb2.ReservationState
    def __init__(self, balances: _Optional[_Iterable[_Union[_types_pb2.Balance, _Mapping]]] = ..., replayed: bool = ..., expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., state: _Optional[_Union[_types_pb2.ReservationState, str]] = ...) -> None: ...

class CheckRequest(_message.Message):
    __slots__ = ["bucket", "charges", "hold"]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    CHARGES_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    charges: _containers.RepeatedCompositeFieldContainer[_types_pb2.Charge]
    hold: _duration_pb2.Duration
    def __init__(self, bucket: _Optional[str] = ..., charges: _Optional[_Iterable[_Union[_types_pb2.Charge, _Mapping]]] = ..., hold: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class CheckResponse(_message.Message):
    __slots__ = ["allowed", "balances", "denial"]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    BALANCES_FIELD_NUMBER: _ClassVar[int]
    DENIAL_FIELD_NUMBER: _ClassVar[int]
    allowed: bool
    balances: _containers.RepeatedCompositeFieldContainer[_types_pb2.Balance]
    denial: _types_pb2.Denial
    def __init__(self, allowed: bool = ..., balances: _Optional[_Iterable[_Union[_types_pb2.Balance, _Mapping]]] = ..., denial: _Optional[_Union[_types_pb2.Denial, _Mapping]] = ...) -> None: ...

class ExtendRequest(_message.Message):
    __slots__ = ["charges", "extend_id", "hold", "request_id"]
    CHARGES_FIELD_NUMBER: _ClassVar[int]
    EXTEND_ID_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    charges: _containers.RepeatedCompositeFieldContainer[_types_pb2.Charge]
    extend_id: str
    hold: _duration_pb2.Duration
    request_id: str
    def __init__(self, request_id: _Optional[str] = ..., hold: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., charges: _Optional[_Iterable[_Union[_types_pb2.Charge, _Mapping]]] = ..., extend_id: _Optional[str] = ...) -> None: ...

class ExtendResponse(_message.Message):
    __slots__ = ["balances", "expire_time", "replayed", "state"]
    BALANCES_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    balances: _containers.RepeatedCompositeFieldContainer[_types_pb2.Balance]
    expire_time: _timestamp_pb2.Timestamp
    replayed: bool
    state: _types_pb2.ReservationState
    def __init__(self, balances: _Optional[_Iterable[_Union[_types_pb2.Balance, _Mapping]]] = ..., replayed: bool = ..., expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., state: _Optional[_Union[_types_pb2.ReservationState, str]] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ["request_id"]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ["balances", "late", "replayed"]
    BALANCES_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    balances: _containers.RepeatedCompositeFieldContainer[_types_pb2.Balance]
    late: bool
    replayed: bool
    def __init__(self, balances: _Optional[_Iterable[_Union[_types_pb2.Balance, _Mapping]]] = ..., replayed: bool = ..., late: bool = ...) -> None: ...

class SettleRequest(_message.Message):
    __slots__ = ["charges", "request_id"]
    CHARGES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    charges: _containers.RepeatedCompositeFieldContainer[_types_pb2.Charge]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ..., charges: _Optional[_Iterable[_Union[_types_pb2.Charge, _Mapping]]] = ...) -> None: ...

class SettleResponse(_message.Message):
    __slots__ = ["balances", "late", "replayed"]
    BALANCES_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    balances: _containers.RepeatedCompositeFieldContainer[_types_pb2.Balance]
    late: bool
    replayed: bool
    def __init__(self, balances: _Optional[_Iterable[_Union[_types_pb2.Balance, _Mapping]]] = ..., replayed: bool = ..., late: bool = ...) -> None: ...
