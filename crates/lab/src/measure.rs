//! Measurements between two places, by the tools that people use: ping and iperf3.
//!
//! iperf3's server does not listen for a while after each run, which is long in a software-emulated
//! guest. So every run gets a server of its own, and starts when that listens.

use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::command::Background;
use crate::error::{LabError, Result};
use crate::scene::Place;

/// What a series of echo requests showed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Echo {
    /// Requests sent.
    pub sent: u32,
    /// Replies received.
    pub received: u32,
    /// Mean time there and back, in milliseconds.
    pub milliseconds: f64,
}

/// Sends `count` echo requests.
pub fn echo(from: Place<'_>, to: IpAddr, count: u32) -> Result<Echo> {
    let command = format!("ping -n -c {count} -i 0.2 -W 2 {to}");
    let text = from.run(&command, Duration::from_secs(u64::from(count) + 10))?.text;
    parse_echo(&text).ok_or_else(|| LabError::Unexpected(format!("`{command}`: {}", last(&text))))
}

fn parse_echo(text: &str) -> Option<Echo> {
    // `3 packets transmitted, 3 received, 0% packet loss, time 403ms`
    let line = text.lines().find(|l| l.contains("packets transmitted"))?;
    let mut counts = line.split(", ").filter_map(|part| part.split(' ').next()?.parse().ok());
    let (sent, received) = (counts.next()?, counts.next()?);
    // `rtt min/avg/max/mdev = 0.030/0.044/0.061/0.012 ms`
    let times = text.lines().find(|l| l.starts_with("rtt "));
    let mean = times.and_then(|l| l.split(" = ").nth(1)?.split('/').nth(1)?.parse().ok());
    Some(Echo { sent, received, milliseconds: mean.unwrap_or(f64::NAN) })
}

/// One kind of iperf3 run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// TCP, the one who connects sends.
    Tcp,
    /// TCP, the one who connects receives.
    TcpBack,
    /// UDP at a fixed rate, the one who connects sends.
    Udp,
}

/// What an iperf3 run showed, by the receiver's count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Octets that arrived.
    pub bytes: u64,
    /// Bits per second that arrived.
    pub bits_per_second: f64,
    /// UDP: octets sent that did not arrive, of a hundred.
    pub lost_percent: f64,
}

impl Rate {
    /// Less than this in a second is no working path: a hundredth of what an emulated guest carries,
    /// and half of what a UDP run sends.
    pub const ENOUGH: u64 = 100_000;
}

/// Bits per second of a UDP run: far below what a software-emulated guest can take.
const UDP_RATE: &str = "2M";
const PORT: u16 = 5201;

/// iperf3's server for one run.
struct Server<'a> {
    place: Place<'a>,
    process: Option<Background>,
}

impl<'a> Server<'a> {
    fn start(place: Place<'a>) -> Result<Self> {
        let process = match place {
            Place::Guest(guest) => {
                guest.ok("killall -q iperf3; iperf3 -s -1 -D")?;
                None
            }
            Place::Space(space) => {
                let mut server = space.command("iperf3");
                server.args(["-s", "-1"]).stdin(Stdio::null()).stdout(Stdio::null());
                Some(Background::spawn(&mut server)?)
            }
        };
        let started = Self { place, process };
        let listening = format!("until ss -Hltn sport = :{PORT} | grep -q .; do sleep 0.05; done");
        started.place.run(&listening, Duration::from_secs(10))?.ok()?;
        Ok(started)
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        // In a namespace the process goes with its handle.
        if let (Place::Guest(guest), None) = (self.place, &self.process) {
            let _ = guest.run("killall -q iperf3");
        }
    }
}

