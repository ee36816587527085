//! A client's end of the control socket: blocking, no runtime.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::change::Change;
use super::types::{
    Console, CounterOwner, Event, OwnerCounters, PortReset, Ps, Refusal, Reply, Request, Switching,
};
use super::wire::{self, MAX_LINE, WireError};

/// Why a request did not get its answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no instance runs with the state directory {}", .state_dir.display())]
    NotRunning {
        /// Where it was looked for.
        state_dir: PathBuf,
    },
    /// Somebody listens, and this user may not talk to them.
    #[error("you may not control the instance with the state directory {}", .state_dir.display())]
    NotAllowed {
        /// Where it is.
        state_dir: PathBuf,
    },
    /// The connection failed.
    #[error("cannot talk to the instance with the state directory {}", .state_dir.display())]
    Connection {
        /// Where it is.
        state_dir: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The connection ended before the answer.
    #[error("the instance ended, or another base took over, before it answered")]
    Ended,
    /// The answer could not be read.
    #[error("the instance's answer is not understood")]
    Wire(#[from] WireError),
    /// The instance refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A connection to an instance.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    state_dir: PathBuf,
}

impl Client {
    /// Connects to the instance with this state directory.
    pub fn connect(state_dir: &Path) -> Result<Self, ClientError> {
        let dir = || state_dir.to_owned();
        let stream =
            UnixStream::connect(crate::state_dir::control_socket(state_dir)).map_err(|source| {
                match source.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                        ClientError::NotRunning { state_dir: dir() }
                    }
                    io::ErrorKind::PermissionDenied => ClientError::NotAllowed { state_dir: dir() },
                    _ => ClientError::Connection { state_dir: dir(), source },
                }
            })?;
        Ok(Self { stream: BufReader::new(stream), state_dir: dir() })
    }

    /// How long to wait for an answer; without this, for ever.
    pub fn set_patience(&mut self, patience: Duration) -> Result<(), ClientError> {
        let stream = self.stream.get_ref();
        let set = stream
            .set_read_timeout(Some(patience))
            .and_then(|()| stream.set_write_timeout(Some(patience)));
        set.map_err(|e| self.connection(e))
    }

    /// See [`Request::Ps`].
    pub fn ps(&mut self) -> Result<Ps, ClientError> {
        self.ask(&Request::Ps)
    }

    /// See [`Request::Counters`].
    pub fn counters(
        &mut self,
        owner: Option<CounterOwner>,
    ) -> Result<Vec<OwnerCounters>, ClientError> {
        self.ask(&Request::Counters { owner })
    }

    /// The events that are kept.
    pub fn events(&mut self) -> Result<Vec<Event>, ClientError> {
        self.ask(&Request::Events { follow: false })
    }

    /// The events that are kept, then those to come.
    pub fn follow_events(mut self) -> Result<EventStream, ClientError> {
        self.send(&Request::Events { follow: true })?;
        Ok(EventStream { client: self })
    }

    /// See [`Request::Start`].
    pub fn start(&mut self, vm: &str) -> Result<(), ClientError> {
        self.ask(&Request::Start { vm: vm.to_owned() })
    }

    /// See [`Request::Stop`].
    pub fn stop(&mut self, vm: &str, force: bool) -> Result<(), ClientError> {
        self.ask(&Request::Stop { vm: vm.to_owned(), force })
    }

    /// See [`Request::Restart`].
    pub fn restart(&mut self, vm: &str, force: bool) -> Result<(), ClientError> {
        self.ask(&Request::Restart { vm: vm.to_owned(), force })
    }

    /// See [`Request::Console`].
    pub fn console(&mut self, vm: &str) -> Result<Console, ClientError> {
        self.ask(&Request::Console { vm: vm.to_owned() })
    }

    /// See [`Request::PortMove`].
    pub fn port_move(&mut self, vm: &str, worker: usize) -> Result<(), ClientError> {
        self.ask(&Request::PortMove { vm: vm.to_owned(), worker })
    }

    /// See [`Request::PortReset`].
    pub fn port_reset(&mut self, vm: &str) -> Result<PortReset, ClientError> {
        self.ask(&Request::PortReset { vm: vm.to_owned() })
    }

    /// See [`Request::Upgrade`].
    pub fn upgrade(&mut self, binary: &Path) -> Result<Switching, ClientError> {
        self.ask(&Request::Upgrade { binary: binary.to_owned() })
    }

    /// See [`Request::Reload`].
    pub fn reload(
        &mut self,
        path: &Path,
        text: &str,
        binary: Option<&Path>,
    ) -> Result<Switching, ClientError> {
        let (path, text) = (path.to_owned(), text.to_owned());
        self.ask(&Request::Reload { path, text, binary: binary.map(Path::to_owned) })
    }

    /// See [`Request::Difference`].
    pub fn difference(&mut self, path: &Path, text: &str) -> Result<Vec<Change>, ClientError> {
        self.ask(&Request::Difference { path: path.to_owned(), text: text.to_owned() })
    }

    /// See [`Request::Down`].
    pub fn down(&mut self) -> Result<(), ClientError> {
        self.ask(&Request::Down)
    }

    fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        self.send(request)?;
        self.reply()?.ok_or(ClientError::Ended)
    }

    fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let line = wire::line(request)?;
        self.stream.get_mut().write_all(&line).map_err(|e| self.connection(e))
    }

    fn reply<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        let mut line = Vec::new();
        let read = (&mut self.stream).take(MAX_LINE as u64).read_until(b'\n', &mut line);
        match read {
            Ok(0) => return Ok(None),
            Ok(_) if line.last() == Some(&b'\n') => {}
            Ok(n) if n >= MAX_LINE => return Err(WireError::TooLong { limit: MAX_LINE }.into()),
            Ok(_) => return Err(ClientError::Ended),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(e) => return Err(self.connection(e)),
        }
        match wire::value(&line)? {
            Reply::Ok(value) => Ok(Some(value)),
            Reply::Refused(refusal) => Err(refusal.into()),
        }
    }

    fn connection(&self, source: io::Error) -> ClientError {
        match source.kind() {
            io::ErrorKind::BrokenPipe => ClientError::Ended,
            _ => ClientError::Connection { state_dir: self.state_dir.clone(), source },
        }
    }
}

/// Events as they happen. Ends when the base ends.
#[derive(Debug)]
pub struct EventStream {
    client: Client,
}

impl Iterator for EventStream {
    type Item = Result<Event, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.client.reply().transpose()
    }
}
