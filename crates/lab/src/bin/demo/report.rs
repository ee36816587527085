//! What the demo shows: one table, one picture, the counters, and what to type next.

use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use lab::Result;
use lab::instance::Instance;
use lab::scene::{CARD, HOST, OUTSIDE, Scene, vm};
use serde_json::Value;

use crate::GUESTS;
use crate::paths::{FAMILIES, Grown, KINDS, Measured, PathName};

/// A MAC address as people write it.
pub fn mac(octets: &[u8; 6]) -> String {
    octets.map(|o| format!("{o:02x}")).join(":")
}

/// One table of all measurements.
pub fn results(measured: &[Measured]) {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    let heads = ["path", "IP"].map(str::to_owned).into_iter();
    table.set_header(heads.chain(KINDS.map(|k| k.to_string())));
    for path in PathName::ALL {
        for family in FAMILIES {
            let mut row = vec![path.to_string(), family.to_string()];
            for kind in KINDS {
                let cell =
                    measured.iter().find(|m| (m.path, m.family, m.kind) == (path, family, kind));
                row.push(match cell.map(|m| &m.shown) {
                    Some(Ok(text)) => text.clone(),
                    Some(Err(_)) => "FAILED".to_owned(),
                    None => String::new(),
                });
            }
            table.add_row(row);
        }
    }
    println!("\n{table}");
}

/// The way of the datagrams, with the names and addresses of this run.
pub fn picture(instance: &Instance, scene: &Scene) -> Result<()> {
    let ps = instance.ps()?;
    let text = |at: &str| ps.pointer(at).and_then(Value::as_str).unwrap_or("-").to_owned();
    let tun = text("/networks/0/host_device");
    let card = mac(&scene.card_mac()?);
    let ([web4, web6], [db4, db6]) = (vm(0), vm(1));
    let ([host4, host6], [out4, out6]) = (HOST, OUTSIDE);
    let [web, db] = GUESTS;
    let columns = |left: &str, right: &str| format!("   {left:<28}{right}");
    println!("\n{}", columns(&format!("VM {web}"), &format!("VM {db}")));
    println!("{}", columns(&web4.to_string(), &db4.to_string()));
    println!("{}", columns(&web6.to_string(), &db6.to_string()));
    println!(
        "     │ virtqueues                  │ virtqueues
 ┌───┴─────────────────────────────┴───┐
 │ ipvisor's base: copy, check, look   │  {tun:<16}the host's own stack
 │ up the destination address, hand    ├───────────────  {host4}
 │ on. No bridge, tap, NAT or router.  │                 {host6}
 └───────────────────┬─────────────────┘
                     │ {CARD}  {card}, the only MAC address outside
   ══════════════════╧═════ LAN ═════ outside: {out4}, {out6}
"
    );
    Ok(())
}

/// What each path added to the base's counters: which way its datagrams went.
pub fn counters(grown: &[Grown]) {
    println!("Which way they went, by the base's own counters (datagrams, there and back):");
    for Grown { path, counters } in grown {
        let mut ways = Vec::new();
        for (owner, added) in &counters.0 {
            for name in ["to_vm", "to_uplink", "to_host"] {
                if let Some(more) = added.get(name) {
                    ways.push(format!("{owner} {name} +{more}"));
                }
            }
        }
        println!("  {:<14} {}", path.to_string(), ways.join(", "));
        let drops = counters.0.iter().flat_map(|(owner, added)| {
            let dropped = added.iter().filter(|(name, _)| name.starts_with("drop."));
            dropped.map(move |(name, more)| format!("{owner} {name} +{more}"))
        });
        let drops: Vec<_> = drops.collect();
        if !drops.is_empty() {
            println!("  {:<14} dropped: {}", "", drops.join(", "));
        }
    }
    println!();
}

/// What to try while everything is up.
pub fn what_to_type(instance: &Instance, scene: &Scene) -> Result<()> {
    let ipvisor = lab::paths::ipvisor()?;
    let (ipvisor, dir) = (ipvisor.display(), instance.state_dir());
    let (dir, [web4, web6]) = (dir.display(), vm(0));
    let (host, outside) = (scene.host.name(), scene.outside.name());
    println!(
        "Everything stays up until Ctrl-C. In another terminal, for example:
  {ipvisor} ps --state-dir {dir}
  {ipvisor} counters --state-dir {dir}
  {ipvisor} console web --state-dir {dir}
  ip netns exec {outside} ping {web4}
  ip netns exec {host} ping {web6}
  ip netns exec {host} ip link           # no bridge, no tap
  cat {}
",
        instance.config_path().display()
    );
    Ok(())
}
