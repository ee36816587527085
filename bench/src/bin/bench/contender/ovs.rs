//! Open vSwitch on DPDK with a layer-3 pipeline: what comes for the gateway's MAC address is routed.
//!
//! It is given a flow for each address that ipvisor is given, up to 100,000 ([`Ovs::route`]): to the
//! sender's port, to the receiver's, or to ports that do not exist. All match one whole address, so
//! what its caches learn from one datagram holds for all datagrams to that address.
//!
//! Started by hand, with everything it keeps in a directory of its own: the machine's own Open
//! vSwitch, if it has one, is not touched.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bench::frames::Mac;
use lab::command::{Background, output, wait_until};
use lab::error::Attempt;
use lab::scene;
use lab::{LabError, Result};
use tempfile::TempDir;

use super::ours::{GATEWAY_MAC, MACS};
use super::{GENERATING, Processes, Program, SWITCHING};

/// Where Debian has the switch that was built with DPDK.
const DAEMON: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const LIMIT: Duration = Duration::from_secs(30);

/// Where an address is.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The address.
    pub address: IpAddr,
    /// Its owner's MAC address.
    pub mac: Mac,
    /// Its owner's port: 1 is the sender's, 2 the receiver's.
    pub port: u32,
}

impl Route {
    /// The sender's and the receiver's only address.
    pub fn pair() -> [Self; 2] {
        let of = |n: u8| (scene::vm(n)[0], MACS[usize::from(n)], u32::from(n) + 1);
        [of(0), of(1)].map(|(address, mac, port)| Self { address, mac, port })
    }
}

/// The running switch and its database.
pub struct Ovs {
    sockets: [PathBuf; 2],
    processes: Processes,
    daemon: Background,
    database: Background,
    dir: TempDir,
}

/// A program that keeps its files in `dir`.
fn program(name: &str, dir: &Path) -> Command {
    let mut command = Command::new(name);
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
        command.env(variable, dir);
    }
    command
}

impl Ovs {
    /// Starts it with its polling thread on the switching core.
    pub fn start() -> Result<Self> {
        let dir = super::directory()?;
        let at = dir.path().to_owned();
        let at = at.as_path();
        let file = at.join("conf.db");
        output(Command::new("ovsdb-tool").arg("create").arg(&file).arg(SCHEMA))?;
        let socket = at.join("db.sock");
        let mut command = program("ovsdb-server", at);
        command.arg(&file).arg(format!("--remote=punix:{}", socket.display()));
        let database = Background::start(&mut command, &at.join("database.log"))?;
        wait_until(LIMIT, || "ovsdb-server".to_owned(), || Ok(socket.exists().then_some(())))?;
        let set = |words: &[&str]| {
            let mut command = program("ovs-vsctl", at);
            command.arg(format!("--db=unix:{}", socket.display())).args(["--timeout=30"]);
            output(command.args(words)).map(drop)
        };
        set(&[
            "--no-wait",
            "set",
            "Open_vSwitch",
            ".",
            "other_config:dpdk-init=true",
            "other_config:dpdk-socket-mem=512",
            "other_config:dpdk-extra=--no-pci --in-memory --single-file-segments --no-telemetry",
            &format!("other_config:pmd-cpu-mask={:#x}", 1 << SWITCHING),
            &format!("other_config:dpdk-lcore-mask={:#x}", 1 << GENERATING),
        ])?;
        let mut command = program(DAEMON, at);
        command.arg(format!("unix:{}", socket.display()));
        let daemon = Background::start(&mut command, &at.join("daemon.log"))?;
        let started = Processes::new(i32::try_from(daemon.id()));
        let sockets = ["a", "b"].map(|name| at.join(name));
        let made = Self { sockets, processes: started, daemon, database, dir };
        made.configure(set).map_err(|error| {
            let log = std::fs::read_to_string(made.dir.path().join("daemon.log"));
            LabError::Unexpected(format!("{error}\n{}", log.unwrap_or_default()))
        })?;
        Ok(made)
    }

    fn configure(&self, set: impl Fn(&[&str]) -> Result<()>) -> Result<()> {
        set(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"])?;
        for (name, number) in [("a", "1"), ("b", "2")] {
            let request = format!("ofport_request={number}");
            let interface = ["set", "Interface", name, "type=dpdkvhostuser", &request];
            set(&[&["add-port", "br0", name, "--"], &interface[..]].concat())?;
        }
        self.route(&Route::pair())
    }

    /// Gives it these routes, in place of those that it had.
    pub fn route(&self, routes: &[Route]) -> Result<()> {
        let text = |mac: Mac| mac.map(|o| format!("{o:02x}")).join(":");
        let gateway = text(GATEWAY_MAC);
        let mut flows = format!(
            "table=0,priority=0,actions=drop\n\
             table=0,priority=1,ip,dl_dst={gateway},actions=goto_table:1\n\
             table=1,priority=0,actions=drop\n"
        );
        for Route { address, mac, port } in routes {
            let mac = text(*mac);
            // A text takes all.
            let _ = writeln!(
                flows,
                "table=1,priority=1,ip,nw_dst={address},actions=set_field:{gateway}->eth_src,\
                 set_field:{mac}->eth_dst,dec_ttl,output:{port}"
            );
        }
        let file = self.dir.path().join("flows");
        std::fs::write(&file, flows).attempt(|| format!("write {}", file.display()))?;
        let mut command = program("ovs-ofctl", self.dir.path());
        let bridge = format!("unix:{}", self.dir.path().join("br0.mgmt").display());
        output(command.args(["-OOpenFlow13", "replace-flows", &bridge]).arg(&file)).map(drop)
    }
}

impl Program for Ovs {
    const NAME: &'static str = "OVS-DPDK";

    fn sockets(&self) -> [&Path; 2] {
        [&self.sockets[0], &self.sockets[1]]
    }

    fn processes(&self) -> &Processes {
        &self.processes
    }
}

impl Drop for Ovs {
    fn drop(&mut self) {
        let _ = self.processes.resume();
        // So that it takes its devices with it; whatever is left then is killed.
        let mut leave = program("ovs-appctl", self.dir.path());
        let target = self.dir.path().join(format!("ovs-vswitchd-dpdk.{}.ctl", self.daemon.id()));
        let _ = output(leave.arg("-t").arg(target).args(["exit", "--cleanup"]));
        let _ = self.daemon.wait(Duration::from_secs(5));
        let _ = self.database.stop(Duration::from_secs(5));
    }
}
