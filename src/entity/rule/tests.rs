use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Time {
    event_date(text).unwrap()
}

/// A series of a year that has ended; pages show the week it starts in.
fn past() -> Span {
    Span { start: Some(at("2025-04-21 10:00")), end: Some(at("2026-04-21 00:00")) }
}

fn now() -> Time {
    at("2026-11-28 12:00")
}

fn verdict(rule: &str) -> Result<(), Fault> {
    check_at(rule, past(), now())
}

fn refusal(rule: &str) -> String {
    verdict(rule).unwrap_err().to_string()
}

/// Seen with Scheduler 7.2.15; the browser's check asks the real one about these, too.
const FINE: &[&str] = &[
    "FREQ=DAILY;INTERVAL=1",
    "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,WE",
    "FREQ=MONTHLY;BYDAY=2TU",
    "FREQ=MONTHLY;BYDAY=TU;BYSETPOS=-1",
    "FREQ=MONTHLY;BYMONTHDAY=1,15;COUNT=10",
    "FREQ=YEARLY;UNTIL=20301231T235959Z;WKST=SU",
    "FREQ=DAILY;UNTIL=20301231",
    "FREQ=DAILY;DTSTART=20250420T100000Z",
    "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29",
    "FREQ=HOURLY",
    "FREQ=MINUTELY",
    // Spellings.
    "freq=daily",
    "FREQ=weekly",
    "INTERVAL=1",
    "BYDAY=MO;FREQ=WEEKLY",
    "FREQ=DAILY;BYWEEKDAY=MO",
    "FREQ=DAILY=x",
    "FREQ=WEEKLY;BYDAY=01MO",
    "FREQ=WEEKLY;BYDAY=99MO",
    "FREQ=MONTHLY;BYDAY=+1MO",
    "FREQ=DAILY FREQ=WEEKLY",
    "FREQ=daily\nRRULE:FREQ=WEEKLY",
    // Numbers.
    "FREQ=DAILY;INTERVAL=0",
    "FREQ=DAILY;INTERVAL=00",
    "FREQ=DAILY;INTERVAL=-0",
    "FREQ=DAILY;INTERVAL=+2",
    "FREQ=DAILY;INTERVAL=1e9",
    "FREQ=DAILY;INTERVAL=1.5",
    "FREQ=DAILY;INTERVAL=99999999999999999999",
    "FREQ=DAILY;INTERVAL=-1;INTERVAL=1",
    "FREQ=DAILY;INTERVAL=-1;COUNT=1",
    "FREQ=DAILY;COUNT=",
    "FREQ=DAILY;COUNT=0",
    "FREQ=DAILY;COUNT=-1",
    "FREQ=DAILY;COUNT=x",
    "FREQ=DAILY;COUNT=1.5",
    // What is out of range and comes to nothing, or to another time.
    "FREQ=DAILY;WKST=XX",
    "FREQ=DAILY;WKST=",
    "FREQ=DAILY;TZID=Nowhere",
    "FREQ=DAILY;TZID",
    "FREQ=YEARLY;BYYEARDAY=400",
    "FREQ=YEARLY;BYWEEKNO=99",
    "FREQ=DAILY;BYHOUR=25",
    "FREQ=DAILY;BYMINUTE=99",
    "FREQ=HOURLY;BYMINUTE=99",
    "FREQ=DAILY;BYSECOND=-1",
    "FREQ=YEARLY;BYEASTER=0",
    "FREQ=DAILY;BYEASTER=x",
    "FREQ=DAILY;BYEASTER",
    "FREQ=DAILY;BYSETPOS=",
    "FREQ=DAILY;BYSETPOS=-366",
    "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30",
    "FREQ=MONTHLY;BYMONTH=4;BYMONTHDAY=31",
    "FREQ=MONTHLY;BYMONTHDAY=0",
    "FREQ=MONTHLY;BYMONTHDAY=32",
    "FREQ=YEARLY;BYMONTH=13;BYDAY=MO",
    "FREQ=MONTHLY;BYDAY=6MO",
    "FREQ=DAILY;BYMONTHDAY=0,0",
    "FREQ=SECONDLY;COUNT=10",
    "FREQ=SECONDLY;INTERVAL=3600",
    "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=29",
    "FREQ=HOURLY;INTERVAL=2;BYHOUR=4",
];