/// Runs iperf3 for a second towards a server in place `at`, which has the address `to`.
pub fn stream(from: Place<'_>, at: Place<'_>, to: IpAddr, kind: Stream) -> Result<Rate> {
    let _server = Server::start(at)?;
    let how = match kind {
        Stream::Tcp => String::new(),
        Stream::TcpBack => " -R".to_owned(),
        Stream::Udp => format!(" -u -b {UDP_RATE} -l 1200"),
    };
    let command = format!("iperf3 -J -i 0 -t 1 --connect-timeout 3000 -c {to}{how}");
    // The report is long and a console is slow.
    let text = from.run(&format!("{command} | tr -d '\\n\\t '"), Duration::from_secs(20))?.text;
    parse_rate(&text, kind).map_err(|why| LabError::Unexpected(format!("`{command}`: {why}")))
}

fn parse_rate(text: &str, kind: Stream) -> std::result::Result<Rate, String> {
    let report: Value =
        serde_json::from_str(text.trim()).map_err(|e| format!("{e} in {}", last(text)))?;
    if let Some(error) = report.get("error").and_then(Value::as_str) {
        return Err(error.to_owned());
    }
    let number = |name: &str| report.pointer(&format!("/end/{name}")).and_then(Value::as_f64);
    let missing = || format!("no sums in iperf3's report: {}", last(text));
    let bytes = number("sum_received/bytes").ok_or_else(missing)?;
    // iperf3's own percentage counts gaps in what arrived: of a stream of which nothing arrives, it
    // says that nothing was lost.
    let lost_percent = match kind {
        Stream::Udp => {
            let sent = number("sum_sent/bytes").filter(|n| *n > 0.0).ok_or_else(missing)?;
            (100.0 * (1.0 - bytes / sent)).max(0.0)
        }
        Stream::Tcp | Stream::TcpBack => 0.0,
    };
    let bits_per_second = number("sum_received/bits_per_second").ok_or_else(missing)?;
    Ok(Rate { bytes: bytes as u64, bits_per_second, lost_percent })
}

/// The end of a text, for an error message.
fn last(text: &str) -> &str {
    let text = text.trim();
    let from = text.char_indices().rev().nth(300).map_or(0, |(at, _)| at);
    text.get(from..).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echo_statistics_are_read_with_and_without_replies() {
        let text = "3 packets transmitted, 2 received, 33% packet loss, time 403ms\n\
                    rtt min/avg/max/mdev = 0.030/0.044/0.061/0.012 ms\n";
        let some = Echo { sent: 3, received: 2, milliseconds: 0.044 };
        assert_eq!(parse_echo(text), Some(some));
        let none = "3 packets transmitted, 0 received, +3 errors, 100% packet loss, time 403ms";
        assert_eq!(parse_echo(none).map(|e| (e.sent, e.received)), Some((3, 0)));
        assert_eq!(parse_echo("connect: Network is unreachable"), None);
    }

    #[test]
    fn rates_are_those_that_arrived_and_errors_are_told() {
        let tcp = r#"{"end":{"sum_sent":{"bytes":9,"bits_per_second":9.0},
                      "sum_received":{"bytes":5,"bits_per_second":40.0}}}"#;
        let rate = parse_rate(tcp, Stream::Tcp).unwrap();
        assert_eq!((rate.bytes, rate.bits_per_second), (5, 40.0));
        // As iperf3 3.12 reports a UDP run of which nothing, or half, arrived.
        for (received, lost) in [(0, 100.0), (50, 50.0), (100, 0.0)] {
            let udp = format!(
                r#"{{"end":{{"sum":{{"bytes":100,"bits_per_second":800.0,"lost_percent":0}},
                    "sum_sent":{{"bytes":100,"bits_per_second":800.0,"lost_percent":0}},
                    "sum_received":{{"bytes":{received},"bits_per_second":1.0,"lost_percent":0}}}}}}"#
            );
            let rate = parse_rate(&udp, Stream::Udp).unwrap();
            assert_eq!((rate.bytes, rate.lost_percent), (received, lost));
        }
        let error = parse_rate(r#"{"error":"unable to connect"}"#, Stream::Tcp).unwrap_err();
        assert_eq!(error, "unable to connect");
        assert!(parse_rate("iperf3: not found", Stream::Tcp).is_err());
    }
}
