//! What the tests play on: a dispatcher with a keeper and a ring owner that remember, and a front
//! end made of raw messages.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vhost::vhost_user::message::FrontendReq;
use virtqueue::driver::{DriverMemory, DriverQueue};
use virtqueue::{GuestAddress, QueueFeatures, RxQueue, TxQueue};

use crate::keeper::Keeper;
use crate::names::{PortId, RingId, Side};
use crate::state::StateMemory;
use crate::state::port::PortRecord;
use crate::vhost::{
    Dispatcher, DispatcherHandle, DoorError, Kept, PortDoor, PortEvent, Ring, RingOwner, Socket,
    features,
};

pub(super) const PATIENCE: Duration = Duration::from_secs(10);
pub(super) const ID: PortId = PortId(5);
pub(super) const NAME: &str = "web";

/// A keeper that keeps duplicates in a map, as the holder does in its process. It sees that a
/// connection's descriptors come under the mark only: a base that dies meanwhile leaves it standing.
#[derive(Default)]
pub(super) struct TestKeeper {
    kept: Mutex<BTreeMap<String, OwnedFd>>,
    record: Mutex<Option<PortRecord>>,
}

impl TestKeeper {
    pub(super) fn keys(&self) -> Vec<String> {
        self.kept.lock().unwrap().keys().cloned().collect()
    }

    /// Duplicates of everything.
    pub(super) fn kept(&self) -> Kept {
        let kept = self.kept.lock().unwrap();
        kept.iter().map(|(key, fd)| (key.clone(), fd.try_clone().unwrap())).collect()
    }
}

impl Keeper for TestKeeper {
    fn keep(&self, key: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        let marked = |record: &PortRecord| record.request_open().is_some();
        let connection = key.starts_with("port/web/") && !key.ends_with("listener");
        assert!(!connection || self.record.lock().unwrap().as_ref().is_none_or(marked), "{key}");
        self.kept.lock().unwrap().insert(key.to_owned(), fd.try_clone_to_owned()?);
        Ok(())
    }

    fn forget(&self, key: &str) -> io::Result<()> {
        self.kept.lock().unwrap().remove(key);
        Ok(())
    }

    fn forget_all(&self, prefix: &str) -> io::Result<()> {
        self.kept.lock().unwrap().retain(|key, _| !key.starts_with(prefix));
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Start(RingId),
    Stop(RingId),
    Call(RingId),
}

#[derive(Default)]
struct Running {
    rings: HashMap<(PortId, RingId), Ring>,
    steps: Vec<Step>,
}

/// A ring owner that writes down what is asked of it, holds the rings to the contract, and fires
/// the call once as a worker does.
#[derive(Clone, Default)]
pub(super) struct TestOwner(Arc<Mutex<Running>>);

/// The index at which the test's owner says every ring stopped.
pub(super) const STOPPED_AT: u32 = 4711;

impl TestOwner {
    pub(super) fn ring(&self, id: RingId) -> Option<Ring> {
        self.0.lock().unwrap().rings.get(&(ID, id)).cloned()
    }

    /// What was asked since the last look.
    pub(super) fn steps(&self) -> Vec<Step> {
        std::mem::take(&mut self.0.lock().unwrap().steps)
    }

    pub(super) fn running(&self) -> usize {
        self.0.lock().unwrap().rings.len()
    }
}

fn ding(call: Option<&OwnedFd>) {
    if let Some(call) = call {
        let _ = rustix::io::write(call, &1u64.to_ne_bytes());
    }
}

impl RingOwner for TestOwner {
    fn start(&self, port: PortId, id: RingId, ring: Ring) {
        let features = QueueFeatures::from_bits(ring.features);
        let memory = Arc::clone(&ring.memory);
        // Broken or not: it must come without a panic.
        let _ = match id.side {
            Side::Rx => RxQueue::resume(memory, ring.layout, features).map(drop),
            Side::Tx => TxQueue::resume(memory, ring.layout, features).map(drop),
        };
        ding(ring.call.as_deref());
        let mut running = self.0.lock().unwrap();
        running.steps.push(Step::Start(id));
        assert!(running.rings.insert((port, id), ring).is_none(), "started twice");
    }

