//! Numbers as people read them.

/// `1 network`, `2 networks`.
pub fn number(n: usize, thing: &str) -> String {
    if n == 1 { format!("1 {thing}") } else { format!("{n} {thing}s") }
}

/// `12 s`, `3 min`, `5 h`, `2 d`: the largest unit that fits.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `512M`, `2G`: as one writes it in the configuration.
pub fn memory(octets: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    for (unit, letter) in UNITS {
        if octets >= unit && octets.is_multiple_of(unit) {
            return format!("{}{letter}", octets / unit);
        }
    }
    octets.to_string()
}

/// Milliseconds since 1970 as `2026-11-23 18:07:24Z`.
pub fn time(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}Z")
}

/// Year, month and day of a number of days since 1970, in the Gregorian calendar. Years begin in
/// March here, so that the day that comes and goes is the last of the year.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_FROM_MARCH_0000: u64 = 719_468;
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let day = days + DAYS_FROM_MARCH_0000;
    let (era, day) = (day / DAYS_OF_400_YEARS, day % DAYS_OF_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next_year, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let cases = [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (951_868_799, "2000-02-29 23:59:59Z"),
            (1_709_164_800, "2024-02-29 00:00:00Z"),
            (1_735_689_599, "2024-12-31 23:59:59Z"),
            (4_107_542_400, "2100-03-01 00:00:00Z"),
        ];
        for (seconds, text) in cases {
            assert_eq!(time(seconds * 1000 + 7), text);
        }
    }

    #[test]
    fn memory_reads_as_it_is_written() {
        assert_eq!(memory(512 << 20), "512M");
        assert_eq!(memory(2 << 30), "2G");
        assert_eq!(memory(1536 << 20), "1536M");
        assert_eq!(memory(1000), "1000");
    }

    #[test]
    fn spans_and_numbers() {
        assert_eq!(span(59), "59 s");
        assert_eq!(span(3599), "59 min");
        assert_eq!(span(90_000), "1 d");
        assert_eq!(number(1, "VM"), "1 VM");
        assert_eq!(number(0, "VM"), "0 VMs");
    }
}
