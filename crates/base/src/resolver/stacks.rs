//! DNS by TCP: a small stack for each port that opens connections.
//!
//! # Theory of operation
//! ```text
//! datagram --> Wire.came --> smoltcp: Listen | connections --> length, message --> question
//! datagram <-- Wire.goes <--            ''                 <-- length, message <-- answer
//! ```
//! A port's stack comes with its first segment and goes with its last connection. It has the base's two
//! addresses and no neighbours: whatever is sent to it is handed to it, whatever it sends goes to the
//! port, whose worker looks at it again. A connection may ask several questions at once and is told
//! the answers as they come (RFC 7766).
//!
//! # Limits
//! So many connections a port, so many octets of answers that wait, a time for which nothing may
//! happen: what goes beyond is reset.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use datapath::answer::{BASE4, BASE6, DNS_PORT};
use datapath::resolver::Tag;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};

use super::wire::Wire;

/// Connections of one port.
const MOST: usize = 8;
/// Octets of a connection's input buffer: what a guest may send before we have looked.
const IN: usize = 2048;
/// Octets of its output buffer.
const OUT: usize = 8192;
/// Octets of the longest question.
const LONGEST: usize = 1024;
/// Questions of one connection at once.
const QUESTIONS: usize = 8;
/// Octets of answers that wait for buffers, of all connections.
const WAITING: usize = 16 << 20;
/// How long a connection may do nothing.
const IDLE: Duration = Duration::from_secs(10);
/// Octets before each message.
const LENGTH: usize = 2;

/// One connection, by whoever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection(u64);

/// All stacks.
pub struct Stacks {
    stacks: HashMap<Tag, Stack>,
    started: Instant,
    count: u64,
    waiting: usize,
}

struct Stack {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    connections: Vec<Talk>,
    /// Something has happened, or time is up.
    due: Option<Instant>,
}

struct Talk {
    connection: Connection,
    socket: SocketHandle,
    heard: Vec<u8>,
    to_say: VecDeque<u8>,
    questions: usize,
    idle_at: Instant,
}

/// What came of a turn.
#[derive(Debug, Default)]
pub struct Turned {
    /// Questions, each with its connection.
    pub questions: Vec<(Tag, Connection, Vec<u8>)>,
    /// Datagrams for ports.
    pub datagrams: Vec<(Tag, Vec<u8>)>,
}

impl Stacks {
    /// None yet.
    pub fn new(now: Instant) -> Self {
        Self { stacks: HashMap::new(), started: now, count: 0, waiting: 0 }
    }

    /// A segment has come from a port.
    pub fn take(&mut self, tag: Tag, datagram: &[u8], mtu: u16, now: Instant, out: &mut Turned) {
        let at = self.stack_time(now);
        let stack = self.stacks.entry(tag).or_insert_with(|| Stack::new(mtu, at, now));
        stack.wire.came.push_back(datagram.to_vec());
        self.turn_one(tag, now, out);
    }

    /// Answers a question that a connection has asked.
    pub fn answer(
        &mut self,
        tag: Tag,
        connection: Connection,
        message: &[u8],
        now: Instant,
        out: &mut Turned,
    ) {
        let Some(stack) = self.stacks.get_mut(&tag) else { return };
        let talk = stack.connections.iter_mut().find(|talk| talk.connection == connection);
        let (Some(talk), Ok(len)) = (talk, u16::try_from(message.len())) else { return };
        talk.questions = talk.questions.saturating_sub(1);
        talk.idle_at = after(now, IDLE);
        if self.waiting.saturating_add(message.len()) > WAITING {
            stack.sockets.get_mut::<tcp::Socket<'_>>(talk.socket).abort();
        } else {
            talk.to_say.extend(len.to_be_bytes());
            talk.to_say.extend(message);
            self.waiting = self.waiting.saturating_add(message.len()).saturating_add(LENGTH);
        }
        self.turn_one(tag, now, out);
    }