    fn stop(&self, port: PortId, id: RingId) -> Option<u32> {
        let mut running = self.0.lock().unwrap();
        running.steps.push(Step::Stop(id));
        assert!(running.rings.remove(&(port, id)).is_some(), "stopped and was not running");
        Some(STOPPED_AT)
    }

    fn set_call(&self, port: PortId, id: RingId, call: Option<Arc<OwnedFd>>) -> bool {
        ding(call.as_deref());
        let mut running = self.0.lock().unwrap();
        running.steps.push(Step::Call(id));
        running.rings.get_mut(&(port, id)).expect("call of a stopped ring").call = call;
        false
    }
}

/// A dispatcher and all around it.
pub(super) struct Stage {
    pub(super) dir: Arc<tempfile::TempDir>,
    pub(super) state: StateMemory,
    state_fd: OwnedFd,
    pub(super) keeper: Arc<TestKeeper>,
    pub(super) owner: TestOwner,
    events: Receiver<(PortId, PortEvent)>,
    pub(super) handle: DispatcherHandle,
}

impl Stage {
    pub(super) fn new() -> Self {
        let (state, state_fd) = StateMemory::create().unwrap();
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::with(dir, state, state_fd, Arc::default())
    }

    fn with(
        dir: Arc<tempfile::TempDir>,
        state: StateMemory,
        state_fd: OwnedFd,
        keeper: Arc<TestKeeper>,
    ) -> Self {
        *keeper.record.lock().unwrap() = Some(PortRecord::of(&state, ID));
        let owner = TestOwner::default();
        let (tell, events) = channel();
        let sink = Box::new(move |port, event| {
            let _ = tell.send((port, event));
        });
        let keep: Arc<dyn Keeper> = keeper.clone();
        let handle = Dispatcher::spawn(state.clone(), keep, Box::new(owner.clone()), sink).unwrap();
        Self { dir, state, state_fd, keeper, owner, events, handle }
    }

    /// With one port that listens.
    pub(super) fn listening() -> Self {
        let stage = Self::new();
        stage.add(stage.door()).unwrap();
        stage
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("port.sock")
    }

    pub(super) fn door(&self) -> PortDoor {
        let socket = Socket::Listen(self.path());
        PortDoor { id: ID, name: NAME.to_owned(), socket, features_mask: u64::MAX, pairs: 1 }
    }

    pub(super) fn add(&self, door: PortDoor) -> Result<(), DoorError> {
        self.handle.add_port(door, self.keeper.kept())
    }

    pub(super) fn record(&self) -> PortRecord {
        PortRecord::of(&self.state, ID)
    }

    /// The base dies, dispatcher and worker; its successor has the state memory and what the keeper
    /// kept.
    pub(super) fn succeed(self) -> Self {
        self.handle.shutdown();
        let state = StateMemory::adopt(self.state_fd.as_fd()).unwrap();
        Self::with(self.dir, state, self.state_fd, self.keeper)
    }

    /// The next event that is no start or stop of a ring.
    pub(super) fn event(&self) -> PortEvent {
        loop {
            let (_, event) = self.events.recv_timeout(PATIENCE).expect("no event");
            if !matches!(event, PortEvent::Started { .. } | PortEvent::Stopped { .. }) {
                return event;
            }
        }
    }

    /// All events so far, without waiting.
    pub(super) fn events(&self) -> Vec<PortEvent> {
        self.events.try_iter().map(|(_, event)| event).collect()
    }

    pub(super) fn connect(&self) -> FrontEnd {
        FrontEnd::over(UnixStream::connect(self.path()).unwrap())
    }

    /// Whether the dispatcher is well: it answers, and a front end is served.
    pub(super) fn assert_well(&self) {
        assert!(self.handle.answers_within(PATIENCE));
        self.handle.reset_port(ID);
        let mut front = self.connect();
        let (offered, _) = features::offered(self.record().pairs());
        assert_eq!(front.get(FrontendReq::GET_FEATURES), Some(offered));
    }
}

/// How many events one front end's budget allows in this time: each may come with the number of those
/// that were not told.
pub(super) fn most_events(time: Duration) -> usize {
    64 + 2 * (time.as_millis() as usize / 100 + 1)
}

/// One message to be sent.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) request: u32,
    pub(super) flags: u32,
    pub(super) body: Vec<u8>,
    pub(super) descriptors: Vec<Arc<OwnedFd>>,
}

