from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
ON_EXPIRY_CHARGE: OnExpiry
ON_EXPIRY_RELEASE: OnExpiry
ON_EXPIRY_UNSPECIFIED: OnExpiry
RESERVATION_STATE_EXPIRED: ReservationState
RESERVATION_STATE_OPEN: ReservationState
RESERVATION_STATE_RELEASED: ReservationState
RESERVATION_STATE_SETTLED: ReservationState
RESERVATION_STATE_UNSPECIFIED: ReservationState
SOURCE_API: Source
SOURCE_FILE: Source
SOURCE_UNSPECIFIED: Source
WINDOW_DAY: Window
WINDOW_EVER: Window
WINDOW_HOUR: Window
WINDOW_MINUTE: Window
WINDOW_MONTH: Window
WINDOW_UNSPECIFIED: Window
WINDOW_WEEK: Window
WINDOW_YEAR: Window

class Balance(_message.Message):
    __slots__ = ["bucket", "end", "held", "limit", "overage", "overridden", "remaining", "start", "unit", "used", "window", "window_label"]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    OVERAGE_FIELD_NUMBER: _ClassVar[int]
    OVERRIDDEN_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    WINDOW_LABEL_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    end: _timestamp_pb2.Timestamp
    held: int
    limit: int
    overage: int
    overridden: bool
    remaining: int
    start: _timestamp_pb2.Timestamp
    unit: str
    used: int
    window: Window
    window_label: str
    def __init__(self, bucket: _Optional[str] = ..., unit: _Optional[str] = ..., window: _Optional[_Union[Window, str]] = ..., start: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., end: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., limit: _Optional[int] = ..., used: _Optional[int] = ..., held: _Optional[int] = ..., remaining: _Optional[int] = ..., overridden: bool = ..., overage: _Optional[int] = ..., window_label: _Optional[str] = ...) -> None: ...

class Bucket(_message.Message):
    __slots__ = ["description", "estimates", "hold", "limits", "max_hold_percent", "max_in_flight", "name", "on_expiry", "source", "thresholds", "zone"]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    ESTIMATES_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    MAX_HOLD_PERCENT_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ON_EXPIRY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    description: str
    estimates: _containers.RepeatedCompositeFieldContainer[Estimate]
    hold: _duration_pb2.Duration
    limits: _containers.RepeatedCompositeFieldContainer[Limit]
    max_hold_percent: int
    max_in_flight: int
    name: str
    on_expiry: OnExpiry
    source: Source
    thresholds: Thresholds
    zone: str
    def __init__(self, name: _Optional[str] = ..., limits: _Optional[_Iterable[_Union[Limit, _Mapping]]] = ..., zone: _Optional[str] = ..., on_expiry: _Optional[_Union[OnExpiry, str]] = ..., description: _Optional[str] = ..., source: _Optional[_Union[Source, str]] = ..., max_hold_percent: _Optional[int] = ..., max_in_flight: _Optional[int] = ..., hold: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., estimates: _Optional[_Iterable[_Union[Estimate, _Mapping]]] = ..., thresholds: _Optional[_Union[Thresholds, _Mapping]] = ...) -> None: ...

class Charge(_message.Message):
    __slots__ = ["amount", "bucket", "ceiling", "ceiling_window", "unit"]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    CEILING_FIELD_NUMBER: _ClassVar[int]
    CEILING_WINDOW_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    amount: int
    bucket: str
    ceiling: int
    ceiling_window: Window
    unit: str
    def __init__(self, bucket: _Optional[str] = ..., unit: _Optional[str] = ..., amount: _Optional[int] = ..., ceiling: _Optional[int] = ..., ceiling_window: _Optional[_Union[Window, str]] = ...) -> None: ...

class Denial(_message.Message):
    __slots__ = ["message", "omitted", "retry_at", "violations"]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    OMITTED_FIELD_NUMBER: _ClassVar[int]
    RETRY_AT_FIELD_NUMBER: _ClassVar[int]
    VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    message: str
    omitted: int
    retry_at: _timestamp_pb2.Timestamp
    violations: _containers.RepeatedCompositeFieldContainer[Violation]
    def __init__(self, violations: _Optional[_Iterable[_Union[Violation, _Mapping]]] = ..., retry_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., message: _Optional[str] = ..., omitted: _Optional[int] = ...) -> None: ...

class Estimate(_message.Message):
    __slots__ = ["amount", "unit"]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    amount: int
    unit: str
    def __init__(self, unit: _Optional[str] = ..., amount: _Optional[int] = ...) -> None: ...

class Limit(_message.Message):
    __slots__ = ["max", "unit", "window"]
    MAX_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    max: int
    unit: str
    window: Window
    def __init__(self, unit: _Optional[str] = ..., window: _Optional[_Union[Window, str]] = ..., max: _Optional[int] = ...) -> None: ...

class Reservation(_message.Message):
    __slots__ = ["bucket", "charges", "create_time", "end_time", "expire_time", "late", "on_expiry", "principal", "request_id", "settled", "state"]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    CHARGES_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    ON_EXPIRY_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    charges: _containers.RepeatedCompositeFieldContainer[Charge]
    create_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    late: bool
    on_expiry: OnExpiry
    principal: str
    request_id: str
    settled: _containers.RepeatedCompositeFieldContainer[Charge]
    state: ReservationState
    def __init__(self, bucket: _Optional[str] = ..., request_id: _Optional[str] = ..., charges: _Optional[_Iterable[_Union[Charge, _Mapping]]] = ..., state: _Optional[_Union[ReservationState, str]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., settled: _Optional[_Iterable[_Union[Charge, _Mapping]]] = ..., principal: _Optional[str] = ..., end_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., late: bool = ..., on_expiry: _Optional[_Union[OnExpiry, str]] = ...) -> None: ...

class ThresholdEvent(_message.Message):
    __slots__ = ["balance", "id", "percent", "time"]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    balance: Balance
    id: int
    percent: int
    time: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[int] = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., percent: _Optional[int] = ..., balance: _Optional[_Union[Balance, _Mapping]] = ...) -> None: ...

class Thresholds(_message.Message):
    __slots__ = ["percent"]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    percent: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, percent: _Optional[_Iterable[int]] = ...) -> None: ...

class Violation(_message.Message):
    __slots__ = ["balance", "cap", "ceiling", "max_hold", "max_in_flight", "never", "requested"]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    CAP_FIELD_NUMBER: _ClassVar[int]
    CEILING_FIELD_NUMBER: _ClassVar[int]
    MAX_HOLD_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    NEVER_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_FIELD_NUMBER: _ClassVar[int]
    balance: Balance
    cap: int
    ceiling: bool
    max_hold: bool
    max_in_flight: bool
    never: bool
    requested: int
    def __init__(self, balance: _Optional[_Union[Balance, _Mapping]] = ..., requested: _Optional[int] = ..., cap: _Optional[int] = ..., ceiling: bool = ..., never: bool = ..., max_hold: bool = ..., max_in_flight: bool = ...) -> None: ...

class Window(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class OnExpiry(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class Source(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class ReservationState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
