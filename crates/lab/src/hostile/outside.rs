//! A running base with a card, as people start it: its ports are reached by vhost-user, its LAN by a
//! raw socket at the other end of the card's cable.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::{Value, json};
use virtqueue::{GuestAddress, QueueLayout};

use super::cast::Who;
use super::expect::Tally;
use super::rig::Rig;
use super::stage::Stage;
use crate::driver::{FrontEnd, REPLY_ACK, Region};
use crate::error::{LabError, Result};
use crate::instance::Instance;
use crate::scene::{CARD, GATEWAY, LAN_CARD, Scene, driver, driver_line};

/// How long the base may take to answer an operator.
const ANSWER: Duration = Duration::from_secs(5);

/// A card so slow that a flight of frames is more than it takes: room for some, and as much of a
/// queue.
const SLOW: &str = "rate 8mbit burst 6000 limit 6000";

/// The base, its host, and what is outside.
pub struct Outside {
    fronts: BTreeMap<Who, FrontEnd>,
    instance: Instance,
    base: i32,
    /// Host and outside.
    pub scene: Scene,
}

impl Outside {
    /// Sets the scene and starts the base.
    pub fn start() -> Result<Self> {
        let scene = Scene::set()?;
        // Frames that are too large must be able to leave.
        scene.outside.run(&format!("ip link set {LAN_CARD} mtu 1600 gso_max_size 200000"))?;
        let mut config = format!(
            "[network.lan]\nuplink = \"{CARD}\"\ngateway = [\"{}\"]\n\
             prefixes = [\"203.0.113.0/24\", \"2001:db8:1::/64\"]\n{}",
            GATEWAY[0],
            driver_line(driver().as_deref())
        );
        for who in Who::ALL {
            let (name, v4, v6) = (who.name(), who.ip(true), who.ip(false));
            let _ = write!(
                config,
                "\n[vm.{name}]\nengine = \"external\"\nsocket = \"{name}.sock\"\n\
                 addresses = [\"{v4}\", \"{v6}\"]\n"
            );
            if who != Who::Unknown {
                let mac = who.mac().map(|o| format!("{o:02x}")).join(":");
                let _ = writeln!(config, "mac = \"{mac}\"");
            }
        }
        let instance = Instance::up(&scene.host, &config)?;
        if crate::scene::driver().as_deref() == Some("xdp") {
            instance.wait_event("driver", "network/lan", "AF_XDP carries")?;
        }
        let base = instance.base_process()?;
        Ok(Self { fronts: BTreeMap::new(), instance, base, scene })
    }

    /// The base, as its operator has it.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    fn all_counters(&self) -> Result<BTreeMap<String, Tally>> {
        let answer = self.instance.ask(&json!({"do": "counters"}))?;
        let read = || -> Option<BTreeMap<String, Tally>> {
            let mut all = BTreeMap::new();
            for owner in answer.as_array()? {
                let counters = owner.get("counters")?.as_object()?;
                let some = counters.iter().filter_map(|(k, v)| Some((k.clone(), v.as_u64()?)));
                let tally = Tally(some.filter(|(_, n)| *n > 0).collect());
                all.insert(owner.get("owner")?.as_str()?.to_owned(), tally);
            }
            Some(all)
        };
        read().ok_or_else(|| LabError::Unexpected(format!("not counters: {answer}")))
    }
}

impl Stage for Outside {
    fn attach(&mut self, who: Who, rig: &Rig, rings: [QueueLayout; 2]) -> Result<()> {
        self.detach(who)?;
        let mut front = FrontEnd::connect(&self.instance.socket(who.name()), ANSWER)?;
        front.set_owner()?;
        let offered = front.features()?;
        if offered & rig.build.features != rig.build.features {
            let text = format!("{:#x} of {offered:#x}", rig.build.features);
            return Err(LabError::Unexpected(format!("features that are not offered: {text}")));
        }
        front.negotiate_protocol(REPLY_ACK)?;
        front.set_features(rig.build.features)?;
        let regions: Vec<_> = rig
            .memory
            .regions()
            .iter()
            .map(|r| (Region { guest: r.guest.0, len: r.len, user: r.user(), offset: 0 }, r.file()))
            .collect();
        front.set_memory(&regions)?;
        for (number, layout) in (0u32..).zip(rings) {
            let user = |at: GuestAddress| rig.user(at);
            let n = number as usize;
            front.set_ring_size(number, layout.size)?;
            front.set_ring_base(number, rig.bases()[n])?;
            front.set_ring_addresses(
                number,
                user(layout.desc),
                user(layout.used),
                user(layout.avail),
            )?;
            front.set_ring_call(number, Some(rig.calls[n].as_fd()))?;
            front.set_ring_kick(number, Some(rig.kicks[n].as_fd()))?;
            front.enable_ring(number, true)?;
        }
        self.fronts.insert(who, front);
        Ok(())
    }

    fn detach(&mut self, who: Who) -> Result<()> {
        if let Some(mut front) = self.fronts.remove(&who) {
            // The base has let go when it has told where each ring stopped.
            for ring in [0, 1] {
                front.stop_ring(ring)?;
            }
        }
        Ok(())
    }

    fn counters(&mut self) -> Result<BTreeMap<Who, Tally>> {
        let mut all = self.all_counters()?;
        let of = |who: Who| (who, all.remove(&format!("vm/{}", who.name())).unwrap_or_default());
        Ok(Who::ALL.into_iter().map(of).collect())
    }

    fn breaks(&mut self, who: Who) -> Result<u64> {
        let owner = format!("vm/{}", who.name());
        let answer = self.instance.ask(&json!({"do": "counters", "owner": owner}))?;
        let counters = answer.pointer("/0/counters").and_then(Value::as_object);
        let Some(counters) = counters else {
            return Err(LabError::Unexpected(format!("not counters: {answer}")));
        };
        let breaks = counters.iter().filter(|(name, _)| name.starts_with("break."));
        Ok(breaks.filter_map(|(_, n)| n.as_u64()).sum())
    }

    fn uplink(&mut self) -> Result<Tally> {
        Ok(self.all_counters()?.remove("uplink/lan").unwrap_or_default())
    }

    fn check(&mut self) -> Result<()> {
        let begun = std::time::Instant::now();
        let ps = self.instance.ask(&json!({"do": "ps"}))?;
        let took = begun.elapsed();
        let number = |path: &str| ps.pointer(path).and_then(Value::as_i64);
        let same = number("/instance/base") == Some(self.base.into())
            && number("/instance/takeovers") == Some(0);
        if !same || took > ANSWER {
            let text = format!("the base is not what it was, or took {took:?}: {ps}");
            return Err(LabError::Unexpected(text));
        }
        Ok(())
    }

    fn is_wired(&self) -> bool {
        true
    }

    fn slow_card(&mut self, slow: bool) -> Result<()> {
        let line = match slow {
            true => format!("tc qdisc add dev {CARD} root tbf {SLOW}"),
            false => format!("tc qdisc del dev {CARD} root"),
        };
        self.scene.host.run(&line).map(drop)
    }
}