impl Message {
    pub(super) fn new(request: FrontendReq, words: &[u64]) -> Self {
        let body = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        Self { request: request.into(), flags: 1, body, descriptors: Vec::new() }
    }

    pub(super) fn with(mut self, fd: &Arc<OwnedFd>) -> Self {
        self.descriptors.push(Arc::clone(fd));
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [self.request, self.flags, self.body.len() as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(&self.body);
        bytes
    }
}

/// A number and a number, as requests about a ring have them.
pub(super) fn pair(id: RingId, value: u32) -> u64 {
    let [a, b, c, d] = u32::from(id.number()).to_ne_bytes();
    let [e, f, g, h] = value.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// A front end of raw messages.
pub(super) struct FrontEnd {
    pub(super) socket: UnixStream,
}

impl FrontEnd {
    pub(super) fn over(socket: UnixStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket }
    }

    pub(super) fn send(&self, message: &Message) -> io::Result<()> {
        self.send_bytes(&message.bytes(), &message.descriptors)
    }

    pub(super) fn send_bytes(&self, bytes: &[u8], fds: &[Arc<OwnedFd>]) -> io::Result<()> {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        }
        let sent =
            sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
        assert_eq!(sent, bytes.len());
        Ok(())
    }

    /// The next reply: its request and its body. `None` if the base hung up.
    pub(super) fn reply(&mut self) -> Option<(u32, Vec<u8>)> {
        let mut header = [0; 12];
        self.socket.read_exact(&mut header).ok()?;
        let word = |n: usize| u32::from_ne_bytes(header[n..n + 4].try_into().unwrap());
        assert_eq!(word(4), 5, "version 1, reply");
        let mut body = vec![0; word(8) as usize];
        self.socket.read_exact(&mut body).ok()?;
        Some((word(0), body))
    }

    /// Sends, and takes the number that the answer has. `None` if the base hung up.
    pub(super) fn ask(&mut self, message: &Message) -> Option<u64> {
        self.send(message).ok()?;
        let (request, body) = self.reply()?;
        assert_eq!(request, message.request);
        Some(u64::from_ne_bytes(body.try_into().unwrap()))
    }

    pub(super) fn get(&mut self, request: FrontendReq) -> Option<u64> {
        self.ask(&Message::new(request, &[]))
    }

    /// Sends, and asks to be told whether it was carried out.
    pub(super) fn check(&mut self, message: &Message) -> Option<bool> {
        let message = Message { flags: 1 | 8, ..message.clone() };
        self.ask(&message).map(|word| word == 0)
    }

    /// Waits until all that was sent has been carried out. `false` if the base hung up.
    pub(super) fn settle(&mut self) -> bool {
        self.get(FrontendReq::GET_FEATURES).is_some()
    }

    /// Whether the base has hung up, or does so in time.
    pub(super) fn is_hung_up(&mut self) -> bool {
        match self.socket.read(&mut [0; 64]) {
            Ok(octets) => octets == 0,
            // What the base had not read when it hung up.
            Err(e) => e.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// Says all of that, and waits until it is carried out.
    pub(super) fn say(&mut self, messages: &[Message]) {
        for message in messages {
            self.send(message).unwrap();
        }
        assert!(self.settle());
    }
}

/// A guest's memory with the rings of some pairs in it, and descriptors to wake each other by.
pub(super) struct Guest {
    pub(super) memory: Arc<DriverMemory>,
    pub(super) rings: Vec<DriverQueue>,
    pub(super) kicks: Vec<Arc<OwnedFd>>,
    pub(super) calls: Vec<Arc<OwnedFd>>,
}

pub(super) const RING_SIZE: u16 = 64;
pub(super) const MEMORY: u64 = 0x10_0000;
/// What a Linux guest takes, whose device was not told to have packed rings.
pub(super) const FEATURES: u64 =
    features::OFFERED & !(features::ANY_LAYOUT | features::RING_PACKED);

fn bell() -> Arc<OwnedFd> {
    Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap())
}

impl Guest {
    pub(super) fn new() -> Self {
        Self::with(1)
    }

