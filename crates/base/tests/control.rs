//! The control socket: a real client, a real server, and an instance made for the purpose.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use base::control::{
    Call, Client, ClientError, Console, EventLevel, EventLog, Refusal, RefusalKind, listen, serve,
};
use base::keeper::Inheritance;
use base::state_dir::StateDir;
use datapath::keeper::Keeper;
use tokio::sync::mpsc;

/// A keeper that keeps one descriptor, as the holder would.
#[derive(Default)]
struct OneKept(std::sync::Mutex<Option<(String, std::os::fd::OwnedFd)>>);

impl Keeper for OneKept {
    fn keep(&self, key: &str, fd: std::os::fd::BorrowedFd<'_>) -> std::io::Result<()> {
        *self.0.lock().unwrap() = Some((key.to_owned(), fd.try_clone_to_owned()?));
        Ok(())
    }

    fn forget(&self, _key: &str) -> std::io::Result<()> {
        Ok(())
    }

    fn forget_all(&self, _prefix: &str) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs `client` on a thread of its own against a server; the instance knows VM `web` only.
fn with_server(client: impl FnOnce(&Path, EventLog) + Send + 'static) {
    let temp = tempfile::tempdir().unwrap();
    let dir = StateDir::at(temp.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = listen(&dir, &mut Inheritance::default(), &OneKept::default()).unwrap();
        let (calls, mut called) = mpsc::channel(8);
        let events = EventLog::new();
        let server = tokio::spawn(serve(listener, calls, events.clone()));
        let path = temp.path().to_owned();
        let mut client = tokio::task::spawn_blocking(move || client(&path, events));
        loop {
            tokio::select! {
                result = &mut client => break result.unwrap(),
                Some(call) = called.recv() => answer(call),
            }
        }
        server.abort();
    });
}

fn answer(call: Call) {
    let known = |vm: &str| {
        if vm == "web" { Ok(()) } else { Err(Refusal::unknown_vm(vm, ["web"])) }
    };
    match call {
        Call::Start(vm, answer) => drop(answer.send(known(&vm))),
        Call::Console(vm, answer) => {
            let console =
                Console { socket: format!("/run/x/{vm}").into(), log: None, keyboard: None };
            drop(answer.send(known(&vm).map(|()| console)));
        }
        // An instance that is ending drops what it does not answer any more.
        other => drop(other),
    }
}

#[test]
fn requests_are_answered_and_refusals_say_what_to_do() {
    with_server(|dir, _| {
        let mut client = Client::connect(dir).unwrap();
        client.start("web").unwrap();
        assert_eq!(client.console("web").unwrap().socket, Path::new("/run/x/web"));
        match client.start("wbe") {
            Err(ClientError::Refused(refusal)) => {
                assert_eq!(refusal.kind, RefusalKind::Unknown);
                assert_eq!(refusal.hint.as_deref(), Some("the VMs of this instance: web"));
            }
            other => panic!("{other:?}"),
        }
        // The connection has outlived the refusal.
        client.start("web").unwrap();
        match client.down() {
            Err(ClientError::Refused(refusal)) => assert_eq!(refusal.kind, RefusalKind::Stopping),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn only_the_owner_may_connect() {
    with_server(|dir, _| {
        let mode = dir.join("control.sock").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    });
}

#[test]
fn what_cannot_be_understood_is_refused_and_ends_that_connection_only() {
    with_server(|dir, _| {
        let socket = dir.join("control.sock");
        // As long as a request may be, and no end of the line yet.
        let long = vec![b'x'; 2 * base::config::LONGEST + 16 * 1024];
        let wrong: [&[u8]; 4] = [b"hello\n", b"{\"do\":\"fly\"}\n", b"\xff\n", &long];
        for bytes in wrong {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.write_all(bytes).unwrap();
            let mut line = String::new();
            let mut reader = BufReader::new(stream);
            reader.read_line(&mut line).unwrap();
            assert!(line.contains("\"bad_request\""), "{line}");
            let mut rest = Vec::new();
            // The end, or a reset if the server had more to read.
            assert!(!matches!(reader.read_to_end(&mut rest), Ok(1..)));
        }
        Client::connect(dir).unwrap().start("web").unwrap();
    });
}

#[test]
fn many_clients_at_once_and_those_that_say_nothing_hinder_nobody() {
    with_server(|dir, _| {
        let idle: Vec<_> =
            (0..20).map(|_| UnixStream::connect(dir.join("control.sock")).unwrap()).collect();
        let mut half = UnixStream::connect(dir.join("control.sock")).unwrap();
        half.write_all(b"{\"do\":").unwrap();
        let mut client = Client::connect(dir).unwrap();
        client.set_patience(Duration::from_secs(5)).unwrap();
        client.start("web").unwrap();
        drop(idle);
    });
}

#[test]
fn events_are_read_and_followed() {
    with_server(|dir, events| {
        events.push(EventLevel::Info, "vm_started", "vm/web", "process 8");
        let kept = Client::connect(dir).unwrap().events().unwrap();
        assert_eq!(kept.len(), 1);
        let mut stream = Client::connect(dir).unwrap().follow_events().unwrap();
        assert_eq!(stream.next().unwrap().unwrap(), kept[0]);
        for n in 0..3 {
            events.push(EventLevel::Error, "port_broken", "vm/web", format!("number {n}"));
            assert_eq!(stream.next().unwrap().unwrap().text, format!("number {n}"));
        }
    });
}

#[test]
fn a_successor_listens_on_its_predecessors_socket() {
    let temp = tempfile::tempdir().unwrap();
    let dir = StateDir::at(temp.path());
    let keeper = OneKept::default();
    drop(listen(&dir, &mut Inheritance::default(), &keeper).unwrap());
    // Nobody accepts, and yet nobody is refused: the holder has the socket open.
    let _waiting = UnixStream::connect(dir.control_socket()).unwrap();
    let kept = keeper.0.lock().unwrap().take();
    let mut inheritance = Inheritance::with(kept);
    let listener = listen(&dir, &mut inheritance, &keeper).unwrap();
    listener.accept().unwrap();
}

#[test]
fn without_an_instance_the_client_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let error = Client::connect(temp.path()).unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
    assert!(error.to_string().contains(temp.path().to_str().unwrap()), "{error}");
}
