from ..protocol import equipoise_pb2 as _equipoise_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Form(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FORM_RECORD: _ClassVar[Form]
    FORM_PLAN: _ClassVar[Form]
FORM_RECORD: Form
FORM_PLAN: Form

class Chunk(_message.Message):
    __slots__ = ("options", "form", "check", "items")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    options: _equipoise_pb2.Options
    form: Form
    check: bool
    items: _containers.RepeatedCompositeFieldContainer[Item]
    def __init__(self, options: _Optional[_Union[_equipoise_pb2.Options, _Mapping]] = ..., form: _Optional[_Union[Form, str]] = ..., check: _Optional[bool] = ..., items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("text", "document", "source", "line", "folder", "point")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    POINT_FIELD_NUMBER: _ClassVar[int]
    text: str
    document: _equipoise_pb2.Document
    source: str
    line: int
    folder: bytes
    point: str
    def __init__(self, text: _Optional[str] = ..., document: _Optional[_Union[_equipoise_pb2.Document, _Mapping]] = ..., source: _Optional[str] = ..., line: _Optional[int] = ..., folder: _Optional[bytes] = ..., point: _Optional[str] = ...) -> None: ...

class Results(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[Result]
    def __init__(self, results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("record", "plan", "infeasible", "failure", "kind", "name")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    INFEASIBLE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    record: Record
    plan: _equipoise_pb2.Plan
    infeasible: _equipoise_pb2.Infeasible
    failure: _status_pb2.Status
    kind: str
    name: str
    def __init__(self, record: _Optional[_Union[Record, _Mapping]] = ..., plan: _Optional[_Union[_equipoise_pb2.Plan, _Mapping]] = ..., infeasible: _Optional[_Union[_equipoise_pb2.Infeasible, _Mapping]] = ..., failure: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., kind: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class Record(_message.Message):
    __slots__ = ("body", "status", "gap", "seconds")
    BODY_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    status: str
    gap: float
    seconds: float
    def __init__(self, body: _Optional[bytes] = ..., status: _Optional[str] = ..., gap: _Optional[float] = ..., seconds: _Optional[float] = ...) -> None: ...
