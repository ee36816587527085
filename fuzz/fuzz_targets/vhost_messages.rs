//! A front end that says anything: the conversation of a real one with messages changed, left out,
//! repeated or made up, to the dispatcher's own socket.
//!
//! Rings that come to be are walked for a few frames, as the worker does. Each input is one
//! connection; after it the dispatcher must come round, and hold no ring of it.
#![no_main]

use std::collections::BTreeMap;
use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use datapath::keeper::Keeper;
use datapath::names::{PortId, RingId, Side};
use datapath::state::StateMemory;
use datapath::vhost::{Dispatcher, DispatcherHandle, PortDoor, Ring, RingOwner, Socket, features};
use libfuzzer_sys::fuzz_target;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use virtqueue::driver::{DriverMemory, DriverQueue};
use virtqueue::{NetHeader, QueueFeatures, RxQueue, TxQueue};

const ID: PortId = PortId(3);
const MEMORY: u64 = 0x2_0000;
const RING: u16 = 16;
/// Queue pairs of the port.
const PAIRS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(8);
const GET_FEATURES: u32 = 1;
const NEED_REPLY: u32 = 8;

/// Rings that run. The dispatcher may start none twice and stop none that does not run.
#[derive(Clone, Default)]
struct Owner(Arc<Mutex<BTreeMap<u8, Ring>>>);

impl RingOwner for Owner {
    fn start(&self, _: PortId, id: RingId, ring: Ring) {
        let features = QueueFeatures::from_bits(ring.features);
        let memory = Arc::clone(&ring.memory);
        let mut room = [0; 2048];
        match id.side {
            Side::Tx => {
                if let Ok(mut tx) = TxQueue::resume(memory, ring.layout, features) {
                    for _ in 0..4 {
                        let _ = tx.copy_next(&mut room);
                    }
                    let _ = tx.complete();
                }
            }
            Side::Rx => {
                if let Ok(mut rx) = RxQueue::resume(memory, ring.layout, features) {
                    let _ = rx.deliver(&NetHeader::default(), &[&room[..60]]);
                    let _ = rx.publish();
                }
            }
        }
        assert!(self.0.lock().unwrap().insert(id.number(), ring).is_none(), "started twice");
    }

    fn stop(&self, _: PortId, id: RingId) -> Option<u32> {
        assert!(self.0.lock().unwrap().remove(&id.number()).is_some(), "stopped twice");
        Some(7)
    }

    fn set_call(&self, _: PortId, id: RingId, call: Option<Arc<OwnedFd>>) -> bool {
        self.0.lock().unwrap().get_mut(&id.number()).expect("call of no ring").call = call;
        false
    }
}

/// Keeps nothing.
struct NoKeeper;

impl Keeper for NoKeeper {
    fn keep(&self, _: &str, _: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }
    fn forget(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn forget_all(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone)]
struct Message {
    request: u32,
    flags: u32,
    body: Vec<u8>,
    descriptors: Vec<usize>,
}

/// The dispatcher, a guest, and what a front end of it says.
struct World {
    handle: DispatcherHandle,
    owner: Owner,
    socket: PathBuf,
    conversation: Vec<Message>,
    descriptors: Vec<OwnedFd>,
}

fn message(request: u32, words: &[u64], descriptors: &[usize]) -> Message {
    let body = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    Message { request, flags: 1, body, descriptors: descriptors.to_vec() }
}

impl World {
    fn new() -> Self {
        let (state, _) = StateMemory::create().unwrap();
        let owner = Owner::default();
        let sink = Box::new(|_, _| {});
        let handle =
            Dispatcher::spawn(state, Arc::new(NoKeeper), Box::new(owner.clone()), sink).unwrap();
        let socket = std::env::temp_dir().join(format!("fuzz-vhost-{}", std::process::id()));
        let door = PortDoor {
            id: ID,
            name: "fuzz".to_owned(),
            socket: Socket::Listen(socket.clone()),
            features_mask: u64::MAX,
            pairs: PAIRS,
        };
        handle.add_port(door, Default::default()).unwrap();

        let memory = DriverMemory::new(&[(0, MEMORY), (1 << 32, MEMORY)]).unwrap();
        let (virtio, protocol) = features::offered(PAIRS);
        let virtio = virtio & !features::ANY_LAYOUT;
        let ring = || {
            DriverQueue::new(Arc::clone(&memory), RING, QueueFeatures::from_bits(virtio), 0).layout()
        };
        let rings = [(); 2 * PAIRS].map(|()| ring());
        let mut descriptors: Vec<OwnedFd> =
            memory.regions().iter().map(|r| r.file().try_clone_to_owned().unwrap()).collect();
        descriptors.extend((0..4 * PAIRS).map(|_| {
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
        }));
        descriptors.push(std::fs::File::open("/dev/null").unwrap().into());
        descriptors.push(std::fs::File::open("/").unwrap().into());

        let user = |region: usize| memory.regions()[region].user();
        let region = |n: usize| [(n as u64) << 32, MEMORY, user(n), 0];
        let mut conversation = vec![
            message(GET_FEATURES, &[], &[]),
            message(15, &[], &[]),
            message(16, &[protocol], &[]),
            message(17, &[], &[]),
            message(36, &[], &[]),
            message(3, &[], &[]),
            message(2, &[virtio], &[]),
            message(5, &[[2].as_slice(), &region(0), &region(1)].concat(), &[0, 1]),
        ];
        for (queue, layout) in (0u64..).zip(rings) {
            let with = |value: u64| queue | value << 32;
            let kick = 2 + 2 * queue as usize;
            let call = kick + 1;
            let at = |address: u64| address + user(0);
            let places = [at(layout.desc.0), at(layout.used.0), at(layout.avail.0)];
            conversation.extend([
                message(8, &[with(RING.into())], &[]),
                message(10, &[with(0)], &[]),
                message(9, &[&[with(0)][..], &places, &[0]].concat(), &[]),
                message(13, &[queue], &[call]),
                message(14, &[queue], &[call]),
                message(12, &[queue], &[kick]),
                message(18, &[with(1)], &[]),
            ]);
        }
        let one = |n: usize| [[0].as_slice(), &region(n)].concat();
        conversation.extend([
            message(38, &one(1), &[]),
            message(37, &one(1), &[1]),
            message(18, &[0], &[]),
            message(11, &[0], &[]),
            message(11, &[1], &[]),
            message(34, &[], &[]),
            message(4, &[], &[]),
        ]);
        Self { handle, owner, socket, conversation, descriptors }
    }

