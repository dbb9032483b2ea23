"""A search in the database finds what the matcher alone would find, on both databases."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded import data_set, record

from imaging_ingestion.dicom.matching import InvalidKeyError, MatchKey, identifier_of
from imaging_ingestion.manifest.attribute_levels import Level, level_of
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.migrate import migrate
from imaging_ingestion.manifest.query import Search, search
from imaging_ingestion.manifest.query_match import Asked, data_set_of, metadata_of, unpacked

#: Few characters, among them all that mean something to LIKE, GLOB, regular expressions and SQL.
_CHARACTERS = "abAB%_[]^'\"/.()- é" + "e\u0301" + "ßÄ山"
_text = st.text(_CHARACTERS, min_size=1, max_size=5).map(str.strip).filter(bool)
_name = st.one_of(
    st.text("abAB^ é山ﾔ%_[", min_size=1, max_size=6),
    st.sampled_from(
        ["Smith^John", "SMITH", "Yamada^Tarou=山田^太郎=やまだ^たろう", "=山田", "Ä^ß"]
    ),
)
_date = st.sampled_from(["20200101", "20200102", "20200131", "20201231", "19991231"])
_time = st.sampled_from(["00", "10", "1030", "103000", "103000.5", "103059.999999", "2359"])
_number = st.sampled_from(
    ["1", "01", "+1", "-1", "-01", "0", "-0", "00", "12", "9223372036854775807"]
)
_modality = st.sampled_from(["CT", "MR", "SR"])
_zone = st.sampled_from(["+0000", "+0900", "-1130"])

_PATIENT_NAME, _PATIENT_ID = 0x00100010, 0x00100020
_VALUES: dict[str, st.SearchStrategy[str]] = {
    "PatientName": _name,
    "ReferringPhysicianName": _name,
    "PatientID": _text,
    "AccessionNumber": _text,
    "StudyDescription": _text,
    "PatientComments": _text,  # no column
    "StudyDate": _date,
    "StudyTime": _time,
    "PatientBirthDate": _date,
    "Modality": _modality,
    "SeriesNumber": _number,
    "SeriesDescription": _text,
    "PerformedProcedureStepStartDate": _date,
    "PerformedProcedureStepStartTime": _time,
    "BodyPartExamined": st.text("AB%_", min_size=1, max_size=4),  # no column
    "InstanceNumber": _number,
    "Rows": st.integers(0, 65535).map(str),
    "ImageComments": _text,  # no column
    "ContentDate": _date,  # no column
    "ContentTime": _time,
    "TimezoneOffsetFromUTC": _zone,
}


def _ranges(one: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(one, st.builds("{}-{}".format, one, one), one.map("{}-".format))


def _wild(one: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        one,
        st.builds("{}*".format, one),
        st.builds("*{}".format, one),
        st.builds("{}?*{}".format, one, one),
        st.builds("*{}*".format, one),
        st.just("*"),
        st.just(""),
        st.just('""'),
        st.text("ab?*%_[é山^", min_size=1, max_size=5),
    )


_KEYS: dict[int, st.SearchStrategy[str]] = {
    _PATIENT_NAME: _wild(_name),
    0x00080090: _wild(_name),
    _PATIENT_ID: _wild(_text),
    0x00080050: _wild(_text),
    0x00081030: _wild(_text),
    0x00104000: _wild(_text),
    0x00080020: _ranges(_date),
    0x00080030: _ranges(_time),
    0x00100030: _ranges(_date),
    0x00080061: _wild(_modality),
    0x00080060: _wild(_modality),
    0x00200011: _number,
    0x0008103E: _wild(_text),
    0x00400244: _ranges(_date),
    0x00400245: _ranges(_time),
    0x00180015: _wild(_text),
    0x00200013: _number,
    0x00280010: st.integers(0, 70000).map(str),
    0x00204000: _wild(_text),
    0x00080023: _ranges(_date),
    0x00080033: _ranges(_time),
    0x00201206: st.sampled_from(["1", "2"]),
    0x00201209: st.sampled_from(["1", "2"]),
}

_attributes = st.dictionaries(st.sampled_from(sorted(_VALUES)), st.none(), max_size=12).flatmap(
    lambda names: st.fixed_dictionaries({name: _VALUES[name] for name in names})
)
_instances = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 1), _attributes), min_size=1, max_size=6
)
_keys = st.lists(st.sampled_from(sorted(_KEYS)), min_size=1, max_size=3, unique=True).flatmap(
    lambda tags: st.tuples(*(st.tuples(st.just(tag), _KEYS[tag]) for tag in tags))
)


class Manifest:
    """A database with the event loop that it lives on."""

    def __init__(self, runner: asyncio.Runner, database: Database) -> None:
        self.runner = runner
        self.database = database


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def manifest(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Manifest]:
    """A migrated database for all examples: each has a space of its own."""
    with asyncio.Runner() as runner:
        if request.param == "postgresql":
            server = sa.make_url(request.getfixturevalue("postgres_url"))
            name = f"matching_{uuid.uuid4().hex}"
            runner.run(_administer(server, f"CREATE DATABASE {name}"))
            database = open_database(server.set(database=name))
        else:
            path: Path = tmp_path_factory.mktemp("matching") / "manifest.db"
            database = open_database(f"sqlite:///{path}")
        runner.run(migrate(database))
        try:
            yield Manifest(runner, database)
        finally:
            runner.run(database.close())


async def _administer(server: sa.URL, statement: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(server.render_as_string(hide_password=False))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@settings(
    deadline=None,
    max_examples=120,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    instances=_instances,
    keys=_keys,
    level=st.sampled_from(Level),
    empty_values=st.booleans(),
    zone=st.one_of(st.just(""), _zone),
    limit=st.integers(1, 4),
)
def test_the_database_finds_what_the_matcher_finds(
    manifest: Manifest,
    instances: list[tuple[int, int, dict[str, str]]],
    keys: tuple[tuple[int, str], ...],
    level: Level,
    empty_values: bool,
    zone: str,
    limit: int,
) -> None:
    space = uuid.uuid4().hex
    asked = [MatchKey((tag,), text) for tag, text in keys if level_of(tag) <= level]
    if zone:
        asked.append(MatchKey((0x00080201,), zone))
    try:
        identifier = identifier_of(asked, empty_values=empty_values)
    except InvalidKeyError:
        return  # a reversed range, say
    everything = identifier_of([])
    manifest.runner.run(_record(manifest.database, space, instances))

    async def find() -> tuple[list[int], list[int]]:
        found: list[int] = []
        while True:  # page by page, so that pages must join as well (Q24)
            page = await search(
                manifest.database,
                Search(space, level, identifier, offset=len(found), limit=limit),
            )
            found.extend(match.own.id for match in page.matches)
            if not page.remaining:
                break
            assert page.remaining_is_exact
        every = await search(manifest.database, Search(space, level, everything, limit=100))
        pks = [match.own.id for match in every.matches]
        blobs = await manifest.database.read(metadata_of, pks) if level is Level.INSTANCE else {}
        asked_of = Asked(identifier)
        expected = [
            match.own.id
            for match in every.matches
            if identifier.matches(data_set_of(match, asked_of, _metadata(blobs.get(match.own.id))))
        ]
        return found, expected

    found, expected = manifest.runner.run(find())
    assert found == expected


def _metadata(packed: bytes | None) -> bytes | None:
    return None if packed is None else unpacked(packed)


async def _record(
    database: Database, space: str, instances: list[tuple[int, int, dict[str, str]]]
) -> None:
    made = [
        data_set(
            StudyInstanceUID=f"1.2.{study}",
            SeriesInstanceUID=f"1.2.{study}.{series}",
            SOPInstanceUID=f"1.2.{study}.{series}.{place}",
            **{name: int(value) if name == "Rows" else value for name, value in found.items()},
        )
        for place, (study, series, found) in enumerate(instances, start=1)
    ]
    await database.write(record, *made, space=space)
