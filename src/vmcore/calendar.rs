//! Times of the crashed machine in the calendar.
#![expect(clippy::arithmetic_side_effects, reason = "the years below are few, and seconds are cut to them first")]

/// `2026-11-23T10:30:15Z` with the given marks: Gregorian calendar from seconds since 1970 (Howard Hinnant's
/// `civil_from_days`, public domain).
pub fn utc(seconds: u64, between: char, in_time: char, end: &str) -> String {
    // 64 bits of seconds are 584 billion years; a corrupt time is cut to a readable one.
    let seconds = seconds.min(253_402_300_799);
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    let t = if in_time == ':' { 'T' } else { between };
    format!("{year:04}{between}{month:02}{between}{day:02}{t}{hour:02}{in_time}{minute:02}{in_time}{second:02}{end}")
}
