"""A manifest of any size, made inside PostgreSQL: names, dates and numbers spread as in an archive.

100,000 studies over fifteen years, a third as many patients, a hundred instances to a study on the
average: CT and MR have most of them, radiographs most of the studies. One study in ten came late
(an archive that was taken over), so that arrival and Study Date are not the same order. SOP
Instance UIDs are random, which is what indexes like least.

Tables are filled before their indexes are made, and in the transaction that emptied them, so that
nothing is written twice.
"""

from __future__ import annotations

import time

import asyncpg

#: Modality, share of the studies, series a study and instances a series.
MODALITIES = (
    ("CT", 25, 4, 60),
    ("MR", 20, 7, 19),
    ("DX", 20, 1, 2),
    ("CR", 10, 1, 2),
    ("US", 15, 1, 30),
    ("MG", 5, 1, 4),
    ("PT", 5, 2, 100),
)
YEARS = 15
FIRST_DAY = "2010-01-01"

_STUDY_ATTRIBUTES = (
    '{"00080005":{"vr":"CS","Value":["ISO_IR 100"]},"00080020":{"vr":"DA","Value":["%1$s"]},'
    '"00080030":{"vr":"TM","Value":["%2$s"]},"00080050":{"vr":"SH","Value":["%3$s"]},'
    '"00080090":{"vr":"PN","Value":[{"Alphabetic":"%4$s"}]},'
    '"00081030":{"vr":"LO","Value":["%5$s"]},'
    '"00100010":{"vr":"PN","Value":[{"Alphabetic":"%6$s"}]},'
    '"00100020":{"vr":"LO","Value":["%7$s"]},"00100030":{"vr":"DA","Value":["%8$s"]},'
    '"00100040":{"vr":"CS","Value":["%9$s"]},"0020000D":{"vr":"UI","Value":["%10$s"]},'
    '"00200010":{"vr":"SH","Value":["%11$s"]}}'
)
_SERIES_ATTRIBUTES = (
    '{"00080021":{"vr":"DA","Value":["20200102"]},"00080031":{"vr":"TM","Value":["101112.000"]},'
    '"00080060":{"vr":"CS","Value":["%1$s"]},"00080070":{"vr":"LO","Value":["Maker of Scanners"]},'
    '"00081010":{"vr":"SH","Value":["STATION7"]},"0008103E":{"vr":"LO","Value":["%2$s"]},'
    '"00081090":{"vr":"LO","Value":["Scanner 3000"]},"00180015":{"vr":"CS","Value":["CHEST"]},'
    '"00181000":{"vr":"LO","Value":["123456"]},"00181020":{"vr":"LO","Value":["V1.2.3"]},'
    '"0020000E":{"vr":"UI","Value":["%3$s"]},"00200011":{"vr":"IS","Value":[%4$s]}}'
)

