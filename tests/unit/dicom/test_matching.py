"""Keys against data sets, kind by kind (PS3.4 C.2.2.2)."""

from __future__ import annotations

import unicodedata
from typing import ClassVar

import pytest

from imaging_ingestion.dicom.criterion import Empty, Universal, criterion_of
from imaging_ingestion.dicom.date_time_range import Zones
from imaging_ingestion.dicom.dictionary import tag_of, vr_of
from imaging_ingestion.dicom.matching import (
    DEEPEST_PATH,
    InvalidKeyError,
    MatchKey,
    identifier_of,
)
from imaging_ingestion.dicom.wildcard import Wild, pattern_of, pieces


def path_of(name: str) -> tuple[int, ...]:
    """The tags of keywords, or of numbers, with points between."""
    return tuple(tag_of(part) or int(part, 16) for part in name.split("."))


def element(name: str, *values: object) -> dict[str, dict[str, object]]:
    """An element in DICOM JSON, by keyword."""
    tag = tag_of(name)
    assert tag is not None
    found: dict[str, object] = {"vr": (vr_of(tag) or "UN")[:2]}
    if values:
        found["Value"] = list(values)
    return {f"{tag:08X}": found}


def matches(
    data_set: dict[str, dict[str, object]],
    multiple: bool = False,
    empty: bool = False,
    **keys: str,
) -> bool:
    """Whether the data set satisfies keys given by keyword, `__` for the point of a path."""
    asked = [MatchKey(path_of(name.replace("__", ".")), text) for name, text in keys.items()]
    identifier = identifier_of(asked, multiple_values=multiple, empty_values=empty)
    return identifier.matches(data_set)


def expected_of(name: str, text: str, **options: bool) -> str:
    """What the error about a key says is expected."""
    with pytest.raises(InvalidKeyError) as caught:
        identifier_of([MatchKey(path_of(name), text)], **options)
    return caught.value.expected


