//! The places in the base's work at which a fault-injection build can be told to die: between each
//! two steps that a successor must be able to tell apart.

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// Where the base can be told to die.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point {
            $($(#[$doc])* $point,)*
        }

        impl Point {
            /// All of them, in their order, by name.
            pub const NAMES: &[&str] = &[$($name,)*];
        }
    };
}

points! {
    /// A vhost-user request was read, and nothing of it done.
    VhostReceived = "vhost.received",
    /// It was carried out, and not answered.
    VhostDone = "vhost.done",
    /// It was answered, and its mark still stands.
    VhostAnswered = "vhost.answered",
    /// The holder was sent a descriptor to keep.
    Kept = "holder.kept",
    /// A batch lies in storage, and nothing of it has gone anywhere.
    Copied = "worker.copied",
    /// Datagrams are in a receive ring, and its used index is not published.
    Written = "worker.written",
    /// The used index of a receive ring is published, and its driver not notified.
    Published = "worker.published",
    /// Everything of a batch has gone, and its transmit buffers are not given back.
    Delivered = "worker.delivered",
    /// The transmit buffers are given back, and the driver is not notified.
    GivenBack = "worker.given_back",
    /// Frames from the card lie in storage, and nothing of them has gone anywhere.
    CardCopied = "card.copied",
    /// Frames were handed to the card, and not counted.
    CardSent = "card.sent",
    /// Everything of a batch from the card has gone, and no slot of its ring is released.
    CardDelivered = "card.delivered",
    /// A slot is about to be released.
    CardReleasing = "card.releasing",
    /// A slot was released, and that is not noted.
    CardReleased = "card.released",
    /// A datagram was put where it waits for its neighbour, and is not counted.
    Waiting = "neighbor.waiting",
    /// What waited for a neighbour was sent, and its slot is not free.
    WaitedSent = "neighbor.sent",
    /// A datagram from the host lies in its slot and has gone nowhere.
    HostRead = "host.read",
    /// It has gone, and its slot is not free.
    HostDelivered = "host.delivered",
    /// A successor has the state memory, and nothing else yet.
    TakingOver = "takeover.begun",
    /// It has everything, and does not serve yet.
    TakenOver = "takeover.done",
    /// Another configuration was accepted, and nothing of it done.
    Accepted = "reload.accepted",
    /// The base that yields has come to rest, and has not said so.
    Resting = "reload.resting",
    /// Of what is to be published in a packed ring one word is written down, and the other is not.
    PackedNoting = "packed.noting",
    /// It is written down, and nothing of it done.
    PackedNoted = "packed.noted",
    /// Of several buffers another than the first is used.
    PackedTail = "packed.tail",
    /// The first is: the driver sees it, and those that belong to it.
    PackedHead = "packed.head",
}