_UID = "'1.2.826.0.1.3680043.8.498.' || abs(hashtextextended({seed}, {salt}))::text || {tail}"
_PLAN = f"""
CREATE UNLOGGED TABLE plan_study AS
WITH numbered AS (
    SELECT n, random() AS by_modality, random() AS late, random() AS day, random() AS patient,
           random() AS sooner
    FROM generate_series(1, $1::int) AS n
), modalities AS (
    SELECT m.*, sum(share) OVER (ORDER BY place) AS below
    FROM unnest($2::text[], $3::int[], $4::int[], $5::int[])
        WITH ORDINALITY AS m(modality, share, series, instances, place)
), dated AS (
    SELECT n, (SELECT place FROM modalities WHERE below > by_modality * 100 ORDER BY place LIMIT 1)
             AS place,
           CASE WHEN late < 0.1 THEN day ELSE n::float8 / $1 END AS age,
           floor(patient * greatest($1 / 3, 1))::int AS patient, sooner
    FROM numbered
)
SELECT n, m.modality, m.series, m.instances, patient,
       to_char('{FIRST_DAY}'::date + floor(age * {YEARS} * 365.25)::int, 'YYYYMMDD') AS day,
       {_UID.format(seed="n::text", salt=1, tail="'.' || n")} AS uid
FROM dated JOIN modalities m USING (place)
"""
_PATIENTS = """
CREATE UNLOGGED TABLE plan_patient AS
WITH syllables AS (SELECT ARRAY['ba','den','fer','gan','hol','ker','lin','mar','nov','ost','per',
    'ro','sen','tal','ul','ven','wes','zim','bach','er'] AS s)
SELECT p AS patient,
       initcap(s[1 + floor(20 * random() * random())::int] || s[1 + floor(20 * random())::int]
           || s[1 + floor(20 * random() * random())::int])
       || '^' || initcap(s[1 + floor(20 * random())::int] || s[1 + floor(20 * random())::int])
           AS name,
       'P' || lpad((p * 7919 % 10000000)::text, 7, '0') AS patient_id,
       to_char('1930-01-01'::date + floor(random() * 30000)::int, 'YYYYMMDD') AS born,
       CASE WHEN random() < 0.5 THEN 'F' ELSE 'M' END AS sex
FROM syllables, generate_series(0, greatest($1::int / 3, 1)) AS p
"""
_STUDIES = f"""
INSERT INTO study (id, space, study_instance_uid, study_date, study_time, accession_number,
    referring_physician_name, referring_physician_name_folded, patient_name, patient_name_folded,
    patient_id, patient_birth_date, patient_sex, study_id, study_description, attributes,
    number_of_series, number_of_instances, created_at, changed_at, revision)
SELECT n, 'default', uid, day, '101112.000', 'A' || lpad(n::text, 9, '0'),
    'House^Gregory^' || n % 500, 'house^gregory^' || n % 500, name, lower(name), patient_id, born,
    sex, 'S' || n, modality || ' of the chest',
    format('{_STUDY_ATTRIBUTES}', day, '101112.000', 'A' || lpad(n::text, 9, '0'),
        'House^Gregory^' || n % 500, modality || ' of the chest', name, patient_id, born, sex, uid,
        'S' || n),
    series, series * instances, 0, 0, 0
FROM plan_study JOIN plan_patient USING (patient) ORDER BY n
"""
_SERIES = f"""
INSERT INTO series (study_pk, space, series_instance_uid, modality, series_number,
    series_description, attributes, provider, number_of_instances, created_at, changed_at)
SELECT n, 'default', made.uid, modality, s::text, 'Series ' || s,
    format('{_SERIES_ATTRIBUTES}', modality, 'Series ' || s, made.uid, s), 'default', instances,
    0, 0
FROM plan_study, generate_series(1, series) AS s,
    LATERAL (SELECT {_UID.format(seed="n || '.' || s", salt=2, tail="'.' || s")} AS uid) AS made
ORDER BY n, s
"""
_INSTANCES = f"""
INSERT INTO instance (study_pk, series_pk, space, sop_instance_uid, sop_class_uid, instance_number,
    rows, columns, bits_allocated, transfer_syntax_uid, provider, object_name, object_size, sha256,
    stored_at)
SELECT n, s.id, 'default', made.uid, '1.2.840.10008.5.1.4.1.1.2', i::text, 512, 512, 16,
    '1.2.840.10008.1.2.1', 'default',
    substr(md5(p.uid), 1, 2) || '/' || p.uid || '/' || s.series_instance_uid || '/' || made.uid
        || '/' || substr(encode(made.sha256, 'hex'), 1, 16) || '.dcm',
    531000, made.sha256, 0
FROM series s JOIN plan_study p ON n = s.study_pk, generate_series(1, instances) AS i,
    LATERAL (
        SELECT {_UID.format(seed="s.id || '.' || i", salt=3, tail="'.' || i")} AS uid,
            sha256(int8send(s.id) || int4send(i)) AS sha256
    ) AS made
"""
#: Compressed data sets do not compress: these do not, either.
_METADATA = """
INSERT INTO instance_metadata (instance_pk, json_zstd)
SELECT id, (SELECT string_agg(sha256(int8send(id) || int4send(k)), '')
            FROM generate_series(1, $1::int / 32) AS k)
FROM instance
"""
_ANNOUNCED = "INSERT INTO announced (instance_pk, sha256) SELECT id, sha256 FROM instance"
_LOG = """
INSERT INTO change (at, kind, space, study_instance_uid, series_instance_uid, sop_instance_uid,
    provider, version)
SELECT 0, 'stored', 'default', t.study_instance_uid, s.series_instance_uid, i.sop_instance_uid,
    'default', 1
FROM instance i JOIN series s ON s.id = i.series_pk JOIN study t ON t.id = i.study_pk
"""
_INDEXES = """
SELECT indexdef, conname, pg_get_constraintdef(c.oid) AS constraint, i.indexrelid::regclass::text
FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid
JOIN pg_indexes d ON d.indexname = i.indexrelid::regclass::text AND d.schemaname = 'public'
LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid AND c.contype = 'p'
WHERE t.relname = $1
"""
_FOREIGN = """
SELECT conname, conrelid::regclass::text AS of, pg_get_constraintdef(oid) AS constraint
FROM pg_constraint WHERE contype = 'f'
"""
_SIZES = """
SELECT relname, reltuples::bigint AS rows, pg_relation_size(oid) AS heap,
    pg_total_relation_size(oid) - pg_indexes_size(oid) - pg_relation_size(oid) AS toast
FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
    AND relname IN ('study', 'series', 'instance', 'instance_metadata', 'announced', 'change',
        'delivery')
UNION ALL
SELECT '  ' || relname, reltuples::bigint, pg_relation_size(oid), 0
FROM pg_class WHERE relkind = 'i' AND relnamespace = 'public'::regnamespace
    AND pg_relation_size(oid) > 100000
"""


