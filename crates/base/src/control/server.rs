//! The base's end of the control socket. Runs on the base's main thread.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::time::Duration;

use datapath::keeper::Keeper;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::change::Change;
use super::events::EventLog;
use super::types::{
    Console, CounterOwner, OwnerCounters, PortReset, Ps, Refusal, RefusalKind, Reply, Request,
    SwitchWish, Switching,
};
use super::wire;
use crate::keeper::Inheritance;
use crate::state_dir::StateDir;

/// Key under which the listening socket is kept.
const LISTENER: &str = "control/listener";
/// Connections served at a time; more wait in the socket's queue.
const CONNECTIONS: usize = 64;

/// Where the answer to a call goes. Dropped without an answer, the client is told that the base is
/// ending.
pub type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// One request with the place for its answer.
#[derive(Debug)]
pub enum Call {
    /// See [`Request::Ps`].
    Ps(Answer<Ps>),
    /// See [`Request::Counters`].
    Counters(Option<CounterOwner>, Answer<Vec<OwnerCounters>>),
    /// See [`Request::Start`]: answered when the VM's process runs.
    Start(String, Answer<()>),
    /// See [`Request::Stop`]: answered when the VM has ended.
    Stop {
        /// Its name.
        vm: String,
        /// By force at once.
        force: bool,
        /// Where the answer goes.
        answer: Answer<()>,
    },
    /// See [`Request::Restart`]: answered when the VM runs again.
    Restart {
        /// Its name.
        vm: String,
        /// By force at once.
        force: bool,
        /// Where the answer goes.
        answer: Answer<()>,
    },
    /// See [`Request::Console`].
    Console(String, Answer<Console>),
    /// See [`Request::PortMove`].
    PortMove {
        /// Whose.
        vm: String,
        /// The worker's number.
        worker: usize,
        /// Where the answer goes.
        answer: Answer<()>,
    },
    /// See [`Request::PortReset`].
    PortReset(String, Answer<PortReset>),
    /// See [`Request::Upgrade`] and [`Request::Reload`].
    Switch(SwitchWish, Answer<Switching>),
    /// See [`Request::Difference`].
    Difference {
        /// Where the configuration was read.
        path: PathBuf,
        /// What is in it.
        text: String,
        /// Where the answer goes.
        answer: Answer<Vec<Change>>,
    },
    /// See [`Request::Down`]: answered before the work begins.
    Down(Answer<()>),
}

/// The listening control socket: the predecessor's, if it was kept, so that clients wait instead of
/// being refused while a successor starts.
pub fn listen(
    dir: &StateDir,
    inheritance: &mut Inheritance,
    keeper: &dyn Keeper,
) -> io::Result<StdListener> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    if let Some(kept) = inheritance.take(LISTENER) {
        return Ok(kept.into());
    }
    let path = dir.control_socket();
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The mode of an unbound socket becomes the mode of the file that bind makes.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
    rustix::net::listen(&socket, 128)?;
    keeper.keep(LISTENER, socket.as_fd())?;
    Ok(socket.into())
}

/// Serves clients for ever. Everything but events goes to `calls`.
pub async fn serve(
    listener: StdListener,
    calls: mpsc::Sender<Call>,
    events: EventLog,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, calls.clone(), events.clone()));
                }
                Err(error) => {
                    // Out of descriptors, most likely: the client waits in the queue.
                    tracing::warn!(%error, "control socket: cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: UnixStream, calls: mpsc::Sender<Call>, events: EventLog) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let ended = match read_request(&mut reader).await {
            Ok(None) => return,
            Ok(Some(Request::Events { follow })) => {
                if follow {
                    return follow_events(&mut reader, &mut writer, &events).await;
                }
                let answer: Result<_, Refusal> = Ok(events.since(0));
                write(&mut writer, answer).await
            }
            Ok(Some(request)) => answer(&mut writer, &calls, request).await,
            Err(refusal) => {
                // The stream may be in the middle of a line: nothing after it can be understood.
                let _ = write::<()>(&mut writer, Err(refusal)).await;
                return;
            }
        };
        if ended.is_err() {
            return;
        }
    }
}