const REFUSED: &[(&str, &str)] = &[
    // It throws.
    ("nonsense", "its rrule cannot be read"),
    ("FREQ", "FREQ cannot be read"),
    ("FREQ=", "FREQ cannot be read"),
    ("FREQ=SOMETIMES", "FREQ cannot be read"),
    ("FREQ=3", "FREQ=3 cannot be read"),
    ("FREQ=DAILY;", "its rrule cannot be read"),
    (" FREQ=DAILY", "its rrule cannot be read"),
    ("FREQ=DAILY ", "its rrule cannot be read"),
    (" ", "its rrule cannot be read"),
    ("RRULE:FREQ=DAILY", "without RRULE:"),
    ("FREQ=DAILY;COLOUR=red", "its rrule cannot be read"),
    ("EXDATE:20250422", "its rrule cannot be read"),
    ("FREQ=WEEKLY;BYDAY=XX", "BYDAY cannot be read"),
    ("FREQ=WEEKLY;BYDAY=", "BYDAY cannot be read"),
    ("FREQ=WEEKLY;BYDAY=MO, WE", "BYDAY"),
    ("FREQ=WEEKLY;BYDAY=é", "BYDAY"),
    ("FREQ=WEEKLY;BYDAY=mo", "in capitals"),
    ("FREQ=WEEKLY;BYDAY=Tu,TH", "in capitals"),
    ("FREQ=MONTHLY;BYDAY=0MO", "BYDAY=0MO cannot be read"),
    ("FREQ=DAILY;BYDAY=+0MO", "a number other than 0"),
    ("FREQ=DAILY;BYDAY=-0MO", "BYDAY"),
    ("FREQ=DAILY;BYDAY=00MO", "BYDAY"),
    ("FREQ=DAILY;BYDAY=MO,0TU", "BYDAY=MO,0TU"),
    ("FREQ=DAILY;BYDAY=100MO", "BYDAY"),
    ("FREQ=DAILY;UNTIL=tomorrow", "UNTIL cannot be read"),
    ("FREQ=DAILY;UNTIL=20251231t000000z", "in capitals"),
    ("FREQ=DAILY;UNTIL=", "UNTIL"),
    ("FREQ=DAILY;DTSTART=tomorrow", "DTSTART"),
    ("FREQ=DAILY;DTSTART;TZID=Europe/Berlin:20250101", "DTSTART"),
    ("FREQ=DAILY;BYSETPOS=0", "BYSETPOS=0 cannot be read"),
    ("FREQ=DAILY;BYSETPOS=1,0", "BYSETPOS=1,0"),
    ("FREQ=DAILY;BYSETPOS=367", "BYSETPOS=367"),
    ("FREQ=DAILY;BYSETPOS=-367", "BYSETPOS"),
    ("FREQ=DAILY;BYSETPOS=x", "BYSETPOS"),
    ("FREQ=DAILY;BYHOUR=x", "BYHOUR cannot be read"),
    ("FREQ=DAILY;BYHOUR=", "BYHOUR"),
    ("FREQ=HOURLY;BYMINUTE=x", "BYMINUTE"),
    ("FREQ=DAILY;COUNT", "COUNT cannot be read"),
    ("FREQ=DAILY;WKST", "WKST"),
    // It never ends.
    ("FREQ=DAILY;INTERVAL=-1", "INTERVAL=-1 stops the Scheduler; send a whole number of 1 or more"),
    ("FREQ=DAILY;INTERVAL=.007;COUNT=10", "INTERVAL=.007 stops"),
    ("FREQ=DAILY;INTERVAL=0.5", "INTERVAL=0.5 stops"),
    ("FREQ=WEEKLY;INTERVAL=null;BYDAY=MO", "INTERVAL stops"),
    ("FREQ=DAILY;INTERVAL=", "INTERVAL stops"),
    ("FREQ=DAILY;INTERVAL=0x10", "INTERVAL"),
    ("FREQ=DAILY;INTERVAL=Infinity", "INTERVAL"),
    ("FREQ=DAILY;INTERVAL=1,2", "INTERVAL"),
    ("FREQ=DAILY;INTERVAL=١", "INTERVAL"),
    ("FREQ=MONTHLY;INTERVAL=1.5", "INTERVAL=1.5"),
    ("FREQ=HOURLY;INTERVAL=1.5", "INTERVAL=1.5"),
    ("FREQ=DAILY;INTERVAL=1;INTERVAL=-1", "INTERVAL=-1"),
    ("FREQ=HOURLY;BYHOUR=25", "BYHOUR stops"),
    ("FREQ=MINUTELY;BYHOUR=25", "BYHOUR stops"),
    ("FREQ=MINUTELY;BYMINUTE=60", "BYMINUTE stops"),
    ("FREQ=HOURLY;INTERVAL=2;BYHOUR=3", "BYHOUR stops"),
    ("FREQ=MINUTELY;INTERVAL=60;BYMINUTE=30", "BYMINUTE stops"),
    ("FREQ=SECONDLY;BYSECOND=60", "BYSECOND stops"),
    ("FREQ=HOURLY;BYHOUR=x", "BYHOUR stops"),
    ("FREQ=DAILY;BYMONTH=13", "BYMONTH stops"),
    ("FREQ=DAILY;BYMONTH=", "BYMONTH stops"),
    ("FREQ=DAILY;BYMONTHDAY=0", "BYMONTHDAY stops"),
    ("FREQ=HOURLY;BYMONTH=2;BYMONTHDAY=30", "BYMONTH, BYMONTHDAY stops"),
    ("FREQ=MINUTELY;BYMONTHDAY=32", "BYMONTHDAY stops"),
    ("FREQ=DAILY;BYSETPOS=2", "BYSETPOS stops"),
    ("FREQ=DAILY;INTERVAL=7;BYDAY=TU", "BYDAY stops"),
    ("FREQ=DAILY;BYYEARDAY=400", "BYYEARDAY stops"),
    ("FREQ=WEEKLY;BYMONTH=13", "BYMONTH stops"),
    ("FREQ=SECONDLY", "too many dates"),
    ("FREQ=DAILY;DTSTART=01000101", "too many dates"),
];

