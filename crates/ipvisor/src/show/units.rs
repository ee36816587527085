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

/// Octets rounded to three digits: `1.23G`, `201M`, `87K`.
pub fn rounded(octets: u64) -> String {
    scaled(octets as f64, 1024.0, &["", "K", "M", "G", "T", "P"])
}

/// How often something happens in a second: `0`, `0.4`, `1532`, `1.25M`.
pub fn per_second(rate: f64) -> String {
    if rate < 9999.5 {
        return if !(0.05..9.95).contains(&rate) {
            format!("{rate:.0}")
        } else {
            format!("{rate:.1}")
        };
    }
    scaled(rate, 1000.0, &["", "k", "M", "G", "T"])
}

/// A share of one processor: `13 %`; several processors can be more than a hundred.
pub fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// Three digits and the letter of the power of `step` that they count.
fn scaled(value: f64, step: f64, letters: &[&str]) -> String {
    let mut value = value;
    let mut letters = letters.iter();
    let mut letter = letters.next().copied().unwrap_or_default();
    // What would be shown as a whole step is shown in the next unit.
    while value >= step - 0.5 {
        let Some(next) = letters.next() else { break };
        value /= step;
        letter = next;
    }
    let digits = match value {
        _ if letter.is_empty() || value >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    let text = if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{letter}")
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
    fn amounts_and_rates_have_three_digits() {
        for (octets, text) in [
            (0, "0"),
            (900, "900"),
            (87 << 10, "87K"),
            ((3 << 20) + (512 << 10), "3.5M"),
            (209_715_200, "200M"),
            ((1 << 30) - 1, "1G"),
            (1_320_702_443, "1.23G"),
            (u64::MAX, "16384P"),
        ] {
            assert_eq!(rounded(octets), text);
        }
        for (rate, text) in [
            (0.0, "0"),
            (0.4, "0.4"),
            (12.6, "13"),
            (9999.0, "9999"),
            (9999.6, "10k"),
            (123_456.0, "123k"),
            (1_250_000.0, "1.25M"),
        ] {
            assert_eq!(per_second(rate), text);
        }
        assert_eq!((percent(0.0), percent(1.996)), ("0 %".to_owned(), "200 %".to_owned()));
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