async fn read_request(reader: &mut BufReader<OwnedReadHalf>) -> Result<Option<Request>, Refusal> {
    let mut line = Vec::new();
    let limit = wire::MAX_REQUEST;
    let read = reader.take(limit as u64).read_until(b'\n', &mut line).await;
    match read {
        Ok(0) | Err(_) => return Ok(None),
        Ok(_) if line.last() == Some(&b'\n') => {}
        Ok(n) if n >= limit => {
            let error = wire::WireError::TooLong { limit };
            return Err(Refusal::new(RefusalKind::BadRequest, format!("request refused: {error}")));
        }
        Ok(_) => return Ok(None),
    }
    wire::value(&line).map(Some).map_err(|error| {
        let cause = std::error::Error::source(&error).map_or(String::new(), |e| format!(": {e}"));
        Refusal::new(RefusalKind::BadRequest, format!("request not understood{cause}"))
            .hint("the command and the running instance may be of different versions")
    })
}

async fn answer(
    writer: &mut OwnedWriteHalf,
    calls: &mpsc::Sender<Call>,
    request: Request,
) -> io::Result<()> {
    match request {
        Request::Ps => ask(writer, calls, Call::Ps).await,
        Request::Counters { owner } => ask(writer, calls, |a| Call::Counters(owner, a)).await,
        Request::Start { vm } => ask(writer, calls, |a| Call::Start(vm, a)).await,
        Request::Stop { vm, force } => {
            ask(writer, calls, |answer| Call::Stop { vm, force, answer }).await
        }
        Request::Restart { vm, force } => {
            ask(writer, calls, |answer| Call::Restart { vm, force, answer }).await
        }
        Request::Console { vm } => ask(writer, calls, |a| Call::Console(vm, a)).await,
        Request::PortMove { vm, worker } => {
            ask(writer, calls, |answer| Call::PortMove { vm, worker, answer }).await
        }
        Request::PortReset { vm } => ask(writer, calls, |a| Call::PortReset(vm, a)).await,
        Request::Upgrade { binary } => {
            let wish = SwitchWish { binary: Some(binary), config: None };
            ask(writer, calls, |a| Call::Switch(wish, a)).await
        }
        Request::Reload { path, text, binary } => {
            let wish = SwitchWish { binary, config: Some((path, text)) };
            ask(writer, calls, |a| Call::Switch(wish, a)).await
        }
        Request::Difference { path, text } => {
            ask(writer, calls, |answer| Call::Difference { path, text, answer }).await
        }
        Request::Down => ask(writer, calls, Call::Down).await,
        Request::Events { .. } => Ok(()),
    }
}

async fn ask<T: Serialize>(
    writer: &mut OwnedWriteHalf,
    calls: &mpsc::Sender<Call>,
    call: impl FnOnce(Answer<T>) -> Call,
) -> io::Result<()> {
    let (answer, reply) = oneshot::channel();
    let sent = calls.send(call(answer)).await.is_ok();
    let reply = if sent { reply.await.ok() } else { None };
    let stopping = || Err(Refusal::new(RefusalKind::Stopping, "the instance is ending"));
    write(writer, reply.unwrap_or_else(stopping)).await
}

async fn follow_events(
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    events: &EventLog,
) {
    let mut from = 0;
    let mut ignored = [0u8; 64];
    loop {
        for event in events.since(from) {
            from = event.sequence.saturating_add(1);
            if write(writer, Ok(event)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = events.wait(from) => {}
            read = reader.read(&mut ignored) => if !matches!(read, Ok(1..)) { return; },
        }
    }
}

async fn write<T: Serialize>(
    writer: &mut OwnedWriteHalf,
    result: Result<T, Refusal>,
) -> io::Result<()> {
    let reply = match result {
        Ok(value) => Reply::Ok(value),
        Err(refusal) => Reply::Refused(refusal),
    };
    let line = wire::line(&reply).map_err(io::Error::other)?;
    writer.write_all(&line).await
}