#[test]
fn what_the_client_draws_is_let_through() {
    for rule in FINE {
        assert_eq!(verdict(rule), Ok(()), "{rule}");
    }
}

#[test]
fn what_throws_or_never_ends_is_refused_with_a_reason() {
    for (rule, reason) in REFUSED {
        let Err(fault) = verdict(rule) else { panic!("{rule} is let through") };
        assert!(fault.to_string().contains(reason), "{rule}: {fault}");
    }
}

#[test]
fn the_reason_names_part_value_and_remedy() {
    assert_eq!(
        refusal("FREQ=DAILY;INTERVAL=-1"),
        "its rrule's INTERVAL=-1 stops the Scheduler; send a whole number of 1 or more"
    );
}

#[test]
fn the_reason_quotes_nothing_that_could_be_data() {
    for rule in [
        "secret",
        "secret=1",
        "FREQ=secret",
        "FREQ=DAILY;INTERVAL=secret",
        "FREQ=DAILY;UNTIL=secret",
        "FREQ=DAILY;BYDAY=secret",
    ] {
        assert!(!refusal(rule).contains("secret"), "{rule}");
    }
}

#[test]
fn the_start_of_the_series_counts() {
    let from = |start: &str, end: &str, rule| {
        check_at(rule, Span { start: Some(at(start)), end: Some(at(end)) }, now()).is_ok()
    };
    let endless = "9999-02-01 00:00";
    // The hours that are met.
    assert!(!from("2025-04-21 10:00", "2026-04-21 00:00", "FREQ=HOURLY;INTERVAL=2;BYHOUR=3"));
    assert!(from("2025-04-21 11:00", "2026-04-21 00:00", "FREQ=HOURLY;INTERVAL=2;BYHOUR=3"));
    // The way from there to what pages show.
    assert!(from("1900-01-01 00:00", endless, "FREQ=DAILY"));
    assert!(!from("1900-01-01 00:00", endless, "FREQ=HOURLY"));
    assert!(from("1900-01-01 00:00", "1910-01-01 00:00", "FREQ=HOURLY"), "pages show its first week, and not today");
    assert!(from("2026-11-01 00:00", endless, "FREQ=HOURLY"));
    assert!(!from("2026-11-01 00:00", endless, "FREQ=MINUTELY"), "in a year a page needs too long");
    assert!(from("2026-11-01 00:00", "2026-12-31 00:00", "FREQ=MINUTELY"));
    // 1.5 is fine in the first weeks only.
    assert!(!from("2026-11-21 10:00", "2027-11-21 00:00", "FREQ=DAILY;INTERVAL=1.5"));
    // The client writes it with five digits, and cannot read that.
    assert!(!from("2025-04-21 10:00", "20000-01-01 00:00", "FREQ=DAILY"));
}