async def build(connection: asyncpg.Connection, studies: int, metadata_bytes: int) -> None:
    """Fill a migrated, empty manifest."""
    await connection.execute("SELECT setseed(0.5)")
    await connection.execute("SET synchronous_commit = off; SET work_mem = '256MB'")
    await connection.execute("SET maintenance_work_mem = '1GB'")
    columns = list(zip(*MODALITIES, strict=True))
    foreign = await connection.fetch(_FOREIGN)
    for one in foreign:
        await connection.execute(f"ALTER TABLE {one['of']} DROP CONSTRAINT {one['conname']}")
    await connection.execute("DROP TABLE IF EXISTS plan_study, plan_patient")
    await _execute(connection, _PLAN, studies, *map(list, columns))
    await _execute(connection, _PATIENTS, studies)
    for table, statement, *arguments in (
        ("study", _STUDIES),
        ("series", _SERIES),
        ("instance", _INSTANCES),
        ("instance_metadata", _METADATA, metadata_bytes),
        ("announced", _ANNOUNCED),
        ("change", _LOG),
    ):
        began = time.monotonic()
        indexes = await connection.fetch(_INDEXES, table)
        for index in indexes:
            await connection.execute(
                f"ALTER TABLE {table} DROP CONSTRAINT {index['conname']}"
                if index["conname"]
                else f"DROP INDEX {index['indexrelid']}"
            )
        async with connection.transaction():
            await connection.execute(f"TRUNCATE {table}")
            await _execute(connection, statement, *arguments)
        filled = time.monotonic()
        for index in indexes:
            await connection.execute(
                f"ALTER TABLE {table} ADD CONSTRAINT {index['conname']} {index['constraint']}"
                if index["conname"]
                else index["indexdef"]
            )
        indexed = time.monotonic()
        print(f"{table}: {filled - began:.0f} s rows, {indexed - filled:.0f} s indexes", flush=True)
    for one in foreign:
        await connection.execute(
            f"ALTER TABLE {one['of']} ADD CONSTRAINT {one['conname']} {one['constraint']}"
        )
    await connection.execute("SELECT setval('study_id_seq', (SELECT max(id) FROM study))")
    await connection.execute("DROP TABLE plan_study, plan_patient")
    await connection.execute("VACUUM ANALYZE")
    await connection.execute("CHECKPOINT")


async def print_sizes(connection: asyncpg.Connection) -> None:
    """Print what each table and index takes, in all and for a row."""
    for row in sorted(await connection.fetch(_SIZES), key=lambda row: -row["heap"]):
        each = (row["heap"] + row["toast"]) / max(row["rows"], 1)
        print(
            f"{row['relname']:28s} {row['rows']:>10d} rows  {row['heap'] / 1e6:9.1f} MB"
            f"  + {row['toast'] / 1e6:7.1f} MB out of line  {each:7.1f} bytes a row"
        )


async def _execute(connection: asyncpg.Connection, statement: str, *arguments: object) -> None:
    await connection.fetch(statement, *arguments)
