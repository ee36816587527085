//! The sockets by which servers outside are asked, one for each attempt.
//!
//! A UDP socket is connected, so that the kernel throws away what others send to it, and reports that
//! nobody is there; its port is the kernel's choice, another for each. By TCP a message has its length
//! before it, both ways.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
    sockopt,
};

use super::{Carrier, Ticket};

/// Octets before each message by TCP.
const LENGTH: usize = 2;
/// Octets of the longest message.
const LONGEST: usize = 65_535;

/// All of them.
#[derive(Debug, Default)]
pub struct Outside {
    sockets: HashMap<Ticket, Attempt>,
}

#[derive(Debug)]
struct Attempt {
    socket: OwnedFd,
    carrier: Carrier,
    /// By TCP: what is still to be sent.
    to_say: Vec<u8>,
    /// What has come.
    heard: Vec<u8>,
}

impl Outside {
    /// Asks a server. An error: it cannot be asked.
    pub fn ask(
        &mut self,
        epoll: &OwnedFd,
        (ticket, data): (Ticket, EventData),
        (server, carrier): (SocketAddr, Carrier),
        message: &[u8],
    ) -> io::Result<()> {
        let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let kind = match carrier {
            Carrier::Udp => SocketType::DGRAM,
            Carrier::Tcp => SocketType::STREAM,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, kind, flags, None)?;
        let mut to_say = Vec::new();
        let mut events = EventFlags::IN;
        match (connect(&socket, &server), carrier) {
            (Ok(()), Carrier::Udp) => {
                send(&socket, message, SendFlags::NOSIGNAL)?;
            }
            (Ok(()) | Err(Errno::INPROGRESS), Carrier::Tcp) => {
                let len = u16::try_from(message.len()).unwrap_or(u16::MAX);
                to_say = [&len.to_be_bytes()[..], message].concat();
                events |= EventFlags::OUT;
            }
            (Err(error), _) => return Err(error.into()),
        }
        epoll::add(epoll, socket.as_fd(), data, events)?;
        self.sockets.insert(ticket, Attempt { socket, carrier, to_say, heard: Vec::new() });
        Ok(())
    }

    /// Something has happened at a socket: the message that came, if one has come whole. An error: the
    /// attempt has come to nothing.
    pub fn happened(
        &mut self,
        epoll: &OwnedFd,
        (ticket, data): (Ticket, EventData),
    ) -> io::Result<Option<Vec<u8>>> {
        let Some(attempt) = self.sockets.get_mut(&ticket) else { return Ok(None) };
        if attempt.carrier == Carrier::Udp {
            let mut room = vec![0; LONGEST];
            return match recv(&attempt.socket, &mut *room, RecvFlags::DONTWAIT) {
                Ok((len, _)) => {
                    room.truncate(len);
                    Ok(Some(room))
                }
                Err(Errno::AGAIN | Errno::INTR) => Ok(None),
                Err(error) => Err(error.into()),
            };
        }
        sockopt::socket_error(&attempt.socket)??;
        if !attempt.to_say.is_empty() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match send(&attempt.socket, &attempt.to_say, flags) {
                Ok(sent) => drop(attempt.to_say.drain(..sent.min(attempt.to_say.len()))),
                Err(Errno::AGAIN | Errno::INTR | Errno::NOTCONN) => {}
                Err(error) => return Err(error.into()),
            }
            if attempt.to_say.is_empty() {
                epoll::modify(epoll, attempt.socket.as_fd(), data, EventFlags::IN)?;
            }
            return Ok(None);
        }
        attempt.hear()
    }

    /// An attempt is over.
    pub fn close(&mut self, ticket: Ticket) {
        // With its last descriptor it leaves epoll, too.
        self.sockets.remove(&ticket);
    }
}

impl Attempt {
    fn hear(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut room = [0; 4096];
        loop {
            match recv(&self.socket, &mut room, RecvFlags::DONTWAIT) {
                Ok((len @ 1.., _)) => {
                    self.heard.extend_from_slice(room.get(..len).unwrap_or_default());
                }
                Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            if let Some((length, rest)) = self.heard.split_first_chunk::<LENGTH>()
                && let Some(message) = rest.get(..u16::from_be_bytes(*length).into())
            {
                return Ok(Some(message.to_vec()));
            }
        }
    }
}