#[test]
fn a_rule_without_dates_must_do_from_any_start() {
    let unknown = |rule| check_at(rule, Span::default(), now()).is_ok();
    for rule in
        ["FREQ=DAILY", "FREQ=WEEKLY;BYDAY=MO,WE", "FREQ=MINUTELY", "FREQ=HOURLY;BYHOUR=8,9", "FREQ=MONTHLY;BYDAY=-1FR"]
    {
        assert!(unknown(rule), "{rule}");
    }
    for rule in ["FREQ=DAILY;INTERVAL=-1", "FREQ=HOURLY;INTERVAL=2;BYHOUR=3", "FREQ=SECONDLY", "FREQ=DAILY;BYMONTH=13"]
    {
        assert!(!unknown(rule), "{rule}");
    }
}

#[test]
fn dates_are_read_as_the_client_reads_them() {
    for text in
        ["2025-04-21 10:00", "2025/04/21 10:00:00", "2025-04-21T10:00:00.000Z", "04/21/2025 10:00", "21-04-2025 10:00"]
    {
        assert_eq!(event_date(text), Some(1_745_229_600_000.0), "{text}");
    }
    assert_eq!(event_date("0001-01-01 00:00"), event_date("1901-01-01 00:00"), "two digits are of the last century");
    for text in ["", "tomorrow", "10:00", "1745226000000", "2025", "21 April 2025"] {
        assert_eq!(event_date(text), None, "{text}");
    }
    for time in [0.0, 951_782_400_000.0, 1_745_229_600_000.0, 253_402_300_799_000.0] {
        let (year, month, day) = date::civil(time);
        assert_eq!(
            date::time(year, month, day, 0.0, 0.0, 0.0),
            time - time.rem_euclid(date::DAY),
            "{year} {month} {day}"
        );
    }
}

fn part() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "FREQ",
        "INTERVAL",
        "COUNT",
        "UNTIL",
        "BYDAY",
        "BYSETPOS",
        "BYMONTH",
        "BYMONTHDAY",
        "BYYEARDAY",
        "BYWEEKNO",
        "BYHOUR",
        "BYMINUTE",
        "BYSECOND",
        "BYEASTER",
        "WKST",
        "TZID",
        "DTSTART",
        "X",
    ]);
    let value = prop_oneof![
        prop::sample::select(vec![
            "DAILY",
            "HOURLY",
            "MO",
            "-1FR",
            "20250421",
            "20250421T100000Z",
            "",
            "1.5",
            "0",
            "-1",
            "1,2",
            "x"
        ])
        .prop_map(str::to_owned),
        "[-+0-9.,eMOTUZ]{0,8}",
        any::<i64>().prop_map(|number| number.to_string()),
    ];
    (key, value).prop_map(|(key, value)| format!("{key}={value}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_text_is_too_much(rule in ".{0,40}", start in any::<f64>(), end in any::<f64>()) {
        let _ = check_at(&rule, Span { start: Some(start), end: Some(end) }, now());
        let _ = event_date(&rule);
    }

    #[test]
    fn no_rule_is_too_much(parts in prop::collection::vec(part(), 1..6), start in any::<i32>()) {
        let span = Span { start: Some(f64::from(start) * 100_000.0), end: None };
        let _ = check_at(&parts.join(";"), span, now());
    }

    #[test]
    fn parts_may_stand_in_any_order(parts in prop::collection::vec(part(), 1..5), by in 0..5_usize) {
        let key = |part: &String| part.split('=').next().unwrap_or_default().to_owned();
        let keys: std::collections::BTreeSet<String> = parts.iter().map(key).collect();
        prop_assume!(keys.len() == parts.len());
        let mut turned = parts.clone();
        turned.rotate_left(by % parts.len());
        prop_assert_eq!(verdict(&parts.join(";")).is_ok(), verdict(&turned.join(";")).is_ok());
    }
}
