//! What an epoll event is about, packed into the word that epoll gives back.

use rustix::event::epoll::EventData;

use crate::names::PortId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A command waits.
    Wake,
    /// A front end waits at a port's listener.
    Listener(PortId),
    /// Something happened on a connection, told from the port's earlier ones by its generation.
    Connection(PortId, u32),
}

const WAKE: u64 = 0;
const LISTENER: u64 = 1;
const CONNECTION: u64 = 2;

impl From<Token> for EventData {
    fn from(token: Token) -> Self {
        let (kind, port, generation) = match token {
            Token::Wake => (WAKE, 0, 0),
            Token::Listener(port) => (LISTENER, port.0, 0),
            Token::Connection(port, generation) => (CONNECTION, port.0, generation),
        };
        Self::new_u64(kind << 48 | u64::from(port) << 32 | u64::from(generation))
    }
}

impl From<EventData> for Token {
    fn from(data: EventData) -> Self {
        let word = data.u64();
        let port = PortId((word >> 32) as u16);
        match word >> 48 {
            LISTENER => Self::Listener(port),
            CONNECTION => Self::Connection(port, word as u32),
            _ => Self::Wake,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_went() {
        let port = PortId(1023);
        for token in [Token::Wake, Token::Listener(port), Token::Connection(port, u32::MAX)] {
            assert_eq!(Token::from(EventData::from(token)), token);
        }
    }
}
