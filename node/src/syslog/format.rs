//! Lines of the log as RFC 5424 has them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thimble_spec::host::LogLine;

/// The facility of what the kernel writes (RFC 5424, 6.2.1).
const KERNEL: u8 = 0;
/// The facility of what system daemons write.
const DAEMON: u8 = 3;
/// Days in 400 years, after which the calendar repeats.
const ERA_DAYS: i64 = 146_097;

/// `<PRI>1 TIME HOST APP - - - TEXT`. `started` is when the kernel started, by the clock on the wall; before the clock was
/// set, there is no time (the NILVALUE).
pub fn message(line: &LogLine, host: &str, started: Option<SystemTime>) -> String {
    let facility = if line.source == "kernel" { KERNEL } else { DAEMON };
    let priority = facility * 8 + line.level.number();
    let time = started
        .and_then(|started| started.checked_add(Duration::from_millis(line.ms)))
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .map_or("-".to_owned(), timestamp);
    format!("<{priority}>1 {time} {} {} - - - {}", word(host, 255), word(&line.source, 48), line.text)
}

/// Printable ASCII without spaces, not too long, or the NILVALUE.
fn word(text: &str, most: usize) -> String {
    let word: String = text.chars().filter(char::is_ascii_graphic).take(most).collect();
    if word.is_empty() { "-".to_owned() } else { word }
}

/// RFC 3339, in UTC, with milliseconds.
pub fn timestamp(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let days = i64::try_from(seconds / 86_400).unwrap_or(0);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since_epoch.subsec_millis())
}

/// The date of a day counted from 1970-01-01: the civil-from-days arithmetic of the proleptic Gregorian calendar, whose
/// years begin in March here so that the leap day is a year's last.
fn date(days: i64) -> (i64, i64, i64) {
    let from_march_0000 = days + 719_468;
    let (era, day_of_era) = (from_march_0000.div_euclid(ERA_DAYS), from_march_0000.rem_euclid(ERA_DAYS));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use thimble_spec::host::Level;

    fn line(source: &str, text: &str) -> LogLine {
        LogLine { number: 1, ms: 1500, level: Level::Error, source: source.into(), text: text.into() }
    }

    #[test]
    fn messages_are_as_the_rfc_has_them() {
        let started = UNIX_EPOCH + Duration::from_secs(1_709_164_799);
        let message = |source, host, started| message(&line(source, "disk gone"), host, started);
        assert_eq!(
            message("kernel", "node1", Some(started)),
            "<3>1 2024-02-29T00:00:00.500Z node1 kernel - - - disk gone"
        );
        assert_eq!(message("a b", "", None), "<27>1 - - ab - - - disk gone");
    }

    #[test]
    fn days_become_dates() {
        for (days, wanted) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (20_778, (2026, 11, 21)),
            (47_540, (2100, 2, 28)),
        ] {
            assert_eq!(date(days), wanted);
        }
        assert_eq!(date(47_541), (2100, 3, 1), "no leap year");
    }

    proptest! {
        #[test]
        fn dates_go_on_day_by_day(days in 0i64..3_000_000) {
            let (today, tomorrow) = (date(days), date(days + 1));
            prop_assert!(today < tomorrow);
            prop_assert!((1..=12).contains(&today.1) && (1..=31).contains(&today.2));
            let next_day = tomorrow == (today.0, today.1, today.2 + 1);
            let next_month = tomorrow == (today.0, today.1 + 1, 1);
            prop_assert!(next_day || next_month || tomorrow == (today.0 + 1, 1, 1));
        }

        #[test]
        fn any_source_is_one_word(source in ".*") {
            let message = message(&line(&source, "x"), "host", None);
            prop_assert_eq!(message.split(' ').count(), 8);
        }
    }
}