NAME = element("PatientName", {"Alphabetic": "Smith^John"})
JAPANESE = element(
    "PatientName",
    {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"},
)


class TestSingleValue:
    # Q9
    def test_text_is_compared_exactly_and_by_case(self) -> None:
        patient = element("PatientID", "Ab1")
        assert matches(patient, PatientID="Ab1")
        assert not matches(patient, PatientID="ab1")
        assert not matches(patient, PatientID="Ab")

    # Q9
    def test_blanks_at_the_ends_do_not_count(self) -> None:
        assert matches(element("PatientID", " Ab 1 "), PatientID="Ab 1  ")
        assert not matches(element("PatientID", "Ab 1"), PatientID="Ab1")

    # Q12
    @pytest.mark.parametrize(
        "text", ["%", "_", "a.c", "[ab]", "it's", "a\\b", "a+", "^$", '"', "("]
    )
    def test_characters_that_other_languages_use_mean_themselves(self, text: str) -> None:
        assert matches(element("StudyDescription", text), StudyDescription=text)
        assert not matches(element("StudyDescription", "abc"), StudyDescription=text)

    # Q12
    @pytest.mark.parametrize("form", ["NFC", "NFD"])
    def test_an_accented_letter_matches_however_unicode_spells_it(self, form: str) -> None:
        stored = element("PatientID", unicodedata.normalize(form, "é1"))
        assert matches(stored, PatientID=unicodedata.normalize("NFC", "é1"))
        assert matches(stored, PatientID=unicodedata.normalize("NFD", "é1"))
        assert matches(stored, PatientID="é*")

    def test_one_value_of_several_is_enough(self) -> None:
        assert matches(element("ImageType", "ORIGINAL", "PRIMARY"), ImageType="PRIMARY")
        assert not matches(element("ImageType", "ORIGINAL", None), ImageType="PRIMARY")

    @pytest.mark.parametrize("stored", [5, "5", "05", "+5", " 5"])
    def test_integers_are_compared_as_numbers(self, stored: object) -> None:
        assert matches(element("SeriesNumber", stored), SeriesNumber="5")
        assert matches(element("SeriesNumber", stored), SeriesNumber="+05")
        assert not matches(element("SeriesNumber", stored), SeriesNumber="-5")

    def test_zero_is_zero_with_any_sign(self) -> None:
        assert matches(element("SeriesNumber", "-0"), SeriesNumber="0")
        assert matches(element("SeriesNumber", 0), SeriesNumber="-00")

    def test_decimals_are_compared_as_numbers(self) -> None:
        assert matches(element("SliceThickness", 1.5), SliceThickness="1.50")
        assert matches(element("SliceThickness", "+1.5e0"), SliceThickness="1.5")
        assert not matches(element("SliceThickness", "abc"), SliceThickness="1.5")

    def test_floats_of_single_precision_are_compared_as_such(self) -> None:
        stored = {"00720074": {"vr": "FD", "Value": [0.1]}}
        assert identifier_of([MatchKey((0x00720074,), "0.1")]).matches(stored)
        single = 0.10000000149011612
        stored = {"00720076": {"vr": "FL", "Value": [single]}}
        assert identifier_of([MatchKey((0x00720076,), "0.1")]).matches(stored)

    def test_a_tag_may_be_given_by_keyword(self) -> None:
        stored = element("FrameIncrementPointer", "00181063")
        assert matches(stored, FrameIncrementPointer="FrameTime")
        assert matches(stored, FrameIncrementPointer="00181063")


class TestUniversal:
    # Q10
    @pytest.mark.parametrize("text", ["", "  ", "*", "**"])
    def test_no_value_or_only_stars_matches_everything(self, text: str) -> None:
        assert isinstance(criterion_of("LO", text), Universal)
        assert matches({}, PatientID=text)
        assert matches(element("PatientID"), PatientID=text)

    def test_no_other_key_matches_an_absent_or_empty_attribute(self) -> None:
        assert not matches({}, PatientID="?*")
        assert not matches(element("PatientID"), PatientID="A")


class TestUidList:
    # Q13
    @pytest.mark.parametrize("text", ["1.2,1.3", "1.2\\1.3", "1.3, 1.2"])
    def test_each_uid_of_the_list_matches(self, text: str) -> None:
        assert matches(element("StudyInstanceUID", "1.2"), StudyInstanceUID=text)
        assert matches(element("StudyInstanceUID", "1.3"), StudyInstanceUID=text)
        assert not matches(element("StudyInstanceUID", "1.4"), StudyInstanceUID=text)

    # Q11
    @pytest.mark.parametrize("text", ["1.*", "*", "1..2", "1.2,", "abc", "1" * 65])
    def test_what_is_no_uid_is_refused(self, text: str) -> None:
        assert "a UID" in expected_of("StudyInstanceUID", text)


class TestWildcards:
    # Q11
    @pytest.mark.parametrize(
        ("key", "stored"),
        [
            ("A*", "Abc"),
            ("*c", "Abc"),
            ("?bc", "Abc"),
            ("A*c", "Ac"),
            ("*b*", "Abc"),
            ("A?*", "Ab"),
        ],
    )
    def test_a_star_is_any_characters_and_a_question_mark_one(self, key: str, stored: str) -> None:
        assert matches(element("PatientID", stored), PatientID=key)

    @pytest.mark.parametrize("key", ["a*", "?", "A*d", "Abc?"])
    def test_the_rest_must_be_there_as_it_is(self, key: str) -> None:
        assert not matches(element("PatientID", "Abc"), PatientID=key)

    # Q11
    @pytest.mark.parametrize(
        "name",
        ["StudyDate", "StudyTime", "AcquisitionDateTime", "SeriesNumber", "SliceThickness", "Rows"],
    )
    def test_other_vrs_refuse_a_star(self, name: str) -> None:
        assert expected_of(name, "*")
        assert expected_of(name, "1*")

    # Q12
    def test_characters_of_patterns_of_other_languages_mean_themselves(self) -> None:
        assert matches(element("PatientID", "a%b"), PatientID="a%*")
        assert not matches(element("PatientID", "axb"), PatientID="a%*")
        assert not matches(element("PatientID", "ab"), PatientID="[a]*")

    def test_many_stars_take_no_time(self) -> None:
        text = "*a" * 100 + "*b"
        assert not matches(element("PatientID", "a" * 5000), PatientID=text)


class TestPersonNames:
    # Q20
    def test_case_does_not_count(self) -> None:
        assert matches(NAME, PatientName="SMITH^JOHN")
        assert matches(NAME, PatientName="smith^*")

    # Q20
    def test_a_family_name_alone_is_not_the_whole_name(self) -> None:
        assert not matches(NAME, PatientName="SMITH")
        assert matches(element("PatientName", {"Alphabetic": "Smith^"}), PatientName="SMITH^^^")

    def test_blanks_around_components_do_not_count(self) -> None:
        stored = element("PatientName", {"Alphabetic": "Smith ^ John "})
        assert matches(stored, PatientName=" smith^john")
        assert matches(stored, PatientName="smith ^ j*")

    # Q20
    def test_a_key_without_groups_in_latin_script_is_for_the_alphabetic_group(self) -> None:
        assert matches(JAPANESE, PatientName="yamada*")
        stored = element("PatientName", {"Alphabetic": "Wang", "Phonetic": "Ueno"})
        assert not matches(stored, PatientName="Ueno")

    # Q20
    @pytest.mark.parametrize("key", ["山田*", "やまだ^たろう", "*太郎"])
    def test_a_key_in_east_asian_characters_is_for_every_group(self, key: str) -> None:
        assert matches(JAPANESE, PatientName=key)

    # Q20
    def test_a_key_with_groups_is_compared_group_by_group(self) -> None:
        assert matches(JAPANESE, PatientName="Yamada*=山田*")
        assert matches(JAPANESE, PatientName="==やまだ*")
        assert not matches(JAPANESE, PatientName="Yamada*=鈴木*")
        assert not matches(JAPANESE, PatientName="=やまだ*")

    def test_half_width_kana_match_full_width_ones(self) -> None:
        stored = element("PatientName", {"Phonetic": "ヤマダ"})
        assert matches(stored, PatientName="==ﾔﾏﾀﾞ")

    def test_a_full_width_star_is_a_character_and_no_wildcard(self) -> None:
        assert not matches(NAME, PatientName="smith\uff0a")

    def test_a_name_of_empty_components_asks_nothing(self) -> None:
        assert matches({}, PatientName="^^")

    def test_four_groups_are_refused(self) -> None:
        assert "three component groups" in expected_of("PatientName", "a=b=c=d")


class TestRanges:
    # Q14
    @pytest.mark.parametrize(
        ("key", "found"),
        [
            ("20200115", True),
            ("20200114", False),
            ("20200101-20200131", True),
            ("20200115-20200115", True),
            ("20200115-", True),
            ("20200116-", False),
            ("-20200115", True),
            ("-20200114", False),
        ],
    )
    def test_dates_include_both_ends(self, key: str, found: bool) -> None:
        assert matches(element("StudyDate", "20200115"), StudyDate=key) is found

    # Q14
    @pytest.mark.parametrize(
        "key",
        [
            "2020-01-01",
            "20200131-20200101",
            "-",
            "20200101--",
            "202001",
            "20200230",
            "1-2-3",
            "today",
        ],
    )
    def test_what_is_no_date_or_range_is_refused(self, key: str) -> None:
        assert "date" in expected_of("StudyDate", key) or "range" in expected_of("StudyDate", key)

    # Q15
    @pytest.mark.parametrize(
        ("key", "stored"),
        [
            ("10", "1030"),
            ("10", "103000.5"),
            ("1030", "103059.999999"),
            ("1000", "10"),
            ("100000.000", "10"),
            ("10-11", "115959"),
            ("1030-", "1030"),
            ("-1030", "103059"),
            ("103000.5", "103000.57"),
            ("000000", "00"),
        ],
    )
    def test_times_are_compared_by_the_precision_given(self, key: str, stored: str) -> None:
        assert matches(element("StudyTime", stored), StudyTime=key)

    # Q15
    @pytest.mark.parametrize(
        ("key", "stored"),
        [("10", "110000"), ("1030", "1031"), ("1030", "10"), ("-1030", "1031"), ("1031-", "1030")],
    )
    def test_times_outside_do_not_match(self, key: str, stored: str) -> None:
        assert not matches(element("StudyTime", stored), StudyTime=key)

    @pytest.mark.parametrize("key", ["2300-0100", "24", "1060", "10:30", "103", "-", "1030.5"])
    def test_what_is_no_time_or_range_is_refused(self, key: str) -> None:
        expected = expected_of("StudyTime", key)
        assert "time" in expected or "range" in expected

    # Q16
    @pytest.mark.parametrize(
        ("day", "time", "found"),
        [
            ("20200101", "0900", False),
            ("20200101", "1000", True),
            ("20200102", "0001", True),
            ("20200103", "120059", True),
            ("20200103", "1201", False),
            ("20200104", "1100", False),
        ],
    )
    def test_a_date_range_with_a_time_range_is_one_range(
        self, day: str, time: str, found: bool
    ) -> None:
        stored = element("StudyDate", day) | element("StudyTime", time)
        assert matches(stored, StudyDate="20200101-20200103", StudyTime="1000-1200") is found

    # Q16
    def test_combined_ranges_may_end_at_an_earlier_hour_but_not_on_the_same_day(self) -> None:
        stored = element("StudyDate", "20200102") | element("StudyTime", "0030")
        assert matches(stored, StudyDate="20200101-20200102", StudyTime="2300-0100")
        with pytest.raises(InvalidKeyError):
            matches(stored, StudyDate="20200101-20200101", StudyTime="2300-0100")

    # Q16
    def test_a_study_without_a_time_counts_as_the_beginning_of_its_day(self) -> None:
        stored = element("StudyDate", "20200101")
        assert matches(stored, StudyDate="20200101-20200102", StudyTime="0000-1200")
        assert not matches(stored, StudyDate="20200101-20200102", StudyTime="0001-1200")
        assert not matches({}, StudyDate="20200101-20200102", StudyTime="0000-1200")

    @pytest.mark.parametrize(
        ("key", "found"),
        [
            ("2020", True),
            ("202001", True),
            ("20200115103000", True),
            ("2020011510", True),
            ("2020011511", False),
            ("20200101-", True),
            ("-20191231", False),
            ("2019-2020", True),
            ("20200115093000-0100", True),
            ("20200115113000+0100", True),
            ("20200115113000+0100-20200115123000+0100", True),
        ],
    )
    def test_date_times_are_compared_as_moments(self, key: str, found: bool) -> None:
        stored = element("AcquisitionDateTime", "20200115103000.5+0000")
        assert matches(stored, AcquisitionDateTime=key) is found

    @pytest.mark.parametrize("key", ["20", "20201301", "2021-2020", "-", "2020+9900", "x"])
    def test_what_is_no_date_time_or_range_is_refused(self, key: str) -> None:
        expected = expected_of("AcquisitionDateTime", key)
        assert "date and time" in expected or "range" in expected


class TestTimezone:
    STORED = (
        element("StudyDate", "20200101")
        | element("StudyTime", "2330")
        | element("TimezoneOffsetFromUTC", "+0000")
        | element("PatientBirthDate", "19700101")
    )

    # Q17
    def test_dates_and_times_of_the_request_are_in_its_zone(self) -> None:
        assert matches(
            self.STORED, TimezoneOffsetFromUTC="+0100", StudyDate="20200102", StudyTime="0030"
        )
        assert not matches(self.STORED, TimezoneOffsetFromUTC="+0100", StudyDate="20200101")
        assert matches(
            self.STORED,
            TimezoneOffsetFromUTC="+0100",
            StudyDate="20200102-20200103",
            StudyTime="0030-12",
        )

    # Q17
    def test_a_plus_that_became_a_blank_is_understood(self) -> None:
        assert matches(self.STORED, TimezoneOffsetFromUTC=" 0100", StudyDate="20200102")

    def test_a_birth_date_has_no_zone(self) -> None:
        assert matches(self.STORED, TimezoneOffsetFromUTC="+0900", PatientBirthDate="19700101")

    def test_a_data_set_without_a_zone_is_compared_as_it_is(self) -> None:
        stored = element("StudyDate", "20200101") | element("StudyTime", "2330")
        assert matches(stored, TimezoneOffsetFromUTC="+0100", StudyDate="20200101")

    @pytest.mark.parametrize("text", ["+1500", "-1300", "1", "+01:00", "UTC"])
    def test_what_is_no_offset_is_refused(self, text: str) -> None:
        assert "offset from UTC" in expected_of("TimezoneOffsetFromUTC", text)


class TestSequences:
    STORED: ClassVar = {
        "00400275": {
            "vr": "SQ",
            "Value": [
                element("RequestedProcedureID", "A") | element("ScheduledProcedureStepID", "1"),
                {},
                element("RequestedProcedureID", "B") | element("ScheduledProcedureStepID", "2"),
            ],
        }
    }

    # Q6
    def test_an_attribute_of_one_item_matches(self) -> None:
        assert matches(self.STORED, RequestAttributesSequence__RequestedProcedureID="B")
        assert not matches(self.STORED, RequestAttributesSequence__RequestedProcedureID="C")

    # Q6
    def test_keys_for_one_sequence_must_be_satisfied_by_one_item(self) -> None:
        path = "RequestAttributesSequence__"
        one = {f"{path}RequestedProcedureID": "A", f"{path}ScheduledProcedureStepID": "1"}
        other = {f"{path}RequestedProcedureID": "A", f"{path}ScheduledProcedureStepID": "2"}
        assert matches(self.STORED, **one)
        assert not matches(self.STORED, **other)

    def test_a_sequence_of_which_nothing_is_asked_may_be_absent(self) -> None:
        assert matches({}, RequestAttributesSequence__RequestedProcedureID="")
        assert matches({}, RequestAttributesSequence="")

    def test_a_path_through_something_else_is_refused(self) -> None:
        assert "sequences" in expected_of("PatientName.PatientID", "A")

    def test_a_value_for_a_sequence_is_refused(self) -> None:
        assert "sequence" in expected_of("RequestAttributesSequence", "A")

    def test_a_path_of_too_many_sequences_is_refused(self) -> None:
        name = ".".join(["RequestAttributesSequence"] * DEEPEST_PATH + ["PatientID"])
        assert "at most" in expected_of(name, "A")

    def test_a_data_set_nested_without_end_is_no_matter(self) -> None:
        inner: dict[str, dict[str, object]] = element("RequestedProcedureID", "deep")
        for _ in range(5000):
            inner = {"00400275": {"vr": "SQ", "Value": [inner]}}
        assert not matches(inner, RequestAttributesSequence__RequestedProcedureID="deep")


class TestPrivate:
    STORED: ClassVar = {
        "00230011": {"vr": "LO", "Value": ["AcmeCompany "]},
        "00231101": {"vr": "SH", "Value": ["x"]},
        "00230012": {"vr": "LO", "Value": ["Other"]},
        "00231201": {"vr": "IS", "Value": [7]},
    }

    # Q36
    def test_the_block_that_the_creator_reserved_is_looked_at(self) -> None:
        def found(creator: str, value: str) -> bool:
            keys = [MatchKey((0x00230010,), creator), MatchKey((0x00231001,), value)]
            return identifier_of(keys).matches(self.STORED)

        assert found("AcmeCompany", "x")
        assert not found("AcmeCompany", "7")
        assert found("Other", "07")
        assert not found("Nobody", "x")

    # Q36
    def test_a_private_key_without_its_creator_is_refused(self) -> None:
        assert "00230010" in expected_of("00231001", "x")

    def test_a_creator_alone_asks_whether_it_reserved_a_block(self) -> None:
        assert identifier_of([MatchKey((0x00230010,), "Other")]).matches(self.STORED)
        assert not identifier_of([MatchKey((0x00230010,), "Nobody")]).matches(self.STORED)


class TestOptionalKinds:
    # Q19
    def test_two_quotation_marks_match_what_is_empty_or_absent(self) -> None:
        assert criterion_of("LO", '""', empty_values=True) == Empty()
        assert matches({}, empty=True, PatientID='""')
        assert matches(element("PatientID"), empty=True, PatientID='""')
        assert not matches(element("PatientID", "A"), empty=True, PatientID='""')

    # Q19
    def test_two_quotation_marks_are_characters_unless_asked_for(self) -> None:
        assert not matches({}, PatientID='""')
        assert matches(element("PatientID", '""'), PatientID='""')

    # Q19
    def test_several_values_match_any_of_them(self) -> None:
        stored = element("Modality", "MR")
        assert matches(stored, multiple=True, Modality="CT\\MR")
        assert not matches(stored, multiple=False, Modality="CT\\MR")
        assert "backslash" in expected_of("Modality", "CT\\", multiple_values=True)

    def test_a_binary_attribute_is_empty_only_without_bytes(self) -> None:
        assert not Empty().holds({"vr": "OB", "InlineBinary": "AA=="}, Zones())
        assert Empty().holds({"vr": "OB"}, Zones())


class TestRefusals:
    def test_binary_attributes_cannot_be_matched(self) -> None:
        assert "cannot be matched" in expected_of("PixelData", "x")

    @pytest.mark.parametrize("text", ["a\0b", "a" * 1025])
    def test_texts_that_no_attribute_has_are_refused(self, text: str) -> None:
        assert expected_of("PatientID", text)

    @pytest.mark.parametrize("text", ["1.5", "a", "1e3", "9" * 20])
    def test_what_is_no_integer_is_refused(self, text: str) -> None:
        assert "integer" in expected_of("SeriesNumber", text)

    # Q8
    def test_an_attribute_may_be_given_only_once(self) -> None:
        with pytest.raises(InvalidKeyError, match="only once"):
            identifier_of([MatchKey((0x00100020,), "a"), MatchKey((0x00100020,), "b")])


def test_a_timezone_without_a_value_asks_nothing_of_any_level() -> None:
    identifier = identifier_of([MatchKey((0x00080201,), "")])
    assert list(identifier.tags()) == []
    assert identifier.zone is None


def test_ranges_of_dates_and_times_are_independent_unless_they_are_to_be_combined() -> None:
    keys = [MatchKey((0x00080020,), "20200101-20200103"), MatchKey((0x00080030,), "10-12")]
    night = {
        "00080020": {"vr": "DA", "Value": ["20200102"]},
        "00080030": {"vr": "TM", "Value": ["23"]},
    }
    assert identifier_of(keys).matches(night)
    assert not identifier_of(keys, combine_date_times=False).matches(night)


class TestLimits:
    # H11
    def test_a_key_has_at_most_a_hundred_values(self) -> None:
        text = "\\".join(f"{number}" for number in range(100))
        assert matches(element("PatientID", "99"), multiple=True, PatientID=text)
        expected = expected_of("PatientID", text + "\\x", multiple_values=True)
        assert expected == "at most 100 values"

    # Q13
    def test_a_list_has_at_most_a_thousand_uids(self) -> None:
        text = ",".join(f"1.{number}" for number in range(1000))
        assert matches(element("StudyInstanceUID", "1.999"), StudyInstanceUID=text)
        assert expected_of("StudyInstanceUID", text + ",1.1") == "at most 1000 values"

    # Q11
    @pytest.mark.parametrize("text", ["?*?*?", "*???", "???*", "*?*?*?*"])
    def test_a_run_of_wildcards_has_one_spelling(self, text: str) -> None:
        assert pattern_of(pieces(text)).tokens == (Wild.ONE, Wild.ONE, Wild.ONE, Wild.MANY)
        assert matches(element("PatientID", "abcd"), PatientID=text)
        assert not matches(element("PatientID", "ab"), PatientID=text)

    # Q11: at most as many steps as the text's length times the pattern's
    @pytest.mark.parametrize(
        "text", ["*a" * 300 + "b", "*?" * 500, "a*" * 500 + "b", "*" + "a?" * 500 + "b*c"]
    )
    def test_a_hostile_pattern_is_decided(self, text: str) -> None:
        assert not matches(element("TextValue", "a" * 60_000 + "c" * 50), TextValue=text + "d")