    /// Time has passed.
    pub fn poll(&mut self, now: Instant, out: &mut Turned) {
        let due = |stack: &Stack| stack.due.is_some_and(|due| due <= now);
        let tags: Vec<_> =
            self.stacks.iter().filter(|(_, s)| due(s)).map(|(tag, _)| *tag).collect();
        for tag in tags {
            self.turn_one(tag, now, out);
        }
    }

    /// When there is something to do although nobody says anything.
    pub fn deadline(&self) -> Option<Instant> {
        self.stacks.values().filter_map(|stack| stack.due).min()
    }

    /// The connection of a number.
    #[cfg(test)]
    pub fn connection(number: u64) -> Connection {
        Connection(number)
    }

    /// How many ports have connections.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.stacks.len()
    }

    fn stack_time(&self, now: Instant) -> StackInstant {
        let micros = now.saturating_duration_since(self.started).as_micros();
        StackInstant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    fn turn_one(&mut self, tag: Tag, now: Instant, out: &mut Turned) {
        let at = self.stack_time(now);
        let Some(stack) = self.stacks.get_mut(&tag) else { return };
        stack.turn(at, now, &mut self.count);
        let questions = stack.hear(now);
        out.questions.extend(questions.into_iter().map(|(c, question)| (tag, c, question)));
        let said = stack.say(now);
        self.waiting = self.waiting.saturating_sub(said);
        stack.turn(at, now, &mut self.count);
        let goes = std::mem::take(&mut stack.wire.goes);
        out.datagrams.extend(goes.into_iter().map(|datagram| (tag, datagram)));
        self.waiting = self.waiting.saturating_sub(stack.bury());
        if stack.connections.iter().all(|talk| stack.is_silent(talk)) {
            self.stacks.remove(&tag);
            return;
        }
        let wanted = stack.interface.poll_at(at, &stack.sockets);
        let after_started = |at: StackInstant| {
            let micros = u64::try_from(at.total_micros()).unwrap_or(0);
            self.started.checked_add(Duration::from_micros(micros))
        };
        let idle = stack.connections.iter().filter(|talk| !stack.is_silent(talk));
        let idle = idle.map(|talk| talk.idle_at);
        stack.due = wanted.and_then(after_started).into_iter().chain(idle).min();
    }
}

impl Stack {
    fn new(mtu: u16, at: StackInstant, now: Instant) -> Self {
        let mut wire = Wire::new(mtu);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = random();
        let mut interface = Interface::new(config, &mut wire, at);
        interface.update_ip_addrs(|own| {
            // There is room for two.
            let _ = own.push(IpCidr::new(IpAddress::Ipv4(BASE4), 32));
            let _ = own.push(IpCidr::new(IpAddress::Ipv6(BASE6), 128));
        });
        let routes = interface.routes_mut();
        // Whoever sent something is reached by the wire.
        let _ = routes.add_default_ipv4_route(BASE4);
        let _ = routes.add_default_ipv6_route(BASE6);
        let (sockets, connections) = (SocketSet::new(Vec::new()), Vec::new());
        Self { wire, interface, sockets, connections, due: Some(now) }
    }

