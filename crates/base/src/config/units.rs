//! Values with a unit: sizes of memory, spans of time, names.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Octets of the smallest memory a VM can have.
pub(super) const LEAST_MEMORY: u64 = 16 << 20;
/// Octets of the largest memory a VM can have.
pub(super) const MOST_MEMORY: u64 = 16 << 40;
/// Octets of the smallest clone of a disk.
pub(super) const LEAST_DISK: u64 = 1 << 20;
/// Octets of the largest clone of a disk: what every file system under it can have in a file.
pub(super) const MOST_DISK: u64 = 16 << 40;
/// The longest time a guest can be given to stop.
pub(super) const LONGEST_STOP: Duration = Duration::from_secs(3600);

/// What is wrong with a value, and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Wrong {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The digits at the front, and what follows them.
fn number_and_unit(text: &str) -> (Option<u64>, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    (digits.parse().ok(), unit.trim_start())
}

/// A size of memory such as "512M".
pub(super) fn memory(text: &str) -> Result<u64, Wrong> {
    size(text, "memory", LEAST_MEMORY..=MOST_MEMORY)
}

/// A size of a disk such as "20G".
pub(super) fn disk_size(text: &str) -> Result<u64, Wrong> {
    size(text, "a disk", LEAST_DISK..=MOST_DISK)
}

/// A size of something, within bounds that are whole numbers of M and of T.
fn size(text: &str, what: &str, bounds: RangeInclusive<u64>) -> Result<u64, Wrong> {
    let (number, unit) = number_and_unit(text.trim());
    let unit = unit.to_ascii_lowercase();
    let shift = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit) {
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => {
            let wrong = Wrong::new(format!("`{text}` is not a size of {what}"));
            return Err(match (number, unit.as_str()) {
                (Some(n), "") => wrong.help(format!("say the unit: \"{n}M\" or \"{n}G\"")),
                (Some(_), fraction) if fraction.starts_with(['.', ',']) => {
                    wrong.help("whole numbers only: \"1536M\" instead of \"1.5G\"")
                }
                _ => wrong.help("a whole number and M or G, as in \"512M\""),
            });
        }
    };
    let size = number.and_then(|n| n.checked_mul(1 << shift));
    match size {
        Some(size) if bounds.contains(&size) => Ok(size),
        Some(size) if size < *bounds.start() => {
            Err(Wrong::new(format!("{text} are too little for {what}"))
                .help(format!("at least \"{}M\"", bounds.start() >> 20)))
        }
        _ => Err(Wrong::new(format!("{text} are too much for {what}"))
            .help(format!("at most \"{}T\"", bounds.end() >> 40))),
    }
}

/// A span of time such as "30s".
pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    let (number, unit) = number_and_unit(text.trim());
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => {
            let wrong = Wrong::new(format!("`{text}` is not a span of time"));
            return Err(match (number, unit) {
                (Some(n), "") => wrong.help(format!("say the unit: \"{n}s\"")),
                _ => wrong.help("a whole number and ms, s or m, as in \"30s\""),
            });
        }
    };
    number
        .and_then(|n| n.checked_mul(millis))
        .map(Duration::from_millis)
        .filter(|d| *d <= LONGEST_STOP)
        .ok_or_else(|| Wrong::new(format!("{text} are too long")).help("at most \"60m\""))
}

/// Whether a network or VM can be called that: it names files, sockets and lines of output.
pub(super) fn name(text: &str) -> Result<(), Wrong> {
    let wrong = if text.is_empty() {
        "a name cannot be empty".to_owned()
    } else if text.chars().count() > 32 {
        format!("the name `{text}` is longer than 32 characters")
    } else if !text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
        format!("the name `{text}` has characters that a name cannot have")
    } else if text.starts_with(['-', '_']) || text.ends_with(['-', '_']) {
        format!("the name `{text}` begins or ends with neither letter nor digit")
    } else {
        return Ok(());
    };
    let help = "letters a to z, digits, and - and _ between them, at most 32";
    Err(Wrong::new(wrong).help(help))
}

/// Whether a guest can be told that host name (RFC 1123).
pub(super) fn hostname(text: &str) -> Result<(), Wrong> {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if text.len() <= 253 && text.split('.').all(label) {
        return Ok(());
    }
    Err(Wrong::new(format!("`{text}` is not a host name"))
        .help("letters, digits and -, in parts of at most 63 with a . between them"))
}

/// Whether the kernel could have an interface of that name.
pub(super) fn interface(text: &str) -> Result<(), Wrong> {
    if text == "lo" {
        return Err(Wrong::new("`lo` leads to nobody: it is the host's loopback")
            .help("name an adapter card (`ip link` lists them), or leave `uplink` out"));
    }
    let fits = (1..=15).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_graphic() && c != '/' && c != ':')
        && !matches!(text, "." | "..");
    if fits {
        return Ok(());
    }
    Err(Wrong::new(format!("`{text}` cannot be the name of a network interface"))
        .help("at most 15 characters, as `ip link` shows it: \"eth1\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_with_its_unit_and_refused_without() {
        for (text, size) in
            [("512M", 512 << 20), ("2G", 2 << 30), ("1 GiB", 1 << 30), ("64MB", 64 << 20)]
        {
            assert_eq!(memory(text), Ok(size), "{text}");
        }
        let help = |t: &str| memory(t).unwrap_err().help.unwrap();
        assert_eq!(help("512"), "say the unit: \"512M\" or \"512G\"");
        assert_eq!(help("1.5G"), "whole numbers only: \"1536M\" instead of \"1.5G\"");
        assert_eq!(help("1M"), "at least \"16M\"");
        assert_eq!(help("99999999999999999999T"), "at most \"16T\"");
        assert_eq!(help("lots"), "a whole number and M or G, as in \"512M\"");
        assert_eq!(help(""), "a whole number and M or G, as in \"512M\"");
    }

    #[test]
    fn sizes_of_disks_have_bounds_of_their_own() {
        assert_eq!((disk_size("1M"), disk_size("16T")), (Ok(1 << 20), Ok(16 << 40)));
        let wrong = |t: &str| disk_size(t).unwrap_err();
        assert_eq!(wrong("0M").help.unwrap(), "at least \"1M\"");
        assert_eq!(wrong("17T").help.unwrap(), "at most \"16T\"");
        assert_eq!(wrong("20").message, "`20` is not a size of a disk");
    }

    #[test]
    fn time_is_read_with_its_unit_and_refused_without() {
        for (text, millis) in [("500ms", 500), ("30s", 30_000), ("2m", 120_000), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("30").unwrap_err().help.unwrap(), "say the unit: \"30s\"");
        assert_eq!(duration("2h").unwrap_err().help.unwrap(), "at most \"60m\"");
        assert!(duration("-1s").is_err());
    }

    #[test]
    fn names_stay_harmless_in_paths_and_tables() {
        for good in ["web", "web-1", "a_b", "7", &"x".repeat(32)] {
            assert_eq!(name(good), Ok(()), "{good}");
        }
        for bad in ["", "../x", "a b", "-x", "x_", "grün", "a.b", &"x".repeat(33)] {
            assert!(name(bad).is_err(), "{bad}");
        }
        for bad in ["", "a..b", "-a", "a-", "a_b", &"x".repeat(64)] {
            assert!(hostname(bad).is_err(), "{bad}");
        }
        for bad in ["", "lo", "eth/1", "eth 1", "..", "sixteencharacter"] {
            assert!(interface(bad).is_err(), "{bad}");
        }
        assert_eq!((hostname("web.example"), interface("enp0s3.100")), (Ok(()), Ok(())));
    }
}