    fn send(&self, to: &UnixStream, message: &Message) -> io::Result<()> {
        let head = [message.request, message.flags, message.body.len() as u32];
        let head: Vec<u8> = head.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let all = &self.descriptors;
        let fds: Vec<_> =
            message.descriptors.iter().map(|n| all[n % all.len()].as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)));
        let parts = [IoSlice::new(&head), IoSlice::new(&message.body)];
        sendmsg(to, &parts, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        Ok(())
    }
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn octet(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// A number near a border, or any.
    fn number(&mut self) -> Option<u64> {
        let n = self.octet()?;
        let small = u64::from(n & 63);
        Some(match n >> 6 {
            0 => small,
            1 => 1 << small,
            2 => (1u64 << small).wrapping_sub(1),
            _ => small.wrapping_neg(),
        })
    }

    fn change(&mut self, said: &mut Message) -> Option<()> {
        let how = self.octet()?;
        said.flags |= if how & 0x80 == 0 { 0 } else { NEED_REPLY };
        match how & 15 {
            0 => {
                let at = usize::from(self.octet()?);
                let value = self.octet()?;
                if let Some(octet) = said.body.get_mut(at) {
                    *octet = value;
                }
            }
            1..=3 => {
                let at = usize::from(self.octet()?) * 8;
                let value = self.number()?;
                if let Some(word) = said.body.get_mut(at..at + 8) {
                    word.copy_from_slice(&value.to_ne_bytes());
                }
            }
            4 => {
                // Near what it was: a ring that leaves its region by little.
                let at = usize::from(self.octet()?) * 8;
                let by = self.number()?;
                if let Some(word) = said.body.get_mut(at..at + 8) {
                    let was = u64::from_ne_bytes(word.try_into().unwrap());
                    word.copy_from_slice(&was.wrapping_add(by).to_ne_bytes());
                }
            }
            5 => said.body.resize(usize::from(self.octet()?) * 2, 0x5a),
            6 => said.request = self.octet()?.into(),
            7 => said.descriptors.clear(),
            8 => said.descriptors.push(self.octet()?.into()),
            9 => said.descriptors = vec![self.octet()?.into()],
            10 => said.flags = self.octet()?.into(),
            _ => {}
        }
        Some(())
    }

    /// The next message to be sent.
    fn message(&mut self, conversation: &[Message], next: &mut usize) -> Option<Message> {
        let pick = self.octet()?;
        // Mostly the conversation as it goes.
        let n = if pick < 0xa0 { *next } else { usize::from(pick - 0xa0) };
        *next = n + 1;
        let mut said = conversation[n % conversation.len()].clone();
        if pick % 4 == 0 || pick >= 0xa0 {
            self.change(&mut said)?;
        }
        Some(said)
    }
}

fuzz_target!(|data: &[u8]| {
    static WORLD: OnceLock<World> = OnceLock::new();
    let world = WORLD.get_or_init(World::new);
    let mut front = UnixStream::connect(&world.socket).unwrap();
    front.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut input, mut next) = (Input(data), 0);
    while let Some(message) = input.message(&world.conversation, &mut next) {
        if world.send(&front, &message).is_err() {
            break;
        }
    }
    // Whether it was served or shut out, there is an end to the answers.
    let _ = world.send(&front, &message(GET_FEATURES, &[], &[]));
    let _ = front.shutdown(std::net::Shutdown::Write);
    let mut octets = [0; 4096];
    loop {
        match front.read(&mut octets) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => break,
            // The fuzzer's own clock.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => panic!("the dispatcher is stuck: {e}"),
        }
    }
    assert!(world.handle.answers_within(PATIENCE));
    world.handle.reset_port(ID);
    assert!(world.owner.0.lock().unwrap().is_empty(), "a ring without a front end");
});