    pub(super) fn with(pairs: usize) -> Self {
        let memory = DriverMemory::new(&[(0, MEMORY), (0x1_0000_0000, MEMORY)]).unwrap();
        let features = QueueFeatures::from_bits(FEATURES);
        let ring = |_| DriverQueue::new(Arc::clone(&memory), RING_SIZE, features, 0);
        let rings = RingId::all(pairs).map(ring).collect();
        let bells = || RingId::all(pairs).map(|_| bell()).collect();
        let (kicks, calls) = (bells(), bells());
        Self { memory, rings, kicks, calls }
    }

    /// Its rings.
    pub(super) fn all(&self) -> impl Iterator<Item = RingId> + use<> {
        RingId::all(self.rings.len() / 2)
    }

    fn user(&self, at: GuestAddress) -> u64 {
        let region = &self.memory.regions()[0];
        at.0 + region.user()
    }

    pub(super) fn addresses(&self, id: RingId) -> [u64; 3] {
        let layout = self.rings[usize::from(id.number())].layout();
        [self.user(layout.desc), self.user(layout.used), self.user(layout.avail)]
    }

    pub(super) fn memory_table(&self) -> Message {
        let regions = self.memory.regions();
        let mut words = vec![regions.len() as u64];
        for (n, region) in regions.iter().enumerate() {
            words.extend([(n as u64) << 32, MEMORY, region.user(), 0]);
        }
        let mut message = Message::new(FrontendReq::SET_MEM_TABLE, &words);
        for region in regions {
            message = message.with(&Arc::new(region.file().try_clone_to_owned().unwrap()));
        }
        message
    }

    pub(super) fn region(&self, request: FrontendReq, index: usize) -> Message {
        let region = &self.memory.regions()[index];
        let words = [0, (index as u64) << 32, MEMORY, region.user(), 0];
        let fd = Arc::new(region.file().try_clone_to_owned().unwrap());
        Message::new(request, &words).with(&fd)
    }

    pub(super) fn set_addresses(&self, id: RingId) -> Message {
        let [desc, used, avail] = self.addresses(id);
        let words = [pair(id, 0), desc, used, avail, 0];
        Message::new(FrontendReq::SET_VRING_ADDR, &words)
    }

    pub(super) fn set_size(&self, id: RingId) -> Message {
        Message::new(FrontendReq::SET_VRING_NUM, &[pair(id, RING_SIZE.into())])
    }

    pub(super) fn set_kick(&self, id: RingId) -> Message {
        let queue = id.number();
        let kick = Message::new(FrontendReq::SET_VRING_KICK, &[queue.into()]);
        kick.with(&self.kicks[usize::from(queue)])
    }

    pub(super) fn set_call(&self, id: RingId) -> Message {
        let queue = id.number();
        let call = Message::new(FrontendReq::SET_VRING_CALL, &[queue.into()]);
        call.with(&self.calls[usize::from(queue)])
    }

    pub(super) fn enable(id: RingId, on: bool) -> Message {
        Message::new(FrontendReq::SET_VRING_ENABLE, &[pair(id, on.into())])
    }

    /// What a front end says from the beginning until its rings run; no answers but to the
    /// questions. QEMU 7.2's order.
    pub(super) fn conversation(&self) -> Vec<Message> {
        self.conversation_with(self.rings.len() / 2)
    }

    /// The same with a port that has so many pairs.
    pub(super) fn conversation_with(&self, pairs: usize) -> Vec<Message> {
        let (virtio, protocol) = features::offered(pairs);
        let mq = virtio & features::MQ;
        let mut said = vec![
            Message::new(FrontendReq::SET_PROTOCOL_FEATURES, &[protocol]),
            Message::new(FrontendReq::SET_OWNER, &[]),
        ];
        said.extend(self.all().map(|id| self.set_call(id)));
        said.extend(self.all().map(|id| Self::enable(id, true)));
        said.push(Message::new(FrontendReq::SET_FEATURES, &[FEATURES | mq]));
        said.push(self.memory_table());
        for id in self.all() {
            said.extend([
                self.set_size(id),
                Message::new(FrontendReq::SET_VRING_BASE, &[pair(id, 0)]),
                self.set_addresses(id),
                self.set_kick(id),
                self.set_call(id),
            ]);
        }
        said
    }

    /// Interrupts of a ring since the last look.
    pub(super) fn interrupts(&self, id: RingId) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(&*self.calls[usize::from(id.number())], &mut count) {
            Ok(_) => u64::from_ne_bytes(count),
            Err(_) => 0,
        }
    }
}