    fn socket(&self, talk: &Talk) -> &tcp::Socket<'static> {
        self.sockets.get(talk.socket)
    }

    /// Whether nobody has spoken to it.
    fn is_silent(&self, talk: &Talk) -> bool {
        self.socket(talk).is_listening()
    }

    /// Lets the stack take and send what there is; somebody always listens, if there may be one more.
    fn turn(&mut self, at: StackInstant, now: Instant, count: &mut u64) {
        let listens = self.connections.iter().any(|talk| self.is_silent(talk));
        if !listens && self.connections.len() < MOST {
            *count = count.saturating_add(1);
            self.listen(Connection(*count), now);
        }
        let Self { wire, interface, sockets, .. } = self;
        interface.poll(at, wire, sockets);
        // A segment for which there was no place is lost.
        wire.came.clear();
    }

    fn listen(&mut self, connection: Connection, now: Instant) {
        let buffer = |octets| tcp::SocketBuffer::new(vec![0; octets]);
        let mut socket = tcp::Socket::new(buffer(IN), buffer(OUT));
        socket.set_timeout(Some(smoltcp::time::Duration::from_secs(IDLE.as_secs())));
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        if socket.listen(IpListenEndpoint::from(DNS_PORT)).is_ok() {
            let socket = self.sockets.add(socket);
            let (heard, to_say, idle_at) = (Vec::new(), VecDeque::new(), after(now, IDLE));
            self.connections.push(Talk {
                connection,
                socket,
                heard,
                to_say,
                questions: 0,
                idle_at,
            });
        }
    }

    /// Takes the questions that have come whole.
    fn hear(&mut self, now: Instant) -> Vec<(Connection, Vec<u8>)> {
        let mut questions = Vec::new();
        for talk in &mut self.connections {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(talk.socket);
            if socket.is_listening() {
                talk.idle_at = after(now, IDLE);
                continue;
            }
            while talk.questions < QUESTIONS {
                if let Some(question) = talk.next_question() {
                    talk.questions = talk.questions.saturating_add(1);
                    talk.idle_at = after(now, IDLE);
                    questions.push((talk.connection, question));
                    continue;
                }
                let taken = socket.recv(|octets| {
                    talk.heard.extend_from_slice(octets);
                    (octets.len(), octets.len())
                });
                if !matches!(taken, Ok(1..)) {
                    break;
                }
            }
            if talk.is_too_long() || talk.idle_at <= now {
                socket.abort();
            }
        }
        questions
    }

    /// Gives the stack what it takes of the answers; how many octets.
    fn say(&mut self, now: Instant) -> usize {
        let mut said = 0usize;
        for talk in &mut self.connections {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(talk.socket);
            while !talk.to_say.is_empty() {
                let (octets, _) = talk.to_say.as_slices();
                let Ok(taken @ 1..) = socket.send_slice(octets) else { break };
                talk.to_say.drain(..taken.min(octets.len()));
                said = said.saturating_add(taken);
                talk.idle_at = after(now, IDLE);
            }
            let done = talk.to_say.is_empty() && talk.questions == 0;
            if done && socket.state() == tcp::State::CloseWait && socket.recv_queue() == 0 {
                socket.close();
            }
        }
        said
    }

    /// Removes connections that have ended; the octets that nobody will hear.
    fn bury(&mut self) -> usize {
        let Self { connections, sockets, .. } = self;
        let mut lost = 0usize;
        connections.retain(|talk| {
            let state = sockets.get::<tcp::Socket<'_>>(talk.socket).state();
            let ended = matches!(state, tcp::State::Closed | tcp::State::TimeWait);
            if ended {
                lost = lost.saturating_add(talk.to_say.len());
                sockets.remove(talk.socket);
            }
            !ended
        });
        lost
    }
}

impl Talk {
    fn message_len(&self) -> Option<usize> {
        let length = self.heard.first_chunk::<LENGTH>()?;
        Some(u16::from_be_bytes(*length).into())
    }

    fn is_too_long(&self) -> bool {
        self.message_len().is_some_and(|len| len > LONGEST)
    }

    fn next_question(&mut self) -> Option<Vec<u8>> {
        let end = self.message_len().filter(|len| *len <= LONGEST)?.saturating_add(LENGTH);
        let question = self.heard.get(LENGTH..end)?.to_vec();
        self.heard.drain(..end);
        Some(question)
    }
}

fn after(now: Instant, time: Duration) -> Instant {
    now.checked_add(time).unwrap_or(now)
}

fn random() -> u64 {
    let mut octets = [0; 8];
    let _ = rustix::rand::getrandom(&mut octets, rustix::rand::GetRandomFlags::empty());
    u64::from_ne_bytes(octets)
}
